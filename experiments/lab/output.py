"""The files of a finished experiment, each written whole or not at all."""

import csv
import dataclasses
import io
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from experiments.lab import store
from experiments.lab.names import printable
from experiments.lab.options import Command, program
from experiments.lab.provenance import circumstances
from experiments.lab.report import Report, plain, show, to_html, to_latex, to_markdown


def write(options: Command, identity: Mapping[str, Any], question: str, report: Report, console: Console) -> None:
    """Writes the folder, figures, `runs.csv`, `tables.tex`, `report.html`, `results.json`, and then shows the report.

    `results.json` is the last: where it is, all are. It holds the results of the report (arrays as lists, numbers that
    are not finite as null), and what it takes to make them again: the command, the options, the versions, the device,
    the commit of the source.
    """
    made = {"command": shlex.join([*program(), *sys.argv[1:]]), **circumstances(), **identity}
    document = plain({**made, "options": dataclasses.asdict(options), **report.results})
    document |= {"warnings": list(report.warnings), "files": list(report.written)}
    pictures = {name: png(figure) for name, figure in report.figures.items()}
    files = {f"{name}.png": picture for name, picture in pictures.items()}
    files |= {**report.files, "runs.csv": _csv(report.rows), "tables.tex": _text(to_latex(report))}
    if report.markdown:
        files[report.markdown] = _text(to_markdown(question, report, document))
    files["report.html"] = _text(to_html(question, report, pictures, document))
    store.finish(options.out, files, document)
    # All is kept by now, whatever becomes of the screen.
    show(report, console)
    # The page last, where one looks for it; on one line, so that it can be copied.
    wrote = printable(f"Wrote {len(files) + 1} files; open {options.out / 'report.html'}")
    console.print(wrote, soft_wrap=True, highlight=False, markup=False)


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return _text(table.getvalue())


def _text(text: str) -> bytes:
    # A file's name need not be UTF-8.
    return text.encode(errors="backslashreplace")
