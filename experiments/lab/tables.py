"""Tables, findings and warnings on arms that several questions share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.lab.arms import COLUMNS, ERRORS_AT, Arms
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
    """The mean, and the range in a second line if there are several numbers."""
    mean = f"{np.mean(numbers):{form}}"
    return f"{mean}\n{np.min(numbers):{form}}-{np.max(numbers):{form}}" if len(numbers) > 1 else mean


def table(arms: Arms, title: str, columns: Sequence[str] = SCORES, note: str = NOTE) -> Table:
    """One row per arm, one column per score: mean and range over seeds."""
    rows = [[label, *(spread(arm.values(name), COLUMNS[name].form) for name in columns)] for label, arm in arms.items()]
    return Table(title, ["", *(COLUMNS[name].heading for name in columns)], rows, note)


def leader(arms: Arms, column: str, setting: str = "") -> str:
    """A finding: the arm with the best mean over seeds, and the arms that tie with it by the paired differences."""
    title, form, better = COLUMNS[column].title, COLUMNS[column].form, COLUMNS[column].higher_is_better
    scores = {label: arm.masked(column) for label, arm in arms.items()}
    # Arms are ranked by the number of finite runs first, since the mean leaves out runs that diverged.
    finite = {label: int(np.isfinite(numbers).sum()) for label, numbers in scores.items()}
    means = {label: np.nanmean(numbers) if finite[label] else np.nan for label, numbers in scores.items()}
    sign = 1 if better else -1
    first, *rivals = sorted(arms, key=lambda label: (finite[label], sign * means[label]), reverse=True)
    start = f"{'Highest' if better else 'Lowest'} {title}{setting}"
    if not finite[first]:
        return f"{start}: none, every run diverged."
    finding = f"{start}: {first} ({means[first]:{form}})"
    if not rivals:
        return f"{finding}."
    if finite[first] == 1:
        return f"{finding}; one seed cannot tell them apart."

    def difference(label: str) -> str:
        return difference_text(statistics.compare(scores[first], scores[label], better).difference, form)

    if tied := [label for label in rivals if statistics.verdict(scores[first], scores[label], better) != "better"]:
        listed = "; ".join(f"{label}: {difference(label)}" for label in tied)
        return f"{finding}; tied with (difference {first} minus the other, 95 %): {listed}."
    # A mean over fewer runs cannot be compared.
    runner_up = next((label for label in rivals if finite[label] == finite[first]), None)
    lead = f"; of {runner_up}, the next, by {difference(runner_up)}" if runner_up else ""
    return f"{finding}, ahead of all others{lead}."


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
    if not np.isfinite(estimate).all():
        return "too few pairs"
    return f"{estimate.value:+{form}} ({estimate.low:+{form}} to {estimate.high:+{form}})"


def seeds_warning(seeds: int) -> list[str]:
    """A warning if there are too few seeds for bootstrap intervals (`segjax.statistics`)."""
    if seeds >= statistics.FEWEST_SEEDS:
        return []
    subject = "One seed gives" if seeds == 1 else f"{seeds} seeds give"
    return [f"{subject} little more than an anecdote; compare over at least {statistics.FEWEST_SEEDS}."]


def diverged_warning(arms: Arms) -> list[str]:
    """A warning if runs diverged, since `table` includes them in its means and `leader` leaves them out."""
    counts = diverged_counts(arms)
    message = f"Runs diverged: {counts}. The means of the tables hold them; the sentences leave them out."
    return [message] if counts else []


def diverged_counts(arms: Arms) -> str:
    """The number of runs of each arm that diverged, as text; empty if none did."""
    counts = {label: (int(arm.diverged.sum()), len(arm.rows)) for label, arm in arms.items()}
    return ", ".join(f"{label} {diverged} of {runs}" for label, (diverged, runs) in counts.items() if diverged)
