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

import jax
import numpy as np
import scipy

import segjax
from segjax import tiling

# A picture with a larger share of strange squares gets a warning. The second is the share of the training squares whose
# own distance counts as strange.
MOST_STRANGE, TRAINING_STRANGE = 0.25, 0.01
_LAGS = (1, 2, 4)
NUM_FEATURES = 2 + len(_LAGS)
# Squares of training and of a picture, at most: 1,000 x 1,024 distances take 8 MB.
MAX_TRAINING_SQUARES, _MAX_PICTURE_SQUARES = 1024, 1000
# A square of less than 8 pixels per side has few differences over 4 pixels.
_MIN_SIDE = 8
# Below the step of 8 bits of grey; the logarithm of 0 is not finite.
_FLOOR = 1e-3
# Images that are drawn from each source, and their pixels in all: large images have more squares each.
_MAX_IMAGES, _MAX_PIXELS = 64, 2**20

Draw = Callable[..., segjax.Batch]


def square_side(image_size: int) -> int:
    """The side of a square, in pixels."""
    return max(_MIN_SIDE, image_size // 4)


def training_squares(mixed: Draw, first: Draw, second: Draw, image_size: int) -> np.ndarray:
    """The features of training squares, (at most MAX_TRAINING_SQUARES, NUM_FEATURES), for `strange_share`.

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


def strange_share(squares: np.ndarray, image: np.ndarray, image_size: int) -> float | None:
    """The share of a picture's squares that are strange; None if it has no square, or training has fewer than two.

    Args:
        squares: the result of `training_squares`.
        image: (height, width) on any grey scale.
        image_size: side of the training images in pixels.
    """
    features = describe(tiling.to_training_scale(image, image_size), square_side(image_size))
    if not len(features) or len(squares) < 2:
        return None
    deviation = squares.std(axis=0)
    # A feature that is constant in training is not divided.
    deviation[deviation == 0] = 1
    training = squares / deviation
    training_distances = scipy.spatial.distance.cdist(training, training)
    np.fill_diagonal(training_distances, np.inf)
    limit = np.quantile(training_distances.min(axis=1), 1 - TRAINING_STRANGE)
    distances = scipy.spatial.distance.cdist(features / deviation, training)
    return float((distances.min(axis=1) > limit).mean())


def describe(image: np.ndarray, side: int) -> np.ndarray:
    """The features of the whole squares of an image on the training scale: (at most 1,000, NUM_FEATURES)."""
    rows, columns = (length // side for length in image.shape)
    indices = _evenly(np.arange(rows * columns), _MAX_PICTURE_SQUARES)
    corners = side * np.stack(np.divmod(indices, max(columns, 1)), axis=1)
    # Only these are copied: all squares of a large picture would take several times its memory.
    parts = [image[y : y + side, x : x + side] for y, x in corners]
    squares = np.array(parts, float).reshape(-1, side, side)
    pixels = (1, 2)
    deviations = [squares.std(axis=pixels)]
    for lag in _LAGS:
        down, across = squares[:, lag:] - squares[:, :-lag], squares[..., lag:] - squares[..., :-lag]
        deviations.append(np.sqrt((np.square(down).mean(axis=pixels) + np.square(across).mean(axis=pixels)) / 2))
    logarithms = np.log(np.maximum(deviations, _FLOOR))
    return np.stack([squares.mean(axis=pixels), logarithms[0], *np.diff(logarithms, axis=0)], axis=1)


def _evenly(rows: np.ndarray, number: int) -> np.ndarray:
    """At most `number` of the rows, evenly spaced: neighbouring squares are alike."""
    return rows[np.linspace(0, len(rows) - 1, min(number, len(rows))).astype(int)]
