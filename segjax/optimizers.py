"""The notebook's four optimizers, as PyTorch defines them: learning rate -> optax transformation.

Any function of that form is an optimizer here, such as `optax.lion`: a factory. The rate is a number, which may be
traced, or one of optax's schedules. A ready optax transformation is an optimizer too, such as `optax.adam(1e-3)` or an
`optax.chain` with its own schedule. It has its rate already, so a run of it takes none.

An optimizer whose runs are evaluated with other weights than the trained ones has an attribute `eval_params`:

    def averaged(learning_rate): ...
    averaged.eval_params = lambda opt_state, params: opt_state.average
"""

from collections.abc import Callable
from functools import partial, wraps
from types import MappingProxyType
from typing import Any, TypeAlias

import jax
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers, ScheduleFreeState, schedule_free_eval_params

from segjax._checks import check_callable, check_positive, describe, describe_error, is_ready

# A number, which may be traced, or a schedule: step -> number.
Rate: TypeAlias = jax.typing.ArrayLike | optax.Schedule
# (learning rate, **options) -> optax transformation. Training calls it with a traced rate inside the compiled function:
# one program then serves every rate. `optax.inject_hyperparams` would also do that, but it makes float32 arrays of
# Adam's betas and epsilon, and the run drifts away from PyTorch's.
Factory: TypeAlias = Callable[..., optax.GradientTransformation]
# A factory, or a ready transformation: any object with `init` and `update`.
Optimizer: TypeAlias = Factory | optax.GradientTransformation
# (state of the optimizer, trained weights) -> evaluation weights.
EvalParams = Callable[[Any, Any], Any]
# Names of the initial weights in the states of optax's cocob, dog, dowg, madgrad and prodigy.
_STARTING_POINTS = ("init_params", "init_particles", "params0", "x0")


def sgd(learning_rate: Rate) -> optax.GradientTransformation:
    """`torch.optim.SGD(lr)`. The notebook's run of this name used momentum 0.9."""
    return optax.sgd(_check_rate(learning_rate))


def momentum(learning_rate: Rate) -> optax.GradientTransformation:
    """`torch.optim.SGD(lr, momentum=0.9)`: the buffer starts at the first gradient, without dampening."""
    return optax.sgd(_check_rate(learning_rate), momentum=0.9)


def rmsprop(learning_rate: Rate) -> optax.GradientTransformation:
    """`torch.optim.RMSprop(lr)`: decay 0.99, and epsilon 1e-8 added outside the square root."""
    # optax's defaults are decay 0.9 and epsilon inside the root, which matters for gradients as small as 1e-4.
    return optax.rmsprop(_check_rate(learning_rate), decay=0.99, eps=1e-8, eps_in_sqrt=False)


def adam(learning_rate: Rate) -> optax.GradientTransformation:
    """`torch.optim.Adam(lr)`: betas 0.9 and 0.999, epsilon 1e-8 outside the square root."""
    # These are optax's defaults too.
    return optax.adam(_check_rate(learning_rate))


def muon(learning_rate: Rate, **options: Any) -> optax.GradientTransformation:
    """`optax.contrib.muon` for convolutions: a kernel is the matrix (height * width * channels_in, channels_out).

    optax's default applies Muon to two-dimensional weights only, and AdamW to all kernels. Here AdamW trains only the
    biases and the scales of BatchNorm.

    Args:
        options: of `optax.contrib.muon`.
    """

    def dimension_numbers(params: Any) -> Any:
        shapes = {2: MuonDimensionNumbers(), 4: MuonDimensionNumbers((0, 1, 2), 3)}
        return jax.tree.map(lambda leaf: shapes.get(leaf.ndim), params)

    learning_rate = _check_rate(learning_rate)
    inner = optax.contrib.muon(learning_rate, muon_weight_dimension_numbers=dimension_numbers, **options)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        # Without the barrier, XLA compiles its products differently in a whole run and in chunks: 1e-7 in the weights.
        return inner.update(*jax.lax.optimization_barrier((updates, state, params)), **extra)

    return optax.GradientTransformationExtraArgs(inner.init, update)


# name -> optimizer: the four of the notebook.
OPTIMIZERS = MappingProxyType({"sgd": sgd, "momentum": momentum, "rmsprop": rmsprop, "adam": adam})


def transformation(
    optimizer: Optimizer, learning_rate: Rate | None = None, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """The optax transformation of an optimizer: `factory(learning_rate, **options)`, or the ready one.

    Raises:
        TypeError: if a factory gets no rate, or a ready transformation gets one; here or by the transformation, if the
            optimizer needs more than a rate, a gradient and the loss's value, such as a line search.
    """
    if is_ready(optimizer):
        if learning_rate is not None:
            must = "learning_rate must be None for a ready transformation, which has its rate already"
            raise TypeError(f"{must}, got {describe(learning_rate)}; a factory, such as optax.adam, takes one")
        ready = optimizer
    elif learning_rate is None:
        raise TypeError("learning_rate must be a finite number > 0, got None: the optimizer is a function of it")
    else:
        ready = _naming_itself(optimizer)(learning_rate, **options)
        if not is_ready(ready):
            raise TypeError(f"optimizer must return an optax transformation, got {describe(ready)}")
    ready = optax.with_extra_args_support(ready)
    return optax.GradientTransformationExtraArgs(_naming_itself(ready.init, True), _naming_itself(ready.update, True))


def _check_rate(learning_rate: Rate) -> Rate:
    """Returns `learning_rate`, a number > 0 or a schedule; raises TypeError or ValueError otherwise."""
    if callable(learning_rate):
        return check_callable("learning_rate", learning_rate, "step")
    return check_positive("learning_rate", learning_rate)


def _naming_itself(function: Callable[..., Any], takes_weights: bool = False) -> Callable[..., Any]:
    """A function of an optimizer, whose errors name it as the argument that does not fit."""

    @wraps(function)
    def named(*arguments: Any, **options: Any) -> Any:
        try:
            # optax, as others', is not written for jax_numpy_dtype_promotion="strict".
            with jax.numpy_dtype_promotion("standard"):
                return function(*arguments, **options)
        except (AttributeError, TypeError) as error:
            reason = describe_error(error)
            must = "optimizer must need no more than a learning rate, which may be traced, a gradient and the loss"
            raise TypeError(f"{must}: {reason}") from error
        except ValueError as error:
            if not takes_weights:
                raise
            # Such as that of `optax.masked`, whose mask is for the weights of one model.
            raise ValueError(f"optimizer must fit the weights of model: {describe_error(error)}") from error

    return named


def eval_params(optimizer: Optimizer, opt_state: Any) -> EvalParams | None:
    """The function that computes an optimizer's evaluation weights from its state.

    It is the optimizer's attribute `eval_params`, also inside a `functools.partial`, a schedule, or a function made
    with `functools.wraps`. The schedule-free optimizers of optax.contrib are recognised (Defazio et al., 2024): their
    evaluation weights are the average x, while gradients are computed at y.

    Args:
        opt_state: a state of the optimizer, or its shapes.

    Returns:
        (opt_state, params) -> params; None if the evaluation weights are the trained ones. The argument is the whole
        state: a tuple for an `optax.chain`.

    Raises:
        TypeError: if the attribute is no function of (opt_state, params).
    """
    if attribute := getattr(optimizer, "eval_params", None):
        return check_callable("eval_params", attribute, "opt_state", "params")
    if inner := optimizer.func if isinstance(optimizer, partial) else getattr(optimizer, "__wrapped__", None):
        return eval_params(inner, opt_state)
    return _schedule_free if _schedule_free_states(opt_state) else None


def copies_of_weights(optimizer: Optimizer, params: Any) -> list[str]:
    """Parts of an optimizer's initial state that are copies of the weights; none if `eval_params` is known.

    Such a part may be an average that is meant for evaluation: only the author of the optimizer knows. Copies of the
    initial weights, from which optax's distance-based optimizers measure distances, are left out. An average that
    starts at 0 is not detected.

    Args:
        params: weights that are not all equal.
    """

    structure: Any = jax.tree.structure(params)

    def is_copy(node: Any) -> bool:
        if structure != jax.tree.structure(node):
            return False
        return all(map(np.array_equal, jax.tree.leaves(node), jax.tree.leaves(params)))

    opt_state = transformation(optimizer, None if is_ready(optimizer) else 1e-3).init(params)
    if eval_params(optimizer, opt_state):
        return []
    parts, _ = jax.tree_util.tree_flatten_with_path(opt_state, is_leaf=is_copy)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, node in parts if is_copy(node)]
    return [name for name in names if name.rpartition("/")[2] not in _STARTING_POINTS]


def _schedule_free_states(opt_state: Any) -> list[Any]:
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, ScheduleFreeState))
    return [node for node in nodes if isinstance(node, ScheduleFreeState)]


def _schedule_free(opt_state: Any, params: Any) -> Any:
    return schedule_free_eval_params(_schedule_free_states(opt_state)[0], params)
