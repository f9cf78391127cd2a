"""Metrics from additive counts: count on each batch, add, divide once at the end.

>>> mask = jnp.array([0.0, 1.0, 1.0])
>>> first, second = count(jnp.array([-3.0, 3.0, 3.0]), mask), count(jnp.array([-3.0, -3.0, 3.0]), mask)
>>> float(iou(jax.tree.map(jnp.add, first, second)))
0.75

The ratios work on counts of any shape. Where a ratio is 0 / 0 it is 1: no pixel was wanted, and none was wrongly
given. So an empty mask that is predicted empty scores IoU 1, and any false positive on it brings that to 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from segjax.checks import check_real, check_same_shape


class Counts(NamedTuple):
    """Numbers of pixels, int32 (exact up to 2^31 pixels, 16,384 batches of the notebook's size)."""

    true_positive: jax.Array
    false_positive: jax.Array
    false_negative: jax.Array
    true_negative: jax.Array
    agreeing: jax.Array


def count(logits: jax.Array, mask: jax.Array) -> Counts:
    """Counts over all pixels of a batch; a pixel is predicted to be in the mask where its probability is above 0.5.

    `agreeing` is the notebook's own count: probabilities below 0.1 snapped to 0 and above 0.9 to 1, then the pixels
    that equal the mask. It counts the pixels that are right *and* sure.
    """
    check_same_shape("logits", logits, "mask", mask)
    probability = jax.nn.sigmoid(logits)
    wanted = mask > 0.5
    given = probability > 0.5
    sure_and_right = jnp.where(wanted, probability > 0.9, probability < 0.1)
    total = [wanted & given, ~wanted & given, wanted & ~given, ~wanted & ~given, sure_and_right]
    return Counts(*(jnp.sum(pixels, dtype=jnp.int32) for pixels in total))


def accuracy(counts: Counts) -> jax.Array:
    """Share of pixels predicted rightly."""
    return _ratio(counts.true_positive + counts.true_negative, _pixels(counts))


def iou(counts: Counts) -> jax.Array:
    """Intersection over union of prediction and mask (Jaccard index): TP / (TP + FP + FN)."""
    return _ratio(counts.true_positive, counts.true_positive + counts.false_positive + counts.false_negative)


def precision(counts: Counts) -> jax.Array:
    """Share of the predicted pixels that are in the mask: TP / (TP + FP)."""
    return _ratio(counts.true_positive, counts.true_positive + counts.false_positive)


def recall(counts: Counts) -> jax.Array:
    """Share of the mask's pixels that were predicted: TP / (TP + FN)."""
    return _ratio(counts.true_positive, counts.true_positive + counts.false_negative)


def f1(counts: Counts) -> jax.Array:
    """Harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN)."""
    twice = 2 * counts.true_positive
    return _ratio(twice, twice + counts.false_positive + counts.false_negative)


def agreement(counts: Counts) -> jax.Array:
    """Share of pixels that are right and sure: what the notebook prints as "precision" and calls IoU; it is neither."""
    return _ratio(counts.agreeing, _pixels(counts))


def running_mean(values: jax.typing.ArrayLike) -> np.ndarray:
    """Mean of the values so far, along the last axis, in float64: the curve that the notebook tracks."""
    values = check_real("values", values)
    if not values.ndim:
        raise ValueError("values must have shape (..., steps), got a single number")
    return np.cumsum(values, axis=-1) / np.arange(1, values.shape[-1] + 1)


def _pixels(counts: Counts) -> jax.Array:
    return counts.true_positive + counts.false_positive + counts.false_negative + counts.true_negative


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    return jnp.where(whole > 0, part / jnp.maximum(whole, 1), 1.0)
