"""Looking into a trained network: what each of its convolutions gives, and what it predicts when one is changed."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.convolution import Conv
from segjax.models import Variables, predict

Change = Callable[[jax.Array, jax.Array], jax.Array]


def feature_maps(model: nn.Module, variables: Variables, image: jax.Array) -> dict[str, jax.Array]:
    """The output of each convolution, before its ReLU: layer -> (batch, height, width, channels), in order.

    Args:
        model, variables, image: as `segjax.predict` takes them; its convolutions are `segjax.convolution.Conv`.

    >>> import jax, segjax
    >>> model, image = segjax.SegmentationCNN(num_channels=2), jax.numpy.zeros((1, 8, 8, 1))
    >>> maps = feature_maps(model, model.init(jax.random.key(0), image), image)
    >>> {layer: array.shape[-1] for layer, array in maps.items()}
    {'conv1': 2, 'conv2': 2, 'conv3': 2, 'out': 1}
    """
    maps: dict[str, jax.Array] = {}

    def keep(name: str, before: jax.Array, after: jax.Array) -> jax.Array:
        maps[name] = after
        return after

    _predict_through(model, variables, image, keep)
    return maps


def predict_changed(model: nn.Module, variables: Variables, image: jax.Array, layer: str, change: Change) -> jax.Array:
    """Logits of the mask when `change(input, output)` takes the place of a layer's output; to be jitted or not.

    Args:
        layer: a name of `feature_maps`.
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
        raise ValueError(f"layer must be of: {', '.join(seen)}; got {layer!r}")
    return logits


def skip(before: jax.Array, after: jax.Array) -> jax.Array:
    """The layer's input in place of its output; both must have one width."""
    return before


def average(before: jax.Array, after: jax.Array) -> jax.Array:
    """The mean over the image in place of every channel: its level stays, its information goes."""
    return jnp.broadcast_to(after.mean(axis=(1, 2), keepdims=True), after.shape)


def average_channel(index: int) -> Change:
    """The same for one channel alone."""

    def change(before: jax.Array, after: jax.Array) -> jax.Array:
        return after.at[..., index].set(average(before, after)[..., index])

    return change


def _predict_through(
    model: nn.Module, variables: Variables, image: jax.Array, look: Callable[[str, jax.Array, jax.Array], jax.Array]
) -> jax.Array:
    """`predict`, where `look(layer, input, output)` gives the output of each convolution."""

    def intercept(call: Any, arguments: Any, options: Any, context: Any) -> Any:
        result = call(*arguments, **options)
        if isinstance(context.module, Conv):
            return look(str(context.module.name), arguments[0], result)
        return result

    # Linen calls the interceptor around every method of every module: no network needs to be written for this.
    with nn.intercept_methods(intercept):
        return predict(model, variables, image)
