"""What every experiment promises: its quick preset runs, writes every file, and says its mistakes in one line."""

import csv
import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import DATA
from PIL import Image
from small_runs import ROOT, execute, parse

from experiments.lab import experiment
from experiments.lab.experiment import questions
from experiments.lab.stops import UsageError

QUESTIONS = questions(ROOT / "experiments")
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
# These have no quick preset, or measure this machine: test_segment_image.py and test_benchmark.py run them.
ELSEWHERE = {"segment_image", "benchmark"}


def module(name):
    return importlib.import_module(f"experiments.{name}")


def run(name, *arguments):
    return execute(module(name), "--preset", "quick", *arguments)


def test_every_question_is_tested():
    assert set(QUESTIONS) == set(EXPERIMENTS) | ELSEWHERE
    for name in ELSEWHERE:
        assert (Path(__file__).parent / f"test_{name}.py").exists()


@pytest.mark.parametrize("name", list(QUESTIONS))
def test_every_question_is_asked_where_people_look(name):
    text = module(name).__doc__
    assert "?" in QUESTIONS[name]
    assert text.startswith(QUESTIONS[name])
    assert f"    python -m experiments.{name} " in text.replace("\n", " \n")
    readme = (ROOT / "README.md").read_text()
    assert re.search(rf"experiments\.{name}\b|`{name}\b", readme), "the README leaves it out"


@pytest.mark.parametrize("name", list(QUESTIONS))
def test_every_script_has_the_same_parts(name):
    script = module(name)
    assert hasattr(script, "plan") != hasattr(script, "work")
    assert dataclasses.fields(script.Options)
    assert all(isinstance(preset, script.Options) for preset in script.PRESETS.values())
    if name in EXPERIMENTS:
        assert "quick" in script.PRESETS


def test_the_package_lists_every_question():
    words = [sys.executable, "-m", "experiments"]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "COLUMNS": "80"}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    # Long questions take several lines.
    said = " ".join(done.stdout.split())
    for name, question in QUESTIONS.items():
        assert f"{name} {question}" in said


@pytest.fixture(scope="module", params=list(EXPERIMENTS))
def finished(request, tmp_path_factory):
    """The name of an experiment and the folder that its small run wrote."""
    out = tmp_path_factory.mktemp(request.param)
    run(request.param, *EXPERIMENTS[request.param][0], "--out", out)
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
        with Image.open(out / f"{figure}.png", formats=["PNG"]) as picture:
            darkest, brightest = picture.convert("L").getextrema()
            # Dark text on white paper, at the least.
            assert darkest < 64
            assert brightest == 255
            assert min(picture.size) > 100
    document = json.loads((out / "results.json").read_text())
    assert document["experiment"] == name
    assert document["options"]["preset"] == "quick"
    assert set(document["source"]) == {"commit", "clean"}
    assert all((out / file).exists() for file in document["files"])
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
    assert QUESTIONS[name] in shown
    assert json.loads((out / "results.json").read_text())["command"] in shown


def test_overwriting_leaves_nothing_of_what_was_there(tmp_path):
    arguments, theirs = EXPERIMENTS["find_learning_rate"][0], {"options": {}, "files": ["old.png"]}
    for name in ("old.png", "iteration-000001.png", "mine.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UsageError, match="already holds files"):
        run("find_learning_rate", *arguments, "--out", tmp_path)
    (tmp_path / "results.json").write_text(json.dumps({**theirs, "files": ["old.png", "../outside"]}))
    with pytest.raises(UsageError, match=r"results.json is damaged: its files include .*outside.; delete it, or pass"):
        run("find_learning_rate", *arguments, "--out", tmp_path)
    (tmp_path / "results.json").write_text(json.dumps(theirs))
    with pytest.raises(UsageError, match="holds the results of something else; name another folder, or pass"):
        run("find_learning_rate", *arguments, "--out", tmp_path)
    run("find_learning_rate", *arguments, "--out", tmp_path, "--overwrite")
    written = {"range_test.png", "report.html", "results.json", "options.json", "runs.csv", "tables.tex"}
    assert {path.name for path in tmp_path.iterdir()} == {"mine.png", "iteration-000001.png", *written}


def test_only_its_own_finished_folder_is_reported_again(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"experiment": "compare_optimizers", "options": {}}))
    with pytest.raises(UsageError, match="holds the results of compare_optimizers"):
        run("reproduce_notebook", "--report-only", "--out", tmp_path)
    with pytest.raises(UsageError, match="--overwrite would delete the runs"):
        run("reproduce_notebook", "--report-only", "--overwrite", "--out", tmp_path)


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_help_reads_well(name, capsys):
    script = module(name)
    with pytest.raises(SystemExit) as end:
        parse(script, "--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    # A sentence before each default, of every option and of no other.
    words = re.sub(r"[\s│]+", " ", text)
    sentences = re.findall(r"[.;] \(default:", words)
    assert len(sentences) == words.count("(default:") == len(dataclasses.fields(script.Options))
    assert "results/" in text
    assert f"Presets: {', '.join(script.PRESETS)}." in words


@pytest.mark.parametrize("name", list(EXPERIMENTS))
@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--preset", "slow"], "'slow'"), (["--image-size", "1"], "--image-size"), (["--seed", "-1"], "--seed")],
)
def test_mistakes_are_one_line(name, arguments, message, tmp_path):
    with pytest.raises(UsageError, match=message) as error:
        run(name, *arguments, "--out", tmp_path / "out")
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
    with pytest.raises(UsageError, match=message):
        run(name, *arguments, "--out", tmp_path / "out")


QUESTION = '''"""Does a small kernel suffice?

One short script is one question.
"""

from dataclasses import dataclass
from pathlib import Path

from experiments.lab import experiment, scores, views
from experiments.lab.options import Comparison
from experiments.lab.report import Report


@dataclass(frozen=True, kw_only=True)
class Options(Comparison):
    """Trains the network with a small kernel."""

    out: Path = Path("results/my_question")


PRESETS = {"full": Options(), "quick": Options(image_size=16, sigma=4.0, batch_size=2, iterations=3, seeds=1)}


def plan(options):
    return [options.run(seed, architecture="kernel_3") for seed in options.all_seeds]


def report(options, results):
    arms = scores.arms(results, lambda run: run.architecture)
    tables, document = [views.table(arms, options.over_seeds)], scores.document(arms)
    return Report([views.leader(arms, "iou")], tables, {}, document, scores.rows(arms))


if __name__ == "__main__":
    experiment.main()
'''


def test_a_new_question_is_one_short_script(tmp_path):
    script, out = tmp_path / "my_question.py", tmp_path / "out"
    script.write_text(QUESTION)
    (tmp_path / "not_a_question.py").write_text('"""Has options?"""\n\n\nclass Options:\n    pass\n')
    assert questions(tmp_path) == {"my_question": "Does a small kernel suffice?"}
    words = [sys.executable, script.name, "--preset", "quick", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in out.iterdir()} == {
        "results.json",
        "options.json",
        "report.html",
        "runs.csv",
        "tables.tex",
        "runs",
    }
    document = json.loads((out / "results.json").read_text())
    assert document["experiment"] == "my_question"
    assert document["command"] == f"python my_question.py --preset quick --out {out}"
    assert [len(run["curves"]["loss"]) for run in document["runs"]] == [3]
    assert "<h1>Does a small kernel suffice?</h1>" in (out / "report.html").read_text()
    with (out / "runs.csv").open() as file:
        assert [row["architecture"] for row in csv.DictReader(file)] == ["kernel_3"]


def test_a_bad_number_in_a_plan_is_one_line_before_any_training(tmp_path):
    script = module("compare_losses")
    options = parse(script, "--preset", "quick", "--out", tmp_path / "out")
    for change, message in (
        ({"sigma2": -1.0}, "sigma2 must be a finite number > 0"),
        ({"batch_size": 0}, "batch_size"),
    ):
        plan = SimpleNamespace(
            __file__=script.__file__,
            plan=lambda options, change=change: [options.run(0, texture=options.texture._replace(**change))],
        )
        with pytest.raises(UsageError, match=message):
            experiment.run(plan, options)
    with pytest.raises(UsageError, match="nothing to train"):
        experiment.run(SimpleNamespace(__file__=script.__file__, plan=lambda options: []), options)
    assert not list((tmp_path / "out").iterdir())


def test_what_the_commands_need_is_named_where_it_is_missing(tmp_path):
    """Another Python's folder of packages, in which rich is not found."""
    code = "import sys; sys.modules['rich'] = None\nimport importlib.util as it; find = it.find_spec\n"
    code += "it.find_spec = lambda name: None if name == 'rich' else find(name)\nimport experiments"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: the experiments need rich: pip install '.[experiments]'\n"
