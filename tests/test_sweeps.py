import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segjax

MODEL = segjax.SegmentationCNN(num_channels=2, kernel_size=3)
# Plain SGD: Adam's first step is the sign of the gradient, in which a last digit can be worth a whole step.
TRAIN = segjax.make_train(
    MODEL, optimizer=segjax.OPTIMIZERS["sgd"], num_steps=3, batch_size=2, image_size=16, sigma=4.0
)
KEYS = jax.random.split(jax.random.key(0), 2)
RATES = [1e-3, 1e-2, 1e-1]


@pytest.mark.parametrize("batch_size", [None, 4])
def test_every_seed_at_every_rate(batch_size):
    states, histories = jax.jit(lambda keys: segjax.sweep(TRAIN, keys, RATES, batch_size))(KEYS)
    chex.assert_tree_shape_prefix((states, histories), (2, 3))
    single = jax.jit(TRAIN)
    for seed, key in enumerate(KEYS):
        for index, rate in enumerate(RATES):
            # The width of the batch changes the rounding.
            np.testing.assert_allclose(histories.loss[seed, index], single(key, rate)[1].loss, rtol=1e-4)


@pytest.mark.parametrize("keys", [jax.random.key(0), jnp.zeros((2, 2), jnp.uint32)])
def test_refuses_other_keys(keys):
    with pytest.raises(ValueError, match=r"keys must be typed keys of shape \(seeds,\)"):
        segjax.sweep(TRAIN, keys, RATES)


@pytest.mark.parametrize("rates", [1e-3, [], [[1e-3]]])
def test_refuses_other_rates(rates):
    with pytest.raises(ValueError, match=r"learning_rates must have shape \(rates,\)"):
        segjax.sweep(TRAIN, KEYS, rates)
