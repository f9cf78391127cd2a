"""The skeleton's end: the files of a finished experiment, each written whole or not at all."""

import csv
import dataclasses
import io
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from matplotlib.figure import Figure
from rich.console import Console

from experiments import folder
from experiments.command import program
from experiments.plain import plain
from experiments.report import Report, show, to_html, to_latex
from segjax import checkpoints


def finish(
    options: Any,
    results: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    report: Report,
    console: Console,
) -> None:
    """Says the report and writes the folder: figures, `runs.csv` (a row a run), `tables.tex`, `report.html` and
    `results.json`.

    `results.json` is the last: where it is, all are. It holds what `results` does (arrays as lists, numbers that are
    not finite as null), with what is needed to make it again: the command, the options, the versions, the device.
    """
    show(report, console)
    document = plain({**provenance(options), **results, "warnings": report.warnings})
    pictures = {name: png(figure) for name, figure in report.figures.items()}
    files = {f"{name}.png": picture for name, picture in pictures.items()}
    files["runs.csv"] = _csv(rows)
    files["tables.tex"] = to_latex(report).encode()
    files["report.html"] = to_html(report, pictures, document).encode()
    document["files"] = list(files)
    files[folder.RESULTS] = (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()
    for name, content in files.items():
        checkpoints.write(options.out / name, content)
    folder.release(options.out)
    console.print(
        f"Wrote {', '.join(list(files)[:-1])} and {folder.RESULTS} to {options.out}", soft_wrap=True, highlight=False
    )


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue().encode()


def provenance(options: Any) -> dict[str, Any]:
    """What made a result: command, options, versions, device and date."""
    device = jax.devices()[0]
    packages = ("segjax", "jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "command": shlex.join([*program(), *sys.argv[1:]]),
        "options": dataclasses.asdict(options),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "cpu": _cpu(),
            "cpu_cores": os.cpu_count(),
        },
        "inputs": folder.digests(options),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    """A checkout also runs where segjax itself was never installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
