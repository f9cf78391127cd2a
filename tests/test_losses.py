from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import to_nhwc
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import segjax
from segjax import losses

ALL = [losses.mean_squared_error, losses.binary_cross_entropy, losses.dice]
MASK = jnp.array([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]).reshape(2, 2, 2, 1)


@pytest.mark.parametrize(("loss", "name"), [(losses.mean_squared_error, "mse"), (losses.binary_cross_entropy, "bce")])
def test_matches_pytorch(loss, name, golden_model):
    probability = to_nhwc(golden_model["train/output"]).astype(np.float64)
    logits = np.log(probability) - np.log1p(-probability)
    value = loss(jnp.asarray(logits, jnp.float32), to_nhwc(golden_model["mask"])).mean()
    assert float(value) == pytest.approx(float(golden_model[f"loss/{name}"]), rel=1e-5)


@pytest.mark.parametrize("loss", ALL)
def test_one_number_for_each_example(loss):
    logits = np.random.default_rng(0).normal(size=MASK.shape).astype(np.float32)
    values = loss(logits, MASK)
    chex.assert_shape(values, (2,))
    for index in range(2):
        np.testing.assert_allclose(
            values[index], loss(logits[index : index + 1], MASK[index : index + 1])[0], rtol=1e-6
        )


def test_closed_forms_at_probability_one_half():
    logits = jnp.zeros_like(MASK)
    np.testing.assert_allclose(losses.mean_squared_error(logits, MASK), 0.25)
    np.testing.assert_allclose(losses.binary_cross_entropy(logits, MASK), np.log(2), rtol=1e-6)
    # 1 - (2 * 1.5 + 1) / (3 + 2 + 1) and 1 - 1 / (0 + 2 + 1)
    np.testing.assert_allclose(losses.dice(logits, MASK), [1 / 3, 2 / 3], rtol=1e-6)


@pytest.mark.parametrize("loss", ALL)
def test_a_perfect_prediction_costs_nothing(loss):
    np.testing.assert_allclose(loss(200 * (2 * MASK - 1), MASK), 0, atol=1e-6)


@cache
def value_and_gradient(loss):
    return jax.jit(jax.value_and_grad(lambda logits: loss(logits, MASK).sum()))


@pytest.mark.parametrize("loss", ALL)
@given(logits=hnp.arrays(np.float32, (2, 2, 2, 1), elements=st.floats(-1e4, 1e4, width=32)))
def test_finite_with_finite_gradients_at_any_logit(loss, logits):
    value, gradient = value_and_gradient(loss)(logits)
    chex.assert_tree_all_finite((value, gradient))
    assert value >= -1e-6


@pytest.mark.usefixtures("mixed_dtypes")
@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("kind", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("kind_of_mask", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.int32])
def test_half_precision_counts_all_pixels(loss, kind, kind_of_mask):
    """float16 has no number above 65,504."""
    mask = jnp.ones((1, 300, 300, 1)).at[:, :20].set(0)
    value = loss(jnp.full_like(mask, 2, kind), mask.astype(kind_of_mask))
    np.testing.assert_allclose(value.astype(float), loss(jnp.full_like(mask, 2), mask), atol=5e-3)
    if kind_of_mask in (kind, jnp.int32):
        assert value.dtype == kind


@pytest.mark.parametrize("loss", ALL)
def test_refuses_shapes_that_would_broadcast(loss):
    with pytest.raises(ValueError, match="logits must have the shape of mask"):
        loss(MASK[..., 0], MASK)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ALL[1:])
def test_other_losses_train(loss):
    key, model = jax.random.key(0), segjax.SegmentationCNN(num_channels=4, kernel_size=3)
    batch = segjax.generate_data(key, batch_size=2, image_size=16, sigma=4.0)
    _, history = segjax.make_fit(model, loss=loss, num_steps=100, generate=lambda key: batch)(key, 1e-2)
    assert history.loss[-1] < 0.8 * history.loss[0]
