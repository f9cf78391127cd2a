"""Images of two photographed textures, split by the same random smooth masks: training data without manual labels.

The generative model, for exemplars (photographs, or parts of them) of each material:

    mask  = (b * g_sigma) > 0                        as in `textures`
    image = rescale(w crop1 + (1 - w) crop2)         w: the mask blurred by g_1, normalised at the image's border

A crop has a random position in an exemplar of its material, random flips and quarter turns, and a random contrast. Away
from the edge of the mask, the pixels are those of the photograph; the notebook's last blur would smooth all of them.
The kernel of w is centred; the notebook's is so for images of odd sizes, and shifted by half a pixel for even sizes.
"""

from collections.abc import Sequence
from typing import TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax._checks import check_array, check_count, check_floating, check_key, check_pixels, check_share, check_sigma
from segjax.textures import EDGE_SIGMA, Batch, blur, mask_sigma, nan_if_invalid, rescale

Exemplar: TypeAlias = jax.Array | np.ndarray


def generate_crops(
    key: jax.Array,
    first: Exemplar | Sequence[Exemplar],
    second: Exemplar | Sequence[Exemplar],
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
            finite; both sides are at least `image_size`. Or several such exemplars: every position that a crop can
            have in one of them is equally likely.
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
    materials = [
        _exemplars_of(name, exemplars, image_size) for name, exemplars in (("first", first), ("second", second))
    ]
    dtype = jnp.result_type(materials[0][0])
    for name, exemplars in zip(("first", "second"), materials, strict=True):
        if differing := [jnp.result_type(each) for each in exemplars if jnp.result_type(each) != dtype]:
            raise TypeError(f"{name} must be of the dtype of first, {dtype}, got {differing[0]}")
    sigma = check_sigma("sigma", mask_sigma(sigma, image_size), dtype)
    _check_range([*materials[0], *materials[1]], contrast)
    # Separate keys: the mask is then the same for all exemplars and contrasts.
    mask_key, first_key, second_key = jax.random.split(key, 3)
    inside = _crops(first_key, materials[0], batch_size, image_size, contrast)
    outside = _crops(second_key, materials[1], batch_size, image_size, contrast)
    # Drawn as one axis, as in `textures.generate_data`.
    noise = jax.random.normal(mask_key, (inside.size,), inside.dtype).reshape(inside.shape)
    return nan_if_invalid(mix_crops(blur(noise, sigma) > 0, inside, outside), sigma)


def mix_crops(mask: jax.Array, first: jax.Array, second: jax.Array) -> Batch:
    """The deterministic part: a boolean mask (batch, n, n) and two crops of that shape -> images and masks."""
    for name, crops in (("first", first), ("second", second)):
        if check_floating(name, crops, "(batch, n, n)").shape != check_array("mask", mask).shape:
            raise ValueError(f"{name} must have the shape of mask, {mask.shape}, got {crops.shape}")
    floating_mask = mask.astype(first.dtype)
    # The kernel is as large as the image. An odd kernel has a centre; an even one would move the edge by half a pixel.
    size = mask.shape[-1]
    odd = jnp.pad(floating_mask, [(0, 0)] + 2 * [(0, 1 - size % 2)], mode="edge")
    # A blur pads the image with zeros, which are neither material: the blur of ones corrects for it.
    weight = (blur(odd, EDGE_SIGMA) / blur(jnp.ones_like(odd), EDGE_SIGMA))[:, :size, :size]
    image = rescale(weight * first + (1 - weight) * second)
    return Batch(image[..., None], floating_mask[..., None])


def _crops(
    key: jax.Array, exemplars: Sequence[Exemplar], number: int, size: int, contrast: jax.typing.ArrayLike
) -> jax.Array:
    """Squares of the exemplars, flipped and turned at random: (number, size, size)."""
    row_key, column_key, turn_key, contrast_key = jax.random.split(key, 4)
    positions = np.array([exemplar.shape for exemplar in exemplars]) - size + 1
    index = jnp.zeros(number, int)
    if len(exemplars) > 1:
        index_key, row_key = jax.random.split(row_key)
        shares = positions.prod(axis=1) / positions.prod(axis=1).sum()
        index = jax.random.choice(index_key, len(exemplars), (number,), p=jnp.asarray(shares, float))
    # The upper end of `randint` is exclusive: the last position still has `size` pixels after it.
    rows = jax.random.randint(row_key, (number,), 0, jnp.asarray(positions[:, 0])[index])
    columns = jax.random.randint(column_key, (number,), 0, jnp.asarray(positions[:, 1])[index])
    turns = jax.random.bernoulli(turn_key, shape=(number, 3))
    if isinstance(contrast, jax.core.Tracer):
        contrast = jnp.where((contrast >= 0) & (contrast < 1), contrast, jnp.nan)
    canvas, starts, means = _side_by_side(exemplars)
    factors = 1 + jnp.asarray(contrast, canvas.dtype) * jax.random.uniform(contrast_key, (number,), canvas.dtype, -1, 1)

    def crop(row: jax.Array, column: jax.Array, turn: jax.Array, factor: jax.Array, mean: jax.Array) -> jax.Array:
        square = lax.dynamic_slice(canvas, (row, column), (size, size))
        # Two flips and a transposition, each with probability 1/2, generate all eight symmetries of a square: quarter
        # turns are products of them. `jnp.where` and not `cond`, which computes both branches under `vmap` anyway.
        square = jnp.where(turn[0], square[::-1], square)
        square = jnp.where(turn[1], square[:, ::-1], square)
        square = jnp.where(turn[2], square.T, square)
        return (mean + factor * (square - mean)).astype(canvas.dtype)

    return jax.vmap(crop)(rows, columns + starts[index], turns, factors, means[index])


def _side_by_side(exemplars: Sequence[Exemplar]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Exemplars as one array, the column where each begins, and the mean of each."""
    # Before `jnp.asarray`: what NumPy computes is computed once, what JAX computes would be at every step.
    xp = np if all(isinstance(exemplar, np.ndarray) for exemplar in exemplars) else jnp
    means = jnp.asarray(xp.stack([exemplar.mean() for exemplar in exemplars]))
    height, widths = max(len(exemplar) for exemplar in exemplars), [exemplar.shape[1] for exemplar in exemplars]
    padded = [xp.pad(exemplar, [(0, height - len(exemplar)), (0, 0)]) for exemplar in exemplars]
    return jnp.asarray(xp.concatenate(padded, axis=1)), jnp.asarray(np.cumsum([0, *widths[:-1]])), means


def _exemplars_of(name: str, exemplars: Exemplar | Sequence[Exemplar], image_size: int) -> Sequence[Exemplar]:
    """The exemplars of a material, which may be one array; raises TypeError or ValueError for others."""
    several = exemplars if isinstance(exemplars, list | tuple) else [cast(Exemplar, exemplars)]
    if not several:
        raise ValueError(f"{name} must be an array or several, got none")
    for index, exemplar in enumerate(several):
        place = name if several is not exemplars else f"{name}[{index}]"
        shape = check_floating(place, exemplar, "(height, width)").shape
        if min(shape) < image_size:
            raise ValueError(f"{place} must have shape (height, width), both at least {image_size}, got {shape}")
        if not isinstance(exemplar, jax.core.Tracer) and (number := (~np.isfinite(np.asarray(exemplar))).sum()):
            raise ValueError(f"{place} must be finite numbers, got NaN or infinity in {number} pixels")
    return several


def _check_range(exemplars: Sequence[Exemplar], contrast: jax.typing.ArrayLike) -> None:
    """Raises ValueError if a crop, or the difference of two, may be infinite; traced exemplars pass."""
    factor = 2.0 if isinstance(contrast, jax.core.Tracer) else 1 + float(cast(float, contrast))
    ends: list[float] = []
    for exemplar in exemplars:
        if not isinstance(exemplar, jax.core.Tracer):
            # With NumPy, since JAX would trace it inside `jit`.
            array = np.asarray(exemplar)
            with np.errstate(over="ignore", invalid="ignore"):
                mean = float(array.mean())
            ends += [mean + factor * (float(end) - mean) for end in (array.min(), array.max())]
    # The dtype of the computation: NumPy's float64 becomes float32 unless x64 is enabled.
    dtype = jnp.result_type(exemplars[0])
    # `not <=`: a mean that overflows makes both ends NaN.
    if ends and not max(np.abs(ends).max(), np.ptp(ends)) <= float(jnp.finfo(dtype).max):
        extremes = f"from {min(ends)} to {max(ends)}"
        raise ValueError(f"first and second must be finite numbers whose crops are finite in {dtype}, got {extremes}")
