"""What every question promises: its quick preset runs, writes every file, and ends with one line at a mistake.

And what their package does before any of them begins.
"""

import contextlib
import csv
import importlib
import inspect
import io
import json
import os
import re
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import DATA
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_runs import ROOT, SHORT, SMALL, Command, execute, options_of, parse, ticking, typeset

from experiments.lab import cli, question, stops
from experiments.lab.folder import Folder
from experiments.lab.options import flag
from experiments.lab.stops import UsageError

QUESTIONS = question.questions(ROOT / "experiments")
TWO = ["--first", str(DATA / "stripes.png"), "--second", str(DATA / "grain.png")]

# The windows of Bayes' rule leave room for a pixel.
WIDER = ["--image-size", "24"]

# name -> (what makes the quick preset small enough for a test, its figures)
EXPERIMENTS = {
    "texture_gallery": (
        ["quick", "--image-size", "16", "--map-size", "16", "--map-steps", "20", "--map-sigmas", "0.2", "2"],
        {"gallery", "sigma_study", "difficulty", "best_possible", "difference"},
    ),
    "train_model": (
        [*SMALL, "--iterations", "20", "--show-every", "10", "--architecture", "notebook"],
        {"curves", "predictions"},
    ),
    "find_learning_rate": ([*SMALL, "--steps", "30"], {"range_test"}),
    "tune_learning_rate": (
        [*SHORT, "--optimizers", "sgd", "adam", "--rates", "1e-2", "1"],
        {"rate_sensitivity", "curves_sgd", "curves_adam"},
    ),
    # So few steps reach no target: there is no figure of the times.
    "compare_optimizers": ([*SHORT, "--optimizers", "sgd"], {"curves", "predictions"}),
    "try_optimizers": ([*SHORT, "--optimizers", "adam", "--rates", "1e-3"], {"losses"}),
    "compare_losses": ([*SHORT, "--losses", "mse", "dice"], {"loss_by_metric", "agreement", "predictions"}),
    "compare_architectures": (
        [*SHORT, "--architectures", "notebook", "shallow", "--schedule", "constant"],
        {"budgets", "cost_and_quality"},
    ),
    "inspect_layers": (
        [*SHORT, "--architecture", "shallow", "--schedule", "constant"],
        {"kernels_conv1", "kernels_out", "features_conv1", "features_out", "removal"},
    ),
    "train_best_model": (
        [*SMALL, "--seconds", "1", "--held-out", "16", "--architecture", "shallow"],
        {"quality_over_time", "predictions"},
    ),
    "learn_textures": (
        [*SMALL, "--seconds", "1", "--held-out", "16", "--architecture", "shallow", *TWO],
        {"quality_over_time", "predictions", "training_images"},
    ),
    "best_possible": (
        [*SHORT, "--windows", "1", "3", "--sigma2s", "1.2", "--num-masks", "20", "--num-images", "2", *WIDER],
        # One sigma2 makes no curve.
        {"over_window", "by_distance", "predictions"},
    ),
    "reproduce_notebook": (
        [*SHORT, "--long-iterations", "20", "--seeds", "1"],
        # The protocol is not the notebook's: no published number is drawn beside it.
        {"optimizers", "adam_rates"},
    ),
    # Its figure needs CUDA's plugin.
    "gpu_program": (["quick", "--image-size", "16", "--widths", "2", "--iterations", "10"], set()),
}
# These have no quick preset, or measure this machine: tests of their names run them.
ELSEWHERE = {"segment_image", "benchmark", "compare_roundings", "leaderboard"}


def module(name):
    return importlib.import_module(f"experiments.{name}")


def run(name, *words):
    return execute(module(name), *words)


def test_every_question_is_tested():
    assert set(QUESTIONS) == set(EXPERIMENTS) | ELSEWHERE


def test_every_module_has_a_test_file_of_its_name():
    modules = {path.stem for path in (ROOT / "experiments").rglob("[!_]*.py")}
    assert "train" in modules
    assert {f"test_{name}.py" for name in modules} <= {path.name for path in Path(__file__).parent.iterdir()}


@pytest.mark.parametrize("name", list(QUESTIONS))
def test_every_question_is_asked_where_people_look(name):
    text = module(name).__doc__
    assert "?" in QUESTIONS[name]
    assert text.startswith(QUESTIONS[name])
    assert f"    python -m experiments.{name} " in text.replace("\n", " \n")
    readme = (ROOT / "README.md").read_text()
    assert re.search(rf"experiments\.{name}\b|`{name}\b", readme), "the README leaves it out"


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("name", [*QUESTIONS, "rerun"])
def test_help_fills_the_terminal(name, columns, monkeypatch, capsys):
    """No line is longer than the terminal, and within a text none ends where the next word has room."""
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        cli.parse(module(name).Options, getattr(module(name), "PRESETS", {}), ["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    usage = next(i for i, line in enumerate(lines) if line.startswith("usage:"))
    docstring, boxes = lines[:usage], [line[2:-2].rstrip() for line in lines[usage:]]
    short = [
        line
        for line, following in pairwise(docstring)
        if line and following and not following.startswith(("    ", "- ")) and fits(line, following, columns)
    ]
    short += [
        line
        for line, following in pairwise(boxes)
        # An option whose name is long has its help below.
        if following.startswith(8 * " ") and "  " in line and fits(line, following, columns - 4)
    ]
    assert short == []


def fits(line, following, columns):
    return len(line) + 1 + len(following.split()[0]) <= columns


@pytest.mark.parametrize("name", list(QUESTIONS))
def test_every_script_has_the_same_parts(name):
    script = module(name)
    assert list(inspect.signature(script.answer).parameters) == ["options", "lab"]
    assert options_of(script)
    assert all(isinstance(preset, script.Options) for preset in script.PRESETS.values())
    if name in EXPERIMENTS:
        assert "quick" in script.PRESETS


@pytest.mark.slow
def test_the_package_lists_every_question():
    code, out, err = Command("", environment={"COLUMNS": "80"}).finish()
    assert (code, err) == (0, "")
    # Long questions take several lines.
    out = " ".join(out.split())
    for name, text in QUESTIONS.items():
        assert f"{name} {text}" in out


@pytest.fixture(scope="module", params=list(EXPERIMENTS))
def finished(request, tmp_path_factory):
    """The name of an experiment and the folder that its small run wrote."""
    out = tmp_path_factory.mktemp(request.param)
    # A clock of its own: on a loaded machine a second is too short for two snapshots.
    with ticking(0.1):
        run(request.param, *EXPERIMENTS[request.param][0], "--pdf", "3.3", "--out", out)
    return request.param, out


class Page(HTMLParser):
    """Collects the addresses that a page would fetch, and its text."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.text, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.slow
def test_writes_every_file(finished):
    name, out = finished
    for figure in EXPERIMENTS[name][1]:
        with Image.open(out / f"{figure}.png", formats=["PNG"]) as picture:
            darkest, brightest = picture.convert("L").getextrema()
            # Dark text on white paper, at the least.
            assert darkest < 64
            assert brightest == 255
            assert min(picture.size) > 100
        assert b"/MediaBox [ 0 0 237.6 " in (out / f"{figure}.pdf").read_bytes()
    document = json.loads((out / "results.json").read_text())
    assert document["experiment"] == name
    assert " quick " in document["command"] or "quick" in EXPERIMENTS[name][0]
    assert set(document["source"]) == {"commit", "clean"}
    assert all((out / file).exists() for file in document["files"])
    with (out / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert None not in rows[0]
    assert not [path.name for path in out.iterdir() if path.suffix == ".tmp"]


@pytest.mark.slow
def test_an_article_takes_its_tables(finished, tmp_path):
    typeset((finished[1] / "tables.tex").read_text(), tmp_path)


@pytest.mark.slow
def test_the_report_is_one_page_that_fetches_nothing(finished):
    name, out = finished
    text = (out / "report.html").read_text()
    page = Page(text)
    # Every figure has a heading, and so have the glossary and the last section, which says how all was made.
    assert page.tags.count("img") == page.tags.count("h2") - 2 == len(EXPERIMENTS[name][1])
    headings = re.findall("<h2>(.*?)</h2>", text)
    assert len(set(headings)) == len(headings)
    assert all(heading[0].isupper() for heading in headings)
    assert all(source == "#glossary" or source.startswith("data:image/png;base64,") for source in page.sources)
    assert "script" not in page.tags
    assert not re.search(r"url\(|@import", text)
    text_of_page = "\n".join(page.text)
    assert QUESTIONS[name] in text_of_page
    assert json.loads((out / "results.json").read_text())["command"] in text_of_page


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_help_reads_well(name, capsys):
    script = module(name)
    with pytest.raises(SystemExit) as end:
        parse(script, "--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    # A sentence before each default, of every option and of no other; options of any number have none.
    words = re.sub(r"[\s│]+", " ", text)
    sentences = re.findall(r"[.;] \((?:default:|repeatable\))", words)
    assert len(sentences) == words.count("(default:") + words.count("(repeatable)") == len(options_of(script))
    assert "results/" in text
    assert f"Presets, as the first word: {', '.join(script.PRESETS)}." in words
    # The docstring stands there as it is.
    assert re.sub(r"\s+", " ", script.__doc__).strip() in words


@pytest.mark.parametrize("name", list(EXPERIMENTS))
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["slow"], "the first word must be an option or one of: .*; got 'slow'"),
        (["quick", "--image-size", "1"], "--image-size"),
        (["quick", "--seed", "-1"], "--seed"),
    ],
)
def test_mistakes_are_one_line(name, words, message, tmp_path):
    with pytest.raises(UsageError, match=message) as error:
        run(name, *words, "--out", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())


# An option -> a word that no question takes for it.
REFUSED = dict.fromkeys(("architecture", "architectures", "optimizer", "optimizers", "loss", "losses"), "nothing")
REFUSED |= dict.fromkeys(("learning_rate", "rates"), "0")


@pytest.mark.parametrize("name", list(QUESTIONS))
def test_every_question_checks_its_options(name):
    for option in REFUSED.keys() & options_of(module(name)):
        with pytest.raises(ValueError, match=f"^{flag(option)} "):
            parse(module(name), flag(option), REFUSED[option]).check()


WORDS = ["0", "1", "-1", "2", "1e-3", "nan", "inf", "1e999", "99999999999999999999", "", " ", "\n", "a b", "--", "-x"]
WORDS += ["None", "True", "adam", "é", "optax:lion", "optax:lion=1e-3", "notebook", "quick", "/proc/nowhere"]


class Claimed(BaseException):
    """The options pass every check: the work would begin."""


@pytest.mark.slow
@pytest.mark.parametrize("name", list(QUESTIONS))
@given(data=st.data())
# Forty of `make test-deep`: they cost a tenth of a second each, times the commands.
@settings(suppress_health_check=list(HealthCheck), max_examples=min(40, settings().max_examples))
def test_command_lines_work_or_end_with_one_line_or_with_tyro_s_frame(name, data):
    script = module(name)
    flags = [flag(option) for option in options_of(script)]
    option = st.tuples(
        st.sampled_from([*flags, "--no-overwrite", "--what"]), st.lists(st.sampled_from(WORDS), max_size=2)
    )
    first = data.draw(st.lists(st.sampled_from([*script.PRESETS, *WORDS]), max_size=1))
    words = [word for option, values in data.draw(st.lists(option, max_size=3)) for word in (option, *values)]

    def claimed(*_):
        raise Claimed

    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        patch.setattr(Folder, "claimed", claimed)
        # --deterministic adds to them.
        patch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])
        # The signals are pytest's.
        patch.setattr(stops, "install", lambda message: None)
        patch.setattr("sys.argv", [name, *first, *words])
        try:
            cli.run(partial(question.run, script), script.Options, script.PRESETS)
        except Claimed:
            return
        except SystemExit as end:
            code = end.code or 0
    text = errors.getvalue()
    assert code in (0, 2)
    # tyro's frame ends with where to find its help.
    if code and "full helptext" not in text:
        assert text.startswith("error: ")
        assert text[:-1].isprintable()


def test_what_the_commands_need_is_named_where_it_is_missing(tmp_path):
    """Another Python's folder of packages, in which rich is not found."""
    code = "import sys; sys.modules['rich'] = None\nimport importlib.util as it; find = it.find_spec\n"
    code += "it.find_spec = lambda name: None if name == 'rich' else find(name)\nimport experiments"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: the experiments need rich: pip install '.[experiments]'\n"


@pytest.mark.parametrize("module", ["experiments", "experiments.train_model"])
def test_a_variable_that_jax_refuses_is_one_line(module):
    environment = {**os.environ, "JAX_ENABLE_X64": "maybe"}
    words = [sys.executable, "-m", module]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: invalid truth value 'maybe' for environment 'JAX_ENABLE_X64'\n"


@pytest.mark.parametrize("number", stops.SIGNALS)
def test_a_signal_during_the_imports_is_one_line(number):
    # As Python's own start does, which looks for the module of `-m` after it has imported the package.
    code = "import os, sys, time; sys.argv, sys.orig_argv = ['-m'], ['-m', 'experiments.train_model']\n"
    code += "class Finder:\n    def find_spec(self, name, path=None, target=None):\n        if name == 'jax':\n"
    code += f"            os.kill(os.getpid(), {number.value}); time.sleep(9)\n"
    code += "sys.meta_path.insert(0, Finder())\nimport experiments"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (128 + number, "interrupted before it began\n")


@pytest.mark.parametrize("columns", ["0", "-3", "many", "\N{SUPERSCRIPT TWO}", "5", "99999"])
def test_a_width_that_no_terminal_has_is_ignored(columns):
    words, environment = [sys.executable, "-m", "experiments"], {**os.environ, "COLUMNS": columns}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert {len(line) for line in done.stdout.splitlines()} == {80}
