"""The best possible segmentation: Bayes' rule with the textures' own law, which no network can beat.

Inside one texture an image before its rescaling is A b A^T, of white noise b and the banded matrix A of two blurs, that
of the texture and the last one. Away from the image's border its pixels are Gaussian with covariance T (x) T, T the
Toeplitz matrix of the autocorrelation of the two profiles' convolution (`segjax.textures` has the profiles). With a
mask m on the window, u_k the two textures and E the last blur, the covariance is

    E (m m^T . K1 + (1 - m) (1 - m)^T . K2) E^T       K_k: of u_k, `.`: element by element,

and the probability that the centre is in the mask follows by Bayes' rule from masks of the known law.

Images are rounded to grey levels, which adds the variance step^2 / 12 to every pixel. Without it the spectra fall so
steeply that two textures could be told apart by digits that no image has. The scale and the offset of an image, which
rescaling hides from a network, are taken as known. Both can only help: the error on windows of r x r pixels is a lower
bound of that of any network that sees r x r pixels, but for what it learns of the whole image by other ways (batch
statistics, for example).

Everything is computed in float64, whatever jax's own setting is, and given as NumPy's arrays.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from segjax._checks import check_callable, check_count, check_images, check_key, check_sigma
from segjax.textures import EDGE_SIGMA, _band, _gaussian_profile, generate_data

# The range of an image in standard deviations of its rougher texture, over which its grey levels are spread.
_RANGE = 8.0
# Beyond so many pixels the last blur has a weight of 4e-7 of its largest: below the step of float32.
_MARGIN = 5
# Shares of the masks whose edge is drawn within 2 pixels of the centre, where the answer is decided, within the window,
# and by the law; the weights undo it.
_SHARES, _NEAREST = (0.5, 0.3, 0.2), 2.0
# Which parts of a mask's field are drawn evenly: its slopes, curvatures and twist, by the two sides' components.
_LEADING = (np.array([0, 1, 0, 2, 1]), np.array([1, 0, 2, 0, 1]))
# Masks a program, and windows of a turn: 100 MB.
_MASKS, _WINDOWS = 20, 4096


class BayesError(NamedTuple):
    """Two estimates of the least possible error, each with its standard error; they agree if `num_masks` suffices.

    Attributes:
        expected, expected_error: the mean of min(p, 1 - p). With too few masks it is too sure, and too low.
        observed, observed_error: the share of pixels at which the more probable class is wrong. It is the error of a
            real classifier, which only chance can put below the least possible one.
    """

    expected: float
    expected_error: float
    observed: float
    observed_error: float


def texture_covariance(window: int, sigma: float, image_size: int = 128) -> np.ndarray:
    """Covariance of the pixels of a window inside one texture, before rescaling, for noise of variance 1.

    It is T (x) T, with T of the profile of `sigma` convolved with that of the last blur, far from the image's border.

    Args:
        window: its side r in pixels.
        sigma: width of the texture in pixels, a number.
        image_size: n, on which the generator's profiles depend.

    Returns:
        (r^2, r^2) float64, pixels in the order of `window.reshape(-1)`.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    window, image_size = _check_window(window, image_size)
    toeplitz = _toeplitz(window, image_size, _number("sigma", sigma), EDGE_SIGMA)
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
    """The least possible error on windows that lie in one texture, both equally likely.

    Windows are drawn from either law, and the mean of min(p, 1 - p) is taken: its expectation is the Bayes error.

    Args:
        key: one key of `jax.random`.
        sigma1, sigma2: widths of the textures in pixels, numbers.
        window: side of a window in pixels.
        image_size: n, as in `texture_covariance`.
        grey_levels: grey levels of an image; None for float32, whose step is 2^-24 of the range.
        num_windows: half of them from each texture, rounded up.

    Returns:
        The error and its standard error.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    _check_concrete("key", check_key(key))
    window, image_size = _check_window(window, image_size)
    each = -(-check_count("num_windows", num_windows, 2) // 2)
    widths = _number("sigma1", sigma1), _number("sigma2", sigma2)
    step = _step(widths, image_size, grey_levels)
    with jax.enable_x64(True):
        # T (x) T + step^2 / 12 has the eigenvectors V (x) V: no large matrix is ever made.
        spectra = [np.linalg.eigh(_toeplitz(window, image_size, width, EDGE_SIGMA)) for width in widths]
        # The smallest eigenvalues of smooth textures are float64's rounding, of either sign.
        roots = [np.maximum(own, 0) for own, _ in spectra]
        values = [np.multiply.outer(own, own) + step**2 / 12 for own in roots]
        errors = _interior(key, np.stack(values), np.stack([vectors for _, vectors in spectra]), each)
        errors = np.asarray(errors)
    return float(errors.mean()), float(errors.std(ddof=1) / np.sqrt(errors.size))


@partial(jax.jit, static_argnames="each")
def _interior(key: jax.Array, values: jax.Array, vectors: jax.Array, each: int) -> jax.Array:
    """min(p, 1 - p) of windows of either texture: (2, each)."""

    def score(x: jax.Array, index: int) -> jax.Array:
        """-2 log of the density of windows (each, r, r), but for a constant."""
        turned = jnp.einsum("ji,bjk,kl->bil", vectors[index], x, vectors[index])
        return jnp.sum(turned**2 / values[index], axis=(1, 2)) + jnp.sum(jnp.log(values[index]))

    found = []
    for index, own in enumerate(jax.random.split(key)):
        # Flat, as in `textures.generate_data`.
        noise = jax.random.normal(own, (each * values[index].size,)).reshape(each, *values.shape[1:])
        drawn = noise * jnp.sqrt(values[index])
        x = jnp.einsum("ij,bjk,lk->bil", vectors[index], drawn, vectors[index])
        found.append(jax.nn.sigmoid(-jnp.abs(score(x, 0) - score(x, 1)) / 2))
    return jnp.stack(found)


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
    """Probability that a pixel is in the mask, given the window around it: the best prediction there is.

    Bayes' rule over masks that are drawn from their law on the window and its margin. Near the image's border the
    window is shifted inwards, and the law of the interior is used although the noise ends there: within the textures'
    reach of the border the result is approximate.

    Args:
        key: one key of `jax.random`, for the masks.
        images: (batch, n, n, 1), floating, not rescaled: of `generate_data(..., rescaled=False)`. They are rounded to
            grey levels here.
        sigma1, sigma2, sigma: widths in pixels, numbers: those the images were made with.
        window: side of the window in pixels, odd; shifted inwards where the image ends.
        num_masks: the more, the closer; each takes 56 bytes.
        grey_levels: as in `interior_error`.
        border: pixels nearer to the border than this are left out: NaN.
        progress: is called with the number of masks done and `num_masks`, from time to time.

    Returns:
        (batch, n, n) float64, in [0, 1] but for the border.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    _check_concrete("key", check_key(key))
    _check_concrete("images", images := check_images("images", images))
    if images.shape[1] != images.shape[2] or images.shape[3] != 1:
        raise ValueError(f"images must have shape (batch, n, n, 1), got {images.shape}")
    # Every rescaled image has a 0 for its lowest pixel; on its own scale a texture lies around 0.
    if np.all(np.asarray(images) >= 0) and np.any(np.asarray(images) > 0):
        raise ValueError("images must be on their own scale, as generate_data(..., rescaled=False) gives them")
    size, masks = images.shape[1], check_count("num_masks", num_masks, 2)
    law = _law(sigma1, sigma2, sigma, window, size, grey_levels)
    if 2 * check_count("border", border, 0) >= size:
        raise ValueError(f"border must be below half of the image's side, {size / 2:g}, got {border}")
    sides = slice(border, size - border)
    places = np.stack(np.broadcast_arrays(*np.ogrid[: len(images), sides, sides]), axis=-1).reshape(-1, 3)
    found = np.full(images.shape[:3], np.nan)
    found[tuple(places.T)] = _posterior(key, images, places, law, masks, progress)
    return found


def bayes_error(
    key: jax.Array,
    sigma1: float = 0.2,
    sigma2: float = 1.2,
    sigma: float = 25.6,
    *,
    image_size: int = 128,
    window: int = 17,
    num_masks: int = 2000,
    grey_levels: int | None = 256,
    num_images: int = 16,
    pixels_per_image: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> BayesError:
    """The least possible error on fresh images, mask edges included, for one who sees a window around each pixel.

    Pixels are drawn where the law is the one of `posterior`: not nearer to the image's border than the window and the
    textures reach.

    Args:
        key: one key of `jax.random`.
        sigma1, sigma2, sigma, image_size: as in `generate_data`, numbers.
        window, num_masks, grey_levels, progress: as in `posterior`.
        num_images: the standard errors are those over images, at least two.
        pixels_per_image: drawn without replacement, as far as there are as many.

    Returns:
        Both estimates. Compare them: at the notebook's widths they agree with 1,000 masks for windows to 9 x 9, and are
        a factor of 5 apart for 17 x 17 (docs/best-possible.md).

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    _check_concrete("key", check_key(key))
    law = _law(sigma1, sigma2, sigma, window, check_count("image_size", image_size, 2), grey_levels)
    num_images = check_count("num_images", num_images, 2)
    pixels = check_count("pixels_per_image", pixels_per_image, 1)
    reach = margin(window, sigma1, sigma2)
    inner = image_size - 2 * reach
    if inner < 1:
        raise ValueError(f"image_size must be above {2 * reach} for this window and these textures, got {image_size}")
    images_key, places_key, masks_key = jax.random.split(key, 3)
    batch = generate_data(images_key, num_images, image_size, sigma1, sigma2, sigma, rescaled=False)
    chosen = np.random.default_rng(np.asarray(jax.random.key_data(places_key)))
    flat = np.stack([chosen.permutation(inner**2)[:pixels] for _ in range(num_images)])
    index = np.broadcast_to(np.arange(num_images)[:, None], flat.shape)
    places = np.stack([index, reach + flat // inner, reach + flat % inner], axis=-1).reshape(-1, 3)
    p = _posterior(masks_key, batch.image, places, law, check_count("num_masks", num_masks, 2), progress)
    wrong = (p > 0.5) != (np.asarray(batch.mask[..., 0])[tuple(places.T)] > 0.5)
    # Pixels of one image are no independent trials.
    parts = [own.reshape(flat.shape).mean(axis=1) for own in (np.minimum(p, 1 - p), wrong)]
    return BayesError(*(float(it) for own in parts for it in (own.mean(), own.std(ddof=1) / np.sqrt(num_images))))


def margin(window: int, sigma1: float, sigma2: float) -> int:
    """The least distance from the image's border, in pixels, at which a pixel's window has the law of the interior.

    Nearer, the noise outside the image is missed: the wider texture reaches over 3 standard deviations of both blurs. A
    window with such a pixel at its centre fits into the image with the margin on which masks are drawn.
    """
    widest = max(_number("sigma1", sigma1), _number("sigma2", sigma2))
    return check_count("window", window, 1) // 2 + max(_MARGIN, int(np.ceil(3 * np.hypot(widest, EDGE_SIGMA))))


class _Law(NamedTuple):
    """What is known of the images, on a window of r pixels a side and its margin, q pixels a side.

    Attributes:
        blur: (r, q), the last blur's band.
        textures: (2, q, q), covariance along one side of each texture before it.
        root: (q, q), noise -> the mask's field along one side, of variance 1 at the centre.
        weights: (q,), covariance of that field with its centre along one side.
        scales: standard deviations from which the field at the centre is drawn.
        step: of the grey levels.
    """

    blur: np.ndarray
    textures: np.ndarray
    root: np.ndarray
    weights: np.ndarray
    scales: np.ndarray
    step: float


def _law(sigma1: float, sigma2: float, sigma: float, window: int, size: int, grey_levels: int | None) -> _Law:
    window, size = _check_window(window, size)
    widths, width = (_number("sigma1", sigma1), _number("sigma2", sigma2)), _number("sigma", sigma)
    side, half = window + 2 * _MARGIN, window // 2
    if not window % 2:
        raise ValueError(f"window must be odd, to have a centre, got {window}")
    if side > size:
        raise ValueError(
            f"window must be at most the image's side less {2 * _MARGIN}, {size - 2 * _MARGIN}: got {window}"
        )
    centre = size // 2
    outer = slice(centre - half - _MARGIN, centre - half - _MARGIN + side)
    blur = _float64(_band, size, EDGE_SIGMA)[centre - half : centre - half + window, outer]
    # The mask's field reaches over the whole image, and has its law at the image's centre here.
    band = _float64(_band, size, width)[outer]
    field = band @ band.T
    field /= field[side // 2, side // 2]
    values, vectors = np.linalg.eigh(field)
    root = vectors * np.sqrt(np.maximum(values, 0))
    # The largest first: the level of the field, its slope, its curvature, ...
    root = root[:, ::-1]
    # Of the field's slope: times a distance, it is the field's value at the centre of masks with an edge so far away.
    slope = np.sqrt(2 * max(1 - field[side // 2, side // 2 + 1], 1e-12))
    step = _step(widths, size, grey_levels)
    textures = np.stack([_toeplitz(side, size, own) for own in widths])
    scales = np.minimum(1.0, slope * np.array([_NEAREST, max(half, _NEAREST), np.inf]))
    return _Law(blur, textures, root, field[side // 2], scales, step)


def _posterior(
    key: jax.Array,
    images: jax.Array,
    places: np.ndarray,
    law: _Law,
    num_masks: int,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    """The probability at places (pixels, 3): image, row, column of images (batch, n, n, 1)."""
    if progress is not None:
        check_callable("progress", progress)
    window, size = law.blur.shape[0], images.shape[1]
    fields = np.round(np.asarray(images[..., 0], np.float64) / law.step) * law.step
    # Where the window of a row or a column begins: at the border it is shifted inwards.
    starts = np.clip(np.arange(size) - window // 2, 0, size - window)
    views = np.lib.stride_tricks.sliding_window_view(fields, (window, window), axis=(1, 2))
    image, row, column = places.T
    offsets = (row - starts[row]) * window + column - starts[column]
    with jax.enable_x64(True):
        totals = np.full((2, len(places)), -np.inf)
        noise_key, points_key = jax.random.split(key)
        points, weights = _points(points_key, num_masks, law.scales)
        for first in range(0, num_masks, _MASKS):
            # One number of masks a program: the last one takes some twice, which count for nothing.
            numbers = np.arange(first, first + _MASKS)
            kept, numbers = numbers < num_masks, numbers % num_masks
            chosen = np.where(kept, weights[numbers], -np.inf)
            whiten, constants, masks = _masks(noise_key, numbers, points[numbers], chosen, law)
            for begin in range(0, len(places), _WINDOWS):
                some = slice(begin, begin + _WINDOWS)
                x = views[image[some], starts[row[some]], starts[column[some]]].reshape(-1, window**2)
                # One shape for all turns: another would be compiled again.
                short = min(_WINDOWS, len(places)) - len(x)
                x, own = np.pad(x, ((0, short), (0, 0))), np.pad(offsets[some], (0, short))
                added = np.asarray(_evidence(x, own, whiten, constants, masks))
                totals[:, some] = np.logaddexp(totals[:, some], added[:, : added.shape[1] - short])
            if progress:
                progress(min(first + _MASKS, num_masks), num_masks)
    inside, outside = totals
    return 1 / (1 + np.exp(np.clip(outside - inside, -700, 700)))


def _points(key: jax.Array, num_masks: int, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What matters most in a mask, spread evenly: (masks, 6) normal numbers, and the log weight of each mask.

    The first number is the field at the centre, which decides how far the edge is. Most are drawn near 0: importance
    sampling from a mixture of normal laws of these standard deviations, with the ratio to the true one for a weight.
    """
    seed = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    ends = np.round(num_masks * np.cumsum([0.0, *_SHARES])).astype(int)
    # Halton's points (scrambled) in place of independent ones: where masks lie closest, they are evenly apart.
    parts = [scipy.stats.qmc.Halton(1 + len(_LEADING[0]), rng=seed).random(count) for count in np.diff(ends)]
    points = scipy.special.ndtri(np.clip(np.concatenate(parts), 1e-12, 1 - 1e-12))
    points[:, 0] *= np.repeat(scales, np.diff(ends))
    shares = np.diff(ends) / num_masks
    ratios = shares * np.exp(-(points[:, :1] ** 2) * (1 / scales**2 - 1) / 2) / scales
    return points, -np.log(ratios.sum(axis=1))


@jax.jit
def _masks(
    key: jax.Array, numbers: jax.Array, points: jax.Array, weights: jax.Array, law: _Law
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of each mask: the matrix that whitens its windows, log weight less half the log determinant, and the mask."""
    window, side = law.blur.shape

    def one(number: jax.Array, point: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        noise = jax.random.normal(jax.random.fold_in(key, number), (side, side))
        noise = noise.at[_LEADING].set(point[1:])
        field = law.root @ noise @ law.root.T
        level = point[0] - field[side // 2, side // 2]
        field += level * law.weights[:, None] * law.weights
        mask = field > 0
        covariance = law.step**2 / 12 * jnp.eye(window**2)
        for part, texture in zip((mask, ~mask), law.textures, strict=True):
            # T (x) T on the pixels of the mask; one side after the other is blurred, 40 million products for 300.
            inside = texture[:, None, :, None] * texture[None, :, None, :] * part[:, :, None, None] * part
            blurred = jnp.einsum("ia,abcd->ibcd", law.blur, inside)
            blurred = jnp.einsum("jb,ibcd->ijcd", law.blur, blurred)
            blurred = jnp.einsum("kc,ijcd->ijkd", law.blur, blurred)
            covariance += jnp.einsum("ld,ijkd->ijkl", law.blur, blurred).reshape(covariance.shape)
        root = jnp.linalg.cholesky(covariance)
        whiten = jax.scipy.linalg.solve_triangular(root, jnp.eye(window**2), lower=True)
        inner = mask[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN].reshape(-1)
        return whiten, weight - jnp.sum(jnp.log(jnp.diagonal(root))), inner

    # One after the other: a mask's covariance on its margin is 4 MB.
    return jax.lax.map(lambda given: one(*given), (numbers, points, weights))


@jax.jit
def _evidence(
    windows: jax.Array, offsets: jax.Array, whiten: jax.Array, constants: jax.Array, masks: jax.Array
) -> jax.Array:
    """log of the summed evidence of the masks in which each pixel is inside, and of the others: (2, pixels)."""
    count, size, _ = whiten.shape
    white = (whiten.reshape(count * size, size) @ windows.T).reshape(count, size, -1)
    evidence = constants[:, None] - jnp.sum(white**2, axis=1) / 2
    inside = masks[:, offsets]
    return jnp.stack(
        [jax.scipy.special.logsumexp(jnp.where(part, evidence, -jnp.inf), axis=0) for part in (inside, ~inside)]
    )


def _toeplitz(side: int, image_size: int, *widths: float) -> np.ndarray:
    """Covariance along one side of white noise under these blurs one after the other: (side, side)."""
    profile = np.ones(1)
    for width in widths:
        profile = np.convolve(profile, _float64(_gaussian_profile, image_size, width))
    middle = len(profile) - 1
    correlation = np.correlate(profile, profile, mode="full")[middle:]
    # Profiles of small images end before the window does.
    correlation = np.pad(correlation, (0, max(0, side - len(correlation))))
    return correlation[np.abs(np.subtract.outer(np.arange(side), np.arange(side)))]


def _step(widths: tuple[float, float], image_size: int, grey_levels: int | None) -> float:
    """Of the grey levels: the range of the texture with the larger variance, in equal parts."""
    deviation = max(_toeplitz(1, image_size, width, EDGE_SIGMA)[0, 0] for width in widths)
    parts = 2**24 if grey_levels is None else check_count("grey_levels", grey_levels, 2) - 1
    return float(_RANGE * deviation / parts)


def _float64(function: Callable[..., Any], *arguments: Any) -> np.ndarray:
    """A profile or a band of `segjax.textures` in full precision; NumPy makes both where the widths are numbers."""
    return np.asarray(function(*arguments, np.dtype(np.float64)))


def _check_window(window: int, image_size: int) -> tuple[int, int]:
    image_size = check_count("image_size", image_size, 2)
    return check_count("window", window, 1, maximum=image_size), image_size


def _number(name: str, value: Any) -> float:
    """The width as a number: what is computed here is computed before any tracing."""
    _check_concrete(name, value)
    return float(cast(float, check_sigma(name, value)))


def _check_concrete(name: str, value: Any) -> None:
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{name} must not be traced: the oracle compiles its own programs, and loops on the host")
