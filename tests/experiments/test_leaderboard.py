"""The leaderboard: its report from small files, and docs/records.md with the records of the repository."""

import json
import re

import pytest
from small_runs import ROOT, execute, parse
from test_records import ADAM, MOMENTUM, SGD, write

from experiments import compare_optimizers, leaderboard
from experiments.bench import bounds
from experiments.optimizers import records
from segjax.oracle import BayesError

PAGE = (ROOT / "docs" / "records.md").read_text()
STORED = ROOT / "docs" / "baselines" / "records.json"


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "measure", lambda *_: bounds.Bound(9, BayesError(0.01, 0.001, 0.01, 0.001)))
    return [
        write(tmp_path, 11, "sgd 0.1", SGD),
        write(tmp_path, 12, "momentum 0.1", MOMENTUM, ("sgd 0.1", SGD)),
        write(tmp_path, 13, "adam 0.1", ADAM, ("momentum 0.1", MOMENTUM)),
    ]


def test_the_report_names_the_record_and_what_is_not_decided(results, tmp_path):
    document = execute(leaderboard, "new", "--results", *results, "--out", tmp_path / "out")
    assert [each["record"] for each in document["standings"]] == ["sgd 0.1", "momentum 0.1", "momentum 0.1"]
    assert document["standings"][1]["decision"]["verdict"] == "better"
    page = (tmp_path / "out" / "records.md").read_text()
    for text in (
        "momentum 0.1 holds the record, since entry 2 of 3: held-out IoU 0.6075, error 39.25%.",
        "their time: 1 better, 0 worse, 1 not told apart.",
        "Bayes' rule on 9 x 9 pixels errs on 1.00%",
        "adam 0.1 and momentum 0.1 are not decided in held-out IoU after 8 seeds",
        "| 1. sgd 0.1 | 16 | 0.5075 | 49.25% |  | the first | 0 of 8 |",
    ):
        assert text in page
    assert (tmp_path / "out" / "records.png").exists()


def test_its_records_are_the_next_beginning(results, tmp_path):
    execute(leaderboard, "new", "--results", *results[:2], "--out", tmp_path / "first")
    words = ("--records", tmp_path / "first" / "records.json", "--results", results[2])
    execute(leaderboard, *words, "--out", tmp_path / "second")
    # No entry is new: the file stays as it is.
    stored = tmp_path / "second" / "records.json"
    execute(leaderboard, "--records", stored, "--out", tmp_path / "third")
    assert (tmp_path / "third" / "records.json").read_bytes() == stored.read_bytes()
    assert len(json.loads(stored.read_text())["entries"]) == 3


def test_the_page_has_the_table_of_the_stored_records():
    standings = records.standings(records.read(STORED, []).entries)
    assert leaderboard.record_finding(standings) in " ".join(PAGE.split())
    for row in leaderboard.standing_table(standings).rows:
        assert f"| {' | '.join(row)} |".replace("\n", "<br>") in PAGE


@pytest.mark.slow
def test_the_stored_record_is_a_baseline(monkeypatch):
    """The page's command, but for its runs: everything is read and checked before the first."""
    (words,) = re.findall(r"\npython -m experiments.compare_optimizers (.*--until-decided) --out", PAGE)
    assert "--baseline docs/baselines/records.json" in words
    monkeypatch.chdir(ROOT)
    options = parse(compare_optimizers, *words.replace("MINE", "mine=adam=0.03").split())
    options.check()
    (arm,) = options.stored.arms.values()
    assert len(arm.rows) == options.seeds.seeds
    assert options.stored.most_seeds == len(records.read(STORED, []).entries[0].runs)
