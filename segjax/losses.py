"""Losses on logits: (logits, mask) -> one number for each example; the caller averages.

`logits` and `mask` have one shape, (batch, ...); the mask is 0 or 1, which is not checked. The losses are
differentiable with respect to the logits. They raise ValueError for different shapes, and TypeError for anything but
arrays.
"""

from collections.abc import Callable
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import optax

from segjax._checks import check_logits

# (logits, mask), each (batch, ...) -> (batch,).
Loss = Callable[[jax.Array, jax.Array], jax.Array]


def mean_squared_error(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over pixels of (sigmoid(logits) - mask)^2: the loss of every run in the notebook. Shape (batch,)."""
    check_logits(logits, mask)
    return _pixel_mean((jax.nn.sigmoid(logits) - mask) ** 2)


def binary_cross_entropy(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over pixels of the cross entropy, in nats. Shape (batch,).

    `torch.nn.BCELoss` is a mean too; the notebook's formula is a sum over pixels.
    """
    check_logits(logits, mask)
    # Exact, since it takes logits; BCELoss takes probabilities and clips the logarithm at -100.
    return _pixel_mean(optax.sigmoid_binary_cross_entropy(logits, mask))


def dice(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """1 - (2 sum(w p) + 1) / (sum(w) + sum(p) + 1), with w the mask and p the probability. Shape (batch,).

    The sums run over the pixels of an example, as in Dice's coefficient; the notebook's formula has a pixel index.
    """
    check_logits(logits, mask)
    # One ratio for each example and not for the batch: images with small and large masks have the same weight.
    probability = jax.nn.sigmoid(logits)
    overlap = mask * probability
    # Because of the ones the loss is 0, not 0 / 0, if mask and prediction are both empty.
    loss = 1 - (2 * _pixel_sum(overlap) + 1) / (_pixel_sum(mask) + _pixel_sum(probability) + 1)
    return loss.astype(overlap.dtype)


# name -> loss, by the names of the commands.
LOSSES = MappingProxyType({"mse": mean_squared_error, "bce": binary_cross_entropy, "dice": dice})


def _pixel_sum(values: jax.Array) -> jax.Array:
    # At least float32, as in `jnp.mean`: float16 ends at 65,504, an image of 256 x 256 pixels. With NumPy, since jax
    # refuses float64 and float32 under strict promotion.
    dtype = np.promote_types(values.dtype, np.float32) if jnp.issubdtype(values.dtype, jnp.floating) else None
    return jnp.sum(values, axis=tuple(range(1, values.ndim)), dtype=dtype)


def _pixel_mean(values: jax.Array) -> jax.Array:
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))
