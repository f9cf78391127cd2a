"""Is a picture like the images that a network was trained on? If not, the areas that the network gives mean nothing.

A network of two textures calls each pixel one or the other, whatever the picture shows. So the picture, on the scale of
grey of training, is cut into squares of a quarter of a training image's side (at least 8 pixels), and each is described
by five numbers:

    mean of its grey
    log s               s: standard deviation of its grey                             (contrast)
    log(d1 / s)         dk: root mean square difference of pixels k apart             (fineness, a variogram)
    log(d2 / d1)
    log(d4 / d2)

each divided by its standard deviation over 1,024 squares of training images. A square is strange where it lies further
from the nearest of those than 99 % of them lie from theirs, and a picture where more than a quarter of its squares are.

Half of the training squares are of mixed images, and half of either texture alone, which a picture may show as well.
A picture with the contrast and fineness of the training textures passes, whatever it shows; docs/real-pictures.md
lists which ones did.
"""

from collections.abc import Callable

import jax
import numpy as np

import segjax
from segjax import tiling

# The share of strange squares from which a picture gets a warning, and the share of training squares that are.
MOST_STRANGE, TRAINING_STRANGE = 0.25, 0.01
_LAGS = (1, 2, 4)
NUMBERS = 2 + len(_LAGS)
# The most squares of training and of a picture: at most 1,000 x 1,024 distances.
MOST_TRAINING, _MOST_OF_PICTURE = 1024, 1000
# A square of less than 8 pixels per side has hardly a difference over 4.
_SHORTEST = 8
# Below the step of 8 bits of grey; the logarithm of 0 is not finite.
_FLOOR = 1e-3
# Images of either texture alone, and their pixels: fewer of large images, which have more to show.
_MOST_IMAGES, _MOST_PIXELS = 64, 2**20

Draw = Callable[..., segjax.Batch]


def side(image_size: int) -> int:
    """The side of a square, in pixels."""
    return max(_SHORTEST, image_size // 4)


def training_squares(mixed: Draw, first: Draw, second: Draw, image_size: int) -> np.ndarray:
    """The numbers of squares of training images, (at most MOST_TRAINING, NUMBERS): what `strange_share` compares with.

    Args:
        mixed: draws images of both textures, (key, batch_size=...) -> Batch; they give half of the squares.
        first, second: draw images of either texture alone.
        image_size: side of the images in pixels.
    """
    number = min(_MOST_IMAGES, max(1, _MOST_PIXELS // image_size**2))
    parts = []
    # All of one size: XLA takes longer to compile another than to draw it.
    for index, draw in enumerate((mixed, mixed, first, second)):
        batch = draw(jax.random.key(index), batch_size=number)
        parts += [describe(image, side(image_size)) for image in np.asarray(batch.image)[..., 0]]
    return _evenly(np.concatenate(parts), MOST_TRAINING)


def strange_share(squares: np.ndarray, image: np.ndarray, image_size: int) -> float | None:
    """The share of a picture's squares that are strange; None if it has no square, or training less than two.

    Args:
        squares: of training, as `training_squares` gives them.
        image: (height, width) on any scale of grey.
        image_size: side of the training images in pixels.
    """
    described = describe(tiling.to_training_scale(image, image_size), side(image_size))
    if not len(described) or len(squares) < 2:
        return None
    # A number that is constant in training is not divided.
    spread = squares.std(axis=0)
    spread[spread == 0] = 1
    known = squares / spread
    between = _distances(known, known)
    np.fill_diagonal(between, np.inf)
    limit = np.quantile(between.min(axis=1), 1 - TRAINING_STRANGE)
    return float((_distances(described / spread, known).min(axis=1) > limit).mean())


def describe(image: np.ndarray, side: int) -> np.ndarray:
    """The numbers of the whole squares of an image on the scale of training, (squares, NUMBERS), 1,000 at most."""
    rows, columns = (length // side for length in image.shape)
    corners = side * np.stack(np.divmod(_evenly(np.arange(rows * columns), _MOST_OF_PICTURE), max(columns, 1)), axis=1)
    # Those squares alone: all of a large picture's would be several copies of it.
    parts = [image[y : y + side, x : x + side] for y, x in corners]
    squares = np.array(parts, float).reshape(-1, side, side)
    within = (1, 2)
    sizes = [squares.std(axis=within)]
    for lag in _LAGS:
        down, across = squares[:, lag:] - squares[:, :-lag], squares[..., lag:] - squares[..., :-lag]
        sizes.append(np.sqrt((np.square(down).mean(axis=within) + np.square(across).mean(axis=within)) / 2))
    logarithms = np.log(np.maximum(sizes, _FLOOR))
    return np.stack([squares.mean(axis=within), logarithms[0], *np.diff(logarithms, axis=0)], axis=1)


def _evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, evenly spaced: neighbouring squares are alike."""
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(first[:, None] - second[None]).sum(axis=-1))
