import pytest
from small_runs import RATES, SHORT, arms_at, execute, result

from experiments import tune_learning_rate
from experiments.lab import scores, tuning
from experiments.lab.stops import UsageError
from experiments.lab.tuning import Candidate


def grid(arms):
    return tuning.grid({"adam": arms})


def test_rates_are_different(tmp_path):
    with pytest.raises(UsageError, match="--rates must be different"):
        execute(tune_learning_rate, "--preset", "quick", "--rates", "1", "1", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("losses", "beyond"),
    [([0.1, 0.2, 0.3], [1e-4]), ([0.3, 0.2, 0.1], [1.0]), ([0.3, 0.1, 0.3], [])],
)
def test_the_grid_extends_itself_beyond_its_edge(losses, beyond):
    extended = tune_learning_rate.extension(grid(arms_at(losses)), [Candidate("adam", "adam", tuple(RATES))])
    assert list(extended.values()) == pytest.approx(beyond)


def test_the_grid_does_not_extend_for_ever():
    # Three rates below the grid that was asked for, the lowest still the best.
    given = [Candidate("adam", "adam", (1.0, 2.0))]
    assert tune_learning_rate.extension(grid(arms_at([0.1, 0.2, 0.3])), given) == {}


def test_close_rates_have_nothing_new_beyond_them():
    close = (0.001, 0.0010000001)
    arms = scores.arms(
        [result([1.0, loss], 0, rate) for rate, loss in zip(close, (0.1, 0.2), strict=True)], scores.by_rate
    )
    assert tune_learning_rate.extension(grid(arms), [Candidate("adam", "adam", close)]) == {}


def test_findings_name_the_best_the_edge_and_what_diverged():
    trials = {"adam": arms_at([0.1, 0.2, float("nan")]), "sgd": arms_at([2.0, 3.0, 4.0], "sgd")}
    said = tune_learning_rate.findings(tuning.grid(trials))
    assert said[0].startswith("adam: best rate 0.001 (loss 0.1000), at the lowest edge of its grid")
    assert said[0].endswith("diverged at 0.1.")
    assert said[1] == "sgd: every rate diverged."


@pytest.mark.slow
def test_an_extended_grid_is_reported_whole(tmp_path):
    words = [*SHORT, "--optimizers", "plain=sgd=1e-5,1e-3", "--seeds", "1", "--extend", "--out", tmp_path]
    document = execute(tune_learning_rate, *words)
    # 0.1 is the best, and 10 diverges: no edge is left.
    assert [row["label"] for row in document["runs"]] == ["plain 1e-05", "plain 0.001", "plain 0.1", "plain 10"]
    assert set(document["best_rates"]) == {"plain"}
