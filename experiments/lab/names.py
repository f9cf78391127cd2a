"""The names that a person types, and the objects of the library behind them."""

import ast
import difflib
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import optax.contrib

from segjax.models import PatchCNN, SegmentationCNN, UNet
from segjax.optimizers import OPTIMIZERS, Optimizer, eval_params, muon

# All but the first predict with their running statistics; the first shares one BatchNorm, as the notebook does.
ARCHITECTURES: MappingProxyType[str, nn.Module] = MappingProxyType(
    {
        "notebook": SegmentationCNN(),
        "separate_norm": SegmentationCNN(shared_norm=False),
        "narrow": SegmentationCNN(num_channels=8, shared_norm=False),
        "wide": SegmentationCNN(num_channels=32, shared_norm=False),
        "kernel_3": SegmentationCNN(kernel_size=3, shared_norm=False),
        "kernel_7": SegmentationCNN(kernel_size=7, shared_norm=False),
        "shallow": SegmentationCNN(depth=1, shared_norm=False),
        "deep": SegmentationCNN(depth=5, shared_norm=False),
        "unet": UNet(),
        "patch": PatchCNN(),
        "patch_sharp": PatchCNN(sharpen=True),
    }
)


# In bytes: it is part of names of files.
_LONGEST_LABEL = 200
# What an optimizer's error holds -> what that means here.
_REASONS = {
    "value_fn": "its line search evaluates the loss again, which training does not offer",
    "obj_fn": "it takes second derivatives of the loss, which training does not offer",
    "required positional": "it needs more than a rate: give it the rest in brackets, or in a function of your own",
    "were given": "its update must take a gradient, a state and the weights",
    "no attribute init": "it takes an optimizer, and no rate: put both together in a function of your own",
}


def optimizer(name: str) -> Optimizer:
    """The optimizer of a name of `segjax.OPTIMIZERS`, or of an import path: "optax:lion", "my_module:factory".

    A path may have options that are Python's literals: "optax:adamw(weight_decay=0.01)". The factory is called as
    factory(learning_rate, **options), and tried once on two small arrays, the rate traced. For optax.contrib:muon
    `segjax.optimizers.muon` is taken, which knows convolutions.

    Raises:
        ValueError: if the name, its module or its function does not exist, or if the function makes no optimizer that
            updates from a gradient and the loss's value. One that needs a second gradient or a line search is refused.

    >>> update = optimizer("optax:lion(b1=0.95)")(1e-3)
    """
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    path, options = _with_options(name)
    if not all(path.partition(":")):
        known = f"one of {', '.join(OPTIMIZERS)}, or an import path as optax:lion"
        raise ValueError(f"{name!r} is no optimizer: {known}{_meant(path)}")
    try:
        factory = pkgutil.resolve_name(path)
    # The import runs code that is not ours, and may raise anything, or end the process.
    except (Exception, SystemExit) as error:
        raise ValueError(f"{name!r} cannot be imported: {error}{_meant(path.rpartition(':')[2])}") from error
    # By whichever path it was found.
    factory = muon if factory is optax.contrib.muon else factory
    if options:
        factory = partial(factory, **options)
    weights = _trial_weights()

    def trial(learning_rate: jax.Array, params: dict[str, jax.Array]) -> Any:
        transformation = factory(learning_rate)
        # As in `segjax.training.train_step`.
        state, value = transformation.init(params), jnp.ones(())
        return optax.with_extra_args_support(transformation).update(params, state, params, value=value, grad=params)

    # One small update finds, before an hour of training, what asks for more than gradients. The rate is traced, as it
    # is in training: a factory that makes a number of it fails there.
    try:
        jax.eval_shape(trial, jnp.asarray(1e-3), weights)
        state = factory(1e-3).init(weights)
        if judge := eval_params(factory, state):
            judged = judge(state, weights)
            if jax.tree.map(jnp.shape, judged) != jax.tree.map(jnp.shape, weights):
                raise ValueError("the weights to judge it by are none of the network's")
            if not all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(judged)):
                raise ValueError("the weights to judge it by are not finite")
        # At a rate at which whatever heeds the rate can do no harm.
        if not _left_of_square(factory, weights, 1e-6, 10) <= 1.001:
            raise ValueError("on a square it does not go downhill: it may be a part of one, as optax:scale_by_adam is")
    except (Exception, SystemExit) as error:
        # jax adds lines about its tracers.
        said = str(error).partition("\n")[0]
        reasons = [reason for mark, reason in _REASONS.items() if mark in said]
        said = f"{reasons[0]} ({said})" if reasons else said
        raise ValueError(f"{name!r} is no optimizer of one learning rate, a gradient and a loss: {said}") from error
    return factory


def check_moves(option: str, name: str, rate: float) -> None:
    """Raises a ValueError, naming the option, for a rate at which an optimizer that finds its step itself stands still.

    Such a one has 1 as its default rate, and takes another as a factor: at Adam's 0.001 its steps are too small for its
    estimate of the right step to grow.
    """
    factory = optimizer(name)
    # Of those of segjax none has a default, and most of optax's have none.
    parameter = inspect.signature(factory).parameters.get("learning_rate")
    default = parameter.default if parameter else None
    # 1 is the default of those that take the rate as a factor; other defaults are rates.
    if default != 1 or rate >= default:
        return
    steps, weights = 100, _trial_weights()
    moved = 1 - _left_of_square(factory, weights, rate, steps)
    # Plain gradient descent moves by 2 rate a step; whatever moves as far is only as slow as its rate is low.
    if moved < min(0.01, 0.1 * 2 * rate * steps) and _left_of_square(factory, weights, default, steps) < 0.5:
        raise ValueError(
            f"{option}: at the rate {exact(rate)} it stands still: it finds its step itself and takes the rate as a "
            f"factor; give it its default, {name}={default:g}"
        )


def _trial_weights() -> dict[str, jax.Array]:
    """Two small arrays that stand for a network's."""
    return {"kernel": jnp.ones((1, 1, 1, 2)), "bias": jnp.ones(2)}


def _left_of_square(factory: Callable[..., Any], weights: dict[str, jax.Array], rate: float, steps: int) -> float:
    """The share that some steps leave of the square of the weights, which is the loss; NaN or more than 1: uphill."""
    transformation, square = optax.with_extra_args_support(factory(rate)), lambda tree: optax.tree.norm(tree) ** 2 / 2

    @jax.jit
    def run(params: dict[str, jax.Array]) -> jax.Array:
        def step(_: int, carried: Any) -> Any:
            params, state = carried
            given = {"value": square(params), "grad": params}
            updates, state = transformation.update(params, state, params, **given)
            return optax.apply_updates(params, updates), state

        return square(jax.lax.fori_loop(0, steps, step, (params, transformation.init(params)))[0])

    return float(run(weights) / square(weights))


def _meant(name: str) -> str:
    """Which of optax's functions a name could be meant for, as the end of a sentence."""
    paths = {it: f"optax.contrib:{it}" for it in vars(optax.contrib)} | {it: f"optax:{it}" for it in vars(optax)}
    # Those of one's own come last, and so first.
    paths |= {it: it for it in OPTIMIZERS}
    close = difflib.get_close_matches(name.lower(), paths, 1, 0.7) if name else []
    return f"; did you mean {paths[close[0]]}?" if close else ""


def _with_options(name: str) -> tuple[str, dict[str, Any]]:
    """The path of a name, and the options in brackets behind it: literals, of which nothing is evaluated."""
    path, bracket, inside = name.partition("(")
    if not bracket:
        return path, {}
    try:
        call = ast.parse(f"options({inside}", mode="eval").body
        # Behind a # Python would not look.
        if "#" in inside or not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError
        options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
        numbers = jax.tree.leaves(list(options.values()))
        if len(options) < len(call.keywords) or any(isinstance(number, complex | bytes) for number in numbers):
            raise ValueError
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        raise ValueError(
            f"{name!r} must have options as (weight_decay=0.01, nesterov=True): names and plain values"
        ) from None
    return path, options


def sources(names: Iterable[str]) -> list[Path]:
    """The files of the modules among import paths, which are not of segjax or optax: those have versions."""
    modules = [name.partition(":")[0] for name in names if ":" in name]
    own = [name for name in modules if name.partition(".")[0] not in ("segjax", "optax")]
    return [Path(file) for name in own if (file := getattr(sys.modules.get(name), "__file__", None))]


def loaded_files(names: Collection[str]) -> dict[str, Path]:
    """Imports optimizers; relative path -> file, of every loaded module in their packages but segjax and optax.

    >>> loaded_files(["optax:lion", "adam"])
    {}
    """
    for name in names:
        optimizer(name)
    packages = {name.partition(":")[0].partition(".")[0] for name in names if ":" in name} - {"segjax", "optax"}
    loaded = [(name, module) for name, module in sys.modules.items() if name.partition(".")[0] in packages]
    files = {}
    for name, module in loaded:
        if (file := getattr(module, "__file__", None)) and file.endswith(".py"):
            path = Path(*name.split("."))
            files[str(path / "__init__.py" if hasattr(module, "__path__") else path.with_suffix(".py"))] = Path(file)
    return files


def check_label(label: str) -> str:
    """Returns `label`, a name that stands in tables, figures and files; raises ValueError otherwise."""
    # matplotlib reads dollars as formulas, and leaves out of a legend what begins with an underscore.
    odd = not label.isprintable() or label != label.strip() or label.startswith("_") or set(label) & set("/$")
    if not label or odd or len(os.fsencode(label)) > _LONGEST_LABEL:
        raise ValueError(
            f"a label must be words without a slash or a dollar, begin with no underscore, and have at most "
            f"{_LONGEST_LABEL} bytes, got {label!r:.60}"
        )
    return label


def exact(number: float) -> str:
    """A number as people write it, 0.001 or 1e-05, with as many digits as tell it from every other number."""
    short = f"{number:g}"
    return short if float(short) == number else repr(float(number))


def shortened(text: str, width: int) -> str:
    """The text in so many letters at most: of a longer one the middle is left out, where import paths differ least.

    >>> shortened("optax.contrib:schedule_free_adamw", 20)
    'optax.con...ee_adamw'
    """
    if len(text) <= width:
        return text
    head = (width - 2) // 2
    return f"{text[:head]}...{text[len(text) - (width - 3 - head) :]}"


def printable(text: str) -> str:
    """Text that a terminal and a page can show: escapes where a file's name has line breaks or bytes that are no text.

    >>> print(printable("two\\nlines"))
    two\\nlines
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
