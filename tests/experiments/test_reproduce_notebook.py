"""Which runs the notebook's tables ask for, and when its published numbers are compared with ours."""

from small_runs import lab_of, parse, result

from experiments import reproduce_notebook
from experiments.lab.arms import by_rate
from experiments.lab.options import Seeds
from experiments.notebook import published
from experiments.reproduce_notebook import Options, planned


def test_every_published_number_has_its_run():
    labels = {by_rate(run) for run in planned(Options())}
    assert {row.label for row in published.PUBLISHED} <= labels


def test_the_long_run_is_its_seeds_only():
    options = Options(seeds=Seeds(seeds=3), long_seeds=1)
    assert [run.iterations for run in planned(options) if by_rate(run) == "sgd 0.001"] == [10_000, 1000, 1000]


def test_another_protocol_is_not_compared_with_the_published_numbers():
    options = parse(reproduce_notebook, "quick", "--iterations", "2", "--long-iterations", "4")
    results = iter([result([0.4, 0.2, 0.3, 0.5], 0, optimizer="sgd"), result([0.2, 0.4], 1, optimizer="sgd")])

    def trained(run):
        if by_rate(run) == "sgd 0.001":
            return next(results)
        return result([0.1, 0.1], run.seed, run.learning_rate, optimizer=run.optimizer)

    lab = lab_of(trained)
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
