import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from run_lab import LAB, execute

import segjax

ROOT = Path(__file__).parents[1]


PACKAGE = Path(segjax.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_"))


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
    assert name in dir(segjax) or name == "plotting"
    assert re.search(rf"^    {name} +\w", segjax.__doc__, re.MULTILINE), "the tour leaves it out"


def test_public_names_are_few_and_those_of_the_modules():
    assert 15 <= len(segjax.__all__) == len(set(segjax.__all__)) <= 22
    for name in segjax.__all__:
        value = getattr(segjax, name)
        assert any(getattr(getattr(segjax, module), name, None) is value for module in MODULES)
    with pytest.raises(AttributeError, match="module 'segjax' has no attribute 'plot'"):
        _ = segjax.plot


def test_public_names_are_sorted():
    """Constants, then classes, then the rest, each by the alphabet."""
    assert segjax.__all__ == sorted(segjax.__all__, key=lambda name: (not name.isupper(), name.islower(), name))


def test_is_typed():
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.deep(70)
def test_readme_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = "".join((ROOT / name).read_text() for name in ("README.md", "docs/library.md"))
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 7
    names = {}
    # Each goes on from the one before; fewer steps say as much.
    for block in blocks:
        exec(re.sub(r"num_steps=[36]0", "num_steps=10", block), names)
    assert names["histories"].loss.shape == (4, 10)
    assert names["result"].histories.loss.shape == (4, 2, 2, 10)
    assert sum(len(chunk.loss) for chunk in names["chunks"]) == 40
    assert names["probability"].shape == (80, 90)
    assert names["edge_counts"].pixels.sum() == 2 * 32**2
    assert names["adam"].shape == names["lion"].shape == (5,)
    assert re.search(r"^lion at .* (better|worse|not told apart)$", capsys.readouterr().out, re.MULTILINE)


def test_the_lab_was_executed_from_top_to_bottom():
    """The stored notebook has its outputs, no error, no noise, and nothing of the machine that ran it."""
    text = LAB.read_text()
    assert len(text) < 1.5e6
    book = json.loads(text)
    assert book["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "execute_result"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    for cell in cells:
        source, outputs = "".join(cell["source"]), cell["outputs"]
        assert any(output.get("name") == "stdout" for output in outputs) == ("print(" in source)
        assert any("image/png" in output.get("data", {}) for output in outputs) == bool(
            re.search(r"^plotting\.\w+\(", source, re.MULTILINE)
        )
    # Base64 has slashes of its own.
    written = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.search(r"[\s\"'(](/|~/|[A-Z]:\\\\)(home|root|tmp|usr|work|Users)", written)


# Every cell runs as it stands, in fewer steps: `make lab` takes two and a half minutes for all of them.
FEWER_STEPS = {
    '"num_steps": 80': '"num_steps": 10',
    "72:80": "2:10",
    "PatchCNN(depth=3), 240": "PatchCNN(depth=3), 20",
    "chunk_size=60": "chunk_size=5",
}


@pytest.mark.deep(80)
def test_the_lab_runs():
    nbformat = pytest.importorskip("nbformat")
    stored, book = (nbformat.read(LAB, as_version=4) for _ in range(2))
    for old, new in FEWER_STEPS.items():
        assert any(old in cell.source for cell in book.cells), f"the lab has no {old}"
        for cell in book.cells:
            cell.source = cell.source.replace(old, new)
    book = execute(book, os.environ)
    # Every cell shows what it showed, in kind; the digits are the machine's.
    kinds = [
        [[sorted(output.get("data", [output.output_type])) for output in cell.get("outputs", [])] for cell in one.cells]
        for one in (book, stored)
    ]
    assert kinds[0] == kinds[1]
