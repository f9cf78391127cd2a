"""Runs by what is compared: the columns of a run, and the numbers of an arm over its seeds."""

import numpy as np
import pytest
from small_runs import ARMS, arm, contest, result

from experiments.lab import arms, tables
from experiments.lab.arms import Arm
from experiments.optimizers import tuning


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
def test_a_run_that_diverged_tells_the_step(loss, step):
    alone = Arm("a", (result(loss),))
    assert alone.rows[0]["diverged_at"] == step
    assert alone.diverged.tolist() == [step is not None]


def test_final_loss_is_the_last_tenth():
    assert arms.final_loss(np.arange(20.0)) == pytest.approx(18.5)
    assert arms.final_loss(np.array([1.0, 3.0])) == 3


def test_a_row_has_the_running_means_and_the_scores():
    (row,) = Arm("a", (result([0.4, 0.2], agreeing=[0, 1]),)).rows
    assert row["loss"] == pytest.approx(0.3)
    assert row["agreement"] == pytest.approx(0.5)
    assert row["accuracy"] == pytest.approx(6 / 8)
    assert row["accuracy_by_running_statistics"] == pytest.approx(6 / 8)
    assert row["iou"] == pytest.approx(3 / 5)
    assert row["held_out_agreement"] == pytest.approx(4 / 8)
    assert row["held_out_bce"] == pytest.approx(0.2)
    assert (row["label"], row["seed"], row["optimizer"], row["learning_rate"]) == ("a", 0, "adam", 1e-3)
    # The column loss is a number; the loss function has another name.
    assert row["objective"] == "mse"


def test_arms_group_seeds():
    results = [result([0.4, 0.2], 0), result([0.6, 0.4], 1), result([0.1, 0.1], 0, optimizer="sgd")]
    names = {"adam": "a", "sgd": "b"}
    compared = arms.compare(results, by=lambda run: names[run.optimizer])
    assert {label: len(arm.results) for label, arm in compared.items()} == {"a": 2, "b": 1}
    np.testing.assert_allclose(compared["a"].values("loss"), [0.3, 0.5], rtol=1e-6)
    np.testing.assert_allclose(compared["a"].running("loss"), [[0.4, 0.3], [0.6, 0.5]], rtol=1e-6)
    document = arms.document(compared)
    assert document["summary"]["a"]["loss"] == pytest.approx({"mean": 0.4, "min": 0.3, "max": 0.5})
    assert len(arms.rows(compared)) == len(document["runs"]) == 3
    assert {name: len(curve) for name, curve in document["runs"][0]["curves"].items()} == {
        "loss": 2,
        "agreement": 2,
        "iou": 2,
    }


def test_a_run_that_diverged_has_no_value_that_is_judged():
    assert {label: arm.diverged.sum() for label, arm in ARMS.items()} == {"a": 0, "b": 1}
    np.testing.assert_allclose(ARMS["b"].masked("final_loss"), [0.2, 0.1, np.nan], rtol=1e-6)


@pytest.mark.parametrize(
    "lost",
    [result([0.4, np.nan], 1), result([0.4, 0.5], 1), result([0.4, 0.1], 1, weights=np.inf)],
    ids=["a loss is not finite", "it ends above where it began", "its weights are not finite"],
)
def test_diverged_means_the_same_everywhere(lost):
    """One seed of "a" diverged; otherwise it would be the better one."""
    compared = arm("a", [result([0.4, 0.01]), lost]) | arm("b", [result([0.4, 0.2]), result([0.4, 0.2], 1)])
    assert [row["diverged_at"] for row in compared["a"].rows] == [None, 2]
    for column in arms.COLUMNS:
        assert np.isnan(compared["a"].masked(column)).tolist() == [False, True]
        assert np.isfinite(compared["b"].masked(column)).all()
    assert "the fewest diverged runs: b (0.2000); fewer of its runs" in tables.leader(compared, "final_loss")
    grid = tuning.Grid({"a": arm("a 0.001", [result([0.4, 0.01]), lost])})
    assert grid.diverged["a"].tolist() == [[False], [True]]
    assert grid.best["a"].rate is None
    held = contest(compared)
    assert held.estimates["final_loss"]["a"]["mean"].value == pytest.approx(0.01)
    improvement = held.improvements["final_loss"]["b"]
    assert (improvement.wins, improvement.ties, improvement.seeds) == (0, 0, 1)


def test_the_column_of_a_number_says_which_images_it_is_of():
    assert arms.COLUMNS["iou"].title == "held-out IoU"
    assert arms.COLUMNS["final_loss"].title == "loss, last tenth"
    assert set(arms.TRAINING) | set(arms.HELD_OUT) == set(arms.COLUMNS)
