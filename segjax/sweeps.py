"""The axis of runs: one program that trains every seed at every rate."""

import jax
import jax.numpy as jnp
from jax import lax

from segjax.training import History, Train, TrainState


def sweep(
    train: Train, keys: jax.Array, learning_rates: jax.typing.ArrayLike, batch_size: int | None = None
) -> tuple[TrainState, History]:
    """Runs `train(key, learning_rate)` for every pair, paired by key: to be jitted.

    Runs go one after the other by default, at the cost of single runs, and memory does not grow with their number.
    A plain `jax.vmap(train)` is as right; it holds all runs at once, which pays on a GPU.

    Args:
        train: from `make_train`.
        keys: (seeds,) keys.
        learning_rates: (rates,).
        batch_size: runs side by side under `vmap`; None for one after the other.

    Returns:
        States and histories whose leaves have the leading axes (seeds, rates).

    >>> import jax, segjax
    >>> train = segjax.make_train(segjax.SegmentationCNN(num_channels=2), num_steps=5, image_size=16, sigma=3)
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> states, histories = jax.jit(lambda keys: segjax.sweep(train, keys, [1e-3, 1e-2]))(keys)
    >>> histories.loss.shape
    (3, 2, 5)
    """
    rates = jnp.asarray(learning_rates, float)
    if jnp.shape(keys) == () or not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.ndim != 1:
        raise ValueError("keys must be typed keys of shape (seeds,), as jax.random.split(jax.random.key(0), n) gives")
    if rates.ndim != 1 or not rates.size:
        raise ValueError(f"learning_rates must have shape (rates,), got {rates.shape}")
    runs = (jnp.repeat(keys, rates.size), jnp.tile(rates, keys.size))
    result = lax.map(lambda run: train(*run), runs, batch_size=batch_size)
    return jax.tree.map(lambda leaf: leaf.reshape(keys.size, rates.size, *leaf.shape[1:]), result)
