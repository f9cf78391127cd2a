"""A training run as a value: what it is, and what it leaves."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import segjax
from segjax import edges, metrics

# Held-out batches on which every run is judged.
HELD_OUT_BATCHES = 16


class Texture(NamedTuple):
    """The images of a run: the options of `segjax.generate_data`, with the notebook's values."""

    batch_size: int = 8
    image_size: int = 128
    sigma1: float = 0.2
    sigma2: float = 1.2
    sigma: float = 25.6


class Run(NamedTuple):
    """One training run, by names and numbers alone: two runs of equal fields are the same run."""

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
        """A file name without its ending: legible, and of no other run."""
        # Two of a thousand runs share eight digits once in 8,000 folders, and must share the legible part as well.
        digest = hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()
        legible = re.sub(r"[^\w.+-]", ".", f"{self.optimizer}-{self.learning_rate:g}")
        return f"{legible}-seed{self.seed}-{digest[:8]}"

    @property
    def program(self) -> "Run":
        """What this run has in common with all that the same compiled program trains."""
        return self._replace(seed=0, learning_rate=0.0)

    def as_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "texture": self.texture._asdict()}


# Runs of one program that are trained together.
Group = Sequence[Run]


class PartialRun(NamedTuple):
    """A run in progress, or several at the same step.

    Attributes:
        state: what the next step needs.
        chunks: the history so far, leaves (..., steps); the last chunk may have room for more steps than it made.
        seconds: what they took.
    """

    state: segjax.TrainState
    chunks: Sequence[segjax.History]
    seconds: float


class Held(NamedTuple):
    """A network's scores on the held-out images.

    Attributes:
        counts: by `segjax.predict`.
        running_counts: by running statistics.
        edges: where the errors of `predict` lie.
        image_iou: (images,), of each image alone.
        losses: the mean of each loss.
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
        variables: those that the run is judged by (`segjax.eval_variables`); `held_out` are their scores.
        seconds: of training, compilation left out; what is saved and watched on the way counts.
        cores: number of cores that the process could use, on which the last digits depend; None where nothing tells.
        trained: the variables that training ended with, where they are others.
    """

    run: Run
    history: segjax.History
    variables: dict[str, Any]
    held_out: Held
    seconds: float
    cores: int | None
    trained: dict[str, Any] | None = None

    @property
    def ended(self) -> dict[str, Any]:
        """The variables that training ended with."""
        return self.trained or self.variables
