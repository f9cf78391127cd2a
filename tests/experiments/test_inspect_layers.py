import numpy as np
import pytest
from conftest import random_variables
from small_runs import execute

from experiments import inspect_layers
from experiments.lab.names import ARCHITECTURES
from experiments.lab.stops import UsageError
from experiments.pictures import saved_models


def test_a_mosaic_keeps_its_tiles_apart():
    whole = inspect_layers.mosaic(np.broadcast_to(np.reshape([1, 2, 3, 4], (2, 2, 1, 1)), (2, 2, 2, 3)))
    nan = np.nan
    np.testing.assert_array_equal(whole[:, 2:5], [[1, nan, 2]] * 2 + [[nan] * 3] + [[3, nan, 4]] * 2)
    assert whole.shape == (5, 7)


def findings(*parts):
    """Of parts (layer, channel, what its removal costs) of a network with an accuracy of 0.9, at chance 0.55."""
    whole = [("", None, "nothing", 0.0), ("", None, "everything", 0.35)]
    averaged = [(layer, channel, "averaged", lost) for layer, channel, lost in parts]
    removals = [inspect_layers.Removal(*part, 0.9 - lost, lost) for *part, lost in (*whole, *averaged)]
    return inspect_layers.findings(removals)


def test_findings_compare_layers_and_channels():
    parts = [("a", None, 0.4), ("a", 0, 0.0005), ("a", 1, 0.2), ("b", None, 0.1), ("out", None, 0.6)]
    first, second, third = findings(*parts)
    assert "right on 0.900" in first
    assert "right on 0.550" in first
    assert second.endswith("accuracy is lowest, 0.500, for a; others: 0.800 for b.")
    assert third.startswith(
        "With a single channel averaged, accuracy is lowest, 0.700, for channel 1 of a; 1 of 2 cost less"
    )


def test_layers_that_leave_as_little_are_named_together():
    parts = [("a", None, 0.4), ("b", None, 0.4), ("out", None, 0.6)]
    assert findings(*parts)[1].endswith("is lowest, 0.500, for a or b.")


def test_kernels_are_numbered_as_the_channels_are():
    draw = np.random.default_rng(0).normal
    kernels = {"conv1": draw(size=(5, 5, 1, 3)), "conv2": draw(size=(5, 5, 3, 20)), "out": draw(size=(5, 5, 3, 1))}
    variables = {"params": {layer: {"kernel": kernel} for layer, kernel in kernels.items()}}
    for layer in ("conv1", "out"):
        titles = [axes.get_title() for axes in inspect_layers.kernels(layer, variables).axes if axes.images]
        assert titles == ["channel 0", "channel 1", "channel 2"]
    axes = inspect_layers.kernels("conv2", variables).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "1", "2"]
    # Every label stands at the middle of its kernel.
    middles = [axes.images[0].get_array()[int(y), 2] for y in axes.get_yticks()]
    np.testing.assert_array_equal(middles, kernels["conv2"][2, 2, 0, : inspect_layers.MAX_TILES])


@pytest.mark.slow
@pytest.mark.parametrize("diverged", [True, False])
def test_it_warns_of_a_network_that_diverged(diverged, tmp_path):
    texture = {"batch_size": 1, "image_size": 16, "sigma1": 0.3, "sigma2": 1.5, "sigma": 4.0}
    variables = random_variables(ARCHITECTURES["shallow"])
    for name, content in saved_models.files("shallow", variables, {"texture": texture}, False, diverged).items():
        (tmp_path / name).write_bytes(content)
    out = tmp_path / "out"
    execute(inspect_layers, "quick", "--model", tmp_path / saved_models.MODEL, "--out", out)
    assert ("The training of this network diverged" in (out / "report.html").read_text()) == diverged


def test_what_is_no_model_is_told(tmp_path):
    with pytest.raises(UsageError, match="is not a model of these experiments"):
        execute(inspect_layers, "quick", "--model", __file__, "--out", tmp_path / "out")
