"""What is said of runs compared over seeds: estimates, paired differences, times to targets, and their figures."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments import runs, summary
from experiments.report import Table
from experiments.runs import Result
from segjax import plotting, statistics
from segjax.statistics import Estimate, Improvement

# Points of a curve with its interval, and steps over which a value of single batches is averaged before it counts.
POINTS, WINDOW = 200, 20


class Score(NamedTuple):
    """A number of a finished run, a column of `runs.describe`."""

    column: str
    heading: str
    form: str
    higher_is_better: bool


class Target(NamedTuple):
    """A value of a curve that runs are to reach."""

    curve: str
    heading: str
    value: float
    higher_is_better: bool


SCORES = (
    Score("final_loss", "loss, last tenth", ".4f", False),
    Score("loss", "running-mean loss", ".4f", False),
    Score("iou", "held-out IoU", ".3f", True),
)
# The two that decide: where training ended, and what it is worth on other images.
DECISIVE = (SCORES[0], SCORES[2])


def diverged(results: Sequence[Result]) -> dict[str, int]:
    """label -> runs that diverged."""
    return {label: sum(_failed(result) for result in group) for label, group in summary.by_label(results).items()}


def values(results: Sequence[Result], score: Score) -> dict[str, np.ndarray]:
    """label -> (seeds,), NaN for what diverged."""
    return {
        label: np.array([np.nan if _failed(r) else runs.describe(r)[score.column] for r in group])
        for label, group in summary.by_label(results).items()
    }


def estimates(results: Sequence[Result], score: Score) -> dict[str, dict[str, Estimate]]:
    """label -> statistic -> its estimate over the seeds that did not diverge; NaN where all did."""
    nothing = Estimate(np.nan, np.nan, np.nan)
    return {
        label: {
            name: statistics.bootstrap(numbers[np.isfinite(numbers)], statistic)
            if np.isfinite(numbers).any()
            else nothing
            for name, statistic in statistics.STATISTICS.items()
        }
        for label, numbers in values(results, score).items()
    }


def improvements(results: Sequence[Result], score: Score, reference: str) -> dict[str, Improvement]:
    """label -> against the reference, over the same seeds."""
    numbers = values(results, score)
    return {
        label: statistics.compare(numbers[label], numbers[reference], score.higher_is_better)
        for label in numbers
        if label != reference
    }


def steps_to(results: Sequence[Result], target: Target) -> dict[str, np.ndarray]:
    """label -> (seeds,), infinity for a miss."""
    return {
        label: np.array(
            [
                statistics.steps_to_target(
                    curve := runs.curves(result)[target.curve],
                    target.value,
                    target.higher_is_better,
                    min(WINDOW, len(curve)),
                )
                for result in group
            ]
        )
        for label, group in summary.by_label(results).items()
    }


def score_table(results: Sequence[Result], score: Score) -> Table:
    rows = [
        [label, *(_cell(estimate, score.form) for estimate in by_statistic.values())]
        for label, by_statistic in estimates(results, score).items()
    ]
    better = "more" if score.higher_is_better else "less"
    note = f"95 % bootstrap intervals over seeds; {better} is better. IQM: mean of the middle half."
    return Table(score.heading[0].upper() + score.heading[1:], ["", *statistics.STATISTICS], rows, note)


def paired_table(results: Sequence[Result], score: Score, reference: str) -> Table:
    rows = []
    for label, found in improvements(results, score, reference).items():
        decided = f"{found.wins} of {found.seeds}" + (f"\n{found.ties} ties" if found.ties else "")
        rows.append([label, _cell(found.difference, "+" + score.form), decided, _cell(found.probability, ".2f")])
    note = (
        f"Each less {reference}, on the same seeds: same initial weights, same images. 95 % intervals: of the mean "
        "difference by bootstrap, of the probability by Wilson's formula."
    )
    headings = ("", "difference", "better in", "probability of being better")
    return Table(f"{score.heading[0].upper()}{score.heading[1:]}, against {reference}", headings, rows, note)


def target_table(results: Sequence[Result], targets: Sequence[Target]) -> Table:
    headings, rows = [""], {label: [label] for label in summary.by_label(results)}
    for target in targets:
        headings += [f"{target.heading}: reached", "median steps", "median seconds"]
        for label, steps in steps_to(results, target).items():
            seconds = steps * np.array([_seconds_a_step(result) for result in summary.by_label(results)[label]])
            reached = f"{int(np.isfinite(steps).sum())} of {len(steps)}"
            rows[label] += [reached, _time(np.median(steps), ".0f"), _time(np.median(seconds), ".1f")]
    note = (
        f"Means of the last {WINDOW} training batches; a run that misses the target counts as one that never arrives. "
        "Seconds: training alone, compiled."
    )
    return Table("Time to a target", headings, list(rows.values()), note)


def document(results: Sequence[Result], targets: Sequence[Target], reference: str) -> dict[str, Any]:
    """What `results.json` holds of all this."""
    return {
        "estimates": {
            score.column: {
                label: {name: estimate._asdict() for name, estimate in by_statistic.items()}
                for label, by_statistic in estimates(results, score).items()
            }
            for score in SCORES
        },
        "paired": {
            score.column: {
                label: {**found._asdict(), "difference": found.difference._asdict()}
                | {"probability": found.probability._asdict()}
                for label, found in improvements(results, score, reference).items()
            }
            for score in DECISIVE
        },
        "steps_to_target": {target.heading: steps_to(results, target) for target in targets},
        "reference": reference,
    }


def curves_figure(results: Sequence[Result], title: str) -> Figure:
    """Running means with the interval of their mean over seeds."""
    panels = []
    for curve, ylabel in (
        ("loss", "running-mean loss (mean squared error)"),
        ("iou", "running-mean IoU of the training batches"),
    ):
        whole = summary.running(results, curve)
        length = next(iter(whole.values())).shape[-1]
        places = np.unique(np.linspace(0, length - 1, POINTS).astype(int))
        thinned = {label: numbers[:, places] for label, numbers in whole.items()}
        panels.append(
            plotting.Panel(ylabel, thinned, curve == "loss", places + 1, bands=_bands(thinned)),
        )
    return plotting.training_curves(panels, title)


def sensitivity_figure(
    rates: np.ndarray, losses: Mapping[str, np.ndarray], diverged: Mapping[str, np.ndarray], title: str
) -> Figure:
    """Loss against rate with its interval over seeds where none diverged."""
    kept = {name: np.where(diverged[name].any(axis=0), np.nan, losses[name]) for name in losses}
    return plotting.sensitivity(rates, losses, diverged, "mean loss, last tenth", title, _bands(kept))


def differences_figure(results: Sequence[Result], reference: str, title: str) -> Figure:
    found = [improvements(results, score, reference) for score in DECISIVE]
    xlabels = [f"{score.heading}, less that of {reference}" for score in DECISIVE]
    return plotting.differences({label: [by[label].difference for by in found] for label in found[0]}, xlabels, title)


def profile_figure(results: Sequence[Result], targets: Sequence[Target], title: str) -> Figure:
    """The share of runs that have reached each target by each step; the intervals of so few would hide one another."""
    at = np.arange(1, max(len(result.history.loss) for result in results) + 1)
    panels = []
    for target in targets:
        shares = {
            label: statistics.profile(steps, at).value[np.newaxis] for label, steps in steps_to(results, target).items()
        }
        panels.append(plotting.Panel(f"share of runs at {target.heading}", shares, x=at, ylim=(-0.03, 1.03)))
    return plotting.training_curves(panels, title)


def targets(options: Any) -> list[Target]:
    return [
        Target("loss", f"loss <= {options.target_loss:g}", options.target_loss, False),
        Target("iou", f"IoU >= {options.target_iou:g}", options.target_iou, True),
    ]


def _failed(result: Result) -> bool:
    return runs.diverged_at(np.asarray(result.history.loss)) is not None


def _seconds_a_step(result: Result) -> float:
    return result.seconds / len(result.history.loss)


def _bands(curves: Mapping[str, np.ndarray]) -> dict[str, plotting.Band]:
    """Intervals of the means over seeds (seeds, points); NaN where a seed is not finite or is the only one."""
    bands = {}
    for label, numbers in curves.items():
        finite = np.isfinite(numbers).all(axis=0)
        low, high = np.full((2, numbers.shape[1]), np.nan)
        if finite.any():
            _, low[finite], high[finite] = statistics.bootstrap(numbers[:, finite])
        bands[label] = (low, high)
    return bands


def _cell(estimate: Estimate, form: str) -> str:
    """A number, and under it its interval."""
    value = f"{estimate.value:{form}}" if np.isfinite(estimate.value) else "-"
    if not np.isfinite([estimate.low, estimate.high]).all():
        return value
    return f"{value}\n{estimate.low:{form}} to {estimate.high:{form}}"


def _time(value: float, form: str) -> str:
    return f"{value:{form}}" if np.isfinite(value) else "never"
