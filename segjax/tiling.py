"""A picture of any size through a network, in tiles that overlap, so that the network's memory does not grow with it.

Around the part that is kept, a tile has a margin as wide as the network sees beyond a pixel, and it begins where the
network's own squares begin. Together the tiles give what the whole picture gives at once, to rounding. Not so for a
network that uses statistics of its input, batch statistics or, in `predict_tiled`, `standardize`: it uses each tile's.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from segjax._checks import check_array, check_count, check_network, check_variables
from segjax.models import Variables, predict


def segment(
    model: nn.Module,
    variables: Variables,
    image: np.ndarray,
    image_size: int,
    tile_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Probability of the mask at each pixel of one picture on any grey scale: `to_training_scale` and `predict_tiled`.

    Args:
        model: a Linen module with the attributes of `segjax.models.Network`; with `batch_statistics` the result changes
            with `tile_size`, as `predict_tiled` says.
        variables: of the model, for images of one channel.
        image: (height, width), real and finite.
        image_size: side in pixels of the images that the model was trained on.
        tile_size, progress: as in `predict_tiled`.

    Returns:
        (height, width) float32; above 0.5 is the first texture.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    check_network(model, "standardize")
    image = to_training_scale(image, image_size)
    if model.standardize:
        # With the mean and variance of the whole picture: those of single tiles would show as steps between them.
        mean, variance = float(image.mean(dtype=np.float64)), float(image.var(dtype=np.float64))
        # 1e-8 as in the network: a constant picture stays 0.
        image = (image - mean) / math.sqrt(variance + 1e-8)
        model = model.clone(standardize=False)
    return predict_tiled(model, variables, image, tile_size, progress)


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
            `segjax.models.Network`. Where `batch_statistics` or `standardize` is true, the statistics are those of each
            tile, so that the result changes with the tile size.
        variables: of the model, for images of one channel.
        image: (height, width) on the scale of the training images.
        tile_size: side in pixels of the part of a tile that is kept; memory grows with its square.
        progress: called after each tile with the number of tiles done and the number of all tiles.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    check_network(model, "margin", "multiple", "batch_statistics")
    check_variables(variables)
    _check_picture(image)
    multiple = check_count("multiple", model.multiple, minimum=1)
    # Rounded up, so that tiles begin where the squares of the whole picture do.
    margin = _up(check_count("margin", model.margin, minimum=0), multiple)
    tile_size = _up(check_count("tile_size", tile_size, 1), multiple)
    height, width = image.shape
    # As the network itself would pad the whole picture: then all tiles consist of whole squares.
    image = np.pad(image, ((0, -height % multiple), (0, -width % multiple)), mode="edge")
    result = np.empty(image.shape, np.float32)
    tiles = [
        (rows, columns)
        for rows in _parts(image.shape[0], tile_size, margin)
        for columns in _parts(image.shape[1], tile_size, margin)
    ]
    for done, ((seen_rows, rows), (seen_columns, columns)) in enumerate(tiles, start=1):
        # Copied to the device tile by tile; the picture itself stays with the host.
        window = np.asarray(image[seen_rows, seen_columns], np.float32)[None, ..., None]
        seen = np.asarray(_probability(model, variables, window))[0, ..., 0]
        result[rows, columns] = seen[_within(rows, seen_rows), _within(columns, seen_columns)]
        if progress is not None:
            progress(done, len(tiles))
    return result[:height, :width]


def to_training_scale(image: np.ndarray, image_size: int) -> np.ndarray:
    """A picture on the scale of training images of `image_size` x `image_size` pixels: (height, width) float32.

    A training image has its darkest pixel at 0 and its brightest at 1. The extremes of a larger picture lie further
    out, and a single spot can set them. So the picture is cut into squares of about the training size, and the medians
    of their minima and maxima go to 0 and 1. For one square that is `textures.rescale`. A constant picture becomes 0.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    _check_picture(image)
    check_count("image_size", image_size, 1)
    extremes = [(square.min(), square.max()) for square in _squares(image, image_size)]
    low, high = (float(value) for value in np.median(np.array(extremes, np.float64), axis=0))
    # In the picture's own precision, float32 at least: a small contrast on a large offset would be lost.
    above = np.subtract(image, low, dtype=np.result_type(image.dtype, np.float32))
    return (above / (high - low if high > low else 1)).astype(np.float32, copy=False)


# Linen modules of equal fields are equal, so a second picture finds the compiled program of the first.
@partial(jax.jit, static_argnums=0)
def _probability(model: nn.Module, variables: Variables, window: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(predict(model, variables, window))


def _parts(length: int, size: int, margin: int) -> Iterator[tuple[slice, slice]]:
    """(the part that a tile sees, the part that is kept) along one side."""
    # At the picture's border a tile moves inwards instead of shrinking: one shape, and so one compiled program.
    seen = min(size + 2 * margin, length)
    for start in range(0, length, size):
        first = min(max(start - margin, 0), length - seen)
        yield slice(first, first + seen), slice(start, min(start + size, length))


def _within(part: slice, seen: slice) -> slice:
    return slice(part.start - seen.start, part.stop - seen.start)


def _squares(image: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The picture cut into about square parts of at least `size`; a smaller picture is one part."""
    rows, columns = (max(1, length // size) for length in image.shape)
    for row in np.array_split(image, rows, axis=0):
        yield from np.array_split(row, columns, axis=1)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _check_picture(image: Any) -> None:
    check_array("image", image)
    if image.ndim != 2 or not image.size:
        raise ValueError(f"image must have shape (height, width), got {image.shape}")
    if np.iscomplexobj(image) or not np.isfinite(image).all():
        raise ValueError("image must be of real, finite numbers")
