"""Which optimizers training can use: what is refused, and why."""

import sys

import jax
import pytest

from experiments.lab import import_paths
from experiments.optimizers import trials


def test_what_heeds_its_rate_is_no_part_of_an_optimizer():
    """A strong decay diverges at a high rate, and not at a low one."""
    assert trials.optimizer("optax:adamw(weight_decay=5000.0)")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sdg", "'sdg' is no optimizer: one of sgd, momentum, rmsprop, adam, or an import path as optax:lion"),
        ("adamw", "or an import path as optax:lion; did you mean optax:adamw\\?"),
        ("Prodigy", "; did you mean optax.contrib:prodigy\\?"),
        ("optax.contrib:mu0n", "cannot be imported: .*; did you mean optax.contrib:muon\\?"),
        ("optax:scale_by_adam", "a gradient and a loss: on a square it does not go downhill: it may be a part"),
        ("optax:scale", "on a square it does not go downhill"),
        ("optax:adam(b1=1e999)", "on a square it does not go downhill"),
        ("Adam", "; did you mean adam\\?"),
        ("optax:", "is no optimizer: one of"),
        (":lion", "is no optimizer: one of"),
        ("", "is no optimizer: one of"),
        ("nowhere:lion", "'nowhere:lion' cannot be imported: No module named 'nowhere'"),
        ("optax:lyon", "'optax:lyon' cannot be imported: .*no attribute 'lyon'"),
        ("optax:__version__", "'optax:__version__' is no optimizer of one learning rate, a gradient and a loss"),
        ("optax:lbfgs", "is no optimizer of one learning rate, a gradient and a loss: its line search"),
        ("optax.contrib:sam", "is no optimizer of one learning rate, a gradient and a loss: it takes an optimizer"),
        ("math:sqrt", "is no optimizer of one learning rate, a gradient and a loss"),
        ("optax:adamw(weight_decay=open('x'))", "must have options as \\(weight_decay=0.01, nesterov=True\\)"),
        ("optax:adamw(0.9)", "must have options as"),
        ("optax:adamw(**{'b1': 0.9})", "must have options as"),
        ("optax:adamw(b1=0.9)(b2=0.9)", "must have options as"),
        ("optax:adamw(b1=0.9)#)", "must have options as"),
        ("optax:adamw(b1=1j)", "must have options as"),
        ("optax.contrib:schedule_free_sgd(b1=0.0)", "its evaluation weights are not finite"),
        ("optax:adamw(b1=0.9", "must have options as"),
        ("optax:adamw(b1=0.9, b1=0.5)", "must have options as"),
        ("optax:adamw(b1=0.9)x", "must have options as"),
        (
            "optax:adamw(b3=0.9)",
            "is no optimizer of one learning rate, a gradient and a loss: it does not take the options b3$",
        ),
        (
            "optax:adamw(learning_rate=0.9)",
            "is no optimizer of one learning rate, a gradient and a loss: .*learning_rate",
        ),
        ("adam(b1=0.9)", "is no optimizer: one of"),
        ("sys:exit", "'sys:exit' is no optimizer of one learning rate, a gradient and a loss"),
        ("short:factory", "a loss: .*positional arguments? but 3 were given"),
        ("leaves:anything", r"'leaves:anything' cannot be imported: SystemExit\('no more'\), which ends Python"),
        (
            "floats:factory",
            "is no optimizer of one learning rate, a gradient and a loss: Abstract tracer value .*[^\\n]$",
        ),
    ],
)
def test_a_bad_path_says_what_is_wrong(name, message, tmp_path, monkeypatch):
    (tmp_path / "short.py").write_text(
        "import optax\ndef factory(rate):\n    inner = optax.sgd(rate)\n"
        "    return optax.GradientTransformation(inner.init, lambda gradient, state: inner.update(gradient, state))"
    )
    (tmp_path / "leaves.py").write_text("raise SystemExit('no more')")
    (tmp_path / "floats.py").write_text("import optax\ndef factory(rate):\n    return optax.sgd(float(rate))")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        trials.optimizer(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["prodigy", "dadapt_adamw", "dog", "dowg"])
def test_a_rate_at_which_an_optimizer_stands_still_is_refused(name):
    path = f"optax.contrib:{name}"
    with pytest.raises(ValueError, match=f"--optimizers x: at the rate 0.001 it stands still.*{path}=1"):
        trials.check_moves("--optimizers x", path, 1e-3)
    trials.check_moves("--optimizers x", path, 1.0)


# One without a default, one that is slow at a low rate as any is, one that heeds no rate.
@pytest.mark.parametrize(
    "name",
    ["adam", "optax:sgd", *(f"optax.contrib:{name}" for name in ("momo", "momo_adam", "cocob", "schedule_free_sgd"))],
)
def test_a_low_rate_of_others_is_only_slow(name):
    trials.check_moves("--optimizers x", name, 5e-5)


BODIES = {
    "return 5": "optimizer must return an optax transformation, got 5$",
    "return lambda gradient: gradient, None": "optimizer must return an optax transformation, got \\(",
    "return sgd(lambda gradient, state: None)": "its update must return updates of the weights' shapes",
    "return sgd(lambda gradient, state: gradient)": "its update must return updates of the weights' shapes",
    "return sgd(lambda gradient, state: (None, state))": "its update must return updates of the weights' shapes",
    "return sgd(lambda gradient, state: (gradient['bias'], state))": "its update must return updates of the weights'",
    "return sgd(lambda gradient, state: (jax.tree.map(lambda g: g + 0j, gradient), state))": "its .* floating, and",
    "return sgd(lambda gradient, state: (jax.tree.map(lambda g: g > 0, gradient), state))": "its .* floating, and",
    "return optax.GradientTransformation(lambda _: 1, lambda gradient, state, _: (gradient, "
    "state / 2))": "its .*dtypes of init's",
    "return optax.GradientTransformation(lambda _: jax.numpy.ones(()), lambda gradient, state, _: (gradient, "
    "state.astype('bfloat16')))": "its .*dtypes of init's",
    "return sgd(lambda gradient, state: (gradient, 0.0))": "its update must return updates of .*, and a state of",
    "raise SystemExit(3)": "SystemExit 3$",
    "raise KeyboardInterrupt": "KeyboardInterrupt$",
    "raise KeyError('rate')": "KeyError 'rate'$",
    "raise ValueError": "ValueError$",
    "raise ValueError('one\\ntwo')": "one$",
}


@pytest.mark.parametrize(("body", "message"), BODIES.items())
def test_a_factory_that_does_anything_else_is_refused_with_one_line(body, message, tmp_path, monkeypatch):
    (tmp_path / "bodies.py").write_text(
        "import jax, optax\ndef sgd(update):\n"
        "    return optax.GradientTransformation(lambda _: (), lambda gradient, state, _: update(gradient, state))\n"
        f"def factory(rate):\n    {body}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    # Cached by its path, which other tests may use.
    for cached in (trials.optimizer, import_paths.optimizer):
        cached.cache_clear()
    monkeypatch.delitem(sys.modules, "bodies", raising=False)
    with pytest.raises(import_paths.RefusedError, match=f"a gradient and a loss: {message}"):
        trials.optimizer("bodies:factory")


@pytest.mark.parametrize("options", ["", "(momentum=0.9)"])
def test_a_coroutine_function_is_refused_without_a_call(options, tmp_path, monkeypatch):
    """Python warns of a coroutine that nobody awaits, and warnings are errors here."""
    (tmp_path / "waits.py").write_text("import optax\nasync def sgd(rate, momentum=0.5):\n    return optax.sgd(rate)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(import_paths.RefusedError, match="it is a coroutine function, which returns no optimizer"):
        trials.optimizer(f"waits:sgd{options}")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("ends_by_interrupt", "KeyboardInterrupt", "KeyboardInterrupt"),
        ("ends_by_exit", "SystemExit(0)", r"SystemExit\(0\), which ends Python"),
    ],
)
def test_a_module_that_ends_at_its_import_is_refused(name, error, message, tmp_path, monkeypatch):
    (tmp_path / f"{name}.py").write_text(f"raise {error}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f"cannot be imported: {message}"):
        trials.optimizer(f"{name}:factory")


@pytest.mark.parametrize("path", ["optax:adam", "optax.contrib:prodigy", "optax.contrib:schedule_free_adamw"])
def test_optimizers_are_tried_under_strict_dtypes_too(path):
    trials.optimizer.cache_clear()
    with jax.numpy_dtype_promotion("strict"):
        assert trials.optimizer(path)
        trials.check_moves("--optimizers x", path, 1.0)


def test_the_reason_of_a_refusal_is_a_value():
    with pytest.raises(import_paths.RefusedError) as error:
        trials.optimizer("optax:lbfgs")
    assert error.value.reason.startswith("its line search evaluates the loss again")
