import csv
import inspect
import json
import pkgutil
from dataclasses import replace

import jax
import pytest
from matplotlib.figure import Figure
from small_runs import SHORT, execute, lab, result
from small_runs import parse as parse_words

from experiments import compare_optimizers
from experiments.compare_optimizers import PRESETS, Found, Options
from experiments.lab import tuning, views
from experiments.lab.experiment import Lab
from experiments.lab.stops import Finished, UsageError
from experiments.lab.tuning import Candidate

WORDS = [*SHORT, "--seeds", "2"]


def parse(*arguments):
    return parse_words(compare_optimizers, *arguments)


def run(*arguments):
    return execute(compare_optimizers, *WORDS, "--optimizers", "sgd", "adam", *arguments)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folder that a small run writes."""
    out = tmp_path_factory.mktemp("results") / "nested"
    run("--out", str(out))
    return out


@pytest.mark.slow
def test_writes_every_file(results):
    # No run reaches a target, so nothing is drawn of when.
    pictures = {f"{name}.png" for name in ("curves", "paired_differences", "predictions")}
    names = pictures | {"report.html", "results.json", "options.json", "runs.csv", "tables.tex", "runs"}
    assert {path.name for path in results.iterdir()} == names
    for name in pictures:
        assert (results / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_results_tell_what_made_them(results):
    document = json.loads((results / "results.json").read_text())
    assert document["options"]["iterations"] == 10
    assert document["versions"]["jax"] == jax.__version__
    assert document["device"]["platform"] == jax.default_backend()
    runs = document["runs"]
    assert [(run["optimizer"], run["seed"]) for run in runs] == [("sgd", 0), ("sgd", 1), ("adam", 0), ("adam", 1)]
    for run in runs:
        assert {name: len(curve) for name, curve in run["curves"].items()} == {"loss": 10, "agreement": 10, "iou": 10}
        assert run["loss"] == pytest.approx(sum(run["curves"]["loss"]) / 10, rel=1e-6)
        assert 0 <= run["iou"] <= run["accuracy"] <= 1
    # Paired: the first loss of a seed is every optimizer's.
    assert runs[0]["curves"]["loss"][0] == runs[2]["curves"]["loss"][0]
    assert runs[0]["curves"]["loss"][0] != runs[1]["curves"]["loss"][0]
    losses = [run["loss"] for run in runs[:2]]
    assert document["summary"]["sgd 0.001"]["loss"] == pytest.approx(
        {"mean": sum(losses) / 2, "min": min(losses), "max": max(losses)}
    )


@pytest.mark.slow
def test_table_has_a_row_a_run(results):
    with (results / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    runs = json.loads((results / "results.json").read_text())["runs"]
    assert [float(row["iou"]) for row in rows] == [run["iou"] for run in runs]
    assert "curves" not in rows[0]


@pytest.mark.slow
def test_a_finished_command_does_nothing(results):
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*.*")}
    with pytest.raises(Finished, match=r"holds the results of this very command"):
        run("--out", str(results))
    with pytest.raises(UsageError, match=r"holds the results with seeds 2, not 3; name another folder, or pass"):
        run("--out", str(results), "--seeds", "3")
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*.*")} == before


@pytest.mark.slow
def test_same_command_same_numbers(results, tmp_path):
    run("--out", str(tmp_path))
    first, second = (json.loads((out / "results.json").read_text())["runs"] for out in (results, tmp_path))
    for a, b in zip(first, second, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """The folder of a small comparison at rates of their own."""
    out = tmp_path_factory.mktemp("tuned")
    arguments = ["--optimizers", "sgd=0.1,1", "optax:lion", "--rates", "1e-3", "--tune", "--tuning-seeds", "1"]
    execute(compare_optimizers, *WORDS, *arguments, "--tuning-seed", "8", "--seed", "7", "--out", out)
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
def test_the_table_has_a_row_a_run_of_both_phases(tuned):
    with (tuned / "runs.csv").open() as file:
        rows = [(row["phase"], row["label"], row["seed"]) for row in csv.DictReader(file)]
    assert rows[:2] == [("tuning", "sgd 0.1", "8"), ("tuning", "sgd 1", "8")]
    assert [row[0] for row in rows[2:]] == ["comparison"] * 4


@pytest.mark.slow
def test_what_is_unfair_is_said(tuned):
    said = "\n".join(json.loads((tuned / "results.json").read_text())["warnings"])
    for words in ("2 seeds give", "best rate of sgd is the", "budgets of tuning are unequal", "flatters the choice: 8"):
        assert words in said


def test_the_rate_free_keep_their_defaults():
    """As optax has them; Adam alone is tuned."""
    candidates = parse("--preset", "rate_free").candidates
    for label, optimizer, rates in candidates[:-2]:
        default = inspect.signature(pkgutil.resolve_name(optimizer)).parameters["learning_rate"].default
        assert (optimizer, rates) == (f"optax.contrib:{label}", (default,))
    assert candidates[-2] == ("adam", "adam", (1e-3,))
    assert candidates[-1][:2] == ("tuned adam", "adam")
    assert len(candidates[-1].rates) == 8


@pytest.fixture
def no_picture(monkeypatch):
    """What is made by hand has no network to look at an image."""
    monkeypatch.setattr(views, "predictions", lambda *_: Figure())


def report_of(words, results, seeds=1):
    """The report of a comparison whose runs are made by hand."""
    options = parse("--optimizers", *words, "--seeds", seeds)
    return compare_optimizers.report(
        options, Found(tuning.trials(options.candidates, results, options.seeds), {}, None)
    )


@pytest.mark.usefixtures("no_picture")
def test_an_optimizer_may_have_rates_of_its_own():
    rates = parse("--optimizers", "sgd=0.5,0.1", "adam").candidates
    assert rates == [Candidate("sgd", "sgd", (0.1, 0.5)), Candidate("adam", "adam", (1e-3,))]
    results = [result([0.4, last], rate=rate, optimizer="sgd") for last, rate in ((0.2, 0.1), (0.3, 0.5))]
    report = report_of(["sgd=0.1,0.5", "adam"], [*results, result([0.4, 0.1])])
    assert list(report.results["summary"]) == ["sgd 0.1", "sgd 0.5", "adam 0.001"]
    assert report.results["reference"] == "adam 0.001"
    assert report.results["tuning_steps"] == dict.fromkeys(report.results["summary"], 0)


@pytest.mark.parametrize("named", ["sgd 0.1", "adam", "adam 0.001"])
def test_the_reference_may_be_named_with_its_rate(named, no_picture):
    results = [result([0.4, 0.2], rate=rate, optimizer="sgd") for rate in (0.1, 0.5)] + [result([0.4, 0.1])]
    report = report_of(["sgd=0.1,0.5", "adam", "--reference", named], results)
    assert report.results["reference"] == {"adam": "adam 0.001"}.get(named, named)


def tuned_by_hand(monkeypatch, *words):
    """A comparison after a tuning in which SGD diverges at each of its rates, and Adam does not."""
    monkeypatch.setattr(
        Lab,
        "train",
        lambda _, runs: [
            result([0.4, 0.9 if run.optimizer == "sgd" else 0.2], run.seed, run.learning_rate, optimizer=run.optimizer)
            for run in runs
        ],
    )
    options = parse("--optimizers", "sgd=1,2", "adam=0.1,0.2", "lion=optax:lion=1e-4", "--seeds", "1", "--tune", *words)
    return compare_optimizers.report(options, compare_optimizers.work(options, lab(options)))


@pytest.mark.usefixtures("no_picture")
def test_what_diverges_at_every_rate_is_left_out_and_said(monkeypatch):
    report = tuned_by_hand(monkeypatch)
    assert list(report.results["summary"]) == ["adam 0.1", "lion 0.0001"]
    assert any(said.startswith("sgd is not compared: ") and "sgd=RATE,RATE" in said for said in report.warnings)
    assert report.results["tuning"]["best_rates"]["sgd"]["rate"] is None
    assert report.results["reference"] == "adam 0.1"
    (table,) = (table for table in report.details if table.title == "Each at its own rate")
    assert table.rows[0][:4] == ["sgd", "none", "", "4"]


def test_a_reference_that_diverges_at_every_rate_ends_the_command(monkeypatch):
    with pytest.raises(UsageError, match="--reference sgd: some seed of sgd diverged"):
        tuned_by_hand(monkeypatch, "--reference", "sgd")


@pytest.mark.usefixtures("no_picture")
def test_the_screen_has_one_table_of_verdicts_first():
    results = [result([0.4, 0.1], seed=seed, rate=rate) for rate in (0.1, 0.5) for seed in range(5)]
    report = report_of(["adam=0.1,0.5"], results, seeds=5)
    (table,) = report.tables
    assert [row[0] for row in table.rows] == ["adam 0.1", "adam 0.5"]
    assert [row[-1] for row in table.rows] == ["tied", "reference"]
    assert [it.title for it in report.details][-1] == "Time to a target"


def test_presets_are_defaults():
    assert parse() == replace(Options(), preset="notebook")
    assert parse("--preset=quick").iterations == 60
    assert parse("--preset", "quick", "--iterations", "7") == replace(PRESETS["quick"], preset="quick", iterations=7)


@pytest.mark.parametrize(
    ("arguments", "message"),
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
        (["--tuning-seeds", "0"], "--tuning-seeds must be an integer >= 1"),
        (["--tuning-seed", "-1"], "--tuning-seed must be an integer >= 0"),
        (["--target-loss", "0"], "--target-loss must be a finite number > 0"),
        (["--target-iou", "inf"], "--target-iou must be a finite number > 0"),
        (["--target-iou", "95"], "--target-iou must be at most 1, got 95"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path):
    with pytest.raises(UsageError, match=message) as error:
        execute(compare_optimizers, *arguments, "--out", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())
