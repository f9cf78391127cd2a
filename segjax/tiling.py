"""One picture of any size through a network, in overlapping tiles, so that its memory does not grow with the picture.

A tile is as much larger than the part of it that is kept as the network sees beyond a pixel, and it begins where the
network's own squares do: the tiles give what the whole picture at once would give, to rounding.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from segjax.checks import check_array, check_count, check_model, check_variables
from segjax.models import PatchCNN, Variables, predict


def segment(
    model: nn.Module,
    variables: Variables,
    image: np.ndarray,
    image_size: int = 128,
    tile_size: int = 256,
    report: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Probability of the mask at each pixel of one picture, on whatever scale of grey: `level`, then `predict_tiled`.

    Args:
        model: a network of `segjax.models`.
        variables: of the model, for images of one channel.
        image: (height, width), real and finite.
        image_size: side in pixels of the images that the model was trained on.
        tile_size, report: as in `predict_tiled`.

    Returns:
        (height, width) float32; above 0.5 is the first texture.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    image = level(image, image_size)
    if isinstance(model, PatchCNN) and model.standardize:
        # By the whole picture, as each training image was by itself, and not tile by tile.
        mean, variance = float(image.mean(dtype=np.float64)), float(image.var(dtype=np.float64))
        image = (image - mean) / math.sqrt(variance + 1e-8)
        model = model.clone(standardize=False)
    return predict_tiled(model, variables, image, tile_size, report)


def predict_tiled(
    model: nn.Module,
    variables: Variables,
    image: np.ndarray,
    tile_size: int = 256,
    report: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """The sigmoid of `predict` for one image, (height, width) float32, in bounded memory.

    Args:
        model: with the attribute `receptive_field`. One that takes statistics of what it is given (a shared BatchNorm)
            takes them of each tile here, and its answer hangs on the tiles.
        variables: of the model, for images of one channel.
        image: (height, width) on the scale of the training images.
        tile_size: side in pixels of the part of a tile that is kept; memory grows with its square.
        report: called after each tile with the number of tiles done and that of all.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    check_model(model)
    check_variables(variables)
    _check_picture(image)
    field, multiple = getattr(model, "receptive_field", None), getattr(model, "multiple", 1)
    if field is None:
        raise ValueError("model must have a receptive_field, which says how far its tiles must overlap")
    # An even kernel sees further to one side than to the other.
    margin = _up(field // 2 + 1 if getattr(model, "kernel_size", 2) % 2 else field, multiple)
    tile_size = _up(check_count("tile_size", tile_size, 1), multiple)
    height, width = image.shape
    # As the network itself would do: then all tiles consist of whole squares.
    image = np.pad(image, ((0, -height % multiple), (0, -width % multiple)), mode="edge")
    result = np.empty(image.shape, np.float32)
    tiles = [
        (rows, columns)
        for rows in _parts(image.shape[0], tile_size, margin)
        for columns in _parts(image.shape[1], tile_size, margin)
    ]
    for done, ((seen_rows, rows), (seen_columns, columns)) in enumerate(tiles, start=1):
        window = np.asarray(image[seen_rows, seen_columns], np.float32)[None, ..., None]
        seen = np.asarray(_probability(model, variables, window))[0, ..., 0]
        result[rows, columns] = seen[_within(rows, seen_rows), _within(columns, seen_columns)]
        if report is not None:
            report(done, len(tiles))
    return result[:height, :width]


def level(image: np.ndarray, image_size: int) -> np.ndarray:
    """A picture on the scale of training images of `image_size` x `image_size` pixels: (height, width) float32.

    Each of those has its darkest pixel at 0 and its brightest at 1. The extremes of a larger picture lie further out,
    and may be one spot's; so the medians of the extremes of its squares of about that size are brought to 0 and 1. For
    one such square that is `textures.rescale`. A constant picture becomes 0.
    """
    _check_picture(image)
    check_count("image_size", image_size, 1)
    extremes = [(square.min(), square.max()) for square in _squares(image, image_size)]
    low, high = (float(value) for value in np.median(np.array(extremes, np.float64), axis=0))
    return ((image - np.float32(low)) / np.float32(high - low if high > low else 1)).astype(np.float32, copy=False)


@partial(jax.jit, static_argnums=0)
def _probability(model: nn.Module, variables: Variables, window: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(predict(model, variables, window))


def _parts(length: int, size: int, margin: int) -> Iterator[tuple[slice, slice]]:
    """(what a tile sees, what of it is kept) along one side. All see as much, so that one program serves them."""
    seen = min(size + 2 * margin, length)
    for start in range(0, length, size):
        first = min(max(start - margin, 0), length - seen)
        yield slice(first, first + seen), slice(start, min(start + size, length))


def _within(part: slice, seen: slice) -> slice:
    return slice(part.start - seen.start, part.stop - seen.start)


def _squares(image: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The picture in whole squares side by side; one that has no whole square is one itself."""
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
