"""Finished runs of an earlier comparison as contenders in this one, read from its results.json.

The file has no weights: such runs have curves and scores, and no predictions.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from experiments.lab import provenance
from experiments.lab.arms import COLUMNS, CURVES, Arm, Arms, diverged_at
from experiments.lab.folder import read_document
from experiments.lab.options import Comparison, flag
from experiments.lab.report import Table
from experiments.lab.runs import Run
from experiments.optimizers.tuning import check_label

_PROTOCOL = ("iterations", "schedule", "objective", "architecture")
# Settings of jax that determine the weights and images of a seed: they must be equal for pairing.
_RANDOMNESS = ("enable_x64", "default_prng_impl", "threefry_partitionable", "random_seed_offset")
# Relative tolerance for the first loss of a seed: the same weights and images, but other rounding.
_ROUNDING = 1e-3
_FLOAT32 = np.finfo(np.float32)
# null stands for NaN and infinities.
Share = Annotated[float, Meta(ge=0, le=1)] | None
# Rounding can bring a Dice loss of 0 below 0.
NotNegative = Annotated[float, Meta(ge=-1e-6, le=float(_FLOAT32.max))] | None
Positive = Annotated[float, Meta(ge=float(_FLOAT32.tiny), le=float(_FLOAT32.max))]
Count = Annotated[int, Meta(ge=0, lt=2**31)]
Step = Annotated[int, Meta(ge=1, lt=2**31)]
# The columns that are not shares of pixels.
_AMOUNTS = ("loss", "final_loss", "seconds", "held_out_mse", "held_out_bce", "held_out_dice")


class _Curves(msgspec.Struct):
    """The curves of a run, those of `CURVES`: one value per step."""

    loss: list[NotNegative]
    agreement: list[Share]
    iou: list[Share]


_FIELDS: dict[str, Any] = {
    "label": str,
    "seed": Annotated[int, Meta(ge=0, lt=2**32)],
    "optimizer": str,
    "learning_rate": Positive,
    "iterations": Step,
    **dict.fromkeys(("schedule", "objective", "architecture"), str),
    **{name: NotNegative if name in _AMOUNTS else Share for name in COLUMNS},
    "diverged_at": Step | None,
    "curves": _Curves,
}
# A run in results.json.
StoredRun = msgspec.defstruct("StoredRun", [*_FIELDS.items(), ("cores", int | str | None, None)])


class Stored(msgspec.Struct):
    """The sections of a results.json that are read; the runs are checked one by one."""

    experiment: Literal["compare_optimizers"]
    options: dict[str, Any]
    command: str
    date: str
    versions: dict[str, Any]
    numerics: dict[str, Any]
    device: dict[str, Any]
    source: dict[str, Any]
    tuning_steps: dict[str, Count]
    runs: Annotated[list[Any], Meta(min_length=1)]


@dataclass(frozen=True)
class StoredArm(Arm):
    """Runs with rows and curves, and without results."""

    run: Run
    rows: list[dict[str, Any]]
    curves: list[dict[str, np.ndarray]]


class Baseline(NamedTuple):
    """The contenders from another results.json.

    Attributes:
        path: path of the file.
        arms: new label, which ends with "(stored)" -> arm.
        labels: label in the file -> new label.
        tuning_steps: new label -> steps of its tuning.
        most_seeds: number of seeds that every contender has in the file.
        document: content of the file.
    """

    path: Path
    arms: Arms
    labels: dict[str, str]
    tuning_steps: dict[str, int]
    most_seeds: int
    document: Stored


@contextlib.contextmanager
def refusals(option: str, path: Path, experiment: str, file: str = "results.json") -> Iterator[None]:
    """Inside, errors of reading a file of an experiment become a ValueError that names the option."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{option} {path} cannot be read: {error.strerror}") from error
    except (KeyError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{option} {path} is not the {file} of experiments.{experiment}: {reason}") from error


def read(path: Path, options: Comparison) -> Baseline:
    """Reads the runs of a results.json of compare_optimizers that has the protocol of these options.

    Raises:
        ValueError: if the file is not such a results.json, or naming the first difference in the protocol.
    """
    with refusals("--baseline", path, "compare_optimizers"):
        document = msgspec.convert(read_document(path), Stored)
        stored = _by_label(document.runs)
        # Runs of further seeds are not compared.
        groups = {label: runs[: options.seeds.seeds] for label, runs in stored.items()}
        labels = {check_label(label): f"{label} (stored)" for label in groups}
        steps = {labels[label]: document.tuning_steps[label] for label in groups}
    for name, ours, theirs in _protocol(document, groups, options):
        if ours != theirs:
            raise ValueError(f"--baseline {path} has {name} {theirs}, not {ours}: the protocol must be the same")
    with refusals("--baseline", path, "compare_optimizers"):
        arms = {labels[label]: _arm(labels[label], runs, options) for label, runs in groups.items()}
    return Baseline(path, arms, labels, steps, min(map(len, stored.values())), document)


def _by_label(rows: Iterable[Any]) -> dict[str, list[Any]]:
    """label -> its runs; raises a ValueError that names the first run that is invalid or repeats a seed."""
    stored: dict[str, dict[int, Any]] = {}
    for index, row in enumerate(rows):
        try:
            run: Any = msgspec.convert(row, StoredRun)
        except msgspec.ValidationError as error:
            raise ValueError(f"runs[{index}]: {error}") from error
        runs = stored.setdefault(run.label, {})
        if run.seed in runs:
            raise ValueError(f"runs[{index}]: {run.label} must have one run per seed, got two of seed {run.seed}")
        runs[run.seed] = run
    return {label: list(runs.values()) for label, runs in stored.items()}


def _protocol(document: Stored, groups: dict[str, list[Any]], options: Comparison) -> Iterator[tuple[str, Any, Any]]:
    """(name, our value, stored value) of all that must be equal."""
    ours, here = options.run(options.seeds.seed), provenance.numerics()
    for name, value in options.data.texture._asdict().items():
        yield flag(name), value, document.options.get(name)
    for runs in groups.values():
        yield from ((name, getattr(ours, name), getattr(run, name)) for run in runs for name in _PROTOCOL)
        yield "seeds", list(options.seeds), [run.seed for run in runs]
    yield from ((f"jax's {name}", here[name], document.numerics.get(name)) for name in _RANDOMNESS)


def _arm(label: str, runs: Sequence[Any], options: Comparison) -> StoredArm:
    """The runs of one label; raises a ValueError unless they are of one optimizer, with curves that fit them."""
    steps, first = options.training.iterations, runs[0]
    if any((run.optimizer, run.learning_rate) != (first.optimizer, first.learning_rate) for run in runs):
        raise ValueError(f"the runs of {first.label} are not of one optimizer")
    # `np.array` turns null into NaN.
    curves = [{name: np.array(getattr(run.curves, name), float) for name in CURVES} for run in runs]
    if any(len(curve) != steps for by_name in curves for curve in by_name.values()):
        raise ValueError(f"its curves do not have {steps} steps")
    for run, curve in zip(runs, curves, strict=True):
        step = int(diverged_at(curve["loss"]))
        # The file does not have the weights, which may be infinite after the last step.
        if run.diverged_at not in ([step] if step else [None, steps]):
            allowed = step or f"null or {steps}"
            argument = f"diverged_at of {run.label}, seed {run.seed},"
            raise ValueError(f"{argument} must be {allowed} by its losses, got {run.diverged_at or 'null'}")
    fields = {name: getattr(first, name) for name in Run._fields if name != "texture"}
    rows = [{**msgspec.structs.asdict(run), "label": label} for run in runs]
    for row in rows:
        row |= {name: float(np.array(row[name], float)) for name in COLUMNS}
        del row["curves"]
    return StoredArm(label, (), Run(**fields, texture=options.data.texture), rows, curves)


def warnings(baseline: Baseline, arms: Iterable[Arm]) -> list[str]:
    """Warnings if the provenance or the first losses of stored runs differ from this command and its arms."""
    stored, versions, numerics = baseline.document, provenance.versions(), provenance.numerics()
    messages = ["The seconds of stored runs are those of the machine and the day that they were made on."]
    values = [(name, stored.versions.get(name), value) for name, value in versions.items()]
    values += [(name, stored.numerics.get(name), value) for name, value in numerics.items()]
    values += [("cpu", stored.device.get("cpu"), provenance.circumstances()["device"]["cpu"])]
    if listed := ", ".join(f"{name} {theirs} (here {ours})" for name, theirs, ours in values if theirs != ours):
        messages.append(
            f"Stored runs were made with {listed}: at best the rounding differs, which changes single runs; another "
            "version may also compute something else."
        )
    ours = _first_losses(arms)
    for arm in baseline.arms.values():
        losses = _first_losses([arm])
        if seeds := [seed for seed in losses if not np.isclose(losses[seed], ours[seed], rtol=_ROUNDING)]:
            listed = ", ".join(map(str, seeds))
            messages.append(
                f"{arm.label} began at another loss than the runs beside it (seeds {listed}): other weights or images, "
                "so that its differences are not paired."
            )
    return messages


def _first_losses(arms: Iterable[Arm]) -> dict[int, float]:
    """seed -> the first loss of a run; the arms should agree."""
    return {row["seed"]: curves["loss"][0] for arm in arms for row, curves in zip(arm.rows, arm.curves, strict=True)}


def table(baseline: Baseline) -> Table:
    """The provenance of the stored runs."""
    stored = baseline.document
    cells = {
        "runs": ", ".join(f"{arm.label}: {len(arm.rows)}" for arm in baseline.arms.values()),
        "file": baseline.path,
        "command": stored.command,
        "machine": "{cpu_cores} cores of {cpu}, jax on {kind}".format_map(stored.device),
        "versions": ", ".join(f"{name} {version}" for name, version in stored.versions.items()),
        "convolution": stored.numerics.get("convolution"),
        "source": f"commit {stored.source.get('commit')}",
        "date": stored.date,
    }
    rows = [[name, str(value)] for name, value in cells.items()]
    return Table("Stored runs, which this command did not make", ("", ""), rows)
