"""The comparison of optimizers: what it writes, what it says, and what it trains."""

import csv
import inspect
import json
import pkgutil

import jax
import numpy as np
import pytest
from small_runs import SHORT, count_training, execute, lab_of, result
from small_runs import parse as parse_words

from experiments import compare_optimizers
from experiments.lab import figures
from experiments.lab.report import Drawing
from experiments.lab.stops import UsageError
from experiments.optimizers.tuning import Candidate
from segjax.plotting import Figure

WORDS = [*SHORT, "--seeds", "2"]


def parse(*words):
    return parse_words(compare_optimizers, *words)


def run(*words):
    return execute(compare_optimizers, *WORDS, "--optimizers", "sgd", "adam", *words)


@pytest.mark.slow
def test_results_tell_what_made_them(tmp_path):
    document = run("--out", tmp_path / "nested")
    assert document["options"]["iterations"] == 10
    assert document["versions"]["jax"] == jax.__version__
    assert document["device"]["platform"] == jax.default_backend()
    runs = document["runs"]
    assert [(run["optimizer"], run["seed"]) for run in runs] == [("sgd", 0), ("sgd", 1), ("adam", 0), ("adam", 1)]
    for row in runs:
        assert {name: len(curve) for name, curve in row["curves"].items()} == {"loss": 10, "agreement": 10, "iou": 10}
        assert row["loss"] == pytest.approx(sum(row["curves"]["loss"]) / 10, rel=1e-6)
        assert 0 <= row["iou"] <= row["accuracy"] <= 1
    # Paired: the first loss of a seed is every optimizer's.
    assert runs[0]["curves"]["loss"][0] == runs[2]["curves"]["loss"][0]
    assert runs[0]["curves"]["loss"][0] != runs[1]["curves"]["loss"][0]
    losses = [run["loss"] for run in runs[:2]]
    assert document["summary"]["sgd 0.001"]["loss"] == pytest.approx(
        {"mean": sum(losses) / 2, "min": min(losses), "max": max(losses)}
    )


@pytest.mark.slow
def test_more_seeds_optimizers_and_rates_train_only_the_new_ones(tmp_path, monkeypatch):
    words = ("--out", tmp_path)
    first = {(row["optimizer"], row["seed"]): row for row in run(*words)["runs"]}
    started = count_training(monkeypatch)
    more = run(*words, "--seeds", "3", "--optimizers", "sgd=0.001,0.1", "adam", "rmsprop")
    assert [(run.optimizer, run.learning_rate, run.seed) for run in started] == [
        ("sgd", 0.001, 2),
        *[("sgd", 0.1, seed) for seed in range(3)],
        ("adam", 0.001, 2),
        *[("rmsprop", 0.001, seed) for seed in range(3)],
    ]
    assert list(more["summary"]) == ["sgd 0.001", "sgd 0.1", "adam 0.001", "rmsprop 0.001"]
    # The finished runs are what they were, to the second.
    again = {(row["optimizer"], row["seed"]): row for row in more["runs"] if row["learning_rate"] == 0.001}
    assert {key: again[key] for key in first} == first
    del started[:]
    fewer = run(*words, "--optimizers", "adam", "--seeds", "1")
    assert [(row["optimizer"], row["seed"]) for row in fewer["runs"]] == [("adam", 0)]
    # Tuning on seeds that are there trains nothing, and neither does another target.
    tuned = ("--tune", "--tuning-seed", "0", "--tuning-seeds", "3", "--seeds", "3", "--target-loss", "0.5")
    run(*words, *tuned, "--optimizers", "sgd=0.001,0.1", "adam=0.001")
    assert started == []
    with pytest.raises(UsageError, match="holds the results with batch_size 1, not 2; name another folder"):
        run(*words, "--batch-size", "2")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """The folder of a small comparison at rates of their own."""
    out = tmp_path_factory.mktemp("tuned")
    words = ["--optimizers", "sgd=0.1,1", "optax:lion", "--rates", "1e-3", "--tune", "--tuning-seeds", "1"]
    execute(compare_optimizers, *WORDS, *words, "--tuning-seed", "8", "--seed", "7", "--out", out)
    return out


@pytest.mark.slow
def test_tuning_has_seeds_of_its_own(tuned):
    document = json.loads((tuned / "results.json").read_text())
    trials = document["tuning"]["runs"]
    # A single rate is not tuned.
    assert [(run["label"], run["seed"]) for run in trials] == [("sgd 0.1", 8), ("sgd 1", 8)]
    assert document["tuning_steps"] == {f"sgd {document['runs'][0]['learning_rate']:g}": 20, "optax:lion 0.001": 0}
    best = min(trials, key=lambda run: run["final_loss"])
    assert document["tuning"]["best_rates"]["sgd"]["rate"] == best["learning_rate"]
    compared = document["runs"]
    assert [(run["optimizer"], run["seed"]) for run in compared] == [
        ("sgd", 7),
        ("sgd", 8),
        ("optax:lion", 7),
        ("optax:lion", 8),
    ]
    assert {run["learning_rate"] for run in compared} == {best["learning_rate"], 1e-3}


@pytest.mark.slow
def test_the_table_has_one_row_per_run_of_both_phases(tuned):
    with (tuned / "runs.csv").open() as file:
        rows = [(row["phase"], row["label"], row["seed"]) for row in csv.DictReader(file)]
    assert rows[:2] == [("tuning", "sgd 0.1", "8"), ("tuning", "sgd 1", "8")]
    assert [row[0] for row in rows[2:]] == ["comparison"] * 4


@pytest.mark.slow
def test_an_unfair_comparison_is_warned_of(tuned):
    warnings = "\n".join(json.loads((tuned / "results.json").read_text())["warnings"])
    for text in ("2 seeds give", "best rate of sgd is the", "budgets of tuning are unequal", "flatters the choice: 8"):
        assert text in warnings


def test_the_rate_free_keep_their_defaults():
    """As optax has them; Adam alone is tuned."""
    candidates = parse("rate_free").candidates
    for label, optimizer, rates in candidates[:-2]:
        default = inspect.signature(pkgutil.resolve_name(optimizer)).parameters["learning_rate"].default
        assert (optimizer, rates) == (f"optax.contrib:{label}", (default,))
    assert candidates[-2] == ("adam", "adam", (1e-3,))
    assert candidates[-1][:2] == ("tuned adam", "adam")
    assert len(candidates[-1].rates) == 8


@pytest.fixture
def no_picture(monkeypatch):
    """Runs that are made by hand have no network that could look at an image."""
    monkeypatch.setattr(figures, "predictions", lambda *_: Drawing("", Figure()))


def answer(words, loss, runs=None):
    """The report of a comparison whose runs end at the loss that `loss(run)` gives, and the lines that it printed."""

    def train_run(run):
        if runs is not None:
            runs.append(run)
        return result([0.4, loss(run)], run.seed, run.learning_rate, optimizer=run.optimizer)

    lab = lab_of(train_run)
    return compare_optimizers.answer(parse("--optimizers", *words), lab), lab.lines


@pytest.mark.usefixtures("no_picture")
def test_an_optimizer_may_have_rates_of_its_own():
    words = ["sgd=0.5,0.1", "adam", "--seeds", "1"]
    assert parse("--optimizers", *words).candidates == [
        Candidate("sgd", "sgd", (0.1, 0.5)),
        Candidate("adam", "adam", (1e-3,)),
    ]
    report, _ = answer(words, lambda run: {0.1: 0.2, 0.5: 0.3, 1e-3: 0.1}[run.learning_rate])
    assert list(report.arms) == ["sgd 0.1", "sgd 0.5", "adam 0.001"]
    assert [arm.rows[0]["final_loss"] for arm in report.arms.values()] == pytest.approx([0.2, 0.3, 0.1])
    assert report.results["reference"] == "adam 0.001"
    assert report.results["tuning_steps"] == dict.fromkeys(report.arms, 0)


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize("name", ["sgd 0.1", "adam", "adam 0.001"])
def test_the_reference_may_be_named_with_its_rate(name):
    report, _ = answer(["sgd=0.1,0.5", "adam", "--seeds", "1", "--reference", name], lambda run: 0.2)
    assert report.results["reference"] == {"adam": "adam 0.001"}.get(name, name)


# SGD diverges at each of its rates, and Adam does not; Lion has one rate, which is not tuned.
DIVERGED = ["sgd=1,2", "adam=0.1,0.2", "lion=optax:lion=1e-4", "--seeds", "1", "--tune"]


def sgd_diverges(run):
    return 0.9 if run.optimizer == "sgd" else 0.2


@pytest.mark.usefixtures("no_picture")
def test_an_optimizer_that_diverges_at_every_rate_is_left_out_with_a_warning():
    runs = []
    report, lines = answer(DIVERGED, sgd_diverges, runs)
    assert list(report.arms) == ["adam 0.1", "lion 0.0001"]
    (warning,) = (warning for warning in report.warnings if warning.startswith("sgd is not compared: "))
    assert "sgd=RATE,RATE" in warning
    # It is said before the comparison begins, too.
    assert f"Warning: {warning}" in lines
    assert report.results["tuning"]["best_rates"]["sgd"].rate is None
    assert report.results["reference"] == "adam 0.1"
    (table,) = (table for table in report.details if table.title == "Each at its own rate")
    assert table.rows[0][:4] == ["sgd", "none", "", "4"]
    # Two seeds tune, each at four rates; one seed compares, and not the optimizer that is out.
    assert [(run.optimizer, run.learning_rate, run.seed) for run in runs[8:]] == [
        ("adam", 0.1, 0),
        ("optax:lion", 1e-4, 0),
    ]
    assert {run.seed for run in runs[:8]} == {1000, 1001}


def test_a_reference_that_diverges_at_every_rate_ends_the_command():
    with pytest.raises(UsageError, match="--reference sgd: some seed of sgd diverged"):
        answer([*DIVERGED, "--reference", "sgd"], sgd_diverges)


def test_a_tuning_in_which_all_diverge_ends_the_command():
    with pytest.raises(UsageError, match=r"some seed of sgd diverged at each .*; some seed of adam diverged"):
        answer(["sgd=1,2", "adam=1,2", "--tune"], lambda run: np.nan)


@pytest.mark.usefixtures("no_picture")
def test_weights_to_be_judged_by_are_told_before_and_after_the_training():
    report, lines = answer(["optax.contrib:schedule_free_sgd", "--seeds", "1"], lambda run: 0.2)
    (line,) = lines
    assert line.startswith("Warning: optax.contrib:schedule_free_sgd is evaluated with weights that its state")
    assert line.removeprefix("Warning: ") in report.warnings


@pytest.mark.usefixtures("no_picture")
def test_the_terminal_has_one_table_of_verdicts():
    report, _ = answer(["adam=0.1,0.5", "--seeds", "5"], lambda run: 0.1)
    (table,) = report.tables
    assert [row[0] for row in table.rows] == ["adam 0.1", "adam 0.5"]
    assert [row[-1] for row in table.rows] == ["tied", "reference"]
    assert report.details[0].title == "Not told apart"
    assert report.details[-1].title == "Time to a target"


@pytest.mark.usefixtures("no_picture")
def test_an_optimizer_has_one_colour_in_every_figure():
    """Also where a figure leaves out the reference, or those that are not tuned, or has an optimizer without a rate."""
    words = ["lion=optax:lion=1e-4", "sgd=1,2", "adam=0.1,0.2", "rmsprop=0.1,0.2", "--reference", "lion", "--tune"]
    report, _ = answer([*words, "--until-decided", "--most-seeds", "3"], sgd_diverges)
    colours = {}
    for name in ("curves", "evidence", "rate_sensitivity"):
        for line in report.figures[name].figure.axes[0].lines:
            colours.setdefault(line.get_label().partition(" ")[0], set()).add(line.get_color())
    paired = report.figures["paired_differences"].figure.axes[0]
    # After the line at 0, three lines for each row.
    for row, label in enumerate(paired.get_yticklabels()):
        colours[label.get_text().partition(" ")[0]].add(paired.lines[1 + 3 * row].get_color())
    optimizers = ("lion", "sgd", "adam", "rmsprop")
    assert [len(colours[name]) for name in optimizers] == [1] * 4
    assert len(set.union(*(colours[name] for name in optimizers))) == 4


def test_the_last_seeds_of_all_may_be_compared():
    """With --until-decided there must be more of them."""
    words = ["--seed", str(2**32 - 3), "--seeds", "3"]
    parse(*words).check()
    with pytest.raises(ValueError, match="--seed must be an integer <= "):
        parse(*words, "--until-decided").check()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--optimizers", "sgd", "sdg"],
            "--optimizers sdg: 'sdg' is no optimizer: one of sgd, momentum, rmsprop, adam, or",
        ),
        (
            ["--optimizers", "sgd=0.1,1", "adam", "--reference", "sgd"],
            "--reference must be one of: adam, sgd 0.1, sgd 1, adam 0.001; got 'sgd'",
        ),
        (["--reference", "lion"], "--reference must be one of: sgd, momentum, rmsprop, adam, sgd 0.001"),
        (["--learning-rate", "0"], "--learning-rate must be a finite number > 0"),
        (["--learning-rate", "nan"], "--learning-rate must be a finite number > 0"),
        (["--tune", "--rates", "-1"], "--rates must be a finite number > 0"),
        (["--tune", "--extend", "--optimizers", "adam=0.1"], "--extend adds to the grids of --tune, and no optimizer"),
        (["--optimizers", "optax.contrib:prodigy=0.001,1"], "--optimizers optax.contrib:prodigy: at the rate 0.001 it"),
        (["--extend"], "--extend adds to the grids of --tune, and no optimizer is tuned"),
        (["--most-seeds", "0"], "--most-seeds must be an integer >= 1"),
        (["--tuning-seeds", "0"], "--tuning-seeds must be an integer >= 1"),
        (["--tuning-seed", "-1"], "--tuning-seed must be an integer >= 0"),
        (["--target-loss", "0"], "--target-loss must be a finite number > 0"),
        (["--target-iou", "inf"], "--target-iou must be a finite number > 0"),
        (["--target-iou", "95"], "--target-iou must be at most 1, got 95"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path):
    with pytest.raises(UsageError, match=message) as error:
        execute(compare_optimizers, *words, "--out", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())
