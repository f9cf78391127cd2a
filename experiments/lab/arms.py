"""Finished runs by what is compared: the columns of a run, the arms, and their numbers over the seeds.

Everything is computed here once and handed on: tables, figures, sentences and files show the same numbers.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.names import exact
from experiments.lab.runs import Held, Result, Run
from segjax import edges, metrics

# What is kept of every step.
CURVES = ("loss", "agreement", "iou")


class Column(NamedTuple):
    """A number of a finished run: its name in files, its heading with its unit, its format, which way is better."""

    name: str
    heading: str
    form: str
    higher_is_better: bool

    @property
    def title(self) -> str:
        """The heading where numbers of training stand beside it."""
        return self.heading if self.name in TRAINING else f"held-out {self.heading}"


def _running_mean(curve: str) -> Callable[[Result], Any]:
    return lambda result: metrics.running_mean(curves(result)[curve])[-1]


def _loss(name: str) -> Callable[[Held], Any]:
    return lambda held: held.losses[name]


def _at_distance(band: int) -> Callable[[Held], Any]:
    return lambda held: edges.error(held.edges)[band]


# The columns of the errors by distance to the true edge.
ERRORS_AT = tuple(f"error_at_{name.replace(' ', '_').replace('-', '_to_')}" for name in edges.BAND_NAMES)
# Name in files -> heading, whether more is better, and the number: what held-out images say of a network.
HELD_OUT: dict[str, tuple[str, bool, Callable[[Held], Any]]] = {
    "accuracy": ("accuracy", True, lambda held: metrics.accuracy(held.counts)),
    "iou": ("IoU", True, lambda held: metrics.iou(held.counts)),
    "precision": ("precision", True, lambda held: metrics.precision(held.counts)),
    "recall": ("recall", True, lambda held: metrics.recall(held.counts)),
    "f1": ("F1", True, lambda held: metrics.f1(held.counts)),
    "image_iou": ("IoU of single images, mean", True, lambda held: held.image_iou.mean()),
    "worst_image_iou": ("IoU of the worst image", True, lambda held: held.image_iou.min()),
    "boundary_f": ("boundary F (2 pixels)", True, lambda held: edges.boundary_f(held.edges)),
    **{
        column: (f"error {name} pixels from the edge", False, _at_distance(band))
        for band, (column, name) in enumerate(zip(ERRORS_AT, edges.BAND_NAMES, strict=True))
    },
    "accuracy_by_running_statistics": (
        "accuracy, running statistics",
        True,
        lambda held: metrics.accuracy(held.running_counts),
    ),
    "held_out_agreement": ("agreement", True, lambda held: metrics.agreement(held.counts)),
    "held_out_mse": ("MSE", False, _loss("mse")),
    "held_out_bce": ("BCE (nats)", False, _loss("bce")),
    "held_out_dice": ("Dice", False, _loss("dice")),
}
# The columns that come from training; all others come from the held-out images.
TRAINING: dict[str, Callable[[Result], Any]] = {
    "loss": _running_mean("loss"),
    "final_loss": lambda result: final_loss(result.history.loss),
    "agreement": _running_mean("agreement"),
    "seconds": lambda result: result.seconds,
}
_COLUMNS = (
    Column("loss", "running-mean loss", ".4f", False),
    Column("final_loss", "loss, last tenth", ".4f", False),
    Column("agreement", "running-mean agreement", ".3f", True),
    *(Column(name, heading, ".3f", better) for name, (heading, better, _) in HELD_OUT.items()),
    Column("seconds", "seconds", ".0f", False),
)
COLUMNS: Mapping[str, Column] = {column.name: column for column in _COLUMNS}


# Compiled as a whole: otherwise XLA would compile each of its operations, which takes longer.
@jax.jit
def held_out(held: Held) -> dict[str, jax.Array]:
    """The columns of `HELD_OUT`."""
    return {name: jnp.asarray(number(held)) for name, (_, _, number) in HELD_OUT.items()}


diverged_at = jax.jit(metrics.diverged_at)


def final_loss(loss: Any) -> float:
    """Mean of the last tenth of the steps, in float64: how the run ended, and not how it got there."""
    return float(np.mean(metrics.last_tenth(np.asarray(loss)), dtype=np.float64))


def curves(result: Result) -> dict[str, np.ndarray]:
    """What results.json keeps of every step: (iterations,) each, of the batches that were trained on."""
    loss, counts = result.history
    numbers = (loss, metrics.agreement(counts), metrics.iou(counts))
    return {name: np.asarray(curve) for name, curve in zip(CURVES, numbers, strict=True)}


@dataclass(frozen=True)
class Arm:
    """The runs of one thing that is compared, one per seed; the label is what people call it."""

    label: str
    results: tuple[Result, ...]

    @property
    def run(self) -> Run:
        """The run of the first seed."""
        return self.results[0].run

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """One row per run, as runs.csv has it: what it was, its numbers, and the step at which it diverged."""
        rows = []
        for result in self.results:
            numbers = {name: of(result) for name, of in TRAINING.items()} | held_out(result.held_out)
            rows.append(
                {
                    "label": self.label,
                    **{name: value for name, value in result.run._asdict().items() if name != "texture"},
                    **{name: float(numbers[name]) for name in COLUMNS},
                    "cores": result.cores,
                    # 0 stands for a run that did not diverge.
                    "diverged_at": int(diverged_at(result.history.loss, result.ended["params"])) or None,
                }
            )
        return rows

    @cached_property
    def curves(self) -> list[dict[str, np.ndarray]]:
        """The curves of each run."""
        return [curves(result) for result in self.results]

    @property
    def diverged(self) -> np.ndarray:
        """(seeds,), whether the run diverged (`segjax.metrics.diverged_at`)."""
        return np.array([row["diverged_at"] is not None for row in self.rows])

    def values(self, column: str) -> np.ndarray:
        """(seeds,) of a column, whatever became of the run."""
        return np.array([row[column] for row in self.rows])

    def kept(self, column: str) -> np.ndarray:
        """The same with NaN for runs that diverged: what is judged."""
        return np.where(self.diverged, np.nan, self.values(column))

    def running(self, curve: str) -> np.ndarray:
        """(seeds, iterations), the running means of a curve."""
        return metrics.running_mean(np.stack([curves[curve] for curves in self.curves]))


Arms = Mapping[str, Arm]


def by_rate(run: Run) -> str:
    """A label: the optimizer and its rate."""
    return f"{run.optimizer} {exact(run.learning_rate)}"


def compare(results: Iterable[Result], by: Callable[[Run], str]) -> Arms:
    """label -> its runs, a seed each; `by` gives the label of a run."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(by(result.run), []).append(result)
    return {name: Arm(name, tuple(group)) for name, group in groups.items()}


def rows(arms: Arms) -> list[dict[str, Any]]:
    """What runs.csv holds."""
    return [row for arm in arms.values() for row in arm.rows]


def document(arms: Arms) -> dict[str, Any]:
    """The part of results.json on runs: every run with its curves, and each number over the seeds of each arm."""
    runs = [
        {**row, "curves": curves} for arm in arms.values() for row, curves in zip(arm.rows, arm.curves, strict=True)
    ]
    summary: dict[str, dict[str, Any]] = {label: {} for label in arms}
    for label, arm in arms.items():
        for column in COLUMNS:
            numbers = arm.values(column)
            summary[label][column] = {"mean": numbers.mean(), "min": numbers.min(), "max": numbers.max()}
    return {"runs": runs, "summary": summary}
