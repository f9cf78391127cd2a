"""How far a predicted area is from the true one, measured on pictures whose areas are known.

Pictures are composed of the held-out strips of two photographs by smooth random masks, which cover 5 to 95 % of the
picture and are half to twice as smooth as in training. Most errors lie at the edge of the mask, where the network is
unsure. So the error of a share is proportional to the share of unsure pixels, and there is noise:

    true = predicted + unsure * (slope + tilt * (predicted - 1/2)) + noise
    variance of the noise = picture + square / number of squares

A square is as large as a training image. Errors of single squares average out in a large picture; those from its light
do not. All numbers are fitted to pictures of 1, 4 and 16 squares. An interval reaches as many standard deviations as
cover 96.5 % of these pictures, which is 95 % of others.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy

from segjax.textures import EDGE_SIGMA

# Side of a composed picture in squares -> number of pictures; 20 million pixels for images of 128 x 128.
_NUMBERS = {1: 160, 2: 80, 4: 48}
# The network is unsure at a probability between these.
UNSURE = (0.1, 0.9)
# Of the pictures to which the numbers are fitted; of others it is one or two points less.
_COVERAGE = 0.965
_SHARES = (0.05, 0.95)


class AreaError(NamedTuple):
    """The errors of predicted shares.

    Attributes:
        slope, tilt: error per share of unsure pixels.
        picture, square: variances of the noise.
        reach: of an interval, in standard deviations.
    """

    slope: float
    tilt: float
    picture: float
    square: float
    reach: float

    def interval(self, probability: np.ndarray, image_size: int) -> tuple[float, float]:
        """The 95 % interval of the first texture's share, from its probability (height, width), NaN where left out.

        Args:
            image_size: side of the training images in pixels.
        """
        share, unsure = shares(probability)
        squares = np.isfinite(probability).sum() / image_size**2
        reach = self.reach * float(self.picture + self.square / squares) ** 0.5
        centre = share + unsure * (self.slope + self.tilt * (share - 0.5))
        return max(0.0, min(centre - reach, 1.0)), max(0.0, min(centre + reach, 1.0))


def shares(probability: np.ndarray) -> tuple[float, float]:
    """The shares of the first texture and of unsure pixels."""
    counted = probability[np.isfinite(probability)]
    return float((counted > 0.5).mean()), float(((counted > UNSURE[0]) & (counted < UNSURE[1])).mean())


def measure(
    segment: Callable[[np.ndarray], np.ndarray],
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    image_size: int,
    sigma: float,
    contrast: float,
) -> AreaError:
    """The errors of a network's shares; the random numbers are always the same.

    Args:
        segment: picture (height, width) -> probability of the first texture.
        first, second: held-out strips of the two materials, (height, width).
        image_size, sigma, contrast: of training.
    """
    rng = np.random.default_rng(0)
    rows = []
    for side, number in _NUMBERS.items():
        for _ in range(number):
            picture, mask = compose(rng, first, second, side * image_size, sigma * 2 ** rng.uniform(-1, 1), contrast)
            share, unsure = shares(segment(picture))
            rows.append((mask.mean() - share, unsure, unsure * (share - 0.5), side**2))
    errors, *terms, squares = np.array(rows).T
    (slope, tilt), *_ = np.linalg.lstsq(np.stack(terms, axis=1), errors)
    squared = np.square(errors - slope * terms[0] - tilt * terms[1])
    # Multiplied by the number of squares, the squared errors of all sizes are about as large.
    (picture_part, square), _ = scipy.optimize.nnls(
        np.stack([squares, np.ones_like(squares)], axis=1), squares * squared
    )
    reach = np.quantile(np.sqrt(squared / np.maximum(picture_part + square / squares, 1e-12)), _COVERAGE)
    return AreaError(*map(float, (slope, tilt, picture_part, square, reach)))


def compose(
    rng: np.random.Generator,
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    side: int,
    sigma: float,
    contrast: float,
) -> tuple[np.ndarray, np.ndarray]:
    """A picture of two materials, and its mask: (side, side) each, True where the first is.

    Args:
        first, second: strips of the materials; one of each is drawn, in proportion to its area.
    """
    field = scipy.ndimage.gaussian_filter(rng.normal(size=(side, side)), sigma, mode="wrap")
    mask = field > np.quantile(field, 1 - rng.uniform(*_SHARES))
    weight = scipy.ndimage.gaussian_filter(mask.astype(np.float32), EDGE_SIGMA, mode="nearest")
    inside, outside = (_crop(rng, _drawn(rng, strips), side, contrast) for strips in (first, second))
    return weight * inside + (1 - weight) * outside, mask


def _drawn(rng: np.random.Generator, strips: Sequence[np.ndarray]) -> np.ndarray:
    if len(strips) == 1:
        return strips[0]
    sizes = np.array([strip.size for strip in strips])
    return strips[rng.choice(len(strips), p=sizes / sizes.sum())]


def _crop(rng: np.random.Generator, exemplar: np.ndarray, side: int, contrast: float) -> np.ndarray:
    """A square of a material, mirrored where it is too small, flipped and of another contrast at random."""
    padding = [(0, max(0, side - length)) for length in exemplar.shape]
    material = np.pad(exemplar, padding, mode="symmetric")
    y, x = (rng.integers(0, length - side + 1) for length in material.shape)
    square = material[y : y + side, x : x + side]
    square = square.T if rng.integers(2) else square
    mean = exemplar.mean()
    crop: np.ndarray = mean + rng.uniform(1 - contrast, 1 + contrast) * (square - mean)
    return crop
