"""Networks that predict the mask: image -> logits, as Flax Linen modules with BatchNorm state."""

from types import MappingProxyType
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.checks import check_count, check_images
from segjax.convolution import conv2d

Variables = dict[str, Any]


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
    }
)


def predict(model: nn.Module, variables: Variables, image: jax.Array) -> jax.Array:
    """Logits of the mask for images (batch, height, width, channels); their sigmoid is the probability.

    A model with a shared BatchNorm is run on the batch's own statistics, because its running ones are useless: its
    answer for an image then depends a little on the other images of the batch. Others use their running statistics.
    """
    if getattr(model, "shared_norm", False):
        return cast(jax.Array, model.apply(variables, image, train=True, mutable=["batch_stats"])[0])
    return cast(jax.Array, model.apply(variables, image, train=False))


def count_parameters(variables: Variables) -> int:
    """Number of trained parameters; running statistics do not count. 13,681 for the notebook's network."""
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
