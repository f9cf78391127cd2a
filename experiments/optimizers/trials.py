"""Can training use an optimizer? Trials on two small arrays, before hours of training."""

import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import optax

from experiments.lab import import_paths
from experiments.lab.import_paths import RefusedError
from segjax.optimizers import OPTIMIZERS, Optimizer, eval_params, transformation

# Functions that some optimizers call in their update -> why training does not offer them.
_NOT_OFFERED = {
    "value_fn": "its line search evaluates the loss again, which training does not offer",
    "obj_fn": "it takes second derivatives of the loss, which training does not offer",
}


class _NotOfferedError(Exception):
    """An optimizer calls one of `_NOT_OFFERED`; the message is the reason."""


# Cached: a trial takes 0.1 s or more, and several options name the same optimizer.
@cache
def optimizer(name: str) -> Optimizer:
    """`import_paths.optimizer`, tried once on two small arrays with a traced rate.

    Raises:
        ValueError: as `import_paths.optimizer`.
        RefusedError: if the optimizer needs more than a gradient and the loss value, such as a second gradient or a
            line search.
    """
    factory = import_paths.optimizer(name)
    if name in OPTIMIZERS:
        return factory
    try:
        _check(factory)
    # Code that is not ours: it may raise anything, or exit.
    except BaseException as error:
        raise RefusedError(name, _reason(error)) from error
    return factory


def _reason(error: BaseException) -> str:
    # A TypeError of `transformation` says again what an optimizer must be.
    error = error.__cause__ if type(error) is TypeError and error.__cause__ else error
    # After the first line, jax explains its tracers.
    line = str(error).partition("\n")[0]
    says_enough = line and isinstance(error, ValueError | TypeError | AttributeError | _NotOfferedError)
    return line if says_enough else f"{type(error).__name__} {line}".strip()


def _check(factory: Callable[..., Any]) -> None:
    """Raises an error of any type, with the reason, if training cannot use an optimizer."""
    required = [name for name, parameter in _signature(factory).parameters.items() if _is_required(parameter)]
    if any(name.endswith("optimizer") for name in required):
        raise TypeError("it takes an optimizer, and no rate: put both together in a function of your own")
    if len(required) > 1:
        listed = ", ".join(required)
        must = "give it the rest in brackets, or in a function of your own"
        raise TypeError(f"it needs more than a rate ({listed}): {must}")
    if inspect.iscoroutinefunction(factory):
        raise TypeError("it is a coroutine function, which returns no optimizer: define it without async")
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
    state = transformation(factory, 1e-3).init(weights)
    if evaluation_weights := eval_params(factory, state):
        evaluated = evaluation_weights(state, weights)
        if _layout(evaluated) != _layout(weights):
            raise TypeError("its evaluation weights do not have the shapes of the trained ones, or are not floating")
        if not all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(evaluated)):
            raise ValueError("its evaluation weights are not finite")
    # A rate so small that no optimizer diverges with it.
    if not _relative_loss(factory, weights, 1e-6, 10) <= 1 + 1e-6:
        raise ValueError("on a square it does not go downhill: it may be a part of one, as optax:scale_by_adam is")


def _trace_update(factory: Callable[..., Any], **extra_args: Any) -> None:
    """Traces an update as in `segjax.training.train_step`, the rate included: a factory that converts it to a Python
    number fails here."""

    def update(learning_rate: jax.Array, params: dict[str, jax.Array]) -> Any:
        init, update = transformation(factory, learning_rate)
        state = init(params)
        return (params, state), update(params, state, params, value=jnp.ones(()), grad=params, **extra_args)

    before, after = jax.eval_shape(update, jnp.asarray(1e-3), trial_weights())
    if _layout(before) != _layout(after) or _dtypes(before[1]) != _dtypes(after[1]):
        raise TypeError(
            "its update must return updates of the weights' shapes, floating, and a state of the shapes and dtypes of "
            "init's"
        )


def _layout(tree: Any) -> Any:
    """Structure, shapes and dtypes; all floating dtypes count as one."""
    leaves, structure = jax.tree.flatten(tree)
    dtypes = [jnp.floating if jnp.issubdtype(dtype, jnp.floating) else dtype for dtype in _dtypes(leaves)]
    return structure, [jnp.shape(leaf) for leaf in leaves], dtypes


def _dtypes(tree: Any) -> list[Any]:
    return [jnp.result_type(leaf) for leaf in jax.tree.leaves(tree)]


def _signature(factory: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(factory)
    except ValueError:
        # Python's message has an address in memory.
        if isinstance(factory, partial):
            raise TypeError(f"it does not take the options {', '.join(factory.keywords)}") from None
        raise


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
    init, update = transformation(factory, rate)

    def square(tree: Any) -> jax.Array:
        return optax.tree.norm(tree) ** 2 / 2

    @jax.jit
    def run(params: dict[str, jax.Array]) -> jax.Array:
        def step(_: int, carry: Any) -> Any:
            params, state = carry
            updates, state = update(params, state, params, value=square(params), grad=params)
            return optax.apply_updates(params, updates), state

        return square(jax.lax.fori_loop(0, steps, step, (params, init(params)))[0])

    return float(run(weights) / square(weights))
