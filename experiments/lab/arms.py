"""Arms, the groups of finished runs that are compared, and their columns: the numbers of a run.

Every number is computed here, once: tables, figures, findings and files show the same values.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.names import exact
from experiments.lab.runs import HeldOut, Result, Run
from segjax import edges, metrics

# The values that results.json has for every step.
CURVES = ("loss", "agreement", "iou")


class Column(NamedTuple):
    """A number of a finished run: its name in files, and its heading with its unit and its format in tables."""

    name: str
    heading: str
    form: str
    higher_is_better: bool

    @property
    def title(self) -> str:
        """The heading where numbers of training and of held-out images are mixed."""
        return self.heading if self.name in TRAINING else f"held-out {self.heading}"


def _running_mean(curve: str) -> Callable[[Result], Any]:
    return lambda result: metrics.running_mean(curves(result)[curve])[-1]


def _loss(name: str) -> Callable[[HeldOut], Any]:
    return lambda scores: scores.losses[name]


def _at_distance(band: int) -> Callable[[HeldOut], Any]:
    return lambda scores: edges.error(scores.edges)[band]


# The columns of the errors by distance to the true edge.
ERRORS_AT = tuple(f"error_at_{name.replace(' ', '_').replace('-', '_to_')}" for name in edges.BAND_NAMES)
# Scores on the held-out images: name in files -> heading, whether higher is better, and the function that computes it.
HELD_OUT: dict[str, tuple[str, bool, Callable[[HeldOut], Any]]] = {
    "accuracy": ("accuracy", True, lambda scores: metrics.accuracy(scores.counts)),
    "iou": ("IoU", True, lambda scores: metrics.iou(scores.counts)),
    "precision": ("precision", True, lambda scores: metrics.precision(scores.counts)),
    "recall": ("recall", True, lambda scores: metrics.recall(scores.counts)),
    "f1": ("F1", True, lambda scores: metrics.f1(scores.counts)),
    "image_iou": ("IoU of single images, mean", True, lambda scores: scores.image_iou.mean()),
    "worst_image_iou": ("IoU of the worst image", True, lambda scores: scores.image_iou.min()),
    "boundary_f": ("boundary F (2 pixels)", True, lambda scores: edges.boundary_f(scores.edges)),
    **{
        column: (f"error {name} pixels from the edge", False, _at_distance(band))
        for band, (column, name) in enumerate(zip(ERRORS_AT, edges.BAND_NAMES, strict=True))
    },
    "accuracy_by_running_statistics": (
        "accuracy, running statistics",
        True,
        lambda scores: metrics.accuracy(scores.running_counts),
    ),
    "held_out_agreement": ("agreement", True, lambda scores: metrics.agreement(scores.counts)),
    "held_out_mse": ("MSE", False, _loss("mse")),
    "held_out_bce": ("BCE (nats)", False, _loss("bce")),
    "held_out_dice": ("Dice", False, _loss("dice")),
}
# Numbers of the training itself: name in files -> the function that computes it.
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
    *(Column(name, heading, ".3f", higher) for name, (heading, higher, _) in HELD_OUT.items()),
    Column("seconds", "seconds", ".0f", False),
)
COLUMNS: Mapping[str, Column] = {column.name: column for column in _COLUMNS}


# Compiled as a whole, since XLA takes longer to compile the operations one by one.
@jax.jit
def held_out(scores: HeldOut) -> dict[str, jax.Array]:
    """The columns of `HELD_OUT`: name -> value."""
    return {name: jnp.asarray(compute(scores)) for name, (_, _, compute) in HELD_OUT.items()}


diverged_at = jax.jit(metrics.diverged_at)


def final_loss(loss: Any) -> float:
    """Mean loss of the last tenth of the steps, in float64."""
    return float(np.mean(metrics.last_tenth(np.asarray(loss)), dtype=np.float64))


def curves(result: Result) -> dict[str, np.ndarray]:
    """The curves of `CURVES` on the training batches, (iterations,) each."""
    loss, counts = result.history
    values = (loss, metrics.agreement(counts), metrics.iou(counts))
    return {name: np.asarray(curve) for name, curve in zip(CURVES, values, strict=True)}


@dataclass(frozen=True)
class Arm:
    """The runs of one candidate of a comparison, one per seed; tables and figures show the label."""

    label: str
    results: tuple[Result, ...]

    @property
    def run(self) -> Run:
        """The run of the first seed."""
        return self.results[0].run

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """One row of runs.csv per run: its fields, its columns, and the step at which it diverged."""
        rows = []
        for result in self.results:
            numbers = {name: compute(result) for name, compute in TRAINING.items()} | held_out(result.held_out)
            rows.append(
                {
                    "label": self.label,
                    **{name: value for name, value in result.run._asdict().items() if name != "texture"},
                    **{name: float(numbers[name]) for name in COLUMNS},
                    "cores": result.cores,
                    # `metrics.diverged_at` returns 0 for a run that did not diverge.
                    "diverged_at": int(diverged_at(result.history.loss, result.final_variables["params"])) or None,
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
        """(seeds,) values of a column, those of runs that diverged included."""
        return np.array([row[column] for row in self.rows])

    def masked(self, column: str) -> np.ndarray:
        """(seeds,) values of a column, NaN for runs that diverged: findings and verdicts use these."""
        return np.where(self.diverged, np.nan, self.values(column))

    def running(self, curve: str) -> np.ndarray:
        """(seeds, iterations) running means of a curve."""
        return metrics.running_mean(np.stack([curves[curve] for curves in self.curves]))


Arms = Mapping[str, Arm]


def by_rate(run: Run) -> str:
    """The label of an arm: the optimizer and its learning rate."""
    return f"{run.optimizer} {exact(run.learning_rate)}"


def compare(results: Iterable[Result], by: Callable[[Run], str]) -> Arms:
    """Groups results into arms: label -> arm; `by` returns the label of a run."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(by(result.run), []).append(result)
    return {label: Arm(label, tuple(group)) for label, group in groups.items()}


def rows(arms: Arms) -> list[dict[str, Any]]:
    """The rows of runs.csv."""
    return [row for arm in arms.values() for row in arm.rows]


def document(arms: Arms) -> dict[str, Any]:
    """The runs in results.json: every run with its curves, and the range of each column over the seeds of each arm."""
    runs = [
        {**row, "curves": curves} for arm in arms.values() for row, curves in zip(arm.rows, arm.curves, strict=True)
    ]
    summary = {label: {column: _range(arm.values(column)) for column in COLUMNS} for label, arm in arms.items()}
    return {"runs": runs, "summary": summary}


def _range(values: np.ndarray) -> dict[str, Any]:
    return {"mean": values.mean(), "min": values.min(), "max": values.max()}
