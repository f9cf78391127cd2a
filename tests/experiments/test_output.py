"""The files of a report: made by hand here, without any training."""

import csv
import io
import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from experiments.lab import output, provenance, store
from experiments.lab.options import Comparison
from experiments.lab.report import Report, Table

REPORT = Report(
    findings=["It works."],
    tables=[Table("A table", ("", "loss"), [["a", "0.5"]])],
    figures={"small": Figure(figsize=(2, 1))},
    results={"curve": np.array([0.5, np.nan])},
    rows=[{"name": "a, b", "loss": 0.5}, {"name": "c", "loss": None}],
    warnings=["One seed."],
    files={"model.safetensors": b"weights"},
    written=["mask.png"],
)
FILES = ["small.png", "model.safetensors", "runs.csv", "tables.tex", "report.html"]


def write(out, report, console=None):
    """The document that is written."""
    options = Comparison(out=out, preset="quick")
    identity = options.identity("it")
    store.claim(out, identity)
    output.write(options, identity, "Does it?", report, console or Console(quiet=True))
    return json.loads((out / "results.json").read_text())


def test_the_files_are_those_of_the_report(tmp_path):
    write(tmp_path, REPORT)
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, "results.json", "options.json"}
    with Image.open(tmp_path / "small.png") as picture:
        # 150 dots an inch.
        assert picture.size == (300, 150)
    assert (tmp_path / "model.safetensors").read_bytes() == b"weights"
    with (tmp_path / "runs.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["name", "loss"], ["a, b", "0.5"], ["c", ""]]
    assert r"\caption{A table}" in (tmp_path / "tables.tex").read_text()
    page = (tmp_path / "report.html").read_text()
    for words in ("<h1>Does it?</h1>", "It works.", "One seed.", "A table", "Small"):
        assert words in page


def test_results_hold_the_numbers_and_what_made_them(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["it.py", "--out", "a folder"])
    document = write(tmp_path, REPORT)
    assert document["experiment"] == "it"
    assert document["command"].endswith(" --out 'a folder'")
    assert document["curve"] == [0.5, None]
    # All options, those that change no result as well.
    assert (document["options"]["preset"], document["options"]["out"]) == ("quick", str(tmp_path))
    assert document["versions"] == provenance.versions()
    assert document["device"] == provenance.circumstances()["device"]
    assert document["warnings"] == ["One seed."]
    # What the work wrote before is of the results too.
    assert document["files"] == ["mask.png", *FILES]


def test_markdown_is_written_where_it_is_wanted(tmp_path):
    document = write(tmp_path, REPORT._replace(markdown="notes.md"))
    assert "notes.md" in document["files"]
    assert (tmp_path / "notes.md").read_text().startswith("# Does it?\n")


def test_a_name_that_is_not_utf_8_is_written_with_escapes(tmp_path):
    write(tmp_path, REPORT._replace(rows=[{"name": "caf\udce9"}]))
    assert (tmp_path / "runs.csv").read_bytes() == b"name\ncaf\\udce9\n"


def test_all_is_kept_before_anything_is_shown(tmp_path):
    class Lost(io.StringIO):
        def write(self, text):
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        write(tmp_path, REPORT, Console(file=Lost()))
    assert json.loads((tmp_path / "results.json").read_text())["files"] == ["mask.png", *FILES]


def test_the_last_line_says_what_to_open(tmp_path):
    console = Console(file=io.StringIO(), width=80)
    write(tmp_path, REPORT, console)
    last = console.file.getvalue().splitlines()[-1]
    assert last == f"Wrote {len([*FILES, 'results.json'])} files; open {tmp_path / 'report.html'}"
