"""Prediction for a picture of any size in overlapping tiles, so that the memory does not grow with the picture.

Each tile has a margin around its result, as wide as the network's input range beyond a pixel, and starts where a square
of the network starts. Together the tiles have the result of the whole picture, up to rounding. Networks that use
statistics of their input are an exception: batch statistics and, in `predict_tiled`, `standardize` are those of each
tile.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from segjax._checks import check_array, check_callable, check_count, check_model, check_variables
from segjax.metrics import probability_of
from segjax.models import Variables, predict

# Outliers lie beyond these quantiles by more than this multiple of their difference: training images of Gaussian
# textures and of scikit-image's brick, grass and gravel reach 0.57, larger photographs 0.75.
_QUANTILES, _MOST_BEYOND = (0.005, 0.995), 0.75
# Pixels that are sorted at a time; quantiles of as many are those of the picture.
_MAX_SAMPLED = 2**20


def segment(
    model: nn.Module,
    variables: Variables,
    image: np.ndarray,
    image_size: int,
    tile_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
    valid: np.ndarray | None = None,
) -> np.ndarray:
    """Probability of the mask at each pixel of one picture on any grey scale: `to_training_scale` and `predict_tiled`.

    A network that standardizes its input gets the picture by the medians of its squares' means and variances, as the
    training scale is that of their extremes: neither one spot nor a dark bar decides on them.

    Args:
        model: a Linen module with the attributes of `segjax.models.Network`; with `batch_statistics` the result changes
            with `tile_size`, as `predict_tiled` says.
        variables: of the model, for images of one channel.
        image: (height, width), real and finite.
        image_size: side in pixels of the images that the model was trained on, >= 2.
        tile_size, progress: as in `predict_tiled`.
        valid: (height, width) of bool, the pixels that count; by default all.

    Returns:
        (height, width) float32; above 0.5 for the first texture, NaN where `valid` is False.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    check_model(model, "standardize")
    image = to_training_scale(image, image_size, valid)
    if model.standardize:
        # Once for the picture: the statistics of single tiles would cause steps between them.
        squares = _squares(image, image_size, valid)
        moments = [(square.mean(dtype=np.float64), square.var(dtype=np.float64)) for square in squares]
        mean, variance = (float(value) for value in np.median(moments, axis=0))
        # 1e-8 as in the network: a constant picture stays 0.
        image = (image - mean) / math.sqrt(variance + 1e-8)
        model = model.clone(standardize=False)
    probability = predict_tiled(model, variables, image, tile_size, progress)
    if valid is not None:
        probability[~valid] = np.nan
    return probability


def predict_tiled(
    model: nn.Module,
    variables: Variables,
    image: np.ndarray,
    tile_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """The sigmoid of `predict` for one image, (height, width) float32, in bounded memory.

    Args:
        model: a Linen module with the attributes `margin`, `multiple` and `batch_statistics` of
            `segjax.models.Network`. If `batch_statistics` or `standardize` is true, the statistics are those of each
            tile, so that the result changes with the tile size.
        variables: of the model, for images of one channel.
        image: (height, width) on the scale of the training images.
        tile_size: side in pixels of a tile without its margin; memory grows with its square.
        progress: called after each tile with the number of tiles done and the number of all tiles.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    check_model(model, "margin", "multiple", "batch_statistics")
    check_variables(variables)
    if progress is not None:
        check_callable("progress", progress, "done", "all")
    _check_picture(image)
    multiple = check_count("multiple", model.multiple, minimum=1)
    # Rounded up, so that tiles start where squares of the whole picture start.
    margin = _round_up(check_count("margin", model.margin, minimum=0), multiple)
    tile_size = _round_up(check_count("tile_size", tile_size, 1), multiple)
    height, width = image.shape
    # The padding of the network for the whole picture: then all tiles consist of whole squares.
    image = np.pad(image, ((0, -height % multiple), (0, -width % multiple)), mode="edge")
    result = np.empty(image.shape, np.float32)
    tiles = [
        (rows, columns)
        for rows in _parts(image.shape[0], tile_size, margin)
        for columns in _parts(image.shape[1], tile_size, margin)
    ]
    for done, ((input_rows, rows), (input_columns, columns)) in enumerate(tiles, start=1):
        # Copied to the device tile by tile; the picture itself stays on the host.
        tile = np.asarray(image[input_rows, input_columns], np.float32)[None, ..., None]
        probability = np.asarray(_probability(model, variables, tile))[0, ..., 0]
        result[rows, columns] = probability[_relative_to(input_rows, rows), _relative_to(input_columns, columns)]
        if progress is not None:
            progress(done, len(tiles))
    return result[:height, :width]


def to_training_scale(image: np.ndarray, image_size: int, valid: np.ndarray | None = None) -> np.ndarray:
    """A picture on the scale of training images of `image_size` x `image_size` pixels: (height, width) float32.

    The darkest pixel of a training image is 0 and the brightest 1. A larger picture has more extreme pixels, so it is
    cut into squares of about the training size, and the medians of their minima and maxima are mapped to 0 and 1. For
    one square that is `textures.rescale`. Before, `outliers` and pixels that are not `valid` get the median of their
    neighbours. A constant picture becomes 0.

    Args:
        image: (height, width), real and finite.
        image_size: >= 2.
        valid: (height, width) of bool, the pixels that count; by default all.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    _check_picture(image, valid)
    check_count("image_size", image_size, 2)
    image = _without_overflow(image)
    bad = outliers(image, valid)
    if valid is not None:
        bad |= ~valid
    # In the picture's precision, or in float32 if that is higher: a small contrast on a large offset would be lost.
    scaled = np.array(image, np.result_type(image.dtype, np.float32))
    scaled[bad] = _neighbours(scaled, bad)
    extremes = [(square.min(), square.max()) for square in _squares(scaled, image_size, valid)]
    low, high = (float(value) for value in np.median(np.array(extremes, np.float64), axis=0))
    scaled -= low
    scaled /= high - low if high > low else 1
    return scaled.astype(np.float32, copy=False)


def outliers(image: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Hot and dead pixels: (height, width) of bool.

    They lie beyond the quantiles 0.005 and 0.995 of the picture by more than three quarters of the difference of these.
    Pixels of Gaussian textures and of photographs do not; more than half a percent of a picture are no outliers.

    Args:
        image, valid: as in `to_training_scale`.
    """
    _check_picture(image, valid)
    image = _without_overflow(image)
    pixels = image.ravel() if valid is None else image[valid]
    sampled = pixels[:: -(-len(pixels) // _MAX_SAMPLED)]
    low, high = (float(value) for value in np.quantile(sampled.astype(np.float64), _QUANTILES))
    reach = _MOST_BEYOND * (high - low)
    # In the dtype of the picture, a bound may be infinite.
    with np.errstate(over="ignore"):
        beyond: np.ndarray = (image < low - reach) | (image > high + reach)
    return beyond if valid is None else beyond & valid


# Linen modules with equal fields are equal, so a second picture uses the compiled program of the first.
@partial(jax.jit, static_argnums=0)
def _probability(model: nn.Module, variables: Variables, tile: jax.Array) -> jax.Array:
    return probability_of(predict(model, variables, tile))


def _parts(length: int, size: int, margin: int) -> Iterator[tuple[slice, slice]]:
    """(the input of a tile, its part of the result) along one side."""
    # At the picture's border a tile moves inwards instead of shrinking: one shape, so one compiled program.
    input_size = min(size + 2 * margin, length)
    for start in range(0, length, size):
        first = min(max(start - margin, 0), length - input_size)
        yield slice(first, first + input_size), slice(start, min(start + size, length))


def _relative_to(outer: slice, part: slice) -> slice:
    return slice(part.start - outer.start, part.stop - outer.start)


def _squares(image: np.ndarray, size: int, valid: np.ndarray | None) -> list[np.ndarray]:
    """Approximately square parts of a picture, with sides of at least `size`; a smaller picture is one part.

    Of parts that are at least half valid only the valid pixels are returned, the other parts are left out.
    """
    rows, columns = (max(1, length // size) for length in image.shape)

    def parts(array: np.ndarray) -> Iterator[np.ndarray]:
        for row in np.array_split(array, rows, axis=0):
            yield from np.array_split(row, columns, axis=1)

    if valid is None:
        return list(parts(image))
    squares = [part[here] for part, here in zip(parts(image), parts(valid), strict=True) if here.mean() >= 0.5]
    return squares or [image[valid]]


def _neighbours(image: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """For each bad pixel the median of the good ones at most 2 pixels away; if there are none, that of the picture."""
    rows, columns = np.nonzero(bad)
    values = np.full(len(rows), np.median(image[~bad]) if len(rows) else 0, image.dtype)
    offsets = np.arange(-2, 3)
    # In parts, since the neighbours take 25 times the memory of the pixels.
    for start in range(0, len(rows), _MAX_SAMPLED // 25):
        part = slice(start, start + _MAX_SAMPLED // 25)
        y = np.clip(rows[part, None, None] + offsets[:, None], 0, image.shape[0] - 1)
        x = np.clip(columns[part, None, None] + offsets, 0, image.shape[1] - 1)
        neighbours = np.where(bad[y, x], np.nan, image[y, x]).reshape(len(y), -1)
        # NaN comes last.
        neighbours.sort(axis=1)
        counts = np.isfinite(neighbours).sum(axis=1)
        medians = neighbours[np.arange(len(y)), np.maximum(counts - 1, 0) // 2]
        values[part] = np.where(counts > 0, medians, values[part])
    return values


def _without_overflow(image: np.ndarray) -> np.ndarray:
    """A picture, divided by 4 if the sum or difference of two pixels may be infinite."""
    image = np.asarray(image)
    limit = float(np.finfo(np.result_type(image.dtype, np.float32)).max) / 4
    # A power of two: pixels of usual size keep their digits beside a huge one.
    return image / 4 if max(float(image.max()), -float(image.min())) > limit else image


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _check_picture(image: Any, valid: Any = None) -> None:
    check_array("image", image, any_order=True)
    if image.ndim != 2 or not image.size:
        raise ValueError(f"image must have shape (height, width), got {image.shape}")
    if np.iscomplexobj(image) or not np.isfinite(image).all():
        raise ValueError("image must be of real, finite numbers")
    if valid is not None:
        check_array("valid", valid)
        if valid.dtype != bool or valid.shape != image.shape or not valid.any():
            raise ValueError(
                f"valid must be a mask of shape {image.shape} with some True, got {valid.dtype}{valid.shape}"
            )
