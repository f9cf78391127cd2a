import numpy as np

from experiments import inspect_layers


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
