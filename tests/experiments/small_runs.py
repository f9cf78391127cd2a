"""What several tests of the experiments share: a script run as its command runs it, and finished runs made by hand."""

import contextlib
import json
import signal
from pathlib import Path

import numpy as np
import pytest

from experiments.lab import cli, experiment, scores, stops, train
from experiments.lab.runs import Held, Result, Run, arguments
from experiments.lab.scores import Arm
from segjax import History, metrics

ROOT = Path(__file__).parents[2]
# One run of one step a pixel: 3 right in the mask, 3 outside, one wrong on either side, 4 right and sure.
COUNTS = (3, 1, 1, 3, 4)


def parse(script, *arguments):
    return cli.parse(script.Options, script.PRESETS, list(map(str, arguments)))


def execute(script, *arguments):
    """Runs a script, and gives the document that it wrote."""
    options = parse(script, *arguments)
    experiment.run(script, options)
    return json.loads((options.out / "results.json").read_text())


def count_training(monkeypatch, interrupted=None):
    """The list that every run enters from now on when its training begins; the one of this number gets a Ctrl-C."""
    begun = []

    def counted(runs):
        # A device without a run of its own repeats another's.
        begun.extend(dict.fromkeys(runs))
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


def result(loss, seed=0, rate=1e-3, agreeing=None, optimizer="adam", counts=COUNTS, weights=0.0):
    """A finished run of one pixel a step with the given curve."""
    loss = np.asarray(loss, np.float32)
    agreeing = np.ones(len(loss), np.int32) if agreeing is None else np.asarray(agreeing, np.int32)
    ones, zeros = np.ones(len(loss), np.int32), np.zeros(len(loss), np.int32)
    counts = metrics.Counts(*(np.int32(number) for number in counts))
    history = History(loss, metrics.Counts(ones, zeros, zeros, zeros, agreeing))
    run = Run(seed=seed, optimizer=optimizer, learning_rate=rate, iterations=len(loss))
    held_out = Held(counts, counts, {"mse": 0.1, "bce": 0.2, "dice": 0.3})
    return Result(run, history, {"params": {"w": np.full(2, weights)}}, held_out, 1.0)


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
