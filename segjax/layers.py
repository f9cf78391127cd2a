"""Inspection of a trained network: the output of each convolution, and predictions with one output replaced."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax._checks import check_array, check_callable, check_count, check_images, check_layout, describe
from segjax.convolution import Conv
from segjax.models import Variables, predict

# (input of a layer, its output) -> the replacement of the output.
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

    def store(name: str, before: jax.Array, after: jax.Array) -> jax.Array:
        maps[name] = after
        return after

    _predict_with(model, variables, image, store)
    if not maps:
        raise ValueError("model must have layers of the class segjax.convolution.Conv, got none")
    return maps


def predict_changed(model: nn.Module, variables: Variables, image: jax.Array, layer: str, change: Change) -> jax.Array:
    """Logits of the mask with the output of one layer replaced by `change(input, output)`; works with or without jit.

    Args:
        layer: a name of `feature_maps`, such as `conv1`, or `block/conv` in a nested network.
        change: such as `skip`, `average` or `average_channel(index)`.

    Raises:
        TypeError, ValueError: if the network has no such layer, or `change` returns no array like the output.
    """
    check_callable("change", change, "input", "output")
    names = []

    def replace(name: str, before: jax.Array, after: jax.Array) -> jax.Array:
        names.append(name)
        # As text: an array would be compared element by element.
        if name != str(layer):
            return after
        result = change(before, after)
        check_layout("the result of change", {name: result}, {name: after}, "layer")
        return jnp.asarray(result)

    logits = _predict_with(model, variables, image, replace)
    if str(layer) not in names:
        raise ValueError(f"layer must be one of: {', '.join(names)}; got {describe(layer)}")
    return logits


def skip(before: jax.Array, after: jax.Array) -> jax.Array:
    """The layer's input in place of its output.

    Raises:
        ValueError: if the two have different shapes.
    """
    before, after = check_array("before", before), check_array("after", after)
    if before.shape != after.shape:
        raise ValueError(
            f"layer can be skipped only if its output has its input's shape, {before.shape}, got {after.shape}"
        )
    return before


def average(before: jax.Array, after: jax.Array) -> jax.Array:
    """The mean over the image in place of every channel: keeps the mean, removes spatial information."""
    check_images("after", after)
    return jnp.broadcast_to(after.mean(axis=(1, 2), keepdims=True), after.shape)


def average_channel(index: int) -> Change:
    """Makes a change that replaces one channel by its mean over the image.

    The change raises a ValueError if the layer has no such channel.
    """

    def change(before: jax.Array, after: jax.Array) -> jax.Array:
        averaged = average(before, after)
        # JAX would silently drop an update beyond the end.
        check_count("index", index, 0, after.shape[-1] - 1)
        return jnp.asarray(after).at[..., index].set(averaged[..., index])

    return change


def _predict_with(
    model: nn.Module, variables: Variables, image: jax.Array, hook: Callable[[str, jax.Array, jax.Array], jax.Array]
) -> jax.Array:
    """`predict`, with the output of each convolution replaced by `hook(layer, input, output)`."""

    def intercept(call: Any, arguments: Any, options: Any, context: Any) -> Any:
        result = call(*arguments, **options)
        # `predict` initialises the network too, for the shapes of its variables.
        if isinstance(context.module, Conv) and not context.module.is_initializing():
            return hook("/".join(context.module.path), arguments[0], result)
        return result

    # Linen calls the interceptor for every method of every module, so it works for networks of all classes.
    with nn.intercept_methods(intercept):
        return predict(model, variables, image)
