"""The warnings of a comparison of optimizers."""

import numpy as np
import optax
from small_runs import arms_at

from experiments.optimizers import fairness
from experiments.optimizers.tuning import Candidate, Grid

# Best in the middle of its grid, and at the highest rate.
MIDDLE, HIGHEST = arms_at([0.2, 0.1, 0.2]), arms_at([0.3, 0.2, 0.1])


def test_a_best_rate_at_an_edge():
    assert fairness.tuning_warnings(Grid({"a": MIDDLE}), range(1000, 1002), range(5)) == []
    assert fairness.tuning_warnings(Grid({"a": MIDDLE, "b": HIGHEST}), range(1000, 1002), range(5)) == [
        "The best rate of b is the highest of its grid: a better one may lie beyond it (--extend tries up to three "
        "more)."
    ]


def test_unequal_budgets():
    assert fairness.budget_warnings({"a": 20, "b": 20}) == []
    assert fairness.budget_warnings({"a": 0, "b": 20}) == ["The budgets of tuning are unequal (steps): a 0, b 20."]


def test_short_runs():
    assert fairness.steps_warning(1000) == []
    assert fairness.steps_warning(60)[0].startswith("60 iterations tell a rate that is much too small")


def test_seeds_that_are_used_twice():
    assert fairness.tuning_warnings(Grid({"a": MIDDLE}), range(3, 6), range(5))[0].endswith(
        "judge them, which flatters the choice: 3, 4."
    )


def test_an_optimizer_that_diverged_at_every_rate():
    grid = Grid({"a": arms_at([np.nan, np.nan]), "adam": arms_at([0.1]), "sgd": arms_at([np.nan])})
    candidates = [Candidate(label, {"a": "optax:lion"}.get(label, label), ()) for label in grid.best]
    assert fairness.reasons_without_rate(grid, candidates) == {
        label: f"some seed of {label} diverged at each rate that was tried; give it lower ones, {example}"
        for label, example in {"a": "a=optax:lion=RATE,RATE", "sgd": "sgd=RATE,RATE"}.items()
    }


def test_an_optimizer_that_has_weights_to_be_judged_by():
    names = ["adam", "optax.contrib:schedule_free_sgd", "optax.contrib:prodigy"]
    assert fairness.weights_warnings(Candidate(name, name, ()) for name in names) == [
        "optax.contrib:schedule_free_sgd is evaluated with weights that its state determines; its curves show the "
        "trained weights."
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
    assert warning.startswith("mine keeps a copy of the weights in its state (average), and is evaluated with the")
    assert "eval_params(opt_state, params)" in warning
