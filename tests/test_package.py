import re
import subprocess
import sys
from pathlib import Path

import segjax

ROOT = Path(__file__).parents[1]


def test_importing_changes_nothing():
    """Neither matplotlib nor any setting of jax comes with the import."""
    program = """
import sys, jax
before = dict(jax.config.values)
import segjax
assert dict(jax.config.values) == before, "a setting of jax changed"
assert "matplotlib" not in sys.modules, "matplotlib was imported"
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_public_names_exist_and_are_sorted():
    assert all(hasattr(segjax, name) for name in segjax.__all__)
    assert len(segjax.__all__) <= 20
    assert (Path(segjax.__file__).parent / "py.typed").exists()


def test_readme_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    names = {}
    # Each goes on from the one before; a third of the steps says as much.
    for block in blocks:
        exec(block.replace("num_steps=30", "num_steps=10"), names)
    assert names["histories"].loss.shape == (4, 10)
    assert names["result"].histories.loss.shape == (4, 2, 2, 10)
    assert names["probability"].shape == (80, 90)
