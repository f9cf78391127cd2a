"""Tables, findings and warnings on arms that several questions share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.lab.arms import COLUMNS, ERRORS_AT, Arm, Arms
from experiments.lab.report import Table
from segjax import statistics
from segjax.statistics import Estimate

# The columns of most tables, and their explanation.
SCORES = ("loss", "agreement", "accuracy", "iou", "seconds")
NOTE = (
    "Loss and agreement: running means while training; accuracy and IoU: held-out images. Agreement: the share of "
    "pixels that are right and sure, with a probability below 0.1 or above 0.9."
)


def spread(numbers: np.ndarray, form: str) -> str:
    """The mean, and the range in a second line if there are several numbers; a dash for none."""
    if not len(numbers):
        return "-"
    mean = f"{np.mean(numbers):{form}}"
    return f"{mean}\n{np.min(numbers):{form}}-{np.max(numbers):{form}}" if len(numbers) > 1 else mean


def estimate_text(estimate: Estimate, form: str, in_lines: bool = False) -> str:
    """A number and its interval, "0.2 (0.1 to 0.3)" or in two lines; without an interval the number, or a dash.

    An end of an interval that excludes 0 is not rounded to 0: it has one significant digit instead.
    """
    if not np.isfinite(estimate.value):
        return "-"
    if not np.isfinite(estimate).all():
        return f"{estimate.value:{form}}"
    texts = [f"{number:{form}}" for number in estimate]
    if estimate.low > 0 or estimate.high < 0:
        one_digit = f"{form.partition('.')[0]}.1g"
        texts = [text if float(text) else f"{number:{one_digit}}" for text, number in zip(texts, estimate, strict=True)]
    value, low, high = texts
    return f"{value}\n{low} to {high}" if in_lines else f"{value} ({low} to {high})"


def table(arms: Arms, title: str, columns: Sequence[str] = SCORES, note: str = NOTE) -> Table:
    """One row per arm, one column per score: mean and range over the seeds that did not diverge."""
    rows = [
        [label, *(spread(arm.converged(name), COLUMNS[name].form) for name in columns)] for label, arm in arms.items()
    ]
    return Table(title, ["", *(COLUMNS[name].heading for name in columns)], rows, note)


def leader(arms: Arms, column: str, setting: str = "") -> str:
    """A finding: the arm with the best mean over seeds, and the arms that tie with it by the paired differences.

    Only the arms with the fewest diverged runs are compared, since a mean leaves out the runs that diverged.
    """
    title, better = COLUMNS[column].title, COLUMNS[column].higher_is_better
    failed = {label: int(arm.diverged.sum()) for label, arm in arms.items()}
    fewest = min(failed.values())
    compared = {label: arm for label, arm in arms.items() if failed[label] == fewest}
    first, *rivals = sorted(compared, key=lambda label: compared[label].mean(column), reverse=better)
    start, runs = f"{'Highest' if better else 'Lowest'} {title}{setting}", len(arms[first].rows)
    if fewest == runs:
        return f"{start}: none, every run diverged."
    ending = "."
    if others := [f"{label} ({failed[label]} of {runs})" for label in arms if label not in compared]:
        start += f" among the {len(compared)} with the fewest diverged runs"
        ending = f"; fewer of its runs diverged ({fewest} of {runs}) than of {', '.join(others)}."
    if others and not rivals:
        start = f"{title[0].upper()}{title[1:]}{setting}"
    pairs = {label: _difference(compared[first], compared[label], column) for label in rivals}
    # A mean over other seeds may be the best although the runs on the same seeds are not.
    unlike = [pairs[label].value for label in rivals if (arms[label].diverged != arms[first].diverged).any()]
    if any((value < 0) if better else (value > 0) for value in unlike):
        return f"{start}: none, since {fewest} of {runs} runs diverged, on different seeds."
    lead = _lead(compared, column, first, pairs, "the others of these" if others else "all others") if pairs else ""
    return f"{start}: {first} ({compared[first].mean(column):{COLUMNS[column].form}}){lead}{ending}"


def _lead(arms: Arms, column: str, first: str, pairs: Mapping[str, Estimate], others: str) -> str:
    """How far the first arm is ahead of the others, or which of them tie with it; `pairs` has the best other first."""
    if len(arms[first].converged(column)) == 1:
        return "; one seed cannot tell them apart"
    better, form = COLUMNS[column].higher_is_better, COLUMNS[column].form
    scores = {label: arm.masked(column) for label, arm in arms.items()}
    if tied := [label for label in pairs if statistics.verdict(scores[first], scores[label], better) != "better"]:
        listed = "; ".join(f"{label}: {difference_text(pairs[label], form)}" for label in tied)
        return f"; tied with (difference {first} minus the other, 95 %): {listed}"
    runner_up = next(iter(pairs))
    return f", ahead of {others}; of {runner_up}, the next, by {difference_text(pairs[runner_up], form)}"


def _difference(arm: Arm, other: Arm, column: str) -> Estimate:
    scores = arm.masked(column), other.masked(column)
    return statistics.compare(*scores, COLUMNS[column].higher_is_better).difference


def distance_table(row: Mapping[str, Any]) -> Table:
    """The errors of a network by distance from the edge, and its scores of edges and single images."""
    names = (*ERRORS_AT, "boundary_f", "image_iou", "worst_image_iou")
    rows = [[COLUMNS[name].heading, f"{row[name]:.4f}"] for name in names]
    note = (
        "Error: share of the held-out pixels at that distance. Boundary F: edges that lie within 2 pixels. A few wrong "
        "pixels take the IoU of an image with hardly any mask to near 0."
    )
    return Table("Where the errors lie", ("", "held-out images"), rows, note)


def difference_text(estimate: Estimate, form: str) -> str:
    """A difference with its sign, and its interval in parentheses."""
    return estimate_text(estimate, f"+{form}") if np.isfinite(estimate).all() else "too few pairs"


def seeds_warning(seeds: int) -> list[str]:
    """A warning if there are too few seeds for bootstrap intervals (`segjax.statistics`)."""
    if seeds >= statistics.FEWEST_SEEDS:
        return []
    subject = "One seed gives" if seeds == 1 else f"{seeds} seeds give"
    return [f"{subject} little more than an anecdote; compare over at least {statistics.FEWEST_SEEDS}."]


def diverged_warning(arms: Arms) -> list[str]:
    """A warning with the number of runs of each arm that diverged, if some did."""
    counts = {label: (int(arm.diverged.sum()), len(arm.rows)) for label, arm in arms.items()}
    listed = ", ".join(f"{label} {diverged} of {runs}" for label, (diverged, runs) in counts.items() if diverged)
    return [f"Runs diverged: {listed}. They are in no mean, and their pairs do not count."] if listed else []
