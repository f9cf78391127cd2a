"""What several tests of the experiments share: a script run as its command runs it, and finished runs made by hand."""

import json
from pathlib import Path

import numpy as np

from experiments.lab import cli, experiment, train
from experiments.lab.runs import Held, Result, Run
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


def count_training(monkeypatch):
    """The list that every run enters from now on when its training begins."""
    original, begun = train._train, []

    def counted(group, *arguments):
        begun.extend(group)
        return original(group, *arguments)

    monkeypatch.setattr(train, "_train", counted)
    return begun


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
