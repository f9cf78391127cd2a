"""Which rates are tried for which optimizer, and which of them is its best."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.lab import names
from experiments.lab.names import exact
from experiments.lab.options import Training
from experiments.lab.report import Table
from experiments.lab.runs import Run
from experiments.lab.scores import Arm
from segjax import plotting, statistics
from segjax.checks import check_positive


class Candidate(NamedTuple):
    """An optimizer, by a name that `names.optimizer` knows, and its grid of rates, lowest first."""

    optimizer: str
    rates: tuple[float, ...]


class Best(NamedTuple):
    """The rate of the lowest loss, and whether it is the "lowest" or "highest" of its grid; None where none is left."""

    rate: float | None
    loss: float | None
    edge: str | None


class Grid(NamedTuple):
    """What tuning found.

    Attributes:
        rates: (rates,), all that were tried, in ascending order.
        losses: optimizer -> (seeds, rates), the mean loss of the last tenth of each run, NaN where it was not made.
        diverged: optimizer -> (seeds, rates), whether the run diverged.
        best: optimizer -> the best of its rates.
    """

    rates: np.ndarray
    losses: dict[str, np.ndarray]
    diverged: dict[str, np.ndarray]
    best: dict[str, Best]

    @property
    def document(self) -> dict[str, Any]:
        """What results.json holds of it."""
        return {name: best._asdict() for name, best in self.best.items()}


def candidates(texts: Sequence[str], rates: Sequence[float]) -> list[Candidate]:
    """From `--optimizers`: NAME or NAME(OPTION=VALUE,...), which is given `rates`, or the same with =RATE,RATE,...

    Raises:
        ValueError, TypeError: naming the option, and what is wrong with it.
    """
    _check_rates("--rates", rates)
    chosen = []
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"--optimizers must be names, got {text!r:.60}")
        # Options in brackets have equals signs of their own.
        options = text.rfind(")") + 1
        end, equals, given = text[options:].partition("=")
        name = text[:options] + end
        try:
            names.optimizer(name)
            own = tuple(float(rate) for rate in given.split(",")) if equals else tuple(rates)
        except ValueError as error:
            raise ValueError(f"--optimizers {text}: {error}") from error
        _check_rates(f"--optimizers {name}=", own)
        chosen.append(Candidate(name, tuple(sorted(own))))
    if not chosen or len({candidate.optimizer for candidate in chosen}) < len(chosen):
        raise ValueError("--optimizers must be different optimizers, at least one")
    return chosen


def plan(candidates: Iterable[Candidate], seeds: Sequence[int], options: Training) -> list[Run]:
    """Every candidate at every rate of its grid, over the seeds."""
    return [
        options.run(seed, optimizer=name, learning_rate=rate)
        for name, rates in candidates
        for rate in rates
        for seed in seeds
    ]


def grid(arms: Iterable[Arm]) -> Grid:
    """From an arm for each optimizer at each rate."""
    arms = list(arms)
    rates = sorted({arm.run.learning_rate for arm in arms})
    names = dict.fromkeys(arm.run.optimizer for arm in arms)
    seeds = max(len(arm.results) for arm in arms)
    losses = {name: np.full((seeds, len(rates)), np.nan) for name in names}
    diverged = {name: np.zeros((seeds, len(rates)), bool) for name in names}
    for arm in arms:
        place = rates.index(arm.run.learning_rate)
        losses[arm.run.optimizer][:, place] = arm.values("final_loss")
        diverged[arm.run.optimizer][:, place] = arm.diverged
    best = {name: best_rate(np.array(rates), losses[name], diverged[name]) for name in names}
    return Grid(np.array(rates), losses, diverged, best)


def best_rate(rates: np.ndarray, losses: np.ndarray, diverged: np.ndarray) -> Best:
    """The rate of the lowest mean loss among those at which no seed diverged, and whether it is an edge of the grid."""
    tried = np.flatnonzero(np.isfinite(losses).any(axis=0) | diverged.any(axis=0))
    # A rate that fails in one seed of three is no rate to recommend.
    means = np.where(diverged.any(axis=0), np.nan, losses.mean(axis=0))
    if not np.isfinite(means).any():
        return Best(None, None, None)
    place = int(np.nanargmin(means))
    edge = "lowest" if place == tried[0] else "highest" if place == tried[-1] else None
    return Best(float(rates[place]), float(means[place]), edge)


def range_figure(grid: Grid, title: str) -> Figure:
    """Loss against rate, with the range over the seeds."""
    return plotting.sensitivity(grid.rates, grid.losses, grid.diverged, "mean loss, last tenth", title)


def interval_figure(grid: Grid, title: str) -> Figure:
    """Loss against rate, with the interval of its mean over the seeds where none diverged."""
    kept = {name: np.where(grid.diverged[name].any(axis=0), np.nan, losses) for name, losses in grid.losses.items()}
    bands = {name: statistics.band(losses) for name, losses in kept.items()}
    title = f"{title}: mean and its 95 % interval"
    return plotting.sensitivity(grid.rates, grid.losses, grid.diverged, "mean loss, last tenth", title, bands)


def table(candidates: Sequence[Candidate], grid: Grid, steps: int, seeds: str) -> Table:
    """The best rate of each candidate, and the steps that it cost, so many a rate."""
    rows = []
    for name, rates in candidates:
        best, lost, tried = grid.best[name], int(grid.diverged[name].sum()), ", ".join(map(exact, rates))
        edge = f"{best.edge} of its grid" if best.edge else ""
        rows.append([name, f"{best.rate:g}", f"{best.loss:.4f}", f"{lost}", f"{steps * len(rates)}", edge, tried])
    headings = ("", "best rate", "loss, last tenth", "runs diverged", "steps spent", "edge", "grid")
    return Table("Each at its own rate", headings, rows, f"Seeds of the tuning: {seeds}.")


def _check_rates(option: str, rates: Sequence[float]) -> None:
    for rate in rates:
        check_positive(option, rate)
    if not rates or len(set(rates)) < len(rates):
        raise ValueError(f"{option} must be different numbers > 0")
