import numpy as np

from experiments import protocol
from segjax.statistics import Estimate

APART = {"a": Estimate(0.1, 0.0, 0.2), "b": Estimate(0.4, 0.3, 0.5), "c": Estimate(0.45, 0.35, 0.6)}


def test_few_seeds():
    assert protocol.few_seeds(5) == []
    assert protocol.few_seeds(1) == ["one seed gives little more than an anecdote; compare over at least 5."]
    assert "4 seeds give" in protocol.few_seeds(4)[0]


def test_edges():
    assert protocol.edges({"a": None}) == []
    assert "best rate of b is the highest of its grid" in protocol.edges({"a": None, "b": "highest"})[0]


def test_overlaps_of_neighbours_in_the_ranking():
    (lower,) = protocol.overlaps("loss", APART, higher_is_better=False)
    assert "by loss" in lower
    assert "b before c" in lower
    assert "a before b" not in lower
    (higher,) = protocol.overlaps("IoU", APART, higher_is_better=True)
    assert "c before b" in higher
    assert "b before a" not in higher
    assert protocol.overlaps("loss", {name: APART[name] for name in "ab"}, higher_is_better=False) == []
    # One seed has no interval, and settles nothing.
    assert protocol.overlaps("loss", {"a": Estimate(0.1, np.nan, np.nan), "b": APART["b"]}, higher_is_better=False)


def test_budgets():
    assert protocol.budgets({"a": 10, "b": 10}) == []
    assert protocol.budgets({"a": 10, "b": 20})[0].endswith("a 10, b 20.")


def test_diverged():
    assert protocol.diverged({"a": 0, "b": 0}, 5) == []
    assert "b 2 of 5" in protocol.diverged({"a": 0, "b": 2}, 5)[0]


def test_reused_seeds():
    assert protocol.reused(range(1000, 1002), range(5)) == []
    assert protocol.reused(range(3, 6), range(5))[0].endswith("3, 4.")
