"""Evaluation of a training run: the evaluation weights, their running statistics, and counts on fresh images.

Each function takes one run, or many: the states of a sweep, whose leaves have leading axes. The result then has the
same axes, and equals the results of the single runs bit for bit. Runs are evaluated one after the other, so that more
runs need more memory for their results only.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from segjax import metrics
from segjax._checks import (
    check_callable,
    check_count,
    check_key,
    check_layout,
    check_model,
    check_optimizer,
    check_options,
    check_pixels,
    check_variables,
    describe,
    is_ready,
    named_arrays,
)
from segjax.models import Variables, collections_of, predict, template_of
from segjax.optimizers import Optimizer, eval_params, transformation
from segjax.sweeps import map_runs
from segjax.textures import generate_data
from segjax.training import Generate, TrainState, batch_shapes


def eval_variables(
    key: jax.Array,
    model: nn.Module,
    optimizer: Optimizer,
    state: TrainState,
    num_batches: int = 16,
    generate: Generate = generate_data,
    **generate_options: Any,
) -> Variables:
    """The variables with which a run is evaluated: to be jitted.

    For most optimizers these are the trained weights: `state.variables`. For some, the evaluation weights are computed
    from the optimizer's state (`segjax.optimizers.eval_params`). Training's running statistics do not fit those, so
    they are computed again (`recalibrate`).

    Args:
        model, optimizer: those of the run. If the evaluation weights depend on the optimizer, its state must be of the
            layout that a learning rate alone gives.
        state: at the end of the run, or at any step; of one run or of many.
        key, num_batches, generate, generate_options: for `recalibrate`.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    check_optimizer(optimizer)
    if not isinstance(state, TrainState):
        raise TypeError(f"state must be a TrainState, got {describe(state)}")
    _check_opt_state(optimizer, state)
    weights = eval_params(optimizer, state.opt_state)
    if weights is None:
        return state.variables

    def of_run(state: TrainState) -> Variables:
        params = weights(state.opt_state, state.params)
        check_layout("the result of eval_params of optimizer", params, state.params, "state's params", dtypes=False)
        return recalibrate(key, model, {**state.variables, "params": params}, num_batches, generate, **generate_options)

    return _over_runs(of_run, jnp.shape(state.step), state)


def recalibrate(
    key: jax.Array,
    model: nn.Module,
    variables: Variables,
    num_batches: int = 16,
    generate: Generate = generate_data,
    **generate_options: Any,
) -> Variables:
    """Replaces BatchNorm's running statistics by their means over fresh batches, for the same weights: to be jitted.

    It serves weights that are not the trained ones, such as averages (Izmailov et al., 2018). Each running mean and
    variance is the plain mean of those of the batches; in training, the last batches have the largest weight. A network
    without BatchNorm is returned unchanged. Layers that share one BatchNorm get one mixture of the statistics of all,
    as in training, which is useless for prediction.

    Args:
        key: for the batches, another key than that of a training run.
        model: any Linen module, image -> logits, with a `train` argument.
        variables: "params" and "batch_stats", of one run or of many; the old statistics have no effect.
        num_batches: number of batches, >= 1.
        generate, generate_options: as in `segjax.make_train`.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    check_model(model)
    check_variables(variables)
    check_key(key)
    num_batches = check_count("num_batches", num_batches, minimum=1)
    check_options(recalibrate, check_callable("generate", generate), generate_options)
    axes = _axes_of_runs(model, variables, batch_shapes(key, generate, generate_options).image)
    if not jax.tree.leaves(variables.get("batch_stats", {})):
        return variables

    def of_batch(variables: Variables, index: jax.Array) -> Any:
        # Another key than those of the batches.
        apply = partial(model.apply, train=True, rngs=jax.random.fold_in(key, num_batches + index))

        def updated(running: Any) -> Any:
            changed = {**variables, "batch_stats": running}
            return apply(changed, image, mutable=collections_of(changed))[1]["batch_stats"]

        image = generate(jax.random.fold_in(key, index), **generate_options).image
        # A layer returns m running + (1 - m) batch, with a momentum m that only the layer knows. Starting at 0, that is
        # first = (1 - m) batch, and then second = (1 + m) first. (Starting at 1, large statistics would cancel the
        # digits of m.)
        first = updated(jax.tree.map(jnp.zeros_like, variables["batch_stats"]))
        second = updated(first)
        return jax.tree.map(lambda a, b: jnp.where(a == 0, 0, a * (a / jnp.where(a == 0, 1, 2 * a - b))), first, second)

    def of_run(variables: Variables) -> Any:
        # One batch after the other, as in `evaluate`.
        of_batches = lax.map(partial(of_batch, variables), jnp.arange(num_batches))
        return jax.tree.map(lambda leaf: leaf.mean(axis=0), of_batches)

    return {**variables, "batch_stats": _over_runs(of_run, axes, variables)}


def evaluate(
    key: jax.Array,
    model: nn.Module,
    variables: Variables,
    num_batches: int = 16,
    generate: Generate = generate_data,
    **generate_options: Any,
) -> metrics.Counts:
    """Counts of `segjax.predict` over fresh batches, which depend on the key alone: to be jitted.

    Args:
        key: for the held-out images, another key than that of a training run.
        model: a Linen module with the attribute `batch_statistics` of `segjax.models.Network`.
        variables: `state.variables` after training, or those of `eval_variables`; of one run or of many.
        num_batches: number of batches, >= 1, of at most 2^31 - 1 pixels in all. Their size changes the result of models
            that predict with batch statistics.
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
    check_model(model, "batch_statistics")
    num_batches = check_count("num_batches", num_batches, minimum=1)
    check_options(evaluate, check_callable("generate", generate), generate_options)
    shapes = batch_shapes(key, generate, generate_options)
    check_pixels("num_batches times the pixels of a batch", num_batches * shapes.mask.size)
    check_variables(variables)

    def of_run(variables: Variables) -> metrics.Counts:
        def count_batch(index: jax.Array) -> metrics.Counts:
            batch = generate(jax.random.fold_in(key, index), **generate_options)
            return metrics.count(predict(model, variables, batch.image), batch.mask)

        # One batch after the other: memory does not grow with their number.
        return jax.tree.map(lambda leaf: leaf.sum(axis=0), lax.map(count_batch, jnp.arange(num_batches)))

    return _over_runs(of_run, _axes_of_runs(model, variables, shapes.image), variables)


def _check_opt_state(optimizer: Optimizer, state: TrainState) -> None:
    """Raises TypeError or ValueError for a state of another optimizer, if evaluation weights depend on either."""
    axes = jnp.shape(state.step)
    named_arrays("state.params", state.params)
    # Those of one run.
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[len(axes) :], jnp.result_type(leaf)), state.params
    )
    rate = None if is_ready(optimizer) else jax.ShapeDtypeStruct((), jnp.result_type(float))
    try:
        template = jax.eval_shape(lambda params, rate: transformation(optimizer, rate).init(params), params, rate)
    except TypeError:
        # A factory that needs options, which only `train` had.
        return
    # Otherwise options of the run may have changed the layout: `optax.sgd` has a state only with momentum.
    if eval_params(optimizer, template) or eval_params(optimizer, state.opt_state):
        check_layout("state.opt_state", state.opt_state, _of_runs(template, axes), "optimizer")


def _of_runs(template: Any, axes: tuple[int, ...]) -> Any:
    """The shapes and dtypes of a template with the leading axes of many runs."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*axes, *leaf.shape), leaf.dtype), template)


def _axes_of_runs(model: nn.Module, variables: Variables, image: Any) -> tuple[int, ...]:
    """The leading axes of all variables beyond the shapes of the model's.

    Raises:
        ValueError: naming the first array that is missing, superfluous, or without these axes.
    """
    template = template_of(model, image)
    first, of_one_run = (jnp.shape(next(iter(jax.tree.leaves(tree["params"])), 0)) for tree in (variables, template))
    axes = first[: max(0, len(first) - len(of_one_run))]
    check_layout("variables", variables, _of_runs(template, axes), "model and these images", dtypes=False)
    return axes


def _over_runs(function: Callable[[Any], Any], axes: tuple[int, ...], tree: Any) -> Any:
    """Applies `function` to each run; every leaf of the tree has these leading axes."""
    for _ in axes:
        function = partial(map_runs, function)
    return function(tree)
