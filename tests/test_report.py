import io
import re

from matplotlib.figure import Figure
from rich.console import Console

from experiments import report
from experiments.report import Report, Table

TABLE = Table("A [title]", ("", "mean loss"), [["a|b <c>", "0.5\n0.4-0.6"], ["d", "1.0"]], "A note.")
DOCUMENT = {
    "command": "python -m it --out 'a b'",
    "options": {"out": "x", "rates": [1, 2]},
    "versions": {"jax": "0"},
    "device": {"cpu_cores": 2, "cpu": "C", "count": 1, "kind": "cpu"},
    "date": "today",
}


def test_page_escapes_what_it_shows_and_inlines_its_figures():
    page = report.to_html(Report("Is 1 < 2?", ["A & B."], [TABLE], {"it": Figure()}), {"it": b"PNG"}, DOCUMENT)
    for text in ("Is 1 &lt; 2?", "A &amp; B.", "a|b &lt;c&gt;", '<td class="number">0.5<br>0.4-0.6</td>', "[1, 2]"):
        assert text in page
    assert re.findall('src="([^"]*)"', page) == ["data:image/png;base64,UE5H"]
    assert page.count("<table>") == page.count("</table>") == 4


def test_screen_shows_every_cell_and_sentence():
    console = Console(file=io.StringIO(), width=80)
    report.show(Report("?", ["Found [it]."], [TABLE], {}), console)
    text = console.file.getvalue()
    for part in ("A [title]", "a|b <c>", "0.4-0.6", "A note.", "Found [it]."):
        assert part in text


def test_screen_cuts_no_word_where_it_is_narrow():
    rows = [["a_long_name_it_is", *["0.945\n0.924-0.956"] * 4]]
    console = Console(file=io.StringIO(), width=80)
    report.show(Report("?", [], [Table("t", ("", *["a heading of many words"] * 4), rows)], {}), console)
    text = console.file.getvalue()
    assert text.count("0.924-0.956") == 4
    assert "a_long_name_it_is" in text
    assert "…" not in text


def test_document_has_a_row_a_line():
    text = report.to_markdown(Report("Question?", ["Found."], [TABLE], {"a_figure": Figure()}), DOCUMENT, "images")
    assert "| a\\|b <c> | 0.5<br>0.4-0.6 |" in text
    assert "![A figure](images/a_figure.png)" in text
    assert "`python -m it --out 'a b'`" in text
    assert "2 cores of C" in text


def test_warnings_are_shown_everywhere():
    warned = Report("?", [], [], {}, ["Only 2 < 5 seeds."])
    console = Console(file=io.StringIO(), width=80)
    report.show(warned, console)
    assert "Warning: Only 2 < 5 seeds." in console.file.getvalue()
    assert '<ul class="warning">\n<li>Only 2 &lt; 5 seeds.</li>' in report.to_html(warned, {}, DOCUMENT)
    assert "- Warning: Only 2 < 5 seeds." in report.to_markdown(warned, DOCUMENT, ".")


def test_latex_escapes_and_stacks():
    text = report.to_latex(Report("?", [], [TABLE, Table("100 %", ("", "a_b"), [["x\\y", "1 & 2"]])], {}))
    assert text.count(r"\begin{tabular}{lr}") == text.count(r"\begin{tabular}{ll}") == 1
    assert r"a|b \textless{}c\textgreater{} & \shortstack{0.5 \\ 0.4-0.6} \\" in text
    assert r"\caption{A [title]. A note.}" in text
    assert r"\caption{100 \%}" in text
    assert r" & a\_b \\" in text
    assert r"x\textbackslash{}y & 1 \& 2 \\" in text
