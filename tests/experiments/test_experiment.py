"""The skeleton of every question: what is done in which order, and a question that stands somewhere else."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import jax
import pytest
from small_runs import ROOT, parse

from experiments import compare_losses
from experiments.lab import experiment, store
from experiments.lab.stops import UsageError

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


PRESETS = {"full": Options(), "quick": Options(image_size=16, sigma=4.0, batch_size=1, iterations=10, seeds=1)}


def plan(options):
    return [options.run(seed, architecture="kernel_3") for seed in options.all_seeds]


def report(options, results):
    arms = scores.arms(results, lambda run: run.architecture)
    tables, document = [views.table(arms, options.over_seeds)], scores.document(arms)
    return Report([views.leader(arms, "iou")], tables, {}, document, scores.rows(arms))


if __name__ == "__main__":
    experiment.main()
'''


@pytest.mark.slow
def test_a_new_question_is_one_short_script(tmp_path):
    script, out = tmp_path / "my_question.py", tmp_path / "out"
    script.write_text(QUESTION)
    (tmp_path / "not_a_question.py").write_text('"""Has options?"""\n\n\nclass Options:\n    pass\n')
    assert experiment.questions(tmp_path) == {"my_question": "Does a small kernel suffice?"}
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
    assert [len(run["curves"]["loss"]) for run in document["runs"]] == [10]
    assert "<h1>Does a small kernel suffice?</h1>" in (out / "report.html").read_text()
    with (out / "runs.csv").open() as file:
        assert [row["architecture"] for row in csv.DictReader(file)] == ["kernel_3"]


def test_checks_come_before_the_folder(tmp_path):
    options = replace(compare_losses.PRESETS["quick"], iterations=0, out=tmp_path / "out")
    with pytest.raises(UsageError, match="--iterations must be an integer >= 1"):
        experiment.run(compare_losses, options)
    assert not options.out.exists()


def test_a_bad_number_in_a_plan_is_one_line_before_any_training(tmp_path):
    options = parse(compare_losses, "--preset", "quick", "--out", tmp_path / "out")
    for change, message in (
        ({"sigma2": -1.0}, "sigma2 must be a finite number > 0"),
        ({"batch_size": 0}, "batch_size"),
    ):
        plan = SimpleNamespace(
            __file__=compare_losses.__file__,
            plan=lambda options, change=change: [options.run(0, texture=options.texture._replace(**change))],
        )
        with pytest.raises(UsageError, match=message):
            experiment.run(plan, options)
    with pytest.raises(UsageError, match="nothing to train"):
        experiment.run(SimpleNamespace(__file__=compare_losses.__file__, plan=lambda options: []), options)
    assert not list((tmp_path / "out").iterdir())


def test_deterministic_is_told_to_xla_before_it_starts(monkeypatch, tmp_path):
    # It reads the flags once, and would not know these.
    jax.devices()
    seen = []
    monkeypatch.setattr(store, "claim", lambda *_: seen.append(os.environ["XLA_FLAGS"]) or 1 / 0)
    monkeypatch.setenv("XLA_FLAGS", "--given")
    for flag in ("--no-deterministic", "--deterministic"):
        options = parse(compare_losses, flag, "--out", tmp_path)
        with pytest.raises(ZeroDivisionError):
            experiment.run(compare_losses, options)
        # The option goes into results.json.
        assert options.identity("it")["options"]["deterministic"] == (flag == "--deterministic")
    assert seen == ["--given", "--given --xla_gpu_exclude_nondeterministic_ops=true"]
