import json

import chex
import jax
import numpy as np
import pytest

import segjax
from experiments import command, compare_losses, programs, runs, settings, summary, training
from experiments.runs import Result, Run
from segjax import History, metrics
from segjax.models import ARCHITECTURES

SMALL = ["--preset", "quick", "--iterations", "3", "--image-size", "16", "--sigma", "4", "--losses", "mse"]


def result(loss, label="a", seed=0, rate=1e-3, agreeing=None, optimizer="adam"):
    """A finished run of one pixel a step with the given curve."""
    loss = np.asarray(loss, np.float32)
    agreeing = np.ones(len(loss), np.int32) if agreeing is None else np.asarray(agreeing, np.int32)
    ones, zeros = np.ones(len(loss), np.int32), np.zeros(len(loss), np.int32)
    counts = metrics.Counts(*(np.int32(n) for n in (3, 1, 1, 3, 4)))
    history = History(loss, metrics.Counts(ones, zeros, zeros, zeros, agreeing))
    run = Run(label, seed, optimizer, rate, len(loss))
    return Result(
        run, history, {"params": {"w": np.zeros(2)}}, counts, counts, {"mse": 0.1, "bce": 0.2, "dice": 0.3}, 1.0
    )


def execute(out, *arguments):
    options = command.parse(compare_losses.Options, compare_losses.PRESETS, [*SMALL, *arguments, "--out", str(out)])
    compare_losses.main(options)
    return json.loads((out / "results.json").read_text())


def test_an_interrupted_command_goes_on_from_its_finished_runs(tmp_path, monkeypatch):
    whole = execute(tmp_path / "whole")
    train, calls = training.train, []

    def interrupted(run, *arguments):
        calls.append(run.seed)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(run, *arguments)

    monkeypatch.setattr(training, "train", interrupted)
    out = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        execute(out)
    assert [path.name for path in out.iterdir()] == ["runs"]
    resumed = execute(out)
    assert calls == [0, 1, 1]
    for first, second in zip(whole["runs"], resumed["runs"], strict=True):
        assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_runs_of_other_options_are_refused_or_overwritten(tmp_path):
    execute(tmp_path)
    (tmp_path / "results.json").unlink()
    for path in tmp_path.glob("*.*"):
        path.unlink()
    with pytest.raises(command.UsageError, match="holds unfinished runs with iterations 3, not 4"):
        execute(tmp_path, "--iterations", "4")
    # Runs that lost their options tell them themselves.
    (tmp_path / "runs" / "options.json").unlink()
    with pytest.raises(command.UsageError, match="is a run with iterations 3, not 4"):
        execute(tmp_path, "--iterations", "4")
    (tmp_path / "runs" / "options.json").unlink()
    with pytest.raises(command.UsageError, match=r"is a run with sigma1 0\.2, not 0\.3"):
        execute(tmp_path, "--sigma1", "0.3")
    assert len(execute(tmp_path, "--iterations", "4", "--overwrite")["runs"][0]["curves"]["loss"]) == 4


def test_a_broken_run_is_one_line(tmp_path):
    execute(tmp_path)
    for path in tmp_path.glob("*.*"):
        path.unlink()
    file = tmp_path / "runs" / "mse-seed0.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(command.UsageError, match=r"is truncated, or no checkpoint.*; delete it, or pass --overwrite"):
        execute(tmp_path)


def test_there_and_back_is_identical(tmp_path):
    file, texture = tmp_path / "run.safetensors", {"image_size": 1}
    original = result([0.5, np.nan, 0.25])
    runs.write(file, original, texture)
    again = runs.read(file, original.run, texture)
    assert runs.describe(again)["held_out_bce"] == 0.2
    np.testing.assert_array_equal(again.history.loss, original.history.loss)
    assert again.run == original.run
    assert again.counts == original.counts


@pytest.mark.parametrize(
    ("loss", "step"),
    [
        ([0.3, 0.2, 0.1], None),
        ([0.3, np.nan, 0.1], 2),
        ([np.inf, 0.2, 0.1], 1),
        ([0.3, 0.2, 0.4], 3),
        ([0.3, 0.2, 0.31], None),
        ([0.3], None),
    ],
)
def test_what_diverged_is_said_to_have(loss, step):
    assert runs.diverged_at(np.array(loss)) == step


def test_final_loss_is_the_last_tenth():
    assert runs.final_loss(np.arange(20.0)) == pytest.approx(18.5)
    assert runs.final_loss(np.array([1.0, 3.0])) == 3


def test_a_row_tells_the_running_means_and_the_scores():
    row = runs.describe(result([0.4, 0.2], agreeing=[0, 1]))
    assert row["loss"] == pytest.approx(0.3)
    assert row["agreement"] == pytest.approx(0.5)
    assert row["accuracy"] == pytest.approx(6 / 8)
    assert row["iou"] == pytest.approx(3 / 5)
    assert row["held_out_agreement"] == pytest.approx(4 / 8)


def test_summaries_group_seeds():
    results = [result([0.4, 0.2], "a", 0), result([0.6, 0.4], "a", 1), result([0.1, 0.1], "b", 0)]
    assert {label: len(group) for label, group in summary.by_label(results).items()} == {"a": 2, "b": 1}
    np.testing.assert_allclose(summary.values(results, "loss")["a"], [0.3, 0.5], rtol=1e-6)
    np.testing.assert_allclose(summary.running(results, "loss")["a"], [[0.4, 0.3], [0.6, 0.5]], rtol=1e-6)
    assert summary.spread(np.array([0.25, 0.75]), ".2f") == "0.50\n0.25-0.75"
    assert summary.spread(np.array([0.25]), ".2f") == "0.25"
    document, rows = summary.document("name", results)
    assert document["summary"]["a"]["loss"] == pytest.approx({"mean": 0.4, "min": 0.3, "max": 0.5})
    assert len(rows) == 3


def test_the_leader_is_ahead_in_paired_seeds():
    scores = {"a": np.array([0.9, 0.5]), "b": np.array([0.8, 0.7]), "c": np.array([np.nan, 0.9])}
    assert summary.leader(scores, "accuracy", ".2f", True) == (
        "Best by accuracy: b (0.75), ahead of all others in 0 of 2 seeds."
    )
    assert summary.leader({"a": scores["a"]}, "loss", ".1f", False) == "Best by loss: a (0.7)."
    assert summary.leader({"a": scores["a"], "b": scores["b"]}, "loss", ".1f", False) == (
        "Best by loss: a (0.7), ahead of all others in 1 of 2 seeds."
    )


def test_held_out_images_are_those_of_evaluate():
    texture = settings.texture(settings.Data(batch_size=2, image_size=16, sigma=4.0))
    model, batch = ARCHITECTURES["kernel_3"], programs.held_out_batch(texture)
    variables = model.init(jax.random.key(0), batch.image)
    counts, running, _ = jax.jit(lambda variables: programs.held_out(model, texture, variables))(variables)
    key = jax.random.key(programs.HELD_OUT_KEY)
    expected = segjax.evaluate(model, variables, key, programs.HELD_OUT_BATCHES, **texture)
    chex.assert_trees_all_equal(counts, expected, running)
    # The picture's batch is the first of them.
    first = segjax.evaluate(model, variables, key, 1, **texture)
    chex.assert_trees_all_equal(metrics.count(segjax.predict(model, variables, batch.image), batch.mask), first)
