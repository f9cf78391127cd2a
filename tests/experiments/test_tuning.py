"""Which rates are tried for which optimizer, and the best of them."""

import numpy as np
import pytest
from small_runs import RATES, SHORT, arms_at, execute, lab_of, result

from experiments import compare_optimizers
from experiments.lab import report
from experiments.lab.arms import by_rate, compare
from experiments.lab.options import Comparison
from experiments.lab.stops import UsageError
from experiments.optimizers import tuning
from experiments.optimizers.tuning import Candidate


def test_candidates_have_the_common_grid_or_their_own():
    candidates = tuning.candidates(["sgd", "optax:lion=1e-3,1e-5"], [0.1, 0.01])
    assert candidates == [Candidate("sgd", "sgd", (0.01, 0.1)), Candidate("optax:lion", "optax:lion", (1e-5, 1e-3))]


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


def trained(loss):
    """A lab whose runs end at the loss that `loss(run)` gives, and the runs that it was asked for."""
    runs = []

    def train_run(run):
        runs.append(run)
        return result([1.0, loss(run)], run.seed, run.learning_rate, optimizer=run.optimizer)

    return lab_of(train_run), runs


def test_every_candidate_is_trained_at_every_rate_over_the_seeds():
    candidates = [Candidate("plain", "sgd", (0.01, 0.1)), Candidate("adam", "adam", (1e-3,))]
    lab, runs = trained(lambda run: 0.5)
    trials = tuning.train(candidates, range(2), Comparison(), lab)
    expected = [(name, rate, seed) for _, name, rates in candidates for rate in rates for seed in (0, 1)]
    assert [(run.optimizer, run.learning_rate, run.seed) for run in runs] == expected
    assert {label: list(arms) for label, arms in trials.items()} == {
        "plain": ["plain 0.01", "plain 0.1"],
        "adam": ["adam 0.001"],
    }


def test_every_candidate_has_its_results():
    """Two candidates may be one optimizer at one rate."""
    candidates = [Candidate("a", "adam", (0.1, 1.0)), Candidate("b", "adam", (1.0,))]
    lab, _ = trained(lambda run: run.learning_rate / 2)
    trials = tuning.train(candidates, range(2), Comparison(), lab)
    assert {label: list(arms) for label, arms in trials.items()} == {"a": ["a 0.1", "a 1"], "b": ["b 1"]}
    assert [each.run.seed for each in trials["a"]["a 1"].results] == [0, 1]
    assert trials["a"]["a 1"].run == trials["b"]["b 1"].run
    assert trials["a"]["a 0.1"].values("final_loss") == pytest.approx([0.05, 0.05])


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
        (["sgd="], [0.1], "--optimizers sgd=: rates must be different numbers > 0, got ''"),
        (["sgd=fast"], [0.1], "--optimizers sgd=fast: rates must be different numbers > 0, got 'fast'"),
        (["sgd=0.01,"], [0.1], "--optimizers sgd=0.01,: rates must be different numbers > 0, got '0.01,'"),
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
    grid = tuning.Grid({"adam": arms_at([0.3, 0.2, np.nan]), "sgd": arms_at([0.4], "sgd")})
    np.testing.assert_array_equal(grid.rates, RATES)
    np.testing.assert_allclose(grid.losses["adam"], [[0.3, 0.2, np.nan]], rtol=1e-6)
    np.testing.assert_allclose(grid.losses["sgd"], [[0.4, np.nan, np.nan]], rtol=1e-6)
    np.testing.assert_array_equal(grid.diverged["adam"], [[False, False, True]])
    assert report.plain(grid.best) == {
        "adam": {"rate": 1e-2, "loss": pytest.approx(0.2), "edge": None},
        "sgd": {"rate": 1e-3, "loss": pytest.approx(0.4), "edge": "lowest"},
    }


@pytest.mark.parametrize(
    ("rates", "losses", "beyond"),
    [
        (RATES, [0.1, 0.2, 0.3], 1e-4),
        (RATES, [0.3, 0.2, 0.1], 1.0),
        (RATES, [0.3, 0.1, 0.3], None),
        # Where every rate diverged, lower ones are left.
        (RATES, [np.nan, np.nan, np.nan], 1e-4),
        # No number that float32 does not hold, and none that rounds to the edge itself.
        ([1e-30, 1e-10], [0.1, 0.2], None),
        ([1e10, 1e30], [0.2, 0.1], None),
        ([0.001, 0.0010000001], [0.1, 0.2], None),
    ],
)
def test_a_grid_extends_beyond_its_edge(rates, losses, beyond):
    arms = compare([result([1.0, loss], 0, rate) for rate, loss in zip(rates, losses, strict=True)], by=by_rate)
    expected = {} if beyond is None else {"adam": pytest.approx(beyond)}
    assert tuning.extension(tuning.Grid({"adam": arms}), [Candidate("adam", "adam", tuple(rates))]) == expected


def test_a_grid_does_not_extend_for_ever():
    # Three rates below the grid that was asked for, the lowest still the best.
    candidates = [Candidate("adam", "adam", (1.0, 2.0))]
    assert tuning.extension(tuning.Grid({"adam": arms_at([0.1, 0.2, 0.3])}), candidates) == {}


def test_a_search_tries_rates_beyond_an_edge_of_those_that_have_their_best_there():
    """Adam is better at every higher rate, SGD best in the middle, and RMSprop diverges above 0.02."""

    def loss(run):
        if run.optimizer == "rmsprop":
            return 2.0 if run.learning_rate > 0.02 else 0.5
        return 0.5 / run.learning_rate**0.1 if run.optimizer == "adam" else abs(run.learning_rate - 0.1) / 10

    candidates = [Candidate(label, label, (0.05, 0.1, 0.2)) for label in ("adam", "sgd", "rmsprop")]
    lab, runs = trained(loss)
    trials = tuning.search(candidates, range(2), Comparison(), lab, extend=True).trials
    assert {label: [arm.run.learning_rate for arm in arms.values()] for label, arms in trials.items()} == {
        # Three are added, and no more.
        "adam": [0.05, 0.1, 0.2, 0.4, 0.8, 1.6],
        "sgd": [0.05, 0.1, 0.2],
        # It diverges at the first that is added too; of the other two, whose losses are equal, the lower is an edge.
        "rmsprop": [0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2],
    }
    assert lab.lines[:2] == [
        "the best rate of adam is an edge of its grid: trying 0.4",
        "some seed of rmsprop diverged at every rate: trying 0.025",
    ]
    assert len(lab.lines) == 6
    del runs[:], lab.lines[:]
    assert list(tuning.search(candidates, range(2), Comparison(), lab, extend=False).trials) == [
        "adam",
        "sgd",
        "rmsprop",
    ]
    assert len(runs) == 3 * 3 * 2
    assert lab.lines == []


def test_the_figure_and_the_table_show_the_grid():
    grid = tuning.Grid({"adam": arms_at([0.3, 0.2, np.nan])})
    heading, figure = tuning.drawing(grid, "title")
    assert heading == "Loss against learning rate"
    assert figure.axes[0].get_ylabel() == "mean loss, last tenth, log scale"
    (row,) = tuning.table(grid, "0").rows
    assert row == ["adam", "0.01", "0.2000", "1", "6", "", "0.001, 0.01, 0.1"]


@pytest.fixture
def ready(tmp_path, monkeypatch):
    """A module with a ready transformation."""
    (tmp_path / "ready.py").write_text("import optax\nclipped = optax.chain(optax.clip(1.0), optax.adam(1e-3))")
    monkeypatch.syspath_prepend(tmp_path)
    return "ready:clipped"


def test_a_ready_transformation_has_one_arm_without_a_rate(ready):
    (candidate,) = tuning.candidates([f"mine={ready}"], [1e-3, 1e-2])
    assert [candidate.arm(rate) for rate in candidate.rates] == ["mine"]
    with pytest.raises(ValueError, match=f"--optimizers {ready}=0.1: it is a ready transformation, which has its rate"):
        tuning.candidates([f"{ready}=0.1"], [1e-3])
    with pytest.raises(ValueError, match="takes no options in brackets"):
        tuning.candidates([f"{ready}(b1=0.9)"], [1e-3])


@pytest.mark.slow
def test_a_ready_transformation_trains_as_its_factory_does(ready, tmp_path):
    words = (compare_optimizers, *SHORT, "--seeds", "1", "--out", tmp_path / "out", "--optimizers")
    runs = execute(*words, "adam=0.001", f"mine={ready}")["runs"]
    assert [run["label"] for run in runs] == ["adam 0.001", "mine"]
    # Gradients of the mean squared error are never clipped at 1.
    assert runs[0]["curves"] == runs[1]["curves"]
    with pytest.raises(UsageError, match="--schedule must be constant for ready:clipped"):
        execute(*words, f"mine={ready}", "--schedule", "cosine", "--overwrite")
