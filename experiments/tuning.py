"""Which rates are tried for which optimizer, and which of them is its best."""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from rich.console import Console

from experiments import runs, settings, training
from experiments.runs import Result, Run
from segjax.checks import check_positive
from segjax.optimizers import by_name


class Candidate(NamedTuple):
    """An optimizer, by a name that `segjax.optimizers.by_name` knows, and its grid of rates, lowest first."""

    optimizer: str
    rates: tuple[float, ...]


class Best(TypedDict):
    """The rate of the lowest loss, and whether it is the "lowest" or "highest" of its grid; None where none is left."""

    rate: float | None
    loss: float | None
    edge: str | None


def candidates(texts: Sequence[str], rates: Sequence[float]) -> list[Candidate]:
    """From `--optimizers`: NAME, which is given `rates`, or NAME=RATE,RATE,...

    Raises:
        ValueError, TypeError: naming the option, and what is wrong with it.
    """
    _check_rates("--rates", rates)
    chosen = []
    for text in texts:
        name, equals, given = text.partition("=")
        try:
            by_name(name)
            own = tuple(float(rate) for rate in given.split(",")) if equals else tuple(rates)
        except ValueError as error:
            raise ValueError(f"--optimizers: {error}") from error
        _check_rates(f"--optimizers {name}=", own)
        chosen.append(Candidate(name, tuple(sorted(own))))
    if not chosen or len({candidate.optimizer for candidate in chosen}) < len(chosen):
        raise ValueError("--optimizers must be different optimizers, at least one")
    return chosen


def _check_rates(flag: str, rates: Sequence[float]) -> None:
    for rate in rates:
        check_positive(flag, rate)
    if not rates or len(set(rates)) < len(rates):
        raise ValueError(f"{flag} must be different numbers > 0")


def train_grid(
    candidates: Sequence[Candidate], seeds: Sequence[int], options: settings.Training, console: Console
) -> list[Result]:
    """Every candidate at every rate of its grid, over the seeds."""
    planned = [
        run_of(candidate.optimizer, rate, seed, options)
        for candidate in candidates
        for rate in candidate.rates
        for seed in seeds
    ]
    return training.train_all(planned, options, console)


def run_of(optimizer: str, rate: float, seed: int, options: settings.Training) -> Run:
    return Run(f"{optimizer} {rate:g}", seed, optimizer, rate, options.iterations, options.schedule)


def grid(results: Sequence[Result]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """optimizer -> (seeds, rates) of final losses, NaN where a rate was not tried; the same of what diverged; rates."""
    rates = sorted({result.run.learning_rate for result in results})
    seeds = sorted({result.run.seed for result in results})
    names = list(dict.fromkeys(result.run.optimizer for result in results))
    losses = {name: np.full((len(seeds), len(rates)), np.nan) for name in names}
    diverged = {name: np.zeros((len(seeds), len(rates)), bool) for name in names}
    for result in results:
        place = seeds.index(result.run.seed), rates.index(result.run.learning_rate)
        losses[result.run.optimizer][place] = runs.final_loss(np.asarray(result.history.loss))
        diverged[result.run.optimizer][place] = runs.diverged_at(np.asarray(result.history.loss)) is not None
    return losses, diverged, np.array(rates)


def best_rate(rates: np.ndarray, losses: np.ndarray, diverged: np.ndarray) -> Best:
    """The rate of the lowest mean loss among those at which no seed diverged, and whether it is an edge of the grid."""
    tried = np.flatnonzero(np.isfinite(losses).any(axis=0) | diverged.any(axis=0))
    means = np.where(diverged.any(axis=0), np.nan, losses.mean(axis=0))
    if not np.isfinite(means).any():
        return {"rate": None, "loss": None, "edge": None}
    place = int(np.nanargmin(means))
    edge = "lowest" if place == tried[0] else "highest" if place == tried[-1] else None
    return {"rate": float(rates[place]), "loss": float(means[place]), "edge": edge}
