import numpy as np
import optax
import pytest
from small_runs import SHORT, execute, lab_of, parse, result

from experiments import try_optimizers
from experiments.lab.stops import UsageError


def test_the_catalogue_has_every_optimizer_and_no_part_of_one():
    functions = dict(try_optimizers.functions_of_optax())
    # The path of each is that of a function, and its default is optax's.
    assert {"optax:adam": None, "optax:nadam": None, "optax.contrib:prodigy": 1.0}.items() <= functions.items()
    assert {"optax.contrib:sam", "optax.contrib:mechanize", "optax:lbfgs", "optax:polyak_sgd"} <= set(functions)
    assert not [name for name in functions if "scale_by" in name]
    assert "optax:apply_updates" not in functions
    # Those of optax's own list of aliases that take a rate.
    aliases = {name for name in optax._src.alias.__dict__ if not name.startswith("_") and hasattr(optax, name)}
    known = {name.partition(":")[2] for name in functions}
    assert {"sgd", "lion", "yogi", "novograd", "lamb"} <= aliases & known


@pytest.mark.slow
def test_what_optax_has_is_tried_or_refused_with_a_reason():
    candidates, refused = parse(try_optimizers).catalogue
    rates = {candidate.label: candidate.rates for candidate in candidates}
    assert rates["optax:adam"] == (1e-3, 1e-2, 0.1)
    assert rates["optax.contrib:prodigy"] == (1.0,)
    assert set(rates).isdisjoint(refused)
    assert set(rates) | set(refused) == dict(try_optimizers.functions_of_optax()).keys()
    assert refused["optax:lbfgs"].startswith("its line search evaluates the loss again")
    assert refused["optax.contrib:sophia"].startswith("it takes second derivatives of the loss")
    assert refused["optax.contrib:sam"].startswith("it takes an optimizer, and no rate")
    assert refused["optax.contrib:mechanize"].startswith("it takes an optimizer, and no rate")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("adam", []),
        ("optax.contrib:momo(beta=0.5)", ["gets the loss's value"]),
        ("optax.contrib:muon", ["segjax's form: a kernel is one matrix"]),
        ("optax.contrib:schedule_free_sgd", ["evaluated with the average that it keeps"]),
        ("optax.contrib:galore", ["projects matrices alone, of which a convolution has none: it is its Adam here"]),
    ],
)
def test_what_an_optimizer_needs(name, words):
    assert try_optimizers.needs(name) == words


def test_galore_is_its_adam():
    """What the table says of it."""
    weights = {"kernel": np.linspace(-1, 1, 36, dtype=np.float32).reshape(3, 3, 2, 2)}
    ours, adam = (
        each.update(weights, each.init(weights), weights)[0]["kernel"]
        for each in (optax.contrib.galore(0.1, rank=1), optax.adam(0.1))
    )
    np.testing.assert_array_equal(ours, adam)


def test_the_best_of_its_rates_counts_and_the_lowest_loss_is_first():
    options = parse(try_optimizers, *SHORT, "--optimizers", "sgd=1e-3,0.1", "adam=1e-3", "lion=optax:lion=1")
    losses = {("sgd", 1e-3): 0.3, ("sgd", 0.1): 0.1, ("adam", 1e-3): 0.2, ("optax:lion", 1.0): np.nan}

    def trained(run):
        return result([0.4, losses[run.optimizer, run.learning_rate]], 0, run.learning_rate, optimizer=run.optimizer)

    report = try_optimizers.answer(options, lab_of(trained))
    (table,) = report.tables
    assert [row[:4] for row in table.rows] == [
        ["sgd", "0.1000", "0.1", "0.001, 0.1"],
        ["adam", "0.2000", "0.001", "0.001"],
        ["lion", "diverged", "-", "1"],
    ]
    assert report.findings == [
        "2 of 3 optimizers train without diverging, at one rate or more.",
        "Diverged at every rate: lion.",
    ]
    diverged = lab_of(lambda run: result([0.4, np.nan], optimizer="sgd", rate=1.0))
    nothing = try_optimizers.answer(parse(try_optimizers, *SHORT, "--optimizers", "sgd=1"), diverged)
    assert nothing.figures == {}


def test_a_ready_transformation_has_its_own_rate_and_not_1(tmp_path, monkeypatch):
    (tmp_path / "clips.py").write_text("import optax\nclipped = optax.chain(optax.clip(1.0), optax.adam(1e-3))")
    monkeypatch.syspath_prepend(tmp_path)
    options = parse(try_optimizers, *SHORT, "--optimizers", "mine=clips:clipped")
    lab = lab_of(lambda run: result([0.4, 0.2], 0, run.learning_rate, optimizer=run.optimizer))
    (table,) = try_optimizers.answer(options, lab).tables
    assert table.rows[0][:4] == ["mine", "0.2000", "its own", "its own"]


def test_a_name_that_a_person_types_must_be_an_optimizer(tmp_path):
    with pytest.raises(UsageError, match="--optimizers optax:lbfgs: 'optax:lbfgs' is no optimizer of one"):
        execute(try_optimizers, *SHORT, "--optimizers", "optax:lbfgs", "--out", tmp_path / "out")
    with pytest.raises(UsageError, match="--optimizers must be different, at least one"):
        execute(try_optimizers, *SHORT, "--optimizers", "--out", tmp_path / "out")
    assert not any(tmp_path.iterdir())
