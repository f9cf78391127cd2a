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

from experiments.command import UsageError, program

RESULTS = "results.json"


def claim(out: Path, overwrite: bool) -> None:
    """Makes the folder and tries to write in it, before any work; refuses one that holds anything already."""
    try:
        if out.is_dir() and any(out.iterdir()) and not overwrite:
            raise UsageError(f"--out {out} already holds files; name another folder, or pass --overwrite")
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror}") from error


def save(
    out: Path,
    options: Any,
    results: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    figures: Mapping[str, Figure],
) -> None:
    """Writes the figures, `runs.csv` (a row a run) and, last, `results.json`: where that one is, all are.

    `results.json` holds what `results` does (arrays as lists, numbers that are not finite as null), with what is
    needed to make it again: the command, the options, the versions, the device.
    """
    for name, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
        _write(out / f"{name}.png", buffer.getvalue())
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write(out / "runs.csv", table.getvalue().encode())
    document = {**provenance(options), **results}
    _write(out / RESULTS, (json.dumps(_plain(document), indent=1, allow_nan=False) + "\n").encode())


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


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: a temporary file in the same folder, then a rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
