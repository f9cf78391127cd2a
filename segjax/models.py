"""Networks that predict the mask: image -> logits, as Flax Linen modules with BatchNorm state."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from segjax._checks import (
    check_count,
    check_flag,
    check_images,
    check_layout,
    check_model,
    check_variables,
    describe,
)
from segjax.convolution import Conv, depth_to_space, double, halve, space_to_depth

# What `model.init` returns: "params" and, for a network with BatchNorm, "batch_stats"; rarely further collections.
Variables = dict[str, Any]
# Allowed sizes of a network that is read from a file, which can hold any number. Networks built in Python have no
# upper bounds.
_SIZES: Mapping[str, range] = MappingProxyType(
    {
        "num_channels": range(1, 4096 + 1),
        "kernel_size": range(1, 255 + 1),
        "depth": range(1, 256 + 1),
        "num_halvings": range(8 + 1),
        "patch": range(1, 64 + 1),
    }
)
# Side of the kernels of `PatchCNN`'s first layer, in pixels.
_FINE_KERNEL = 5


class Network(Protocol):
    """What `predict` and `tiling` require of a network besides Linen's `init` and `apply`; training does not.

    Your own Linen module has these attributes, as class attributes or properties, and a `__call__(image, train)`. All
    distances are in pixels; they do not include what a layer reads from the whole image, such as batch statistics.

    Attributes:
        receptive_field: largest side of the square of pixels on which one logit depends.
        margin: largest distance from a logit's pixel to another on which it depends; tiles overlap by this much.
        multiple: images whose sides are multiples of it are not padded; 1 if no image is padded.
        batch_statistics: True if the network predicts with the statistics of the batch, `train=True`, since its running
            statistics do not work; False if it predicts with the running ones, or has no BatchNorm.
        standardize: True if the network first brings each image to mean 0 and variance 1; `clone(standardize=False)`
            must then be the network without this step.
    """

    @property
    def receptive_field(self) -> int: ...
    @property
    def margin(self) -> int: ...
    @property
    def multiple(self) -> int: ...
    @property
    def batch_statistics(self) -> bool: ...
    @property
    def standardize(self) -> bool: ...


class _InputRange(nn.Module):
    """`receptive_field` and `margin` from `_input_range`: pixel of a row -> first and last pixel its logit reads."""

    # Both depend on the pixel's position in its square of `multiple` pixels: the maximum is taken.
    @property
    def receptive_field(self) -> int:
        return max(last - first + 1 for first, last in map(self._input_range, range(self.multiple)))

    @property
    def margin(self) -> int:
        ranges = [(pixel, *self._input_range(pixel)) for pixel in range(self.multiple)]
        return max(max(pixel - first, last - pixel) for pixel, first, last in ranges)


class SegmentationCNN(_InputRange):
    """The notebook's network: `depth` times conv - ReLU - BatchNorm, then a convolution to one logit per pixel.

    The notebook's network ends in a sigmoid; here the losses and metrics apply it, since they are exact on logits.

    With `shared_norm=True` all hidden layers share one BatchNorm, as in the notebook. Its running statistics mix the
    layers, so that `train=False` predicts at chance level: predict with batch statistics (`segjax.predict` does).
    With `shared_norm=False` each layer has its own BatchNorm, and the running statistics work at prediction.

    Attributes:
        num_channels: of the hidden layers.
        kernel_size: side of the kernels in pixels; an even one keeps the image's size here, unlike in the notebook.
        shared_norm: one BatchNorm for all layers (the notebook), or one for each layer.
        depth: number of hidden layers, 3 in the notebook.
    """

    num_channels: int = 16
    kernel_size: int = 5
    shared_norm: bool = True
    depth: int = 3
    # Class attributes: fields would be options of the network, and part of its configuration.
    multiple: ClassVar[int] = 1
    standardize: ClassVar[bool] = False

    @property
    def batch_statistics(self) -> bool:
        return self.shared_norm

    def _input_range(self, pixel: int) -> tuple[int, int]:
        before, after = _sides(self.kernel_size)
        return pixel - (self.depth + 1) * before, pixel + (self.depth + 1) * after

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Logits of the mask, (batch, height, width, 1), for images (batch, height, width, channels).

        Args:
            image: its dtype is that of the parameters.
            train: normalise with the batch's statistics and update the running ones (`mutable=["batch_stats"]`).

        Raises:
            TypeError, ValueError: naming the image or the attribute that is out of range.
        """
        check_images("image", image)
        _check_options(self)
        # One module for all layers has one set of parameters, and each layer in turn updates its running statistics.
        if self.shared_norm:
            norms = [_batch_norm("norm", image.dtype, train)] * self.depth
        else:
            norms = [_batch_norm(f"norm{layer}", image.dtype, train) for layer in range(1, self.depth + 1)]

        # BatchNorm after the ReLU is the notebook's order; in Ioffe and Szegedy (2015) it comes before.
        x = image
        for layer, norm in enumerate(norms, start=1):
            x = Conv(self.num_channels, self.kernel_size, name=f"conv{layer}")(x)
            x = norm(nn.relu(x))
        return Conv(1, self.kernel_size, name="out")(x)


class UNet(_InputRange):
    """A small U-Net (Ronneberger, Fischer and Brox, 2015); the notebook calls its network a simple form of one.

    Each resolution has one conv - ReLU - BatchNorm on the way down and one on the way up, with a skip connection
    between them; the lowest has two. Each step down halves the image by averaging and doubles the number of channels.
    Each layer has its own BatchNorm.

    Attributes:
        num_channels: at full resolution.
        kernel_size: side of the kernels, in pixels of their resolution.
        num_halvings: how many times the image is halved.
    """

    num_channels: int = 16
    kernel_size: int = 3
    num_halvings: int = 2
    batch_statistics: ClassVar[bool] = False
    standardize: ClassVar[bool] = False

    @property
    def multiple(self) -> int:
        return 2**self.num_halvings

    def _input_range(self, pixel: int) -> tuple[int, int]:
        before, after = _sides(self.kernel_size)
        # From the logit back to the image: a convolution widens the range by its sides, and halving rounds down.
        first, last = pixel - before, pixel + after
        for _ in range(self.num_halvings):
            first, last = (first - before) // 2, (last + after) // 2
        first, last = first - 2 * before, last + 2 * after
        for _ in range(self.num_halvings):
            first, last = 2 * first - before, 2 * last + 1 + after
        return first, last

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """As in `SegmentationCNN`; repeats the image's last row and column up to a multiple of 2^num_halvings."""
        check_images("image", image)
        _check_options(self)

        def block(x: jax.Array, features: int, name: str) -> jax.Array:
            x = Conv(features, self.kernel_size, name=f"conv_{name}")(x)
            return _batch_norm(f"norm_{name}", image.dtype, train)(nn.relu(x))

        x = _pad_to_multiple(image, self.multiple)
        skips = []
        for step in range(self.num_halvings):
            x = block(x, self.num_channels * 2**step, f"down{step}")
            skips.append(x)
            x = halve(x)
        # Half the resolution and twice the channels: the same cost of a convolution, and half the size of its maps.
        for name in ("bottom1", "bottom2"):
            x = block(x, self.num_channels * 2**self.num_halvings, name)
        for step in reversed(range(self.num_halvings)):
            # Repeated pixels, not the paper's transposed convolution: no parameters, and no checkerboard pattern.
            x = jnp.concatenate([double(x), skips[step]], axis=-1)
            x = block(x, self.num_channels * 2**step, f"up{step}")
        return Conv(1, self.kernel_size, name="out")(x)[:, : image.shape[1], : image.shape[2]]


class PatchCNN(_InputRange):
    """A fast network: one convolution on the pixels, then residual layers on squares of pixels.

    A 5 x 5 convolution and a ReLU filter every pixel. Then each square of `patch` x `patch` pixels becomes one position
    with patch^2 times the channels. This loses no detail, while pooling would blur the edge of the mask. `depth`
    residual layers, x + BatchNorm(ReLU(conv(x))), and a last convolution compute the patch^2 logits of each square. The
    input range of a layer is `patch` times that of a layer of `SegmentationCNN`.

    Attributes:
        num_channels: after the first layer, a multiple of patch^2.
        kernel_size: side of the residual layers' kernels, in squares.
        depth: number of residual layers.
        patch: side of the squares in pixels.
        standardize: first bring each image to mean 0 and variance 1. The scale of a generated image depends on two
            pixels alone, the darkest and the brightest.
        sharpen: the image's Laplacian, after a BatchNorm, is a second channel of the first layer's input. It helps to
            distinguish textures that differ only in fine detail of low contrast (docs/best-possible.md).
    """

    num_channels: int = 16
    kernel_size: int = 3
    depth: int = 7
    patch: int = 2
    standardize: bool = True
    sharpen: bool = False
    batch_statistics: ClassVar[bool] = False

    @property
    def multiple(self) -> int:
        return self.patch

    def _input_range(self, pixel: int) -> tuple[int, int]:
        before, after = _sides(self.kernel_size)
        square = pixel // self.patch
        first, last = square - (self.depth + 1) * before, square + (self.depth + 1) * after
        # The Laplacian reads one more pixel on each side.
        before, after = (side + self.sharpen for side in _sides(_FINE_KERNEL))
        return self.patch * first - before, self.patch * last + self.patch - 1 + after

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """As in `SegmentationCNN`; repeats the image's last row and column up to a multiple of `patch`."""
        check_images("image", image)
        _check_options(self)
        if self.num_channels % self.patch**2:
            raise ValueError(f"num_channels must be a multiple of patch^2 = {self.patch**2}, got {self.num_channels}")

        x = _standardize(image) if self.standardize else image
        x = _pad_to_multiple(x, self.multiple)
        if self.sharpen:
            # Scaled by BatchNorm, whose running variance is the same in every tile of a picture.
            sharp = _batch_norm("norm_sharp", image.dtype, train)(_laplacian(x))
            x = jnp.concatenate([x, sharp], axis=-1)
        # Few channels at full resolution, where maps are largest: writing and reading them takes time too.
        x = nn.relu(Conv(self.num_channels // self.patch**2, _FINE_KERNEL, name="fine")(x))
        x = _batch_norm("norm_fine", image.dtype, train)(space_to_depth(x, self.patch))
        for layer in range(1, self.depth + 1):
            y = nn.relu(Conv(self.num_channels, self.kernel_size, name=f"conv{layer}")(x))
            x = x + _batch_norm(f"norm{layer}", image.dtype, train)(y)
        x = depth_to_space(Conv(self.patch**2, self.kernel_size, name="out")(x), self.patch)
        return x[:, : image.shape[1], : image.shape[2]]


def _options(network: Any) -> list[dataclasses.Field[Any]]:
    # `parent` and `name` are fields that Linen adds, for a module inside another.
    return [field for field in dataclasses.fields(network) if field.name not in ("parent", "name")]


def _check_options(model: Any, bounded: bool = False) -> None:
    for field in _options(model):
        value, sizes = getattr(model, field.name), _SIZES.get(field.name)
        if sizes is None:
            check_flag(field.name, value)
        else:
            check_count(field.name, value, *((sizes.start, sizes.stop - 1) if bounded else (sizes.start,)))


def _batch_norm(name: str, dtype: jnp.dtype, train: bool) -> nn.BatchNorm:
    """PyTorch's BatchNorm2d, except for the running variance.

    Flax's running variance is biased and PyTorch's unbiased: a factor 1 + 7.6e-6 for 8 images of 128 x 128.
    """
    # PyTorch's momentum 0.1 is the weight of the new value, Flax's 0.9 that of the old one. By default, Flax would
    # compute the statistics of float64 images in float32.
    return nn.BatchNorm(
        use_running_average=not check_flag("train", train),
        momentum=0.9,
        epsilon=1e-5,
        param_dtype=dtype,
        force_float32_reductions=False,
        name=name,
    )


def _standardize(x: jax.Array) -> jax.Array:
    """Brings each image to mean 0 and variance 1; a constant image becomes 0."""
    x = x - x.mean(axis=(1, 2, 3), keepdims=True)
    # By rounding, a constant float32 image has a variance far below 1e-8; without the term it would become 1.
    return x / jnp.sqrt((x**2).mean(axis=(1, 2, 3), keepdims=True) + 1e-8)


def _laplacian(x: jax.Array) -> jax.Array:
    """Four times each pixel minus its four neighbours; 0 at the border, where a gradient would dominate."""
    inner = 4 * x[:, 1:-1, 1:-1] - x[:, :-2, 1:-1] - x[:, 2:, 1:-1] - x[:, 1:-1, :-2] - x[:, 1:-1, 2:]
    # Not `pad`, which fails for an image of one row or column: its inner part is empty.
    return jnp.zeros_like(x).at[:, 1:-1, 1:-1].set(inner)


def _sides(kernel_size: int) -> tuple[int, int]:
    """Pixels of a kernel before and after its centre; an even kernel has one more after, as in `conv2d`."""
    return (kernel_size - 1) // 2, kernel_size // 2


def _pad_to_multiple(x: jax.Array, multiple: int) -> jax.Array:
    """Repeats the last row and column until both sides are multiples."""
    # Zeros would be a dark border, which no training image has.
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % multiple), (0, -x.shape[2] % multiple), (0, 0)), mode="edge")


# The type `Network` makes mypy check all three against the protocol.
_NETWORKS: Mapping[str, Callable[..., Network]] = MappingProxyType(
    {"SegmentationCNN": SegmentationCNN, "UNet": UNet, "PatchCNN": PatchCNN}
)


def to_config(model: nn.Module) -> dict[str, Any]:
    """A network of this module in JSON's types, to be saved with its variables.

    Raises:
        TypeError, ValueError: if the network is not of this module, or an attribute is out of range.
    """
    # Compare classes, not names: another module may define a class of the same name.
    if _NETWORKS.get(type(model).__name__) is not type(model):
        raise ValueError(f"model must be one of: {', '.join(_NETWORKS)}; got {type(model).__name__}")
    _check_options(model)
    return {
        "network": type(model).__name__,
        **{field.name: type(field.default)(getattr(model, field.name)) for field in _options(model)},
    }


def from_config(config: Mapping[str, Any]) -> nn.Module:
    """The network that `to_config` described; a missing option has its default.

    The sizes have upper bounds, so that a file cannot describe a network that exhausts the memory: num_channels 4096,
    kernel_size 255, depth 256, num_halvings 8, patch 64.

    Raises:
        ValueError: if the network or one of its options is unknown here, of another type, or out of bounds.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"config must be a mapping, got {describe(config)}")
    options = dict(config)
    network = options.pop("network", None)
    if not isinstance(network, str) or network not in _NETWORKS:
        raise ValueError(f"config must name one of the networks {', '.join(_NETWORKS)}; got {describe(network)}")
    known = [field.name for field in _options(_NETWORKS[network])]
    # A file of a newer version may have options that this version does not know.
    if unknown := [name for name in options if name not in known]:
        raise ValueError(f"config has options that {network} does not have: {describe(unknown)}")
    model = _NETWORKS[network](**options)
    try:
        _check_options(model, bounded=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"config: {error}") from None
    return cast(nn.Module, model)


# `nn.Module` here and in `tiling`, since Python has no type for a Linen module that is also a `Network`.
def predict(model: nn.Module, variables: Variables, image: jax.Array) -> jax.Array:
    """Logits of the mask for images (batch, height, width, channels); their sigmoid is the probability.

    A network with `batch_statistics`, that is, with a shared BatchNorm, predicts with the statistics of the batch: its
    logits for an image then depend slightly on the other images. Other networks use their running statistics.

    Args:
        model: a Linen module with the attribute `batch_statistics` of `Network`.
        variables: of the model.
        image: floating point, on the scale of the training images.

    Raises:
        TypeError, ValueError: naming the bad argument, or what does not fit the model.
    """
    check_model(model, "batch_statistics")
    check_variables(variables)
    # Converted once: jax would warn of NumPy's float64 in each layer that takes its dtype.
    image = jnp.asarray(check_images("image", image))
    check_layout("variables", variables, template_of(model, image), "model and these images", dtypes=False)
    if model.batch_statistics:
        # The updated running statistics are discarded: a prediction changes no variable.
        return cast(jax.Array, model.apply(variables, image, train=True, mutable=collections_of(variables))[0])
    return cast(jax.Array, model.apply(variables, image, train=False))


def collections_of(variables: Variables) -> list[str]:
    """Names of the collections that training updates without a gradient, such as "batch_stats"."""
    return [name for name in variables if name != "params"]


def template_of(model: nn.Module, image: Any) -> Variables:
    """Shapes and dtypes of the variables of a model for such images."""
    return cast(Variables, jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image))


def count_parameters(variables: Variables) -> int:
    """Number of trained parameters, without running statistics: 13,681 for the notebook's network."""
    check_variables(variables)
    return sum(np.size(leaf) for leaf in jax.tree.leaves(variables["params"]))


def parameter_table(variables: Variables) -> str:
    """A text table with one line per layer: its arrays, their shapes, and the number of parameters.

    Raises:
        TypeError: if `variables` are not those of a model.
    """
    check_variables(variables)
    layers: dict[str, dict[str, Any]] = {}
    for (*path, name), array in flatten_dict(variables["params"]).items():
        # An array of the network itself, outside of all layers, has its own line.
        layers.setdefault("/".join(path) or name, {})[name] = array
    rows = []
    for layer, arrays in layers.items():
        shapes = ", ".join(f"{name} {'x'.join(map(str, np.shape(array)))}" for name, array in arrays.items())
        rows.append((layer, shapes, f"{count_parameters({'params': arrays}):,}"))
    rows.append(("total", "", f"{count_parameters(variables):,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows)
