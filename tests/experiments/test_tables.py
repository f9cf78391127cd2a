"""Tables and sentences of arms that several questions share."""

import numpy as np
from small_runs import ARMS, accuracies, arm, result

from experiments.lab import tables
from segjax import statistics


def test_a_spread_is_the_mean_and_the_range():
    assert tables.spread(np.array([0.25, 0.75]), ".2f") == "0.50\n0.25-0.75"
    assert tables.spread(np.array([0.25]), ".2f") == "0.25"


def test_the_leader_is_ahead_by_the_paired_differences():
    ahead = accuracies("a", 0.9, 0.8, 0.7, 0.8, 0.9) | accuracies("b", 0.6, 0.5, 0.4, 0.5, 0.6)
    assert tables.leader(ahead, "accuracy") == (
        "Highest held-out accuracy: a (0.820), ahead of b, the next, by +0.300 (+0.300 to +0.300)."
    )
    # Of losses: of 0.1, 0.2, ... against 0.4, 0.5, ...
    assert tables.leader(ahead, "loss") == (
        "Lowest running-mean loss: a (0.1800), ahead of b, the next, by -0.3000 (-0.3000 to -0.3000)."
    )
    # Where the question says under which conditions.
    assert tables.leader(ahead, "loss", " at 0.1").startswith("Lowest running-mean loss at 0.1: a (0.1800)")
    assert tables.ties(ahead, ["accuracy", "loss"]) == []


def test_ties_have_a_short_sentence_and_a_table():
    level = accuracies("a", 0.9, 0.5, 0.7) | accuracies("b", 0.8, 0.7, 0.5) | accuracies("c", 0.6, 0.2, 0.4)
    interval = statistics.bootstrap([0.1, -0.2, 0.2])
    assert tables.leader(level, "accuracy") == "Highest held-out accuracy: a (0.700), not told apart from b."
    (table,) = tables.ties(level, ["accuracy", "seconds"], " at 0.1")
    assert table.title == "Not told apart at 0.1"
    difference = f"+0.033 ({interval.low:+.3f} to {interval.high:+.3f})"
    assert table.rows[0] == ["held-out accuracy", "a 0.700", "b", difference]
    assert [row[:3] for row in table.rows[1:]] == [["seconds", "a 1", "b"], ["seconds", "a 1", "c"]]
    # Two that have only one seed in common.
    apart = accuracies("a", 0.9, 0.8, None) | accuracies("b", None, 0.7, 0.5)
    assert tables.ties(apart, ["accuracy"])[0].rows == [["held-out accuracy", "a 0.850", "b", "too few pairs"]]
    # One seed has no interval, and one arm no rival.
    single = accuracies("a", 0.9) | accuracies("b", 0.8)
    assert tables.leader(single, "accuracy") == "Highest held-out accuracy: a (0.900), not told apart from b."
    assert tables.leader(accuracies("a", 0.9, 0.5), "loss") == "Lowest running-mean loss: a (0.3000)."
    # A sentence lists few of them.
    many = level | accuracies("d", 0.9, 0.5, 0.7) | accuracies("e", 0.9, 0.5, 0.7) | accuracies("f", 0.9, 0.5, 0.7)
    assert tables.leader(many, "accuracy").endswith("a (0.700), not told apart from 4 others.")


def test_a_table_has_one_row_per_arm():
    table = tables.table(ARMS, "title", ("iou", "seconds"))
    assert table.headings == ["", "IoU", "seconds"]
    assert table.rows == [["a", "0.600\n0.600-0.600", "1\n1-1"], ["b", "0.600\n0.600-0.600", "1\n1-1"]]


def test_a_run_that_diverged_is_behind_all_others():
    both = accuracies("a", 0.9, None) | accuracies("b", 0.5, 0.6)
    assert tables.leader(both, "accuracy") == (
        "Highest held-out accuracy among those with the fewest diverged runs: b (0.550); fewer of its runs diverged "
        "(0 of 2) than of a (1 of 2)."
    )
    others = both | accuracies("c", 0.1, 0.2)
    interval = tables.difference_text(statistics.bootstrap([0.4, 0.4]), ".3f")
    assert tables.leader(others, "accuracy") == (
        f"Highest held-out accuracy among those with the fewest diverged runs: b (0.550), ahead of c, the next, by "
        f"{interval}; fewer of its runs diverged (0 of 2) than of a (1 of 2)."
    )
    lost = accuracies("a", None, None) | accuracies("b", None, None)
    assert tables.leader(lost, "accuracy") == "Highest held-out accuracy: none, every run diverged."
    assert tables.ties(lost, ["accuracy"]) == []
    half = accuracies("a", 0.9, None) | accuracies("b", None, 0.6)
    assert tables.leader(half, "accuracy").startswith("Highest held-out accuracy: a (0.900)")


def test_few_seeds_are_warned_of():
    assert tables.seeds_warning(5) == []
    assert tables.seeds_warning(1) == ["One seed gives little more than an anecdote; compare over at least 5."]
    assert tables.seeds_warning(4)[0].startswith("4 seeds give")


def test_runs_that_diverged_are_warned_of():
    good, lost = result([0.4, 0.1]), result([0.4, np.nan])
    assert tables.diverged_warning(arm("a", [good] * 5)) == []
    assert tables.diverged_warning(arm("a", [good] * 2) | arm("b", [lost, good])) == [
        "Runs diverged: b 1 of 2. They are in no mean, and their pairs do not count."
    ]
