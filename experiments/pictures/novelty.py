"""Is a picture like the images that a network was trained on? If not, the areas that the network reports mean nothing.

A network of two textures assigns each pixel to one of them, whatever the picture shows. So the picture, rescaled to the
grey levels of the training images, is cut into squares of a quarter of a training image's side (at least 8 pixels).
Each square has eight features:

    mean of its grey levels
    log s               s: standard deviation of its grey levels                      (contrast)
    log(d1 / s)         dk: root mean square difference of pixels k apart             (fineness, a variogram)
    log(d2 / d1)
    log(d4 / d2)
    skewness of its grey levels                                                       (a negative has the other sign)
    skewness of each pixel minus the mean of its 4 neighbours at distance 1           (dark dots or bright ones)
    the same at distance 2

A square is strange if its distance to the nearest of 1,024 training squares exceeds those of 99 % of these; each
feature is divided by its standard deviation. The means of the features over a picture scatter less: their distance to
the nearest training image, by the covariance of the training images, is compared with the largest such distance among
these. A picture gets a warning if more than a quarter of its squares are strange, if its means are further away, or if
it is a negative: with dark and bright swapped its means are nearer to groups of training images, and not too far away.

Half of the training images show both textures. The other half shows one alone, as a picture may. A picture with these
features passes, whatever it shows; docs/real-pictures.md has examples.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import scipy

import segjax

# A picture with a larger share of strange squares gets a warning. The second is the share of the training squares whose
# own distance counts as strange.
MOST_STRANGE, TRAINING_STRANGE = 0.25, 0.01
_LAGS, _DOTS = (1, 2, 4), (1, 2)
NUM_FEATURES = 2 + len(_LAGS) + 1 + len(_DOTS)
# Squares of training, at most: their distances take 8 MB.
MAX_TRAINING_SQUARES = 1024
# The sign that each feature gets in a negative.
_NEGATIVE_SIGNS = np.array([-1] + [1] * (1 + len(_LAGS)) + [-1] * (1 + len(_DOTS)))
# Training images per group; and how much nearer a negative is, in standard deviations of a picture's means.
_GROUP_SIZE, _MARGIN = 16, 2.0
# A square of less than 8 pixels per side has few differences over 4 pixels.
MIN_SIDE = 8
# Below the step of 8 bits of grey; the logarithm of 0 is not finite.
_FLOOR = 1e-3
# Images that are drawn from each of four sources, and their pixels in all: large images have more squares each.
_MIN_IMAGES, _MAX_IMAGES, _MAX_PIXELS = 16, 128, 2**21
MAX_TRAINING_IMAGES = 4 * _MAX_IMAGES
# The least variance of a combination of features in training, relative to that of one feature.
_LEAST_VARIANCE = 1e-4

# Grey levels of a bar are as close, as a share of the picture's range; and this share of its rows has no text or lines.
_SAME_GREY, _BAR_SHARE = 0.01, 0.9

Draw = Callable[..., segjax.Batch]


def square_side(image_size: int) -> int:
    """The side of a square, in pixels."""
    return max(MIN_SIDE, image_size // 4)


class Reference(NamedTuple):
    """What pictures are compared with.

    Attributes:
        squares: features of training squares, (at most MAX_TRAINING_SQUARES, NUM_FEATURES).
        images: mean features of training images, (at most MAX_TRAINING_IMAGES, NUM_FEATURES).
        number: of squares of a training image.
    """

    squares: np.ndarray
    images: np.ndarray
    number: int


class Strange(NamedTuple):
    """How strange a picture is.

    Attributes:
        share: of its squares that are strange.
        pixels: (height, width) of bool, those of the strange squares.
        distance: of its mean features to the nearest training image; 1 is the largest of training images to others.
        negative: whether its negative has a distance of at most 1, and is clearly nearer to training images.
    """

    share: float
    pixels: np.ndarray
    distance: float
    negative: bool


def reference(mixed: Draw, first: Draw, second: Draw, image_size: int) -> Reference:
    """The reference of a network's training images, for `strange`.

    Args:
        mixed: draws images of both textures, (key, batch_size=...) -> Batch; half of the images come from it.
        first, second: draw images of one texture alone.
        image_size: side of the images in pixels.
    """
    num_images = min(_MAX_IMAGES, max(_MIN_IMAGES, _MAX_PIXELS // image_size**2))
    parts: list[np.ndarray] = []
    # Batches of one size: XLA takes longer to compile another size than to draw the batch.
    for index, draw in enumerate((mixed, mixed, first, second)):
        batch = draw(jax.random.key(index), batch_size=num_images)
        parts += [describe(image, square_side(image_size)) for image in np.asarray(batch.image)[..., 0]]
    squares = np.array(parts)
    chosen = np.linspace(0, squares.shape[0] * squares.shape[1] - 1, MAX_TRAINING_SQUARES).astype(int)
    # An image may have fewer squares than are chosen.
    flat = squares.reshape(-1, NUM_FEATURES)[np.unique(chosen)]
    return Reference(flat, squares.mean(axis=1), squares.shape[1])


def strange(
    reference: Reference, image: np.ndarray, image_size: int, valid: np.ndarray | None = None
) -> Strange | None:
    """Compares a picture with training; None if it has no square, or training has fewer than two.

    Args:
        image: (height, width) on the training scale.
        image_size: side of the training images in pixels.
        valid: (height, width) of bool, the pixels that count; squares that are less than half valid do not.
    """
    side = square_side(image_size)
    shape = tuple(length // side for length in image.shape)
    counts = np.ones(shape, bool) if valid is None else _cut(valid, side).mean(axis=(2, 3)) >= 0.5
    if not counts.any() or len(reference.squares) < 2:
        return None
    deviation = reference.squares.std(axis=0)
    # A feature that is constant in training is not divided.
    deviation[deviation == 0] = 1
    squares, images = reference.squares / deviation, reference.images / deviation
    limit = np.quantile(_nearest(squares), 1 - TRAINING_STRANGE)
    is_strange, total = np.zeros(shape, bool), np.zeros(NUM_FEATURES)
    # Row by row: the distances of all squares of a large picture would take several times its memory.
    for row, here in enumerate(counts):
        features = describe(image[row * side : (row + 1) * side], side) / deviation
        is_strange[row] = here & (_nearest(features, squares) > limit)
        total += features[here].sum(axis=0)
    variances, directions = np.linalg.eigh(np.cov(images.T))
    weights = directions / np.sqrt(np.maximum(variances, _LEAST_VARIANCE))
    means = total / counts.sum()
    # In a negative, the mean m of the grey levels, the first feature, is 1 - m.
    negative_means = _NEGATIVE_SIGNS * means + np.eye(NUM_FEATURES)[0] / deviation
    images, pair = images @ weights, np.stack([means, negative_means]) @ weights
    # The means of fewer squares scatter more.
    scatter = (reference.number / counts.sum()) ** 0.5
    # Training images that are all equal have a limit of 0.
    limit = max(_nearest(images).max() * max(1.0, scatter), _FLOOR)
    distance, negative_distance = (_nearest(pair, images) / limit).tolist()
    negative = negative_distance <= 1 and _is_negative(images, pair, scatter)
    # Pixels beyond the last whole square belong to it.
    beyond = [(0, length % side) for length in image.shape]
    pixels = np.pad(is_strange.repeat(side, axis=0).repeat(side, axis=1), beyond, mode="edge")
    return Strange(float(is_strange[counts].mean()), pixels, distance, negative)


def _is_negative(images: np.ndarray, pair: np.ndarray, scatter: float) -> bool:
    """Whether a picture's negative is clearly nearer to training images than the picture.

    Args:
        images: means of training images, each column of variance 1, the last the direction of the largest variance.
        pair: the means of the picture, and those of its negative.
        scatter: of a picture's means, relative to that of a training image.
    """
    # Single small images scatter as far as negatives lie; groups scatter less. Along the direction of the largest
    # variance, which the shares of the textures cause, they differ in these.
    groups = np.array_split(images[np.argsort(images[:, -1])], -(-len(images) // _GROUP_SIZE))
    centres = np.array([group.mean(axis=0) for group in groups])
    deviation = max(float(np.sqrt(np.square(_nearest(images, centres)).mean())), _FLOOR)
    distance, negative_distance = _nearest(pair, centres)
    return bool(distance - negative_distance > _MARGIN * scatter * deviation)


def _nearest(rows: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """The distance of each row to the nearest of the others; by default, to the nearest other row."""
    distances = scipy.spatial.distance.cdist(rows, rows if others is None else others)
    if others is None:
        np.fill_diagonal(distances, np.inf)
    nearest: np.ndarray = distances.min(axis=1)
    return nearest


def describe(image: np.ndarray, side: int) -> np.ndarray:
    """The features of the whole squares of an image on the training scale: (squares, NUM_FEATURES)."""
    squares = _cut(image, side).reshape(-1, side, side).astype(float)
    pixels = (1, 2)
    deviations = [squares.std(axis=pixels)]
    for lag in _LAGS:
        down, across = squares[:, lag:] - squares[:, :-lag], squares[..., lag:] - squares[..., :-lag]
        deviations.append(np.sqrt((np.square(down).mean(axis=pixels) + np.square(across).mean(axis=pixels)) / 2))
    logarithms = np.log(np.maximum(deviations, _FLOOR))
    dots = []
    for lag in _DOTS:
        rows, columns = squares[..., lag:-lag], squares[:, lag:-lag]
        around = rows[:, 2 * lag :] + rows[:, : -2 * lag] + columns[..., 2 * lag :] + columns[..., : -2 * lag]
        dots.append(_skewness(rows[:, lag:-lag] - around / 4))
    means = squares.mean(axis=pixels)
    return np.stack([means, logarithms[0], *np.diff(logarithms, axis=0), _skewness(squares), *dots], axis=1)


def _skewness(squares: np.ndarray) -> np.ndarray:
    """The cube root of the skewness of each square, which scatters less than the skewness."""
    deviations = squares - squares.mean(axis=(1, 2), keepdims=True)
    scale = np.maximum(squares.std(axis=(1, 2)), _FLOOR)
    return np.cbrt((deviations**3).mean(axis=(1, 2))) / scale


def blank(name: str, grey: np.ndarray, valid: np.ndarray | None = None) -> list[str]:
    """Sentences on a picture of one grey level, or on bars of one at its edges, which show no texture.

    Args:
        name: of the picture.
        grey: (height, width).
        valid: (height, width) of bool, the pixels that count.
    """
    low, high = np.quantile(grey, (0.005, 0.995))
    if low == high:
        return [f"{name} is blank: 99% of its pixels have one grey level. Its areas mean nothing."]
    height, width = grey.shape
    counted = grey if valid is None else np.where(valid, grey, np.nan)
    tolerance, sentences = _SAME_GREY * (high - low), []
    for edge, upright in {"top": counted, "bottom": counted[::-1], "left": counted.T, "right": counted.T[::-1]}.items():
        if number := _bar(upright, tolerance):
            place = {"bottom": (0, height - number), "right": (width - number, 0)}.get(edge, (0, 0))
            size = (width, number) if edge in ("top", "bottom") else (number, height)
            box = ",".join(map(str, (*place, *size)))
            sentences.append(
                f"{name} has a bar of one grey level, {number} pixels, at the {edge}. --ignore-box {box} leaves it out."
            )
    return sentences


def _bar(grey: np.ndarray, tolerance: float) -> int:
    """The number of rows at the top in which three pixels of five have one grey level, but for text and lines."""
    level = np.median(grey[:MIN_SIDE])
    # NaN is no level: pixels that do not count are no bar.
    with np.errstate(invalid="ignore"):
        is_blank = (np.abs(grey - level) <= tolerance).mean(axis=1) > 0.6
    enough = np.flatnonzero(is_blank & (np.cumsum(is_blank) >= _BAR_SHARE * np.arange(1, len(grey) + 1)))
    number = int(enough[-1]) + 1 if len(enough) else 0
    # More than half of a picture is no bar: pixels far from all others, such as -9999, make the rest one grey level.
    return number if MIN_SIDE <= number <= len(grey) // 2 else 0


def _cut(array: np.ndarray, side: int) -> np.ndarray:
    """The whole squares of an array, (rows, columns, side, side)."""
    rows, columns = (length // side for length in array.shape)
    return array[: rows * side, : columns * side].reshape(rows, side, columns, side).swapaxes(1, 2)
