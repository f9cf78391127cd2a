from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segjax
from experiments import compare_architectures, inspect_layers
from experiments.compare_architectures import SECONDS, STEPS, Cost, Options

IMAGE = jax.random.uniform(jax.random.key(0), (2, 16, 16, 1))
MODELS = [segjax.SegmentationCNN(4, 3), segjax.SegmentationCNN(4, 3, shared_norm=False), segjax.UNet(4, levels=1)]


def initial(model):
    return model.init(jax.random.key(1), IMAGE)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_what_changes_nothing_changes_nothing(model):
    variables = initial(model)
    whole = segjax.predict(model, variables, IMAGE)
    maps = inspect_layers.feature_maps(model, variables, IMAGE)
    np.testing.assert_array_equal(maps["out"], whole)
    assert set(maps) == {layer for layer in variables["params"] if not layer.startswith("norm")}
    for layer in maps:
        kept = inspect_layers.altered(model, variables, layer, lambda before, after: after, IMAGE)
        np.testing.assert_array_equal(kept, whole)


def test_an_averaged_layer_leaves_nothing_of_the_image():
    """Every pixel inside gets one logit once a layer of the chain is constant; the zero padding shows at the edge."""
    model = MODELS[1]
    variables = initial(model)
    for layer in ("conv1", "conv3", "out"):
        logits = inspect_layers.altered(model, variables, layer, partial(inspect_layers.flatten, None), IMAGE)
        inside = logits[:, 4:-4, 4:-4, 0]
        np.testing.assert_allclose(inside, jnp.broadcast_to(inside[:, :1, :1], inside.shape), atol=1e-5)


def test_one_channel_is_averaged_alone():
    after = jax.random.normal(jax.random.key(2), (1, 3, 3, 2))
    flat = inspect_layers.flatten(1, after, after)
    np.testing.assert_array_equal(flat[..., 0], after[..., 0])
    np.testing.assert_allclose(flat[..., 1], jnp.full((1, 3, 3), after[..., 1].mean()), rtol=1e-6)


def test_a_skipped_layer_passes_its_input_on():
    model = MODELS[1]
    variables = initial(model)
    # A convolution that passes each channel on is a kernel of 1 at its middle, with no bias.
    kernel = jnp.zeros((3, 3, 4, 4)).at[1, 1].set(jnp.eye(4))
    conv2 = {"kernel": kernel, "bias": jnp.zeros(4)}
    passing = {**variables, "params": {**variables["params"], "conv2": conv2}}
    skipped = inspect_layers.altered(model, variables, "conv2", inspect_layers.skip, IMAGE)
    np.testing.assert_allclose(skipped, segjax.predict(model, passing, IMAGE), rtol=1e-5, atol=1e-6)


def test_a_mosaic_keeps_its_tiles_apart():
    tiles = [[np.full((2, 3), value) for value in row] for row in ([1.0, 2.0], [3.0])]
    whole = inspect_layers.mosaic(tiles)
    nan = np.nan
    np.testing.assert_array_equal(whole[:, 2:5], [[1, nan, 2]] * 2 + [[nan] * 3] + [[3, nan, nan]] * 2)
    assert whole.shape == (5, 7)


def test_findings_name_the_layers_that_matter():
    names = [("", "nothing", 0.0), ("a", "averaged", 0.4), ("b", "averaged", 0.1), ("a", "channel 0", 0.0005)]
    rows = [{"layer": n, "removed": r, "accuracy": 0.9 - lost, "loss_of_accuracy": lost} for n, r, lost in names]
    first, second = inspect_layers.findings(rows)
    assert "from 0.900 to 0.500 without a, and to 0.800 without b" in first
    assert second.startswith("1 of 1 channels")


def test_equal_seconds_are_those_of_the_first():
    options = Options(architectures=("notebook", "wide"), iterations=100, seeds=1)
    costs = {"notebook": Cost(1, 1, 1.0, 0.02), "wide": Cost(1, 1, 1.0, 0.08)}
    planned = {run.label: run.iterations for run in compare_architectures.plan(options, costs)}
    assert planned == {
        f"notebook {STEPS}": 100,
        f"notebook {SECONDS}": 100,
        f"wide {STEPS}": 100,
        f"wide {SECONDS}": 25,
    }


def test_flops_are_those_of_the_convolutions():
    """2 x pixels x 25 x (16 + 256 + 256 + 16), less what the padding saves, and a little for the rest."""
    image = jnp.zeros((1, 64, 64, 1))
    cost = compare_architectures.cost("notebook", image, 0.0)
    assert cost.flops == pytest.approx(2 * 64**2 * 25 * 544, rel=0.06)
    assert (cost.parameters, cost.receptive_field) == (13_681, 17)
