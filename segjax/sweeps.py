"""The axis of runs: one program that trains every seed at every rate, on one device or on many.

Runs know nothing of one another: no device waits for another inside a run, and one that diverges disturbs none.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from segjax.checks import check_callable, check_count, check_real
from segjax.training import History, Train, TrainState


class Sweep(NamedTuple):
    """What a sweep gives. Every leaf but those of `axes` has one leading axis for each of `axes`, in their order.

    Attributes:
        axes: name -> values, (length,): "key", "learning_rate", then the other numbers as they were given.
        states: at the end of each run.
        histories: leaves (..., num_steps).
        diverged_at: int32; the first step, counted from 1, whose loss is not finite, or after which the weights at the
            end are not; 0 for a run that did not diverge.
    """

    axes: OrderedDict[str, jax.Array]
    states: TrainState
    histories: History
    diverged_at: jax.Array


def sweep(
    train: Train,
    keys: jax.Array,
    learning_rates: jax.typing.ArrayLike,
    *,
    batch_size: int = 1,
    mesh: Mesh | None = None,
    **numbers: jax.typing.ArrayLike,
) -> Sweep:
    """Runs `train(key, learning_rate, **numbers)` for every combination, paired by key: to be jitted.

    Memory grows with the runs that are side by side, not with their number: beside the result, nothing is kept of a run
    that has ended. Several devices of a CPU give the bits of one with jax 0.10; with 0.12 a few last digits differ.

    Args:
        train: from `make_train`.
        keys: (seeds,) keys.
        learning_rates: (rates,).
        batch_size: runs side by side on one device. One after the other costs no more than single runs, and on a CPU is
            the fastest; how wide pays on a GPU has not been measured.
        mesh: devices over which the runs are dealt, such as `jax.make_mesh((jax.device_count(),), ("runs",))`; its axes
            may have any names. None for the default device.
        numbers: name -> (length,) values of an option of `generate` that may be traced, such as sigma1.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.

    >>> import jax, segjax
    >>> train = segjax.make_train(segjax.SegmentationCNN(num_channels=2), num_steps=5, image_size=16, sigma=3)
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> result = jax.jit(lambda keys: segjax.sweep(train, keys, [1e-3, 1e-2], sigma1=[0.2, 0.5]))(keys)
    >>> list(result.axes), result.histories.loss.shape
    (['key', 'learning_rate', 'sigma1'], (3, 2, 2, 5))
    """
    check_callable("train", train)
    if not isinstance(keys, jax.Array) or not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.ndim != 1:
        raise ValueError("keys must be typed keys of shape (seeds,), as jax.random.split(jax.random.key(0), n) gives")
    axes = OrderedDict(key=keys)
    for name, given in {"learning_rate": learning_rates, **numbers}.items():
        if not isinstance(given, jax.core.Tracer):
            check_real(name, given)
        axes[name] = jnp.asarray(given, float)
        if axes[name].ndim != 1 or not axes[name].size:
            raise ValueError(f"{name} must have shape (values,), at least one, got {axes[name].shape}")
    shape = tuple(values.size for values in axes.values())
    places = jnp.unravel_index(jnp.arange(math.prod(shape)), shape)
    runs = {name: values[place] for (name, values), place in zip(axes.items(), places, strict=True)}

    def one(run: dict[str, jax.Array]) -> tuple[TrainState, History, jax.Array]:
        state, history = train(**run)
        return state, history, _diverged_at(state, history)

    results = map_runs(one, runs, batch_size=batch_size, mesh=mesh)
    return Sweep(axes, *jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), results))


def map_runs(function: Callable[..., Any], *arguments: Any, batch_size: int = 1, mesh: Mesh | None = None) -> Any:
    """`function` over the leading axis of every leaf of its arguments, as `jax.vmap` would: to be jitted.

    Each device of the mesh takes an equal share, the last run being repeated where they do not come out even, and goes
    through it `batch_size` at a time; both are as in `sweep`.
    """
    batch_size = check_count("batch_size", batch_size, minimum=1)

    def share(*arguments: Any) -> Any:
        # A batch of one would go through the batching rules all the same.
        return lax.map(lambda run: function(*run), arguments, batch_size=batch_size if batch_size > 1 else None)

    if mesh is None:
        return share(*arguments)
    num_runs = len(jax.tree.leaves(arguments)[0])
    places = jnp.minimum(jnp.arange(-(-num_runs // mesh.size) * mesh.size), num_runs - 1)
    # One axis of devices, whose sharding the compiler propagates, whatever kind of mesh was given.
    line = Mesh(mesh.devices.reshape(-1), ("runs",))
    # Nothing is shared between runs, so there is no replication for shard_map to check.
    dealt = jax.shard_map(
        share, mesh=line, in_specs=PartitionSpec("runs"), out_specs=PartitionSpec("runs"), check_vma=False
    )
    results = dealt(*jax.tree.map(lambda leaf: leaf[places], arguments))
    return jax.tree.map(lambda leaf: leaf[:num_runs], results)


def _diverged_at(state: TrainState, history: History) -> jax.Array:
    num_steps = history.loss.shape[-1]
    lost = ~jnp.isfinite(history.loss)
    # A loss is that before its step's update: the last update shows in the weights alone.
    broken = ~jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state.params)]))
    last = jnp.where(broken, num_steps, 0)
    return jnp.where(lost.any(), jnp.argmax(lost) + 1, last).astype(jnp.int32)
