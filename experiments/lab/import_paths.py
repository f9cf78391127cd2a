"""Optimizers by name or import path, such as "optax:lion", and checks that training can use them."""

import ast
import difflib
import inspect
import pkgutil
import sys
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import resolve_name
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NoReturn

import jax
import jax.numpy as jnp
import optax
import optax.contrib

import segjax
from segjax._checks import is_ready
from segjax.optimizers import OPTIMIZERS, Optimizer, eval_params, muon

# The folders of segjax and of the experiments, whose files `provenance.code_digest` covers.
_PROJECT = (Path(segjax.__file__).parent, Path(__file__).parents[1])
# Packages whose versions every result records, wherever they are installed.
_VERSIONED = {"segjax", "jax", "jaxlib", "flax", "optax", "numpy"}
# Functions that some optimizers call in their update -> why training does not offer them.
_NOT_OFFERED = {
    "value_fn": "its line search evaluates the loss again, which training does not offer",
    "obj_fn": "it takes second derivatives of the loss, which training does not offer",
}


@dataclass(frozen=True)
class Ready:
    """An optax transformation as a factory: it has its own learning rate, and ignores the argument."""

    transformation: optax.GradientTransformation
    # The learning rate of its runs in tables and files.
    RATE: ClassVar[float] = 1.0

    def __call__(self, learning_rate: Any) -> optax.GradientTransformation:
        return self.transformation


class _NotOfferedError(Exception):
    """An optimizer calls one of `_NOT_OFFERED`; the message is the reason."""


class RefusedError(ValueError):
    """Training cannot use the optimizer of this factory; `reason` says why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name!r} is no optimizer of one learning rate, a gradient and a loss: {reason}")
        self.reason = reason


# Cached: a trial takes 0.1 s or more, and options, checks and programs need the same names.
@cache
def optimizer(name: str) -> Optimizer:
    """The optimizer for a name in `segjax.OPTIMIZERS` or an import path: "optax:lion", "my_module:factory".

    A path may have options that are Python literals: "optax:adamw(weight_decay=0.01)". The factory is called as
    factory(learning_rate, **options), and tried once on two small arrays with a traced rate. optax.contrib:muon stands
    for `segjax.optimizers.muon`, which handles convolutions. A path to a ready transformation returns a `Ready`.

    Raises:
        ValueError: if the name, its module or its function does not exist.
        RefusedError: if the optimizer needs more than a gradient and the loss value, such as a second gradient or a
            line search.

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
    except (Exception, SystemExit) as error:
        raise ValueError(f"{name!r} cannot be imported: {error}{_suggestion(path.rpartition(':')[2])}") from error
    # Compared by identity, since several paths lead to it.
    factory = muon if factory is optax.contrib.muon else factory
    if is_ready(factory):
        if options:
            raise RefusedError(name, "it is a ready transformation, which takes no options in brackets")
        factory = Ready(factory)
    if options:
        factory = partial(factory, **options)
    try:
        _check(factory)
    # Code that is not ours; after the first line, jax explains its tracers.
    except (Exception, SystemExit) as error:
        raise RefusedError(name, str(error).partition("\n")[0]) from error
    return factory


def _check(factory: Callable[..., Any]) -> None:
    """Raises an error of any type, with the reason, if training cannot use an optimizer."""
    required = [name for name, parameter in inspect.signature(factory).parameters.items() if _is_required(parameter)]
    if any(name.endswith("optimizer") for name in required):
        raise TypeError("it takes an optimizer, and no rate: put both together in a function of your own")
    if len(required) > 1:
        listed = ", ".join(required)
        must = "give it the rest in brackets, or in a function of your own"
        raise TypeError(f"it needs more than a rate ({listed}): {must}")
    for name, reason in _NOT_OFFERED.items():
        try:
            _trace_update(factory, **{name: partial(_refuse, reason)})
        except _NotOfferedError:
            raise
        # If another argument is missing, the update below fails with the reason.
        except Exception:
            continue
    # Fails here, and not in the training, if the optimizer needs more than gradients.
    _trace_update(factory)
    weights = trial_weights()
    state = factory(1e-3).init(weights)
    if evaluation_weights := eval_params(factory, state):
        evaluated = evaluation_weights(state, weights)
        if jax.tree.map(jnp.shape, evaluated) != jax.tree.map(jnp.shape, weights):
            raise TypeError("its evaluation weights do not have the shapes of the trained ones")
        if not all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(evaluated)):
            raise ValueError("its evaluation weights are not finite")
    # A rate so small that no optimizer diverges with it.
    if not _relative_loss(factory, weights, 1e-6, 10) <= 1.001:
        raise ValueError("on a square it does not go downhill: it may be a part of one, as optax:scale_by_adam is")


def _trace_update(factory: Callable[..., Any], **extra_args: Any) -> None:
    """Traces an update as in `segjax.training.train_step`, the rate included: a factory that converts it to a Python
    number fails here."""

    def update(learning_rate: jax.Array, params: dict[str, jax.Array]) -> Any:
        transformation = optax.with_extra_args_support(factory(learning_rate))
        state = transformation.init(params)
        return transformation.update(params, state, params, value=jnp.ones(()), grad=params, **extra_args)

    jax.eval_shape(update, jnp.asarray(1e-3), trial_weights())


def _refuse(reason: str, *_: Any, **__: Any) -> NoReturn:
    raise _NotOfferedError(reason)


def _is_required(parameter: inspect.Parameter) -> bool:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and parameter.kind not in variadic


def check_moves(option: str, name: str, rate: float) -> None:
    """Raises a ValueError, naming the option, if an optimizer that estimates its step size stands still at a rate.

    Such optimizers have 1 as their default rate, and use the rate as a factor: at Adam's 0.001 the steps are too small
    for the estimate to grow.
    """
    factory = optimizer(name)
    # segjax's optimizers and most of optax's have no default rate.
    parameter = inspect.signature(factory).parameters.get("learning_rate")
    default = parameter.default if parameter else None
    # Other defaults than 1 are rates, not factors.
    if default != 1 or rate >= default:
        return
    steps, weights = 100, trial_weights()
    decrease = 1 - _relative_loss(factory, weights, rate, steps)
    # Gradient descent lowers this loss by a share of 2 * rate per step. A tenth of that is slow, but no standstill.
    if decrease < min(0.01, 0.1 * 2 * rate * steps) and _relative_loss(factory, weights, default, steps) < 0.5:
        raise ValueError(
            f"{option}: at the rate {rate:g} it stands still: it finds its step itself and takes the rate as a "
            f"factor; give it its default, {name}={default:g}"
        )


def trial_weights() -> dict[str, jax.Array]:
    """Two small arrays in place of a network's weights; not constant, so that a state of ones is no copy of them."""
    return {"kernel": jnp.linspace(-1, 1, 6).reshape(1, 1, 2, 3), "bias": jnp.linspace(0.5, 1, 3)}


def _relative_loss(factory: Callable[..., Any], weights: dict[str, jax.Array], rate: float, steps: int) -> float:
    """Last loss over first loss, for some steps on the square of the weights; NaN or above 1 if it goes uphill."""
    transformation = optax.with_extra_args_support(factory(rate))

    def square(tree: Any) -> jax.Array:
        return optax.tree.norm(tree) ** 2 / 2

    @jax.jit
    def run(params: dict[str, jax.Array]) -> jax.Array:
        def step(_: int, carry: Any) -> Any:
            params, state = carry
            updates, state = transformation.update(params, state, params, value=square(params), grad=params)
            return optax.apply_updates(params, updates), state

        return square(jax.lax.fori_loop(0, steps, step, (params, transformation.init(params)))[0])

    return float(run(weights) / square(weights))


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
    options = None if "#" in inside else _literals(f"options({inside}")
    if options is None:
        raise ValueError(f"{name!r} must have options as (weight_decay=0.01, nesterov=True): names and plain values")
    return path, options


def _literals(call: str) -> dict[str, Any] | None:
    """The keyword arguments of a call; None if it has other arguments, or values that are not plain."""
    try:
        expression = ast.parse(call, mode="eval").body
        if not isinstance(expression, ast.Call) or not isinstance(expression.func, ast.Name) or expression.args:
            return None
        options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in expression.keywords}
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None
    plain = not any(isinstance(leaf, complex | bytes) for leaf in jax.tree.leaves(list(options.values())))
    # ast calls **options None.
    return {str(option): value for option, value in options.items()} if plain and None not in options else None


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
