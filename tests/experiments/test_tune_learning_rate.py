import pytest
from small_runs import SHORT, arms_at, execute

from experiments import tune_learning_rate
from experiments.optimizers import tuning


def test_findings_name_the_best_the_edge_and_what_diverged():
    trials = {"adam": arms_at([0.1, 0.2, float("nan")]), "sgd": arms_at([2.0, 3.0, 4.0], "sgd")}
    sentences = tune_learning_rate.findings(tuning.Grid(trials))
    assert sentences[0].startswith("adam: best rate 0.001 (loss 0.1000), at the lowest edge of its grid")
    assert sentences[0].endswith("; some seed diverged at 0.1.")
    assert sentences[1] == "sgd: some seed diverged at every rate."


@pytest.mark.slow
def test_an_extended_grid_is_reported_whole(tmp_path):
    words = [*SHORT, "--optimizers", "plain=sgd=1e-5,1e-3", "--seeds", "1", "--extend", "--out", tmp_path]
    document = execute(tune_learning_rate, *words)
    # 0.1 is the best, and 10 diverges: no edge is left.
    assert [row["label"] for row in document["runs"]] == ["plain 1e-05", "plain 0.001", "plain 0.1", "plain 10"]
    assert set(document["best_rates"]) == {"plain"}
