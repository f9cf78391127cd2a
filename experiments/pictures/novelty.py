"""Is a picture like the images that a network was trained on? If not, the areas that the network reports mean nothing.

A network of two textures assigns each pixel to one of them, whatever the picture shows. So the picture, rescaled to the
grey levels of the training images, is cut into squares of a quarter of a training image's side (at least 8 pixels).
Each square has five features:

    mean of its grey levels
    log s               s: standard deviation of its grey levels                      (contrast)
    log(d1 / s)         dk: root mean square difference of pixels k apart             (fineness, a variogram)
    log(d2 / d1)
    log(d4 / d2)

each divided by its standard deviation over 1,024 squares of training images. A square is strange if its distance to the
nearest training square exceeds those of 99 % of the training squares. A picture gets a warning if more than a quarter
of its squares are strange.

Half of the training squares come from mixed images. The other half shows one texture alone, as a picture may. A picture
with the contrast and fineness of the training textures passes, whatever it shows; docs/real-pictures.md has examples.
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
_LAGS = (1, 2, 4)
NUM_FEATURES = 2 + len(_LAGS)
# Squares of training, at most: their distances take 8 MB.
MAX_TRAINING_SQUARES = 1024
# A square of less than 8 pixels per side has few differences over 4 pixels.
_MIN_SIDE = 8
# Below the step of 8 bits of grey; the logarithm of 0 is not finite.
_FLOOR = 1e-3
# Images that are drawn from each source, and their pixels in all: large images have more squares each.
_MAX_IMAGES, _MAX_PIXELS = 64, 2**20

# Grey levels of a bar are as close, as a share of the picture's range; and this share of its rows has no text or lines.
_SAME_GREY, _BAR_SHARE = 0.01, 0.9

Draw = Callable[..., segjax.Batch]


def square_side(image_size: int) -> int:
    """The side of a square, in pixels."""
    return max(_MIN_SIDE, image_size // 4)


def training_squares(mixed: Draw, first: Draw, second: Draw, image_size: int) -> np.ndarray:
    """The features of training squares, (at most MAX_TRAINING_SQUARES, NUM_FEATURES), for `strange`.

    Args:
        mixed: draws images of both textures, (key, batch_size=...) -> Batch; half of the squares come from them.
        first, second: draw images of one texture alone.
        image_size: side of the images in pixels.
    """
    num_images = min(_MAX_IMAGES, max(1, _MAX_PIXELS // image_size**2))
    parts = []
    # Batches of one size: XLA takes longer to compile another size than to draw the batch.
    for index, draw in enumerate((mixed, mixed, first, second)):
        batch = draw(jax.random.key(index), batch_size=num_images)
        parts += [describe(image, square_side(image_size)) for image in np.asarray(batch.image)[..., 0]]
    return _evenly(np.concatenate(parts), MAX_TRAINING_SQUARES)


class Strange(NamedTuple):
    """The strange squares of a picture: their share of all its squares, and their pixels, (height, width) of bool."""

    share: float
    pixels: np.ndarray


def strange(squares: np.ndarray, image: np.ndarray, image_size: int, valid: np.ndarray | None = None) -> Strange | None:
    """The strange squares of a picture; None if it has no square, or training has fewer than two.

    Args:
        squares: the result of `training_squares`.
        image: (height, width) on the training scale.
        image_size: side of the training images in pixels.
        valid: (height, width) of bool, the pixels that count; squares that are less than half valid do not.
    """
    side = square_side(image_size)
    shape = tuple(length // side for length in image.shape)
    counts = np.ones(shape, bool) if valid is None else _cut(valid, side).mean(axis=(2, 3)) >= 0.5
    if not counts.any() or len(squares) < 2:
        return None
    deviation = squares.std(axis=0)
    # A feature that is constant in training is not divided.
    deviation[deviation == 0] = 1
    training = squares / deviation
    training_distances = scipy.spatial.distance.cdist(training, training)
    np.fill_diagonal(training_distances, np.inf)
    limit = np.quantile(training_distances.min(axis=1), 1 - TRAINING_STRANGE)
    is_strange = np.zeros(shape, bool)
    # Row by row: the distances of all squares of a large picture would take several times its memory.
    for row, here in enumerate(counts):
        features = describe(image[row * side : (row + 1) * side], side) / deviation
        is_strange[row] = here & (scipy.spatial.distance.cdist(features, training).min(axis=1) > limit)
    # Pixels beyond the last whole square belong to it.
    rows, columns = (
        np.minimum(np.arange(length) // side, number - 1) for length, number in zip(image.shape, shape, strict=True)
    )
    return Strange(float(is_strange[counts].mean()), is_strange[np.ix_(rows, columns)])


def describe(image: np.ndarray, side: int) -> np.ndarray:
    """The features of the whole squares of an image on the training scale: (squares, NUM_FEATURES)."""
    squares = _cut(image, side).reshape(-1, side, side).astype(float)
    pixels = (1, 2)
    deviations = [squares.std(axis=pixels)]
    for lag in _LAGS:
        down, across = squares[:, lag:] - squares[:, :-lag], squares[..., lag:] - squares[..., :-lag]
        deviations.append(np.sqrt((np.square(down).mean(axis=pixels) + np.square(across).mean(axis=pixels)) / 2))
    logarithms = np.log(np.maximum(deviations, _FLOOR))
    return np.stack([squares.mean(axis=pixels), logarithms[0], *np.diff(logarithms, axis=0)], axis=1)


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
    """The number of rows at the top in which most pixels have one grey level, but for text and lines."""
    level = np.median(grey[:_MIN_SIDE])
    # NaN is no level: pixels that do not count are no bar.
    with np.errstate(invalid="ignore"):
        is_blank = (np.abs(grey - level) <= tolerance).mean(axis=1) > 0.5
    enough = np.flatnonzero(is_blank & (np.cumsum(is_blank) >= _BAR_SHARE * np.arange(1, len(grey) + 1)))
    number = int(enough[-1]) + 1 if len(enough) else 0
    return number if number >= _MIN_SIDE else 0


def _cut(array: np.ndarray, side: int) -> np.ndarray:
    """The whole squares of an array, (rows, columns, side, side)."""
    rows, columns = (length // side for length in array.shape)
    return array[: rows * side, : columns * side].reshape(rows, side, columns, side).swapaxes(1, 2)


def _evenly(rows: np.ndarray, number: int) -> np.ndarray:
    """At most `number` of the rows, evenly spaced: neighbouring squares are alike."""
    return rows[np.linspace(0, len(rows) - 1, min(number, len(rows))).astype(int)]
