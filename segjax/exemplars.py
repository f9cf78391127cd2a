"""Images of two photographed textures, split by the same random smooth masks: no label is needed to learn from them.

The law, from one exemplar of each material:

    mask  = (b * g_sigma) > 0                        as in `textures`
    image = rescale(w crop1 + (1 - w) crop2)         w: the mask blurred by g_1, as the notebook blurs its edge

A crop lies anywhere in its exemplar, is flipped and turned by quarters at random, and has its contrast changed. Away
from the edge of the mask a pixel is one of the photograph; the notebook's last blur would soften them all.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.checks import check_array, check_count, check_key, check_positive, check_share
from segjax.textures import EDGE_SIGMA, Batch, blur, rescale


class _Keys(NamedTuple):
    mask: jax.Array
    first: jax.Array
    second: jax.Array


class _CropKeys(NamedTuple):
    row: jax.Array
    column: jax.Array
    turn: jax.Array
    contrast: jax.Array


def generate_crops(
    key: jax.Array,
    first: jax.Array | np.ndarray,
    second: jax.Array | np.ndarray,
    batch_size: int = 8,
    image_size: int = 128,
    sigma: jax.typing.ArrayLike = 25.6,
    contrast: jax.typing.ArrayLike = 0.2,
) -> Batch:
    """Draws a batch of images and masks from two exemplars: a pure function of `key`, to be used as `generate`.

    Args:
        key: one key of `jax.random`.
        first: (height, width) of floating point on any scale, both at least `image_size`: the material where the mask
            is 1.
        second: the same where the mask is 0, on the same scale.
        batch_size, image_size: as in `generate_data`, static.
        sigma: width in pixels of the mask's kernel; may be traced.
        contrast: each crop's distance from its exemplar's mean is multiplied by a number drawn evenly from
            [1 - contrast, 1 + contrast], in [0, 1); may be traced.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.

    >>> import jax
    >>> first, second = jax.random.uniform(jax.random.key(1), (2, 40, 60))
    >>> batch = generate_crops(jax.random.key(0), first, second, batch_size=2, image_size=32, sigma=6.4)
    >>> batch.image.shape, batch.mask.shape
    ((2, 32, 32, 1), (2, 32, 32, 1))
    """
    check_key(key)
    batch_size = check_count("batch_size", batch_size, minimum=1)
    image_size = check_count("image_size", image_size, minimum=2)
    check_positive("sigma", sigma)
    check_share("contrast", contrast)
    for name, exemplar in (("first", first), ("second", second)):
        _check_exemplar(name, exemplar, image_size)
    keys = _Keys(*jax.random.split(key, len(_Keys._fields)))
    inside = _crops(keys.first, first, batch_size, image_size, contrast)
    outside = _crops(keys.second, second, batch_size, image_size, contrast)
    noise = jax.random.normal(keys.mask, inside.shape, inside.dtype)
    return mix_crops(blur(noise, sigma) > 0, inside, outside)


def mix_crops(mask: jax.Array, first: jax.Array, second: jax.Array) -> Batch:
    """The deterministic part: a mask (batch, n, n) of bool and two crops of that shape -> images and masks."""
    wanted = mask.astype(first.dtype)
    # An odd kernel has a middle; the even one of the notebook's sizes moves an edge by half a pixel.
    size = wanted.shape[-1]
    odd = jnp.pad(wanted, [(0, 0)] + 2 * [(0, 1 - size % 2)], mode="edge")
    # The zeros that a blur sees beyond the image belong to neither material.
    share = (blur(odd, EDGE_SIGMA) / blur(jnp.ones_like(odd), EDGE_SIGMA))[:, :size, :size]
    image = rescale(share * first + (1 - share) * second)
    return Batch(image[..., None], wanted[..., None])


def _crops(
    key: jax.Array, exemplar: jax.Array | np.ndarray, number: int, size: int, contrast: jax.typing.ArrayLike
) -> jax.Array:
    """(number, size, size) squares of an exemplar, in any of the eight ways to lay one down."""
    # Of an array that is there it is a number, and not for the compiler to sum up.
    mean = exemplar.mean()
    exemplar = jnp.asarray(exemplar)
    keys = _CropKeys(*jax.random.split(key, len(_CropKeys._fields)))
    rows = jax.random.randint(keys.row, (number,), 0, exemplar.shape[0] - size + 1)
    columns = jax.random.randint(keys.column, (number,), 0, exemplar.shape[1] - size + 1)
    turns = jax.random.bernoulli(keys.turn, shape=(number, 3))
    factors = 1 + jnp.asarray(contrast, exemplar.dtype) * jax.random.uniform(
        keys.contrast, (number,), exemplar.dtype, -1, 1
    )

    def crop(row: jax.Array, column: jax.Array, turn: jax.Array, factor: jax.Array) -> jax.Array:
        square = lax.dynamic_slice(exemplar, (row, column), (size, size))
        # Two flips and a transposition, each or not: the quarter turns are among their eight products.
        square = jnp.where(turn[0], square[::-1], square)
        square = jnp.where(turn[1], square[:, ::-1], square)
        square = jnp.where(turn[2], square.T, square)
        return (mean + factor * (square - mean)).astype(exemplar.dtype)

    return jax.vmap(crop)(rows, columns, turns, factors)


def _check_exemplar(name: str, exemplar: jax.Array | np.ndarray, image_size: int) -> None:
    check_array(name, exemplar)
    shape, dtype = exemplar.shape, exemplar.dtype
    if len(shape) != 2 or min(shape) < image_size:
        raise ValueError(f"{name} must have shape (height, width), both at least {image_size}, got {shape}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} must be of a floating dtype, got {dtype}")
