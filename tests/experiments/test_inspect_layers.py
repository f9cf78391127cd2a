import numpy as np
import pytest
from conftest import drawn
from small_runs import execute

from experiments import inspect_layers
from experiments.lab import saved_models
from experiments.lab.names import ARCHITECTURES
from experiments.lab.stops import UsageError


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


@pytest.mark.slow
@pytest.mark.parametrize("diverged", [True, False])
def test_it_warns_of_a_network_that_diverged(diverged, tmp_path):
    texture = {"batch_size": 1, "image_size": 16, "sigma1": 0.3, "sigma2": 1.5, "sigma": 4.0}
    variables = drawn(ARCHITECTURES["shallow"])
    for name, content in saved_models.files("shallow", variables, {"texture": texture}, False, diverged).items():
        (tmp_path / name).write_bytes(content)
    out = tmp_path / "out"
    execute(inspect_layers, "--preset", "quick", "--model", tmp_path / saved_models.MODEL, "--out", out)
    assert ("The training of this network diverged" in (out / "report.html").read_text()) == diverged


def test_what_is_no_model_is_told(tmp_path):
    with pytest.raises(UsageError, match="is not a model of these experiments"):
        execute(inspect_layers, "--preset", "quick", "--model", __file__, "--out", tmp_path / "out")
