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
    """A number of a finished run: its name in files, and its heading with its unit and its format in tables.

    `compute` takes the `HeldOut` of a run for the columns of `HELD_OUT`, and its `Result` for those of `TRAINING`.
    """

    name: str
    heading: str
    compute: Callable[[Any], Any]
    higher_is_better: bool = True
    form: str = ".3f"

    @property
    def title(self) -> str:
        """The heading where numbers of training and of held-out images are mixed."""
        return self.heading if self.name in TRAINING else f"held-out {self.heading}"


def _by_name(*columns: Column) -> dict[str, Column]:
    return {column.name: column for column in columns}


def _running_mean(curve: str) -> Callable[[Result], Any]:
    return lambda result: metrics.running_mean(curves(result)[curve])[-1]


def _loss(name: str) -> Callable[[HeldOut], Any]:
    return lambda scores: scores.losses[name]


def _at_distance(band: int) -> Callable[[HeldOut], Any]:
    return lambda scores: edges.error(scores.edges)[band]


# The columns of the errors by distance to the true edge.
ERRORS_AT = tuple(f"error_at_{name.replace(' ', '_').replace('-', '_to_')}" for name in edges.BAND_NAMES)
_ERRORS = (
    Column(name, f"error {distance} pixels from the edge", _at_distance(band), False)
    for band, (name, distance) in enumerate(zip(ERRORS_AT, edges.BAND_NAMES, strict=True))
)
# Scores on the held-out images.
HELD_OUT = _by_name(
    Column("accuracy", "accuracy", lambda scores: metrics.accuracy(scores.counts)),
    Column("iou", "IoU", lambda scores: metrics.iou(scores.counts)),
    Column("precision", "precision", lambda scores: metrics.precision(scores.counts)),
    Column("recall", "recall", lambda scores: metrics.recall(scores.counts)),
    Column("f1", "F1", lambda scores: metrics.f1(scores.counts)),
    Column("image_iou", "IoU of single images, mean", lambda scores: scores.image_iou.mean()),
    Column("worst_image_iou", "IoU of the worst image", lambda scores: scores.image_iou.min()),
    Column("boundary_f", "boundary F (2 pixels)", lambda scores: edges.boundary_f(scores.edges)),
    *_ERRORS,
    Column(
        "accuracy_by_running_statistics",
        "accuracy, running statistics",
        lambda scores: metrics.accuracy(scores.running_counts),
    ),
    Column("held_out_agreement", "agreement", lambda scores: metrics.agreement(scores.counts)),
    Column("held_out_mse", "MSE", _loss("mse"), False),
    Column("held_out_bce", "BCE (nats)", _loss("bce"), False),
    Column("held_out_dice", "Dice", _loss("dice"), False),
)
# Numbers of the training itself.
TRAINING = _by_name(
    Column("loss", "running-mean loss", _running_mean("loss"), False, ".4f"),
    Column("final_loss", "loss, last tenth", lambda result: final_loss(result.history.loss), False, ".4f"),
    Column("agreement", "running-mean agreement", _running_mean("agreement")),
    Column("seconds", "seconds", lambda result: result.seconds, False, ".0f"),
)
COLUMNS = TRAINING | HELD_OUT


# Compiled as a whole, since XLA takes longer to compile the operations one by one.
@jax.jit
def held_out(scores: HeldOut) -> dict[str, jax.Array]:
    """The columns of `HELD_OUT`: name -> value."""
    return {name: jnp.asarray(column.compute(scores)) for name, column in HELD_OUT.items()}


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

    @cached_property
    def run(self) -> Run:
        """The run of the first seed."""
        return self.results[0].run

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """One row of runs.csv per run: its fields, its columns, and the step at which it diverged."""
        rows = []
        for result in self.results:
            numbers = {name: column.compute(result) for name, column in TRAINING.items()}
            numbers |= held_out(result.held_out)
            params = (result.trained or result.variables)["params"]
            rows.append(
                {
                    "label": self.label,
                    **{name: value for name, value in result.run._asdict().items() if name != "texture"},
                    **{name: float(numbers[name]) for name in COLUMNS},
                    "cores": result.cores,
                    # `metrics.diverged_at` returns 0 for a run that did not diverge.
                    "diverged_at": int(diverged_at(result.history.loss, params)) or None,
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

    def converged(self, column: str) -> np.ndarray:
        """(runs,) values of a column, of the runs that did not diverge."""
        return self.values(column)[~self.diverged]

    def mean(self, column: str) -> float:
        """Mean of a column over the runs that did not diverge; NaN if all did."""
        values = self.converged(column)
        return float(values.mean()) if values.size else np.nan

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
    """The runs in results.json: every run with its curves, and the range of each column over those that converged."""
    runs = [
        {**row, "curves": curves} for arm in arms.values() for row, curves in zip(arm.rows, arm.curves, strict=True)
    ]
    summary = {label: {column: _range(arm.converged(column)) for column in COLUMNS} for label, arm in arms.items()}
    return {"runs": runs, "summary": summary}


def _range(values: np.ndarray) -> dict[str, Any]:
    values = values if values.size else np.array([np.nan])
    return {"mean": values.mean(), "min": values.min(), "max": values.max()}
