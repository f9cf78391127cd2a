"""Networks that predict the mask: image -> logits, as Flax Linen modules with BatchNorm state."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import FlaxError

from segjax.checks import check_count, check_images, check_model, check_variables
from segjax.convolution import conv2d

Variables = dict[str, Any]
# Side of the kernels of `PatchCNN`'s first layer, in pixels.
_FINE_KERNEL = 5


class SegmentationCNN(nn.Module):
    """The notebook's network: `depth` times conv - ReLU - BatchNorm, then a convolution to one logit a pixel.

    The notebook ends in a sigmoid; here the losses and metrics apply it, since they are exact on logits.

    With `shared_norm=True` all hidden layers share one BatchNorm, as in the notebook. Its running statistics mix the
    layers, so that `train=False` predicts at chance level: predict with batch statistics (`segjax.predict` does).
    With `shared_norm=False` each layer has its own, and the running statistics work at prediction.

    Attributes:
        num_channels: width of the hidden layers.
        kernel_size: side of the kernels in pixels; an even one keeps the image's size here, unlike the notebook's.
        shared_norm: one BatchNorm for all layers (the notebook), or one a layer.
        depth: number of hidden layers, 3 in the notebook.
    """

    num_channels: int = 16
    kernel_size: int = 5
    shared_norm: bool = True
    depth: int = 3

    @property
    def receptive_field(self) -> int:
        """Side in pixels of the square of the image that one logit sees, batch statistics aside."""
        return 1 + (self.depth + 1) * (self.kernel_size - 1)

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Logits of the mask, (batch, height, width, 1), for images (batch, height, width, channels).

        Args:
            image: parameters are made in its dtype.
            train: normalise by the batch's statistics and update the running ones (`mutable=["batch_stats"]`).
        """
        check_images("image", image)
        check_count("num_channels", self.num_channels, minimum=1)
        check_count("kernel_size", self.kernel_size, minimum=1)
        check_count("depth", self.depth, minimum=1)
        if self.shared_norm:
            norms = [_batch_norm("norm", image.dtype, train)] * self.depth
        else:
            norms = [_batch_norm(f"norm{layer}", image.dtype, train) for layer in range(1, self.depth + 1)]

        x = image
        for layer, norm in enumerate(norms, start=1):
            x = Conv(self.num_channels, self.kernel_size, name=f"conv{layer}")(x)
            x = norm(nn.relu(x))
        return Conv(1, self.kernel_size, name="out")(x)


class UNet(nn.Module):
    """A small U-Net (Ronneberger, Fischer and Brox, 2015): what the notebook calls its network a simple form of.

    Each level is one conv - ReLU - BatchNorm on the way down and one on the way up, with the skip between them, and
    two at the bottom. Levels halve the image by averaging, and double the width. Each layer has its own BatchNorm.

    Attributes:
        num_channels: width of the first level.
        kernel_size: side of the kernels.
        levels: number of halvings.
    """

    num_channels: int = 16
    kernel_size: int = 3
    levels: int = 2

    @property
    def receptive_field(self) -> int:
        """Side in pixels of the square of the image that one logit sees at most, batch statistics aside."""
        before, after = (self.kernel_size - 1) // 2, self.kernel_size // 2

        def side(pixel: int) -> int:
            # From the logit back to the image: what a convolution adds, and what each halving rounds to.
            first, last = pixel - before, pixel + after
            for _ in range(self.levels):
                first, last = (first - before) // 2, (last + after) // 2
            first, last = first - 2 * before, last + 2 * after
            for _ in range(self.levels):
                first, last = 2 * first - before, 2 * last + 1 + after
            return last - first + 1

        return max(side(pixel) for pixel in range(2**self.levels))

    @property
    def multiple(self) -> int:
        """Images whose sides are multiples of this are not padded."""
        return 2**self.levels

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """As in `SegmentationCNN`; an image whose sides are no multiple of 2^levels is padded by its edge."""
        check_images("image", image)
        for name, minimum in (("num_channels", 1), ("kernel_size", 1), ("levels", 0)):
            check_count(name, getattr(self, name), minimum)

        def block(x: jax.Array, features: int, name: str) -> jax.Array:
            x = Conv(features, self.kernel_size, name=f"conv_{name}")(x)
            return _batch_norm(f"norm_{name}", image.dtype, train)(nn.relu(x))

        x = _pad_to_multiple(image, self.multiple)
        skips = []
        for level in range(self.levels):
            x = block(x, self.num_channels * 2**level, f"down{level}")
            skips.append(x)
            x = _halve(x)
        for name in ("bottom1", "bottom2"):
            x = block(x, self.num_channels * 2**self.levels, name)
        for level in reversed(range(self.levels)):
            x = jnp.concatenate([_double(x), skips[level]], axis=-1)
            x = block(x, self.num_channels * 2**level, f"up{level}")
        return Conv(1, self.kernel_size, name="out")(x)[:, : image.shape[1], : image.shape[2]]


class PatchCNN(nn.Module):
    """A network for little time: fine filters once, then residual layers on squares of pixels instead of pixels.

    A 5 x 5 convolution and a ReLU look at every pixel; then each square of `patch` x `patch` pixels becomes one place
    with as many times the channels, so that no detail is lost where a pooling would blur the edge of the mask. `depth`
    times conv - ReLU - BatchNorm add to what they are given, and a last convolution gives each square its logits. A
    layer sees `patch` times as far as one of `SegmentationCNN`.

    Attributes:
        num_channels: width after the first layer, a multiple of patch^2.
        kernel_size: side of the residual layers' kernels, in squares.
        depth: number of residual layers.
        patch: side of the squares in pixels.
        standardize: bring each image to mean 0 and variance 1 first; its own scale hangs on its two extreme pixels.
    """

    num_channels: int = 16
    kernel_size: int = 3
    depth: int = 7
    patch: int = 2
    standardize: bool = True

    @property
    def receptive_field(self) -> int:
        """Side in pixels of the square of the image that one logit sees, the image's mean and variance aside."""
        return self.patch * (1 + (self.depth + 1) * (self.kernel_size - 1)) + _FINE_KERNEL - 1

    @property
    def multiple(self) -> int:
        """Images whose sides are multiples of this are not padded."""
        return self.patch

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """As in `SegmentationCNN`; an image whose sides are no multiple of `patch` is padded by its edge."""
        check_images("image", image)
        for name in ("num_channels", "kernel_size", "depth", "patch"):
            check_count(name, getattr(self, name), minimum=1)
        if self.num_channels % self.patch**2:
            raise ValueError(f"num_channels must be a multiple of patch^2 = {self.patch**2}, got {self.num_channels}")

        x = _standardize(image) if self.standardize else image
        x = _pad_to_multiple(x, self.multiple)
        x = nn.relu(Conv(self.num_channels // self.patch**2, _FINE_KERNEL, name="fine")(x))
        x = _batch_norm("norm_fine", image.dtype, train)(_space_to_depth(x, self.patch))
        for layer in range(1, self.depth + 1):
            y = nn.relu(Conv(self.num_channels, self.kernel_size, name=f"conv{layer}")(x))
            x = x + _batch_norm(f"norm{layer}", image.dtype, train)(y)
        x = _depth_to_space(Conv(self.patch**2, self.kernel_size, name="out")(x), self.patch)
        return x[:, : image.shape[1], : image.shape[2]]


class Conv(nn.Module):
    """`conv2d` with a bias, initialised by PyTorch's law: all uniform within +-1/sqrt(fan_in).

    Not `flax.linen.Conv`, whose hook for another convolution is deprecated and whose bias initialiser cannot know
    the fan-in.
    """

    features: int
    kernel_size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel_shape = (self.kernel_size, self.kernel_size, x.shape[-1])
        fan_in = self.kernel_size**2 * x.shape[-1]

        def initialiser(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
            return jax.random.uniform(key, shape, dtype, minval=-(fan_in**-0.5), maxval=fan_in**-0.5)

        kernel = self.param("kernel", initialiser, (*kernel_shape, self.features), x.dtype)
        bias = self.param("bias", initialiser, (self.features,), x.dtype)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias)
        return conv2d(x, kernel) + bias


def _batch_norm(name: str, dtype: jnp.dtype, train: bool) -> nn.BatchNorm:
    """PyTorch's BatchNorm2d: its momentum 0.1 is Flax's 0.9.

    Flax keeps the biased running variance where PyTorch keeps the unbiased one: a factor 1 + 7.6e-6 at 8 images of
    128 x 128. Statistics are taken in the image's dtype, so that float64 stays float64.
    """
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        param_dtype=dtype,
        force_float32_reductions=False,
        name=name,
    )


def _standardize(x: jax.Array) -> jax.Array:
    """Each image at mean 0 and variance 1; a constant one is 0."""
    x = x - x.mean(axis=(1, 2, 3), keepdims=True)
    # The residual of a constant float32 image squares to less than this.
    return x / jnp.sqrt((x**2).mean(axis=(1, 2, 3), keepdims=True) + 1e-8)


def _pad_to_multiple(x: jax.Array, multiple: int) -> jax.Array:
    """Repeats the last row and column until both sides are multiples."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % multiple), (0, -x.shape[2] % multiple), (0, 0)), mode="edge")


def _space_to_depth(x: jax.Array, side: int) -> jax.Array:
    """(b, h, w, c) -> (b, h / side, w / side, side * side * c)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, channels).swapaxes(2, 3)
    return x.reshape(batch, height // side, width // side, side * side * channels)


def _depth_to_space(x: jax.Array, side: int) -> jax.Array:
    """The inverse of `_space_to_depth`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, side, side, channels // side**2).swapaxes(2, 3)
    return x.reshape(batch, height * side, width * side, channels // side**2)


def _halve(x: jax.Array) -> jax.Array:
    """The mean of each 2 x 2 square: by a reshape, since XLA's pooling has a slow gradient on a CPU."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def _double(x: jax.Array) -> jax.Array:
    """Each pixel as a 2 x 2 square."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


# The networks that experiments know by name; all but the first can predict with their running statistics.
ARCHITECTURES = MappingProxyType(
    {
        "notebook": SegmentationCNN(),
        "separate_norm": SegmentationCNN(shared_norm=False),
        "narrow": SegmentationCNN(num_channels=8, shared_norm=False),
        "wide": SegmentationCNN(num_channels=32, shared_norm=False),
        "kernel_3": SegmentationCNN(kernel_size=3, shared_norm=False),
        "kernel_7": SegmentationCNN(kernel_size=7, shared_norm=False),
        "shallow": SegmentationCNN(depth=1, shared_norm=False),
        "deep": SegmentationCNN(depth=5, shared_norm=False),
        "unet": UNet(),
        "patch": PatchCNN(),
    }
)


_NETWORKS = {network.__name__: network for network in (SegmentationCNN, UNet, PatchCNN)}


def to_config(model: nn.Module) -> dict[str, Any]:
    """A network of this module as JSON's types, for a file beside its variables."""
    if type(model).__name__ not in _NETWORKS:
        raise ValueError(f"model must be of: {', '.join(_NETWORKS)}; got {type(model).__name__}")
    fields = {name: getattr(model, name) for name in type(model).__annotations__}
    return {"network": type(model).__name__, **fields}


def from_config(config: Mapping[str, Any]) -> nn.Module:
    """The network that `to_config` described.

    Raises:
        ValueError: if the network or one of its options is unknown here.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"config must be a mapping, got {config!r:.60}")
    options = dict(config)
    network = options.pop("network", None)
    if network not in _NETWORKS:
        raise ValueError(f"config must name a network of: {', '.join(_NETWORKS)}; got {network!r}")
    try:
        return cast(nn.Module, _NETWORKS[network](**options))
    except TypeError as error:
        raise ValueError(f"config has options that {network} does not have: {error}") from None


def predict(model: nn.Module, variables: Variables, image: jax.Array) -> jax.Array:
    """Logits of the mask for images (batch, height, width, channels); their sigmoid is the probability.

    A model with a shared BatchNorm is run on the batch's own statistics, because its running ones are useless: its
    answer for an image then depends a little on the other images of the batch. Others use their running statistics.

    Raises:
        TypeError, ValueError: naming the argument that is no such thing, or what does not fit the model.
    """
    check_model(model)
    check_variables(variables)
    check_images("image", image)
    try:
        if getattr(model, "shared_norm", False):
            return cast(jax.Array, model.apply(variables, image, train=True, mutable=["batch_stats"])[0])
        return cast(jax.Array, model.apply(variables, image, train=False))
    except FlaxError as error:
        raise ValueError(f"variables or image do not fit the model: {error}") from error


def count_parameters(variables: Variables) -> int:
    """Number of trained parameters; running statistics do not count. 13,681 for the notebook's network."""
    check_variables(variables)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def parameter_table(variables: Variables) -> str:
    """A text table with a line a layer: its arrays, their shapes, and the number of parameters."""
    rows = []
    for layer, arrays in variables["params"].items():
        shapes = ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in arrays.items())
        rows.append((layer, shapes, f"{count_parameters({'params': arrays}):,}"))
    rows.append(("total", "", f"{count_parameters(variables):,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows)
