"""The programs of runs: they evaluate on the images that `segjax.evaluate` takes."""

import chex
import jax
import numpy as np
import pytest
from conftest import random_variables

import segjax
from experiments.lab import programs
from experiments.lab.names import ARCHITECTURES
from experiments.lab.runs import HELD_OUT_BATCHES, Texture
from segjax import metrics


@pytest.mark.slow
def test_held_out_images_are_those_of_evaluate():
    texture = Texture(batch_size=1, image_size=16, sigma=3.2)
    model, batch = ARCHITECTURES["shallow"], programs.held_out_batch(texture)
    variables = random_variables(model)
    held = programs.evaluate_one(model, texture, variables)
    counts, running, losses = held.counts, held.running_counts, held.losses
    key = jax.random.key(programs.HELD_OUT_KEY)
    expected = segjax.evaluate(key, model, variables, HELD_OUT_BATCHES, **texture._asdict())
    chex.assert_trees_all_equal(counts, expected, running)
    # The picture's batch is the first of them.
    first = segjax.evaluate(key, model, variables, 1, **texture._asdict())
    chex.assert_trees_all_equal(metrics.count(segjax.predict(model, variables, batch.image), batch.mask), first)
    assert set(losses) == set(segjax.LOSSES)
    assert np.isfinite(list(losses.values())).all()
