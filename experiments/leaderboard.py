"""Which optimizer holds the record? Entries in their order, each against the record of its time.

    python -m experiments.leaderboard                                               the stored entries
    python -m experiments.leaderboard --results results/records/mine/results.json   and another one
    python -m experiments.leaderboard new --results results/records/*/results.json  a new leaderboard

An entry is the result of `experiments.compare_optimizers fair --optimizers MINE --until-decided --baseline
docs/baselines/records.json`. It becomes the record only if it is decided to be better. The folder gets a `records.json`
with all entries and the runs of the record: the next baseline. Half a minute; docs/records.md has the protocol.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from experiments.bench import bounds
from experiments.bench.bounds import Bound
from experiments.lab import question
from experiments.lab.names import ARCHITECTURES
from experiments.lab.options import Command
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report, Table
from experiments.lab.tables import estimate_text, spread
from experiments.optimizers import records, sequential
from experiments.optimizers.records import Entry, Standing
from segjax import plotting


@dataclass(frozen=True, kw_only=True)
class Options(Command):
    """Adds entries to a leaderboard."""

    records: Path | None = Path("docs/baselines/records.json")  # The entries so far; None begins a new leaderboard.
    results: tuple[Path, ...] = ()  # results.json of each new entry; they enter in the order of their dates.
    out: Path = Path("results/leaderboard")

    def inputs(self) -> list[Path]:
        return [*([self.records] if self.records else []), *self.results]

    def check(self) -> None:
        super().check()
        records.read(self.records, self.results)


PRESETS = {"stored": Options(), "new": Options(records=None)}


def answer(options: Options, lab: Lab) -> Report:
    board = records.read(options.records, options.results)
    standings = records.standings(board.entries)
    record = standings[-1].record
    bound = bounds.measure(record.texture, lab)
    findings = [record_finding(standings)]
    if bound:
        field = ARCHITECTURES["notebook"].receptive_field
        findings.append(bounds.finding(bound, record.label, record.errors.mean(), field))
    findings += [
        sequential.finding(entry.label, before.label, decision)
        for entry, before, decision in standings
        if decision and decision.decided_after is None
    ]
    places = [{"entry": each.entry.label, "record": each.record.label, "decision": each.decision} for each in standings]
    return Report(
        findings,
        [standing_table(standings)],
        {"records": drawing(standings, bound)},
        results={"standings": places, "best_possible": bounds.document(bound)},
        rows=[{"entry": i, **row} for i, entry in enumerate(board.entries, 1) for row in entry.arm().rows],
        details=[provenance_table(board.entries)],
        files={"records.json": msgspec.json.encode(board)},
        markdown="records.md",
    )


def record_finding(standings: Sequence[Standing]) -> str:
    """The record, and how many entries were decided."""
    record, number = standings[-1].record, len(standings)
    since = max(i for i, each in enumerate(standings, 1) if each.is_record)
    verdicts = Counter(each.decision.verdict for each in standings if each.decision)
    counts = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in ("better", "worse", "not told apart"))
    return (
        f"{record.label} holds the record, since entry {since} of {number}: held-out IoU "
        f"{record.arm().mean('iou'):.4f}, error {record.errors.mean():.2%}. Entries against the record of their time: "
        f"{counts}."
    )


def standing_table(standings: Sequence[Standing]) -> Table:
    """One row per entry: its cost, its scores, and the verdict against the record of its time."""
    rows = []
    for number, (entry, _, decision) in enumerate(standings, 1):
        arm, difference, verdict = entry.arm(), "", "the first"
        if decision:
            difference, after = estimate_text(decision.difference, "+.4f", in_lines=True), decision.decided_after
            verdict = f"{decision.verdict}, after {after}" if after else f"not decided after {len(arm.rows)}"
        # The figure has the ranges.
        means = [
            spread(values, form).partition("\n")[0]
            for values, form in ((arm.converged("iou"), ".4f"), (entry.errors, ".2%"))
        ]
        diverged = f"{arm.diverged.sum()} of {len(arm.rows)}"
        name, steps = f"{number}. {entry.label}", f"{entry.tuning_steps[entry.label]}"
        rows.append([name, steps, *means, difference, verdict, diverged])
    note = (
        "Means of held-out images over the seeds that did not diverge: as many seeds as it took to decide, and all for "
        "a record. Differences are paired, with the interval that is valid at every number of seeds. The level of a "
        f"verdict is 5 % for each entry (an e-value of {sequential.ENOUGH:g})."
    )
    headings = (
        "entry, rate",
        "steps of tuning",
        "IoU",
        "error",
        "IoU minus the record's",
        "verdict, seeds",
        "diverged",
    )
    return Table("Each entry against the record of its time", headings, rows, note)


def provenance_table(entries: Sequence[Entry]) -> Table:
    """One row per entry: where and when its runs were made."""
    rows = []
    for number, entry in enumerate(entries, 1):
        machine = "{cpu_cores} cores of {cpu}, jax on {kind}".format_map(entry.device)
        versions = ", ".join(f"{name} {entry.versions.get(name)}" for name in ("jax", "flax", "optax"))
        convolution, commit = f"{entry.numerics.get('convolution')}", f"{entry.source.get('commit')}"[:10]
        rows.append([f"{number}. {entry.label}", entry.date[:10], machine, versions, convolution, commit])
    headings = ("optimizer, rate", "date", "machine", "versions", "convolution", "commit")
    return Table("How each entry was made", headings, rows)


def drawing(standings: Sequence[Standing], bound: Bound | None) -> Drawing:
    """The error of each entry with the record from then on, below the best possible."""
    errors = {bounds.heading(bound): np.array([])} if bound else {}
    means = [bound.error.expected] if bound else []
    for number, each in enumerate(standings, 1):
        errors[f"{number}. {each.entry.label}"] = each.entry.errors
        means.append(each.record.errors.mean())
    label = "mean of the record from then on" + ("; first row: the best possible" if bound else "")
    xlabel = "held-out error (share of the pixels)"
    figure = plotting.dots(
        errors, np.array(means), xlabel, ("one run", label), "Entries in their order, the first at the top"
    )
    return Drawing("The record, entry by entry", figure)


if __name__ == "__main__":
    question.main()
