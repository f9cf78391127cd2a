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
from PIL import Image
from rich.console import Console
from small_runs import ARMS, typeset

from experiments.lab import arms, provenance, report
from experiments.lab.options import Comparison, Engine, identity_of
from experiments.lab.report import Drawing, Report, Table
from segjax.plotting import Figure, bars

TABLE = Table("A [title]", ("", "mean loss"), [["a|b <c>", "0.5\n0.4-0.6"], ["d", "1.0"]], "A note.")
DOCUMENT = {
    "experiment": "try_it",
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
    page = report.render("report.html", "Is 1 < 2?", make(["A & B."], [TABLE], ["it"]), DOCUMENT, {"it": b"PNG"})
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
    page = report.render("report.html", "?", make([], [TABLE, TABLE]), DOCUMENT)
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
    page = report.render("report.html", "?", make([], [TABLE]), DOCUMENT)
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
    text = report.render("report.md", "Question?", make(["A finding."], [TABLE], ["a_figure"]), DOCUMENT)
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
    assert '<ul class="warning"><li>Only 2 &lt; 5 seeds.</li>' in report.render("report.html", "?", warned, DOCUMENT)
    assert "- Warning: Only 2 < 5 seeds." in report.render("report.md", "?", warned, DOCUMENT)


def latex_of(*tables):
    return report.render("tables.tex", "?", make([], tables), DOCUMENT)


def test_latex_has_a_caption_a_label_a_note_and_intervals_in_line():
    text = latex_of(TABLE, Table("100 %", ("", "a_b"), [["x\\y", "1 & 2"]]))
    assert r"\usepackage{booktabs,graphicx}" in text.splitlines()[0]
    assert text.count(r"\begin{tabular}{lr}") == text.count(r"\begin{tabular}{ll}") == 1
    assert r"a\textbar{}b \textless{}c\textgreater{} & 0.5 (0.4-0.6) \\" in text
    assert "\\caption{A {[}title]}\n\\label{tab:try-it-a-title}\n" in text
    assert r"\raggedright A note.}" in text
    assert r"\caption{100 \%}" in text
    assert r" & a\_b \\" in text
    assert r"x\textbackslash{}y & 1 \& 2 \\" in text


@pytest.mark.parametrize(
    ("cell", "latex"),
    [
        ("0.94\n0.93 to 0.95", "0.94 (0.93,~0.95)"),
        ("-0.94 (-0.95 to +0.93)", "$-$0.94 ($-$0.95,~+0.93)"),
        ("2 of 5\n1 ties", "2 of 5 (1 ties)"),
        ("seeds (0 to 4)", "seeds (0 to 4)"),
    ],
)
def test_latex_of_a_cell_is_one_line(cell, latex):
    assert rf"a & {latex} \\" in latex_of(Table("t", ("", "b"), [["a", cell]]))


def test_columns_of_numbers_are_aligned_right_also_with_gaps_and_intervals():
    rows = [["a", "-", "", "0.1 (0.0 to 0.2)", "-"], ["b", "0.5", "1e-3", "-", ""]]
    assert r"\begin{tabular}{lrrrl}" in latex_of(Table("t", ("",) * 5, rows))


def test_a_table_that_is_wider_than_a_column_takes_both():
    assert r"\begin{table}" in latex_of(Table("t", ("a", "b"), [["c" * 20, "d" * 20]]))
    assert r"\begin{table*}" in latex_of(Table("t", ("a", "b"), [["c" * 30, "d" * 30]]))


# What LaTeX prints for a command.
PRINTED = {"backslash": "\\", "asciitilde": "~", "asciicircum": "^", "less": "<", "greater": ">", "bar": "|"}
LIGATURES = ["--", "---", "``", "''", ",,", "!`", "?`"]


@pytest.mark.parametrize("label", [*string.printable.strip(), *LIGATURES, "[2pt]", "*[2pt]", "a & b", "\\\\[", "{"])
def test_latex_prints_every_label_as_it_is(label):
    # Its second line is full.
    long = f"{label} {'a' * 40}"
    text = latex_of(Table("t", (label, "loss"), [[label, "0.5"], [long, "0.5"]]))
    # A line break and a rule would take these as arguments, also over blanks.
    assert not re.search(r"(\\\\|rule)\s*[\[*]", text)
    heading, cell, lines = re.findall(r"^(.*) & .* \\\\$", text, re.MULTILINE)
    first = lines.removeprefix(r"\begin{tabular}[t]{@{}l@{}}").partition(r" \\ ")[0]
    for latex in (heading, cell, first):
        assert not re.search(r"--|``|\'\'|,,|[!?]`", latex)
        printed = re.sub(r"\\text(\w+)\{\}|\\([^a-z])|\{(.?)\}", lambda m: PRINTED.get(m[1]) or m[2] or m[3], latex)
        assert printed == label


# As wide, long and odd as tables of the experiments can be.
PATH = "optax.contrib:schedule_free_adamw 0.0025"
PRINTABLE = "".join(map(chr, range(32, 127)))
PAPER = [
    TABLE,
    Table(
        f"Against {PATH}", ("", "probability of being better"), [[PATH, "0.00\n0.00 to 0.43"]], f"Minus {'a' * 200}."
    ),
    Table("Scores", ("", *["running-mean agreement"] * 6), [["a" * 200, *["0.0939\n0.0936 to 0.0940"] * 6]]),
    Table("Sentences", ("flaw", "what shows it"), [["A sentence of some length. " * 9] * 2] * 3, "A note. " * 30),
    Table(PRINTABLE, [PRINTABLE] * 3, [[PRINTABLE] * 3] * 2, PRINTABLE),
    Table("", ("a",), []),
    Table("Many columns", [f"h{number}" for number in range(40)], [["0.12345"] * 40]),
    Table("Many rows", ("", "number"), [[f"row {number}", "0.5"] for number in range(40)]),
]


@pytest.mark.deep
@pytest.mark.parametrize("columns", ["onecolumn", "twocolumn"])
def test_an_article_takes_the_tables_without_an_overfull_box(columns, tmp_path):
    typeset(latex_of(*PAPER), tmp_path, columns)


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
        report.render("report.html", "?", shown, DOCUMENT),
        report.render("report.md", "?", shown, DOCUMENT),
    ]
    for text in texts:
        assert escape in text
    latex = report.render("tables.tex", "?", shown, DOCUMENT)
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


def test_a_pdf_has_the_width_that_is_asked_for_and_keeps_its_text_as_text():
    figure = bars({"adam": np.ones(3)}, "seconds", "title")
    options = Comparison(out="out", pdf=3.3)
    document = report.document(options, identity_of(options, "it"), REPORT)
    files = report.files("?", REPORT._replace(figures={"small": Drawing("A drawing", figure)}), document)
    # 72 points per inch; Type 3 fonts are drawings of characters.
    assert float(re.search(rb"/MediaBox \[ 0 0 (\S+) ", files["small.pdf"])[1]) == pytest.approx(237.6)
    assert b"/TrueType" in files["small.pdf"] or b"/CIDFontType2" in files["small.pdf"]
    assert b"/Type3" not in files["small.pdf"]
    # The width changes no result, but finished results may lack these figures.
    without = identity_of(Comparison(out="out"), "it")
    assert identity_of(options, "it") == {**without, "options": {**without["options"], "pdf": 3.3}}


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
