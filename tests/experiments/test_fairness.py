"""The warnings of a comparison of optimizers."""

import numpy as np
import optax
from small_runs import arms_at

from experiments.optimizers import fairness, tuning
from experiments.optimizers.tuning import Candidate, Grid
from segjax.statistics import Best


def tuning_warnings(edges=(), tuning_seeds=range(1000, 1002)):
    """Of grids whose best rates have these edges: label -> edge."""
    best = {label: Best(0.1, 0.2, edge) for label, edge in dict(edges).items()}
    return fairness.tuning_warnings(Grid(np.array([0.1]), {}, {}, best), tuning_seeds, range(5))


def test_a_best_rate_at_an_edge():
    assert tuning_warnings({"a": None}) == []
    assert tuning_warnings({"a": None, "b": "highest"}) == [
        "The best rate of b is the highest of its grid: a better one may lie beyond it."
    ]


def test_unequal_budgets():
    assert fairness.budget_warnings({"a": 20, "b": 20}) == []
    assert fairness.budget_warnings({"a": 0, "b": 20}) == ["The budgets of tuning are unequal (steps): a 0, b 20."]


def test_seeds_that_are_used_twice():
    assert tuning_warnings(tuning_seeds=range(1000, 1002)) == []
    assert tuning_warnings(tuning_seeds=range(3, 6))[0].endswith("3, 4.")


def test_an_optimizer_that_diverged_at_every_rate():
    grid = tuning.grid({"a": arms_at([np.nan, np.nan]), "adam": arms_at([0.1]), "sgd": arms_at([np.nan])})
    candidates = [Candidate(label, {"a": "optax:lion"}.get(label, label), ()) for label in grid.best]
    assert fairness.reasons_without_rate(grid, candidates) == {
        label: f"some seed of {label} diverged at each rate that was tried; give it lower ones, {example}"
        for label, example in {"a": "a=optax:lion=RATE,RATE", "sgd": "sgd=RATE,RATE"}.items()
    }


def test_an_optimizer_that_has_weights_to_be_judged_by():
    names = ["adam", "optax.contrib:schedule_free_sgd", "optax.contrib:prodigy"]
    assert fairness.weights_warnings(Candidate(name, name, ()) for name in names) == [
        "optax.contrib:schedule_free_sgd is judged by weights that follow from its state; its curves are of those it "
        "trains."
    ]


def test_an_unknown_copy_of_the_weights(monkeypatch):
    def remembering(learning_rate):
        inner = optax.sgd(learning_rate)
        return optax.GradientTransformation(
            lambda params: {"inner": inner.init(params), "average": params},
            lambda gradient, state, params: (inner.update(gradient, state["inner"], params)[0], state),
        )

    monkeypatch.setattr(fairness.import_paths, "optimizer", lambda name: remembering)
    (warning,) = fairness.weights_warnings([Candidate("mine", "mine:remembering", ())])
    assert warning.startswith("mine keeps a copy of the weights in its state (average), and is judged by")
    assert "eval_params(opt_state, params)" in warning
