"""Runs: the name of each."""

import pytest

from experiments.lab.arms import by_rate
from experiments.lab.runs import Run, Texture


def test_a_run_has_a_legible_name_that_no_other_has():
    run = Run(seed=3)
    assert run.stem.startswith("adam-0.001-seed3-")
    others = {name: value * 2 for name, value in run._asdict().items() if name != "texture"}
    changed = [run._replace(**{name: value}) for name, value in others.items()]
    changed += [run._replace(texture=run.texture._replace(**{name: 7})) for name in Texture._fields]
    stems = [run.stem, *(other.stem for other in changed)]
    assert len(set(stems)) == len(stems)
    assert Run(seed=3).stem == run.stem


def test_rates_that_agree_to_six_digits_are_two_runs():
    first, second = (Run(seed=0, learning_rate=rate) for rate in (0.1234567, 0.1234568))
    assert first.stem != second.stem
    assert by_rate(first) == "adam 0.1234567"
    assert by_rate(second) == "adam 0.1234568"


@pytest.mark.parametrize("name", ["optax.contrib:muon", "my_module:../../x", "a b:c"])
def test_any_optimizer_s_name_makes_a_file_s_name(name):
    stem = Run(seed=0, optimizer=name).stem
    assert not set(stem) & set(":/ ")
