"""What several tests of the experiments share: small runs in this process or in their own, and runs made by hand."""

import contextlib
import json
import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from experiments.lab import cli, clock, experiment, scores, stops, train
from experiments.lab.experiment import Lab
from experiments.lab.runs import Held, Result, Run, arguments
from experiments.lab.scores import Arm
from segjax import History, metrics
from segjax.edges import EdgeCounts
from segjax.training import Fit

ROOT = Path(__file__).parents[2]
# A program is compiled for its sizes, and for its steps up to 10: what is tried with these words shares it with all
# others, as long as the rest of its preset allows.
SMALL = ["--preset", "quick", "--image-size", "16", "--sigma", "4", "--batch-size", "1"]
SHORT = [*SMALL, "--iterations", "10"]
# One run of one step a pixel: 3 right in the mask, 3 outside, one wrong on either side, 4 right and sure.
COUNTS = (3, 1, 1, 3, 4)


def parse(script, *arguments):
    return cli.parse(script.Options, script.PRESETS, list(map(str, arguments)))


def execute(script, *arguments):
    """Runs a script, and gives the document that it wrote."""
    options = parse(script, *arguments)
    experiment.run(script, options)
    return json.loads((options.out / "results.json").read_text())


def lab(options):
    """What a script's work gets beside its options, with a terminal that shows nothing."""
    return Lab(options, Console(quiet=True), contextlib.ExitStack())


class Command:
    """`python -m experiments.NAME` in a process of its own, forked from one that has done the imports, most of a start.

    Attributes:
        process: of `multiprocessing`.
    """

    SERVER = multiprocessing.get_context("forkserver")
    # Not the scripts, which runpy begins anew.
    LAB = tuple(f"experiments.lab.{name}" for name in ("clock", "experiment", "photographs", "tuning"))
    SERVER.set_forkserver_preload(["matplotlib.style", "matplotlib.backends.backend_agg", "scipy.stats", *LAB])
    # A function would have the process import the module of the tests.
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
        given = {"streams": list(map(str, self.streams)), "root": str(ROOT), "environment": dict(environment)}
        given |= {"settings": dict(settings), "limit": limit, "words": list(map(str, words)), "before": before}
        given["module"] = f"experiments.{script}" if script else "experiments"
        # A test that fails leaves it to the end of all tests, which would otherwise wait for it.
        self.process = self.SERVER.Process(target=exec, args=(self.BEGIN, given), daemon=True)
        self.process.start()

    def wait_for(self, condition, seconds=120):
        """Waits for something that it does."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.is_alive(), self.finish()
            assert time.monotonic() < end, f"waited in vain: {self.finish(0)}"
            time.sleep(0.01)

    def send(self, number):
        os.kill(self.process.pid, number)

    def finish(self, timeout=120):
        """Its exit code, and what it wrote to stdout and stderr; None and this far, where it did not end in time."""
        self.process.join(timeout)
        code, said = self.process.exitcode, [stream.read_text() for stream in self.streams]
        self.process.kill()
        for stream in self.streams:
            stream.unlink()
        return code, *said


def members(session):
    """The processes of a session that are not done; the first process that was started in it gives its number."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "pid (name) state parent group session", and a name may hold anything.
            state, _, _, number, *_ = path.read_text().rpartition(")")[2].split()
            found += [int(path.parent.name)] if number == str(session) and state not in "ZX" else []
    return found


def count_training(monkeypatch, interrupted=None):
    """The list that every run enters from now on when its training begins; the one of this number gets a Ctrl-C."""
    begun = []

    def counted(runs):
        begun.extend(runs)
        if len(begun) == interrupted:
            raise KeyboardInterrupt
        return arguments(runs)

    monkeypatch.setattr(train, "arguments", counted)
    return begun


@contextlib.contextmanager
def told_to_stop():
    """Within, whatever listens for signals hears one at its first steps."""

    @contextlib.contextmanager
    def deferred(wanted=True):
        yield [signal.SIGTERM]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stops, "deferred", deferred)
        yield


@contextlib.contextmanager
def ticking(tick, compiling=0.0):
    """Within, the clock of a training moves by `tick` at each look, and by `compiling` while a program is compiled."""
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


def result(loss, seed=0, rate=1e-3, agreeing=None, optimizer="adam", counts=COUNTS, weights=0.0, cores=2):
    """A finished run of one pixel a step with the given curve."""
    loss = np.asarray(loss, np.float32)
    agreeing = np.ones(len(loss), np.int32) if agreeing is None else np.asarray(agreeing, np.int32)
    ones, zeros = np.ones(len(loss), np.int32), np.zeros(len(loss), np.int32)
    counts = metrics.Counts(*(np.int32(number) for number in counts))
    history = History(loss, metrics.Counts(ones, zeros, zeros, zeros, agreeing))
    run = Run(seed=seed, optimizer=optimizer, learning_rate=rate, iterations=len(loss))
    # Of ten pixels at each distance one is wrong; half of either edge is near the other.
    near = EdgeCounts(np.full(5, 10, np.int32), np.ones(5, np.int32), *map(np.int32, (4, 2, 4, 2)))
    held_out = Held(counts, counts, near, np.array([0.4, 0.8]), {"mse": 0.1, "bce": 0.2, "dice": 0.3})
    return Result(run, history, {"params": {"w": np.full(2, weights)}}, held_out, 1.0, cores)


def arm(label, results):
    return {label: Arm(label, tuple(results))}


# Two that are compared. Loss of the last tenth: the last of the two steps.
ARMS = {
    **arm("a", [result([0.4, loss], seed) for seed, loss in enumerate([0.1, 0.2, 0.3])]),
    **arm("b", [result([0.4, loss], seed, optimizer="sgd") for seed, loss in enumerate([0.2, 0.1, np.nan])]),
}
DECISIVE = ("final_loss", "iou")


def contest(arms, targets=(), reference="a"):
    return scores.contest(arms, DECISIVE, DECISIVE, targets, reference)


RATES = np.array([1e-3, 1e-2, 1e-1])


def arms_at(losses, optimizer="adam"):
    """An arm for each of the rates, of one seed that ends at its loss."""
    results = [result([1.0, loss], rate=rate, optimizer=optimizer) for rate, loss in zip(RATES, losses, strict=False)]
    return scores.arms(results, scores.by_rate)
