"""What every experiment promises: its quick preset runs, writes every file, and says its mistakes in one line."""

import csv
import dataclasses
import importlib
import json
import os
import re
from html.parser import HTMLParser

import pytest
from conftest import DATA

from experiments import command

TWO = ["--first", str(DATA / "stripes.png"), "--second", str(DATA / "grain.png")]

# name -> (what makes the quick preset small enough for a test, its figures)
EXPERIMENTS = {
    "texture_gallery": (["--map-steps", "20", "--map-sigmas", "0.2", "2"], {"gallery", "sigma_study", "difficulty"}),
    "train_model": (["--iterations", "25", "--show-every", "15"], {"curves", "predictions"}),
    "find_learning_rate": (["--steps", "30"], {"range_test"}),
    "tune_learning_rate": (
        ["--iterations", "4", "--optimizers", "sgd", "adam", "--rates", "1e-2", "1"],
        {"rate_sensitivity", "curves_sgd", "curves_adam"},
    ),
    "compare_optimizers": (
        ["--iterations", "4", "--image-size", "16", "--optimizers", "sgd"],
        {"curves", "time_to_target", "predictions"},
    ),
    "compare_losses": (
        ["--iterations", "4", "--losses", "mse", "dice"],
        {"loss_by_metric", "agreement", "predictions"},
    ),
    "compare_architectures": (
        ["--iterations", "4", "--architectures", "notebook", "kernel_3", "--image-size", "16"],
        {"budgets", "cost_and_quality"},
    ),
    "inspect_layers": (
        ["--iterations", "10", "--architecture", "shallow"],
        {"kernels_conv1", "kernels_out", "features_conv1", "features_out", "removal"},
    ),
    "train_best_model": (
        ["--seconds", "1", "--held-out", "8", "--architecture", "shallow"],
        {"quality_over_time", "predictions"},
    ),
    "learn_textures": (
        ["--seconds", "1", "--held-out", "8", "--architecture", "shallow", *TWO],
        {"quality_over_time", "predictions", "training_images"},
    ),
    "reproduce_notebook": (
        ["--iterations", "3", "--long-iterations", "6", "--image-size", "16", "--sigma", "4", "--seeds", "1"],
        {"published_losses", "optimizers", "adam_rates"},
    ),
}


def module(name):
    return importlib.import_module(f"experiments.{name}")


def run(name, *arguments):
    script = module(name)
    options = command.parse(script.Options, script.PRESETS, ["--preset", "quick", *arguments])
    script.main(options)
    return options


@pytest.fixture(scope="module", params=list(EXPERIMENTS))
def finished(request, tmp_path_factory):
    """The name of an experiment and the folder that its small run wrote."""
    out = tmp_path_factory.mktemp(request.param)
    run(request.param, *EXPERIMENTS[request.param][0], "--out", str(out))
    return request.param, out


class Page(HTMLParser):
    """Collects what a page would fetch, and what it shows."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.text, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


def test_writes_every_file(finished):
    name, out = finished
    for figure in EXPERIMENTS[name][1]:
        assert (out / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    document = json.loads((out / "results.json").read_text())
    assert document["experiment"] == name
    assert document["options"]["preset"] == "quick"
    with (out / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert None not in rows[0]
    assert not [path.name for path in out.iterdir() if path.suffix == ".tmp"]


def test_the_report_is_one_page_that_fetches_nothing(finished):
    name, out = finished
    text = (out / "report.html").read_text()
    page = Page(text)
    assert page.tags.count("img") == len(EXPERIMENTS[name][1])
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "script" not in page.tags
    assert not re.search(r"url\(|@import", text)
    shown = "\n".join(page.text)
    assert module(name).__doc__.strip().splitlines()[0] in shown
    assert json.loads((out / "results.json").read_text())["command"] in shown


def test_overwriting_leaves_nothing_of_what_was_there(tmp_path):
    arguments = EXPERIMENTS["find_learning_rate"][0]
    for name in ("old.png", "iteration-000001.png", "mine.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(command.UsageError, match="already holds files"):
        run("find_learning_rate", *arguments, "--out", str(tmp_path))
    (tmp_path / "results.json").write_text(json.dumps({"files": ["old.png", "../outside"]}))
    (tmp_path.parent / "outside").write_bytes(b"")
    with pytest.raises(command.UsageError, match="holds the results of something else; name another folder, or pass"):
        run("find_learning_rate", *arguments, "--out", str(tmp_path))
    run("find_learning_rate", *arguments, "--out", str(tmp_path), "--overwrite")
    names = {"mine.png", "range_test.png", "report.html", "results.json", "runs.csv", "tables.tex"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert (tmp_path.parent / "outside").exists()


def test_only_its_own_finished_folder_is_reported_again(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"experiment": "compare_optimizers"}))
    with pytest.raises(command.UsageError, match="holds the results of compare_optimizers"):
        run("reproduce_notebook", "--report-only", "--out", str(tmp_path))
    with pytest.raises(command.UsageError, match="--overwrite would delete the runs"):
        run("reproduce_notebook", "--report-only", "--overwrite", "--out", str(tmp_path))


def test_too_little_memory_is_one_line(monkeypatch, tmp_path, capsys):
    script = module("compare_losses")
    monkeypatch.setattr(command.interruption, "install", lambda: None)
    monkeypatch.setattr("sys.argv", ["it", "--preset", "quick", "--batch-size", "100000000", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        command.run(script.main, script.Options, script.PRESETS)
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: Out of memory")
    assert said.count("\n") == 1


def test_deterministic_is_told_to_xla_before_it_starts(monkeypatch, tmp_path):
    script, seen = module("compare_losses"), []
    monkeypatch.setattr(command.interruption, "install", lambda: None)
    monkeypatch.setenv("XLA_FLAGS", "--given")
    for flag, flags in (
        ("--no-deterministic", "--given"),
        ("--deterministic", "--given --xla_gpu_deterministic_ops=true"),
    ):
        monkeypatch.setattr("sys.argv", ["it", flag, "--out", str(tmp_path)])
        command.run(seen.append, script.Options, script.PRESETS)
        assert os.environ["XLA_FLAGS"] == flags
    # The options go into results.json.
    assert [options.deterministic for options in seen] == [False, True]


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_help_reads_well(name, capsys):
    script = module(name)
    with pytest.raises(SystemExit) as end:
        command.parse(script.Options, script.PRESETS, ["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    # A sentence before each default, of every option and of no other.
    words = re.sub(r"[\s│]+", " ", text)
    sentences = re.findall(r"[.;] \(default:", words)
    assert len(sentences) == words.count("(default:") == len(dataclasses.fields(script.Options))
    assert "results/" in text


@pytest.mark.parametrize("name", list(EXPERIMENTS))
@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--preset", "slow"], "'slow'"), (["--image-size", "1"], "--image-size"), (["--seed", "-1"], "--seed")],
)
def test_mistakes_are_one_line(name, arguments, message, tmp_path):
    with pytest.raises(command.UsageError, match=message) as error:
        run(name, *arguments, "--out", str(tmp_path / "out"))
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())


BAD = {
    "texture_gallery": (["--map-sigmas", "1"], "--map-sigmas must be at least two different widths"),
    "train_model": (["--architecture", "big"], "--architecture must be of: notebook, .*; got 'big'"),
    "find_learning_rate": (["--low", "1", "--high", "0.1"], "--low must be below --high"),
    "tune_learning_rate": (["--rates", "1", "1"], "--rates must be different"),
    "compare_losses": (["--losses", "hinge"], "--losses must be of: mse, bce, dice; got 'hinge'"),
    "compare_architectures": (["--schedule", "linear"], "--schedule must be of: constant, .*; got 'linear'"),
    "inspect_layers": (["--model", __file__], "is not a model of these experiments"),
    "train_best_model": (["--architecture", "notebook"], "--architecture must have running statistics that work"),
    "reproduce_notebook": (["--report-only"], "holds no finished run"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_its_own_mistakes(name, tmp_path):
    arguments, message = BAD[name]
    with pytest.raises(command.UsageError, match=message):
        run(name, *arguments, "--out", str(tmp_path / "out"))
