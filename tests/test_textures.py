from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load, under
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import segjax

KEY = jax.random.key(0)
SMALL = {"batch_size": 2, "image_size": 16, "sigma": 4.0}
SIGMAS = ("sigma1", "sigma2", "sigma")
# One program for each size: operation by operation, every one of them would be compiled.
draw = jax.jit(segjax.generate_data, static_argnames=("batch_size", "image_size"))
compose = jax.jit(segjax.compose_batch)
kernel_of = jax.jit(segjax.gaussian_kernel, static_argnums=0)


@pytest.mark.parametrize("case", [0, 1, *(pytest.param(case, marks=pytest.mark.slow) for case in (2, 3, 4))])
def test_matches_pytorch(case):
    golden = under(load("generator"), f"{case}/")
    _, _, sigma1, sigma2, sigma = golden["params"]
    batch = compose(golden["noise"][:, :, 0], sigma1, sigma2, sigma)
    np.testing.assert_allclose(batch.image[..., 0], golden["image"][:, 0], rtol=0, atol=1e-5)
    assert np.mean(batch.mask[..., 0] != golden["mask"][:, 0]) <= 1e-4


@pytest.mark.parametrize("case", range(5))
def test_kernel_matches_pytorch(case):
    golden = under(load("generator"), f"{case}/")
    size = int(golden["params"][0])
    for sigma, kernel in under(golden, "gaussian/").items():
        centre = slice(None) if size <= 64 else slice(size // 2 - 4, size // 2 + 4)
        ours = np.asarray(kernel_of(size, float(sigma)))[centre, centre]
        np.testing.assert_allclose(ours, kernel, rtol=1e-4, atol=1e-6 * kernel.max())


@pytest.mark.parametrize("size", [16, 17, *(pytest.param(size, marks=pytest.mark.slow) for size in (2, 3))])
def test_blur_is_the_dense_convolution_in_float64(size, x64):
    noise = np.random.default_rng(0).normal(size=(3, 2, size, size))
    left = (size - 1) // 2

    def dense(fields, sigma):
        kernel = segjax.gaussian_kernel(size, sigma)[:, :, None, None]
        padding = [(left, size - 1 - left)] * 2
        dimensions = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(fields[..., None], kernel, (1, 1), padding, dimension_numbers=dimensions)

    @jax.jit
    def expected(noise):
        mask = dense(noise[0], 3.0) > 0
        return dense(jnp.where(mask, dense(noise[1], 0.7), dense(noise[2], 1.5))[..., 0], 1.0), mask

    image, mask = expected(noise)
    image -= np.min(image, axis=(1, 2), keepdims=True)
    image /= np.max(image, axis=(1, 2), keepdims=True)
    batch = compose(noise, 0.7, 1.5, 3.0)
    chex.assert_trees_all_close(batch, segjax.Batch(image, np.float64(mask)), rtol=0, atol=1e-12)


@given(
    size=st.sampled_from([16, 17, 2, 3]),
    sigmas=st.tuples(*[st.floats(-3, 3).map(lambda power: 10**power)] * 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_images_and_masks_keep_their_range(size, sigmas, seed):
    batch = draw(jax.random.key(seed), 2, size, *sigmas)
    chex.assert_shape(batch, (2, size, size, 1))
    chex.assert_tree_all_finite(batch)
    assert np.min(batch.image) >= 0
    assert np.max(batch.image) <= 1
    assert set(np.unique(batch.mask)) <= {0.0, 1.0}


@pytest.mark.parametrize("size", [2, 3, 17, 128])
@pytest.mark.parametrize("sigma", [1e-3, 0.03, 1e3])
def test_finite_where_the_notebook_is_nan(size, sigma):
    chex.assert_tree_all_finite(draw(KEY, 2, size, sigma, sigma, sigma))
    assert np.sum(kernel_of(size, sigma)) == pytest.approx(1, abs=1e-5)


def test_the_notebook_defaults():
    batch = jax.eval_shape(segjax.generate_data, KEY)
    assert batch.image.shape == batch.mask.shape == (8, 128, 128, 1)


def test_a_constant_image_is_zero():
    batch = compose(np.zeros((3, 1, 8, 8), np.float32), 1.0, 1.0, 1.0)
    np.testing.assert_array_equal(batch.image, 0)


def test_pure_function_of_the_key():
    first = draw(KEY, **SMALL)
    other = draw(jax.random.key(1), **SMALL)
    assert np.any(first.image != other.image)
    chex.assert_trees_all_equal(first, draw(KEY, **SMALL))


def test_noise_is_drawn_by_its_shape():
    sizes = {"sigma1": 0.2, "sigma2": 1.2, "sigma": 4.0}
    noise = jax.random.normal(jax.random.key(3), (3, 2, 17, 17))
    expected = jax.jit(segjax.compose_batch)(noise, **sizes)
    batch = jax.jit(lambda key: segjax.generate_data(key, batch_size=2, image_size=17, **sizes))(jax.random.key(3))
    chex.assert_trees_all_close(batch, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_jit_changes_nothing():
    chex.assert_trees_all_close(draw(KEY, **SMALL), segjax.generate_data(KEY, **SMALL), atol=1e-6)


def test_vmap_over_keys_and_sigmas():
    keys, sigma1 = jax.random.split(KEY, 3), jnp.array([0.2, 1.0, 5.0])
    batches = jax.jit(jax.vmap(partial(segjax.generate_data, **SMALL)))(keys, sigma1=sigma1)
    for index in range(3):
        single = draw(keys[index], sigma1=sigma1[index], **SMALL)
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=index: leaf[i], batches), single, atol=1e-6)


def test_same_noise_whatever_the_sigmas():
    masks = [draw(KEY, sigma1=sigma1, **SMALL).mask for sigma1 in (0.2, 5.0)]
    np.testing.assert_array_equal(*masks)


def test_sigmas_are_arguments_of_one_program():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def generate(*sigmas):
        return segjax.generate_data(KEY, 2, 16, *sigmas)

    generate(0.2, 1.2, 4.0)
    generate(0.5, 2.5, 8.0)


def test_dtype_follows_the_noise(x64):
    assert jax.eval_shape(partial(segjax.generate_data, **SMALL), KEY).image.dtype == jnp.float64
    batch = compose(np.ones((3, 1, 4, 4), np.float32), 1.0, 1.0, 1.0)
    chex.assert_tree_all_finite(batch)
    assert batch.image.dtype == jnp.float32


# A compiled program squares the sigma. Each operation that is not part of one is compiled for itself.
WAYS = [
    *((size, compose) for size in (2, 16, 17)),
    *(pytest.param(size, segjax.compose_batch, marks=pytest.mark.slow) for size in (2, 16, 17)),
]


@pytest.mark.parametrize(("size", "function"), WAYS)
@pytest.mark.parametrize("sigma", [2.0**-63, 1e-9, 1e18, 1e30, 3e38])
def test_any_sigma_that_is_accepted_gives_an_image(size, function, sigma):
    noise = np.random.default_rng(0).normal(size=(3, 2, size, size)).astype(np.float32)
    batch = function(noise, sigma, sigma, sigma)
    chex.assert_tree_all_finite(batch)
    # A constant image would be 0.
    np.testing.assert_allclose(np.max(batch.image, axis=(1, 2, 3)), 1, rtol=1e-6)


def test_the_bounds_of_sigma_are_those_of_the_dtype(x64):
    noise = np.ones((3, 1, 4, 4))
    chex.assert_tree_all_finite(compose(noise, 1e-50, 1e-150, 1e100))
    for dtype, value, fault in ((np.float64, 1e-160, "whose square is 0"), (np.float32, 1e-50, "which is 0")):
        with pytest.raises(ValueError, match=f"sigma1 must .* got {value}, {fault} in {np.dtype(dtype)}"):
            segjax.compose_batch(noise.astype(dtype), value, 1.0, 1.0)


@pytest.mark.parametrize("sizes", [(1, 2_000_000_000), (2_000_000_000, 2), (8, 16_384)])
def test_refuses_more_pixels_than_counts_can_hold(sizes):
    with pytest.raises(ValueError, match=r"batch_size \* image_size\^2 must be at most 2\^31 - 1 pixels"):
        segjax.generate_data(KEY, *sizes)
    if sizes[0] == 1:
        with pytest.raises(ValueError, match=r"image_size\^2 must be at most 2\^31 - 1 pixels"):
            segjax.gaussian_kernel(sizes[1], 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({name: 1.08e-19}, f"{name} must .* 1.08e-19, whose square is 0 in float32") for name in SIGMAS),
        ({"batch_size": 0}, "batch_size must be an integer >= 1"),
        ({"image_size": 1}, "image_size must be an integer >= 2"),
        ({"key": jax.random.split(KEY, 2)}, "key must be a single key"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        segjax.generate_data(**{"key": KEY, **SMALL, **options})


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (3, 8, 8), (3, 1, 8, 9), (3, 1, 1, 1), (3, 0, 8, 8)])
def test_refuses_noise_of_another_shape_or_of_integers(shape):
    with pytest.raises(ValueError, match="noise must have shape"):
        segjax.compose_batch(jnp.zeros(shape), 1.0, 1.0, 1.0)
    with pytest.raises(TypeError, match="noise must be of a floating dtype"):
        segjax.compose_batch(jnp.zeros((3, 1, 8, 8), int), 1.0, 1.0, 1.0)


def test_the_mask_s_sigma_follows_the_image_size():
    default, fifth = (segjax.generate_data(KEY, 2, 20, **sigma) for sigma in ({}, {"sigma": 4.0}))
    chex.assert_trees_all_equal(default, fifth)
