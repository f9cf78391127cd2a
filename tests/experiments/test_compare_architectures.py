import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import SMALL, count_training, execute, result

from experiments import compare_architectures
from experiments.compare_architectures import SECONDS, STEPS, Cost, Found, Options
from experiments.lab import bounds, scores
from segjax.oracle import BayesError

WORDS = [*SMALL, "--schedule", "constant"]


def test_equal_seconds_are_those_of_the_first():
    options = Options(architectures=("notebook", "wide"), iterations=100, seeds=1)
    costs = {"notebook": Cost(1, 1, 1.0, 0.02), "wide": Cost(1, 1, 1.0, 0.08)}
    planned = compare_architectures.plan_budgets(options, costs)
    assert {budget: {run.architecture: run.iterations for run in runs} for budget, runs in planned.items()} == {
        STEPS: {"notebook": 100, "wide": 100},
        SECONDS: {"notebook": 100, "wide": 25},
    }


@pytest.mark.slow
def test_flops_are_those_of_the_convolutions():
    """2 x pixels x 25 x (16 + 256 + 256 + 16)."""
    image = jnp.zeros((1, 64, 64, 1))
    cost = compare_architectures.cost("notebook", image, 0.0)
    assert cost.flops == 2 * 64**2 * 25 * 544
    assert (cost.parameters, cost.receptive_field) == (13_681, 17)


def test_the_table_has_a_row_for_each_with_its_cost_and_both_accuracies():
    options = Options(architectures=("notebook", "wide"), iterations=100, seeds=1)
    costs = {"notebook": Cost(13_681, 17, 2e6, 0.02), "wide": Cost(52_961, 17, 8e6, 0.08)}

    def arm(name, iterations, right):
        counts = (right // 2, 4 - right // 2, 4 - right // 2, right // 2, 0)
        return scores.arms([result([0.5] * iterations, optimizer=name, counts=counts)], lambda run: run.optimizer)

    budgets = {STEPS: arm("notebook", 4, 6) | arm("wide", 4, 2), SECONDS: arm("notebook", 4, 6) | arm("wide", 2, 0)}
    found = compare_architectures.table(options, Found(costs, budgets, None))
    assert [len(row) for row in found.rows] == [len(found.headings)] * 2
    assert found.rows[0] == ["notebook", "13,681", "17", "2", "20", "0.750", "4", "0.750"]
    assert found.rows[1] == ["wide", "52,961", "17", "8", "80", "0.250", "2", "0.000"]
    assert "steps in 2 s" in found.headings


@pytest.mark.slow
def test_a_run_that_both_budgets_share_is_trained_once(tmp_path, monkeypatch):
    # A step of the second takes three times as long: of its 30 steps, 10 fit into the seconds.
    seconds = {"notebook": 0.01, "shallow": 0.03}
    monkeypatch.setattr(compare_architectures, "step_seconds", lambda options, name: seconds[name])
    begun = count_training(monkeypatch)
    words = [*WORDS, "--iterations", "30", "--architectures", *seconds, "--seeds", "2", "--out", tmp_path]
    document = execute(compare_architectures, *words)
    made = {(run["label"], run["seed"]): {**run, "label": "", "curves": ""} for run in document["runs"]}
    assert len(made) == 8
    for seed in (0, 1):
        assert made[f"notebook {STEPS}", seed] == made[f"notebook {SECONDS}", seed]
        assert made[f"shallow {SECONDS}", seed]["iterations"] == 10
    assert len(begun) == len(set(begun)) == 6


@pytest.mark.slow
def test_measured_seconds_are_kept_for_a_command_that_goes_on(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(compare_architectures, "step_seconds", lambda options, name: measured.append(name) or 0.01)
    words = [*WORDS, "--iterations", "10", "--architectures", "notebook", "--out", tmp_path]
    for _ in range(2):
        execute(compare_architectures, *words)
        for path in tmp_path.glob("*.*"):
            path.unlink()
    assert measured == ["notebook"]


def test_an_architecture_of_which_a_run_diverged_is_not_the_best():
    good = [result([0.5, 0.4], seed, optimizer="notebook", counts=(1, 1, 1, 1, 0)) for seed in (0, 1)]
    lost = [
        result([0.5, loss], seed, optimizer="wide", counts=(2, 0, 0, 2, 0)) for seed, loss in ((0, 0.4), (1, np.nan))
    ]
    arms = scores.arms([*good, *lost], lambda run: run.optimizer)
    costs = {"notebook": Cost(1, 17, 1.0, 0.02), "wide": Cost(1, 17, 1.0, 0.02)}
    bound = bounds.Bound(9, BayesError(0.01, 0.001, 0.01, 0.001))
    options = Options(architectures=("notebook", "wide"), iterations=2, seeds=2)
    said = compare_architectures.report(options, Found(costs, {STEPS: arms, SECONDS: arms}, bound))
    assert "; notebook errs on 50.00%" in said.findings[-1]
    assert said.warnings[-1].startswith("Runs diverged: wide equal steps 1 of 2, wide equal seconds 1 of 2.")
