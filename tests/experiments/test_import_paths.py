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


def test_options_are_literals_behind_the_path():
    params = {"w": jnp.ones(2)}
    optimizer = import_paths.optimizer("optax:adamw(weight_decay=0.5, mask=None, b1=0.0)")(0.1)
    expected = optax.adamw(0.1, weight_decay=0.5, b1=0.0)
    chex.assert_trees_all_equal(*(each.update(params, each.init(params), params)[0] for each in (optimizer, expected)))
    assert import_paths.optimizer("optax.contrib:muon") is segjax.optimizers.muon
    assert import_paths.optimizer("optax:contrib.muon") is segjax.optimizers.muon


# Only names that lead nowhere: an import runs what it finds.
@given(name=st.text(alphabet="abc.: é\0-0", max_size=8))
def test_any_name_is_an_optimizer_or_says_what_is_wrong(name):
    with contextlib.suppress(ValueError):
        import_paths.optimizer(name)


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
