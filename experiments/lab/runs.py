"""A training run as a value: its description, its state in progress, and its result."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import segjax
from segjax import edges, metrics

# Held-out batches on which every run is evaluated.
HELD_OUT_BATCHES = 16


class Texture(NamedTuple):
    """The images of a run: the options of `segjax.generate_data`; the defaults are the notebook's."""

    batch_size: int = 8
    image_size: int = 128
    sigma1: float = 0.2
    sigma2: float = 1.2
    sigma: float = 25.6


class Run(NamedTuple):
    """One training run, described by names and numbers alone: runs with equal fields are the same run."""

    seed: int
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    iterations: int = 1000
    schedule: str = "constant"
    objective: str = "mse"
    architecture: str = "notebook"
    texture: Texture = Texture()

    @property
    def stem(self) -> str:
        """A file name without its ending, legible and unique."""
        # Among 1,000 runs, two share eight digits in one of 8,000 folders; their legible parts must also be equal.
        digest = hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()
        legible = re.sub(r"[^\w.+-]", ".", f"{self.optimizer}-{self.learning_rate:g}")
        return f"{legible}-seed{self.seed}-{digest[:8]}"

    @property
    def program(self) -> "Run":
        """The run without seed and rate: runs with an equal `program` share one compiled program."""
        return self._replace(seed=0, learning_rate=0.0)

    def as_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "texture": self.texture._asdict()}


# Runs with one program, trained together.
Group = Sequence[Run]


class PartialRun(NamedTuple):
    """A run in progress, or several at the same step.

    Attributes:
        state: the state for the next step.
        seconds: training time so far.
        history: a `segjax.History` of NumPy arrays, leaves (..., steps); None before the first step.
        cores: numbers of cores available to the processes that trained it before this one.
    """

    state: segjax.TrainState
    seconds: float = 0.0
    history: Any = None
    cores: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        return self.history.loss.shape[-1] if self.history else 0

    def after(self, state: segjax.TrainState, chunk: segjax.History, seconds: float) -> "PartialRun":
        """The runs after another chunk, which may have room for more steps than were done."""
        steps, *chunks = jax.device_get([state.step, *([self.history] if self.history else []), chunk])
        history = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=-1)[..., : np.max(steps)], *chunks)
        return self._replace(state=state, seconds=seconds, history=history)


class HeldOut(NamedTuple):
    """A network's scores on the held-out images.

    Attributes:
        counts: counts of the predictions by `segjax.predict`.
        running_counts: the same with running statistics.
        edges: the errors by distance from the true edge.
        image_iou: (images,) IoU of single images.
        losses: name -> mean loss.
    """

    counts: metrics.Counts
    running_counts: metrics.Counts
    edges: edges.EdgeCounts
    image_iou: Any
    losses: dict[str, Any]


class Result(NamedTuple):
    """A finished run.

    Attributes:
        history: of training, leaves (iterations,).
        variables: the variables for evaluation (`segjax.eval_variables`); `held_out` are their scores.
        seconds: training time without compilation; checkpoints and `watch` are included.
        cores: number of cores available to the process, on which the last digits depend; "1, 2" if the run was resumed
            with another number, None if unknown.
        trained: the variables that training ended with, if they differ from `variables`.
    """

    run: Run
    history: segjax.History
    variables: dict[str, Any]
    held_out: HeldOut
    seconds: float
    cores: int | str | None
    trained: dict[str, Any] | None = None
