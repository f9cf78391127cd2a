"""The skeleton's end: a folder of results, each file written whole or not at all."""

import csv
import dataclasses
import io
import json
import math
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from experiments.command import UsageError, program
from experiments.report import Report, show, to_html, to_latex

RESULTS, RUNS = "results.json", "runs"
# What experiments write before they are finished.
BESIDE = ("iteration-*.png", "model.safetensors", f"{RUNS}/*.safetensors")


def claim(out: Path, overwrite: bool, again: str = "") -> None:
    """Makes the folder and tries to write in it, before any work.

    It refuses a folder that holds anything but the finished runs of an interrupted command, unless told to overwrite:
    then all that experiments write there is deleted. `again` names an experiment that makes its report anew from the
    runs that are there: its own finished folder is not refused.
    """
    try:
        held = {path.name for path in out.iterdir()} - {RUNS} if out.is_dir() else set()
        if held and not overwrite and not (again and _results(out).get("experiment") == again):
            raise UsageError(f"--out {out} already holds files; name another folder, or pass --overwrite")
        out.mkdir(parents=True, exist_ok=True)
        if overwrite:
            # The results first: where they are, all is as they say.
            for name in (RESULTS, *_results(out).get("files", [])):
                (out / Path(name).name).unlink(missing_ok=True)
            for pattern in BESIDE:
                for path in out.glob(pattern):
                    path.unlink()
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror}") from error


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
    document = _plain({**provenance(options), **results, "warnings": report.warnings})
    pictures = {name: png(figure) for name, figure in report.figures.items()}
    files = {f"{name}.png": picture for name, picture in pictures.items()}
    files["runs.csv"] = _csv(rows)
    files["tables.tex"] = to_latex(report).encode()
    files["report.html"] = to_html(report, pictures, document).encode()
    document["files"] = list(files)
    files[RESULTS] = (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()
    for name, content in files.items():
        write(options.out / name, content)
    console.print(
        f"Wrote {', '.join(list(files)[:-1])} and {RESULTS} to {options.out}", soft_wrap=True, highlight=False
    )


def _results(out: Path) -> dict[str, Any]:
    """The results that a folder holds; nothing where there are none that can be read."""
    try:
        document = json.loads((out / RESULTS).read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


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


def _plain(value: Any) -> Any:
    """JSON's types: arrays as lists, paths as text, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | jax.Array):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def write(path: Path, content: bytes) -> None:
    """Whole or not at all: a temporary file in the same folder, then a rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
