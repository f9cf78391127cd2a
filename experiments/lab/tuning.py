"""Which rates are tried for which optimizer, and what they give."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape

from experiments.lab import names, processes
from experiments.lab.names import exact
from experiments.lab.options import Training
from experiments.lab.report import Table
from experiments.lab.runs import Result, Run
from experiments.lab.scores import Arm, Arms
from segjax import OPTIMIZERS, plotting, statistics
from segjax._checks import check_positive
from segjax.statistics import Best

# The smallest and the largest rate that float32 holds with all its digits.
_LEAST, _MOST = (float(getattr(np.finfo(np.float32), name)) for name in ("tiny", "max"))
# Rates that an extended search may add on one side.
MOST_ADDED = 3


class Candidate(NamedTuple):
    """An optimizer, by a name that `names.optimizer` knows, what people call it, and its rates, lowest first."""

    label: str
    optimizer: str
    rates: tuple[float, ...]

    def arm(self, rate: float) -> str:
        """What its runs at a rate are called."""
        return f"{self.label} {exact(rate)}"


class Grid(NamedTuple):
    """What tuning found.

    Attributes:
        rates: (rates,), all that were tried, in ascending order.
        losses: label -> (seeds, rates), the mean loss of the last tenth of each run, NaN where it was not made.
        diverged: label -> (seeds, rates), whether the run diverged.
        best: label -> the best of its rates.
    """

    rates: np.ndarray
    losses: dict[str, np.ndarray]
    diverged: dict[str, np.ndarray]
    best: dict[str, Best]

    @property
    def lost(self) -> list[str]:
        """The labels of those without a best rate: some seed diverged at each."""
        return [label for label, best in self.best.items() if best.rate is None]

    @property
    def document(self) -> dict[str, Any]:
        """What results.json holds of it."""
        return {name: best._asdict() for name, best in self.best.items()}


def candidates(texts: Sequence[str], rates: Sequence[float]) -> list[Candidate]:
    """From `--optimizers`: [LABEL=]NAME[(OPTION=VALUE,...)][=RATE,RATE,...]; without rates of its own it has `rates`.

    Without a label it is called by its name.

    Raises:
        ValueError, TypeError: naming the option, and what is wrong with it.
    """
    check_rates("--rates", rates)
    chosen = []
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"--optimizers must be names, got {text!r:.60}")
        label, known = _labelled(text)
        # Options in brackets have equals signs of their own.
        options = known.rfind(")") + 1
        end, equals, given = known[options:].partition("=")
        name = known[:options] + end
        try:
            names.optimizer(name)
            label = names.check_label(name if label is None else label)
            if label in OPTIMIZERS and label != name:
                raise ValueError(f"the label {label} is the name of another optimizer")
            own = tuple(float(rate) for rate in given.split(",")) if equals else tuple(rates)
        except ValueError as error:
            raise ValueError(f"--optimizers {text}: {error}") from error
        check_rates(f"--optimizers {name}=", own)
        # Of a grid the low end may stand still.
        names.check_moves(f"--optimizers {text}", name, max(own))
        chosen.append(Candidate(label, name, tuple(sorted(own))))
    if not chosen or len({candidate.label for candidate in chosen}) < len(chosen):
        raise ValueError("--optimizers must be different, at least one; the same one twice takes a label: again=NAME")
    arms = {candidate.arm(rate): candidate.label for candidate in chosen for rate in candidate.rates}
    for label, _, _ in chosen:
        if arms.get(label, label) != label:
            raise ValueError(
                f"--optimizers: the label {label} is also what {arms[label]} is called at one of its rates"
            )
    return chosen


def _labelled(text: str) -> tuple[str | None, str]:
    """LABEL=NAME... -> LABEL and NAME...; NAME=RATE has none."""
    label, equals, rest = text.partition("=")
    name = rest.partition("(")[0].partition("=")[0]
    if not equals or "(" in label or not (":" in name or name in OPTIMIZERS):
        return None, text
    return label, rest


def label(candidates: Iterable[Candidate], optimizer: str) -> str:
    """What people call an optimizer: the first label that stands for it."""
    return next((candidate.label for candidate in candidates if candidate.optimizer == optimizer), optimizer)


def plan(candidates: Iterable[Candidate], seeds: Sequence[int], options: Training) -> list[Run]:
    """Every candidate at every rate of its grid, over the seeds."""
    return [
        options.run(seed, optimizer=optimizer, learning_rate=rate)
        for _, optimizer, rates in candidates
        for rate in rates
        for seed in seeds
    ]


def trials(candidates: Iterable[Candidate], results: Iterable[Result], seeds: int) -> dict[str, Arms]:
    """label -> an arm for each of its rates; the results are those of `plan` over so many seeds, in its order."""
    following = iter(results)
    return {
        candidate.label: {
            name: Arm(name, tuple(islice(following, seeds))) for name in map(candidate.arm, candidate.rates)
        }
        for candidate in candidates
    }


def search(
    candidates: list[Candidate], train: Callable[[list[Candidate]], dict[str, Arms]], extend: bool, console: Console
) -> dict[str, Arms]:
    """The trials of the candidates, and, where that is asked for, of rates beyond an edge while the best is one.

    Args:
        train: candidates -> their trials; of several processes one alone has any.
    """
    given, trials = candidates, train(candidates)
    while extend:
        beyond = extension(grid(trials), given) if trials else {}
        # All processes must train the rates that one of them chose.
        rates = processes.broadcast(np.array([beyond.get(it.label, np.nan) for it in candidates])).tolist()
        if np.isnan(rates).all():
            break
        for label, rate in beyond.items():
            found = grid(trials).best[label].rate
            why = "the best rate of {} is an edge of its grid" if found else "some seed of {} diverged at every rate"
            console.print(f"{why.format(escape(label))}: trying {rate:g}")
        candidates = [
            own if np.isnan(rate) else own._replace(rates=tuple(sorted([*own.rates, rate])))
            for own, rate in zip(candidates, rates, strict=True)
        ]
        trials = train(candidates)
    return trials


def extension(grid: Grid, given: Iterable[Candidate]) -> dict[str, float]:
    """The next rate to try of each whose best is an edge: as far beyond it as the edge is from its neighbour."""
    beyond = {}
    for label, _, rates in given:
        tried = grid.rates[np.isfinite(grid.losses[label]).any(axis=0) | grid.diverged[label].any(axis=0)]
        # Where some seed diverged at every rate, lower ones are what is left.
        edge = grid.best[label].edge if grid.best[label].rate else "lowest"
        if edge is None or len(tried) < 2:
            continue
        lowest = edge == "lowest"
        added = sum(tried < min(rates)) if lowest else sum(tried > max(rates))
        if added < MOST_ADDED:
            next_one = tried[0] ** 2 / tried[1] if lowest else tried[-1] ** 2 / tried[-2]
            rate = float(f"{next_one:.6g}")
            # Beyond rates that differ in the seventh digit lies nothing new, and none beyond float32.
            if (rate < tried[0] or rate > tried[-1]) and _LEAST <= rate <= _MOST:
                beyond[label] = rate
    return beyond


def grid(trials: Mapping[str, Arms]) -> Grid:
    """From `trials`, at least one."""
    arms = {label: list(own.values()) for label, own in trials.items()}
    rates = sorted({arm.run.learning_rate for own in arms.values() for arm in own})
    seeds = max(len(arm.results) for own in arms.values() for arm in own)
    losses = {label: np.full((seeds, len(rates)), np.nan) for label in arms}
    diverged = {label: np.zeros((seeds, len(rates)), bool) for label in arms}
    for label, arm in ((label, arm) for label, own in arms.items() for arm in own):
        place = rates.index(arm.run.learning_rate)
        losses[label][:, place] = arm.values("final_loss")
        diverged[label][:, place] = arm.diverged
    best = {label: statistics.best_rate(rates, losses[label], diverged[label]) for label in arms}
    return Grid(np.array(rates), losses, diverged, best)


def range_figure(grid: Grid, title: str) -> Figure:
    """Loss against rate, with the range over the seeds."""
    # Those that are compared keep the colours of the other figures.
    order = sorted(grid.losses, key=lambda label: label in grid.lost)
    losses, diverged = ({label: own[label] for label in order} for own in (grid.losses, grid.diverged))
    return plotting.sensitivity(grid.rates, losses, diverged, "mean loss, last tenth", title)


def table(trials: Mapping[str, Arms], grid: Grid, steps: int, seeds: str) -> Table:
    """The best rate of each that was tuned, and the steps that it cost, so many a rate."""
    rows = []
    for label, arms in trials.items():
        best, lost = grid.best[label], int(grid.diverged[label].sum())
        tried = ", ".join(exact(arm.run.learning_rate) for arm in arms.values())
        edge = f"{best.edge} of its grid" if best.edge else ""
        found = ["none", ""] if best.rate is None else [f"{best.rate:g}", f"{best.loss:.4f}"]
        rows.append([label, *found, f"{lost}", f"{steps * len(arms)}", edge, tried])
    headings = ("", "best rate", "loss, last tenth", "runs diverged", "steps spent", "edge", "grid")
    return Table("Each at its own rate", headings, rows, f"Seeds of the tuning: {seeds}.")


def check_rates(option: str, rates: Sequence[float]) -> None:
    """Raises ValueError or TypeError naming the option, unless they are different numbers > 0."""
    for rate in rates:
        check_positive(option, rate)
    if not rates or len(set(rates)) < len(rates):
        raise ValueError(f"{option} must be different numbers > 0")
