import numpy as np
import pytest
from small_runs import ARMS, arm, contest, result

from experiments.lab import scores, views
from experiments.lab.scores import Arm, Target
from experiments.optimizers import tuning
from segjax import statistics


@pytest.mark.parametrize(
    ("loss", "step"),
    [
        ([0.3, 0.2, 0.1], None),
        ([0.3, np.nan, 0.1], 2),
        ([np.inf, 0.2, 0.1], 1),
        ([0.3, 0.2, 0.4], 3),
        ([0.3, 0.2, 0.31], None),
        ([0.3], None),
    ],
)
def test_what_diverged_is_said_to_have(loss, step):
    alone = Arm("a", (result(loss),))
    assert alone.rows[0]["diverged_at"] == step
    assert alone.diverged.tolist() == [step is not None]


def test_final_loss_is_the_last_tenth():
    assert scores.final_loss(np.arange(20.0)) == pytest.approx(18.5)
    assert scores.final_loss(np.array([1.0, 3.0])) == 3


def test_a_row_tells_the_running_means_and_the_scores():
    (row,) = Arm("a", (result([0.4, 0.2], agreeing=[0, 1]),)).rows
    assert row["loss"] == pytest.approx(0.3)
    assert row["agreement"] == pytest.approx(0.5)
    assert row["accuracy"] == pytest.approx(6 / 8)
    assert row["accuracy_by_running_statistics"] == pytest.approx(6 / 8)
    assert row["iou"] == pytest.approx(3 / 5)
    assert row["held_out_agreement"] == pytest.approx(4 / 8)
    assert row["held_out_bce"] == pytest.approx(0.2)
    assert (row["label"], row["seed"], row["optimizer"], row["learning_rate"]) == ("a", 0, "adam", 1e-3)
    # The loss is a number; the function that it is of has a name of its own.
    assert row["objective"] == "mse"


def test_arms_group_seeds():
    results = [result([0.4, 0.2], 0), result([0.6, 0.4], 1), result([0.1, 0.1], 0, optimizer="sgd")]
    names = {"adam": "a", "sgd": "b"}
    arms = scores.arms(results, lambda run: names[run.optimizer])
    assert {label: len(arm.results) for label, arm in arms.items()} == {"a": 2, "b": 1}
    np.testing.assert_allclose(arms["a"].values("loss"), [0.3, 0.5], rtol=1e-6)
    np.testing.assert_allclose(arms["a"].running("loss"), [[0.4, 0.3], [0.6, 0.5]], rtol=1e-6)
    document = scores.document(arms)
    assert document["summary"]["a"]["loss"] == pytest.approx({"mean": 0.4, "min": 0.3, "max": 0.5})
    assert len(scores.rows(arms)) == len(document["runs"]) == 3
    assert {name: len(curve) for name, curve in document["runs"][0]["curves"].items()} == {
        "loss": 2,
        "agreement": 2,
        "iou": 2,
    }


def test_what_diverged_has_no_value():
    assert {label: arm.diverged.sum() for label, arm in ARMS.items()} == {"a": 0, "b": 1}
    np.testing.assert_allclose(ARMS["b"].kept("final_loss"), [0.2, 0.1, np.nan], rtol=1e-6)


def test_estimates_are_over_what_did_not_diverge():
    found = contest(ARMS).estimates["final_loss"]
    assert found["a"]["mean"] == statistics.bootstrap(np.float32([0.1, 0.2, 0.3]))
    assert found["b"]["median"].value == pytest.approx(0.15)
    lost = contest(arm("c", [result([np.nan, 0.1])]), reference="c").estimates["final_loss"]["c"]["mean"]
    assert np.isnan(lost).all()


def test_pairs_are_of_one_seed():
    found = contest(ARMS).improvements["final_loss"]
    assert list(found) == ["b"]
    assert (found["b"].wins, found["b"].ties, found["b"].seeds) == (1, 0, 3)
    assert found["b"].difference.value == pytest.approx(0.0, abs=1e-7)


def test_misses_are_misses(monkeypatch):
    monkeypatch.setattr(scores, "WINDOW", 1)
    target, never = (Target("loss", f"loss <= {value}", value, False) for value in (0.25, 0.01))
    steps = contest(ARMS, [target, never]).steps
    np.testing.assert_array_equal(steps["loss <= 0.25"]["a"], [2, 2, np.inf])
    np.testing.assert_array_equal(steps["loss <= 0.25"]["b"], [2, 2, np.inf])
    np.testing.assert_array_equal(steps["loss <= 0.01"]["a"], np.full(3, np.inf))


def test_document_holds_every_estimate():
    document = scores.document(ARMS, contest(ARMS, [Target("iou", "IoU >= 0.5", 0.5, True)]))
    assert set(document["estimates"]["final_loss"]["a"]["IQM"]) == {"value", "low", "high"}
    assert document["paired"]["iou"]["b"]["ties"] == 2
    assert document["reference"] == "a"
    assert len(document["steps_to_target"]["IoU >= 0.5"]["b"]) == 3


@pytest.mark.parametrize(
    "lost",
    [result([0.4, np.nan], 1), result([0.4, 0.5], 1), result([0.4, 0.1], 1, weights=np.inf)],
    ids=["a loss is not finite", "it ends above where it began", "its weights are not finite"],
)
def test_diverged_means_the_same_everywhere(lost):
    """One seed of "a" diverged; but for that it would be the better one."""
    arms = arm("a", [result([0.4, 0.01]), lost]) | arm("b", [result([0.4, 0.2]), result([0.4, 0.2], 1)])
    assert [row["diverged_at"] for row in arms["a"].rows] == [None, 2]
    for column in scores.COLUMNS:
        assert np.isnan(arms["a"].kept(column)).tolist() == [False, True]
        assert np.isfinite(arms["b"].kept(column)).all()
    assert views.leader(arms, "final_loss").startswith("Lowest loss, last tenth: b (0.2000), ahead of all others")
    grid = tuning.grid({"a": arm("a 0.001", [result([0.4, 0.01]), lost])})
    assert grid.diverged["a"].tolist() == [[False], [True]]
    assert grid.best["a"].rate is None
    found = contest(arms)
    assert found.estimates["final_loss"]["a"]["mean"].value == pytest.approx(0.01)
    won = found.improvements["final_loss"]["b"]
    assert (won.wins, won.ties, won.seeds) == (1, 0, 2)
