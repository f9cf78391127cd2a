"""What a training run is worth: the weights to judge it by, their running statistics, and counts on fresh images.

Each function takes one run, or many at once: the states of a sweep, whose leaves have leading axes. The result then has
the same axes, and is bit for bit what each run gives alone. Runs are taken one after the other, so that more of them
need more memory for their results only.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import FlaxError
from jax import lax

from segjax import metrics
from segjax._checks import (
    check_callable,
    check_count,
    check_key,
    check_model,
    check_network,
    check_optimizer,
    check_pixels,
    check_variables,
)
from segjax.models import Variables, predict
from segjax.optimizers import Optimizer, eval_params
from segjax.sweeps import map_runs
from segjax.textures import generate_data
from segjax.training import Generate, TrainState


def eval_variables(
    key: jax.Array,
    model: nn.Module,
    optimizer: Optimizer,
    state: TrainState,
    num_batches: int = 16,
    generate: Generate = generate_data,
    **generate_options: Any,
) -> Variables:
    """The variables to judge a run by: to be jitted.

    Most optimizers are judged by the weights that they train: `state.variables`. Some are judged by weights that follow
    from their state (`segjax.optimizers.eval_params`), to which the running statistics of the training do not belong:
    those are computed anew (`recalibrate`).

    Args:
        model, optimizer: those of the run.
        state: at its end, or at any step; of one run or of many.
        key, num_batches, generate, generate_options: for `recalibrate`.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    check_optimizer(optimizer)
    if not isinstance(state, TrainState):
        raise TypeError(f"state must be a TrainState, got {state!r:.60}")
    judge = eval_params(optimizer, state.opt_state)
    if judge is None:
        return state.variables

    def of_run(state: TrainState) -> Variables:
        variables = {"params": judge(state.opt_state, state.params), "batch_stats": state.batch_stats}
        return recalibrate(key, model, variables, num_batches, generate, **generate_options)

    return _over_runs(of_run, jnp.shape(state.step), state)


def recalibrate(
    key: jax.Array,
    model: nn.Module,
    variables: Variables,
    num_batches: int = 16,
    generate: Generate = generate_data,
    **generate_options: Any,
) -> Variables:
    """The same weights with BatchNorm's running statistics computed anew, as means over fresh batches: to be jitted.

    For weights that training never saw, such as averages (Izmailov et al., 2018). Each running mean and variance
    becomes the plain mean of the batches' own; training weighs the last batches most. A network without BatchNorm stays
    as it is. Layers that share one BatchNorm get one mixture of the statistics of all, as in training: useless for
    prediction.

    Args:
        model: any Linen module, image -> logits, with a `train` argument.
        variables: "params" and "batch_stats", of one run or of many; the old statistics do not count.
        key: of the batches, another than that of a training run.
        num_batches: number of batches, >= 1.
        generate, generate_options: as in `segjax.make_train`.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    check_model(model)
    check_variables(variables)
    check_key(key)
    check_callable("generate", generate)
    num_batches = check_count("num_batches", num_batches, minimum=1)
    statistics = variables.get("batch_stats", {})
    if not jax.tree.leaves(statistics):
        return variables

    def moved(variables: Variables, image: jax.Array, running: Any) -> Any:
        given = {"params": variables["params"], "batch_stats": running}
        try:
            return model.apply(given, image, train=True, mutable=["batch_stats"])[1]["batch_stats"]
        # Flax's errors name the parameter, but they are not ValueErrors.
        except FlaxError as error:
            raise ValueError(f"variables do not fit the model: {error}") from error

    def of_batch(variables: Variables, index: jax.Array) -> Any:
        image = generate(jax.random.fold_in(key, index), **generate_options).image
        # A layer gives m running + (1 - m) batch for a momentum m that only it knows. From 0 that is first =
        # (1 - m) batch, and from there second = (1 + m) first. (From 1, large statistics would hide the digits of m.)
        first = moved(variables, image, jax.tree.map(jnp.zeros_like, variables["batch_stats"]))
        second = moved(variables, image, first)
        return jax.tree.map(lambda a, b: jnp.where(a == 0, 0, a * (a / jnp.where(a == 0, 1, 2 * a - b))), first, second)

    def of_run(variables: Variables) -> Any:
        # One batch after the other, as in `evaluate`.
        found = lax.map(partial(of_batch, variables), jnp.arange(num_batches))
        return jax.tree.map(lambda leaf: leaf.mean(axis=0), found)

    image = jax.eval_shape(partial(generate, **generate_options), key).image
    axes, wanted = _axes_of_runs(model, variables, key, image)
    if jax.tree.map(lambda leaf: jnp.shape(leaf)[len(axes) :], statistics) != jax.tree.map(jnp.shape, wanted):
        raise ValueError("variables must be those of the model: it has other running statistics")
    return {**variables, "batch_stats": _over_runs(of_run, axes, variables)}


def evaluate(
    key: jax.Array,
    model: nn.Module,
    variables: Variables,
    num_batches: int = 16,
    generate: Generate = generate_data,
    **generate_options: Any,
) -> metrics.Counts:
    """Counts of `segjax.predict` over fresh batches, the same ones for every model given one key: to be jitted.

    Args:
        model: a Linen module with the attribute `batch_statistics` of `segjax.models.Network`.
        variables: `state.variables` after training, or those of `eval_variables`; of one run or of many.
        key: of the held-out images, another than the key of a training run.
        num_batches: number of batches, >= 1, of at most 2^31 - 1 pixels in all; their size matters to models that
            predict with batch statistics.
        generate, generate_options: as in `make_train`.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.

    >>> import jax, segjax
    >>> model, sizes = segjax.SegmentationCNN(num_channels=2, depth=1), {"batch_size": 2, "image_size": 16, "sigma": 3}
    >>> train, keys = segjax.make_train(model, num_steps=5, **sizes), jax.random.split(jax.random.key(0), 3)
    >>> states = jax.jit(lambda keys: segjax.sweep(train, keys, [1e-3, 1e-2]))(keys).states
    >>> counts = jax.jit(lambda states: segjax.evaluate(jax.random.key(1), model, states.variables, **sizes))(states)
    >>> segjax.metrics.iou(counts).shape
    (3, 2)
    """
    check_key(key)
    check_network(model, "batch_statistics")
    check_callable("generate", generate)
    num_batches = check_count("num_batches", num_batches, minimum=1)
    shapes = jax.eval_shape(partial(generate, **generate_options), key)
    check_pixels("num_batches times the pixels of a batch", num_batches * shapes.mask.size)
    check_variables(variables)

    def of_run(variables: Variables) -> metrics.Counts:
        def count_batch(index: jax.Array) -> metrics.Counts:
            batch = generate(jax.random.fold_in(key, index), **generate_options)
            return metrics.count(predict(model, variables, batch.image), batch.mask)

        # One batch after the other: memory does not grow with their number.
        return jax.tree.map(lambda leaf: leaf.sum(axis=0), lax.map(count_batch, jnp.arange(num_batches)))

    axes, _ = _axes_of_runs(model, variables, key, shapes.image)
    return _over_runs(of_run, axes, variables)


def _axes_of_runs(model: nn.Module, variables: Variables, key: jax.Array, image: Any) -> tuple[tuple[int, ...], Any]:
    """The axes before those of the model's own parameters, and the model's running statistics; shapes alone.

    Variables that do not fit the model have no such axes, and `model.apply` says what is wrong with them.
    """
    wanted = jax.eval_shape(partial(model.init, train=False), key, image)
    given, own = (list(map(jnp.shape, jax.tree.leaves(it.get("params")))) for it in (variables, wanted))
    found = {shape[: len(shape) - len(rest)] for shape, rest in zip(given, own, strict=False)}
    (axes,) = found if len(found) == 1 else ((),)
    if given != [axes + rest for rest in own]:
        return (), wanted.get("batch_stats", {})
    given, own = (list(map(jnp.shape, jax.tree.leaves(it.get("batch_stats", {})))) for it in (variables, wanted))
    # Of other axes, a run would get a part of its statistics, and broadcasting would hide it.
    if given != [axes + rest for rest in own]:
        runs = f"with the axes {axes} of the parameters before their own" if axes else "of one run"
        raise ValueError(f"variables must be those of the model: it has other running statistics, {runs}")
    return axes, wanted.get("batch_stats", {})


def _over_runs(function: Callable[[Any], Any], axes: tuple[int, ...], tree: Any) -> Any:
    """`function` of each run, where every leaf of the tree has these leading axes."""
    if not axes:
        return function(tree)
    line = jax.tree.map(lambda leaf: jnp.reshape(leaf, (math.prod(axes), *leaf.shape[len(axes) :])), tree)
    return jax.tree.map(lambda leaf: leaf.reshape(*axes, *leaf.shape[1:]), map_runs(function, line))
