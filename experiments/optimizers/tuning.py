"""Which rates are tried for which optimizer, and what they give."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from experiments.lab import import_paths, names
from experiments.lab.arms import Arm, Arms
from experiments.lab.names import exact
from experiments.lab.options import Trained
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Table
from segjax import OPTIMIZERS, plotting, statistics
from segjax._checks import check_positive
from segjax.statistics import Best

# The smallest and the largest rate that float32 holds with all its digits.
_LEAST, _MOST = (float(getattr(np.finfo(np.float32), name)) for name in ("tiny", "max"))
# Rates that an extended search may add on one side.
MOST_ADDED = 3


class Candidate(NamedTuple):
    """An optimizer that is tried.

    Attributes:
        label: its name in tables and figures.
        optimizer: as `import_paths.optimizer` takes it.
        rates: lowest first.
    """

    label: str
    optimizer: str
    rates: tuple[float, ...]

    def arm(self, rate: float) -> str:
        """The label of its runs at a rate; a ready transformation has its own rate, which nobody knows."""
        is_ready = isinstance(import_paths.optimizer(self.optimizer), import_paths.Ready)
        return self.label if is_ready else f"{self.label} {exact(rate)}"


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
    def without_rate(self) -> list[str]:
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
    chosen = [_candidate(text, rates) for text in texts]
    if not chosen or len({candidate.label for candidate in chosen}) < len(chosen):
        raise ValueError("--optimizers must be different, at least one; the same one twice takes a label: again=NAME")
    arms = {candidate.arm(rate): candidate.label for candidate in chosen for rate in candidate.rates}
    for candidate in chosen:
        if (other := arms.get(candidate.label, candidate.label)) != candidate.label:
            raise ValueError(
                f"--optimizers: the label {candidate.label} is also what {other} is called at one of its rates"
            )
    return chosen


def _candidate(text: str, rates: Sequence[float]) -> Candidate:
    label, known = _labelled(text)
    # Options in brackets have equals signs of their own.
    options = known.rfind(")") + 1
    end, equals, rates_text = known[options:].partition("=")
    name = known[:options] + end
    try:
        is_ready = isinstance(import_paths.optimizer(name), import_paths.Ready)
        label = names.check_label(name if label is None else label)
        if label in OPTIMIZERS and label != name:
            raise ValueError(f"the label {label} is the name of another optimizer")
        if is_ready and equals:
            raise ValueError("it is a ready transformation, which has its rate already: give it none")
        grid = tuple(float(rate) for rate in rates_text.split(",")) if equals else tuple(rates)
    except ValueError as error:
        raise ValueError(f"--optimizers {text}: {error}") from error
    if is_ready:
        return Candidate(label, name, (import_paths.Ready.RATE,))
    check_rates(f"--optimizers {name}=", grid)
    # Only the largest rate of a grid must make progress.
    import_paths.check_moves(f"--optimizers {text}", name, max(grid))
    return Candidate(label, name, tuple(sorted(grid)))


def _labelled(text: str) -> tuple[str | None, str]:
    """LABEL=NAME... -> LABEL and NAME...; NAME=RATE has none."""
    label, equals, rest = text.partition("=")
    name = rest.partition("(")[0].partition("=")[0]
    if not equals or "(" in label or not (":" in name or name in OPTIMIZERS):
        return None, text
    return label, rest


def train(candidates: Sequence[Candidate], seeds: Iterable[int], options: Trained, lab: Lab) -> dict[str, Arms]:
    """Trains every candidate at every rate of its grid, over the seeds: label -> an arm for each rate."""
    seeds = list(seeds)
    runs = [
        options.run(seed, optimizer=candidate.optimizer, learning_rate=rate)
        for candidate in candidates
        for rate in candidate.rates
        for seed in seeds
    ]
    # Reversed, so that the first label of an optimizer counts.
    labels = {candidate.optimizer: candidate.label for candidate in reversed(candidates)}
    results = iter(lab.train(runs, labels=labels))
    return {
        candidate.label: {
            name: Arm(name, tuple(islice(results, len(seeds)))) for name in map(candidate.arm, candidate.rates)
        }
        for candidate in candidates
    }


def search(
    candidates: Sequence[Candidate], seeds: Iterable[int], options: Trained, lab: Lab, extend: bool
) -> dict[str, Arms]:
    """`train`, and with `extend` also at rates beyond an edge of a grid while the best rate is one."""
    trials = train(candidates, seeds, options, lab)
    tried = list(candidates)
    while extend and (beyond := extension(grid(trials), candidates)):
        for label, rate in beyond.items():
            edge = grid(trials).best[label].rate is not None
            why = "the best rate of {} is an edge of its grid" if edge else "some seed of {} diverged at every rate"
            lab.say(f"{why.format(label)}: trying {rate:g}")
        tried = [
            candidate._replace(rates=tuple(sorted([*candidate.rates, beyond[candidate.label]])))
            if candidate.label in beyond
            else candidate
            for candidate in tried
        ]
        # Rates that are trained already are read.
        trials = train(tried, seeds, options, lab)
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
    """What the trials of `train` say of each rate; at least one trial."""
    arms = [(label, arm) for label, by_name in trials.items() for arm in by_name.values()]
    rates = sorted({arm.run.learning_rate for _, arm in arms})
    seeds = max(len(arm.results) for _, arm in arms)
    losses = {label: np.full((seeds, len(rates)), np.nan) for label in trials}
    diverged = {label: np.zeros((seeds, len(rates)), bool) for label in trials}
    for label, arm in arms:
        place = rates.index(arm.run.learning_rate)
        losses[label][:, place] = arm.values("final_loss")
        diverged[label][:, place] = arm.diverged
    best = {label: statistics.best_rate(rates, losses[label], diverged[label]) for label in trials}
    return Grid(np.array(rates), losses, diverged, best)


def drawing(grid: Grid, title: str) -> Drawing:
    """Loss against rate, with the range over the seeds."""
    # Those that are compared keep the colours of the other figures.
    order = sorted(grid.losses, key=lambda label: label in grid.without_rate)
    losses, diverged = ({label: numbers[label] for label in order} for numbers in (grid.losses, grid.diverged))
    figure = plotting.sensitivity(grid.rates, losses, diverged, "mean loss, last tenth", title)
    return Drawing("Loss against learning rate", figure)


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
