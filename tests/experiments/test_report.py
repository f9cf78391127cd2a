"""The forms of a report, made by hand: on the terminal, as HTML, Markdown and LaTeX, as CSV and JSON."""

import csv
import html
import io
import json
import re
import string
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from small_runs import ARMS

from experiments.lab import arms, provenance, report
from experiments.lab.options import Comparison, Engine, identity_of
from experiments.lab.report import Drawing, Report, Table

TABLE = Table("A [title]", ("", "mean loss"), [["a|b <c>", "0.5\n0.4-0.6"], ["d", "1.0"]], "A note.")
DOCUMENT = {
    "command": "python -m it --out 'a b'",
    "options": {"out": "x", "rates": [1, 2]},
    "versions": {"jax": "0"},
    "numerics": {"enable_x64": False},
    "device": {"cpu_cores": 2, "cpu": "C", "count": 1, "kind": "cpu"},
    "source": {"commit": "abc123", "clean": True},
    "date": "today",
}


def make(findings=(), tables=(), figures=(), warnings=()):
    return Report(findings, tables, {name: Drawing("A < figure", Figure()) for name in figures}, warnings=warnings)


def test_page_escapes_what_it_shows_and_inlines_its_figures():
    page = report.to_html("Is 1 < 2?", make(["A & B."], [TABLE], ["it"]), {"it": b"PNG"}, DOCUMENT)
    for text in (
        "Is 1 &lt; 2?",
        "A &amp; B.",
        "a|b &lt;c&gt;",
        "A &lt; figure",
        '<td class="number">0.5<br>0.4-0.6</td>',
        "[1, 2]",
    ):
        assert text in page
    assert re.findall('src="([^"]*)"', page) == ["data:image/png;base64,UE5H"]
    # One of its own, and the options, versions, numerics, device and source.
    assert page.count("<table>") == page.count("</table>") == 6
    assert "abc123" in page


def test_each_table_of_a_page_leads_to_the_glossary_of_the_docs():
    page = report.to_html("?", make([], [TABLE, TABLE]), {}, DOCUMENT)
    assert page.count('href="#glossary"') == 2
    _, rest = page.split('<h2 id="glossary">')
    entries = re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", rest, re.DOTALL)
    glossary = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text()
    assert [word for word, _ in entries] == re.findall("^### (.*)", glossary, re.MULTILINE)
    for word, meaning in entries:
        assert f"### {word}\n\n{html.unescape(meaning)}\n\n" in glossary
        # The site's links and code would be read as they are.
        assert not re.search(r"[`*]|\]\(", meaning), word


def test_without_the_docs_a_page_has_no_glossary_and_loses_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "_GLOSSARY", tmp_path / "glossary.md")
    page = report.to_html("?", make([], [TABLE]), {}, DOCUMENT)
    assert "a|b &lt;c&gt;" in page
    assert "lossary" not in page


def test_the_terminal_shows_every_cell_and_sentence():
    console = Console(file=io.StringIO(), width=80)
    report.show(make(["An [odd] finding."], [TABLE]), console)
    text = console.file.getvalue()
    for part in ("A [title]", "a|b <c>", "0.4-0.6", "A note.", "An [odd] finding."):
        assert part in text


def test_screen_cuts_no_word_where_it_is_narrow():
    rows = [["a_long_name_this_is", *["0.945\n0.924-0.956"] * 4]]
    console = Console(file=io.StringIO(), width=80)
    report.show(make([], [Table("t", ("", *["a heading of many words"] * 4), rows)]), console)
    text = console.file.getvalue()
    assert text.count("0.924-0.956") == 4
    assert "a_long_name_this_is" in text
    assert "…" not in text


def test_a_markdown_table_has_a_line_per_row():
    text = report.to_markdown("Question?", make(["A finding."], [TABLE], ["a_figure"]), DOCUMENT)
    assert text.startswith("# Question?\n")
    assert "| a\\|b <c> | 0.5<br>0.4-0.6 |" in text
    assert "![A < figure](./a_figure.png)" in text
    assert "`python -m it --out 'a b'`" in text
    assert "2 cores of C" in text


def test_warnings_are_shown_everywhere():
    warned = make(warnings=["Only 2 < 5 seeds."])
    console = Console(file=io.StringIO(), width=80)
    report.show(warned, console)
    assert "Warning: Only 2 < 5 seeds." in console.file.getvalue()
    assert '<ul class="warning"><li>Only 2 &lt; 5 seeds.</li>' in report.to_html("?", warned, {}, DOCUMENT)
    assert "- Warning: Only 2 < 5 seeds." in report.to_markdown("?", warned, DOCUMENT)


def test_latex_escapes_and_stacks():
    text = report.to_latex(make([], [TABLE, Table("100 %", ("", "a_b"), [["x\\y", "1 & 2"]])]))
    assert text.count(r"\begin{tabular}{lr}") == text.count(r"\begin{tabular}{ll}") == 1
    assert r"a\textbar{}b \textless{}c\textgreater{} & \shortstack{0.5 \\ 0.4-0.6} \\" in text
    assert r"\caption{A {[}title]. A note.}" in text
    assert r"\caption{100 \%}" in text
    assert r" & a\_b \\" in text
    assert r"x\textbackslash{}y & 1 \& 2 \\" in text


# What LaTeX prints for a command.
PRINTED = {"backslash": "\\", "asciitilde": "~", "asciicircum": "^", "less": "<", "greater": ">", "bar": "|"}
LIGATURES = ["--", "---", "``", "''", ",,", "!`", "?`"]


@pytest.mark.parametrize("label", [*string.printable.strip(), *LIGATURES, "[2pt]", "*[2pt]", "a & b", "\\\\[", "{"])
def test_latex_prints_every_label_as_it_is(label):
    text = report.to_latex(make([], [Table("t", (label, "loss"), [[label, "0.5"], [f"{label}\n{label}", "0.5"]])]))
    # A line break and a rule would take these as arguments, also over blanks.
    assert not re.search(r"(\\\\|rule)\s*[\[*]", text)
    heading, cell, stack = re.findall(r"^(.*) & .* \\\\$", text, re.MULTILINE)
    first, second = stack.removeprefix(r"\shortstack{").removesuffix("}").split(r" \\ ")
    for latex in (heading, cell, first, second):
        assert not re.search(r"--|``|\'\'|,,|[!?]`", latex)
        printed = re.sub(r"\\text(\w+)\{\}|\\([^a-z])|\{(.?)\}", lambda m: PRINTED.get(m[1]) or m[2] or m[3], latex)
        assert printed == label


ODD = ["[bold]red", "[/]", ":x: :smile:", "[link=a]b[/link]", "a\\[b]", "a\\", "[[x]]"]


@pytest.mark.parametrize("text", ODD)
def test_the_terminal_shows_what_rich_could_read_as_markup_or_emoji_as_it_is(text):
    console = Console(file=io.StringIO(), width=80)
    table = Table(text, (text, "b"), [[text, f"1\n{text}"]], text)
    report.show(make([text], [table], warnings=[text]), console)
    lines = console.file.getvalue()
    # Title, heading, two cells, note, finding and warning.
    assert lines.count(text) == 7
    assert f"\n- {text}\nWarning: {text}\n" in lines


def test_characters_that_cannot_be_printed_are_escapes_in_every_format():
    """Such as those of a command in a file that somebody else wrote."""
    odd, escape = "\x1b[31m\u202e", r"\x1b[31m\u202e"
    table = Table(odd, (odd, odd), [[odd, f"{odd}\n{odd}"]], odd)
    shown = make([odd], [table], warnings=[odd])._replace(details=[table])
    console = Console(file=io.StringIO(), width=200)
    report.show(shown, console)
    texts = [
        console.file.getvalue(),
        report.to_html("?", shown, {}, DOCUMENT),
        report.to_markdown("?", shown, DOCUMENT),
    ]
    for text in texts:
        assert escape in text
    latex = report.to_latex(shown)
    assert r"\textbackslash{}x1b{[}31m\textbackslash{}u202e" in latex
    for text in [*texts, latex]:
        assert text.replace("\n", "").isprintable()


def test_values_that_json_has_not_are_null_or_text(tmp_path):
    values = {"a": np.array([1.0, np.nan]), 1: (np.int32(2), -np.inf), "path": tmp_path, "none": None}
    assert report.plain(values) == {"a": [1.0, None], "1": [2, None], "path": str(tmp_path), "none": None}
    assert report.plain([Drawing("a", np.inf)]) == [{"heading": "a", "figure": None}]


def test_a_command_to_paste_is_never_wrapped():
    console = Console(file=io.StringIO(), width=40)
    command = f"python -m experiments.segment_image {'long/' * 12}model.safetensors"
    report.show(make([f"The model is saved; look with: {command}", "A sentence " * 9], []), console)
    first, *rest = console.file.getvalue().splitlines()
    assert first.endswith(command)
    assert len(rest) > 1


REPORT = Report(
    findings=["It works."],
    tables=[Table("A table", ("", "loss"), [["a", "0.5"]])],
    figures={"small": Drawing("A drawing", Figure(figsize=(2, 1)))},
    results={"curve": np.array([0.5, np.nan])},
    rows=[{"name": "a, b", "loss": 0.5}, {"name": "c", "loss": None}],
    warnings=["One seed."],
    files={"model.safetensors": b"weights"},
    written=["mask.png"],
)


def document_of(answer, out="out"):
    options = Comparison(out=out, engine=Engine(width=2))
    return report.document(options, identity_of(options, "it"), answer)


def files_of(answer):
    return report.files("Does it?", answer, document_of(answer))


def test_the_files_are_those_of_the_report():
    files = files_of(REPORT)
    assert list(files) == ["small.png", "model.safetensors", "runs.csv", "tables.tex", "report.html"]
    with Image.open(io.BytesIO(files["small.png"])) as picture:
        # 150 dots per inch.
        assert picture.size == (300, 150)
    assert files["model.safetensors"] == b"weights"
    assert list(csv.reader(io.StringIO(files["runs.csv"].decode()))) == [["name", "loss"], ["a, b", "0.5"], ["c", ""]]
    assert rb"\caption{A table}" in files["tables.tex"]
    page = files["report.html"].decode()
    for text in ("<h1>Does it?</h1>", "It works.", "One seed.", "A table", "<h2>A drawing</h2>"):
        assert text in page


def test_results_hold_the_numbers_and_what_made_them(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["it.py", "--out", "a folder"])
    document = document_of(REPORT, tmp_path)
    assert document["experiment"] == "it"
    assert document["command"].endswith(" --out 'a folder'")
    assert document["curve"] == [0.5, None]
    # All options, those that change no result as well, flat.
    assert (document["options"]["width"], document["options"]["out"]) == (2, str(tmp_path))
    assert document["versions"] == provenance.versions()
    assert document["device"] == provenance.circumstances()["device"]
    assert document["warnings"] == ["One seed."]
    # Files that were written before are of the results too.
    assert document["files"] == ["mask.png"]
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_the_document_and_the_rows_of_arms_come_by_themselves():
    compared = Report([], [], {}, ARMS, results={"reference": "a"})
    document = document_of(compared)
    assert document["summary"] == report.plain(arms.document(ARMS)["summary"])
    assert document["reference"] == "a"
    assert len(document["runs"]) == len(compared.csv_rows) == 6
    rows = list(csv.DictReader(io.StringIO(files_of(compared)["runs.csv"].decode())))
    assert [(row["label"], row["seed"]) for row in rows] == [(label, f"{seed}") for label in "ab" for seed in range(3)]
    # Other rows take their place; a question without runs has neither.
    assert compared._replace(rows=[{"phase": 1}]).csv_rows == [{"phase": 1}]
    assert "runs" not in document_of(REPORT)


def test_markdown_is_a_file_where_a_report_names_it():
    files = files_of(REPORT._replace(markdown="notes.md"))
    assert files["notes.md"].startswith(b"# Does it?\n")
    assert b"![A drawing](./small.png)" in files["notes.md"]


def test_a_name_that_is_not_utf_8_is_written_with_escapes():
    assert files_of(REPORT._replace(rows=[{"name": "caf\udce9"}]))["runs.csv"] == b"name\ncaf\\udce9\n"
