"""The files of a finished experiment, each written whole or not at all, and what made them."""

import csv
import dataclasses
import io
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from matplotlib.figure import Figure
from rich.console import Console

from experiments.lab import store
from experiments.lab.options import Command, program
from experiments.lab.report import Report, plain, show, to_html, to_latex, to_markdown


def write(options: Command, identity: Mapping[str, Any], question: str, report: Report, console: Console) -> None:
    """Shows the report and writes the folder: figures, `runs.csv`, `tables.tex`, `report.html`, `results.json`.

    `results.json` is the last: where it is, all are. It holds the results of the report (arrays as lists, numbers that
    are not finite as null), and what it takes to make them again: the command, the options, the versions, the device,
    the commit of the source.
    """
    show(report, console)
    document = plain({**provenance(options), **identity, "options": dataclasses.asdict(options), **report.results})
    document |= {"warnings": list(report.warnings), "files": list(report.written)}
    pictures = {name: png(figure) for name, figure in report.figures.items()}
    files = {f"{name}.png": picture for name, picture in pictures.items()}
    files |= {**report.files, "runs.csv": _csv(report.rows), "tables.tex": to_latex(report).encode()}
    if report.markdown:
        files[report.markdown] = to_markdown(question, report, document).encode()
    files["report.html"] = to_html(question, report, pictures, document).encode()
    store.finish(options.out, files, document)
    console.print(f"Wrote {', '.join(files)} and {store.RESULTS} to {options.out}", soft_wrap=True, highlight=False)


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def provenance(options: Command) -> dict[str, Any]:
    """What made a result: command, options, versions, device, source and date."""
    device = jax.devices()[0]
    packages = ("segjax", "jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "command": shlex.join([*program(), *sys.argv[1:]]),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "cpu": _cpu(),
            "cpu_cores": os.cpu_count(),
        },
        "source": _source(Path(__file__).parents[2]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue().encode()


def _source(root: Path) -> dict[str, Any]:
    """The git commit of the checkout, and whether its files are those of the commit; None where git tells neither."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        # A folder inside another project's checkout is of no commit.
        if Path(git("rev-parse", "--show-toplevel")) != root.resolve():
            return {"commit": None, "clean": None}
        return {"commit": git("rev-parse", "HEAD"), "clean": not git("status", "--porcelain")}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "clean": None}


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
