"""Records: entries in their order, each decided against the record of its time, and the files that have them.

An entry becomes the record only if it is decided to be better, so that noise sets no record (Blum and Hardt, "The
Ladder: a reliable leaderboard for machine learning competitions", 2015).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from experiments.lab.folder import read_document
from experiments.lab.options import Data, flag
from experiments.lab.runs import Run, Texture
from experiments.optimizers import sequential
from experiments.optimizers.baseline import Share, Step, Stored, StoredArm, refusals
from experiments.optimizers.sequential import Decision

# Options that determine the runs and the choice of their rates.
_PROTOCOL = (*Texture._fields, "iterations", "schedule", "seed", "tuning_seed", "tuning_seeds")


class Row(msgspec.Struct):
    """The fields of a run that an entry has."""

    label: str
    optimizer: str
    learning_rate: float
    seed: int
    accuracy: Share
    iou: Share
    diverged_at: Step | None
    cores: int | str | None = None


class Entry(Stored):
    """An optimizer at its rate with one run per seed: a results.json without its curves and its other sections."""

    reference: str
    runs: Annotated[list[Row], Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Raises a KeyError or a ValueError if an option of the protocol or the cost of a tuning is missing."""
        Data(**self.texture._asdict()).check()
        self.options = {name: self.options[name] for name in _PROTOCOL}
        self.tuning_steps = {row.label: self.tuning_steps[row.label] for row in self.runs}

    @property
    def label(self) -> str:
        return self.runs[0].label

    @property
    def texture(self) -> Texture:
        return Texture(**{name: self.options[name] for name in Texture._fields})

    def arm(self, seeds: int | None = None) -> StoredArm:
        """The runs of the first seeds, or all of them."""
        rows = [msgspec.structs.asdict(row) for row in self.runs[:seeds]]
        for row in rows:
            row |= {name: float(np.array(row[name], float)) for name in ("accuracy", "iou")}
        first = self.runs[0]
        return StoredArm(self.label, (), Run(first.seed, first.optimizer, first.learning_rate), rows, [])

    @property
    def errors(self) -> np.ndarray:
        """(runs,) held-out errors of the runs that did not diverge."""
        return 1 - self.arm().converged("accuracy")


class Board(Stored):
    """The content of records.json: the runs of the record, as `--baseline` reads them, and all entries."""

    entries: Annotated[list[Entry], Meta(min_length=1)]


class Standing(NamedTuple):
    """An entry, the record before it, and the decision between them, None for the first entry."""

    entry: Entry
    before: Entry
    decision: Decision | None

    @property
    def is_record(self) -> bool:
        return self.decision is None or self.decision.verdict == "better"

    @property
    def record(self) -> Entry:
        """The record from this entry on."""
        return self.entry if self.is_record else self.before


def standings(entries: Sequence[Entry]) -> list[Standing]:
    """Each entry against the record of its time, on the seeds of the entry."""
    result = [Standing(entries[0], entries[0], None)]
    for entry in entries[1:]:
        record, arm = result[-1].record, entry.arm()
        (decision,) = sequential.decisions({arm.label: arm}, record.arm(len(arm.rows))).values()
        result.append(Standing(entry, record, decision))
    return result


def read(records: Path | None, results: Sequence[Path]) -> Board:
    """The entries of a records.json, if there is one, and those of results.json files in the order of their dates.

    Raises:
        ValueError: naming the first file that is no entry, has another protocol, or was not compared with the record.
    """
    board, documents = None, {}
    if records:
        with refusals("--records", records, "leaderboard", "records.json"):
            board = msgspec.convert(read_document(records), Board)
            if msgspec.convert(board.runs, list[Row]) != standings(board.entries)[-1].record.runs:
                raise ValueError("its runs are not those of its record")
    for path in results:
        with refusals("--results", path, "compare_optimizers"):
            document = read_document(path)
            documents[path] = document, msgspec.convert(document, Entry)
    for path in sorted(documents, key=lambda path: documents[path][1].date):
        try:
            board = with_entry(board, *documents[path])
        except ValueError as error:
            raise ValueError(f"--results {path} {error}") from error
    if not board:
        raise ValueError("--results must have the first entry if there are no --records")
    return board


def with_entry(board: Board | None, document: dict[str, Any], contenders: Entry) -> Board:
    """Adds an entry.

    Args:
        document: content of its results.json.
        contenders: the same with all its runs, those of the record too.

    Raises:
        ValueError: what is wrong with the entry.
    """
    record = standings(board.entries)[-1].record if board else None
    labels = {row.label for row in contenders.runs} - ({contenders.reference} if record else set())
    if len(labels) != 1:
        beside = f" beside its reference, {contenders.reference}" if record else ""
        raise ValueError(f"has {len(labels)} optimizers{beside}: an entry is one")
    (label,) = labels
    entry = msgspec.structs.replace(contenders, runs=[row for row in contenders.runs if row.label == label])
    if board and record:
        reference = [row for row in contenders.runs if row.label != label]
        _check(board, record, entry, reference)
        board = msgspec.structs.replace(board, entries=[*board.entries, entry])
        if not standings([record, entry])[-1].is_record:
            return board
        if len(entry.runs) < len(record.runs):
            raise ValueError(
                f"is better than the record; as the next it needs as many seeds: --seeds {len(record.runs)}"
            )
    elif entry.arm().diverged.all():
        raise ValueError("has no run to begin with: all diverged")
    sections = {name: getattr(entry, name) for name in Stored.__struct_fields__}
    sections["runs"] = [run for run in document["runs"] if run["label"] == label]
    return Board(**sections, entries=board.entries if board else [entry])


def _check(board: Board, record: Entry, entry: Entry, reference: Sequence[Row]) -> None:
    """Raises a ValueError unless the entry is new, has the protocol, and was compared with the record."""
    if entry in board.entries:
        raise ValueError(f"is entry {board.entries.index(entry) + 1} already")
    for name, value in record.options.items():
        if entry.options[name] != value:
            raise ValueError(f"has {flag(name)} {entry.options[name]}, not {value}: the protocol must be the same")
    runs = [msgspec.structs.replace(row, label=entry.reference) for row in record.runs[: len(entry.runs)]]
    if reference != runs:
        raise ValueError(f"was compared with {entry.reference}, not with the runs of the record, {record.label}")
