"""Finished runs of an earlier comparison as contenders in this one, read from its results.json.

The file has no weights: such runs have curves and scores, and no predictions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.lab import provenance
from experiments.lab.arms import COLUMNS, CURVES, Arm, Arms
from experiments.lab.folder import read_document
from experiments.lab.names import check_label
from experiments.lab.options import Comparison, flag
from experiments.lab.report import Table
from experiments.lab.runs import Run
from segjax._checks import check_count, check_positive

EXPERIMENT = "compare_optimizers"
# Options of the images, which are not in the rows of runs.
_IMAGES = ("batch_size", "image_size", "sigma1", "sigma2", "sigma")
_PROTOCOL = ("iterations", "schedule", "objective", "architecture")
# Settings of jax that determine the weights and images of a seed: they must be equal for pairing.
_RANDOMNESS = ("enable_x64", "default_prng_impl", "threefry_partitionable", "random_seed_offset")
# Sections of results.json that the report shows.
_SECTIONS = ("versions", "numerics", "device", "source")
# Relative tolerance for the first loss of a seed: the same weights and images, but other rounding.
_ROUNDING = 1e-3


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
        document: content of the file, without its runs.
    """

    path: Path
    arms: Arms
    labels: dict[str, str]
    tuning_steps: dict[str, int]
    most_seeds: int
    document: dict[str, Any]


def read(path: Path, options: Comparison) -> Baseline:
    """Reads the runs of a results.json of compare_optimizers that has the protocol of these options.

    Raises:
        ValueError: if the file is not such a results.json, or naming the first difference in the protocol.
    """
    try:
        document = read_document(path)
        if document.get("experiment") != EXPERIMENT:
            raise ValueError(f"it is of {document.get('experiment') or 'something else'}")
        # Checked here, since a missing section would otherwise fail after an hour of training.
        for section, kind in {**dict.fromkeys(_SECTIONS, dict), "command": str, "date": str}.items():
            if not isinstance(document[section], kind):
                raise ValueError(f"its {section} is no {kind.__name__}")
        stored: dict[str, list[dict[str, Any]]] = {}
        for row in document.pop("runs"):
            stored.setdefault(str(row["label"]), []).append(row)
        if not stored:
            raise ValueError("it holds no runs")
        # Runs of further seeds are not compared.
        groups = {label: rows[: options.seeds.seeds] for label, rows in stored.items()}
        labels = {check_label(label): f"{label} (stored)" for label in groups}
        differences = _differences(document, groups, options)
        # The rows of another protocol cannot be checked.
        arms = {} if differences else {labels[label]: _arm(labels[label], groups[label], options) for label in groups}
        steps = {labels[label]: check_count("tuning_steps", document["tuning_steps"][label], 0) for label in groups}
    except OSError as error:
        raise ValueError(f"--baseline {path} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"--baseline {path} is not the results.json of experiments.{EXPERIMENT}: {reason}") from error
    if differences:
        name, ours, theirs = differences[0]
        raise ValueError(f"--baseline {path} has {name} {theirs}, not {ours}: the protocol must be the same")
    return Baseline(path, arms, labels, steps, min(map(len, stored.values())), document)


def warnings(baseline: Baseline, arms: Iterable[Arm]) -> list[str]:
    """Warnings if the provenance or the first losses of stored runs differ from this command and its arms."""
    stored, here = baseline.document, {**provenance.circumstances(), "versions": provenance.versions()}
    here["numerics"] = provenance.numerics()
    messages = ["The seconds of stored runs are those of the machine and the day that they were made on."]
    parts = [(part, name) for part in ("versions", "numerics") for name in here[part]] + [("device", "cpu")]
    values = [(name, stored[part].get(name), here[part].get(name)) for part, name in parts]
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
    document, device = baseline.document, baseline.document["device"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    rows = [
        ["runs", ", ".join(f"{arm.label}: {len(arm.rows)}" for arm in baseline.arms.values())],
        ["file", str(baseline.path)],
        ["command", document["command"]],
        ["machine", f"{device.get('cpu_cores')} cores of {device.get('cpu')}, jax on {device.get('kind')}"],
        ["versions", versions],
        ["convolution", str(document["numerics"].get("convolution"))],
        ["source", f"commit {document['source'].get('commit')}"],
        ["date", document["date"]],
    ]
    return Table("Stored runs, which this command did not make", ("", ""), rows)


def _differences(
    document: Mapping[str, Any], groups: Mapping[str, list[dict[str, Any]]], options: Comparison
) -> list[tuple[str, Any, Any]]:
    """(name, our value, stored value) of each difference in the protocol."""
    stored, numerics, here = document["options"], document["numerics"], provenance.numerics()
    ours, texture = options.run(options.seeds.seed), options.data.texture._asdict()
    pairs = [(flag(name), texture[name], stored[name]) for name in _IMAGES]
    pairs += [(name, getattr(ours, name), row[name]) for rows in groups.values() for row in rows for name in _PROTOCOL]
    pairs += [("seeds", list(options.seeds), [row["seed"] for row in rows]) for rows in groups.values()]
    pairs += [(f"jax's {name}", here[name], numerics.get(name)) for name in _RANDOMNESS]
    return [pair for pair in pairs if pair[1] != pair[2]]


def _arm(label: str, rows: list[dict[str, Any]], options: Comparison) -> StoredArm:
    names = [name for name in Run._fields if name != "texture"]
    first = Run(**{name: rows[0][name] for name in names}, texture=options.data.texture)
    arm_rows = []
    for row in rows:
        check_count("seed", row["seed"], 0)
        check_positive("learning_rate", row["learning_rate"])
        same = row["optimizer"] == first.optimizer and row["learning_rate"] == first.learning_rate
        if not isinstance(row["optimizer"], str) or not same:
            raise ValueError(f"the runs of {row['label']} are not of one optimizer")
        diverged_at = row["diverged_at"]
        if diverged_at is not None:
            check_count("diverged_at", diverged_at, 1, options.training.iterations)
        numbers = {name: float(_numbers(name, [row[name]])[0]) for name in COLUMNS}
        columns = {"label": label, **{name: row[name] for name in names}, **numbers}
        arm_rows.append({**columns, "cores": row.get("cores"), "diverged_at": diverged_at})
    curves = [{name: _numbers(name, row["curves"][name]) for name in CURVES} for row in rows]
    if any(curve.shape != (options.training.iterations,) for by_name in curves for curve in by_name.values()):
        raise ValueError(f"its curves do not have {options.training.iterations} steps")
    return StoredArm(label, (), first, arm_rows, curves)


def _numbers(name: str, values: list[Any]) -> np.ndarray:
    """Numbers from JSON, with NaN for null; raises a ValueError for anything else, or beyond float32."""
    kinds = {type(value) for value in values}
    array = np.array(values, dtype=float) if kinds <= {int, float, type(None)} else np.array([np.inf])
    if not np.all(np.isnan(array) | (np.abs(array) <= np.finfo(np.float32).max)):
        raise ValueError(f"its {name} has something other than numbers")
    return array
