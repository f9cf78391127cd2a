"""The axis of runs: one program that trains every seed at every rate, on one device or on many.

Runs share nothing: a device waits for no other before all its runs have ended, and a run that diverges disturbs none.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from segjax._checks import check_callable, check_count, check_positive, check_real, describe, named_arrays
from segjax.metrics import diverged_at
from segjax.training import Fit, History, Train, TrainState

_SWEPT = "a sweep takes learning_rates, one or more, if the optimizer does, and values of options that may be traced"


class Sweep(NamedTuple):
    """The result of a sweep. Every leaf outside `axes` has one leading axis for each of `axes`, in their order.

    Attributes:
        axes: name -> values, (length,): "key", "learning_rate" if there is one, then the traced options in the order of
            the call.
        states: at the end of each run.
        histories: leaves (..., num_steps).
        diverged_at: int32; the step at which a run diverged, as `metrics.diverged_at` finds it, or 0.
    """

    axes: OrderedDict[str, jax.Array]
    states: TrainState
    histories: History
    diverged_at: jax.Array


def sweep(
    train: Train,
    keys: jax.Array,
    learning_rates: jax.typing.ArrayLike | None = None,
    *,
    width: int = 1,
    mesh: Mesh | None = None,
    **traced_options: jax.typing.ArrayLike,
) -> Sweep:
    """Runs `train(key, learning_rate, **traced_options)` for every combination, paired by key: to be jitted.

    Working memory grows with `width`, not with the number of runs: only the result of a finished run is kept.
    With jax 0.10 several devices of a CPU give the bits of one; with 0.12 a few last digits differ.

    Args:
        train: from `make_train`.
        keys: (seeds,) typed keys.
        learning_rates: (rates,), each > 0; None if the optimizer of `train` is a ready transformation.
        width: number of runs that one device computes at a time. 1 is the fastest on a CPU; no GPU has been measured.
        mesh: devices that share the runs, such as `jax.make_mesh((jax.device_count(),), ("runs",))`; its axes may have
            any names. None for the default device.
        traced_options: name -> (length,) values of a traced option of `train`: sigma1 of `generate_data`, for example,
            or b1 of `optax.adam`.

    Raises:
        TypeError, ValueError: naming the argument that is out of range. A traced value has no number yet and passes.

    >>> import jax, segjax
    >>> model = segjax.SegmentationCNN(num_channels=2, depth=1)
    >>> train = segjax.make_train(model, num_steps=5, batch_size=2, image_size=16, sigma=3)
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> result = jax.jit(lambda keys: segjax.sweep(train, keys, [1e-3, 1e-2], sigma1=[0.2, 0.5]))(keys)
    >>> list(result.axes), result.histories.loss.shape
    (['key', 'learning_rate', 'sigma1'], (3, 2, 2, 5))
    """
    if isinstance(train, Fit):
        raise TypeError("train must be made by make_train, got a Fit of make_fit, whose chunks are run one by one")
    # Typed keys alone: with the older kind (seeds, 2), a single key would pass for two seeds.
    typed = isinstance(keys, jax.Array) and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    if not typed or keys.ndim != 1 or not keys.size:
        example = "jax.random.split(jax.random.key(0), n)"
        raise ValueError(
            f"keys must be typed keys of shape (seeds,), at least one, such as {example}, got {describe(keys)}"
        )
    if jax.sharding.get_abstract_mesh().empty and any(jax.typeof(keys).sharding.spec):
        raise ValueError("keys must not be sharded over explicit axes: with mesh, sweep gives each device its share")
    axes, concrete = OrderedDict(key=keys), {}
    rates = {} if learning_rates is None else {"learning_rate": learning_rates}
    if twice := traced_options.keys() & {*axes, *rates}:
        raise TypeError(f"traced_options must not have {min(twice)}, which keys or learning_rates set")
    check_callable("train", train, **axes, **rates, **traced_options)
    for name, values in {**rates, **traced_options}.items():
        argument = "learning_rates" if name == "learning_rate" else name
        if not isinstance(values, jax.core.Tracer):
            concrete[name] = check_real(argument, values)
        # One dtype for Python and NumPy numbers: no second trace.
        with np.errstate(over="ignore"):
            axes[name] = jnp.asarray(values, float)
        if axes[name].ndim != 1 or not axes[name].size:
            raise ValueError(f"{argument} must have shape (values,), at least one, got {axes[name].shape}: {_SWEPT}")
    for rate in concrete.pop("learning_rate", ()):
        check_positive("each of learning_rates", rate)
    if concrete or learning_rates is None:
        _check_options(train, axes, concrete)
    # All combinations in one axis, which devices can share evenly; the results are reshaped at the end.
    shape = tuple(values.size for values in axes.values())
    places = jnp.unravel_index(jnp.arange(math.prod(shape)), shape)
    runs = {name: values[place] for (name, values), place in zip(axes.items(), places, strict=True)}

    def train_one(run: dict[str, jax.Array]) -> tuple[TrainState, History, jax.Array]:
        result = train(**run)
        if not isinstance(result, tuple) or [type(part) for part in result] != [TrainState, History]:
            raise TypeError(f"train must return (state, history), as that of make_train, got {describe(result)}")
        state, history = result
        return state, history, diverged_at(history.loss, state.params)

    results = map_runs(train_one, runs, width=width, mesh=mesh)
    return Sweep(axes, *jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), results))


def _check_options(train: Train, axes: Mapping[str, jax.Array], concrete: Mapping[str, np.ndarray]) -> None:
    """Traces a run with the smallest and the largest value of each option: in the loop no value is concrete."""
    extremes = [{name: extreme(values) for name, values in concrete.items()} for extreme in (np.min, np.max)]
    others = {name: jax.ShapeDtypeStruct((), axis.dtype) for name, axis in axes.items() if name not in concrete}
    # A trace takes 0.2 to 0.5 s; the compilation takes 7.
    for options in extremes if extremes[0] != extremes[1] else extremes[:1]:
        try:
            jax.eval_shape(partial(train, **options), **others)
        except TypeError as error:
            raise TypeError(f"{error}: {_SWEPT}") from error


def map_runs(function: Callable[..., Any], *arguments: Any, width: int = 1, mesh: Mesh | None = None) -> Any:
    """Maps `function` over the leading axis of every leaf of its arguments, as `jax.vmap` does: to be jitted.

    Each device of the mesh takes an equal share of the runs and computes `width` of them at a time.

    Args:
        arguments: pytrees whose leaves all have the same leading axis, one entry for each run.
        width, mesh: as in `sweep`.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    check_callable("function", function)
    width = check_count("width", width, minimum=1)
    # The gather of the mesh would cut or fill up axes of other lengths.
    lengths = {np.shape(leaf)[:1] for leaf in named_arrays("arguments", arguments).values()}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        must = "arguments must be arrays with one length >= 1 of their first axis"
        raise ValueError(f"{must}, got {sorted(lengths) or 'none'}")
    ((num_runs,),) = lengths

    def share(*arguments: Any) -> Any:
        # `lax.map` and not `jax.vmap`: on a CPU, 4 runs under `vmap` take 6 % longer than 4 single runs, and 4.4 times
        # the memory. A batch of one would still go through the batching rules.
        return lax.map(lambda run: function(*run), arguments, batch_size=width if width > 1 else None)

    if mesh is None:
        return share(*arguments)
    if not jax.sharding.get_abstract_mesh().empty:
        raise ValueError("mesh must be None inside jax.set_mesh, which has set one already")
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, as jax.make_mesh makes it, or None, got {describe(mesh)}")
    # `shard_map` requires equal shares: the last run is repeated to fill them.
    places = jnp.minimum(jnp.arange(-(-num_runs // mesh.size) * mesh.size), num_runs - 1)
    # A mesh of any shape becomes one axis of devices.
    row = Mesh(mesh.devices.reshape(-1), ("runs",))
    # No value is the same on all devices, so `shard_map` has no replication to check.
    shared = jax.shard_map(
        share, mesh=row, in_specs=PartitionSpec("runs"), out_specs=PartitionSpec("runs"), check_vma=False
    )
    results = shared(*jax.tree.map(lambda leaf: leaf[places], arguments))
    return jax.tree.map(lambda leaf: leaf[:num_runs], results)
