"""How much of a result is rounding? The same comparison under several roundings, beside the spread between seeds.

    python -m experiments.compare_roundings --results results/rounding/*/results.json

The files are results of `experiments.compare_optimizers` with the same options, from processes that round otherwise:
the convolution in C++ or XLA's (SEGJAX_NATIVE=0), another number of cores (taskset), another --width. docs/rounding.md
has the commands. Everything else must be equal, so that runs of one seed differ by rounding alone, which training
amplifies. Seconds.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from experiments.lab import question
from experiments.lab.arms import COLUMNS, Column
from experiments.lab.folder import read_document
from experiments.lab.names import exact
from experiments.lab.options import CHANGE_NO_RESULT, Command
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report, Table
from experiments.optimizers import contest
from experiments.optimizers.baseline import NotNegative, Share, refusals
from segjax import plotting, statistics

# The loss chooses rates, and the IoU decides between optimizers.
LOSS, IOU = COLUMNS["final_loss"], COLUMNS["iou"]


@dataclass(frozen=True, kw_only=True)
class Options(Command):
    """Compares results that differ by rounding alone."""

    results: tuple[Path, ...] = ()  # results.json of each rounding, at least two.
    out: Path = Path("results/compare_roundings")

    def inputs(self) -> list[Path]:
        return list(self.results)

    def check(self) -> None:
        super().check()
        if len(set(self.results)) < max(2, len(self.results)):
            raise ValueError("--results must be at least two different files")
        read(self.results)


PRESETS = {"full": Options()}


class Row(msgspec.Struct):
    """The fields of a run that are read; `final_loss` and `iou` as `LOSS` and `IOU` name them."""

    label: str
    optimizer: str
    learning_rate: float
    seed: int
    final_loss: NotNegative
    iou: Share
    diverged_at: int | None


class Results(msgspec.Struct):
    """The sections of a results.json that are read."""

    experiment: Literal["compare_optimizers"]
    options: dict[str, Any]
    reference: str
    runs: list[Row]

    @property
    def protocol(self) -> tuple[Any, ...]:
        """All that must be equal."""
        options = {name: value for name, value in self.options.items() if name not in (*CHANGE_NO_RESULT, "width")}
        return options, self.reference, [(row.label, row.optimizer, row.learning_rate, row.seed) for row in self.runs]


def read(paths: Sequence[Path]) -> list[Results]:
    """The results of each rounding.

    Raises:
        ValueError: naming the file that is no result of compare_optimizers, or has other runs than the first.
    """
    results: list[Results] = []
    for path in paths:
        with refusals("--results", path, "compare_optimizers"):
            results.append(msgspec.convert(read_document(path), Results))
        if results[-1].protocol != results[0].protocol:
            raise ValueError(f"--results {path} has other options or runs than {paths[0]}")
    return results


def answer(options: Options, lab: Lab) -> Report:
    results = read(options.results)
    labels, reference = list(dict.fromkeys(row.label for row in results[0].runs)), results[0].reference
    ious, losses = ({label: values(results, column, label) for label in labels} for column in (IOU, LOSS))
    by_rounding, by_seed = ({label: deviations(runs, axis) for label, runs in ious.items()} for axis in (0, 1))
    verdicts = verdict_counts(ious, reference)
    chosen = chosen_rates(results[0].runs, losses)
    roundings, seeds = next(iter(ious.values())).shape
    flipped = [f"{sum(len(counts) > 1 for counts in group.values())} of {len(group)}" for group in (verdicts, chosen)]
    spreads = np.array([[*map(typical, group.values())] for group in (by_rounding, by_seed)])
    known = spreads[:, np.isfinite(spreads).all(axis=0)]
    medians = [f"{np.median(values):.4f}" if values.size else "-" for values in known]
    findings = [
        f"Rounding moves the held-out IoU of a run by {medians[0]}, another seed by {medians[1]} (standard "
        f"deviations; median over {known.shape[1]} arms).",
        f"Under {roundings} roundings, {flipped[0]} verdicts against {reference} differ, and "
        f"{flipped[1]} choices of a rate ({seeds} seeds).",
    ]
    title = f"{roundings} roundings of {seeds} seeds"
    figure = plotting.dots(
        by_rounding,
        np.array([*map(typical, by_seed.values())]),
        f"standard deviation of the {IOU.title}",
        ("between roundings, one dot per seed", "between seeds"),
        title,
    )
    tables = [deviation_table(ious, by_rounding, by_seed, title)]
    for heading, counts in (
        ("Verdict by IoU", verdict_counts(ious, reference, with_numbers=True)),
        ("Rate of the lowest loss", chosen),
    ):
        rows = [[name, ", ".join(f"{value}: {n}" for value, n in each.most_common())] for name, each in counts.items()]
        tables += [Table(heading, ("", "number of roundings"), rows)] if rows else []  # Without rates to choose from.
    names = [path.parent.name for path in options.results]
    sections = {"roundings": names, "iou": ious, "verdicts": verdicts, "rates": chosen}
    csv_rows = [
        {"rounding": name, **msgspec.structs.asdict(row)}
        for name, document in zip(names, results, strict=True)
        for row in document.runs
    ]
    figures = {"deviations": Drawing("Rounding beside the seeds", figure)}
    return Report(findings, tables, figures, results=sections, rows=csv_rows, warnings=copies(names, results))


def copies(names: Sequence[str], results: Sequence[Results]) -> list[str]:
    """A warning for each rounding with the numbers of one before."""
    return [
        f"{name} has every number of a rounding before: it is a copy, or changes nothing here."
        for index, name in enumerate(names)
        if results[index].runs in [other.runs for other in results[:index]]
    ]


def values(results: Sequence[Results], column: Column, label: str) -> np.ndarray:
    """(roundings, seeds) values of an arm, NaN where a run diverged."""
    arms = [[row for row in document.runs if row.label == label] for document in results]
    return np.array(
        [[getattr(row, column.name) if row.diverged_at is None else np.nan for row in rows] for rows in arms]
    )


def deviations(runs: np.ndarray, axis: int) -> np.ndarray:
    """Standard deviations of (roundings, seeds) along an axis, where at least two runs did not diverge."""
    finite = [line[np.isfinite(line)] for line in (runs if axis else runs.T)]
    return np.array([np.std(line, ddof=1) for line in finite if len(line) > 1])


def typical(deviations: np.ndarray) -> float:
    """Root mean square of standard deviations; NaN for none."""
    return float(np.sqrt(np.mean(deviations**2))) if deviations.size else np.nan


def verdict_counts(
    ious: Mapping[str, np.ndarray], reference: str, with_numbers: bool = False
) -> dict[str, Counter[str]]:
    """label of a rival -> verdict, if asked for with the numbers of diverged runs that decide it -> roundings."""
    counts = {}
    for label, runs in ious.items():
        if label != reference:
            pairs = map(contest.verdict, runs, ious[reference])
            counts[label] = Counter(verdict + numbers * with_numbers for verdict, numbers in pairs)
    return counts


def chosen_rates(runs: Sequence[Row], losses: Mapping[str, np.ndarray]) -> dict[str, Counter[str]]:
    """optimizer with several rates -> its best rate -> number of roundings."""
    rates: dict[str, dict[float, str]] = {}
    for row in runs:
        optimizer = row.label.removesuffix(f" {exact(row.learning_rate)}")
        rates.setdefault(optimizer, {})[row.learning_rate] = row.label
    chosen = {}
    for optimizer, by_rate in rates.items():
        if len(by_rate) > 1:
            grid = sorted(by_rate)
            # (roundings, seeds, rates)
            trials = np.stack([losses[by_rate[rate]] for rate in grid], axis=-1)
            best = [statistics.best_rate(grid, rounding, ~np.isfinite(rounding)) for rounding in trials]
            chosen[optimizer] = Counter("none" if each.rate is None else exact(each.rate) for each in best)
    return chosen


def deviation_table(
    ious: Mapping[str, np.ndarray],
    by_rounding: Mapping[str, np.ndarray],
    by_seed: Mapping[str, np.ndarray],
    title: str,
) -> Table:
    """One row per arm: its mean, its standard deviations, and the range of its mean over the roundings.

    The means are over the seeds on which no rounding diverged.
    """
    headings = ["", "IoU", "between seeds", "between roundings", "mean over seeds, by rounding"]
    some_diverged, rows = any(np.isnan(runs).any() for runs in ious.values()), []
    for label, runs in ious.items():
        diverged = np.isnan(runs)
        spreads = [typical(part[label]) for part in (by_seed, by_rounding)]
        texts = ["-", *(f"{spread:.4f}" if np.isfinite(spread) else "-" for spread in spreads), "-"]
        if not diverged.any(axis=0).all():
            means = runs[:, ~diverged.any(axis=0)].mean(axis=1)
            texts[0], texts[-1] = f"{means.mean():.4f}", f"{means.min():.4f} to {means.max():.4f}"
        rows.append([label, *texts, *([f"{diverged.sum()} of {runs.size}"] if some_diverged else [])])
    note = "Held-out IoU; standard deviations of one run, root mean square"
    if some_diverged:
        headings.append("runs diverged")
        note += ", of the runs that did not diverge; means over the seeds on which no rounding diverged"
    return Table(title, headings, rows, f"{note}.")


if __name__ == "__main__":
    question.main()
