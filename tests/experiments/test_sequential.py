"""Verdicts at any number of seeds: when they fall, in which direction, and what the command says of them."""

import numpy as np
import pytest
from small_runs import SHORT, accuracies, count_training, execute, parse

from experiments import compare_optimizers
from experiments.optimizers import sequential
from segjax import statistics

EQUAL = [0.6, 0.7, 0.8, 0.6, 0.7, 0.8, 0.6, 0.7]
BETTER = [0.9, 0.9, 1.0, 0.8, 0.9, 1.0, 0.9, 0.9]


def decisions(*shares):
    """The decisions of rivals b, c ... with these accuracies against the first, a."""
    arms = {}
    for label, accuracy in zip("abcd", shares, strict=False):
        arms |= accuracies(label, *accuracy)
    return sequential.decisions({label: arm for label, arm in arms.items() if label != "a"}, arms["a"])


def test_a_lone_rival_is_decided_as_the_statistics_say():
    decision = decisions(EQUAL, BETTER)["b"]
    expected = statistics.sequential(np.subtract(BETTER, EQUAL))
    np.testing.assert_allclose(decision.evidence, expected.evidence, rtol=1e-5)
    assert decision.decided_after == 1 + np.argmax(expected.evidence >= 20)
    assert decision.verdict == "better"
    np.testing.assert_allclose(decision.difference, [part[-1] for part in expected.difference], rtol=1e-5)
    assert decisions(BETTER, EQUAL)["b"].verdict == "worse"


def test_rivals_share_the_level():
    alone, first, second = decisions(EQUAL, BETTER)["b"], *decisions(EQUAL, BETTER, EQUAL[::-1]).values()
    # The mean of both, since the other has less.
    np.testing.assert_allclose(first.evidence[-1], (alone.evidence[-1] + second.evidence[-1]) / 2)
    assert second.decided_after is None
    assert second.verdict == "not told apart"


@pytest.mark.parametrize("others", [[], [1.0], [0.5, 30.0], [300.0, 2.0, 0.1]])
def test_an_e_value_that_is_enough_beside_the_others_makes_the_shared_one_enough(others):
    alone = sequential._enough_alone(np.array(others))
    assert statistics.shared_evidence([alone, *others])[0] == pytest.approx(sequential.ENOUGH)
    assert statistics.shared_evidence([0.99 * alone, *others])[0] < sequential.ENOUGH


def test_a_rival_that_is_undecided_needs_more_seeds_than_it_has():
    gains = [0.1, 0.0, 0.2, 0.0, 0.1, 0.1]
    results = decisions(EQUAL[:6], np.add(EQUAL[:6], gains), np.add(EQUAL[:6], gains[::-1]))
    assert results["b"].decided_after is None
    assert results["b"].seeds_needed > 6


def test_signs_decide_where_runs_diverged():
    decision = decisions([None, *EQUAL[1:]], BETTER)["b"]
    # Eight wins, the first of them against a failed run: 7 decide.
    assert (decision.decided_after, decision.verdict) == (7, "better")
    np.testing.assert_allclose(decision.evidence, statistics.sequential(np.ones(8)).sign_evidence)
    assert np.isnan(decision.difference.value)
    assert np.isnan(decision.seeds_needed)
    assert "runs diverged, and b is better with probability 1.00 (0.56 to 1.00)" in sequential.finding(
        "b", "a", decision
    )
    both = decisions([None] * 3, [None] * 3)["b"]
    assert both.decided_after is None
    np.testing.assert_array_equal(both.evidence, 1)
    assert sequential.finding("b", "a", both).endswith("after 3 seeds: runs diverged, and no pair differs.")


def test_findings_and_the_table_say_how_many_seeds_it_took_or_would_take():
    results = decisions(EQUAL, BETTER, [share + 0.1 * sign for share, sign in zip(EQUAL, [1, -1] * 4, strict=True)])
    decided, undecided = (sequential.finding(label, "a", decision) for label, decision in results.items())
    assert decided.startswith("b is better than a in held-out IoU: +0.225 (")
    assert decided.endswith(f", decided after {results['b'].decided_after} seeds.")
    assert undecided.startswith("c and a are not decided in held-out IoU after 8 seeds: ")
    assert undecided.endswith("at this spread a difference of 0.000 would need over 1000 seeds.")
    rows = sequential.table(results, "a").rows
    assert [row[:2] for row in rows] == [["b", f"{results['b'].decided_after} seeds"], ["c", "-"]]
    assert not sequential.all_decided(results.values())
    assert sequential.all_decided([results["b"]])


WORDS = [*SHORT, "--seeds", "2", "--optimizers", "sgd", "adam=0.01", "--until-decided", "--most-seeds", "4"]


@pytest.mark.slow
def test_seeds_are_added_to_all_contenders_until_the_budget_ends(tmp_path, monkeypatch):
    started = count_training(monkeypatch)
    document = execute(compare_optimizers, *WORDS, "--out", tmp_path)
    seeds = {label: [row["seed"] for row in document["runs"] if row["label"] == label] for label in document["summary"]}
    decision = document["sequential"]["sgd 0.001"]
    count = decision["decided_after"] or 4
    assert seeds == {"sgd 0.001": list(range(count)), "adam 0.01": list(range(count))}
    assert len(started) == 2 * count
    text = (tmp_path / "report.html").read_text()
    assert "Verdicts at any number of seeds" in text
    # No finding for one look stands beside them.
    assert "Highest held-out IoU" not in text
    assert (tmp_path / "evidence.png").exists()
    # A larger budget keeps the runs.
    del started[:]
    more = execute(compare_optimizers, *WORDS[:-1], "5", "--out", tmp_path)
    assert len(started) == (0 if decision["decided_after"] else 2)
    assert more["runs"][:count] == document["runs"][:count]


@pytest.mark.slow
def test_stored_runs_end_the_budget(tmp_path):
    stored = tmp_path / "stored"
    execute(compare_optimizers, *SHORT, "--seeds", "3", "--optimizers", "adam=0.01", "--out", stored)
    words = [*WORDS[:-1], "9", "--optimizers", "sgd", "--baseline", stored / "results.json"]
    document = execute(compare_optimizers, *words, "--out", tmp_path / "more")
    assert max(row["seed"] for row in document["runs"]) <= 2
    assert list(document["sequential"]) == ["sgd 0.001"]
    assert "No more than 3 seeds, since --baseline has no more: not the 9 of --most-seeds." in document["warnings"]


def test_a_budget_below_the_first_look_is_refused():
    with pytest.raises(ValueError, match="--most-seeds must be at least --seeds, 5, got 4"):
        parse(compare_optimizers, "quick", "--until-decided", "--most-seeds", "4").check()
    with pytest.raises(ValueError, match="--until-decided needs an optimizer to compare with the reference"):
        parse(compare_optimizers, "quick", "--until-decided", "--optimizers", "adam").check()
