import contextlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import segjax
from experiments.lab import names


def test_others_are_found_by_their_import_path():
    params, gradient = {"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([3.0, -0.5])}
    lion = names.optimizer("optax:lion")(0.1)
    updates, _ = lion.update(gradient, lion.init(params), params)
    expected = optax.lion(0.1)
    np.testing.assert_array_equal(updates["w"], expected.update(gradient, expected.init(params), params)[0]["w"])
    assert names.optimizer("adam") is segjax.OPTIMIZERS["adam"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optax:lion", "optax.contrib:muon"])
def test_others_train(name):
    train = segjax.make_train(
        segjax.SegmentationCNN(num_channels=2), optimizer=names.optimizer(name), num_steps=20, image_size=16, sigma=3
    )
    _, history = jax.jit(train)(jax.random.key(0), 1e-3)
    assert history.loss[-5:].mean() < history.loss[:5].mean()


def test_what_heeds_its_rate_is_no_part_of_an_optimizer():
    """A strong decay diverges at a high rate, and not at a low one."""
    assert names.optimizer("optax:adamw(weight_decay=5000.0)")


def test_options_are_literals_behind_the_path():
    params = {"w": jnp.ones(2)}
    optimizer = names.optimizer("optax:adamw(weight_decay=0.5, mask=None, b1=0.0)")(0.1)
    expected = optax.adamw(0.1, weight_decay=0.5, b1=0.0)
    chex.assert_trees_all_equal(*(it.update(params, it.init(params), params)[0] for it in (optimizer, expected)))
    assert names.optimizer("optax.contrib:muon") is segjax.optimizers.muon
    assert names.optimizer("optax:contrib.muon") is segjax.optimizers.muon


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sdg", "'sdg' is no optimizer: one of sgd, momentum, rmsprop, adam, or an import path as optax:lion"),
        ("adamw", "or an import path as optax:lion; did you mean optax:adamw\\?"),
        ("Prodigy", "; did you mean optax.contrib:prodigy\\?"),
        ("optax.contrib:mu0n", "cannot be imported: .*; did you mean optax.contrib:muon\\?"),
        ("optax:scale_by_adam", "a gradient and a loss: on a square it does not go downhill: it may be a part"),
        ("optax:adam(b1=1e999)", "on a square it does not go downhill"),
        ("Adam", "; did you mean adam\\?"),
        ("optax:", "is no optimizer: one of"),
        (":lion", "is no optimizer: one of"),
        ("", "is no optimizer: one of"),
        ("nowhere:lion", "'nowhere:lion' cannot be imported: No module named 'nowhere'"),
        ("optax:lyon", "'optax:lyon' cannot be imported: .*no attribute 'lyon'"),
        ("optax:__version__", "'optax:__version__' is no optimizer of one learning rate, a gradient and a loss"),
        ("optax:lbfgs", "is no optimizer of one learning rate, a gradient and a loss: .*value"),
        ("optax.contrib:sam", "is no optimizer of one learning rate, a gradient and a loss: .*adv_optimizer"),
        ("math:sqrt", "is no optimizer of one learning rate, a gradient and a loss"),
        ("optax:adamw(weight_decay=open('x'))", "must have options as \\(weight_decay=0.01, nesterov=True\\)"),
        ("optax:adamw(0.9)", "must have options as"),
        ("optax:adamw(**{'b1': 0.9})", "must have options as"),
        ("optax:adamw(b1=0.9)(b2=0.9)", "must have options as"),
        ("optax:adamw(b1=0.9)#)", "must have options as"),
        ("optax:adamw(b1=1j)", "must have options as"),
        ("optax.contrib:schedule_free_sgd(b1=0.0)", "the weights to judge it by are not finite"),
        ("optax:adamw(b1=0.9", "must have options as"),
        ("optax:adamw(b1=0.9)x", "must have options as"),
        ("optax:adamw(b3=0.9)", "is no optimizer of one learning rate, a gradient and a loss: .*b3"),
        (
            "optax:adamw(learning_rate=0.9)",
            "is no optimizer of one learning rate, a gradient and a loss: .*learning_rate",
        ),
        ("adam(b1=0.9)", "is no optimizer: one of"),
        ("sys:exit", "'sys:exit' is no optimizer of one learning rate, a gradient and a loss"),
        ("short:factory", "a loss: its update must take a gradient, a state and the weights"),
        ("leaves:anything", "'leaves:anything' cannot be imported: no more"),
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
        names.optimizer(name)
    assert "\n" not in str(error.value)


# Only names that lead nowhere: an import runs what it finds.
@given(name=st.text(alphabet="abc.: é\0-0", max_size=8))
def test_any_name_is_an_optimizer_or_says_what_is_wrong(name):
    with contextlib.suppress(ValueError):
        names.optimizer(name)


def test_architectures_predict_a_logit_a_pixel():
    image = jnp.zeros((1, 16, 16, 1))
    for model in names.ARCHITECTURES.values():
        shaped = jax.eval_shape(lambda it=model: segjax.predict(it, it.init(jax.random.key(0), image), image))
        assert shaped.shape == image.shape
    assert [name for name, model in names.ARCHITECTURES.items() if model.batch_statistics] == ["notebook"]


@pytest.mark.parametrize(
    ("number", "words"), [(1e-3, "0.001"), (1e-5, "1e-05"), (1.0, "1"), (0.1234567, "0.1234567"), (1 / 3, repr(1 / 3))]
)
def test_a_number_is_written_as_people_do_and_is_no_other(number, words):
    assert names.exact(number) == words
    assert float(words) == number


@given(st.floats(allow_nan=False))
def test_no_two_numbers_are_written_alike(number):
    assert float(names.exact(number)) == number


@given(st.text(max_size=40), st.integers(8, 30))
def test_a_shortened_name_fits_and_keeps_its_ends(text, width):
    short = names.shortened(text, width)
    assert len(short) == min(len(text), width)
    assert short == text or (short.startswith(text[:3]) and short.endswith(text[-2:]) and "..." in short)


@pytest.mark.parametrize("name", ["prodigy", "dadapt_adamw", "dog", "dowg"])
def test_a_rate_at_which_an_optimizer_stands_still_is_refused(name):
    path = f"optax.contrib:{name}"
    with pytest.raises(ValueError, match=f"--optimizers x: at the rate 0.001 it stands still.*{path}=1"):
        names.check_moves("--optimizers x", path, 1e-3)
    names.check_moves("--optimizers x", path, 1.0)


# One without a default, one that is slow at a low rate as any is, one that heeds no rate.
@pytest.mark.parametrize(
    "name",
    ["adam", "optax:sgd", *(f"optax.contrib:{it}" for it in ("momo", "momo_adam", "cocob", "schedule_free_sgd"))],
)
def test_a_low_rate_of_others_is_only_slow(name):
    names.check_moves("--optimizers x", name, 5e-5)
