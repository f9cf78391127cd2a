"""The skeleton of every question: what is done in which order, and a question that stands somewhere else."""

import ast
import csv
import io
import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from types import SimpleNamespace

import jax
import plain
import pytest
from rich.console import Console
from small_runs import ROOT, SHORT, count_training, execute, parse

import experiments
from experiments import compare_losses
from experiments.lab import question
from experiments.lab.folder import Folder
from experiments.lab.options import Comparison, Training, identity_of
from experiments.lab.report import Report
from experiments.lab.runs import Texture
from experiments.lab.stops import Finished, UsageError

SMALL = ["--image-size", "16", "--batch-size", "1", "--iterations", "10"]


def shown_question():
    """The script that the docstring of the package shows."""
    text = textwrap.dedent(re.search(r'    """.*question\.main\(\)\n', experiments.__doc__, re.DOTALL)[0])
    assert text.startswith('"""Does')
    return text


@pytest.mark.slow
def test_a_new_question_is_one_script_of_at_most_30_lines(tmp_path):
    script, out, text = tmp_path / "my_question.py", tmp_path / "out", shown_question()
    # As ruff would have it there were more empty lines.
    assert len(list(filter(None, text.splitlines()))) <= 30
    script.write_text(text)
    (tmp_path / "not_a_question.py").write_text('"""Has options?"""\n\n\nclass Options:\n    pass\n')
    first_line = "Does a larger batch help? One network at several batch sizes, at equal steps."
    assert question.questions(tmp_path) == {"my_question": first_line}
    words = ["my_question.py", "quick", *SMALL, "--multiples", "1", "2", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    files = {"results.json", "options.json", "report.html", "runs.csv", "tables.tex", "predictions.png"}
    assert {path.name for path in out.iterdir()} == files | {"runs"}
    document = json.loads((out / "results.json").read_text())
    assert document["experiment"] == "my_question"
    assert document["command"] == f"python {' '.join(words)}"
    assert [run["label"] for run in document["runs"]] == ["batch 1", "batch 1", "batch 2", "batch 2"]
    assert {len(run["curves"]["loss"]) for run in document["runs"]} == {10}
    assert f"<h1>{first_line}</h1>" in (out / "report.html").read_text()
    with (out / "runs.csv").open() as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["0", "1", "0", "1"]


@pytest.mark.parametrize("name", list(question.questions(ROOT / "experiments")))
def test_a_question_is_one_answer_of_short_functions(name):
    tree = ast.parse((ROOT / "experiments" / f"{name}.py").read_text())
    lengths = {
        node.name: node.end_lineno - node.lineno + 1 for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }
    assert {name: length for name, length in lengths.items() if length > 45} == {}


def test_checks_come_before_the_folder(tmp_path):
    options = replace(plain.PRESETS["quick"], training=Training(iterations=0), out=tmp_path / "out")
    with pytest.raises(UsageError, match="--iterations must be an integer >= 1"):
        question.run(plain, options)
    assert not options.out.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texture": Texture(sigma2=-1.0)}, "--sigma2 must be a finite number > 0"),
        ({"texture": Texture(batch_size=0)}, "--batch-size must be an integer >= 1, got 0"),
        ({"learning_rate": -1.0}, "--learning-rate must be a finite number > 0"),
        ({"iterations": 0}, "--iterations must be an integer >= 1"),
        ({"schedule": "linear"}, "--schedule must be one of"),
        ({"objective": "hinge"}, "--loss must be one of"),
        ({"architecture": "vgg"}, "--architecture must be one of"),
        (None, "the options leave nothing to train"),
    ],
)
def test_runs_that_cannot_be_are_one_line_before_any_training(change, message, tmp_path):
    def answer(options, lab):
        lab.train([] if change is None else [options.run(0), options.run(0, **change)])

    options = parse(plain, "--out", tmp_path / "out")
    with pytest.raises(UsageError, match=message):
        question.run(SimpleNamespace(__file__=plain.__file__, answer=answer), options)
    assert not (tmp_path / "out").exists()


def test_deterministic_is_told_to_xla_before_it_starts(monkeypatch, tmp_path):
    # It reads the flags once, and would not know these.
    jax.devices()
    flags = []
    monkeypatch.setattr(Folder, "claimed", lambda *_: flags.append(os.environ["XLA_FLAGS"]) or 1 / 0)
    monkeypatch.setenv("XLA_FLAGS", "--mine")
    for word in ("--no-deterministic", "--deterministic"):
        options = parse(plain, word, "--out", tmp_path)
        with pytest.raises(ZeroDivisionError):
            question.run(plain, options)
        # The option goes into results.json.
        assert identity_of(options, "it")["options"]["deterministic"] == (word == "--deterministic")
    assert flags == ["--mine", "--mine --xla_gpu_exclude_nondeterministic_ops=true"]


def labels(document):
    return [(run["learning_rate"], run["seed"]) for run in document["runs"]]


@pytest.mark.slow
def test_more_seeds_train_only_the_new_ones_and_fewer_report_fewer(tmp_path, monkeypatch):
    words = [plain, "--out", tmp_path]
    two = execute(*words)
    started = count_training(monkeypatch)
    four = execute(*words, "--seeds", "4")
    assert [run.seed for run in started] == [2, 3]
    assert labels(four) == [(1e-3, seed) for seed in range(4)]
    # A finished run is what it was.
    assert four["runs"][:2] == two["runs"]
    del started[:]
    one = execute(*words, "--seeds", "1")
    assert started == []
    assert one["runs"] == two["runs"][:1]
    # A seed that none of the others has.
    execute(*words, "--seeds", "2", "--seed", "4", "--overwrite")
    assert [run.seed for run in started] == [4, 5]


@pytest.mark.slow
def test_figures_for_a_page_come_from_finished_runs(tmp_path, monkeypatch):
    words = [compare_losses, *SHORT, "--losses", "mse", "--seeds", "1", "--out", tmp_path]
    execute(*words)
    started = count_training(monkeypatch)
    execute(*words, "--pdf", "3.3")
    assert started == []
    assert list(tmp_path.glob("*.pdf"))
    # They change no result: without the option the folder is finished.
    with pytest.raises(Finished):
        question.run(compare_losses, parse(*words))


REPORT = Report(["It works."], [], {}, failures=["a.png is no picture", "b\n.png neither"])


def test_failures_are_told_when_all_is_written(tmp_path, capsys):
    options = Comparison(out=tmp_path)
    with pytest.raises(SystemExit) as end:
        question.run(SimpleNamespace(__file__="it.py", __doc__="Does it?", answer=lambda *_: REPORT), options)
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert err == "error: a.png is no picture\nerror: b\\n.png neither\n"
    assert out.splitlines()[0] == "- It works."
    assert (tmp_path / "results.json").exists()


def test_a_question_says_lines_that_a_terminal_can_show(tmp_path, capsys):
    options = Comparison(out=tmp_path)
    with question.opened(plain, options, Console(width=20)) as lab:
        lab.say("[bold] a line that is :x: longer than 20 characters, \x1b[31mred")
    assert capsys.readouterr().out == "[bold] a line that is :x: longer than 20 characters, \\x1b[31mred\n"


class Lost(io.StringIO):
    """A terminal that is gone."""

    def write(self, text):
        raise OSError(5, "Input/output error")


def test_all_is_kept_before_anything_is_shown(tmp_path, monkeypatch):
    report = Report(["It works."], [], {})
    script = SimpleNamespace(__file__="it.py", __doc__="Does it?", answer=lambda *_: report)
    monkeypatch.setattr("sys.stdout", Lost())
    with pytest.raises(OSError, match="Input/output error"):
        question.run(script, Comparison(out=tmp_path))
    files = ["runs.csv", "tables.tex", "report.html"]
    assert json.loads((tmp_path / "results.json").read_text())["files"] == files


def test_the_last_line_says_what_to_open(tmp_path, capsys):
    report = Report(["It works."], [], {}, files={"model.safetensors": b"weights"})
    script = SimpleNamespace(__file__="it.py", __doc__="Does it?", answer=lambda *_: report)
    question.run(script, Comparison(out=tmp_path))
    last = capsys.readouterr().out.splitlines()[-1]
    # The same in any width of the terminal, so that it can be copied.
    assert last == f"Wrote 5 files; open {tmp_path / 'report.html'}"
