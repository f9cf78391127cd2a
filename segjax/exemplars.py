"""Images of two photographed textures, split by the same random smooth masks: training data without manual labels.

The generative model, for one exemplar (a photograph) of each material:

    mask  = (b * g_sigma) > 0                        as in `textures`
    image = rescale(w crop1 + (1 - w) crop2)         w: the mask blurred by g_1, as the notebook blurs its edge

A crop has a random position in its exemplar, random flips and quarter turns, and a random contrast. Away from the edge
of the mask, the pixels are those of the photograph; the notebook's last blur would smooth all of them.
"""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax._checks import check_array, check_count, check_key, check_pixels, check_share, check_sigma
from segjax.textures import EDGE_SIGMA, Batch, blur, mask_sigma, nan_if_invalid, rescale


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
    sigma: jax.typing.ArrayLike | None = None,
    contrast: jax.typing.ArrayLike = 0.2,
) -> Batch:
    """Draws a batch of images and masks from two exemplars: a pure function of `key`.

    For training, bind the exemplars: `make_train(model, generate=partial(generate_crops, first=..., second=...))`.

    Args:
        key: one key of `jax.random`.
        first: the material where the mask is 1, (height, width) in floating point, on any scale on which its crops are
            finite; both sides are at least `image_size`.
        second: the material where the mask is 0, on the same scale and of the same dtype.
        batch_size, image_size: as in `generate_data`, static.
        sigma: standard deviation in pixels of the mask's kernel, by default `image_size / 5`; may be traced: the batch
            is NaN if a traced sigma is not a finite number > 0.
        contrast: in [0, 1); each crop's difference from its exemplar's mean is multiplied by a factor that is uniform
            in [1 - contrast, 1 + contrast]. May be traced; outside of [0, 1) the images are then NaN.

    Returns:
        A `Batch` in the dtype of the exemplars; float64 becomes float32 unless x64 is enabled.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.

    >>> import jax
    >>> first, second = jax.random.uniform(jax.random.key(1), (2, 40, 60))
    >>> draw = jax.jit(lambda key: generate_crops(key, first, second, batch_size=2, image_size=32))
    >>> batch = draw(jax.random.key(0))
    >>> batch.image.shape, batch.mask.shape
    ((2, 32, 32, 1), (2, 32, 32, 1))
    """
    check_key(key)
    batch_size = check_count("batch_size", batch_size, minimum=1)
    image_size = check_count("image_size", image_size, minimum=2)
    check_pixels("batch_size * image_size^2", batch_size * image_size**2)
    check_share("contrast", contrast)
    for name, exemplar in (("first", first), ("second", second)):
        _check_exemplar(name, exemplar, image_size)
    dtype, second_dtype = jnp.result_type(first), jnp.result_type(second)
    if dtype != second_dtype:
        raise TypeError(f"second must be of the dtype of first, {dtype}, got {second_dtype}")
    sigma = check_sigma("sigma", mask_sigma(sigma, image_size), dtype)
    _check_range(first, second, contrast)
    # Separate keys: the mask is then the same for all exemplars and contrasts.
    keys = _Keys(*jax.random.split(key, len(_Keys._fields)))
    inside = _crops(keys.first, first, batch_size, image_size, contrast)
    outside = _crops(keys.second, second, batch_size, image_size, contrast)
    # Drawn as one axis, as in `textures.generate_data`.
    noise = jax.random.normal(keys.mask, (inside.size,), inside.dtype).reshape(inside.shape)
    return nan_if_invalid(mix_crops(blur(noise, sigma) > 0, inside, outside), sigma)


def mix_crops(mask: jax.Array, first: jax.Array, second: jax.Array) -> Batch:
    """The deterministic part: a boolean mask (batch, n, n) and two crops of that shape -> images and masks."""
    floating_mask = mask.astype(first.dtype)
    # The kernel is as large as the image. An odd kernel has a centre; an even one would move the edge by half a pixel.
    size = mask.shape[-1]
    odd = jnp.pad(floating_mask, [(0, 0)] + 2 * [(0, 1 - size % 2)], mode="edge")
    # A blur pads the image with zeros, which are neither material: the blur of ones corrects for it.
    weight = (blur(odd, EDGE_SIGMA) / blur(jnp.ones_like(odd), EDGE_SIGMA))[:, :size, :size]
    image = rescale(weight * first + (1 - weight) * second)
    return Batch(image[..., None], floating_mask[..., None])


def _crops(
    key: jax.Array, exemplar: jax.Array | np.ndarray, number: int, size: int, contrast: jax.typing.ArrayLike
) -> jax.Array:
    """Squares of an exemplar, flipped and turned at random: (number, size, size)."""
    # Before `jnp.asarray`: NumPy's mean is computed once, JAX's would be computed again at every step.
    mean = exemplar.mean()
    exemplar = jnp.asarray(exemplar)
    keys = _CropKeys(*jax.random.split(key, len(_CropKeys._fields)))
    rows = jax.random.randint(keys.row, (number,), 0, exemplar.shape[0] - size + 1)
    columns = jax.random.randint(keys.column, (number,), 0, exemplar.shape[1] - size + 1)
    # The upper end of `randint` is exclusive: the last position still has `size` pixels after it.
    turns = jax.random.bernoulli(keys.turn, shape=(number, 3))
    if isinstance(contrast, jax.core.Tracer):
        contrast = jnp.where((contrast >= 0) & (contrast < 1), contrast, jnp.nan)
    factors = 1 + jnp.asarray(contrast, exemplar.dtype) * jax.random.uniform(
        keys.contrast, (number,), exemplar.dtype, -1, 1
    )

    def crop(row: jax.Array, column: jax.Array, turn: jax.Array, factor: jax.Array) -> jax.Array:
        square = lax.dynamic_slice(exemplar, (row, column), (size, size))
        # Two flips and a transposition, each with probability 1/2, generate all eight symmetries of a square: quarter
        # turns are products of them. `jnp.where` and not `cond`, which computes both branches under `vmap` anyway.
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


def _check_range(first: jax.Array | np.ndarray, second: jax.Array | np.ndarray, contrast: jax.typing.ArrayLike) -> None:
    """Raises ValueError if a crop, or the difference of two, may be infinite; traced exemplars pass."""
    factor = 2.0 if isinstance(contrast, jax.core.Tracer) else 1 + float(cast(float, contrast))
    ends: list[float] = []
    for exemplar in (first, second):
        if not isinstance(exemplar, jax.core.Tracer):
            # With NumPy, since JAX would trace it inside `jit`.
            array = np.asarray(exemplar)
            with np.errstate(over="ignore", invalid="ignore"):
                mean = float(array.mean())
            ends += [mean + factor * (float(end) - mean) for end in (array.min(), array.max())]
    # The dtype of the computation: NumPy's float64 becomes float32 unless x64 is enabled.
    dtype = jnp.result_type(first)
    # `not <=`: NaN is refused too.
    if ends and not max(np.abs(ends).max(), np.ptp(ends)) <= float(jnp.finfo(dtype).max):
        extremes = f"from {min(ends)} to {max(ends)}"
        raise ValueError(f"first and second must be finite numbers whose crops are finite in {dtype}, got {extremes}")
