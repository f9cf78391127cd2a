import json

import pytest
from small_runs import execute, lab_of, parse, result

from experiments import reproduce_notebook
from experiments.lab.arms import by_rate, compare
from experiments.lab.options import Seeds
from experiments.lab.stops import UsageError
from experiments.notebook import comparison, published
from experiments.notebook.comparison import Compared, Verdict, findings
from experiments.reproduce_notebook import Options, planned


@pytest.mark.parametrize(
    ("number", "ours", "verdict", "text"),
    [
        (0.5, [0.4, 0.6], Verdict.IN_RANGE, "within our range"),
        (0.61, [0.4, 0.6, 0.5], Verdict.POSSIBLE, "could be one of ours"),
        (5.0, [0.4, 0.6, 0.5], Verdict.ABOVE, "no: above ours"),
        (-5.0, [0.4, 0.6, 0.5], Verdict.BELOW, "no: below ours"),
        (0.5, [0.6], Verdict.ONE_RUN, "one run: no verdict, ours is +20%"),
        (0.5, [], Verdict.NO_RUN, "no run: no verdict"),
    ],
)
def test_verdict(number, ours, verdict, text):
    assert comparison.judge(number, ours) is verdict
    assert Compared("sgd", 1, published.LOSS, number, "", ours, verdict).verdict_text == text


def test_every_published_number_has_its_run():
    labels = {by_rate(run) for run in planned(Options())}
    assert {row.label for row in published.PUBLISHED} <= labels


def test_the_long_run_is_its_seeds_only():
    options = Options(seeds=Seeds(seeds=3), long_seeds=1)
    assert [run.iterations for run in planned(options) if by_rate(run) == "sgd 0.001"] == [10_000, 1000, 1000]


RUNS = [result([0.4, 0.2, 0.3, 0.5], 0, optimizer="sgd"), result([0.2, 0.4], 1, optimizer="sgd")]


def test_ours_are_taken_at_the_same_step():
    arms = compare(RUNS, by=by_rate)
    first, last = (published.Published("sgd 0.001", thousands, published.LOSS, 0.3) for thousands in (1, 2))
    assert comparison.compare(first, arms, 2).ours == pytest.approx([0.3, 0.3])
    assert comparison.compare(last, arms, 2).ours == pytest.approx([0.35])
    # No run of ours reaches this step.
    assert comparison.compare(last._replace(thousands=10), arms, 2).ours == []
    # A run that ended in NaN does not count.
    lost = compare([*RUNS, result([0.4, float("nan")], 2, optimizer="sgd")], by=by_rate)
    assert comparison.compare(first, lost, 2) == comparison.compare(first, arms, 2)


def test_another_protocol_is_not_compared_with_the_published_numbers():
    options = parse(reproduce_notebook, "quick", "--iterations", "2", "--long-iterations", "4")
    results = iter(RUNS)
    # Every run but these two is of an optimizer that no table asks for.
    lab = lab_of(
        lambda run: next(results) if by_rate(run) == "sgd 0.001" else result([0.1, 0.1], run.seed, optimizer="x")
    )
    report = reproduce_notebook.answer(options, lab)
    ours, _ = report.tables
    # The long run counts after the short number of steps, as the other does.
    assert ["sgd 0.001", "0.3000\n0.3000-0.3000", "1.0000\n1.0000-1.0000"] in ours.rows
    assert "published_losses" not in report.figures
    cells = [cell for table in report.tables for row in table.rows for cell in row]
    assert not any("0.0451" in cell or "0.7185" in cell for cell in cells)


def test_the_notebook_s_own_protocol_is_compared():
    assert Options().is_notebook
    assert not parse(reproduce_notebook, "quick").is_notebook
    assert not parse(reproduce_notebook, "--sigma1", "0.3").is_notebook


def test_numbers_that_do_not_fit_come_first_and_each_number_counts_once():
    row = Compared("sgd", 1000, published.LOSS, 0.1, "", [0.1, 0.2], Verdict.IN_RANGE)
    misnamed = row._replace(note=published.MISNAMED, verdict=Verdict.ABOVE)
    as_momentum = row._replace(label="momentum", note=published.AS_MOMENTUM)
    single = row._replace(verdict=Verdict.ONE_RUN)
    first, second = findings([row, misnamed, as_momentum, single])
    assert first.startswith("1 published numbers do not fit as SGD: loss 0.1, ours 0.15 on average. As momentum")
    assert first.endswith("they do: loss 0.1, ours 0.15 on average.")
    assert second.startswith("2 of 2 published numbers")
    below = findings([row, row._replace(verdict=Verdict.BELOW)])
    assert below[-1] == "sgd, loss 0.1, ours 0.15 on average: no: below ours."
    assert findings([single])[0].startswith("No published number is judged")


def test_the_figure_has_a_row_for_each_loss_of_ours():
    row = Compared("sgd", 1000, published.LOSS, 0.1, "", [0.1, 0.2], Verdict.IN_RANGE)
    figure = comparison.figure([row, row._replace(quantity=published.AGREEMENT), row._replace(ours=[])])
    assert len(figure.axes[0].get_yticklabels()) == 1
    assert comparison.figure([row._replace(ours=[])]) is None


def test_only_its_own_finished_folder_is_reported_again(tmp_path):
    command = (reproduce_notebook, "quick", "--report-only", "--out", tmp_path)
    (tmp_path / "results.json").write_text(json.dumps({"experiment": "compare_optimizers", "options": {}}))
    with pytest.raises(UsageError, match="holds the results of compare_optimizers"):
        execute(*command)
    with pytest.raises(UsageError, match="--overwrite would delete the runs"):
        execute(*command, "--overwrite")


def test_there_must_be_a_finished_run_to_report(tmp_path):
    with pytest.raises(UsageError, match="holds no finished run"):
        execute(reproduce_notebook, "quick", "--report-only", "--out", tmp_path / "out")
