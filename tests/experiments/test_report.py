import io
import re

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from experiments.lab import report
from experiments.lab.report import Report, Table

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
    return Report(findings, tables, {name: Figure() for name in figures}, {}, [], warnings)


def test_page_escapes_what_it_shows_and_inlines_its_figures():
    page = report.to_html("Is 1 < 2?", make(["A & B."], [TABLE], ["it"]), {"it": b"PNG"}, DOCUMENT)
    for text in ("Is 1 &lt; 2?", "A &amp; B.", "a|b &lt;c&gt;", '<td class="number">0.5<br>0.4-0.6</td>', "[1, 2]"):
        assert text in page
    assert re.findall('src="([^"]*)"', page) == ["data:image/png;base64,UE5H"]
    # Its own, and the options, versions, numerics, device and source.
    assert page.count("<table>") == page.count("</table>") == 6
    assert "abc123" in page


def test_screen_shows_every_cell_and_sentence():
    console = Console(file=io.StringIO(), width=80)
    report.show(make(["Found [it]."], [TABLE]), console)
    text = console.file.getvalue()
    for part in ("A [title]", "a|b <c>", "0.4-0.6", "A note.", "Found [it]."):
        assert part in text


def test_screen_cuts_no_word_where_it_is_narrow():
    rows = [["a_long_name_it_is", *["0.945\n0.924-0.956"] * 4]]
    console = Console(file=io.StringIO(), width=80)
    report.show(make([], [Table("t", ("", *["a heading of many words"] * 4), rows)]), console)
    text = console.file.getvalue()
    assert text.count("0.924-0.956") == 4
    assert "a_long_name_it_is" in text
    assert "…" not in text


def test_document_has_a_row_a_line():
    text = report.to_markdown("Question?", make(["Found."], [TABLE], ["a_figure"]), DOCUMENT)
    assert text.startswith("# Question?\n")
    assert "| a\\|b <c> | 0.5<br>0.4-0.6 |" in text
    assert "![A figure](./a_figure.png)" in text
    assert "`python -m it --out 'a b'`" in text
    assert "2 cores of C" in text


def test_warnings_are_shown_everywhere():
    warned = make(warnings=["Only 2 < 5 seeds."])
    console = Console(file=io.StringIO(), width=80)
    report.show(warned, console)
    assert "Warning: Only 2 < 5 seeds." in console.file.getvalue()
    assert '<ul class="warning">\n<li>Only 2 &lt; 5 seeds.</li>' in report.to_html("?", warned, {}, DOCUMENT)
    assert "- Warning: Only 2 < 5 seeds." in report.to_markdown("?", warned, DOCUMENT)


def test_latex_escapes_and_stacks():
    text = report.to_latex(make([], [TABLE, Table("100 %", ("", "a_b"), [["x\\y", "1 & 2"]])]))
    assert text.count(r"\begin{tabular}{lr}") == text.count(r"\begin{tabular}{ll}") == 1
    assert r"a|b \textless{}c\textgreater{} & \shortstack{0.5 \\ 0.4-0.6} \\" in text
    assert r"\caption{A [title]. A note.}" in text
    assert r"\caption{100 \%}" in text
    assert r" & a\_b \\" in text
    assert r"x\textbackslash{}y & 1 \& 2 \\" in text


def test_what_json_has_not_is_null_or_text(tmp_path):
    given = {"a": np.array([1.0, np.nan]), 1: (np.int32(2), -np.inf), "path": tmp_path, "none": None}
    assert report.plain(given) == {"a": [1.0, None], "1": [2, None], "path": str(tmp_path), "none": None}


def test_a_command_to_paste_is_never_wrapped():
    console = Console(file=io.StringIO(), width=40)
    command = f"python -m experiments.segment_image {'long/' * 12}model.safetensors"
    report.show(make([f"The model is saved; look with: {command}", "A sentence " * 9], []), console)
    first, *rest = console.file.getvalue().splitlines()
    assert first.endswith(command)
    assert len(rest) > 1
