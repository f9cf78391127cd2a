import contextlib
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import segjax
from experiments.lab import import_paths


def test_others_are_found_by_their_import_path():
    params, gradient = {"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([3.0, -0.5])}
    lion = import_paths.optimizer("optax:lion")(0.1)
    updates, _ = lion.update(gradient, lion.init(params), params)
    expected = optax.lion(0.1)
    np.testing.assert_array_equal(updates["w"], expected.update(gradient, expected.init(params), params)[0]["w"])
    assert import_paths.optimizer("adam") is segjax.OPTIMIZERS["adam"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optax:lion", "optax.contrib:muon"])
def test_others_train(name):
    train = segjax.make_train(
        segjax.SegmentationCNN(num_channels=2),
        optimizer=import_paths.optimizer(name),
        num_steps=20,
        image_size=16,
        sigma=3,
    )
    _, history = jax.jit(train)(jax.random.key(0), 1e-3)
    assert history.loss[-5:].mean() < history.loss[:5].mean()


def test_what_heeds_its_rate_is_no_part_of_an_optimizer():
    """A strong decay diverges at a high rate, and not at a low one."""
    assert import_paths.optimizer("optax:adamw(weight_decay=5000.0)")


def test_options_are_literals_behind_the_path():
    params = {"w": jnp.ones(2)}
    optimizer = import_paths.optimizer("optax:adamw(weight_decay=0.5, mask=None, b1=0.0)")(0.1)
    expected = optax.adamw(0.1, weight_decay=0.5, b1=0.0)
    chex.assert_trees_all_equal(*(each.update(params, each.init(params), params)[0] for each in (optimizer, expected)))
    assert import_paths.optimizer("optax.contrib:muon") is segjax.optimizers.muon
    assert import_paths.optimizer("optax:contrib.muon") is segjax.optimizers.muon


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
        ("optax:adamw(b1=0.9)x", "must have options as"),
        ("optax:adamw(b3=0.9)", "is no optimizer of one learning rate, a gradient and a loss: .*b3"),
        (
            "optax:adamw(learning_rate=0.9)",
            "is no optimizer of one learning rate, a gradient and a loss: .*learning_rate",
        ),
        ("adam(b1=0.9)", "is no optimizer: one of"),
        ("sys:exit", "'sys:exit' is no optimizer of one learning rate, a gradient and a loss"),
        ("short:factory", "a loss: .*positional arguments? but 3 were given"),
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
        import_paths.optimizer(name)
    assert "\n" not in str(error.value)


# Only names that lead nowhere: an import runs what it finds.
@given(name=st.text(alphabet="abc.: é\0-0", max_size=8))
def test_any_name_is_an_optimizer_or_says_what_is_wrong(name):
    with contextlib.suppress(ValueError):
        import_paths.optimizer(name)


@pytest.mark.parametrize("name", ["prodigy", "dadapt_adamw", "dog", "dowg"])
def test_a_rate_at_which_an_optimizer_stands_still_is_refused(name):
    path = f"optax.contrib:{name}"
    with pytest.raises(ValueError, match=f"--optimizers x: at the rate 0.001 it stands still.*{path}=1"):
        import_paths.check_moves("--optimizers x", path, 1e-3)
    import_paths.check_moves("--optimizers x", path, 1.0)


# One without a default, one that is slow at a low rate as any is, one that heeds no rate.
@pytest.mark.parametrize(
    "name",
    ["adam", "optax:sgd", *(f"optax.contrib:{name}" for name in ("momo", "momo_adam", "cocob", "schedule_free_sgd"))],
)
def test_a_low_rate_of_others_is_only_slow(name):
    import_paths.check_moves("--optimizers x", name, 5e-5)


def test_the_reason_of_a_refusal_is_a_value():
    with pytest.raises(import_paths.RefusedError) as error:
        import_paths.optimizer("optax:lbfgs")
    assert error.value.reason.startswith("its line search evaluates the loss again")


def test_the_files_of_an_optimizer_are_all_modules_of_the_user_s_own_that_it_imports(tmp_path, monkeypatch):
    """Also those beside its package, however they are imported; not what is installed, and not what nobody imports."""
    sources = {
        "mine/__init__.py": "",
        "mine/own.py": "import optax, json, lonely\nfrom . import near\nfrom shared.deep import DECAY\n",
        "mine/near.py": "def late():\n    import later\n",
        "shared/__init__.py": "",
        "shared/deep.py": "from shared.deeper import DECAY\n",
        "shared/deeper.py": "DECAY = 0.9\n",
        "shared/unused.py": "",
        "lonely.py": "import mine.own\n",
        "later.py": "",
    }
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    (tmp_path / "mine" / "own.py").write_text(sources["mine/own.py"] + "sgd = lambda rate: optax.sgd(rate, DECAY)\n")
    monkeypatch.syspath_prepend(tmp_path)
    files = set(sources) - {"shared/unused.py", "later.py"}
    assert import_paths.loaded_files(["mine.own:sgd", "optax:lion"]) == {
        name: tmp_path / name for name in sorted(files)
    }
    for name in ("later", "mine", "mine.own", "mine.near", "shared", "shared.deep", "shared.deeper", "lonely"):
        monkeypatch.delitem(sys.modules, name, raising=False)
