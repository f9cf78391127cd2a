"""Looking into a trained network: what each of its convolutions gives, and what it predicts when one is changed."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.convolution import Conv
from segjax.models import Variables, predict

# (the layer's input, its output) -> what goes on in place of the output.
Change = Callable[[jax.Array, jax.Array], jax.Array]


def feature_maps(model: nn.Module, variables: Variables, image: jax.Array) -> dict[str, jax.Array]:
    """The output of each convolution, before its ReLU: layer -> (batch, height, width, channels), in order.

    Args:
        model, variables, image: as `segjax.predict` takes them; its convolutions are `segjax.convolution.Conv`.

    Raises:
        ValueError: if the network has no such convolution.

    >>> import jax, segjax
    >>> model, image = segjax.SegmentationCNN(num_channels=2, depth=2), jax.numpy.zeros((1, 8, 8, 1))
    >>> variables = jax.jit(model.init)(jax.random.key(0), image)
    >>> maps = jax.jit(feature_maps, static_argnums=0)(model, variables, image)
    >>> {layer: maps[layer].shape[-1] for layer in maps}
    {'conv1': 2, 'conv2': 2, 'out': 1}
    """
    maps: dict[str, jax.Array] = {}

    def keep(name: str, before: jax.Array, after: jax.Array) -> jax.Array:
        maps[name] = after
        return after

    _predict_through(model, variables, image, keep)
    if not maps:
        raise ValueError("model must have convolutions of segjax.convolution.Conv; no other layer is seen")
    return maps


def predict_changed(model: nn.Module, variables: Variables, image: jax.Array, layer: str, change: Change) -> jax.Array:
    """Logits of the mask when `change(input, output)` takes the place of a layer's output; to be jitted or not.

    Args:
        layer: a name of `feature_maps`, such as `conv1`, or `block/conv` in a nested network.
        change: such as `skip`, `average` or `average_channel(index)`.

    Raises:
        ValueError: if the network has no such layer.
    """
    seen = []

    def replace(name: str, before: jax.Array, after: jax.Array) -> jax.Array:
        seen.append(name)
        return change(before, after) if name == layer else after

    logits = _predict_through(model, variables, image, replace)
    if layer not in seen:
        raise ValueError(f"layer must be one of: {', '.join(seen)}; got {layer!r}")
    return logits


def skip(before: jax.Array, after: jax.Array) -> jax.Array:
    """The layer's input in place of its output.

    Raises:
        ValueError: if the two have different shapes.
    """
    if before.shape != after.shape:
        raise ValueError(
            f"layer can be skipped only if its output has its input's shape, {before.shape}, got {after.shape}"
        )
    return before


def average(before: jax.Array, after: jax.Array) -> jax.Array:
    """The mean over the image in place of every channel: its level stays, its information goes."""
    return jnp.broadcast_to(after.mean(axis=(1, 2), keepdims=True), after.shape)


def average_channel(index: int) -> Change:
    """A change that puts the mean over the image in place of one channel.

    It raises a ValueError if the layer has no such channel.
    """

    def change(before: jax.Array, after: jax.Array) -> jax.Array:
        # JAX would drop an update beyond the end without a word.
        if not 0 <= index < after.shape[-1]:
            raise ValueError(f"index must be a channel from 0 to {after.shape[-1] - 1}, got {index}")
        return after.at[..., index].set(average(before, after)[..., index])

    return change


def _predict_through(
    model: nn.Module, variables: Variables, image: jax.Array, look: Callable[[str, jax.Array, jax.Array], jax.Array]
) -> jax.Array:
    """`predict`, where `look(layer, input, output)` gives the output of each convolution."""

    def intercept(call: Any, arguments: Any, options: Any, context: Any) -> Any:
        result = call(*arguments, **options)
        if isinstance(context.module, Conv):
            return look("/".join(context.module.path), arguments[0], result)
        return result

    # Linen calls the interceptor around every method of every module: no network needs to be written for this.
    with nn.intercept_methods(intercept):
        return predict(model, variables, image)
