"""Images of two Gaussian textures, split by the sign of a smooth random field: the notebook's data.

The generative model, with white noise `b`, `b1`, `b2` and Gaussian kernels `g`:

    mask  = (b * g_sigma) > 0
    image = rescale((mask ? b1 * g_sigma1 : b2 * g_sigma2) * g_1)      rescale: min -> 0, max -> 1

where `*` is the zero-padded "same" cross-correlation with a kernel as large as the image. The kernel is an outer
product, so a blur is two products with an n x n banded matrix: O(n^3) per image. The notebook's dense convolution takes
O(n^4) and has the same result up to rounding.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax._checks import check_count, check_flag, check_floating, check_key, check_pixels, check_sigma

# Standard deviation in pixels of the last blur, which smooths the edge between the textures; as in the notebook.
EDGE_SIGMA = 1.0


class Batch(NamedTuple):
    """Images and their masks, each (batch, image_size, image_size, 1), in [0, 1]; the mask is 0 or 1.

    Images that are not rescaled vary around 0.
    """

    image: jax.Array
    mask: jax.Array


def generate_data(
    key: jax.Array,
    batch_size: int = 8,
    image_size: int = 128,
    sigma1: jax.typing.ArrayLike = 0.2,
    sigma2: jax.typing.ArrayLike = 1.2,
    sigma: jax.typing.ArrayLike | None = None,
    *,
    rescaled: bool = True,
) -> Batch:
    """Draws a batch of images and masks: a pure function of `key`.

    One key draws the same white noise for all sigmas, so that they can be compared on one draw. The defaults are those
    of the notebook's training; the notebook's function has the defaults sigma1 1.0, sigma2 0.2, sigma 25.

    Args:
        key: one key of `jax.random`.
        batch_size: number of images, >= 1, static.
        image_size: height and width in pixels, >= 2, odd or even, static; a batch has at most 2^31 - 1 pixels. Images
            are square, as in the notebook; networks and `predict` take others too.
        sigma1: standard deviation in pixels of the texture's kernel where the mask is 1, above 1.1e-19 in float32; may
            be traced. If a traced sigma is not a finite number > 0, the batch is NaN.
        sigma2: the same where the mask is 0; may be traced.
        sigma: standard deviation in pixels of the mask's kernel, by default `image_size / 5` as in the notebook; may be
            traced. Gradients with respect to it are 0: the mask is the sign of a field.
        rescaled: if False, the images are not rescaled, as `segjax.oracle` requires; static.

    Returns:
        A `Batch` in jax's default float dtype (float64 where x64 is enabled).

    Raises:
        TypeError, ValueError: naming the argument that is out of range.

    >>> import jax, segjax
    >>> batch = jax.jit(segjax.generate_data)(jax.random.key(0))
    >>> batch.image.shape, batch.mask.shape
    ((8, 128, 128, 1), (8, 128, 128, 1))
    """
    check_key(key)
    batch_size = check_count("batch_size", batch_size, minimum=1)
    image_size = check_count("image_size", image_size, minimum=2)
    check_pixels("batch_size * image_size^2", batch_size * image_size**2)
    # The draw takes half of the time of a batch (threefry, on a CPU), the blurs a third.
    shape = (3, batch_size, image_size, image_size)
    # Drawn as one axis, which gives the same bits: XLA compiles a draw along four axes 2 to 3 times as long.
    noise = jax.random.normal(key, (math.prod(shape),)).reshape(shape)
    return compose_batch(noise, sigma1, sigma2, mask_sigma(sigma, image_size), rescaled=rescaled)


def mask_sigma(sigma: jax.typing.ArrayLike | None, image_size: int) -> jax.typing.ArrayLike:
    """The standard deviation of the mask's kernel; where None is given, that of the notebook's training."""
    return image_size / 5 if sigma is None else sigma


def compose_batch(
    noise: jax.Array,
    sigma1: jax.typing.ArrayLike,
    sigma2: jax.typing.ArrayLike,
    sigma: jax.typing.ArrayLike,
    *,
    rescaled: bool = True,
) -> Batch:
    """The deterministic part of `generate_data`: white noise -> images and masks, in the noise's dtype.

    Args:
        noise: (3, batch, n, n), the fields b (mask), b1 (texture where the mask is 1) and b2 (where it is 0).
        sigma1, sigma2, sigma, rescaled: as in `generate_data`.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    check_floating("noise", noise)
    # Not `noise.dtype`: that of NumPy may be one that jax does not have.
    shape, dtype = noise.shape, jnp.result_type(noise)
    if len(shape) != 4 or shape[0] != 3 or shape[1] < 1 or shape[2] != shape[3] or shape[2] < 2:
        raise ValueError(f"noise must have shape (3, batch >= 1, n, n) with n >= 2, got {shape}")
    for name, value in (("sigma1", sigma1), ("sigma2", sigma2), ("sigma", sigma)):
        check_sigma(name, value, dtype)
    check_flag("rescaled", rescaled)

    # One product for the three fields: a third of the launches on a GPU.
    bands = jnp.stack([_band(shape[3], each, dtype) for each in (sigma, sigma1, sigma2)])
    region, inside, outside = jnp.einsum("fij,fbjk,flk->fbil", bands, noise, bands, precision=lax.Precision.HIGHEST)
    mask = region > 0
    image = blur(jnp.where(mask, inside, outside), EDGE_SIGMA)
    image = rescale(image) if rescaled else image
    return nan_if_invalid(Batch(image[..., None], mask.astype(dtype)[..., None]), sigma1, sigma2, sigma)


def nan_if_invalid(batch: Batch, *sigmas: jax.typing.ArrayLike) -> Batch:
    """The batch, or NaN throughout if a traced sigma is not one that `check_sigma` accepts."""
    # Without it, a mask from comparisons with NaN would be 0, and training would look perfect.
    traced = [_is_valid(sigma, batch.image.dtype) for sigma in sigmas if isinstance(sigma, jax.core.Tracer)]
    if not traced:
        return batch
    return Batch(*(jnp.where(jnp.stack(traced).all(), leaf, jnp.nan) for leaf in batch))


def _is_valid(sigma: jax.Array, dtype: jnp.dtype) -> jax.Array:
    sigma = jnp.asarray(sigma, dtype)
    return (sigma >= float(jnp.finfo(dtype).tiny) ** 0.5) & (sigma < jnp.inf)


def gaussian_kernel(image_size: int, sigma: jax.typing.ArrayLike) -> jax.Array:
    """The notebook's kernel `g`: (image_size, image_size), symmetric, with sum 1.

    The grid is `linspace(-n/2, n/2, n)`, as in the notebook: its spacing is n/(n-1), and an even n has no point at 0.

    Args:
        image_size: n, in pixels, static.
        sigma: standard deviation in pixels; may be traced.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    check_sigma("sigma", sigma)
    image_size = check_count("image_size", image_size, minimum=2)
    check_pixels("image_size^2", image_size**2)
    profile = jnp.asarray(_gaussian_profile(image_size, sigma, jnp.result_type(float)))
    return jnp.outer(profile, profile)


def _gaussian_profile(image_size: int, sigma: jax.typing.ArrayLike, dtype: jnp.dtype) -> jax.Array | np.ndarray:
    """One factor of the separable kernel, (n,), with sum 1; a NumPy array, thus a constant, unless sigma is traced.

    It is NaN if a traced sigma is not a finite number > 0.
    """
    # NumPy computes the static grid in float64: in float32 the kernel changes by a relative 5e-5 at sigma 0.2.
    squares = np.linspace(-image_size / 2, image_size / 2, image_size) ** 2
    # The smallest square is subtracted, so that the largest weight is exp(0) = 1 at any sigma. The notebook's sum
    # underflows at sigmas below about 0.035, and its image is NaN. Clipped, since for images of more than 512 pixels
    # the squares at the ends are infinite in float16.
    excess = np.minimum(squares - squares.min(), float(jnp.finfo(dtype).max))
    if not isinstance(sigma, jax.core.Tracer):
        # In NumPy, since a training loop would compute it at every step: XLA does not move it out of the loop.
        sigma = np.asarray(sigma, np.float64)
        weights = np.exp(-0.5 * excess / sigma / sigma)
        return (weights / weights.sum()).astype(dtype)
    sigma = jnp.where(_is_valid(sigma, dtype), jnp.asarray(sigma, dtype), jnp.nan)
    # XLA divides once, by the square of sigma: hence the bound in `check_sigma`.
    return jax.nn.softmax(-0.5 * jnp.asarray(excess, dtype) / sigma / sigma)


def blur(fields: jax.Array, sigma: jax.typing.ArrayLike) -> jax.Array:
    """Cross-correlates each (n, n) field of (batch, n, n) with the n x n Gaussian, zero-padded as PyTorch does."""
    check_floating("fields", fields, "(batch, n, n)")
    check_sigma("sigma", sigma, fields.dtype)
    band = _band(fields.shape[-1], sigma, fields.dtype)
    # No FFT: the kernel is separable, and XLA's FFT is slow in a large program on a CPU.
    # Full precision, because products in TF32, the default of a GPU, would move the edge of the mask.
    return jnp.einsum("ij,bjk,lk->bil", band, fields, band, precision=lax.Precision.HIGHEST)


def _band(size: int, sigma: jax.typing.ArrayLike, dtype: jnp.dtype) -> jax.Array | np.ndarray:
    """The banded matrix, (size, size), whose product with a column is the column's correlation with the profile."""
    # out[i] = sum_k in[i + k - left] profile[k], so row i of the banded matrix holds profile[j - i + left].
    offset = np.arange(size)[None, :] - np.arange(size)[:, None] + (size - 1) // 2
    profile = _gaussian_profile(size, sigma, dtype)[np.clip(offset, 0, size - 1)]
    inside = (offset >= 0) & (offset < size)
    return profile * inside.astype(dtype)


def rescale(images: jax.Array) -> jax.Array:
    """Maps the minimum of each image of (..., height, width) to 0 and its maximum to 1; a constant image becomes 0.

    If the difference of maximum and minimum is infinite in the dtype of the images, pixels are 0 or NaN.
    """
    check_floating("images", images, "(..., height, width)")
    # One reduction for both, which is one launch on a GPU. Rounding is monotonic, so the peak is the maximum of the
    # shifted image.
    minus_low, high = jnp.max(jnp.stack([-images, images]), axis=(-2, -1), keepdims=True)
    peak = high + minus_low
    # The notebook's rescaling divides 0 by 0 for a constant image, which is NaN.
    return (images + minus_low) / jnp.where(peak > 0, peak, 1)
