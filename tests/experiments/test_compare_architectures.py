import numpy as np
import pytest
from small_runs import SMALL, count_training, execute, lab_of, result

from experiments import compare_architectures
from experiments.bench import bounds
from experiments.compare_architectures import SECONDS, STEPS, Cost, Options
from experiments.lab.arms import compare
from experiments.lab.options import Seeds, Training
from segjax.oracle import BayesError

WORDS = [*SMALL, "--schedule", "constant"]


def options(iterations=100, seeds=1):
    training = Training(iterations=iterations)
    return Options(architectures=("notebook", "wide"), training=training, seeds=Seeds(seeds=seeds))


def test_equal_seconds_are_those_of_the_first():
    costs = {"notebook": Cost(1, 1, 1.0, 0.02), "wide": Cost(1, 1, 1.0, 0.08)}
    runs = compare_architectures.plan(options(), costs)
    assert {name: {run.architecture: run.iterations for run in budget} for name, budget in runs.items()} == {
        STEPS: {"notebook": 100, "wide": 100},
        SECONDS: {"notebook": 100, "wide": 25},
    }


@pytest.mark.slow
def test_flops_are_those_of_the_convolutions():
    """2 x pixels x 25 x (16 + 256 + 256 + 16)."""
    cost = compare_architectures.cost(options(), "notebook", 0.0)
    assert cost.flops == 2 * 64**2 * 25 * 544
    assert (cost.parameters, cost.receptive_field) == (13_681, 17)


def test_the_table_has_a_row_for_each_with_its_cost_and_both_accuracies():
    costs = {"notebook": Cost(13_681, 17, 2e6, 0.02), "wide": Cost(52_961, 17, 8e6, 0.08)}

    def arm(name, iterations, right):
        counts = (right // 2, 4 - right // 2, 4 - right // 2, right // 2, 0)
        return compare([result([0.5] * iterations, optimizer=name, counts=counts)], by=lambda run: run.optimizer)

    budgets = {STEPS: arm("notebook", 4, 6) | arm("wide", 4, 2), SECONDS: arm("notebook", 4, 6) | arm("wide", 2, 0)}
    table = compare_architectures.table(options(), costs, budgets)
    assert [len(row) for row in table.rows] == [len(table.headings)] * 2
    assert table.rows[0] == ["notebook", "13,681", "17", "2", "20", "0.750", "4", "0.750"]
    assert table.rows[1] == ["wide", "52,961", "17", "8", "80", "0.250", "2", "0.000"]
    assert "steps in 2 s" in table.headings
    quick = compare_architectures.table(
        options(), {name: cost._replace(step_seconds=2e-4) for name, cost in costs.items()}, budgets
    )
    assert "steps in 0.02 s" in quick.headings
    assert quick.rows[0][4] == "0.2"


def test_what_the_seeds_do_not_tell_apart_has_its_difference_at_each_budget():
    def arms(second):
        runs = {"notebook": [(2, 0, 0, 2, 0), half], "wide": [half, second]}
        results = [
            result([0.5], seed, optimizer=name, counts=counts[seed]) for name, counts in runs.items() for seed in (0, 1)
        ]
        return compare(results, by=lambda run: run.optimizer)

    half = (1, 1, 1, 1, 0)
    tables = compare_architectures.ties({STEPS: arms(half), SECONDS: arms((2, 0, 0, 2, 0))})
    assert [table.title for table in tables] == ["Not told apart at equal steps", "Not told apart at equal seconds"]
    assert [row[:3] for table in tables for row in table.rows] == [
        ["held-out accuracy", "notebook 0.750", "wide"],
        ["held-out accuracy", "notebook 0.750", "wide"],
    ]
    assert tables[0].rows[0][3].startswith("+0.250 (")


@pytest.mark.slow
def test_a_run_that_both_budgets_share_is_trained_once(tmp_path, monkeypatch):
    # A step of the second takes three times as long: of its 30 steps, 10 fit into the seconds.
    seconds = {"notebook": 0.01, "shallow": 0.03}
    monkeypatch.setattr(compare_architectures, "step_seconds", lambda options, name: seconds[name])
    started = count_training(monkeypatch)
    words = [*WORDS, "--iterations", "30", "--architectures", *seconds, "--seeds", "2", "--out", tmp_path]
    document = execute(compare_architectures, *words)
    runs = {(run["label"], run["seed"]): {**run, "label": "", "curves": ""} for run in document["runs"]}
    assert len(runs) == 8
    for seed in (0, 1):
        assert runs[f"notebook {STEPS}", seed] == runs[f"notebook {SECONDS}", seed]
        assert runs[f"shallow {SECONDS}", seed]["iterations"] == 10
    assert len(started) == len(set(started)) == 6


@pytest.mark.slow
def test_a_further_architecture_leaves_the_finished_runs_and_the_measured_seconds(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(compare_architectures, "step_seconds", lambda options, name: measured.append(name) or 0.01)
    words = [*WORDS, "--iterations", "10", "--seeds", "1", "--out", tmp_path, "--architectures", "notebook"]
    execute(compare_architectures, *words)
    started = count_training(monkeypatch)
    document = execute(compare_architectures, *words, "shallow")
    assert [run.architecture for run in started] == ["shallow"]
    assert list(document["costs"]) == measured == ["notebook", "shallow"]


def test_an_architecture_with_a_run_that_diverged_is_not_the_best(monkeypatch):
    bound = bounds.Bound(9, BayesError(0.01, 0.001, 0.01, 0.001))
    monkeypatch.setattr(bounds, "measure", lambda *_: bound)
    monkeypatch.setattr(compare_architectures, "measure", lambda *_: dict.fromkeys(("notebook", "wide"), 0.02))
    monkeypatch.setattr(compare_architectures, "cost", lambda *_: Cost(1, 17, 1.0, 0.02))

    def train(run):
        loss = np.nan if run.architecture == "wide" and run.seed == 1 else 0.4
        counts = (2, 0, 0, 2, 0) if run.architecture == "wide" else (1, 1, 1, 1, 0)
        return result([0.5, loss], counts=counts)._replace(run=run)

    report = compare_architectures.answer(options(iterations=2, seeds=2), lab_of(train))
    assert "; notebook errs on 50.00%" in report.findings[-1]
    assert report.warnings[-1].startswith("Runs diverged: wide equal steps 1 of 2, wide equal seconds 1 of 2.")
