"""What callers of the library get wrong: a result that tells, or one sentence that names the argument."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segjax

KEY = jax.random.key(0)
SMALL = {"batch_size": 2, "image_size": 8}
TINY = segjax.SegmentationCNN(num_channels=1, kernel_size=1, depth=1)

# float32 -> numbers that no sigma may be.
NO_SIGMA = [0.0, -0.0, -4.0, np.nan, np.inf, -np.inf, 1e-20, 1e-40]


@pytest.mark.parametrize("name", ["sigma", "sigma1", "sigma2"])
@pytest.mark.parametrize("rescaled", [True, False])
def test_a_traced_sigma_that_is_none_makes_the_whole_batch_nan(name, rescaled):
    def generate(value):
        # With so wide a mask, one of the textures is in no pixel of many an image.
        return segjax.generate_data(KEY, **SMALL, **{"sigma": 1e9, name: value}, rescaled=rescaled)

    batches = jax.jit(jax.vmap(generate))(jnp.array([*NO_SIGMA, 2.0]))
    for leaf in batches:
        assert np.isnan(leaf[:-1]).all()
        assert np.isfinite(leaf[-1]).all()


def test_a_traced_sigma_that_is_none_makes_the_kernel_nan():
    kernels = jax.jit(jax.vmap(partial(segjax.gaussian_kernel, 8)))(jnp.array([*NO_SIGMA, 2.0]))
    assert np.isnan(kernels[:-1]).all()
    np.testing.assert_allclose(kernels[-1].sum(), 1, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_traced_sigma_has_the_bounds_of_the_dtype(dtype, x64):
    tiny, noise = float(jnp.finfo(dtype).tiny), np.ones((3, 1, 4, 4), dtype)
    compose = jax.jit(jax.vmap(lambda sigma: segjax.compose_batch(noise, 1.0, 1.0, sigma)))
    image = compose(jnp.array([0.9 * tiny**0.5, 1.1 * tiny**0.5, jnp.finfo(dtype).max, np.nan], dtype)).image
    assert image.dtype == dtype
    assert np.isnan(image).all(axis=(1, 2, 3, 4)).tolist() == [True, False, False, True]


def test_a_sweep_tells_which_sigmas_are_none():
    train = segjax.make_train(TINY, num_steps=2, **SMALL)
    sweep = jax.jit(lambda keys, sigma: segjax.sweep(train, keys, [1e-3], sigma=sigma))
    sigmas = jnp.array([4.0, -4.0, np.nan, 0.0, np.inf])
    assert sweep(jax.random.split(KEY, 1), sigmas).diverged_at[0, 0].tolist() == [0, 1, 1, 1, 1]
