"""Finished runs of an earlier comparison as contenders of this one, from its results.json alone.

Their weights are not in it: such runs have curves and scores, and no picture of what they predict.
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
# Options that say which images a run sees, beside those that its own row tells.
_IMAGES = ("batch_size", "image_size", "sigma1", "sigma2", "sigma")
_PROTOCOL = ("iterations", "schedule", "objective", "architecture")
# Settings of jax from which follow a seed's weights and images: without the same ones nothing is paired.
_DRAWN = ("enable_x64", "default_prng_impl", "threefry_partitionable", "random_seed_offset")
# Parts of a results.json that the report shows.
_SECTIONS = ("versions", "numerics", "device", "source")
# The first loss of a seed is of the same weights and images everywhere, but for rounding.
_SAME = 1e-3


@dataclass(frozen=True)
class StoredArm(Arm):
    """Runs that are known by their rows and curves alone; `results` is empty."""

    first: Run
    rows: list[dict[str, Any]]
    curves: list[dict[str, np.ndarray]]

    @property
    def run(self) -> Run:
        return self.first


class Baseline(NamedTuple):
    """The contenders of another result.

    Attributes:
        path: of its results.json.
        arms: by their labels here, which say that they are stored.
        labels: label in the file -> label here.
        spent: label here -> steps of its tuning.
        made: the document, without its runs.
    """

    path: Path
    arms: Arms
    labels: dict[str, str]
    spent: dict[str, int]
    made: dict[str, Any]


def read(path: Path, options: Comparison) -> Baseline:
    """The runs of a results.json of compare_optimizers, if they were made by the protocol of these options.

    Raises:
        ValueError: if the file is anything else, or names the first part of the protocol that differs.
    """
    try:
        document = read_document(path)
        if document.get("experiment") != EXPERIMENT:
            raise ValueError(f"it is of {document.get('experiment') or 'something else'}")
        # What is said of them: a part that is missing is known before an hour of training.
        for section, kind in {**dict.fromkeys(_SECTIONS, dict), "command": str, "date": str}.items():
            if not isinstance(document[section], kind):
                raise ValueError(f"its {section} is no {kind.__name__}")
        runs, spent = document.pop("runs"), document["tuning_steps"]
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in runs:
            groups.setdefault(str(row["label"]), []).append(row)
        if not groups:
            raise ValueError("it holds no runs")
        labels = {check_label(label): f"{label} (stored)" for label in groups}
        differences = _differences(document, groups, options)
        # Where the protocol differs, all else is as it may be.
        arms: Arms = (
            {} if differences else {labels[label]: _arm(labels[label], groups[label], options) for label in groups}
        )
        costs = {labels[label]: check_count("tuning_steps", spent[label], 0) for label in groups}
    except OSError as error:
        raise ValueError(f"--baseline {path} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        words = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"--baseline {path} is not the results.json of experiments.{EXPERIMENT}: {words}") from error
    if differences:
        name, ours, theirs = differences[0]
        raise ValueError(f"--baseline {path} has {name} {theirs}, not {ours}: the protocol must be the same")
    return Baseline(path, arms, labels, costs, document)


def warnings(baseline: Baseline, arms: Iterable[Arm]) -> list[str]:
    """What was made otherwise than the runs of this command, whose arms these are."""
    made, here = baseline.made, {**provenance.circumstances(), "versions": provenance.versions()}
    here["numerics"] = provenance.numerics()
    words = ["The seconds of stored runs are those of the machine and the day that they were made on."]
    parts = [(part, name) for part in ("versions", "numerics") for name in here[part]] + [("device", "cpu")]
    values = [(name, made[part].get(name), here[part].get(name)) for part, name in parts]
    if said := ", ".join(f"{name} {theirs} (here {ours})" for name, theirs, ours in values if theirs != ours):
        words.append(
            f"Stored runs were made with {said}: at best the rounding differs, which changes single runs; another "
            "version may also compute something else."
        )
    first = {row["seed"]: curves["loss"][0] for arm in arms for row, curves in zip(arm.rows, arm.curves, strict=True)}
    for arm in baseline.arms.values():
        stored = {row["seed"]: curves["loss"][0] for row, curves in zip(arm.rows, arm.curves, strict=True)}
        if odd := [seed for seed in stored if not np.isclose(stored[seed], first[seed], rtol=_SAME)]:
            listed = ", ".join(map(str, odd))
            words.append(
                f"{arm.label} began at another loss than the runs beside it (seeds {listed}): other weights or images, "
                "so that its differences are not paired."
            )
    return words


def table(baseline: Baseline) -> Table:
    """Where the stored runs come from."""
    made = baseline.made
    device, versions = made["device"], ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    rows = [
        ["runs", ", ".join(f"{arm.label}: {len(arm.rows)}" for arm in baseline.arms.values())],
        ["file", str(baseline.path)],
        ["command", made["command"]],
        ["machine", f"{device.get('cpu_cores')} cores of {device.get('cpu')}, jax on {device.get('kind')}"],
        ["versions", versions],
        ["convolution", str(made["numerics"].get("convolution"))],
        ["source", f"commit {made['source'].get('commit')}"],
        ["date", made["date"]],
    ]
    return Table("Stored runs, which this command did not make", ("", ""), rows)


def _differences(
    document: Mapping[str, Any], groups: Mapping[str, list[dict[str, Any]]], options: Comparison
) -> list[tuple[str, Any, Any]]:
    """Name, our value and theirs, of each part of the protocol that differs."""
    made, numerics, here = document["options"], document["numerics"], provenance.numerics()
    ours, texture = options.run(options.seeds.seed), options.data.texture._asdict()
    pairs = [(flag(name), texture[name], made[name]) for name in _IMAGES]
    pairs += [(name, getattr(ours, name), row[name]) for rows in groups.values() for row in rows for name in _PROTOCOL]
    pairs += [("seeds", list(options.seeds), [row["seed"] for row in rows]) for rows in groups.values()]
    pairs += [(f"jax's {name}", here[name], numerics.get(name)) for name in _DRAWN]
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
        lost = row["diverged_at"]
        lost = None if lost is None else check_count("diverged_at", lost, 1, options.training.iterations)
        numbers = {name: float(_numbers(name, [row[name]])[0]) for name in COLUMNS}
        columns = {"label": label, **{name: row[name] for name in names}, **numbers}
        arm_rows.append({**columns, "cores": row.get("cores"), "diverged_at": lost})
    curves = [{name: _numbers(name, row["curves"][name]) for name in CURVES} for row in rows]
    if any(curve.shape != (options.training.iterations,) for by_name in curves for curve in by_name.values()):
        raise ValueError(f"its curves do not have {options.training.iterations} steps")
    return StoredArm(label, (), first, arm_rows, curves)


def _numbers(name: str, values: list[Any]) -> np.ndarray:
    """Numbers of JSON, in which null is one that is not finite; none is beyond those of float32."""
    kinds = {type(value) for value in values}
    array = np.array(values, dtype=float) if kinds <= {int, float, type(None)} else np.array([np.inf])
    if not np.all(np.isnan(array) | (np.abs(array) <= np.finfo(np.float32).max)):
        raise ValueError(f"its {name} has something other than numbers")
    return array
