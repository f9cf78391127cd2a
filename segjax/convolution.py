"""A convolution that is fast in loops and under `vmap`: the only module that depends on how XLA compiles one.

On a CPU, XLA has one fast convolution, NHWC x HWIO, and two cases that it compiles badly:

- Inside `scan`, the gradients that JAX derives have permuted dimensions, for which XLA has no optimised path: a
  training step takes 20 times as long. Here both gradients are written as NHWC x HWIO convolutions.
- Under `vmap` over kernels (many runs at once), convolutions become grouped convolutions, which are 40 times slower
  than single runs. Here a batch of convolutions is a loop over them.

If the optional package `segjax-native` is installed (native/), its C++ computes float32 on a CPU instead: a training
step takes half as long (docs/performance.md). `cpu_backend` decides.

On other platforms this is the plain convolution with JAX's gradients, except under `vmap` on a GPU. There JAX's
gradient with respect to the kernel becomes a convolution with a kernel as large as the image, which is none of cuDNN's
gradient convolutions. Here the runs become groups of channels before the gradient is derived, and cuDNN computes it
(docs/gpu.md).

`Conv` is the layer; `halve`, `double`, `space_to_depth` and `depth_to_space` change the resolution between layers.
"""

import math
import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap, sequential_vmap

from segjax._checks import check_array, check_count, check_flag, check_images, describe

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# The gradient with respect to the kernel sums over images, one per lane of a vector register: AVX2 has 8 of float32.
_FULL_BATCH = 8


def conv2d(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlation with stride 1, zero-padded to the same size: PyTorch's convolution.

    For an even kernel, one more zero is added after the image than before it, as by PyTorch's `padding="same"`. Only
    reverse-mode differentiation works, to any order, and only the first is fast: `jax.jvp` and `jax.hessian` raise
    TypeError, `jax.jacrev(jax.jacrev(...))` does not. Arrays that are sharded over a mesh with explicit axes get JAX's
    own convolution and gradients, which are slow in loops on a CPU.

    Args:
        inputs: (batch, height, width, channels_in).
        kernel: (kernel_height, kernel_width, channels_in, channels_out), of the same dtype.

    Returns:
        (batch, height, width, channels_out).

    Raises:
        TypeError, ValueError: naming the argument whose shape or dtype is wrong.
    """
    check_images("inputs", inputs)
    check_array("kernel", kernel)
    channels = inputs.shape[3]
    if kernel.ndim != 4 or kernel.shape[2] != channels or 0 in kernel.shape:
        raise ValueError(f"kernel must have shape (height, width, {channels}, channels_out), got {kernel.shape}")
    if kernel.dtype != inputs.dtype:
        raise TypeError(f"kernel must be of the dtype of inputs, {inputs.dtype}, got {kernel.dtype}")
    # Arrays that are sharded over a mesh with explicit axes: JAX knows the sharding of its own convolution's gradients.
    if any(any(jax.typeof(array).sharding.spec) for array in (inputs, kernel)):
        return _plain(inputs, kernel)
    # Inside `shard_map`, the gradient with respect to a kernel that devices share is then the sum of theirs.
    return _conv2d(_varying_like(inputs, kernel), _varying_like(kernel, inputs))


class Conv(nn.Module):
    """`conv2d` with a bias, initialised as in PyTorch's Conv2d: all parameters uniform within +-1/sqrt(fan_in).

    Attributes:
        features: number of output channels.
        kernel_size: side of a square kernel in pixels, or (height, width).
        use_bias: add a bias to each output channel.
        dtype: of the computation; None for the dtype to which inputs and parameters promote.
        param_dtype: of the parameters; None for that of the inputs.
    """

    # Not `flax.linen.Conv`: its argument for another convolution is deprecated, and its bias initialiser does not get
    # the fan-in.
    features: int
    kernel_size: int | Sequence[int]
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        check_images("x", x)
        sides = self.kernel_size if isinstance(self.kernel_size, Sequence) else (self.kernel_size,) * 2
        if len(sides) != 2:
            raise ValueError(f"kernel_size must be one side or (height, width), got {describe(self.kernel_size)}")
        sides = tuple(check_count("kernel_size", side, minimum=1) for side in sides)
        check_count("features", self.features, minimum=1)
        kernel_shape = (*sides, x.shape[-1])
        fan_in = math.prod(kernel_shape)

        def initialiser(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
            # Drawn as one axis, which gives the same bits: XLA compiles a draw along four short axes 6 times as long.
            flat = jax.random.uniform(key, (math.prod(shape),), dtype, minval=-(fan_in**-0.5), maxval=fan_in**-0.5)
            return flat.reshape(shape)

        dtype = self.param_dtype or x.dtype
        kernel = self.param("kernel", initialiser, (*kernel_shape, self.features), dtype)
        use_bias = check_flag("use_bias", self.use_bias)
        bias = self.param("bias", initialiser, (self.features,), dtype) if use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = conv2d(x, kernel)
        return x if bias is None else x + bias[None, None, None]


def _varying_like(array: jax.Array, other: jax.Array) -> jax.Array:
    """The array, whose type inside `shard_map` says that it varies over the devices that `other` varies over."""
    present, needed = (jax.typeof(each).manual_axis_type.varying for each in (array, other))
    axes = tuple(needed - present)
    return lax.pcast(array, axes, to="varying") if axes else array


def space_to_depth(x: jax.Array, side: int) -> jax.Array:
    """(b, h, w, c) -> (b, h / side, w / side, side * side * c); h and w are multiples of `side`."""
    # From Shi et al. (2016); PyTorch's PixelUnshuffle orders the channels differently.
    batch, height, width, channels = check_images("x", x).shape
    _check_multiples(check_count("side", side, minimum=1), height=height, width=width)
    x = x.reshape(batch, height // side, side, width // side, side, channels).swapaxes(2, 3)
    return x.reshape(batch, height // side, width // side, side * side * channels)


def depth_to_space(x: jax.Array, side: int) -> jax.Array:
    """The inverse of `space_to_depth`."""
    batch, height, width, channels = check_images("x", x).shape
    _check_multiples(check_count("side", side, minimum=1) ** 2, channels=channels)
    x = x.reshape(batch, height, width, side, side, channels // side**2).swapaxes(2, 3)
    return x.reshape(batch, height * side, width * side, channels // side**2)


def halve(x: jax.Array) -> jax.Array:
    """(b, h, w, c) -> (b, h / 2, w / 2, c), h and w even: the mean of each 2 x 2 square."""
    # A reshape: the gradient of XLA's pooling is slow on a CPU.
    batch, height, width, channels = check_images("x", x).shape
    _check_multiples(2, height=height, width=width)
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def double(x: jax.Array) -> jax.Array:
    """(b, h, w, c) -> (b, 2 h, 2 w, c): each pixel as a 2 x 2 square."""
    return jnp.repeat(jnp.repeat(check_images("x", x), 2, axis=1), 2, axis=2)


def _check_multiples(divisor: int, **sizes: int) -> None:
    for axis, size in sizes.items():
        if size % divisor:
            raise ValueError(f"the {axis} of x must be a multiple of {divisor}, got {size}")


def _vmap_strategy() -> str:
    """How convolutions under `vmap` are computed on other platforms than a CPU: all at once, "groups", or in a "loop".

    The environment variable SEGJAX_RUNS chooses; the default is groups.

    Raises:
        ValueError: if SEGJAX_RUNS is neither.
    """
    # Private until a GPU has been measured. Groups have a tenth of the launches and two thirds of the memory.
    strategy = os.environ.get("SEGJAX_RUNS", "groups")
    if strategy not in ("groups", "loop"):
        raise ValueError(f"SEGJAX_RUNS must be groups or loop, got {strategy!r}")
    return strategy


def cpu_backend() -> str:
    """What computes float32 on a CPU: "native" if `segjax-native` is installed and SEGJAX_NATIVE is not 0, else "xla".

    Raises:
        ValueError: if SEGJAX_NATIVE is neither 0 nor 1, or if it is 1 and the package is not installed.
    """
    switch, installed = os.environ.get("SEGJAX_NATIVE"), find_spec("segjax_native") is not None
    if switch not in (None, "0", "1"):
        raise ValueError(f"SEGJAX_NATIVE must be 0 or 1, got {switch!r}")
    if switch == "1" and not installed:
        raise ValueError("SEGJAX_NATIVE must be 0 where the package segjax-native is not installed, got '1'")
    return "native" if installed and switch != "0" else "xla"


@jax.custom_vjp
def _conv2d(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    # The platform is chosen when the program is lowered, so one traced function serves all platforms.
    cpu = _forward_in_cpp if _in_cpp(inputs) else _forward_on_cpu
    return lax.platform_dependent(inputs, kernel, cpu=cpu, default=_elsewhere(_plain))


@jax.custom_vjp
def _gradients(inputs: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    cpu = _backward_in_cpp if _in_cpp(cotangent) else _backward_on_cpu
    return lax.platform_dependent(inputs, kernel, cotangent, cpu=cpu, default=_elsewhere(_plain_backward))


def _derivatives_of_gradients(
    residuals: tuple[jax.Array, jax.Array, jax.Array], cotangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, ...]:
    # Of JAX's own gradients: a second derivative is rare, and need not be fast.
    return jax.vjp(lambda *arrays: jax.vjp(_plain, *arrays[:2])[1](arrays[2]), *residuals)[1](cotangents)


_conv2d.defvjp(
    lambda *arrays: (_conv2d(*arrays), arrays), lambda residuals, cotangent: _gradients(*residuals, cotangent)
)
_gradients.defvjp(lambda *arrays: (_gradients(*arrays), arrays), _derivatives_of_gradients)


def _elsewhere(function: Callable[..., Any]) -> Callable[..., Any]:
    return sequential_vmap(function) if _vmap_strategy() == "loop" else function


def _in_cpp(array: jax.Array) -> bool:
    return array.dtype == jnp.float32 and cpu_backend() == "native"


@cache
def _register() -> None:
    import segjax_native

    for name, target in segjax_native.targets().items():
        jax.ffi.register_ffi_target(name, target, platform="cpu")


def _call(name: str, shape: Sequence[int], *arrays: jax.Array, **attributes: Any) -> jax.Array:
    """A function of `segjax-native`; under `vmap` a loop over the runs."""
    _register()
    result = jax.ShapeDtypeStruct(tuple(shape), arrays[0].dtype)
    return _varying_like(jax.ffi.ffi_call(name, result, vmap_method="sequential")(*arrays, **attributes), arrays[0])


def _forward_in_cpp(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    return _call("segjax_forward", (*inputs.shape[:3], kernel.shape[3]), inputs, kernel, flipped=False)


def _backward_in_cpp(inputs: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    inputs_gradient = _call("segjax_forward", inputs.shape, cotangent, kernel, flipped=True)
    return inputs_gradient, _call("segjax_kernel_gradient", kernel.shape, inputs, cotangent)


def _convolve(inputs: jax.Array, kernel: jax.Array, padding: Sequence[tuple[int, int]], groups: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        inputs, kernel, (1, 1), padding, dimension_numbers=_DIMENSIONS, feature_group_count=groups
    )


def _same_padding(kernel: jax.Array | jax.ShapeDtypeStruct) -> list[tuple[int, int]]:
    return [((size - 1) // 2, size // 2) for size in kernel.shape[:2]]


def _plain(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    return _convolve(inputs, kernel, _same_padding(kernel))


def _plain_backward(inputs: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    # JAX's batching of the gradient with respect to the inputs is fast: it convolves the cotangent with the kernel.
    (inputs_gradient,) = jax.linear_transpose(lambda inputs: _plain(inputs, kernel), inputs)(cotangent)
    return inputs_gradient, _plain_kernel_gradient(inputs, cotangent, kernel.shape[:2])


def _plain_kernel_gradient(inputs: jax.Array, cotangent: jax.Array, size: Sequence[int], groups: int = 1) -> jax.Array:
    """Gradient of a grouped convolution with respect to its kernel, (*size, channels_in / groups, channels_out).

    Under `vmap` the runs become groups of channels or, if they share the inputs or the cotangent, more channels of one
    dense convolution. A second `vmap` does the same again.
    """

    @custom_vmap
    def gradient(inputs: jax.Array, cotangent: jax.Array) -> jax.Array:
        kernel = _varying_like(jnp.zeros((*size, inputs.shape[3] // groups, cotangent.shape[3]), inputs.dtype), inputs)
        convolve = partial(_convolve, inputs, padding=_same_padding(kernel), groups=groups)
        return jax.linear_transpose(convolve, kernel)(cotangent)[0]

    @gradient.def_vmap
    def of_runs(runs: int, batched: Sequence[bool], inputs: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, bool]:
        if groups > 1 and not all(batched):
            # More channels of each group would not be contiguous.
            inputs, cotangent = (
                array if has_runs else jnp.broadcast_to(array, (runs, *array.shape))
                for array, has_runs in zip((inputs, cotangent), batched, strict=True)
            )
            batched = (True, True)
        inputs, cotangent = (
            jnp.moveaxis(array, 0, 3).reshape(*array.shape[1:4], -1) if has_runs else array
            for array, has_runs in zip((inputs, cotangent), batched, strict=True)
        )
        kernels = _plain_kernel_gradient(inputs, cotangent, size, groups * runs if all(batched) else groups)
        # The axis of runs is in channels_out, or in channels_in if only the inputs have it.
        channels = 3 if batched[1] else 2
        shape = [*kernels.shape[:channels], runs, kernels.shape[channels] // runs, *kernels.shape[channels + 1 :]]
        return jnp.moveaxis(kernels.reshape(shape), channels, 0), True

    return gradient(inputs, cotangent)


# A loop over the runs: 4 runs under `vmap` take 1.06 times as long as 4 single runs; grouped convolutions, 41 times.
_forward_on_cpu = sequential_vmap(_plain)


@sequential_vmap
def _backward_on_cpu(inputs: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both gradients as NHWC x HWIO convolutions."""
    # Without a barrier around each transpose, XLA folds it into the convolution's dimension numbers, which is slow.
    fence = lax.optimization_barrier
    padding = _same_padding(kernel)
    # With respect to the inputs: the cotangent correlated with the flipped kernel, and the padding mirrored.
    flipped = fence(kernel[::-1, ::-1].swapaxes(2, 3))
    inputs_gradient = _convolve(cotangent, flipped, [(after, before) for before, after in padding])
    # With respect to the kernel: the inputs correlated with the cotangent. Batch and channels_in are exchanged, and the
    # cotangent is a kernel as large as the image.
    inputs, cotangent, padding = _fill_batch(inputs, cotangent, padding)
    images = fence(inputs.transpose(3, 1, 2, 0))
    image_sized_kernel = fence(cotangent.transpose(1, 2, 0, 3))
    kernel_gradient = _convolve(images, image_sized_kernel, padding)
    return inputs_gradient, fence(kernel_gradient).transpose(1, 2, 0, 3)


def _fill_batch(
    inputs: jax.Array, cotangent: jax.Array, padding: list[tuple[int, int]]
) -> tuple[jax.Array, jax.Array, list[tuple[int, int]]]:
    """Cuts a batch of fewer than 8 images into bands of rows, and pads each band of the inputs with the rows around it.

    A step on 1, 2 or 4 images of 128 x 128 takes 0.29, 0.51 or 0.80 times as long as on whole images.
    """
    (batch, height, _, _), (above, below) = cotangent.shape, padding[0]
    # A band no higher than the kernel would consist mostly of rows that its neighbours contain too.
    bands = min(-(-_FULL_BATCH // max(batch, 1)), height // (above + below + 1))
    if bands < 2:
        return inputs, cotangent, padding
    rows = -(-height // bands)
    # The last band is padded with rows of cotangent 0, which add nothing to the gradient.
    missing = bands * rows - height
    inputs = jnp.pad(inputs, ((0, 0), (above, below + missing), (0, 0), (0, 0)))
    cotangent = jnp.pad(cotangent, ((0, 0), (0, missing), (0, 0), (0, 0)))
    starts = range(0, bands * rows, rows)
    inputs = jnp.concatenate([inputs[:, start : start + rows + above + below] for start in starts])
    cotangent = jnp.concatenate([cotangent[:, start : start + rows] for start in starts])
    return inputs, cotangent, [(0, 0), padding[1]]
