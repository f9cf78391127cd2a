import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_variables

import segjax
from segjax import layers

IMAGE = np.random.default_rng(0).uniform(size=(2, 16, 16, 1)).astype(np.float32)
MODELS = [segjax.SegmentationCNN(4, 3), segjax.SegmentationCNN(4, 3, shared_norm=False), segjax.UNet(4, num_halvings=1)]


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_change_that_changes_nothing_leaves_the_prediction(model):
    variables = random_variables(model)
    names = {layer for layer in variables["params"] if not layer.startswith("norm")}

    @jax.jit
    def predictions(image):
        same = [layers.predict_changed(model, variables, image, layer, lambda before, after: after) for layer in names]
        return segjax.predict(model, variables, image), layers.feature_maps(model, variables, image), same

    whole, maps, same = predictions(IMAGE)
    assert set(maps) == names
    for logits in (maps["out"], *same):
        np.testing.assert_array_equal(logits, whole)


def test_an_averaged_layer_leaves_nothing_of_the_image():
    """Every pixel inside gets one logit once a layer of the chain is constant; the zero padding shows at the edge."""
    model = MODELS[1]
    variables = random_variables(model)
    for layer in ("conv1", "conv3", "out"):
        logits = layers.predict_changed(model, variables, IMAGE, layer, layers.average)
        inside = logits[:, 4:-4, 4:-4, 0]
        np.testing.assert_allclose(inside, jnp.broadcast_to(inside[:, :1, :1], inside.shape), atol=1e-5)


def test_one_channel_is_averaged_alone():
    after = jnp.array(np.random.default_rng(2).normal(size=(2, 3, 3, 2)), jnp.float32)
    flat = layers.average_channel(1)(after, after)
    np.testing.assert_array_equal(flat[..., 0], after[..., 0])
    for image in range(2):
        np.testing.assert_allclose(flat[image, ..., 1], jnp.full((3, 3), after[image, ..., 1].mean()), rtol=1e-5)


def test_a_skipped_layer_passes_its_input_on():
    model = MODELS[1]
    variables = random_variables(model)
    # A convolution that passes each channel on is a kernel of 1 at its middle, with no bias.
    kernel = np.zeros((3, 3, 4, 4), np.float32)
    kernel[1, 1] = np.eye(4)
    conv2 = {"kernel": kernel, "bias": np.zeros(4, np.float32)}
    passing = {**variables, "params": {**variables["params"], "conv2": conv2}}
    skipped = layers.predict_changed(model, variables, IMAGE, "conv2", layers.skip)
    np.testing.assert_allclose(skipped, segjax.predict(model, passing, IMAGE), rtol=1e-5, atol=1e-6)


def test_works_under_jit():
    model = MODELS[1]
    variables = random_variables(model)
    changed = jax.jit(lambda image: layers.predict_changed(model, variables, image, "conv2", layers.average))
    expected = layers.predict_changed(model, variables, IMAGE, "conv2", layers.average)
    np.testing.assert_allclose(changed(IMAGE), expected, rtol=1e-5, atol=1e-6)


def test_refuses_another_layer():
    with pytest.raises(ValueError, match="layer must be one of: conv1, conv2, conv3, out; got 'conv4'"):
        layers.predict_changed(MODELS[1], random_variables(MODELS[1]), IMAGE, "conv4", layers.skip)


def test_refuses_a_channel_that_is_not_there():
    after = jnp.zeros((1, 3, 3, 2))
    for index, bound in ((-1, ">= 0"), (2, "<= 1")):
        with pytest.raises(ValueError, match=f"index must be an integer {bound}, got {index}"):
            layers.average_channel(index)(after, after)


def test_refuses_to_skip_a_layer_that_changes_the_width():
    with pytest.raises(ValueError, match="layer can be skipped only if"):
        layers.predict_changed(MODELS[1], random_variables(MODELS[1]), IMAGE, "conv1", layers.skip)


def test_layers_of_a_nested_network_are_told_apart():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return segjax.convolution.Conv(1, 3, name="conv")(x)

    class Nested(nn.Module):
        batch_statistics = False

        @nn.compact
        def __call__(self, image, train=False):
            return Block(name="second")(Block(name="first")(image))

    model = Nested()
    variables = random_variables(model)
    maps = layers.feature_maps(model, variables, IMAGE)
    assert list(maps) == ["first/conv", "second/conv"]
    changed = layers.predict_changed(model, variables, IMAGE, "first/conv", layers.skip)
    np.testing.assert_array_equal(changed, Block().apply({"params": variables["params"]["second"]}, IMAGE))


def test_refuses_a_network_of_other_convolutions():
    class Plain(nn.Module):
        batch_statistics = False

        @nn.compact
        def __call__(self, image, train=False):
            return nn.Conv(1, (3, 3))(image)

    model = Plain()
    with pytest.raises(ValueError, match=r"model must have layers of the class segjax.convolution.Conv, got none"):
        layers.feature_maps(model, random_variables(model), IMAGE)
