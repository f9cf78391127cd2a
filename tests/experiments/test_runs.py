"""Runs: the name of each, and the images that judge them."""

import chex
import jax
import numpy as np
import pytest
from conftest import drawn

import segjax
from experiments.lab import programs, runs
from experiments.lab.arms import by_rate
from experiments.lab.names import ARCHITECTURES
from experiments.lab.runs import Run, Texture
from segjax import metrics


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


@pytest.mark.slow
def test_held_out_images_are_those_of_evaluate():
    texture = Texture(batch_size=1, image_size=16, sigma=3.2)
    model, batch = ARCHITECTURES["shallow"], programs.held_out_batch(texture)
    variables = drawn(model)
    held = programs.evaluation(model, texture)(variables)
    counts, running, losses = held.counts, held.running_counts, held.losses
    key = jax.random.key(programs.HELD_OUT_KEY)
    expected = segjax.evaluate(key, model, variables, runs.HELD_OUT_BATCHES, **texture._asdict())
    chex.assert_trees_all_equal(counts, expected, running)
    # The picture's batch is the first of them.
    first = segjax.evaluate(key, model, variables, 1, **texture._asdict())
    chex.assert_trees_all_equal(metrics.count(segjax.predict(model, variables, batch.image), batch.mask), first)
    assert set(losses) == set(segjax.LOSSES)
    assert np.isfinite(list(losses.values())).all()
