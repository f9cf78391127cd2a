"""The best possible segmentation: Bayes' rule with the known generative model, which no network can beat.

Inside one texture, an image before its rescaling is A b A^T, with white noise b and the banded matrix A of two blurs:
that of the texture and the last one. Away from the image's border, its pixels are Gaussian with covariance T (x) T,
where T is the Toeplitz matrix of the autocorrelation of the two profiles' convolution (`segjax.textures` has the
profiles). With a mask m on the window, two textures u_k and the last blur E, the covariance is

    E (m m^T . K1 + (1 - m) (1 - m)^T . K2) E^T       K_k: of u_k, `.`: element by element,

and Bayes' rule gives the probability that the centre is in the mask, from masks drawn from the prior.

Images are rounded to grey levels, which adds the variance step^2 / 12 to every pixel. Without it the spectra fall so
steeply that two textures could be distinguished by digits that no image has. The scale and the offset of an image,
which rescaling hides from a network, are taken as known. Both can only reduce the error. So the error on windows of
r x r pixels is a lower bound for any network with a receptive field of r x r pixels, except for what the network reads
from the whole image in other ways (batch statistics, for example).

Everything is computed in float64, for any setting of jax, and returned as NumPy arrays.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from segjax._checks import check_callable, check_concrete, check_count, check_floating, check_key, check_sigma
from segjax.textures import EDGE_SIGMA, _band, _gaussian_profile, generate_data

# The grey levels divide this range, in standard deviations of the texture with the larger variance.
_RANGE = 8.0
# At this distance in pixels, the relative weight of the last blur is 4e-7: below the precision of float32.
_MARGIN = 5
# Shares of the masks whose edge is drawn within 2 pixels of the centre, within the window, and from the prior. The
# nearest edges matter most, and importance weights correct for their share.
_SHARES, _NEAREST = (0.5, 0.3, 0.2), 2.0
# Components of a mask's field that are drawn as quasi-random points, by row and column: slopes, curvatures and twist.
_LEADING = (np.array([0, 1, 0, 2, 1]), np.array([1, 0, 2, 0, 1]))
# Masks per program and windows per call: 100 MB.
_MASKS, _WINDOWS = 20, 4096


class BayesError(NamedTuple):
    """Two estimates of the least possible error, each with its standard error; they agree if `num_masks` suffices.

    Attributes:
        expected, expected_error: the mean of min(p, 1 - p). With too few masks p is overconfident, and this too low.
        observed, observed_error: the share of pixels at which the more probable class is wrong. It is the error of a
            real classifier, which is below the least possible error only by chance.
    """

    expected: float
    expected_error: float
    observed: float
    observed_error: float


def texture_covariance(window: int, sigma: float, image_size: int = 128) -> np.ndarray:
    """Covariance of the pixels of a window inside one texture, before rescaling, for noise of variance 1.

    It is T (x) T, with T of the profile of `sigma` convolved with that of the last blur, far from the image's border.

    Args:
        window: side r of the window in pixels.
        sigma: of the texture in pixels, not traced.
        image_size: n, on which the profiles depend.

    Returns:
        (r^2, r^2) float64, pixels in the order of `window.reshape(-1)`.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    window, image_size = _check_window(window, image_size)
    toeplitz = _toeplitz(window, image_size, _to_float("sigma", sigma), EDGE_SIGMA)
    return np.kron(toeplitz, toeplitz)


def interior_error(
    key: jax.Array,
    sigma1: float,
    sigma2: float,
    *,
    window: int = 17,
    image_size: int = 128,
    grey_levels: int | None = 256,
    num_windows: int = 4000,
) -> tuple[float, float]:
    """The least possible error on windows inside one texture, if both textures are equally likely.

    Windows are drawn from both textures, and the mean of min(p, 1 - p) is returned: its expectation is the Bayes error.

    Args:
        key: one key of `jax.random`.
        sigma1, sigma2: of the textures in pixels, not traced.
        window: side of a window in pixels.
        image_size: n, as in `texture_covariance`.
        grey_levels: grey levels of an image; None for float32, whose step is 2^-24 of the range.
        num_windows: half of them are drawn from each texture, rounded up.

    Returns:
        The error and its standard error.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    check_concrete("key", check_key(key))
    window, image_size = _check_window(window, image_size)
    num_each = -(-check_count("num_windows", num_windows, 2) // 2)
    sigmas = _to_float("sigma1", sigma1), _to_float("sigma2", sigma2)
    step = _step(sigmas, image_size, grey_levels)
    with jax.enable_x64(True):
        # T (x) T + step^2 / 12 has the eigenvectors V (x) V: no large matrix is needed.
        spectra = [np.linalg.eigh(_toeplitz(window, image_size, sigma, EDGE_SIGMA)) for sigma in sigmas]
        # The smallest eigenvalues of smooth textures are rounding errors of float64, of either sign.
        roots = [np.maximum(eigenvalues, 0) for eigenvalues, _ in spectra]
        values = [np.multiply.outer(root, root) + step**2 / 12 for root in roots]
        errors = _interior(key, np.stack(values), np.stack([vectors for _, vectors in spectra]), num_each)
        errors = np.asarray(errors)
    return float(errors.mean()), float(errors.std(ddof=1) / np.sqrt(errors.size))


@partial(jax.jit, static_argnames="num_each")
def _interior(key: jax.Array, values: jax.Array, vectors: jax.Array, num_each: int) -> jax.Array:
    """min(p, 1 - p) of windows of both textures: (2, num_each)."""

    def score(x: jax.Array, index: int) -> jax.Array:
        """-2 log of the density of windows (num_each, r, r), up to a constant."""
        rotated = jnp.einsum("ji,bjk,kl->bil", vectors[index], x, vectors[index])
        return jnp.sum(rotated**2 / values[index][None], axis=(1, 2)) + jnp.sum(jnp.log(values[index]))

    errors = []
    for index, texture_key in enumerate(jax.random.split(key)):
        # Drawn as one axis, as in `textures.generate_data`.
        noise = jax.random.normal(texture_key, (num_each * values[index].size,)).reshape(num_each, *values.shape[1:])
        coefficients = noise * jnp.sqrt(values[index])[None]
        x = jnp.einsum("ij,bjk,lk->bil", vectors[index], coefficients, vectors[index])
        errors.append(jax.nn.sigmoid(-jnp.abs(score(x, 0) - score(x, 1)) / 2))
    return jnp.stack(errors)


def posterior(
    key: jax.Array,
    images: jax.Array,
    sigma1: float,
    sigma2: float,
    sigma: float,
    *,
    window: int = 17,
    num_masks: int = 2000,
    grey_levels: int | None = 256,
    border: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Probability that a pixel is in the mask, given the window around it: the best possible prediction.

    It follows from Bayes' rule over masks that are drawn from the prior on the window and its margin. Near the image's
    border the window is shifted inwards, and the distribution of the interior is used although the noise ends there:
    within the textures' reach of the border the result is approximate.

    Args:
        key: one key of `jax.random`, for the masks.
        images: (batch, n, n, 1), floating, not rescaled: of `generate_data(..., rescaled=False)`. They are rounded to
            grey levels here.
        sigma1, sigma2, sigma: those of `generate_data` in pixels, not traced.
        window: side of the window in pixels, odd.
        num_masks: more masks give a better approximation; each takes 56 bytes.
        grey_levels: as in `interior_error`.
        border: pixels nearer to the border than this are NaN.
        progress: called after each program with the number of masks done and `num_masks`.

    Returns:
        (batch, n, n) float64, in [0, 1] except near the border.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    check_concrete("key", check_key(key))
    check_concrete("images", images := check_floating("images", images, "(batch, n, n, 1)"))
    if not np.isfinite(np.asarray(images)).all():
        raise ValueError("images must be finite")
    # The darkest pixel of a rescaled image is 0; a texture that is not rescaled varies around 0.
    if np.all(np.asarray(images) >= 0) and np.any(np.asarray(images) > 0):
        raise ValueError("images must be those of generate_data(..., rescaled=False), got no negative pixels")
    size, masks = images.shape[1], check_count("num_masks", num_masks, 2)
    model = _window_model(sigma1, sigma2, sigma, window, size, grey_levels)
    if 2 * check_count("border", border, 0) >= size:
        raise ValueError(f"border must be below half of the image's side, {size / 2:g}, got {border}")
    sides = slice(border, size - border)
    pixels = np.stack(np.broadcast_arrays(*np.ogrid[: len(images), sides, sides]), axis=-1).reshape(-1, 3)
    probability = np.full(images.shape[:3], np.nan)
    probability[tuple(pixels.T)] = _posterior(key, images, pixels, model, masks, progress)
    return probability


def bayes_error(
    key: jax.Array,
    sigma1: float = 0.2,
    sigma2: float = 1.2,
    sigma: float | None = None,
    *,
    image_size: int = 128,
    window: int = 17,
    num_masks: int = 2000,
    grey_levels: int | None = 256,
    num_images: int = 16,
    pixels_per_image: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> BayesError:
    """The least possible error on fresh images, mask edges included, given only a window around each pixel.

    Pixels are drawn where the distribution is that of `posterior`: farther from the image's border than the window and
    the textures reach.

    Args:
        key: one key of `jax.random`.
        sigma1, sigma2, sigma, image_size: as in `generate_data`, not traced.
        window, num_masks, grey_levels, progress: as in `posterior`.
        num_images: at least two; the standard errors are over images.
        pixels_per_image: drawn without replacement, at most all pixels of the interior.

    Returns:
        Both estimates. Compare them: at the notebook's sigmas and with 1,000 masks they agree for windows up to 9 x 9,
        and differ by a factor of 5 for 17 x 17 (docs/best-possible.md).

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    check_concrete("key", check_key(key))
    size = check_count("image_size", image_size, 2)
    sigma = size / 5 if sigma is None else sigma
    model = _window_model(sigma1, sigma2, sigma, window, size, grey_levels)
    num_images = check_count("num_images", num_images, 2)
    pixels_per_image = check_count("pixels_per_image", pixels_per_image, 1)
    reach = margin(window, sigma1, sigma2)
    inner = image_size - 2 * reach
    if inner < 1:
        raise ValueError(f"image_size must be above {2 * reach} for this window and these textures, got {image_size}")
    images_key, pixels_key, masks_key = jax.random.split(key, 3)
    batch = generate_data(images_key, num_images, image_size, sigma1, sigma2, sigma, rescaled=False)
    generator = np.random.default_rng(np.asarray(jax.random.key_data(pixels_key)))
    flat = np.stack([generator.permutation(inner**2)[:pixels_per_image] for _ in range(num_images)])
    index = np.broadcast_to(np.arange(num_images)[:, None], flat.shape)
    pixels = np.stack([index, reach + flat // inner, reach + flat % inner], axis=-1).reshape(-1, 3)
    p = _posterior(masks_key, batch.image, pixels, model, check_count("num_masks", num_masks, 2), progress)
    wrong = (p > 0.5) != (np.asarray(batch.mask[..., 0])[tuple(pixels.T)] > 0.5)
    # Means over images, since pixels of one image are not independent.
    means = [error.reshape(flat.shape).mean(axis=1) for error in (np.minimum(p, 1 - p), wrong)]
    statistics = [(mean.mean(), mean.std(ddof=1) / np.sqrt(num_images)) for mean in means]
    return BayesError(*(float(value) for pair in statistics for value in pair))


def margin(window: int, sigma1: float, sigma2: float) -> int:
    """The least distance from the image's border, in pixels, at which a window has the distribution of the interior.

    Nearer to the border, the noise outside the image is missing: the wider texture reaches 3 standard deviations of
    both blurs. A window around a pixel at this distance fits into the image, with the margin on which masks are drawn.
    """
    widest = max(_to_float("sigma1", sigma1), _to_float("sigma2", sigma2))
    return check_count("window", window, 1) // 2 + max(_MARGIN, int(np.ceil(3 * np.hypot(widest, EDGE_SIGMA))))


class _WindowModel(NamedTuple):
    """The generative model on a window with sides of r pixels, and on the window with its margin, sides of q pixels.

    Attributes:
        blur: (r, q), the band of the last blur.
        textures: (2, q, q), covariance of each texture along one side, before the last blur.
        root: (q, q), noise -> the mask's field along one side, of variance 1 at the centre.
        weights: (q,), covariance of the field with its centre along one side.
        scales: standard deviations of the proposal distributions of the field at the centre.
        step: between two grey levels.
    """

    blur: np.ndarray
    textures: np.ndarray
    root: np.ndarray
    weights: np.ndarray
    scales: np.ndarray
    step: float


def _window_model(
    sigma1: float, sigma2: float, sigma: float, window: int, size: int, grey_levels: int | None
) -> _WindowModel:
    window, size = _check_window(window, size)
    sigmas, sigma = (_to_float("sigma1", sigma1), _to_float("sigma2", sigma2)), _to_float("sigma", sigma)
    side, half = window + 2 * _MARGIN, window // 2
    if not window % 2:
        raise ValueError(f"window must be odd, to have a centre, got {window}")
    if side > size:
        raise ValueError(
            f"window must be at most the image's side less {2 * _MARGIN}, {size - 2 * _MARGIN}, got {window}"
        )
    centre = size // 2
    outer = slice(centre - half - _MARGIN, centre - half - _MARGIN + side)
    blur = _float64(_band, size, EDGE_SIGMA)[centre - half : centre - half + window, outer]
    # The mask's field depends on the noise of the whole image; here it has the distribution at the image's centre.
    band = _float64(_band, size, sigma)[outer]
    field = band @ band.T
    field /= field[side // 2, side // 2]
    values, vectors = np.linalg.eigh(field)
    root = vectors * np.sqrt(np.maximum(values, 0))
    # The largest first: the mean of the field, its slope, its curvature, ...
    root = root[:, ::-1]
    # Standard deviation of the field's slope: times a distance, it is that of the field at the centre of masks with an
    # edge at this distance.
    slope = np.sqrt(2 * max(1 - field[side // 2, side // 2 + 1], 1e-12))
    step = _step(sigmas, size, grey_levels)
    textures = np.stack([_toeplitz(side, size, each) for each in sigmas])
    scales = np.minimum(1.0, slope * np.array([_NEAREST, max(half, _NEAREST), np.inf]))
    return _WindowModel(blur, textures, root, field[side // 2], scales, step)


def _posterior(
    key: jax.Array,
    images: jax.Array,
    pixels: np.ndarray,
    model: _WindowModel,
    num_masks: int,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    """The probability at some pixels of images (batch, n, n, 1), given as (pixels, 3): image, row, column."""
    if progress is not None:
        check_callable("progress", progress)
    window, size = model.blur.shape[0], images.shape[1]
    fields = np.round(np.asarray(images[..., 0], np.float64) / model.step) * model.step
    # Start of the window of each row or column: at the border it is shifted inwards.
    starts = np.clip(np.arange(size) - window // 2, 0, size - window)
    views = np.lib.stride_tricks.sliding_window_view(fields, (window, window), axis=(1, 2))
    image, row, column = pixels.T
    offsets = (row - starts[row]) * window + column - starts[column]
    with jax.enable_x64(True):
        totals = np.full((2, len(pixels)), -np.inf)
        noise_key, points_key = jax.random.split(key)
        points, log_weights = _points(points_key, num_masks, model.scales)
        for first in range(0, num_masks, _MASKS):
            # The same number of masks in every program: the last one repeats some, with weight 0.
            indices = np.arange(first, first + _MASKS)
            repeated, indices = indices >= num_masks, indices % num_masks
            log_weight = np.where(repeated, -np.inf, log_weights[indices])
            whiten, constants, masks = _masks(noise_key, indices, points[indices], log_weight, model)
            for start in range(0, len(pixels), _WINDOWS):
                part = slice(start, start + _WINDOWS)
                x = views[image[part], starts[row[part]], starts[column[part]]].reshape(-1, window**2)
                # One shape for all calls: another would be compiled again.
                padding = min(_WINDOWS, len(pixels)) - len(x)
                x, offset = np.pad(x, ((0, padding), (0, 0))), np.pad(offsets[part], (0, padding))
                evidence = np.asarray(_evidence(x, offset, whiten, constants, masks))
                totals[:, part] = np.logaddexp(totals[:, part], evidence[:, : evidence.shape[1] - padding])
            if progress:
                progress(min(first + _MASKS, num_masks), num_masks)
    inside, outside = totals
    return 1 / (1 + np.exp(np.clip(outside - inside, -700, 700)))


def _points(key: jax.Array, num_masks: int, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quasi-random points for the leading components of each mask's field, (masks, 6), and its log weight.

    The first component is the field at the centre, which determines the distance of the edge. It is drawn by importance
    sampling from a mixture of normal distributions with these standard deviations, most of them narrow. The weight is
    the ratio of the true density to that of the mixture.
    """
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    ends = np.round(num_masks * np.cumsum([0.0, *_SHARES])).astype(int)
    # Scrambled Halton points cover the space more evenly than independent ones.
    parts = [scipy.stats.qmc.Halton(1 + len(_LEADING[0]), rng=generator).random(count) for count in np.diff(ends)]
    points = scipy.special.ndtri(np.clip(np.concatenate(parts), 1e-12, 1 - 1e-12))
    points[:, 0] *= np.repeat(scales, np.diff(ends))
    shares = np.diff(ends) / num_masks
    ratios = shares * np.exp(-(points[:, :1] ** 2) * (1 / scales**2 - 1) / 2) / scales
    return points, -np.log(ratios.sum(axis=1))


@jax.jit
def _masks(
    key: jax.Array, indices: jax.Array, points: jax.Array, log_weights: jax.Array, model: _WindowModel
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """For each mask: the whitening matrix of its windows, log weight minus half the log determinant, and the mask."""
    window, side = model.blur.shape

    def one(index: jax.Array, point: jax.Array, log_weight: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        noise = jax.random.normal(jax.random.fold_in(key, index), (side, side))
        noise = noise.at[_LEADING].set(point[1:])
        field = model.root @ noise @ model.root.T
        shift = point[0] - field[side // 2, side // 2]
        field += shift * model.weights[:, None] * model.weights[None]
        mask = field > 0
        covariance = model.step**2 / 12 * jnp.eye(window**2)
        for region, texture in zip((mask, ~mask), model.textures, strict=True):
            # T (x) T on the pixels of the region. Blurring one axis after the other takes 40 million products, not 300.
            pixels = region.astype(texture.dtype)
            inside = (
                texture[:, None, :, None] * texture[None, :, None, :] * pixels[:, :, None, None] * pixels[None, None]
            )
            blurred = jnp.einsum("ia,abcd->ibcd", model.blur, inside)
            blurred = jnp.einsum("jb,ibcd->ijcd", model.blur, blurred)
            blurred = jnp.einsum("kc,ijcd->ijkd", model.blur, blurred)
            covariance += jnp.einsum("ld,ijkd->ijkl", model.blur, blurred).reshape(covariance.shape)
        root = jnp.linalg.cholesky(covariance)
        whiten = jax.scipy.linalg.solve_triangular(root, jnp.eye(window**2), lower=True)
        inner = mask[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN].reshape(-1)
        return whiten, log_weight - jnp.sum(jnp.log(jnp.diagonal(root))), inner

    # One after the other: a mask's covariance with the margin is 4 MB.
    return jax.lax.map(lambda mask: one(*mask), (indices, points, log_weights))


@jax.jit
def _evidence(
    windows: jax.Array, offsets: jax.Array, whiten: jax.Array, constants: jax.Array, masks: jax.Array
) -> jax.Array:
    """Log evidence, summed over the masks that contain each pixel, and over all others: (2, pixels)."""
    count, size, _ = whiten.shape
    white = (whiten.reshape(count * size, size) @ windows.T).reshape(count, size, -1)
    evidence = constants[:, None] - jnp.sum(white**2, axis=1) / 2
    inside = masks[:, offsets]
    return jnp.stack(
        [jax.scipy.special.logsumexp(jnp.where(part, evidence, -jnp.inf), axis=0) for part in (inside, ~inside)]
    )


def _toeplitz(side: int, image_size: int, *sigmas: float) -> np.ndarray:
    """Covariance along one side of white noise after blurs of these sigmas: (side, side)."""
    profile = np.ones(1)
    for sigma in sigmas:
        profile = np.convolve(profile, _float64(_gaussian_profile, image_size, sigma))
    middle = len(profile) - 1
    correlation = np.correlate(profile, profile, mode="full")[middle:]
    # Profiles of small images are shorter than the window.
    correlation = np.pad(correlation, (0, max(0, side - len(correlation))))
    return correlation[np.abs(np.subtract.outer(np.arange(side), np.arange(side)))]


def _step(sigmas: tuple[float, float], image_size: int, grey_levels: int | None) -> float:
    """Step between grey levels, which divide the range of the texture with the larger variance into equal parts."""
    deviation = max(_toeplitz(1, image_size, sigma, EDGE_SIGMA)[0, 0] for sigma in sigmas)
    parts = 2**24 if grey_levels is None else check_count("grey_levels", grey_levels, 2) - 1
    return float(_RANGE * deviation / parts)


def _float64(function: Callable[..., Any], *arguments: Any) -> np.ndarray:
    """A profile or a band of `segjax.textures` in float64; both are NumPy arrays if sigma is not traced."""
    return np.asarray(function(*arguments, np.dtype(np.float64)))


def _check_window(window: int, image_size: int) -> tuple[int, int]:
    image_size = check_count("image_size", image_size, 2)
    return check_count("window", window, 1, maximum=image_size), image_size


def _to_float(name: str, value: Any) -> float:
    """Sigma as a float: the computations on the host need its value."""
    check_concrete(name, value)
    return float(cast(float, check_sigma(name, value)))
