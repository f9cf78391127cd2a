"""docs/your-optimizer.md: its file, its command and its script, as they stand."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from small_runs import ROOT, parse

import segjax
from experiments import compare_optimizers

PAGE = (ROOT / "docs" / "your-optimizer.md").read_text()
COMMANDS = re.findall(r"```\npython (-m .*?)\n```", PAGE, re.DOTALL)
SMALL = "--iterations 3 --seeds 2 --image-size 16 --learning-rate 0.001 --out results"


@pytest.fixture
def run(tmp_path):
    """Runs Python in an empty folder that holds the page's file."""
    optimizer, script = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my_optimizer.py").write_text(optimizer)
    (tmp_path / "script.py").write_text(script.replace("num_steps=100", "num_steps=3"))

    def run(*words):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_by_a_command(run, tmp_path):
    command, *_ = COMMANDS
    # Of an option that is given twice, the last counts.
    run(*shlex.split(command), *SMALL.split())
    document = json.loads((tmp_path / "results" / "results.json").read_text())
    name = "my_optimizer:averaged(decay=0.95)"
    assert {(row["optimizer"], row["learning_rate"]) for row in document["runs"]} == {("adam", 1e-3), (name, 0.03)}
    assert any(warning.startswith(f"{name} is evaluated with weights that") for warning in document["warnings"])


@pytest.mark.slow
def test_the_stored_baseline_is_of_the_fair_preset(tmp_path, monkeypatch):
    """The page's command, but for its five runs: everything is read and checked before the first."""
    _, command, _ = COMMANDS
    words = shlex.split(command)
    assert words[words.index("--baseline") + 1] == "docs/baselines/fair.json"
    place = words.index("--optimizers") + 1
    options = parse(compare_optimizers, *words[2:place], "mine=adam=0.03", *words[place + 1 :])
    monkeypatch.chdir(ROOT)
    options.check()
    assert [candidate.label for candidate in options.candidates] == ["mine"]
    assert {arm.run.optimizer for arm in options.stored.arms.values()} == set(segjax.OPTIMIZERS)
    assert all(len(arm.rows) == 5 and not arm.diverged.any() for arm in options.stored.arms.values())


@pytest.mark.deep
def test_in_a_script(run):
    assert re.fullmatch(r"accuracy minus Adam's [+-]0\.\d{4} \(.* to .*\), ahead in \d of 5\n", run("script.py"))
