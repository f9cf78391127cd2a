"""How contenders compare with a reference: numbers by hand, tables, sentences and figures."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import ARMS, accuracies, arm, contest, result

from experiments.lab import report, tables
from experiments.lab.arms import Arm
from experiments.lab.tables import estimate_text
from experiments.optimizers import sequential
from experiments.optimizers.contest import (
    DECISIVE,
    Target,
    against_reference,
    detail_tables,
    drawings,
    verdict_table,
)
from segjax import statistics

IOU = Target("iou", "IoU >= 0.5", 0.5, True)
# Of the loss: a value that some runs reach, and one that none does.
REACHED, NEVER = (Target("loss", f"loss <= {value}", value, False) for value in (0.25, 0.01))


@pytest.fixture
def single_batches(monkeypatch):
    """A single batch reaches a target."""
    monkeypatch.setattr("experiments.optimizers.contest.WINDOW", 1)


def detail(contest, title):
    """The table of this title."""
    (table,) = (table for table in detail_tables(contest) if table.title == title)
    return table


def test_estimates_are_over_the_runs_that_did_not_diverge():
    estimates = contest(ARMS).estimates["final_loss"]
    assert estimates["a"]["mean"] == statistics.bootstrap(np.float32([0.1, 0.2, 0.3]))
    assert estimates["b"]["median"].value == pytest.approx(0.15)
    lost = contest(arm("c", [result([np.nan, 0.1])]), reference="c").estimates["final_loss"]["c"]["mean"]
    assert np.isnan(lost).all()


def test_pairs_are_of_one_seed():
    improvements = contest(ARMS).improvements["final_loss"]
    assert list(improvements) == ["b"]
    # One of b diverged, and its pair does not count.
    assert (improvements["b"].wins, improvements["b"].ties, improvements["b"].seeds) == (1, 0, 2)
    assert improvements["b"].difference.value == pytest.approx(0.0, abs=1e-7)


@pytest.mark.usefixtures("single_batches")
def test_a_run_that_misses_a_target_never_arrives():
    steps = contest(ARMS, [REACHED, NEVER]).steps
    np.testing.assert_array_equal(steps[REACHED]["a"], [2, 2, np.inf])
    np.testing.assert_array_equal(steps[REACHED]["b"], [2, 2, np.inf])
    np.testing.assert_array_equal(steps[NEVER]["a"], np.full(3, np.inf))


def test_the_document_holds_every_estimate():
    document = report.plain(contest(ARMS, [IOU], tuning_steps={"a": 0, "b": 20}).document)
    assert set(document["estimates"]["final_loss"]["a"]["IQM"]) == {"value", "low", "high"}
    assert document["paired"]["iou"]["b"]["ties"] == 2
    assert document["reference"] == "a"
    assert len(document["steps_to_target"]["IoU >= 0.5"]["b"]) == 3
    assert document["tuning_steps"] == {"a": 0, "b": 20}


def test_one_against_the_reference():
    arms = accuracies("a", 0.9, 0.8, 0.7, 0.8, 0.9) | accuracies("b", 0.6, 0.5, 0.4, 0.5, 0.6)
    assert against_reference("b", contest(arms)) == (
        "b minus a: loss, last tenth +0.3000 (+0.3000 to +0.3000), better in 0 of 5; "
        "held-out IoU -0.300 (-0.300 to -0.300), better in 0 of 5."
    )


def test_the_tables_show_the_numbers():
    estimates, _, _, paired, *_ = detail_tables(contest(ARMS))
    assert estimates.title == "Loss, last tenth"
    assert estimates.rows[0][1].startswith("0.2000\n")
    (row,) = paired.rows
    assert row[0] == "b"
    assert row[2:] == ["1 of 2", "0.50\n0.09 to 0.91"]


def test_an_arm_of_which_all_runs_diverged_has_no_number_in_the_tables():
    arms = arm("c", [result([np.nan, 0.1])])
    # One arm has no rival, and no differences.
    *estimates, target = detail_tables(contest(arms, [IOU], "c"))
    assert [table.title for table in estimates] == ["Loss, last tenth", "Running-mean loss", "Held-out IoU"]
    assert all(table.rows == [["c", "-", "-", "-"]] for table in estimates)
    assert target.title == "Time to a target"
    assert "Verdict" in verdict_table(contest(ARMS)).note
    assert "Verdict" not in verdict_table(contest(arms, [IOU], "c")).note


def test_verdicts_follow_the_paired_intervals():
    counts = {"low": (4, 6, 0, 0, 10), "high": (9, 1, 0, 0, 10)}
    worse, better, lost = (
        [result([0.4, last], seed, counts=counts[iou]) for seed in range(5)]
        for last, iou in ((0.2, "low"), (0.1, "high"), (np.nan, "high"))
    )
    arms = {**arm("low", worse), **arm("high", better), **arm("same", better), **arm("lost", lost)}
    table = verdict_table(contest(arms, reference="high"))
    assert [row[-1] for row in table.rows] == ["worse", "reference", "tied", "more runs diverged (5 of 5 and 0 of 5)"]
    assert table.headings[-2] == "IoU minus high's"
    # Runs that diverged are in no mean.
    assert table.rows[-1][1:4] == ["-", "-", "-"]
    flipped = verdict_table(contest(arms, reference="low"))
    assert [row[-1] for row in flipped.rows][:2] == ["reference", "better"]
    alone = {label: Arm(label, each.results[:1]) for label, each in arms.items()}
    assert verdict_table(contest(alone, reference="high")).rows[0][-1] == "too few seeds"


def test_decisions_take_the_place_of_verdicts_for_one_look():
    """Five wins of unequal size decide for one look; for every look they are not enough evidence."""
    arms = accuracies("a", 0.6, 0.7, 0.8, 0.7, 0.6) | accuracies("b", 0.9, 0.7, 0.9, 0.8, 0.7)
    pair = contest(arms)
    assert verdict_table(pair).rows[1][-1] == "better"
    decisions = sequential.decisions(pair.rivals, arms["a"])
    table = verdict_table(pair, decisions)
    assert table.rows[1][-2:] == [estimate_text(decisions["b"].difference, "+.3f"), "undecided"]
    assert "one look" not in table.note
    lost = contest(accuracies("a", None, *[0.6] * 7) | accuracies("b", *[0.9] * 8))
    decided = verdict_table(lost, sequential.decisions(lost.rivals, lost.arms["a"]))
    assert decided.rows[1][-2:] == ["runs diverged", "better"]


# Arms of equal numbers of runs: the share of right pixels in tenths, or None for a run that diverged.
COMPARED = st.integers(1, 6).flatmap(
    lambda seeds: st.lists(
        st.lists(st.none() | st.integers(1, 9), min_size=seeds, max_size=seeds), min_size=2, max_size=4
    )
)


def arms_of(tenths):
    """Arms a, b, ... with these shares."""
    arms = {}
    for label, runs in zip("abcd", tenths, strict=False):
        arms |= accuracies(label, *(run if run is None else run / 10 for run in runs))
    return arms


def interval_of(text):
    """The ends of the interval that a text shows."""
    return [float(end) for end in re.search(r"\((\S+) to (\S+)\)", text).groups()]


@given(COMPARED)
@pytest.mark.parametrize(("column", "sign"), [("accuracy", 1), ("final_loss", -1)])
def test_a_leader_leads_the_table_among_the_arms_with_as_few_diverged_runs(column, sign, tenths):
    arms = arms_of(tenths)
    failed = {label: int(arm.diverged.sum()) for label, arm in arms.items()}
    means = {row[0]: row[1].partition("\n")[0] for row in tables.table(arms, "", [column]).rows}
    compared = {
        label: sign * float(means[label])
        for label in arms
        if failed[label] == min(failed.values()) and means[label] != "-"
    }
    sentence = tables.leader(arms, column)
    if match := re.search(r": (\w) \((\S+)\)", sentence):
        first, mean = match.groups()
        assert mean == means[first]
        assert compared[first] == max(compared.values())
    assert ("diverged" in sentence) == (len(set(failed.values())) > 1 or "none" in sentence)
    if "est " in sentence and "among" not in sentence and "none" not in sentence:
        assert set(compared) == set(arms)
    if "ahead of" in sentence:
        assert min(sign * end for end in interval_of(sentence)) > 0
    for label, more in re.findall(r"(\w) \((\d) of \d\)", sentence.partition(" than of ")[2]):
        assert failed[label] == int(more) > failed[first]


@given(COMPARED)
def test_no_verdict_contradicts_the_numbers_beside_it(tenths):
    arms = arms_of(tenths)
    held = contest(arms)
    failed = {label: int(arm.diverged.sum()) for label, arm in arms.items()}
    for label, _, _, iou, difference, verdict in verdict_table(held).rows[1:]:
        mean = arms[label].mean("iou")
        assert iou == ("-" if np.isnan(mean) else f"{mean:.3f}")
        if failed[label] != failed["a"]:
            assert verdict.startswith("more runs" if failed[label] > failed["a"] else "fewer runs")
        elif verdict in ("better", "worse", "tied"):
            low, high = interval_of(difference)
            assert verdict == ("better" if low > 0 else "worse" if high < 0 else "tied")
        else:
            assert verdict == "too few seeds"
            assert "to" not in difference
        both = [
            (run, other) for run, other in zip(tenths["abcd".index(label)], tenths[0], strict=True) if run and other
        ]
        wins = f"better in {sum(run > other for run, other in both)} of {len(both)}"
        assert against_reference(label, held).count(wins) == 2


def test_ties_are_told():
    paired = detail(contest(ARMS), "Held-out IoU, against a")
    assert paired.rows[0][2] == "0 of 2\n2 ties"


@pytest.mark.usefixtures("single_batches")
def test_the_time_of_runs_that_miss_a_target_is_never():
    # A second for two steps.
    row = detail(contest(ARMS, [REACHED, NEVER]), "Time to a target").rows[0]
    assert row == ["a", "2 of 3", "2", "1.0", "0 of 3", "never", "never"]


def test_figures_show_intervals():
    five = arm("a", [result([0.4, loss], seed) for seed, loss in enumerate([0.1, 0.2, 0.3, 0.2, 0.1])])
    curves = drawings(contest(five, [IOU]))["curves"]
    assert curves.heading == "Training curves"
    low, _ = statistics.bootstrap(np.float32([0.1, 0.2, 0.3, 0.2, 0.1]) / 2 + 0.2)[1:]
    edge = curves.figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert edge.max() == pytest.approx(0.4, rel=1e-5)
    assert edge.min() == pytest.approx(low, rel=1e-5)
    assert "95 % interval" in curves.figure.get_suptitle()


def test_figures_of_few_seeds_show_their_range():
    curves = drawings(contest({"a": ARMS["a"]}, [IOU]))["curves"].figure
    edge = curves.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    # Of running means (0.4 + 0.1) / 2 and more.
    assert edge.min() == pytest.approx(0.25, rel=1e-5)
    assert "95 %" not in curves.get_suptitle()
    figures = {name: drawing.figure for name, drawing in drawings(contest(ARMS, [IOU])).items()}
    assert set(figures) == {"curves", "paired_differences", "time_to_target"}
    paired = figures["paired_differences"]
    assert paired.get_suptitle() == "title: paired differences, mean and range; one dot per seed"
    # Of -0.1 and 0.1: the third pair has a run that diverged.
    np.testing.assert_allclose(paired.axes[0].lines[1].get_xdata(), [-0.1, 0.1], rtol=1e-5)
    assert paired.axes[0].get_xlabel() == "loss, last tenth minus a's"
    assert paired.axes[1].get_xlabel() == "held-out IoU minus a's"
    assert len(paired.axes) == len(DECISIVE)
    # All arrive at once, at the second step.
    share = figures["time_to_target"].axes[0].lines[0].get_ydata()
    assert share[-1] == 1


@pytest.mark.usefixtures("single_batches")
def test_a_target_that_nobody_reaches_has_no_panel():
    figure = drawings(contest(ARMS, [NEVER, REACHED]))["time_to_target"].figure
    assert [axes.get_ylabel() for axes in figure.axes] == ["share of runs at loss <= 0.25"]
    assert "time_to_target" not in drawings(contest(ARMS, [NEVER]))


@pytest.mark.usefixtures("single_batches")
def test_tuning_is_charged():
    held = contest(ARMS, [REACHED, NEVER], tuning_steps={"a": 0, "b": 100})
    assert detail(held, "Time to a target").rows == [
        ["a", "2 of 3", "2", "2", "0 of 3", "never", "never", "0"],
        ["b", "2 of 3", "2", "102", "0 of 3", "never", "never", "100"],
    ]
    (axes,) = drawings(held)["time_with_tuning"].figure.axes
    assert axes.get_xscale() == "log"
    for line, arrival in zip(axes.lines, (2, 102), strict=True):
        x, share = line.get_xdata(), line.get_ydata()
        # Two runs of three arrive; the first point that is drawn from there on has them.
        assert set(share[x < arrival]) <= {0.0}
        np.testing.assert_allclose(share[x >= arrival], 2 / 3)
    # Rates that were given cost nothing, and add no figure.
    assert "time_with_tuning" not in drawings(contest(ARMS, [REACHED, NEVER]))
    # Nor is there a figure where nobody arrives.
    assert "time_with_tuning" not in drawings(contest(ARMS, [NEVER], tuning_steps={"a": 0, "b": 100}))
