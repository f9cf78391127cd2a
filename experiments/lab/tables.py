"""Tables, findings and warnings on arms that several questions share."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.lab.arms import COLUMNS, Arms
from experiments.lab.report import Table
from segjax import statistics
from segjax.statistics import Estimate

# The columns of most tables, and their explanation.
SCORES = ("loss", "agreement", "accuracy", "iou", "seconds")
NOTE = (
    "Loss and agreement: running means while training; accuracy and IoU: held-out images. Agreement: the share of "
    "pixels that are right and sure, with a probability below 0.1 or above 0.9."
)

# Most arms that a sentence lists.
_FEW_TIES = 3


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


class Lead(NamedTuple):
    """The arm with the best mean over seeds among those with the fewest diverged runs, since a mean leaves those out.

    Attributes:
        first: its label; empty if no arm leads.
        differences: label -> the first arm minus each other one with as few diverged runs, the best of these first.
        tied: the labels that the paired differences do not tell from the first.
    """

    first: str
    differences: Mapping[str, Estimate]
    tied: Sequence[str]


def lead(arms: Arms, column: str) -> Lead:
    """The arm that leads in a column."""
    better = COLUMNS[column].higher_is_better
    fewest = min(arm.diverged.sum() for arm in arms.values())
    scores = {label: arm.masked(column) for label, arm in arms.items() if arm.diverged.sum() == fewest}
    first, *rivals = sorted(scores, key=lambda label: arms[label].mean(column), reverse=better)
    differences = {label: statistics.compare(scores[first], scores[label], better).difference for label in rivals}
    # A mean over other seeds may be the best although the runs on the same seeds are not.
    unlike = [differences[label].value for label in rivals if (arms[label].diverged != arms[first].diverged).any()]
    if arms[first].diverged.all() or any((value < 0) if better else (value > 0) for value in unlike):
        return Lead("", {}, ())
    tied = [label for label in rivals if statistics.verdict(scores[first], scores[label], better) != "better"]
    return Lead(first, differences, tied)


def leader(arms: Arms, column: str, setting: str = "") -> str:
    """A finding: the arm that leads in a column, and the arms that tie with it; `ties` has their differences."""
    title, form = COLUMNS[column].title, COLUMNS[column].form
    (first, differences, tied), runs = lead(arms, column), len(next(iter(arms.values())).rows)
    failed = {label: int(arm.diverged.sum()) for label, arm in arms.items()}
    fewest = min(failed.values())
    sentence = f"{'Highest' if COLUMNS[column].higher_is_better else 'Lowest'} {title}{setting}"
    if fewest == runs:
        return f"{sentence}: none, every run diverged."
    ending = "."
    if others := [f"{label} ({count} of {runs})" for label, count in failed.items() if count > fewest]:
        sentence += " among those with the fewest diverged runs"
        ending = f"; fewer of its runs diverged ({fewest} of {runs}) than of {', '.join(others)}."
    if not first:
        return f"{sentence}: none, since {fewest} of {runs} runs diverged, on different seeds."
    sentence += f": {first} ({arms[first].mean(column):{form}})"
    if tied:
        sentence += f", not told apart from {', '.join(tied) if len(tied) <= _FEW_TIES else f'{len(tied)} others'}"
    elif differences:
        label, difference = next(iter(differences.items()))
        sentence += f", ahead of {label}, the next, by {difference_text(difference, form)}"
    return sentence + ending


def ties(arms: Arms, columns: Sequence[str], setting: str = "") -> list[Table]:
    """A table of the arms that tie with the leader of each column; none if no arm does."""
    rows = []
    for name, column in ((name, COLUMNS[name]) for name in columns):
        first, differences, tied = lead(arms, name)
        best = f"{first} {arms[first].mean(name):{column.form}}" if first else ""
        rows += [[column.title, best, label, difference_text(differences[label], column.form)] for label in tied]
    note = "Differences seed by seed, with 95 % intervals for one look."
    return [Table(f"Not told apart{setting}", ("", "best", "other", "best minus other"), rows, note)] if rows else []


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
