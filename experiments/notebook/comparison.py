"""Comparison of the notebook's published numbers with the same quantities of our runs."""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from experiments.lab.arms import Arms
from experiments.lab.report import Table
from experiments.notebook.published import AS_MOMENTUM, LOSS, MISNAMED, Published, quantity
from segjax import plotting, statistics
from segjax.plotting import Figure

# The factor of a range from which on the verdict says it: nearly any number lies in so wide a range.
WIDE = 3


class Verdict(Enum):
    """Whether a published number could be one more of our runs."""

    NO_RUN = "no run: no verdict"
    ONE_RUN = "one run: no verdict"
    IN_RANGE = "within our range"
    POSSIBLE = "could be one of ours"
    BELOW = "no: below ours"
    ABOVE = "no: above ours"

    @property
    def is_decided(self) -> bool:
        return self not in (Verdict.NO_RUN, Verdict.ONE_RUN)

    @property
    def fits(self) -> bool:
        return self in (Verdict.IN_RANGE, Verdict.POSSIBLE)


class Compared(NamedTuple):
    """A published number and ours, one value per seed."""

    label: str
    iterations: int
    quantity: str
    published: float
    note: str
    ours: list[float]
    verdict: Verdict

    @property
    def document(self) -> dict[str, Any]:
        return {**self._asdict(), "verdict": self.verdict_text}

    @property
    def verdict_text(self) -> str:
        detail = f", ours is {self.ours[0] / self.published - 1:+.0%}" if self.verdict is Verdict.ONE_RUN else ""
        if self.verdict is Verdict.IN_RANGE and max(self.ours) > WIDE * min(self.ours):
            detail = f", which spans a factor of {max(self.ours) / min(self.ours):.0f}"
        return f"{self.verdict.value}{detail}"


def compare(number: Published, arms: Arms, iterations: int) -> Compared:
    """Compares a published number with our runs at the same step; 1,000 steps of the notebook are `iterations` of ours.

    Runs that are shorter, or whose number is not finite, do not count.
    """
    step = number.thousands * iterations
    results = arms[number.label].results
    values = [quantity(result, number.quantity, step) for result in results if result.run.iterations >= step]
    ours = [value for value in values if np.isfinite(value)]
    return Compared(number.label, step, number.quantity, number.value, number.note, ours, judge(number.value, ours))


def judge(published: float, ours: Sequence[float]) -> Verdict:
    """Whether the published number could be one more of our runs, whose values are finite."""
    if len(ours) < 2:
        return Verdict.ONE_RUN if ours else Verdict.NO_RUN
    # Within the range, the verdict needs no assumption on the distribution.
    if min(ours) <= published <= max(ours):
        return Verdict.IN_RANGE
    low, high = statistics.prediction_interval(ours)
    if low <= published <= high:
        return Verdict.POSSIBLE
    return Verdict.BELOW if published < low else Verdict.ABOVE


def findings(comparison: Sequence[Compared]) -> list[str]:
    """The "SGD" numbers that fit momentum instead, the number of fits, and each number that does not fit."""
    judged = [row for row in comparison if row.verdict.is_decided]
    if not judged:
        return ["No published number is judged: it takes the notebook's own protocol, and at least two seeds of it."]
    sentences = []
    # The run that the notebook calls SGD and trains with momentum is compared with both.
    misnamed = [row for row in judged if row.note == MISNAMED and not row.verdict.fits]
    as_momentum = [row for row in judged if row.note == AS_MOMENTUM and row.verdict.fits]
    if misnamed and as_momentum:
        sentences.append(
            f"{len(misnamed)} published numbers do not fit as SGD: {_listed(misnamed)}. As momentum, which the "
            f"notebook's code trains, they do: {_listed(as_momentum)}."
        )
    counted = [row for row in judged if row.note != MISNAMED]
    misfits = [row for row in counted if not row.verdict.fits]
    sentences.append(
        f"{len(counted) - len(misfits)} of {len(counted)} published numbers with a verdict could be one more of our "
        'runs; those of its "SGD" have two rows each, and count once, as momentum.'
    )
    return sentences + [f"{row.label}, {_listed([row])}: {row.verdict_text}." for row in misfits]


def _listed(rows: Iterable[Compared]) -> str:
    return "; ".join(f"{row.quantity} {row.published:.4g}, ours {np.mean(row.ours):.4g} on average" for row in rows)


def table(comparison: Sequence[Compared]) -> Table:
    rows = []
    for row in comparison:
        mean, low, high = (f"{statistic(row.ours):.4f}" if row.ours else "" for statistic in (np.mean, np.min, np.max))
        name = row.label + (f" ({row.note})" if row.note else "")
        numbers = [f"{row.iterations}", row.quantity, f"{row.published:.4f}", mean, low, high]
        rows.append([name, *numbers, row.verdict_text])
    headings = ("run", "step", "quantity", "published", "mean", "min", "max", "verdict")
    seeds = " or ".join(map(str, sorted({len(row.ours) for row in comparison})))
    note = (
        "Loss and agreement: running means; agreement: share of the pixels that are right, and surer than 0.9. Ours "
        f"over {seeds} seeds. The verdict asks whether the published run could be one more of ours, at 95 %: by chance "
        "1 in 20 could not, and few seeds make wide intervals."
    )
    return Table("Published numbers beside ours", headings, rows, note)


def figure(comparison: Sequence[Compared]) -> Figure:
    """Published losses, and ours where there are some."""
    rows = [row for row in comparison if row.ours and row.quantity == LOSS]
    return plotting.dots(
        {f"{row.label}, {row.iterations}{' *' if row.note else ''}": np.array(row.ours) for row in rows},
        np.array([row.published for row in rows]),
        "running-mean loss (mean squared error)",
        ("ours, each seed", "published"),
        "Published losses beside ours; * where the notebook has two",
    )
