"""Runs: what each is called, how they are trained and gone on with, and on which images they are judged."""

from functools import partial

import chex
import jax
import numpy as np
import pytest
from rich.console import Console
from small_runs import count_training, execute, parse

import segjax
from experiments import compare_losses
from experiments.lab import options, runs, scores, store, train
from experiments.lab.names import ARCHITECTURES
from experiments.lab.runs import Run, Texture
from segjax import metrics

SMALL = ["--preset", "quick", "--iterations", "3", "--image-size", "16", "--sigma", "4", "--losses", "mse"]
QUIET = Console(quiet=True)


def test_an_interrupted_command_goes_on_from_its_finished_runs(tmp_path, monkeypatch):
    whole = execute(compare_losses, *SMALL, "--out", tmp_path / "whole")
    original, calls = train._train, []

    def interrupted(group, *arguments):
        calls.extend(run.seed for run in group)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(group, *arguments)

    monkeypatch.setattr(train, "_train", interrupted)
    out = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        execute(compare_losses, *SMALL, "--out", out)
    assert {path.name for path in out.iterdir()} == {"options.json", "runs"}
    resumed = execute(compare_losses, *SMALL, "--out", out)
    assert calls == [0, 1, 1]
    for first, second in zip(whole["runs"], resumed["runs"], strict=True):
        assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_results_are_in_the_order_of_the_runs_and_each_is_trained_once(tmp_path, monkeypatch):
    chosen = parse(compare_losses, *SMALL, "--out", tmp_path)
    store.claim(chosen.out, chosen.identity("compare_losses"))
    one, other = (chosen.run(seed, objective="mse") for seed in (0, 1))
    begun = count_training(monkeypatch)
    found = train.train_all([other, one, other], chosen, QUIET)
    assert [result.run for result in found] == [other, one, other]
    assert found[0] is found[2]
    kept = train.train_all([one], chosen, QUIET)[0]
    chex.assert_trees_all_equal(kept, found[1])
    assert begun == [other, one]


def test_a_name_is_that_of_one_run_and_tells_what_it_is():
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
    assert scores.by_rate(first) == "adam 0.1234567"
    assert scores.by_rate(second) == "adam 0.1234568"


@pytest.mark.parametrize("name", ["optax.contrib:muon", "my_module:../../x", "a b:c"])
def test_any_optimizer_s_name_makes_a_file_s_name(name):
    stem = Run(seed=0, optimizer=name).stem
    assert not set(stem) & set(":/ ")


def test_a_run_is_what_the_options_say():
    given = options.Comparison(image_size=16, sigma=4.0, sigma2=2.0, batch_size=2, iterations=7, schedule="cosine")
    run = given.run(5, optimizer="sgd", learning_rate=0.1, objective="dice")
    texture = Texture(batch_size=2, image_size=16, sigma1=0.2, sigma2=2.0, sigma=4.0)
    assert run == Run(5, "sgd", 0.1, 7, "cosine", "dice", "notebook", texture)
    # A seed and a rate are the arguments of one compiled program.
    assert run.program == given.run(6, optimizer="sgd", learning_rate=0.2, objective="dice").program
    assert run.program != given.run(5, optimizer="sgd", learning_rate=0.1).program


def test_held_out_images_are_those_of_evaluate():
    texture = Texture(batch_size=2, image_size=16, sigma=4.0)
    model, batch = ARCHITECTURES["kernel_3"], runs.held_out_batch(texture)
    variables = model.init(jax.random.key(0), batch.image)
    counts, running, losses = jax.jit(partial(runs.held_out, model, texture))(variables)
    key = jax.random.key(runs.HELD_OUT_KEY)
    expected = segjax.evaluate(model, variables, key, runs.HELD_OUT_BATCHES, **texture._asdict())
    chex.assert_trees_all_equal(counts, expected, running)
    # The picture's batch is the first of them.
    first = segjax.evaluate(model, variables, key, 1, **texture._asdict())
    chex.assert_trees_all_equal(metrics.count(segjax.predict(model, variables, batch.image), batch.mask), first)
    assert set(losses) == set(segjax.LOSSES)
    assert np.isfinite(list(losses.values())).all()
