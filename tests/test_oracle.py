from functools import partial
from itertools import product

import jax
import numpy as np
import pytest
import scipy

import segjax
from segjax import oracle

KEY = jax.random.key(0)
# The smallest images that have an inner part for this window and these textures.
SMALL = {"image_size": 32, "window": 5, "num_masks": 300}


@pytest.fixture(scope="module")
def images():
    """Images of one texture, of which the inner part is far from the border: (256, 32, 32)."""
    draw = jax.jit(partial(segjax.generate_data, rescaled=False), static_argnums=(1, 2))
    return np.asarray(draw(KEY, 256, 32, 1.2, 1.2, 6.4).image[..., 0])


def test_images_on_their_own_scale_are_the_rescaled_ones():
    raw = segjax.generate_data(KEY, 2, 16, sigma=4.0, rescaled=False)
    usual = segjax.generate_data(KEY, 2, 16, sigma=4.0)
    np.testing.assert_array_equal(raw.mask, usual.mask)
    low, high = (edge(raw.image, axis=(1, 2), keepdims=True) for edge in (np.min, np.max))
    np.testing.assert_allclose((raw.image - low) / (high - low), usual.image, atol=1e-6)
    with pytest.raises(TypeError, match="rescaled must be True or False"):
        segjax.generate_data(KEY, rescaled=1)


def test_covariance_is_that_of_generated_images(images):
    expected = oracle.texture_covariance(3, 1.2, 32)
    # Windows that do not overlap, 10 pixels from the border.
    places = product(range(10, 20, 4), repeat=2)
    windows = np.concatenate([images[:, i : i + 3, j : j + 3].reshape(-1, 9) for i, j in places])
    covariance = windows.T.astype(np.float64) @ windows / len(windows)
    # A covariance of 2304 nearly independent windows is off by 3 % of the variance, and the largest of 81 by 9 %.
    np.testing.assert_allclose(covariance, expected, atol=0.12 * expected[0, 0])
    assert expected[0, 0] == pytest.approx(images[:, 10:22, 10:22].var(), rel=0.05)


def test_covariance_is_a_product_of_two_sides():
    covariance = oracle.texture_covariance(4, 0.7, 16)
    assert covariance.shape == (16, 16)
    assert covariance.dtype == np.float64
    np.testing.assert_allclose(covariance, covariance.T)
    assert (np.linalg.eigvalsh(covariance) > 0).all()
    # The variance of white noise under both blurs is the sum of the squares of their kernel.
    with jax.enable_x64(True):
        kernel = scipy.signal.convolve2d(*(np.asarray(segjax.gaussian_kernel(16, sigma)) for sigma in (0.7, 1.0)))
    assert covariance[0, 0] == pytest.approx((kernel**2).sum())
    # Pixels (0, 1) and (1, 3) are as far apart as (0, 0) and (1, 2), and as (0, 0) and (2, 1).
    assert covariance[1, 7] == pytest.approx(covariance[0, 6])
    assert covariance[0, 6] == pytest.approx(covariance[0, 9])


def test_one_pixel_in_closed_form():
    """Two normal distributions of mean 0: the larger variance is guessed beyond the point where the densities meet."""
    error, deviation = oracle.interior_error(KEY, 0.2, 1.2, window=1, image_size=32, num_windows=20_000)
    first, second = (oracle.texture_covariance(1, sigma, 32)[0, 0] for sigma in (0.2, 1.2))
    floor = (8 * np.sqrt(first) / 255) ** 2 / 12
    small, large = np.sqrt(second + floor), np.sqrt(first + floor)
    meet = np.sqrt(2 * np.log(large / small) / (1 / small**2 - 1 / large**2))
    expected = (2 * scipy.stats.norm.cdf(-meet / small) + 1 - 2 * scipy.stats.norm.cdf(-meet / large)) / 2
    assert abs(error - expected) < 4 * deviation < 0.02


def test_four_pixels_by_a_plain_integral():
    """On the axes in which both distributions are independent: a sum over a grid of all four."""
    error, deviation = oracle.interior_error(KEY, 0.2, 0.8, window=2, image_size=32, num_windows=20_000)
    covariances = [oracle.texture_covariance(2, sigma, 32) for sigma in (0.2, 0.8)]
    # For four pixels in a square the symmetries alone give the axes.
    axes = np.kron([[1, 1], [1, -1]], [[1, 1], [1, -1]]) / 2
    floor = (8 * np.sqrt(covariances[0][0, 0]) / 255) ** 2 / 12
    variances = [np.diag(axes @ covariance @ axes.T) + floor for covariance in covariances]
    grid = [np.linspace(-5, 5, 31) * np.sqrt(max(both)) for both in zip(*variances, strict=True)]
    densities = []
    for deviations in np.sqrt(variances):
        sides = [
            scipy.stats.norm.pdf(x, scale=deviation) * (x[1] - x[0])
            for x, deviation in zip(grid, deviations, strict=True)
        ]
        densities.append(np.einsum("i,j,k,l->ijkl", *sides))
    assert abs(error - np.minimum(*densities).sum() / 2) < 4 * deviation + 0.003


def test_larger_windows_and_finer_grey_levels_err_less():
    errors = [oracle.interior_error(KEY, 0.2, 0.5, window=window, image_size=64)[0] for window in (1, 5, 9)]
    assert errors[0] > errors[1] > errors[2]
    levels = [oracle.interior_error(KEY, 0.2, 0.5, window=9, image_size=64, grey_levels=n)[0] for n in (2, 256, None)]
    assert levels[0] > levels[1] > levels[2]


def test_smooth_textures_in_large_windows_give_numbers():
    """Where float64's rounding is larger than the smallest eigenvalues."""
    assert np.isfinite(oracle.interior_error(KEY, 10.0, 12.0, window=33, grey_levels=None, num_windows=20)).all()


def test_equal_textures_cannot_be_told_apart():
    assert oracle.interior_error(KEY, 1.2, 1.2, window=3, image_size=32)[0] == pytest.approx(0.5)


@pytest.mark.slow
def test_the_two_estimates_agree():
    error = oracle.bayes_error(KEY, 0.2, 1.2, 6.4, num_images=24, **SMALL)
    assert abs(error.expected - error.observed) < 4 * np.hypot(error.expected_error, error.observed_error)
    assert 0 < error.expected < 0.2
    one_pixel = oracle.bayes_error(KEY, 0.2, 1.2, 6.4, num_images=24, **{**SMALL, "window": 1})
    assert one_pixel.expected > error.expected + 0.02


@pytest.mark.slow
def test_the_posterior_is_calibrated():
    """A share p of the pixels with probability p is in the mask."""
    batch = segjax.generate_data(KEY, 12, 32, 0.2, 1.2, 6.4, rescaled=False)
    posterior = partial(oracle.posterior, jax.random.key(1), sigma1=0.2, sigma2=1.2, sigma=6.4, window=5, num_masks=300)
    probability, done = posterior(batch.image), []
    assert probability.shape == (12, 32, 32)
    assert ((probability >= 0) & (probability <= 1)).all()
    inner = (slice(None), slice(8, 24), slice(8, 24))
    p, mask = probability[inner].ravel(), np.asarray(batch.mask[..., 0])[inner].ravel()
    for low, high in ((0, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 1.01)):
        part = (p >= low) & (p < high)
        # Neighbours share their noise: about one in ten pixels is independent.
        allowed = 4 * np.sqrt(10 * np.sum(p[part] * (1 - p[part]))) / part.sum()
        assert abs(p[part].mean() - mask[part].mean()) < allowed + 0.01
    # The border can be left out.
    part = posterior(batch.image[:1], border=8)
    assert np.isnan(part[:, :8]).all()
    np.testing.assert_allclose(part[0, 8:24, 8:24], probability[0, 8:24, 8:24], atol=1e-8)
    # A cut of the work into turns changes nothing but the rounding.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, "_WINDOWS", 500)
        again = posterior(batch.image[:1], progress=lambda *counts: done.append(counts))
    np.testing.assert_allclose(again, probability[:1], atol=1e-8)
    assert done[-1] == (300, 300)
    assert len(done) == 15


@pytest.mark.slow
def test_the_posterior_is_the_truth_where_textures_are_far_apart():
    batch = segjax.generate_data(KEY, 2, 32, 0.2, 3.0, 6.4, rescaled=False)
    probability = oracle.posterior(KEY, batch.image, 0.2, 3.0, 6.4, window=5, num_masks=300)
    mask = batch.mask[..., 0] > 0.5
    # Away from the edge, where there is no doubt, and from the border.
    far = np.asarray(segjax.edges.edge_distance(mask) > 3)[:, 6:26, 6:26]
    assert far.sum() > 100
    np.testing.assert_allclose(probability[:, 6:26, 6:26][far], np.asarray(mask)[:, 6:26, 6:26][far], atol=0.05)


def test_no_setting_of_jax_is_changed():
    before = jax.config.jax_enable_x64
    oracle.interior_error(KEY, 0.2, 1.2, window=2, image_size=16, num_windows=10)
    assert jax.config.jax_enable_x64 == before


IMAGES = np.zeros((1, 32, 32, 1), np.float32)
POSTERIOR = {"key": KEY, "images": IMAGES, "sigma1": 0.2, "sigma2": 1.2, "sigma": 6.4, "window": 5, "num_masks": 20}
INTERIOR = {"key": KEY, "sigma1": 0.2, "sigma2": 1.2, "image_size": 16, "window": 2, "num_windows": 4}
BAYES = {"key": KEY, "sigma": 6.4, "image_size": 32, "window": 5, "num_masks": 20, "num_images": 2}


@pytest.mark.parametrize(
    ("function", "good", "changes", "message"),
    [
        (oracle.posterior, POSTERIOR, {"images": IMAGES[..., 0]}, "images must have shape"),
        (oracle.posterior, POSTERIOR, {"images": IMAGES[:, :30]}, "images must have shape"),
        (oracle.posterior, POSTERIOR, {"images": IMAGES.astype(int)}, "images must be of a floating dtype"),
        (
            oracle.posterior,
            POSTERIOR,
            {"images": IMAGES + 0.5},
            "images must be those of .*rescaled=False",
        ),
        (oracle.posterior, POSTERIOR, {"window": 4}, "window must be odd"),
        (oracle.posterior, POSTERIOR, {"window": 0}, "window must be an integer >= 1"),
        (oracle.posterior, POSTERIOR, {"window": 25}, "window must be at most the image's side less 10, 22"),
        (oracle.posterior, POSTERIOR, {"num_masks": 1}, "num_masks must be an integer >= 2"),
        (oracle.posterior, POSTERIOR, {"grey_levels": 1}, "grey_levels must be an integer >= 2"),
        (oracle.posterior, POSTERIOR, {"border": 16}, "border must be below half of the image's side, 16"),
        (oracle.posterior, POSTERIOR, {"progress": 3}, "progress must be a function"),
        (oracle.posterior, POSTERIOR, {"border": -1}, "border must be an integer >= 0"),
        (oracle.posterior, POSTERIOR, {"sigma": 0}, "sigma must be a finite number > 0"),
        (oracle.posterior, POSTERIOR, {"key": 3}, "key must come from jax.random.key"),
        (oracle.interior_error, INTERIOR, {"sigma1": None}, "sigma1 must be a finite number > 0"),
        (oracle.interior_error, INTERIOR, {"window": 17}, "window must be an integer <= 16"),
        (oracle.interior_error, INTERIOR, {"num_windows": 1}, "num_windows must be an integer >= 2"),
        (oracle.interior_error, INTERIOR, {"grey_levels": 2.5}, "grey_levels must be an integer >= 2"),
        (oracle.bayes_error, BAYES, {"num_images": 1}, "num_images must be an integer >= 2"),
        (oracle.bayes_error, BAYES, {"pixels_per_image": 0}, "pixels_per_image must be an integer >= 1"),
        (oracle.bayes_error, BAYES, {"image_size": 16, "sigma2": 3.0}, "image_size must be above 24 for this"),
        (oracle.bayes_error, BAYES, {"sigma2": "1"}, "sigma2 must be a finite number > 0"),
    ],
)
def test_refuses(function, good, changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        function(**{**good, **changes})


def test_is_not_to_be_traced():
    with pytest.raises(TypeError, match="sigma must not be traced"):
        jax.eval_shape(lambda sigma: oracle.texture_covariance(3, sigma), 1.0)
    with pytest.raises(TypeError, match="key must not be traced"):
        jax.eval_shape(lambda key: oracle.interior_error(**{**INTERIOR, "key": key}), KEY)
    with pytest.raises(TypeError, match="images must not be traced"):
        jax.eval_shape(lambda images: oracle.posterior(**{**POSTERIOR, "images": images}), IMAGES)
