"""The answer of an experiment, and its forms: on the screen, as HTML, Markdown and LaTeX, and as JSON.

`report.html` is one file: figures inlined, no script, nothing fetched.
"""

import base64
import html
import json
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from experiments.lab.names import printable

_STYLE = Path(__file__).with_name("report.css").read_text()
# After a backslash these are accents, a line break or nothing in LaTeX, and < and > print as other signs: by name.
_WORDS = {"\\": "backslash", "~": "asciitilde", "^": "asciicircum", "<": "less", ">": "greater"}
_LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {it: rf"\text{word}{{}}" for it, word in _WORDS.items()}
# A number with its unit, as cells write it: a column of nothing else is set flush right.
_NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?( ?[%x])?")


# Name of a figure's file -> its heading. One that is not here is called as its file.
HEADINGS = {
    "adam_rates": "Training curves of Adam at each rate",
    "agreement": "Agreement while training",
    "best_possible": "Least possible error of each pair of widths",
    "budgets": "Accuracy at equal steps and at equal seconds",
    "by_distance": "Error by the distance to the true edge",
    "cost_and_quality": "Accuracy against the time of a step",
    "curves": "Training curves",
    "difference": "Error of the network less the least possible",
    "difficulty": "Error of a network for each pair of widths",
    "gallery": "Images and their masks",
    "launches": "Launches of each program",
    "least_times": "Least time of each program on the GPU",
    "loss_by_metric": "Each training loss, by each metric",
    "losses": "Loss of each optimizer",
    "optimizers": "Training curves of each optimizer",
    "over_sigma2": "Error over the width of the second texture",
    "over_window": "Error over the number of pixels that are seen",
    "paired_differences": "Differences to the reference, seed by seed",
    "pictures": "Each picture and what the network sees in it",
    "predictions": "A held-out image and its predictions",
    "published_losses": "Published losses beside ours",
    "quality_over_time": "Held-out error over time",
    "range_test": "Loss while the rate grows",
    "rate_sensitivity": "Loss against learning rate",
    "removal": "Accuracy without each layer",
    "sigma_study": "The same noise at several widths",
    "time_to_target": "Share of runs that have reached each target",
    "time_with_tuning": "Share of runs that have reached each target, tuning included",
    "times": "Time of each program",
    "training_images": "Images that training sees",
}
# Figures of which there is one for each layer or optimizer.
PREFIXES = {"curves_": "Training curves of", "features_": "Feature maps of", "kernels_": "Kernels of"}


class Table(NamedTuple):
    """Text in rows; a cell may have a second line, such as a range under a mean."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


class Report(NamedTuple):
    """The answer of an experiment.

    Attributes:
        findings: sentences, in the order of their weight.
        tables: on the screen and in the pages.
        details: further tables, of the pages alone.
        figures: file name without its ending -> Figure.
        results: name -> what results.json holds: arrays, numbers, NamedTuples as dicts.
        rows: those of runs.csv, all with the keys of the first.
        warnings: sentences that say what the findings do not rest on.
        files: name -> content of further files, such as the trained network.
        markdown: the name of a Markdown file of the whole, where one is wanted.
        written: names of files that the work has written already.
        failures: what could not be done, a sentence each; the command then exits with 1.
    """

    findings: Sequence[str]
    tables: Sequence[Table]
    figures: Mapping[str, Figure]
    results: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    warnings: Sequence[str] = ()
    files: Mapping[str, bytes] = MappingProxyType({})
    markdown: str = ""
    written: Sequence[str] = ()
    failures: Sequence[str] = ()
    details: Sequence[Table] = ()


def plain(value: Any) -> Any:
    """JSON's types: arrays as lists, paths as text, NaN and infinities as null, which JSON has not."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        # The shortest number that is this float32: half of the digits of its float64, and of the file.
        return plain((array.astype(str).astype(float) if array.dtype == np.float32 else array).tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def show(report: Report, console: Console) -> None:
    """Prints the tables and the findings."""
    for table in report.tables:
        console.print(_rich(table))
    for sentence in report.findings:
        # A line break inside a command would end it where it is pasted.
        console.print(f"- {escape(printable(sentence))}", highlight=False, soft_wrap="python -m" in sentence)
    for sentence in report.warnings:
        console.print(f"[bold]Warning:[/] {escape(printable(sentence))}", highlight=False)


def to_html(question: str, report: Report, pictures: Mapping[str, bytes], document: Mapping[str, Any]) -> str:
    """One page that opens without a network.

    Args:
        question: the heading.
        pictures: PNG bytes by the names of `report.figures`.
        document: command, options, versions, numerics, device, source and date, as in `results.json`.
    """
    title = html.escape(question)
    parts = [f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>']
    parts += [f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"]
    if report.findings:
        parts += ["<ul>", *(f"<li>{html.escape(sentence)}</li>" for sentence in report.findings), "</ul>"]
    if report.warnings:
        items = (f"<li>{html.escape(sentence)}</li>" for sentence in report.warnings)
        parts += ['<ul class="warning">', *items, "</ul>"]
    parts += [_html_table(table) for table in [*report.tables, *report.details]]
    # Inlined, so that the page is one file that can be mailed and opens without a network.
    for name, picture in pictures.items():
        label = html.escape(heading(name))
        encoded = base64.b64encode(picture).decode()
        parts.append(f'<h2>{label}</h2><img alt="{label}" src="data:image/png;base64,{encoded}">')
    parts.append(f"<h2>How it was made</h2><pre>{html.escape(printable(document['command']))}</pre>")
    for section in ("options", "versions", "numerics", "device", "source"):
        given = document[section].items()
        rows = [(key, printable(value) if isinstance(value, str) else json.dumps(value)) for key, value in given]
        parts.append(_html_table(Table("", (section, ""), rows)))
    parts.append(f'<p class="note">{html.escape(document["date"])}</p></body></html>\n')
    return "\n".join(parts)


def to_markdown(question: str, report: Report, document: Mapping[str, Any]) -> str:
    """The same in Markdown, with figures that are files beside it."""
    lines = [f"# {question}", ""]
    lines += [f"- {sentence}" for sentence in report.findings]
    lines += [f"- Warning: {sentence}" for sentence in report.warnings]
    for table in [*report.tables, *report.details]:
        lines += ["", f"## {table.title}", ""]
        lines += [_markdown_row(row) for row in (table.headings, ["---"] * len(table.headings), *table.rows)]
        lines += ["", table.note] if table.note else []
    for name in report.figures:
        lines += ["", f"![{heading(name)}](./{name}.png)"]
    versions = ", ".join(f"{name} {value}" for name, value in document["versions"].items())
    device = document["device"]
    machine = f"{device['cpu_cores']} cores of {device['cpu']}, jax on {device['count']} x {device['kind']}"
    lines += ["", "## How it was made", "", f"`{printable(document['command'])}`", ""]
    lines += [f"{machine}; {versions}; {document['date']}."]
    return "\n".join(lines) + "\n"


def to_latex(report: Report) -> str:
    """The tables alone, for a document that loads the package booktabs."""
    return "\n".join(_latex_table(table) for table in [*report.tables, *report.details])


def heading(name: str) -> str:
    """The heading of a figure.

    >>> heading("kernels_conv1"), heading("my-own_figure")
    ('Kernels of conv1', 'My own figure')
    """
    for prefix, words in PREFIXES.items():
        if name.startswith(prefix):
            return f"{words} {name.removeprefix(prefix)}"
    return HEADINGS.get(name, name.replace("_", " ").replace("-", " ").capitalize())


def _is_number(cell: str) -> bool:
    return bool(_NUMBER.fullmatch(cell.partition("\n")[0].strip()))


def _rich(table: Table) -> RichTable:
    looks: dict[str, Any] = {"box": box.SIMPLE_HEAVY, "padding": (0, 1), "pad_edge": False, "collapse_padding": True}
    result = RichTable(title=escape(table.title), caption=escape(table.note), **looks)
    for column, name in enumerate(table.headings):
        cells = [row[column] for row in table.rows]
        # A heading takes more lines, not more width, than what stands under it: rich would cut numbers to make room.
        width = max((len(text) for cell in [*cells, *name.split()] for text in cell.splitlines()), default=1)
        wrapped = "\n".join(textwrap.wrap(name, width))
        result.add_column(escape(wrapped), justify="right" if column and all(map(_is_number, cells)) else "left")
    for row in table.rows:
        first_and_rest = (cell.partition("\n") for cell in row)
        result.add_row(
            *(escape(first) + (f"\n[dim]{escape(rest)}[/]" if rest else "") for first, _, rest in first_and_rest)
        )
    return result


def _html_table(table: Table) -> str:
    caption = f"<caption>{html.escape(table.title)}</caption>" if table.title else ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.headings)
    body = "\n".join("<tr>" + "".join(_html_cell(cell) for cell in row) + "</tr>" for row in table.rows)
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    return f'<div class="wide"><table>{caption}<tr>{head}</tr>\n{body}</table></div>{note}'


def _html_cell(cell: str) -> str:
    kind = ' class="number"' if _is_number(cell) else ""
    return f"<td{kind}>{html.escape(cell).replace(chr(10), '<br>')}</td>"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "<br>") for cell in cells) + " |"


def _latex_table(table: Table) -> str:
    numbers = [all(_is_number(row[column]) for row in table.rows) for column in range(len(table.headings))]
    columns = "".join("r" if number and index else "l" for index, number in enumerate(numbers))
    rows = [" & ".join(_latex(cell) for cell in row) + r" \\" for row in [table.headings, *table.rows]]
    caption = _latex(f"{table.title}. {table.note}" if table.note else table.title)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{{columns}}}"]
    lines += [r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _latex(text: str) -> str:
    """Text as LaTeX shows it; two lines as a stack of them."""
    escaped = "".join(_LATEX.get(letter, letter) for letter in text)
    stacked = escaped.replace("\n", r" \\ ")
    return rf"\shortstack{{{stacked}}}" if "\n" in escaped else escaped
