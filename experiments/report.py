"""What a command has to say: tables, sentences and figures, once for the screen, a page and a document.

`report.html` is one file: figures inlined, no script, nothing fetched.
"""

import base64
import html
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
img { max-width: 100%; height: auto; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
td.number { text-align: right; white-space: nowrap; }
ul.warning { background: #fff3d6; border-left: .3rem solid #e69f00; padding: .5rem 1rem .5rem 2.2rem; }
p.note { color: #555; font-size: .9rem; }
code, pre { background: #f4f4f4; padding: .1rem .3rem; } pre { padding: .6rem; overflow-x: auto; }
"""
_LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}
_NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?( ?[%x])?")


class Table(NamedTuple):
    """Text in rows; a cell may have a second line, such as a range under a mean."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


class Report(NamedTuple):
    """The answer of an experiment.

    Attributes:
        question: one line.
        findings: sentences, in the order of their weight.
        tables: shown on the screen as well.
        figures: file name without its ending -> Figure.
        warnings: sentences that say what the findings do not rest on.
    """

    question: str
    findings: Sequence[str]
    tables: Sequence[Table]
    figures: Mapping[str, Figure]
    warnings: Sequence[str] = ()


def question(doc: str | None) -> str:
    """The first line of a script's docstring."""
    return (doc or "").strip().splitlines()[0]


def show(report: Report, console: Console) -> None:
    """Prints the tables and the findings."""
    for table in report.tables:
        console.print(_rich(table))
    for sentence in report.findings:
        console.print(f"- {escape(sentence)}", highlight=False)
    for sentence in report.warnings:
        console.print(f"[bold]Warning:[/] {escape(sentence)}", highlight=False)


def to_html(report: Report, pictures: Mapping[str, bytes], document: Mapping[str, Any]) -> str:
    """One page that opens without a network.

    Args:
        pictures: PNG bytes by the names of `report.figures`.
        document: command, options, versions, device and date, as in `results.json`.
    """
    title = html.escape(report.question)
    parts = [f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>']
    parts += [f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"]
    if report.findings:
        parts += ["<ul>", *(f"<li>{html.escape(sentence)}</li>" for sentence in report.findings), "</ul>"]
    if report.warnings:
        items = (f"<li>{html.escape(sentence)}</li>" for sentence in report.warnings)
        parts += ['<ul class="warning">', *items, "</ul>"]
    parts += [_html_table(table) for table in report.tables]
    for name, picture in pictures.items():
        label = html.escape(heading(name))
        encoded = base64.b64encode(picture).decode()
        parts.append(f'<h2>{label}</h2><img alt="{label}" src="data:image/png;base64,{encoded}">')
    parts.append(f"<h2>How it was made</h2><pre>{html.escape(document['command'])}</pre>")
    for section in ("options", "versions", "device"):
        rows = [
            (key, value if isinstance(value, str) else json.dumps(value)) for key, value in document[section].items()
        ]
        parts.append(_html_table(Table("", (section, ""), rows)))
    parts.append(f'<p class="note">{html.escape(document["date"])}</p></body></html>\n')
    return "\n".join(parts)


def to_markdown(report: Report, document: Mapping[str, Any], folder: str) -> str:
    """The same as a document whose figures are files in `folder`."""
    lines = [f"# {report.question}", ""]
    lines += [f"- {sentence}" for sentence in report.findings]
    lines += [f"- Warning: {sentence}" for sentence in report.warnings]
    for table in report.tables:
        lines += [
            "",
            f"## {table.title}",
            "",
            _markdown_row(table.headings),
            _markdown_row(["---"] * len(table.headings)),
        ]
        lines += [_markdown_row(row) for row in table.rows]
        lines += ["", table.note] if table.note else []
    for name in report.figures:
        lines += ["", f"![{heading(name)}]({folder}/{name}.png)"]
    versions = ", ".join(f"{name} {value}" for name, value in document["versions"].items())
    device = document["device"]
    machine = f"{device['cpu_cores']} cores of {device['cpu']}, jax on {device['count']} x {device['kind']}"
    lines += [
        "",
        "## How it was made",
        "",
        f"`{document['command']}`",
        "",
        f"{machine}; {versions}; {document['date']}.",
    ]
    return "\n".join(lines) + "\n"


def to_latex(report: Report) -> str:
    """The tables alone, for a document that loads the package booktabs."""
    return "\n".join(_latex_table(table) for table in report.tables)


def heading(name: str) -> str:
    """A file's name as a heading: learning_curves -> Learning curves."""
    return name.replace("_", " ").replace("-", " ").capitalize()


def _is_number(cell: str) -> bool:
    return bool(_NUMBER.fullmatch(cell.partition("\n")[0].strip()))


def _rich(table: Table) -> RichTable:
    result = RichTable(
        title=escape(table.title),
        caption=escape(table.note),
        box=box.SIMPLE_HEAVY,
        padding=(0, 1),
        pad_edge=False,
        collapse_padding=True,
    )
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
