import numpy as np
import optax
from small_runs import arm, result

from experiments.lab import fairness
from experiments.optimizers.tuning import Candidate, Grid
from segjax.statistics import Best


def of_tuning(best=None, tuning_seeds=range(1000, 1002)):
    """What is said of the grids of "a" and "b"."""
    chosen = {name: Best(0.1, 0.2, edge) for name, edge in (best or {}).items()}
    return fairness.of_tuning(Grid(np.array([0.1]), {}, {}, chosen), tuning_seeds, range(5))


def test_few_seeds():
    assert fairness.of_seeds(5) == fairness.of_contest({}, 5) == []
    assert fairness.of_contest({}, 1) == ["One seed gives little more than an anecdote; compare over at least 5."]
    assert "4 seeds give" in fairness.of_contest({}, 4)[0]


def test_edges():
    assert of_tuning({"a": None}) == []
    (said,) = of_tuning({"a": None, "b": "highest"})
    assert "best rate of b is the highest of its grid" in said


def test_budgets():
    assert fairness.of_budgets({"a": 20, "b": 20}) == []
    assert fairness.of_budgets({"a": 0, "b": 20}) == ["The budgets of tuning are unequal (steps): a 0, b 20."]


def test_diverged():
    good, lost = result([0.4, 0.1]), result([0.4, np.nan])
    assert fairness.of_contest(arm("a", [good] * 5), 5) == []
    (said,) = fairness.of_contest(arm("a", [good] * 5) | arm("b", [lost, good, good, good, lost]), 5)
    assert "b 2 of 5" in said
    assert "a 0" not in said
    assert fairness.of_diverged(arm("a", [good] * 5)) == []
    assert fairness.of_diverged(arm("b", [lost, good])) == [
        "Runs diverged: b 1 of 2. The means of the tables hold them; the sentences leave them out."
    ]


def test_reused_seeds():
    assert of_tuning(tuning_seeds=range(1000, 1002)) == []
    assert of_tuning(tuning_seeds=range(3, 6))[0].endswith("3, 4.")


def test_weights_to_judge_by():
    names = ["adam", "optax.contrib:schedule_free_sgd", "optax.contrib:prodigy"]
    assert fairness.of_weights(Candidate(name, name, ()) for name in names) == [
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

    monkeypatch.setattr(fairness.names, "optimizer", lambda name: remembering)
    (said,) = fairness.of_weights([Candidate("mine", "mine:remembering", ())])
    assert said.startswith("mine keeps a copy of the weights in its state (average), and is judged by")
    assert "eval_params(opt_state, params)" in said
