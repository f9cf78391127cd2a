import numpy as np
import pytest
from test_runs import result

from experiments import comparison
from experiments.comparison import SCORES, Target
from segjax import statistics

# Loss of the last tenth: the last of the two steps.
RESULTS = [
    *(result([0.4, loss], "a", seed) for seed, loss in enumerate([0.1, 0.2, 0.3])),
    *(result([0.4, loss], "b", seed) for seed, loss in enumerate([0.2, 0.1, np.nan])),
]
FINAL = SCORES[0]


def test_what_diverged_has_no_value():
    assert comparison.diverged(RESULTS) == {"a": 0, "b": 1}
    np.testing.assert_allclose(comparison.values(RESULTS, FINAL)["b"], [0.2, 0.1, np.nan], rtol=1e-6)


def test_estimates_are_over_what_did_not_diverge():
    found = comparison.estimates(RESULTS, FINAL)
    assert found["a"]["mean"] == statistics.bootstrap(np.float32([0.1, 0.2, 0.3]))
    assert found["b"]["median"].value == pytest.approx(0.15)
    lost = comparison.estimates([result([np.nan, 0.1], "c")], FINAL)["c"]["mean"]
    assert np.isnan(lost).all()
    rows = comparison.score_table([result([np.nan, 0.1], "c")], FINAL).rows
    assert rows == [["c", "-", "-", "-"]]


def test_pairs_are_of_one_seed():
    found = comparison.improvements(RESULTS, FINAL, "a")
    assert list(found) == ["b"]
    assert (found["b"].wins, found["b"].ties, found["b"].seeds) == (1, 0, 3)
    assert found["b"].difference.value == pytest.approx(0.0, abs=1e-7)
    (row,) = comparison.paired_table(RESULTS, FINAL, "a").rows
    assert row[0] == "b"
    assert row[2:] == ["1 of 3", "0.33\n0.06 to 0.79"]


def test_misses_are_misses(monkeypatch):
    monkeypatch.setattr(comparison, "WINDOW", 1)
    target = Target("loss", "loss <= 0.25", 0.25, False)
    steps = comparison.steps_to(RESULTS, target)
    np.testing.assert_array_equal(steps["a"], [2, 2, np.inf])
    np.testing.assert_array_equal(steps["b"], [2, 2, np.inf])
    # A second for two steps.
    assert comparison.target_table(RESULTS, [target]).rows[0] == ["a", "2 of 3", "2", "1.0"]
    never = Target("loss", "loss <= 0.01", 0.01, False)
    assert comparison.target_table(RESULTS, [never]).rows[0] == ["a", "0 of 3", "never", "never"]


def test_document_holds_every_estimate():
    document = comparison.document(RESULTS, [Target("iou", "IoU >= 0.5", 0.5, True)], "a")
    assert set(document["estimates"]["final_loss"]["a"]["IQM"]) == {"value", "low", "high"}
    assert document["paired"]["iou"]["b"]["ties"] == 2
    assert document["reference"] == "a"
    assert len(document["steps_to_target"]["IoU >= 0.5"]["b"]) == 3


def test_figures_show_intervals():
    curves = comparison.curves_figure(RESULTS[:3], "title").axes[0]
    low, high = statistics.bootstrap(np.float32([0.1, 0.2, 0.3]) / 2 + 0.2)[1:]
    assert curves.collections[0].get_paths()[0].vertices[:, 1].max() == pytest.approx(0.4, rel=1e-5)
    assert curves.collections[0].get_paths()[0].vertices[:, 1].min() == pytest.approx(low, rel=1e-5)
    assert low < high < 0.4
    differences = comparison.differences_figure(RESULTS, "a", "title").axes[0]
    assert differences.get_xlabel() == "loss, last tenth, less that of a"
