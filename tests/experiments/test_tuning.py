import numpy as np
import pytest
from rich.console import Console
from small_runs import RATES, arms_at, result

from experiments.lab import scores, tuning
from experiments.lab.options import Comparison
from experiments.lab.tuning import Candidate


def test_candidates_have_the_common_grid_or_their_own():
    found = tuning.candidates(["sgd", "optax:lion=1e-3,1e-5"], [0.1, 0.01])
    assert found == [Candidate("sgd", "sgd", (0.01, 0.1)), Candidate("optax:lion", "optax:lion", (1e-5, 1e-3))]


def test_a_candidate_may_have_options_beside_its_rates():
    texts = ["optax:adamw(weight_decay=0.01, b1=0.8)=1e-3,1e-4", "optax:adamw(weight_decay=0.1)", "optax:adamw"]
    assert [(name, rates) for _, name, rates in tuning.candidates(texts, [0.1])] == [
        ("optax:adamw(weight_decay=0.01, b1=0.8)", (1e-4, 1e-3)),
        ("optax:adamw(weight_decay=0.1)", (0.1,)),
        ("optax:adamw", (0.1,)),
    ]


def test_a_candidate_may_have_a_label():
    texts = ["adam=0.01", "tuned adam=adam", "decay=optax:adamw(weight_decay=0.1)=1e-3", "lion=optax:lion"]
    assert tuning.candidates(texts, [0.1, 1.0]) == [
        ("adam", "adam", (0.01,)),
        ("tuned adam", "adam", (0.1, 1.0)),
        ("decay", "optax:adamw(weight_decay=0.1)", (1e-3,)),
        ("lion", "optax:lion", (0.1, 1.0)),
    ]


def test_every_candidate_is_planned_at_every_rate_over_the_seeds():
    given = [Candidate("plain", "sgd", (0.01, 0.1)), Candidate("adam", "adam", (1e-3,))]
    planned = [(run.optimizer, run.learning_rate, run.seed) for run in tuning.plan(given, range(2), Comparison())]
    assert planned == [(name, rate, seed) for _, name, rates in given for rate in rates for seed in (0, 1)]


def test_trials_give_every_result_to_its_candidate():
    """Two candidates may be one optimizer at one rate: the results are those of the plan, in its order."""
    given = [Candidate("a", "adam", (0.1, 1.0)), Candidate("b", "adam", (1.0,))]
    order = [result([0.5], seed, rate) for rate in (0.1, 1.0, 1.0) for seed in (0, 1)]
    trials = tuning.trials(given, order, 2)
    assert {label: list(arms) for label, arms in trials.items()} == {"a": ["a 0.1", "a 1"], "b": ["b 1"]}
    assert [own.run.seed for own in trials["a"]["a 1"].results] == [0, 1]
    assert trials["a"]["a 1"].run == trials["b"]["b 1"].run


@pytest.mark.parametrize(
    ("texts", "rates", "message"),
    [
        ([], [0.1], "--optimizers must be different, at least one"),
        (["sgd", "sgd=0.2"], [0.1], "the same one twice takes a label: again=NAME"),
        (["a/b=sgd"], [0.1], "a label must be words without a slash or .*, got 'a/b'"),
        (["=sgd"], [0.1], "a label must be words without a slash or .*, got ''"),
        (["a\nb=sgd"], [0.1], "a label must be words without a slash"),
        (["$x$=sgd"], [0.1], "a label must be words without a slash or a dollar"),
        (["adam=0.1", "adam 0.1=sgd"], [0.2], "the label adam 0.1 is also what adam is called at one of its rates"),
        (["_x=sgd"], [0.1], "a label must .* begin with no underscore"),
        (["a =sgd"], [0.1], "a label must be words"),
        ([f"{'a' * 201}=sgd"], [0.1], "a label must .* have at most 200 bytes"),
        (["adam=sgd"], [0.1], "the label adam is the name of another optimizer"),
        (["mine=sdg:sdg"], [0.1], "--optimizers mine=sdg:sdg: 'sdg:sdg' cannot be imported"),
        (["sdg"], [0.1], "--optimizers sdg: 'sdg' is no optimizer"),
        (["sgd="], [0.1], "--optimizers sgd=: could not convert string to float"),
        (["sgd=fast"], [0.1], "--optimizers sgd=fast: could not convert string to float"),
        (["sgd=0.1,0.1"], [0.1], "--optimizers sgd= must be different numbers > 0"),
        (["sgd=-1"], [0.1], "--optimizers sgd= must be a finite number > 0"),
        (["sgd"], [], "--rates must be different numbers > 0"),
        (["sgd"], [float("nan")], "--rates must be a finite number > 0"),
    ],
)
def test_refuses(texts, rates, message):
    with pytest.raises(ValueError, match=message):
        tuning.candidates(texts, rates)


def test_grid_places_every_run():
    grid = tuning.grid({"adam": arms_at([0.3, 0.2, np.nan]), "sgd": arms_at([0.4], "sgd")})
    np.testing.assert_array_equal(grid.rates, RATES)
    np.testing.assert_allclose(grid.losses["adam"], [[0.3, 0.2, np.nan]], rtol=1e-6)
    np.testing.assert_allclose(grid.losses["sgd"], [[0.4, np.nan, np.nan]], rtol=1e-6)
    np.testing.assert_array_equal(grid.diverged["adam"], [[False, False, True]])
    assert grid.document == {
        "adam": {"rate": 1e-2, "loss": pytest.approx(0.2), "edge": None},
        "sgd": {"rate": 1e-3, "loss": pytest.approx(0.4), "edge": "lowest"},
    }


@pytest.mark.parametrize(
    ("losses", "beyond"),
    [([0.1, 0.2, 0.3], [1e-4]), ([0.3, 0.2, 0.1], [1.0]), ([0.3, 0.1, 0.3], [])],
)
def test_the_grid_extends_itself_beyond_its_edge(losses, beyond):
    extended = tuning.extension(tuning.grid({"adam": arms_at(losses)}), [Candidate("adam", "adam", tuple(RATES))])
    assert list(extended.values()) == pytest.approx(beyond)


def test_the_grid_does_not_extend_for_ever():
    # Three rates below the grid that was asked for, the lowest still the best.
    given = [Candidate("adam", "adam", (1.0, 2.0))]
    assert tuning.extension(tuning.grid({"adam": arms_at([0.1, 0.2, 0.3])}), given) == {}


def test_the_grid_extends_to_no_number_that_float32_does_not_hold():
    for ends, losses in (((1e-30, 1e-10), [0.1, 0.2]), ((1e10, 1e30), [0.2, 0.1])):
        arms = scores.arms([result([1.0, it], 0, rate) for rate, it in zip(ends, losses, strict=True)], scores.by_rate)
        assert tuning.extension(tuning.grid({"adam": arms}), [Candidate("adam", "adam", ends)]) == {}


def test_where_every_rate_diverged_the_grid_extends_downwards():
    lost = tuning.grid({"adam": arms_at([np.nan, np.nan, np.nan])})
    assert tuning.extension(lost, [Candidate("adam", "adam", tuple(RATES))]) == {"adam": pytest.approx(1e-4)}


def test_close_rates_have_nothing_new_beyond_them():
    close = (0.001, 0.0010000001)
    arms = scores.arms(
        [result([1.0, loss], 0, rate) for rate, loss in zip(close, (0.1, 0.2), strict=True)], scores.by_rate
    )
    assert tuning.extension(tuning.grid({"adam": arms}), [Candidate("adam", "adam", close)]) == {}


def test_a_search_extends_the_grids_whose_best_rate_is_an_edge():
    adam, lion = (Candidate(label, label, tuple(RATES)) for label in ("adam", "lion"))
    trained = []

    def train(candidates):
        trained.append(candidates)
        # Three rates below the grid are the most.
        results = [result([1.0, 0.1 + rate], rate=rate) for rate in candidates[0].rates]
        return {"adam": scores.arms(results, scores.by_rate), "lion": arms_at([0.3, 0.2, 0.3])}

    for extend in (False, True):
        tuning.search([adam, lion], train, extend, Console(quiet=True))
    assert [len(first.rates) for first, _ in trained] == [3, 3, 4, 5, 6]
    assert {second for _, second in trained} == {lion}


def test_figures_show_where_runs_diverged():
    grid = tuning.grid({"adam": arms_at([0.3, 0.2, np.nan])})
    assert tuning.range_figure(grid, "title").axes[0].get_ylabel() == "mean loss, last tenth"
    (row,) = tuning.table({"adam": arms_at([0.3, 0.2, np.nan])}, grid, 10, "0").rows
    assert row == ["adam", "0.01", "0.2000", "1", "30", "", "0.001, 0.01, 0.1"]
