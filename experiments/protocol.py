"""Is the comparison fair? What a careful reader would hold against it, in words."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from segjax.statistics import Estimate

FEWEST_SEEDS = 5


def few_seeds(count: int) -> list[str]:
    if count >= FEWEST_SEEDS:
        return []
    seeds = "one seed gives" if count == 1 else f"{count} seeds give"
    return [f"{seeds} little more than an anecdote; compare over at least {FEWEST_SEEDS}."]


def edges(edges: Mapping[str, str | None]) -> list[str]:
    """optimizer -> the edge of its grid at which its best rate lies, if any."""
    return [
        f"The best rate of {name} is the {edge} of its grid: a better one may lie beyond, and it be judged too hard."
        for name, edge in edges.items()
        if edge
    ]


def overlaps(quantity: str, estimates: Mapping[str, Estimate], higher_is_better: bool) -> list[str]:
    """Neighbours in the ranking by a quantity whose intervals overlap; an interval that is NaN overlaps with all."""
    ranked = sorted(estimates, key=lambda name: float(estimates[name].value), reverse=higher_is_better)
    unsettled = []
    for first, second in pairwise(ranked):
        apart = (
            estimates[second].high < estimates[first].low
            if higher_is_better
            else estimates[first].high < estimates[second].low
        )
        if not apart:
            unsettled.append(f"{first} before {second}")
    if not unsettled:
        return []
    return [f"In the ranking by {quantity} the intervals overlap: {', '.join(unsettled)}; see the paired differences."]


def budgets(steps: Mapping[str, int]) -> list[str]:
    """optimizer -> steps of training spent on its tuning."""
    if len(set(steps.values())) < 2:
        return []
    spent = ", ".join(f"{name} {count}" for name, count in steps.items())
    return [f"The budgets of tuning are unequal (steps): {spent}."]


def diverged(counts: Mapping[str, int], seeds: int) -> list[str]:
    """optimizer -> runs of the comparison that diverged."""
    lost = ", ".join(f"{name} {count} of {seeds}" for name, count in counts.items() if count)
    return [f"Runs diverged: {lost}. They are in no mean, and lose their pairs."] if lost else []


def reused(tuning_seeds: Sequence[int], seeds: Sequence[int]) -> list[str]:
    common = sorted(set(tuning_seeds) & set(seeds))
    if not common:
        return []
    names = ", ".join(map(str, common))
    return [f"Seeds that chose the rates are compared as well, which flatters the choice: {names}."]
