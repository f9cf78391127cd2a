from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import to_nhwc
from hypothesis import given
from hypothesis import strategies as st

from segjax import metrics

RATIOS = [metrics.accuracy, metrics.iou, metrics.precision, metrics.recall, metrics.f1, metrics.agreement]


def counts(tp=0, fp=0, fn=0, tn=0, agreeing=0):
    return metrics.Counts(*(jnp.int32(value) for value in (tp, fp, fn, tn, agreeing)))


def test_counts_match_pytorch(golden_model):
    probability = to_nhwc(golden_model["train/output"]).astype(np.float64)
    logits = jnp.asarray(np.log(probability) - np.log1p(-probability), jnp.float32)
    counted = metrics.count(logits, to_nhwc(golden_model["mask"]))
    assert [int(value) for value in counted[:4]] == golden_model["counts"].tolist()
    assert float(metrics.agreement(counted)) == pytest.approx(float(golden_model["train/agreement"]))


def test_closed_forms():
    result = counts(tp=3, fp=1, fn=2, tn=4, agreeing=5)
    expected = [7 / 10, 3 / 6, 3 / 4, 3 / 5, 6 / 9, 5 / 10]
    np.testing.assert_allclose([ratio(result) for ratio in RATIOS], expected, rtol=1e-6)


MOST = 2**31 - 1


@pytest.mark.parametrize(
    "numbers",
    [
        (MOST, 0, 0, 0, MOST),
        (MOST - 1, 1, 0, 0, MOST),
        (MOST // 3, MOST // 3, MOST // 3, 0, 1),
        (1_200_000_000, 7, 300_000_000, 600_000_000, 5),
        (1, MOST - 1, 0, 0, 0),
        (1, 0, MOST - 1, 0, 0),
        (1, 0, 0, MOST - 1, 0),
    ],
)
def test_ratios_of_as_many_pixels_as_counts_can_hold(numbers):
    tp, fp, fn, tn, agreeing = numbers
    whole = tp + fp + fn + tn
    expected = [(tp + tn) / whole, tp / (tp + fp + fn), tp / (tp + fp), tp / (tp + fn), 2 * tp / (2 * tp + fp + fn)]
    for ratio, value in zip(RATIOS, [*expected, agreeing / whole], strict=True):
        for function in (ratio, jax.jit(ratio)):
            assert float(function(counts(*numbers))) == pytest.approx(value, rel=2e-7)


def test_counts_of_more_pixels_than_they_can_hold_are_refused():
    def shaped(*shape):
        return jax.eval_shape(metrics.count, *[jax.ShapeDtypeStruct(shape, jnp.float32)] * 2)

    assert shaped(MOST).true_positive.shape == ()
    with pytest.raises(ValueError, match=r"mask must be at most 2\^31 - 1 pixels, got 2147483648"):
        shaped(2, 2**15, 2**15, 1)


def test_ratios_of_mean_counts_below_one_pixel():
    result = metrics.Counts(*jnp.array([0.25, 0.125, 0.125, 0.5, 0.5]))
    assert float(metrics.iou(result)) == 0.5
    assert float(metrics.precision(result)) == float(metrics.f1(result)) == pytest.approx(2 / 3)


def test_agreement_counts_the_sure_and_right_alone():
    logits = jnp.array([5.0, -5.0, 1.0, -1.0, 5.0, -5.0])
    mask = jnp.array([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    counted = metrics.count(logits, mask)
    assert float(metrics.agreement(counted)) == pytest.approx(2 / 6)
    assert float(metrics.accuracy(counted)) == pytest.approx(4 / 6)


@given(*[st.lists(st.integers(0, 10**6), min_size=5, max_size=5)] * 2)
def test_a_ratio_of_added_counts_lies_between_those_of_the_parts(first, second):
    a, b = metrics.Counts(*jnp.int32(first)), metrics.Counts(*jnp.int32(second))
    total = jax.tree.map(jnp.add, a, b)
    for ratio in RATIOS:
        low, high = sorted([float(ratio(a)), float(ratio(b))])
        assert low - 1e-5 <= float(ratio(total)) <= high + 1e-5
    iou, f1 = float(metrics.iou(total)), float(metrics.f1(total))
    assert f1 == pytest.approx(2 * iou / (1 + iou), abs=1e-5)


def test_counts_of_a_split_batch_add_to_those_of_the_whole():
    logits, other = np.random.default_rng(0).normal(size=(2, 4, 8, 8, 1)).astype(np.float32)
    mask = (other > 0).astype(np.float32)
    parts, whole = jax.jit(jax.vmap(metrics.count))(logits, mask), metrics.count(logits, mask)
    chex.assert_trees_all_equal(jax.tree.map(partial(np.sum, axis=0), parts), whole)
    assert sum(int(value) for value in whole[:4]) == mask.size


@pytest.mark.parametrize("ratio", RATIOS)
def test_an_empty_mask_that_is_predicted_empty_is_perfect(ratio):
    assert float(ratio(counts(tn=9, agreeing=9))) == 1
    assert float(ratio(counts())) == 1


def test_a_false_positive_on_an_empty_mask():
    result = counts(fp=1, tn=8)
    assert float(metrics.iou(result)) == float(metrics.f1(result)) == float(metrics.precision(result)) == 0
    assert float(metrics.recall(result)) == 1


def test_running_mean():
    np.testing.assert_allclose(metrics.running_mean([[3.0, 1.0, 2.0]]), [[3.0, 2.0, 2.0]])


@pytest.mark.parametrize(("steps", "last"), [(1, 1), (9, 1), (10, 1), (25, 2), (100, 10)])
def test_last_tenth(steps, last):
    values = np.arange(2.0 * steps).reshape(2, steps)
    for array in (values, jnp.asarray(values)):
        np.testing.assert_array_equal(metrics.last_tenth(array), values[:, steps - last :])


# loss, diverged at
RUNS = {
    "falls": ([1.0] * 10 + [0.1] * 10, 0),
    "stays": ([1.0] * 20, 0),
    "just not": ([1.0] * 18 + [1.0, 1.39], 0),
    "rises": ([1.0] * 18 + [1.0, 1.41], 20),
    "rises and comes back": ([1.0] + [9.0] * 17 + [1.0, 1.0], 0),
    "NaN": ([1.0, 1.0, np.nan, 0.5], 3),
    "inf first": ([np.inf, 1.0], 1),
    "-inf last": ([1.0, 1.0, -np.inf], 3),
    "one step": ([1.0], 0),
    "one bad step": ([np.nan], 1),
}


# Operation by operation, each is compiled for itself.
@pytest.mark.parametrize(
    "function", [jax.jit(metrics.diverged_at), pytest.param(metrics.diverged_at, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", list(RUNS))
def test_diverged_at(name, function):
    loss, expected = RUNS[name]
    step = function(np.array(loss, np.float32))
    assert (step.dtype, step.shape, int(step)) == (jnp.int32, (), expected)


def test_diverged_at_under_vmap():
    losses = np.ones((4, 20), np.float32)
    losses[1, 7:], losses[2, -2:] = np.nan, 1.3
    params = {"w": jnp.zeros((4, 3)).at[3, 1].set(jnp.inf), "count": jnp.zeros(4, int)}
    steps = jax.jit(jax.vmap(metrics.diverged_at))(losses, params)
    np.testing.assert_array_equal(steps, [0, 8, 20, 20])


@pytest.mark.slow
def test_broken_weights_diverged_at_the_last_step():
    broken = {"kernel": jnp.ones(3), "bias": jnp.array([0.0, jnp.nan])}
    assert int(metrics.diverged_at(jnp.ones(1), broken)) == 1
    assert int(metrics.diverged_at(jnp.ones(6), broken)) == 6
    assert int(metrics.diverged_at(jnp.array([1.0, jnp.inf, 1.0]), broken)) == 2
    assert int(metrics.diverged_at(jnp.ones(6), {"kernel": jnp.ones(3)})) == 0


@pytest.mark.parametrize("loss", [np.float32(1), np.zeros(0), np.zeros((2, 3))])
def test_refuses_losses_of_another_shape(loss):
    with pytest.raises(ValueError, match=r"loss must have shape \(steps,\), at least one step"):
        metrics.diverged_at(loss)


@pytest.mark.parametrize("values", [np.float32(1), np.zeros((3, 0))])
def test_last_tenth_refuses_no_steps(values):
    with pytest.raises(ValueError, match=r"values must have shape \(..., steps\), at least one step"):
        metrics.last_tenth(values)


def test_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match="logits must have the shape of mask"):
        metrics.count(jnp.zeros((2, 4, 4)), jnp.zeros((2, 4, 4, 1)))


def test_a_nan_is_wrong():
    """By logit and mask: a NaN, then the four that are none."""
    logits = np.float32([np.nan, np.nan, np.nan, 3, -3, 3, 3, -3, -3])
    mask = np.float32([0, 1, np.nan, np.nan, np.nan, 0, 1, 0, 1])
    expected = {"true_positive": 1, "false_positive": 5, "false_negative": 2, "true_negative": 1, "agreeing": 2}
    for function in (metrics.count, jax.jit(metrics.count)):
        assert {name: int(value) for name, value in function(logits, mask)._asdict().items()} == expected
    each = metrics.count_each(logits[:5, None], mask[:5, None])
    for score in (metrics.accuracy, metrics.iou, metrics.agreement, metrics.f1):
        assert score(each).tolist() == [0] * 5


def test_each_image_alone():
    """One image is right and one is half right: IoU 1 and 1/2; of both together it is 2/3."""
    mask = jnp.array([[1.0, 0.0], [1.0, 1.0]])
    logits = jnp.array([[3.0, -3.0], [3.0, -3.0]])
    np.testing.assert_allclose(metrics.iou(metrics.count_each(logits, mask)), [1, 0.5])
    assert float(metrics.iou(metrics.count(logits, mask))) == pytest.approx(2 / 3)
    counts_each = np.array(metrics.count_each(logits, mask))
    for index in range(2):
        single = metrics.count(logits[index : index + 1], mask[index : index + 1])
        np.testing.assert_array_equal(counts_each[:, index], single)
    with pytest.raises(ValueError, match="mask must have shape"):
        metrics.count_each(jnp.array(1.0), jnp.array(1.0))
