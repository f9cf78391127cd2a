"""Optimizers by name or import path, such as "optax:lion", and the files that they need."""

import ast
import contextlib
import difflib
import pkgutil
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import resolve_name
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import jax
import optax
import optax.contrib

import segjax
from segjax._checks import is_ready
from segjax.optimizers import OPTIMIZERS, Optimizer, muon

# The folders of segjax and of the experiments, whose files `provenance.code_digest` covers.
_PROJECT = (Path(segjax.__file__).parent, Path(__file__).parents[1])
# Packages whose versions every result records, wherever they are installed.
_VERSIONED = {"segjax", "jax", "jaxlib", "flax", "optax", "numpy"}


@dataclass(frozen=True)
class Ready:
    """An optax transformation as a factory: it has its own learning rate, and ignores the argument."""

    transformation: optax.GradientTransformation
    # The learning rate of its runs in tables and files.
    RATE: ClassVar[float] = 1.0

    def __call__(self, learning_rate: Any) -> optax.GradientTransformation:
        return self.transformation


class RefusedError(ValueError):
    """Training cannot use the optimizer of this factory; `reason` says why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name!r} is no optimizer of one learning rate, a gradient and a loss: {reason}")
        self.reason = reason


# Cached: an import path leads to the same object each time, so that programs are shared.
@cache
def optimizer(name: str) -> Optimizer:
    """The optimizer for a name in `segjax.OPTIMIZERS` or an import path: "optax:lion", "my_module:factory".

    A path may have options that are Python literals: "optax:adamw(weight_decay=0.01)". The factory is called as
    factory(learning_rate, **options). optax.contrib:muon stands for `segjax.optimizers.muon`, which handles
    convolutions. A path to a ready transformation returns a `Ready`.

    Raises:
        ValueError: if the name, its module or its function does not exist.
        RefusedError: if a ready transformation has options.

    >>> update = optimizer("optax:lion(b1=0.95)")(1e-3)
    """
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    path, options = _split_options(name)
    if not all(path.partition(":")):
        known = f"one of {', '.join(OPTIMIZERS)}, or an import path as optax:lion"
        raise ValueError(f"{name!r} is no optimizer: {known}{_suggestion(path)}")
    try:
        factory = pkgutil.resolve_name(path)
    # The import runs code that is not ours: it may raise anything, or exit.
    except BaseException as error:
        reason = f"{error!r}, which ends Python" if isinstance(error, SystemExit) else str(error) or repr(error)
        raise ValueError(f"{name!r} cannot be imported: {reason}{_suggestion(path.rpartition(':')[2])}") from error
    # Compared by identity, since several paths lead to it.
    factory = muon if factory is optax.contrib.muon else factory
    if is_ready(factory):
        if options:
            raise RefusedError(name, "it is a ready transformation, which takes no options in brackets")
        factory = Ready(factory)
    return partial(factory, **options) if options else factory


def _suggestion(name: str) -> str:
    """The known function with the most similar name, as the end of a message; empty if none is similar."""
    paths = {known: f"optax.contrib:{known}" for known in vars(optax.contrib)}
    # Names in optax override those in contrib, and segjax's override both.
    paths |= {known: f"optax:{known}" for known in vars(optax)} | {known: known for known in OPTIMIZERS}
    close = difflib.get_close_matches(name.lower(), paths, 1, 0.7) if name else []
    return f"; did you mean {paths[close[0]]}?" if close else ""


def _split_options(name: str) -> tuple[str, dict[str, Any]]:
    """Splits a name into its path and its options in brackets, which are literals: no code is evaluated."""
    path, bracket, inside = name.partition("(")
    if not bracket:
        return path, {}
    with contextlib.suppress(SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        match ast.parse(f"options({inside}", mode="eval").body:
            case ast.Call(ast.Name(), [], keywords) if "#" not in inside:
                options = {each.arg: ast.literal_eval(each.value) for each in keywords if each.arg}
                leaves = jax.tree.leaves(list(options.values()))
                is_plain = not any(isinstance(leaf, complex | bytes) for leaf in leaves)
                # ast has no name for **options, and lists an option that is given twice.
                if is_plain and len(options) == len(keywords):
                    return path, options
    raise ValueError(f"{name!r} must have options as (weight_decay=0.01, nesterov=True): names and plain values")


def is_installed(file: Path) -> bool:
    """Whether a file is of Python, of an installed package, or of this project: not a module of the user's own."""
    if {"site-packages", "dist-packages"} & set(file.parts):
        return True
    return any(file.is_relative_to(root) for root in (sysconfig.get_path("stdlib"), *_PROJECT))


def loaded_files(names: Iterable[str]) -> dict[str, Path]:
    """Imports optimizers; returns relative path -> file of the modules that they need, except segjax, jax and the like.

    They are the modules of the packages in the import paths, and all modules of the user's own that these import.

    >>> loaded_files(["optax:lion", "adam"])
    {}
    """
    for name in (names := list(names)):
        optimizer(name)
    packages = {name.partition(":")[0].partition(".")[0] for name in names if ":" in name} - _VERSIONED
    waiting = [name for name in sys.modules if name.partition(".")[0] in packages]
    files: dict[str, Path] = {}
    while waiting:
        name = waiting.pop()
        module, package = sys.modules[name], name.partition(".")[0]
        file = Path(getattr(module, "__file__", None) or "")
        path = name.replace(".", "/") + ("/__init__.py" if hasattr(module, "__path__") else ".py")
        is_needed = package in packages or not (package in _VERSIONED or is_installed(file))
        if is_needed and file.suffix == ".py" and path not in files:
            files[path] = file
            waiting += [] if is_installed(file) else _imports(module)
    return dict(sorted(files.items()))


def _imports(module: ModuleType) -> list[str]:
    """The names of loaded modules that the source of a module imports, and of the packages that they are in."""
    package, names = module.__spec__.parent if module.__spec__ else "", set()
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            names |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    parents = {parent for name in names for parent in accumulate(name.split("."), "{}.{}".format)}
    return [name for name in parents if name in sys.modules]
