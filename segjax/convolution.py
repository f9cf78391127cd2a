"""The one place that knows how XLA must be fed: a convolution that is fast in loops and under `vmap`.

On a CPU, XLA has one fast convolution, NHWC x HWIO, and two traps around it:

- Inside `scan`, the gradients that JAX derives arrive with permuted dimensions, on a path that is not optimised at
  all. Here both gradients are written as ordinary NHWC x HWIO convolutions.
- Under `vmap` over kernels (many runs at once) they become grouped convolutions, which are as slow. Here a batch of
  convolutions is a loop over them.

Elsewhere (GPU, TPU) the plain convolution and JAX's own rules are used.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap

from segjax.checks import check_array, check_images

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# The kernel's gradient sums over the images with one number of a vector register each: float32 has 8 in AVX2.
_FULL_BATCH = 8


def conv2d(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlation with stride 1, zero-padded to the same size: what PyTorch calls a convolution.

    An even kernel pads one more zero after than before, as PyTorch's `padding="same"` does. Reverse-mode
    differentiable only: its gradient is written by hand, so `jax.jvp` and `jax.hessian` refuse it.

    Args:
        inputs: (batch, height, width, channels_in).
        kernel: (kernel_height, kernel_width, channels_in, channels_out), of the same dtype.

    Returns:
        (batch, height, width, channels_out).

    Raises:
        TypeError, ValueError: naming the argument that is of another shape or dtype.
    """
    check_images("inputs", inputs)
    check_array("kernel", kernel)
    channels = inputs.shape[3]
    if kernel.ndim != 4 or kernel.shape[2] != channels or 0 in kernel.shape:
        raise ValueError(f"kernel must have shape (height, width, {channels}, channels_out), got {kernel.shape}")
    if kernel.dtype != inputs.dtype:
        raise TypeError(f"kernel must be of the dtype of inputs, {inputs.dtype}, got {kernel.dtype}")
    return _conv2d(inputs, kernel)


@jax.custom_vjp
def _conv2d(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.platform_dependent(inputs, kernel, cpu=_forward_on_cpu, default=_plain)


def _conv2d_forward(inputs: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv2d(inputs, kernel), (inputs, kernel)


def _conv2d_backward(residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    return lax.platform_dependent(*residuals, cotangent, cpu=_backward_on_cpu, default=_plain_backward)


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def _convolve(inputs: jax.Array, kernel: jax.Array, padding: Sequence[tuple[int, int]]) -> jax.Array:
    return lax.conv_general_dilated(inputs, kernel, (1, 1), padding, dimension_numbers=_DIMENSIONS)


def _same_padding(kernel: jax.Array) -> list[tuple[int, int]]:
    return [((size - 1) // 2, size // 2) for size in kernel.shape[:2]]


def _plain(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    return _convolve(inputs, kernel, _same_padding(kernel))


def _plain_backward(inputs: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    _, pullback = jax.vjp(_plain, inputs, kernel)
    return pullback(cotangent)


_forward_on_cpu = sequential_vmap(_plain)


@sequential_vmap
def _backward_on_cpu(inputs: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both gradients as NHWC x HWIO convolutions.

    Each transpose is fenced: without the barrier XLA folds it into the convolution's dimension numbers, which is the
    slow path again.
    """
    fence = lax.optimization_barrier
    padding = _same_padding(kernel)
    flipped = fence(kernel[::-1, ::-1].swapaxes(2, 3))
    inputs_gradient = _convolve(cotangent, flipped, [(after, before) for before, after in padding])
    # The kernel's gradient correlates the inputs with the cotangent: channels_in take the place of the batch, the
    # batch that of the channels, and the cotangent is a kernel as large as the image.
    inputs, cotangent, padding = _fill_batch(inputs, cotangent, padding)
    images = fence(inputs.transpose(3, 1, 2, 0))
    image_sized_kernel = fence(cotangent.transpose(1, 2, 0, 3))
    kernel_gradient = _convolve(images, image_sized_kernel, padding)
    return inputs_gradient, fence(kernel_gradient).transpose(1, 2, 0, 3)


def _fill_batch(
    inputs: jax.Array, cotangent: jax.Array, padding: list[tuple[int, int]]
) -> tuple[jax.Array, jax.Array, list[tuple[int, int]]]:
    """Cuts a few images into bands of rows, so that there are enough of them; each input has the rows around its band.

    A step on 1, 2 or 4 images of 128 x 128 takes 0.29, 0.51 or 0.80 of its time on whole images.
    """
    (batch, height, _, _), (above, below) = cotangent.shape, padding[0]
    bands = min(-(-_FULL_BATCH // max(batch, 1)), height // (above + below + 1))
    if bands < 2:
        return inputs, cotangent, padding
    rows = -(-height // bands)
    # The last band is filled up with rows whose cotangent is 0.
    missing = bands * rows - height
    inputs = jnp.pad(inputs, ((0, 0), (above, below + missing), (0, 0), (0, 0)))
    cotangent = jnp.pad(cotangent, ((0, 0), (0, missing), (0, 0), (0, 0)))
    starts = range(0, bands * rows, rows)
    inputs = jnp.concatenate([inputs[:, start : start + rows + above + below] for start in starts])
    cotangent = jnp.concatenate([cotangent[:, start : start + rows] for start in starts])
    return inputs, cotangent, [(0, 0), padding[1]]
