"""Tuning of learning rates: the candidates, their grids of rates, and the best rate of each."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import numpy as np

from experiments.lab import import_paths
from experiments.lab.arms import Arm, Arms
from experiments.lab.names import exact
from experiments.lab.options import Trained
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Table
from experiments.optimizers import trials
from segjax import OPTIMIZERS, plotting, statistics
from segjax._checks import check_positive
from segjax.statistics import Best

# The smallest normal and the largest float32.
_LEAST, _MOST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
# In bytes, since labels are part of file names.
_LONGEST_LABEL = 200
# Most rates that an extended search adds on one side.
MOST_ADDED = 3


class Candidate(NamedTuple):
    """An optimizer and its grid of rates.

    Attributes:
        label: name in tables and figures.
        optimizer: name for `import_paths.optimizer`.
        rates: in ascending order.
    """

    label: str
    optimizer: str
    rates: tuple[float, ...]

    def arm(self, rate: float) -> str:
        """The label of its runs at a rate; without the rate for a ready transformation, whose rate is unknown."""
        is_ready = isinstance(import_paths.optimizer(self.optimizer), import_paths.Ready)
        return self.label if is_ready else f"{self.label} {exact(rate)}"


@dataclass(frozen=True)
class Grid:
    """The results of tuning: label -> an arm for each rate of its grid."""

    trials: Mapping[str, Arms]

    @property
    def arms(self) -> Arms:
        """Name -> arm of all labels."""
        return {name: arm for arms in self.trials.values() for name, arm in arms.items()}

    @cached_property
    def rates(self) -> np.ndarray:
        """(rates,) of all optimizers, in ascending order."""
        return np.array(sorted({arm.run.learning_rate for arm in self.arms.values()}))

    @cached_property
    def losses(self) -> dict[str, np.ndarray]:
        """label -> (seeds, rates) mean loss of the last tenth of each run; NaN if there is no run."""
        return self._by_rate(lambda arm: arm.values("final_loss"), np.nan)

    @cached_property
    def diverged(self) -> dict[str, np.ndarray]:
        """label -> (seeds, rates) whether the run diverged."""
        return self._by_rate(lambda arm: arm.diverged, False)

    @cached_property
    def best(self) -> dict[str, Best]:
        """label -> its best rate."""
        return {
            label: statistics.best_rate(self.rates, losses, self.diverged[label])
            for label, losses in self.losses.items()
        }

    @property
    def steps(self) -> dict[str, int]:
        """label -> training steps of all its runs."""
        return {
            label: sum(arm.run.iterations * len(arm.results) for arm in arms.values())
            for label, arms in self.trials.items()
        }

    @property
    def without_rate(self) -> list[str]:
        """The labels without a best rate, since some seed diverged at each rate."""
        return [label for label, best in self.best.items() if best.rate is None]

    def _by_rate(self, numbers: Callable[[Arm], np.ndarray], missing: float) -> dict[str, np.ndarray]:
        by_label = {}
        for label, arms in self.trials.items():
            columns = {arm.run.learning_rate: numbers(arm) for arm in arms.values()}
            absent = np.full_like(next(iter(columns.values())), missing)
            by_label[label] = np.stack([columns.get(rate, absent) for rate in self.rates], axis=1)
        return by_label


def candidates(texts: Sequence[str], rates: Sequence[float]) -> list[Candidate]:
    """Parses `--optimizers`: [LABEL=]NAME[(OPTION=VALUE,...)][=RATE,RATE,...].

    The label is the name by default, and the grid is `rates`.

    Raises:
        ValueError, TypeError: naming the option and its fault.
    """
    check_rates("--rates", rates)
    parsed = [_candidate(text, rates) for text in texts]
    if not parsed or len({candidate.label for candidate in parsed}) < len(parsed):
        raise ValueError("--optimizers must be different, at least one; the same one twice takes a label: again=NAME")
    arms = {candidate.arm(rate): candidate.label for candidate in parsed for rate in candidate.rates}
    for candidate in parsed:
        if (other := arms.get(candidate.label, candidate.label)) != candidate.label:
            raise ValueError(
                f"--optimizers: the label {candidate.label} is also what {other} is called at one of its rates"
            )
    return parsed


def _candidate(text: str, rates: Sequence[float]) -> Candidate:
    label, rest = _split_label(text)
    # Options in brackets have equals signs of their own.
    options_end = rest.rfind(")") + 1
    name_end, equals, rates_text = rest[options_end:].partition("=")
    name = rest[:options_end] + name_end
    try:
        is_ready = isinstance(trials.optimizer(name), import_paths.Ready)
        label = check_label(name if label is None else label)
        if label in OPTIMIZERS and label != name:
            raise ValueError(f"the label {label} is the name of another optimizer")
        if is_ready and equals:
            raise ValueError("it is a ready transformation, which has its rate already: give it none")
        grid = _rates(rates_text) if equals else tuple(rates)
    except ValueError as error:
        raise ValueError(f"--optimizers {text}: {error}") from error
    if is_ready:
        return Candidate(label, name, (import_paths.Ready.RATE,))
    check_rates(f"--optimizers {name}=", grid)
    # Only the largest rate of a grid must make progress.
    trials.check_moves(f"--optimizers {text}", name, max(grid))
    return Candidate(label, name, tuple(sorted(grid)))


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise ValueError(f"rates must be different numbers > 0, got {text!r:.60}") from None


def _split_label(text: str) -> tuple[str | None, str]:
    """Splits LABEL=NAME... into LABEL and NAME...; the label is None for NAME and NAME=RATE."""
    label, equals, rest = text.partition("=")
    name = rest.partition("(")[0].partition("=")[0]
    if not equals or "(" in label or not (":" in name or name in OPTIMIZERS):
        return None, text
    return label, rest


def train(candidates: Sequence[Candidate], seeds: Iterable[int], options: Trained, lab: Lab) -> dict[str, Arms]:
    """Trains every candidate at every rate of its grid over the seeds: label -> one arm for each rate."""
    seeds = list(seeds)
    runs = [
        options.run(seed, optimizer=candidate.optimizer, learning_rate=rate)
        for candidate in candidates
        for rate in candidate.rates
        for seed in seeds
    ]
    # Reversed, so that the first label of an optimizer wins.
    labels = {candidate.optimizer: candidate.label for candidate in reversed(candidates)}
    results = iter(lab.train(runs, labels=labels))
    return {
        candidate.label: {
            name: Arm(name, tuple(islice(results, len(seeds)))) for name in map(candidate.arm, candidate.rates)
        }
        for candidate in candidates
    }


def search(candidates: Sequence[Candidate], seeds: Iterable[int], options: Trained, lab: Lab, extend: bool) -> Grid:
    """The grid after `train`; with `extend`, also with rates beyond an edge, as long as the best rate is that edge."""
    if not candidates:
        return Grid({})
    extended = {candidate.label: candidate for candidate in candidates}
    grid = Grid(train(candidates, seeds, options, lab))
    while extend and (beyond := extension(grid, candidates)):
        for label, rate in beyond.items():
            reason = f"the best rate of {label} is an edge of its grid"
            if label in grid.without_rate:
                reason = f"some seed of {label} diverged at every rate"
            lab.say(f"{reason}: trying {rate:g}")
            rates = tuple(sorted([*extended[label].rates, rate]))
            extended[label] = extended[label]._replace(rates=rates)
        # Finished runs are read from the folder.
        grid = Grid(train(list(extended.values()), seeds, options, lab))
    return grid


def extension(grid: Grid, candidates: Iterable[Candidate]) -> dict[str, float]:
    """label -> the next rate beyond an edge that is the best rate; `candidates` have the grids before any extension."""
    beyond = {}
    for label, _, rates in candidates:
        trained = grid.rates[np.isfinite(grid.losses[label]).any(axis=0) | grid.diverged[label].any(axis=0)]
        # If some seed diverged at every rate, only lower ones are left.
        edge = grid.best[label].edge if grid.best[label].rate else "lowest"
        if edge is None or len(trained) < 2:
            continue
        lowest = edge == "lowest"
        num_added = sum(trained < min(rates)) if lowest else sum(trained > max(rates))
        # The edge and its neighbour have the same ratio as the next rate and the edge.
        edge_rate, neighbour = trained[[0, 1]] if lowest else trained[[-1, -2]]
        rate = float(f"{edge_rate**2 / neighbour:.6g}")
        # Rounding may undo the step if the rates differ only in the seventh digit.
        is_beyond = rate < edge_rate if lowest else rate > edge_rate
        if num_added < MOST_ADDED and is_beyond and _LEAST <= rate <= _MOST:
            beyond[label] = rate
    return beyond


def drawing(grid: Grid, title: str, order: Sequence[str] = ()) -> Drawing:
    """Loss against rate, with the range over the seeds; `order` has all names of the report, see `plotting`."""
    ylabel = "mean loss, last tenth"
    figure = plotting.sensitivity(grid.rates, grid.losses, grid.diverged, ylabel, title, order=order)
    return Drawing("Loss against learning rate", figure)


def table(grid: Grid, seeds: str) -> Table:
    """One row per optimizer: its best rate, and the cost of its tuning."""
    rows = []
    for label, arms in grid.trials.items():
        best, num_diverged = grid.best[label], int(grid.diverged[label].sum())
        rates = ", ".join(exact(arm.run.learning_rate) for arm in arms.values())
        edge = f"{best.edge} of its grid" if best.edge else ""
        result = ["none", ""] if best.rate is None else [f"{best.rate:g}", f"{best.loss:.4f}"]
        rows.append([label, *result, f"{num_diverged}", f"{grid.steps[label]}", edge, rates])
    headings = ("", "best rate", "loss, last tenth", "runs diverged", "steps spent", "edge", "grid")
    return Table("Each at its own rate", headings, rows, f"Seeds of the tuning: {seeds}.")


def check_label(label: str) -> str:
    """Returns `label`; raises a ValueError if it cannot stand in tables, figures and file names."""
    # matplotlib reads dollars as formulas, and omits labels with a leading underscore from legends.
    odd = not label.isprintable() or label != label.strip() or label.startswith("_") or set(label) & set("/$")
    if not label or odd or len(os.fsencode(label)) > _LONGEST_LABEL:
        raise ValueError(
            f"a label must be words without a slash or a dollar, begin with no underscore, and have at most "
            f"{_LONGEST_LABEL} bytes, got {label!r:.60}"
        )
    return label


def check_rates(option: str, rates: Sequence[float]) -> None:
    """Raises ValueError or TypeError, naming the option, unless the rates are different numbers > 0."""
    for rate in rates:
        check_positive(option, rate)
    if not rates or len(set(rates)) < len(rates):
        raise ValueError(f"{option} must be different numbers > 0")
