"""Metrics from additive counts: count on each batch, add, divide once at the end.

>>> mask = jnp.array([0.0, 1.0, 1.0])
>>> first, second = count(jnp.array([-3.0, 3.0, 3.0]), mask), count(jnp.array([-3.0, -3.0, 3.0]), mask)
>>> float(iou(jax.tree.map(jnp.add, first, second)))
0.75

The ratios take counts of any shape, one for all fields, and raise TypeError for anything but `Counts`. A ratio of 0 / 0
is 1. So IoU and F1 are 1 if mask and prediction are both empty, and 0 after one false positive on an empty mask.
Precision is 1 for an empty prediction and any mask, recall is 1 for an empty mask and any prediction.

`last_tenth` and `diverged_at` take the losses of a run: its final loss, and whether it diverged.
"""

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from segjax._checks import check_array, check_counts, check_logits, check_pixels, check_real, check_shape

Array = TypeVar("Array", jax.Array, np.ndarray)
# The batch-to-batch noise of an untrained network's loss is a few percent, so +20 % is not noise.
_WORSE = 1.2


class Counts(NamedTuple):
    """Numbers of pixels, int32: exact up to 2^31 - 1 pixels in all, 16,383 batches of the notebook's size.

    `segjax.metrics.count` and `segjax.evaluate` refuse more; callers that add counts must not exceed it.
    """

    # Sums of integers are exact; float32 would lose single pixels above 2^24, 128 batches.
    true_positive: jax.Array
    false_positive: jax.Array
    false_negative: jax.Array
    true_negative: jax.Array
    agreeing: jax.Array


def count(logits: jax.Array, mask: jax.Array) -> Counts:
    """Counts over all pixels of a batch; the prediction is the set of pixels whose probability is above 0.5.

    `agreeing` is the notebook's count of confidently correct pixels: a probability above 0.9 in the mask, or below 0.1
    outside it. A pixel whose logit is NaN is wrong, a false positive or a false negative; one whose mask is NaN is a
    false positive. So the scores of a network of NaN, or of images of NaN, are 0.

    Args:
        logits, mask: of one shape, (batch, ...); the mask is 0 or 1, which is not checked: above 0.5 counts as 1.

    Raises:
        TypeError, ValueError: if they are not arrays of one shape, or have more than 2^31 - 1 pixels.
    """
    check_logits(logits, mask)
    check_pixels("mask", mask.size)
    # No thresholds on the logit: the notebook's 0.1 and 0.9 are thresholds on the probability, in float32.
    probability = probability_of(logits)
    # No `~true` and `~predicted`: a comparison with NaN is false, and a pixel of NaN would be a true negative.
    true, false = mask > 0.5, mask <= 0.5
    predicted, rejected = probability > 0.5, probability <= 0.5
    agreeing = (true & (probability > 0.9)) | (false & (probability < 0.1))
    # int32 also if x64 is enabled, so that histories have one layout with and without it.
    kinds = jnp.stack([true & predicted, ~true & ~(false & rejected), true & ~predicted, false & rejected, agreeing])
    # One sum is two launches on a GPU; five sums would be seven.
    return Counts(*jnp.sum(kinds.reshape(len(kinds), -1), axis=1, dtype=jnp.int32))


def count_each(logits: jax.Array, mask: jax.Array) -> Counts:
    """Counts of each image, leaves (batch,): `iou` of them is one IoU per image.

    Args:
        logits, mask: of one shape, (batch, ...).

    Raises:
        TypeError, ValueError: if they are not arrays of one shape.
    """
    check_logits(logits, mask)
    return jax.vmap(lambda logits, mask: count(logits[jnp.newaxis], mask[jnp.newaxis]))(logits, mask)


def accuracy(counts: Counts) -> jax.Array:
    """Share of the pixels that are predicted correctly."""
    check_counts(counts, Counts)
    return ratio(counts.true_positive + counts.true_negative, _pixels(counts))


def iou(counts: Counts) -> jax.Array:
    """Intersection over union of prediction and mask (Jaccard index): TP / (TP + FP + FN)."""
    check_counts(counts, Counts)
    # Without true negatives: an empty prediction has IoU 0, while its accuracy is the share of the background.
    return ratio(counts.true_positive, counts.true_positive + counts.false_positive + counts.false_negative)


def precision(counts: Counts) -> jax.Array:
    """Share of the prediction that is in the mask: TP / (TP + FP)."""
    check_counts(counts, Counts)
    return ratio(counts.true_positive, counts.true_positive + counts.false_positive)


def recall(counts: Counts) -> jax.Array:
    """Share of the mask that is predicted: TP / (TP + FN)."""
    check_counts(counts, Counts)
    return ratio(counts.true_positive, counts.true_positive + counts.false_negative)


def f1(counts: Counts) -> jax.Array:
    """Harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN)."""
    check_counts(counts, Counts)
    # 2 TP can be twice the largest int32, which is still below the largest uint32.
    counts = jax.tree.map(_unsigned, counts)
    doubled = 2 * counts.true_positive
    return ratio(doubled, doubled + counts.false_positive + counts.false_negative)


def agreement(counts: Counts) -> jax.Array:
    """Share of the confidently correct pixels; the notebook prints it as "precision" and calls it IoU."""
    check_counts(counts, Counts)
    return ratio(counts.agreeing, _pixels(counts))


def running_mean(values: jax.typing.ArrayLike) -> np.ndarray:
    """Running mean over steps, (..., steps) float64: the curve in the notebook's figures.

    Raises:
        TypeError, ValueError: if `values` are not real numbers of shape (..., steps).
    """
    values = check_real("values", values, "(..., steps)")
    steps = np.arange(1, values.shape[-1] + 1)
    # In float32, a sum over the notebook's 10,000 batches would lose up to three digits.
    with np.errstate(over="ignore", invalid="ignore"):
        means = np.cumsum(values, axis=-1) / steps
        # A sum of finite values may overflow.
        return np.where(np.isfinite(means), means, np.cumsum(values * 2.0**-64, axis=-1) / steps * 2.0**64)


def last_tenth(values: Array) -> Array:
    """The last tenth of the steps, at least one; the mean of the losses there is the final loss of a run.

    Args:
        values: (..., steps), at least one step, NumPy or traced.

    Raises:
        TypeError, ValueError: if `values` is not such an array.
    """
    check_shape("values", check_array("values", values).shape, "(..., steps), at least one step")
    return values[..., -max(1, values.shape[-1] // 10) :]


def diverged_at(loss: jax.Array | np.ndarray, params: Any = None) -> jax.Array:
    """The step at which a run diverged, counted from 1, or 0 for a run that did not: int32, also inside `jit`.

    This is the only definition of divergence in the project. A run has diverged if

    - a loss is not finite: at the first such step; or else
    - a parameter after the run is not finite: at the last step; or
    - the mean loss over the last tenth of the steps exceeds 1.2 times the first loss: at the last step.

    The third rule needs a loss >= 0 and does not apply to a run of one step.

    Args:
        loss: (steps,), of one run; `jax.vmap` maps over several. Unless x64 is enabled, JAX converts float64 to
            float32, in which 1e39 is infinite.
        params: the parameters after the run, a pytree; with None, the second rule does not apply.

    Raises:
        TypeError, ValueError: if `loss` is not such an array.
    """
    # The same code for NumPy and JAX, so that the host and a compiled sweep have the same result.
    loss = jnp.asarray(check_array("loss", loss))
    if jnp.iscomplexobj(loss):
        raise TypeError(f"loss must be of real numbers, got {loss.dtype}")
    check_shape("loss", loss.shape, "(steps,), at least one step")
    num_steps = loss.size
    not_finite = ~jnp.isfinite(loss)
    # The loss of a step is computed before its update, so the last update is visible only in the parameters.
    finite = [jnp.all(jnp.isfinite(check_array("params", leaf))) for leaf in jax.tree.leaves(params)]
    failed = ~jnp.all(jnp.array(finite, bool))
    # In a run of one step, the last tenth is the first loss.
    if num_steps > 1:
        failed |= jnp.mean(last_tenth(loss)) > _WORSE * loss[0]
    return jnp.where(not_finite.any(), jnp.argmax(not_finite) + 1, jnp.where(failed, num_steps, 0)).astype(jnp.int32)


def _pixels(counts: Counts) -> jax.Array:
    return counts.true_positive + counts.false_positive + counts.false_negative + counts.true_negative


def _unsigned(counts: jax.Array) -> jax.Array:
    # Means of counts are floating, and are not changed.
    return jnp.asarray(counts, jnp.uint32) if jnp.result_type(counts) == jnp.int32 else counts


def probability_of(logits: jax.Array) -> jax.Array:
    """The sigmoid of logits, in at least float32: in bfloat16, that of 0.005 is 0.5."""
    # With NumPy, since jax refuses float64 and float32 under strict promotion.
    return jax.nn.sigmoid(logits.astype(np.promote_types(logits.dtype, np.float32)))


def ratio(part: jax.Array, whole: jax.Array, empty: float = 1.0) -> jax.Array:
    """`part / whole`, and `empty` where the whole is 0."""
    # The inner `where` avoids computing 0 / 0, which would be an error under `jax_debug_nans`.
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), empty)
