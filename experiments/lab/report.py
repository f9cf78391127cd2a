"""The answer to a question, and its formats: terminal, HTML, Markdown, LaTeX, CSV and JSON.

`report.html` is a single file with inlined figures; it loads nothing else. The templates are in `templates/`.
"""

import base64
import csv
import io
import itertools
import json
import math
import re
import shlex
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import jinja2
import matplotlib
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from experiments.lab import arms
from experiments.lab.arms import Arms
from experiments.lab.names import printable
from experiments.lab.options import Command, program
from experiments.lab.provenance import circumstances
from segjax.plotting import Figure

_TEMPLATES = Path(__file__).with_name("templates")
_GLOSSARY = Path(__file__).parents[2] / "docs" / "glossary.md"
# A word and the first paragraph below it.
_WORD = re.compile(r"^### (.+)\n\n(.+(?:\n.+)*)", re.MULTILINE)
# LaTeX characters that need a command: after a backslash most are accents or line breaks; <, > and | print as others.
_NAMED = {"\\": "backslash", "~": "asciitilde", "^": "asciicircum", "<": "less", ">": "greater", "|": "bar"}
_LATEX = {sign: f"\\{sign}" for sign in "&%$#_{}"} | {sign: rf"\text{name}{{}}" for sign, name in _NAMED.items()}
# At the start of a row these would be arguments of the line break before it.
_LATEX |= {sign: f"{{{sign}}}" for sign in "[*"}
# Two such characters in a row print as another one: -- is a dash.
_LIGATURE = re.compile("([-'`,?!])(?=[-'`,])")
_MINUS = re.compile(r"(?<![\w.])-(?=\d)")
# No-break space, and a place in a long word where a line may end.
_LATEX |= {"\N{NO-BREAK SPACE}": "~", "\N{ZERO WIDTH SPACE}": r"\allowbreak{}"}
# A cell with a number and its unit, which may have an interval: a column of such cells is aligned right.
_NUMBER = re.compile(r"([-+]?[\d.,]+(?:e[-+]?\d+)?(?: ?[%x])?)(?: \((\S+) to (\S+)\))?")
# Most characters of a row in one of two columns, and of a line of a cell.
_COLUMN, _LONGEST_LINE = 48, 40


class Table(NamedTuple):
    """Rows of text; a cell may have a second line, such as a range under a mean."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


class Drawing(NamedTuple):
    """A figure and its heading in the HTML page."""

    heading: str
    figure: Figure


class Report(NamedTuple):
    """The answer to a question.

    Attributes:
        findings: sentences, the most important first.
        tables: tables for the terminal and the files.
        figures: file name without its ending -> figure.
        arms: the runs that are compared, for results.json and runs.csv.
        results: name -> value of further sections of results.json, as `plain` takes them.
        rows: rows of runs.csv, if they are not those of the arms; all have the keys of the first.
        warnings: sentences on the limits of the findings.
        details: tables for the files alone.
        files: name -> content of further files, such as the trained network.
        markdown: name of a Markdown file of the report; empty for none.
        written: names of files that are written already.
        failures: one sentence for each part that failed; the command then exits with 1.
    """

    findings: Sequence[str]
    tables: Sequence[Table]
    figures: Mapping[str, Drawing]
    arms: Arms = MappingProxyType({})
    results: Mapping[str, Any] = MappingProxyType({})
    rows: Sequence[Mapping[str, Any]] = ()
    warnings: Sequence[str] = ()
    details: Sequence[Table] = ()
    files: Mapping[str, bytes] = MappingProxyType({})
    markdown: str = ""
    written: Sequence[str] = ()
    failures: Sequence[str] = ()

    @property
    def csv_rows(self) -> Sequence[Mapping[str, Any]]:
        return self.rows or arms.rows(self.arms)


def document(options: Command, identity: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """The content of results.json: arrays as lists, NaN and infinities as null.

    It has the results of the report and their provenance: command, options, versions, device, commit of the source.
    """
    command = shlex.join([*program(), *sys.argv[1:]])
    origin = {"command": command, **circumstances(), **identity, "options": options.flat}
    results = {**(arms.document(report.arms) if report.arms else {}), **report.results}
    return plain({**origin, **results, "warnings": list(report.warnings), "files": list(report.written)})


def files(question: str, report: Report, document: Mapping[str, Any]) -> dict[str, bytes]:
    """name -> content of every file of a report, except results.json.

    Args:
        question: heading of the HTML page.
        document: the return value of `document`.
    """
    figures, width = {name: drawing.figure for name, drawing in report.figures.items()}, document["options"]["pdf"]
    pictures = {name: picture(figure) for name, figure in figures.items()}
    contents = {f"{name}.png": png for name, png in pictures.items()}
    contents |= {f"{name}.pdf": picture(figure.at_width(width), "pdf") for name, figure in figures.items() if width}
    texts = {"runs.csv": _csv(report.csv_rows), "tables.tex": render("tables.tex", question, report, document)}
    if report.markdown:
        texts[report.markdown] = render("report.md", question, report, document)
    texts["report.html"] = render("report.html", question, report, document, pictures)
    # File names need not be UTF-8.
    encoded = {name: text.encode(errors="backslashreplace") for name, text in texts.items()}
    return {**contents, **report.files, **encoded}


def picture(figure: Figure, kind: Literal["png", "pdf"] = "png") -> bytes:
    """A figure as a PNG or PDF; equal figures have equal bytes."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"dpi": 300, "metadata": {"CreationDate": None}} if kind == "pdf" else {"dpi": 150}
    # TrueType, since journals refuse matplotlib's default, Type 3.
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def plain(value: Any) -> Any:
    """A value in JSON's types: NamedTuples as dicts, arrays as lists, paths as text, NaN and infinities as null."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        # The shortest number that rounds to this float32, which halves the file.
        return plain((array.astype(str).astype(float) if array.dtype == np.float32 else array).tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def show(report: Report, console: Console) -> None:
    """Prints the tables and the findings, as `Text`: rich would read brackets as markup, and ":x:" as an emoji."""
    report = _printable(report)
    for table in report.tables:
        console.print(_rich(table))
    for finding in report.findings:
        # A line break in a command would cut it where it is pasted.
        console.print(Text(f"- {finding}"), soft_wrap="python -m" in finding)
    for warning in report.warnings:
        console.print(Text.assemble(("Warning:", "bold"), f" {warning}"))


def render(
    name: Literal["report.html", "report.md", "tables.tex"],
    question: str,
    report: Report,
    document: Mapping[str, Any],
    pictures: Mapping[str, bytes] = MappingProxyType({}),
) -> str:
    """A report by the template of this name.

    Args:
        document: the return value of `document`.
        pictures: name in `report.figures` -> PNG, for the page.
    """
    report = _printable(report)
    variables = {"question": question, "report": report, "document": document, "pictures": pictures}
    # A copy of experiments/ without docs/ has no glossary, and loses no results.
    glossary = _WORD.findall(_GLOSSARY.read_text()) if _GLOSSARY.is_file() else []
    template = _environment().get_template(f"{name}.jinja")
    return template.render(tables=[*report.tables, *report.details], glossary=glossary, **variables)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=lambda name: name == "report.html.jinja",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.tests["number"] = _is_number
    environment.filters |= {
        "printable": printable,
        "json": json.dumps,
        "base64": lambda content: base64.b64encode(content).decode(),
        "breakable": lambda text: re.sub(r"\S{20}(?=\S)", "\\g<0>\N{ZERO WIDTH SPACE}", text),
        "latex": _latex,
        "latex_label": lambda text: re.sub("[^a-z0-9]+", "-", text.lower()).strip("-"),
        "latex_layout": _latex_layout,
    }
    return environment


def _printable(report: Report) -> Report:
    """The report with escapes for all characters that cannot be printed, but the line breaks of cells."""

    def table(table: Table) -> Table:
        rows = [["\n".join(map(printable, cell.split("\n"))) for cell in row] for row in table.rows]
        return Table(printable(table.title), list(map(printable, table.headings)), rows, printable(table.note))

    tables, details = (list(map(table, part)) for part in (report.tables, report.details))
    findings, warnings = (list(map(printable, part)) for part in (report.findings, report.warnings))
    return report._replace(tables=tables, details=details, findings=findings, warnings=warnings)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def _is_number(cell: str) -> bool:
    return bool(_NUMBER.fullmatch(cell.partition("\n")[0].strip()))


def _are_numbers(cells: Iterable[str]) -> bool:
    """Whether a column has numbers, but for cells without any."""
    filled = [cell for cell in cells if cell not in ("", "-")]
    return bool(filled) and all(map(_is_number, filled))


def _heading(name: str, lines: Iterable[str]) -> list[str]:
    """A heading in lines as wide as those of its column, or as its longest word."""
    return textwrap.wrap(name, max(map(len, [*lines, *name.split()]), default=1))


def _rich(table: Table) -> RichTable:
    style: dict[str, Any] = {"box": box.SIMPLE_HEAVY, "padding": (0, 1), "pad_edge": False, "collapse_padding": True}
    title, caption = Text(table.title, "table.title"), Text(table.note, "table.caption")
    result = RichTable(title=title, caption=caption, **style)
    for column, name in enumerate(table.headings):
        cells = [row[column] for row in table.rows]
        # Wrapped here, since rich would cut numbers to make room for headings.
        wrapped = Text("\n".join(_heading(name, (line for cell in cells for line in cell.splitlines()))))
        result.add_column(wrapped, justify="right" if column and _are_numbers(cells) else "left")
    for row in table.rows:
        lines = (cell.partition("\n") for cell in row)
        result.add_row(*(Text.assemble(first, (end + rest, "dim")) for first, end, rest in lines))
    return result


def _latex_layout(table: Table) -> tuple[bool, str, Sequence[Sequence[str]]]:
    """Whether a table fits a column of two, the alignment of its columns, and its rows, the headings first."""
    columns, alignment, width = [], "", 0
    for index, name in enumerate(table.headings):
        cells = [row[index] for row in table.rows]
        lines = [textwrap.wrap(_in_one_line(cell), _LONGEST_LINE, break_on_hyphens=False) for cell in cells]
        side = "r" if index and _are_numbers(cells) else "l"
        heading = _heading(name, itertools.chain(*lines))
        columns.append([_latex_cell(heading, side, "b"), *(_latex_cell(cell, side, "t") for cell in lines)])
        alignment += side
        width += 2 + max(map(len, itertools.chain(heading, *lines)), default=0)
    return width <= _COLUMN, alignment, list(zip(*columns, strict=True))


def _in_one_line(cell: str) -> str:
    """A range or an interval follows its number in parentheses: 0.2 (0.1, 0.3)."""
    text = re.sub(r"\n(.*)", r" (\1)", cell)
    match = _NUMBER.fullmatch(text)
    return f"{match[1]} ({match[2]},\N{NO-BREAK SPACE}{match[3]})" if match and match[2] else text


def _latex_cell(lines: Sequence[str], side: str, level: str) -> str:
    """The lines of a cell, of which the top (t) or the bottom (b) one is level with other cells."""
    latex = r" \\ ".join(map(_latex, lines))
    return rf"\begin{{tabular}}[{level}]{{@{{}}{side}@{{}}}}{latex}\end{{tabular}}" if len(lines) > 1 else latex


def _latex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return _MINUS.sub("$-$", _LIGATURE.sub(r"\1{}", "".join(_LATEX.get(sign, sign) for sign in text)))
