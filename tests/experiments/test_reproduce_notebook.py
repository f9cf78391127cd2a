import json

import pytest
from small_runs import execute, result

from experiments import reproduce_notebook
from experiments.lab import scores
from experiments.lab.stops import UsageError
from experiments.notebook import published
from experiments.reproduce_notebook import Compared, Options, compare, findings, plan, verdict


@pytest.mark.parametrize(
    ("number", "ours", "words"),
    [
        (0.5, [0.4, 0.6], "within our range"),
        (0.61, [0.4, 0.6, 0.5], "could be one of ours"),
        (5.0, [0.4, 0.6, 0.5], "no: above ours"),
        (-5.0, [0.4, 0.6, 0.5], "no: below ours"),
        (0.5, [0.6], "one run: no verdict, ours is +20%"),
        (0.5, [], "no run: no verdict"),
    ],
)
def test_verdict(number, ours, words):
    assert verdict(number, ours) == words


def test_every_published_number_has_its_run():
    planned = {scores.by_rate(run) for run in plan(Options())}
    assert {row.label for row in published.PUBLISHED} <= planned


def test_the_long_run_is_its_seeds_only():
    sgd = [run.iterations for run in plan(Options(seeds=3, long_seeds=1)) if scores.by_rate(run) == "sgd 0.001"]
    assert sgd == [10_000, 1000, 1000]


def test_ours_are_taken_at_the_same_step():
    runs = [result([0.4, 0.2, 0.3, 0.5], 0, optimizer="sgd"), result([0.2, 0.4], 1, optimizer="sgd")]
    arms = scores.arms(runs, scores.by_rate)
    options = Options(iterations=2, long_iterations=4)
    first, last = (published.Published("sgd 0.001", thousands, published.LOSS, 0.3) for thousands in (1, 2))
    assert compare(first, arms, options).ours == pytest.approx([0.3, 0.3])
    assert compare(last, arms, options).ours == pytest.approx([0.35])
    # What no run of ours reaches is not compared.
    assert compare(last._replace(thousands=10), arms, options).ours == []
    # Nor is one that ended in NaN.
    lost = scores.arms([*runs, result([0.4, float("nan")], 2, optimizer="sgd")], scores.by_rate)
    assert compare(first, lost, options) == compare(first, arms, options)


def test_another_protocol_is_not_held_against_the_published_numbers():
    runs = [result([0.4, 0.2, 0.3, 0.5], 0, optimizer="sgd"), result([0.2, 0.4], 1, optimizer="sgd")]
    found = reproduce_notebook.report(Options(iterations=2, long_iterations=4, seeds=2), runs)
    ours, _ = found.tables
    # The long run counts after the short number of steps, as the other does.
    assert ours.rows == [["sgd 0.001", "0.3000\n0.3000-0.3000", "1.0000\n1.0000-1.0000"]]
    assert "published_losses" not in found.figures
    assert not any("0.0451" in cell or "0.7185" in cell for table in found.tables for row in table.rows for cell in row)


def test_what_does_not_fit_comes_first_and_each_number_counts_once():
    row = Compared("sgd", 1000, published.LOSS, 0.1, "", [0.1, 0.2], "within our range")
    misnamed = row._replace(note=published.MISNAMED, verdict="no: above ours")
    made = row._replace(label="momentum", note=published.AS_MOMENTUM)
    single = row._replace(verdict="one run: no verdict")
    first, second = findings([row, misnamed, made, single])
    assert first.startswith("1 published numbers do not fit as SGD: loss 0.1, ours 0.15 on average. As momentum")
    assert first.endswith("they do: loss 0.1, ours 0.15 on average.")
    assert second.startswith("2 of 2 published numbers")
    assert (
        findings([row, row._replace(verdict="no: below ours")])[-1]
        == "sgd, loss 0.1, ours 0.15 on average: no: below ours."
    )
    assert findings([single])[0].startswith("No published number is judged")


def test_only_its_own_finished_folder_is_reported_again(tmp_path):
    command = (reproduce_notebook, "--preset", "quick", "--report-only", "--out", tmp_path)
    (tmp_path / "results.json").write_text(json.dumps({"experiment": "compare_optimizers", "options": {}}))
    with pytest.raises(UsageError, match="holds the results of compare_optimizers"):
        execute(*command)
    with pytest.raises(UsageError, match="--overwrite would delete the runs"):
        execute(*command, "--overwrite")


def test_there_must_be_a_finished_run_to_report(tmp_path):
    with pytest.raises(UsageError, match="holds no finished run"):
        execute(reproduce_notebook, "--preset", "quick", "--report-only", "--out", tmp_path / "out")
