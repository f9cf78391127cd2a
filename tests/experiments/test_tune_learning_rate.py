import pytest
from small_runs import RATES, arms_at, execute, result

from experiments import tune_learning_rate
from experiments.lab import scores, tuning
from experiments.lab.stops import UsageError
from experiments.lab.tuning import Candidate


def test_rates_are_different(tmp_path):
    with pytest.raises(UsageError, match="--rates must be different"):
        execute(tune_learning_rate, "--preset", "quick", "--rates", "1", "1", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("losses", "beyond"),
    [([0.1, 0.2, 0.3], [1e-4]), ([0.3, 0.2, 0.1], [1.0]), ([0.3, 0.1, 0.3], [])],
)
def test_the_grid_extends_itself_beyond_its_edge(losses, beyond):
    extended = tune_learning_rate.extension(arms_at(losses).values(), [Candidate("adam", tuple(RATES))])
    assert [rate for candidate in extended for rate in candidate.rates] == pytest.approx(beyond)


def test_the_grid_does_not_extend_for_ever():
    # Three rates below the grid that was asked for, the lowest still the best.
    assert tune_learning_rate.extension(arms_at([0.1, 0.2, 0.3]).values(), [Candidate("adam", (1.0, 2.0))]) == []


def test_close_rates_have_nothing_new_beyond_them():
    close = (0.001, 0.0010000001)
    arms = scores.arms(
        [result([1.0, loss], 0, rate) for rate, loss in zip(close, (0.1, 0.2), strict=True)], scores.by_rate
    )
    assert tune_learning_rate.extension(arms.values(), [Candidate("adam", close)]) == []


def test_findings_name_the_best_the_edge_and_what_diverged():
    arms = arms_at([0.1, 0.2, float("nan")]) | arms_at([2.0, 3.0, 4.0], "sgd")
    said = tune_learning_rate.findings(tuning.grid(arms.values()))
    assert said[0].startswith("adam: best rate 0.001 (loss 0.1000), at the lowest edge of its grid")
    assert said[0].endswith("diverged at 0.1.")
    assert said[1] == "sgd: every rate diverged."
