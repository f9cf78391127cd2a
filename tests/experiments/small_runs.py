"""Shared by tests of the experiments: small commands in this process or in another, and runs that nothing trained."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from experiments.lab import cli, question, stops, train
from experiments.lab.arms import Arm, by_rate, compare
from experiments.lab.options import Group
from experiments.lab.programs import arguments
from experiments.lab.runs import HeldOut, Result, Run
from experiments.optimizers.contest import Contest
from experiments.timed import clock
from segjax import History, metrics
from segjax.edges import EdgeCounts
from segjax.training import Fit

ROOT = Path(__file__).parents[2]
# A program is compiled for its sizes, and for its steps up to 10: tests with these words share it, if their presets
# agree in the rest.
SMALL = ["quick", "--image-size", "16", "--batch-size", "1"]
SHORT = [*SMALL, "--iterations", "10"]
# Of 8 held-out pixels, 3 are right inside the mask and 3 outside, one is wrong on either side; 4 are right and sure.
COUNTS = (3, 1, 1, 3, 4)


def parse(script, *words):
    return cli.parse(script.Options, script.PRESETS, list(map(str, words)))


def options_of(script):
    """The names of all options, including those of groups."""
    fields = dataclasses.fields(script.Options)
    groups = [dataclasses.fields(field.default) if isinstance(field.default, Group) else [field] for field in fields]
    return [field.name for group in groups for field in group]


def execute(script, *words):
    """Answers the question of a script, and returns the content of results.json."""
    options = parse(script, *words)
    question.run(script, options)
    return json.loads((options.out / "results.json").read_text())


def typeset(latex, folder, columns="twocolumn"):
    """Compiles a tables.tex with the packages that it names, and fails on what does not fit."""
    engine = shutil.which("pdflatex")
    if not engine:
        pytest.skip("no pdflatex is installed")
    packages = re.search(r"\\usepackage\{.*?\}", latex)[0]
    article = rf"\documentclass[{columns}]{{article}}{packages}\begin{{document}}\input{{tables}}\end{{document}}"
    (folder / "tables.tex").write_text(latex)
    (folder / "article.tex").write_text(article)
    command = [engine, "-interaction=nonstopmode", "-halt-on-error", "article.tex"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    assert ended.returncode == 0, ended.stdout
    assert not re.search("Overfull|too large|multiply defined|Missing character", ended.stdout), ended.stdout


def lab_of(train_run):
    """A lab whose results are `train_run(run)`; `lines` are those that it printed."""
    lines = []
    return SimpleNamespace(
        train=lambda runs, **_: [train_run(run) for run in runs],
        say=lines.append,
        progress=lambda: train.progress_bar(Console(quiet=True)),
        lines=lines,
    )


class Command:
    """`python -m experiments.NAME` in a process that forks from one with all imports, which are most of a start.

    Attributes:
        process: of `multiprocessing`.
    """

    SERVER = multiprocessing.get_context("forkserver")
    # Not the scripts, which runpy imports again.
    PARTS = ("lab.question", "optimizers.contest", "optimizers.tuning", "pictures.photographs", "timed.clock")
    SERVER.set_forkserver_preload(
        [
            "matplotlib.style",
            "matplotlib.backends.backend_agg",
            "scipy.stats",
            *(f"experiments.{name}" for name in PARTS),
        ]
    )
    # Text, since for a function the process would import the module of the tests.
    BEGIN = """
import jax, os, resource, runpy, sys
for number, name in enumerate(streams, start=1):
    os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), number)
os.chdir(root)
os.environ.update(environment)
for name, value in settings.items():
    jax.config.update(name, value)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.argv = ["-m", *words]
exec(before)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""

    def __init__(self, script, *words, environment=(), settings=(), before="", limit=None):
        """Starts it; without a script, the package.

        Args:
            environment: variables that are read when jax starts its devices, or later.
            settings: of jax, which has read its variables by then.
            before: code that it runs first.
            limit: the most bytes that a file may have.
        """
        self.streams = []
        for _ in range(2):
            number, name = tempfile.mkstemp()
            os.close(number)
            self.streams.append(Path(name))
        names = {"streams": list(map(str, self.streams)), "root": str(ROOT), "environment": dict(environment)}
        names |= {"settings": dict(settings), "limit": limit, "words": list(map(str, words)), "before": before}
        # The tests have one question of their own.
        names["module"] = {"": "experiments", "plain": "plain"}.get(script, f"experiments.{script}")
        # A daemon: if a test fails, pytest does not wait for its process.
        self.process = self.SERVER.Process(target=exec, args=(self.BEGIN, names), daemon=True)
        self.process.start()

    def wait_for(self, condition, seconds=120):
        """Waits until the condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.is_alive(), self.finish()
            assert time.monotonic() < end, f"waited in vain: {self.finish(0)}"
            time.sleep(0.01)

    def send(self, number):
        os.kill(self.process.pid, number)

    def finish(self, timeout=120):
        """The exit code, stdout and stderr; the code is None if the process did not end in time."""
        self.process.join(timeout)
        code, texts = self.process.exitcode, [stream.read_text() for stream in self.streams]
        self.process.kill()
        for stream in self.streams:
            stream.unlink()
        return code, *texts


def members(session):
    """The running processes of a session; its number is that of the first process."""
    numbers = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "pid (name) state parent group session", and a name may hold anything.
            state, _, _, number, *_ = path.read_text().rpartition(")")[2].split()
            numbers += [int(path.parent.name)] if number == str(session) and state not in "ZX" else []
    return numbers


def count_training(monkeypatch, interrupted=None):
    """The list of the runs whose training starts from now on; the run of the number `interrupted` gets a Ctrl-C."""
    started = []

    def counted(runs):
        started.extend(runs)
        if len(started) == interrupted:
            raise KeyboardInterrupt
        return arguments(runs)

    monkeypatch.setattr(train, "arguments", counted)
    return started


@contextlib.contextmanager
def told_to_stop():
    """Inside, code that defers signals has received one by its first step."""

    @contextlib.contextmanager
    def deferred(*_):
        yield [signal.SIGTERM]
        raise stops.Interrupted(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stops, "deferred", deferred)
        yield


@contextlib.contextmanager
def ticking(tick, compiling=0.0):
    """Inside, the clock of training moves by `tick` at each look, and by `compiling` per compilation."""
    moment, compiled = 0.0, Fit.compile

    def look():
        nonlocal moment
        moment += tick
        return moment

    def compile_slowly(*arguments):
        nonlocal moment
        moment += compiling
        compiled(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fit, "compile", compile_slowly)
        for module in (clock, train):
            patch.setattr(module, "time", SimpleNamespace(perf_counter=look))
        yield


def result(loss, seed=0, rate=1e-3, agreeing=None, optimizer="adam", counts=COUNTS, weights=0.0):
    """A finished run of one pixel per step, with this loss at each step."""
    loss = np.asarray(loss, np.float32)
    agreeing = np.ones(len(loss), np.int32) if agreeing is None else np.asarray(agreeing, np.int32)
    ones, zeros = np.ones(len(loss), np.int32), np.zeros(len(loss), np.int32)
    counts = metrics.Counts(*(np.int32(number) for number in counts))
    history = History(loss, metrics.Counts(ones, zeros, zeros, zeros, agreeing))
    run = Run(seed=seed, optimizer=optimizer, learning_rate=rate, iterations=len(loss))
    # One of ten pixels at each distance is wrong; half of either edge is near the other.
    near = EdgeCounts(np.full(5, 10, np.int32), np.ones(5, np.int32), *map(np.int32, (4, 2, 4, 2)))
    held_out = HeldOut(counts, counts, near, np.array([0.4, 0.8]), {"mse": 0.1, "bce": 0.2, "dice": 0.3})
    return Result(run, history, {"params": {"w": np.full(2, weights)}}, held_out, 1.0, None)


def arm(label, results):
    return {label: Arm(label, tuple(results))}


# Two arms. The loss of the last tenth is that of the second step.
ARMS = {
    **arm("a", [result([0.4, loss], seed) for seed, loss in enumerate([0.1, 0.2, 0.3])]),
    **arm("b", [result([0.4, loss], seed, optimizer="sgd") for seed, loss in enumerate([0.2, 0.1, np.nan])]),
}


def accuracies(label, *shares):
    """An arm whose runs have these accuracies, which are also their IoU; None is a run that diverged."""
    results = []
    for seed, share in enumerate(shares):
        right = 9 if share is None else round(10 * share)
        loss = [np.nan] if share is None else [1 - share]
        results.append(result(loss, seed, counts=(right, 10 - right, 0, 0, 0)))
    return arm(label, results)


def contest(arms, targets=(), reference="a", tuning_steps=None):
    return Contest(arms, reference, targets, "title", tuning_steps or dict.fromkeys(arms, 0))


RATES = np.array([1e-3, 1e-2, 1e-1])


def arms_at(losses, optimizer="adam"):
    """An arm for each of `RATES`: one seed, with this loss at its last step."""
    results = [result([1.0, loss], rate=rate, optimizer=optimizer) for rate, loss in zip(RATES, losses, strict=False)]
    return compare(results, by=by_rate)
