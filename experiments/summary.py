"""What results say over seeds: the tables, curves and pictures that several experiments share."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import segjax
from experiments import programs, runs, settings
from experiments.report import Table
from experiments.runs import Result
from segjax import metrics, plotting
from segjax.models import ARCHITECTURES

# column of a row -> (heading, form of its numbers)
SCORES = {
    "loss": ("running-mean loss", ".4f"),
    "agreement": ("agreement", ".3f"),
    "accuracy": ("accuracy", ".3f"),
    "iou": ("IoU", ".3f"),
    "seconds": ("seconds", ".0f"),
}
NOTE = "Loss and agreement: running means while training; accuracy and IoU: held-out images."


def by_label(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The seeds of each run, in the order of their first."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.run.label, []).append(result)
    return groups


def values(results: Sequence[Result], column: str) -> dict[str, np.ndarray]:
    """label -> (seeds,), of a column of `runs.describe`."""
    return {
        label: np.array([runs.describe(result)[column] for result in group])
        for label, group in by_label(results).items()
    }


def running(results: Sequence[Result], curve: str) -> dict[str, np.ndarray]:
    """label -> (seeds, iterations), the running mean of a curve."""
    return {
        label: metrics.running_mean(np.stack([runs.curves(result)[curve] for result in group]))
        for label, group in by_label(results).items()
    }


def over_seeds(options: Any) -> str:
    return f"mean and range of {options.seeds} seeds" if options.seeds > 1 else f"seed {options.seed}"


def listed(seeds: Sequence[int]) -> str:
    return f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"


def leader(scores: Mapping[str, np.ndarray], heading: str, form: str, better: bool) -> str:
    """A sentence: whose mean over seeds is best, and in how many of the paired seeds it is ahead of all others.

    Args:
        scores: label -> (seeds,).
        better: whether more is better; what is not finite never is.
    """
    ranks = {
        label: np.where(np.isfinite(values), values if better else -values, -np.inf) for label, values in scores.items()
    }
    best = max(ranks, key=lambda label: ranks[label].mean())
    rivals = [ranks[label] for label in ranks if label != best]
    sentence = f"Best by {heading}: {best} ({scores[best].mean():{form}})"
    if rivals:
        wins = np.all([ranks[best] > rival for rival in rivals], axis=0)
        sentence += f", ahead of all others in {int(wins.sum())} of {len(wins)} seeds"
    return sentence + "."


def spread(numbers: np.ndarray, form: str) -> str:
    """The mean, and under it the range where there is one."""
    mean = f"{np.mean(numbers):{form}}"
    return f"{mean}\n{np.min(numbers):{form}}-{np.max(numbers):{form}}" if len(numbers) > 1 else mean


def table(
    results: Sequence[Result],
    options: settings.Options,
    title: str,
    columns: Mapping[str, tuple[str, str]] = SCORES,
    note: str = NOTE,
) -> Table:
    """A row a label, a column a score."""
    scores = {column: values(results, column) for column in columns}
    rows = [
        [label, *(spread(scores[column][label], form) for column, (_, form) in columns.items())]
        for label in by_label(results)
    ]
    headings = ["", *(heading for heading, _ in columns.values())]
    return Table(f"{title}: {over_seeds(options)}", headings, rows, note)


def document(experiment: str, results: Sequence[Result]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What `results.json` and `runs.csv` hold of the runs."""
    rows = [runs.describe(result) for result in results]
    full = [{**row, "curves": runs.curves(result)} for row, result in zip(rows, results, strict=True)]
    columns = [name for name, value in rows[0].items() if isinstance(value, float)]
    scores = {column: values(results, column) for column in columns}
    summary = {
        label: {
            column: {"mean": numbers[label].mean(), "min": numbers[label].min(), "max": numbers[label].max()}
            for column, numbers in scores.items()
        }
        for label in by_label(results)
    }
    return {"experiment": experiment, "runs": full, "summary": summary}, rows


def probability(result: Result, image: jax.Array) -> np.ndarray:
    """What a trained network sees in a batch: (batch, n, n)."""
    logits = segjax.predict(ARCHITECTURES[result.run.architecture], result.variables, image)
    return np.asarray(jax.nn.sigmoid(logits))[..., 0]


def predictions(results: Sequence[Result], options: settings.Options) -> Figure:
    """The first held-out image as the first seed of each label sees it."""
    batch = programs.held_out_batch(settings.texture(options))
    seen = {label: probability(group[0], batch.image)[0] for label, group in by_label(results).items()}
    title = f"A held-out image after {options.iterations} iterations, seed {options.seed}"
    return plotting.predictions(batch.image[0, ..., 0], batch.mask[0, ..., 0], seen, title)
