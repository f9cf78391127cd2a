import re
import subprocess
import sys
from pathlib import Path

import pytest

import segjax

ROOT = Path(__file__).parents[1]


PACKAGE = Path(segjax.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


@pytest.mark.slow
def test_importing_changes_nothing():
    """Only what jax, flax and optax load themselves comes with the import, and no setting of jax changes."""
    program = """
import sys, jax, flax.linen, optax
heavy = {"matplotlib", "tyro", "rich", "PIL", "scipy.stats"}
settings, loaded = dict(jax.config.values), heavy & set(sys.modules)
import segjax
assert dict(jax.config.values) == settings, "a setting of jax changed"
assert heavy & set(sys.modules) == loaded, sys.modules.keys() & heavy
assert "matplotlib" not in sys.modules and "PIL" not in sys.modules and "tyro" not in sys.modules
assert segjax.plotting.bars and "matplotlib" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_is_reachable(name):
    module = getattr(segjax, name)
    assert module.__name__ == f"segjax.{name}"
    assert name in segjax.__all__
    assert re.search(rf"^    {name} +\w", segjax.__doc__, re.MULTILINE), "the tour leaves it out"


def test_public_names_are_the_modules_and_their_own():
    assert len(segjax.__all__) == len(set(segjax.__all__))
    for name in segjax.__all__:
        value = getattr(segjax, name)
        assert name in MODULES or any(getattr(getattr(segjax, module), name, None) is value for module in MODULES)
    with pytest.raises(AttributeError, match="module 'segjax' has no attribute 'plot'"):
        _ = segjax.plot


def test_public_names_are_sorted():
    """Constants, then classes, then the rest, each by the alphabet."""
    assert segjax.__all__ == sorted(segjax.__all__, key=lambda name: (not name.isupper(), name.islower(), name))


def test_is_typed():
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.deep
def test_readme_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = "".join((ROOT / name).read_text() for name in ("README.md", "docs/library.md"))
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 5
    names = {}
    # Each goes on from the one before; fewer steps say as much.
    for block in blocks:
        exec(re.sub(r"num_steps=[36]0", "num_steps=10", block), names)
    assert names["histories"].loss.shape == (4, 10)
    assert names["result"].histories.loss.shape == (4, 2, 2, 10)
    assert names["probability"].shape == (80, 90)
    assert names["where"].pixels.sum() == 2 * 32**2
    assert names["adam"].shape == names["iou"].shape == (5,)
    assert re.search(r"^lion +at .* (better|worse|not told apart)\n", capsys.readouterr().out, re.MULTILINE)
