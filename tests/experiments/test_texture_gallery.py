import numpy as np
import pytest
from small_runs import execute

from experiments import texture_gallery
from experiments.lab.stops import UsageError
from experiments.texture_gallery import Options


def test_the_map_is_symmetric_and_at_chance_on_its_diagonal():
    rows = [{"sigma1": 0.2, "sigma2": 5.0, "error": 0.1}, {"sigma1": 0.2, "sigma2": 1.0, "error": 0.3}]
    # In the order of the options, not of the rows; the last pair was not measured.
    errors = texture_gallery.error_map(Options(map_sigmas=(1.0, 0.2, 5.0)), rows, "error")
    np.testing.assert_array_equal(errors, [[0.5, 0.3, 0.5], [0.3, 0.5, 0.1], [0.5, 0.1, 0.5]])


def test_the_findings_name_the_easiest_the_hardest_and_the_furthest_from_the_best_possible():
    rows = [
        {"sigma1": 0.2, "sigma2": 5.0, "error": 0.101, "best_possible": 0.0},
        {"sigma1": 1.0, "sigma2": 2.0, "error": 0.25, "best_possible": 0.2},
    ]
    first, second = texture_gallery.findings(rows)
    assert first == "Easiest: 0.2 against 5 pixels (10.1% of pixels wrong). Hardest: 1 against 2 (25.0%)."
    assert second.startswith("Furthest from the best possible: 0.2 against 5, 10.1% where Bayes' rule has 0.0%")


def test_a_map_needs_several_sigmas(tmp_path):
    with pytest.raises(UsageError, match="--map-sigmas must be at least two different numbers"):
        execute(texture_gallery, "quick", "--map-sigmas", "1", "--out", tmp_path / "out")
