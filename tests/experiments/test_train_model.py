import html
import os
import re
import shlex

import chex
import pytest
from small_runs import SHORT, Command, execute

from experiments import inspect_layers, train_model
from experiments.lab import programs
from experiments.lab.stops import UsageError
from experiments.pictures import saved_models
from segjax import metrics

WORDS = [*SHORT, "--show-every", "4", "--architecture", "shallow"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short training, with pictures at steps that are no multiple of the usual chunk."""
    out = tmp_path_factory.mktemp("trained")
    return out, execute(train_model, *WORDS, "--out", out)


@pytest.mark.slow
def test_a_picture_every_so_many_iterations_and_at_the_end(trained):
    out, _ = trained
    assert sorted(path.stem for path in out.glob("iteration-*")) == [
        "iteration-000004",
        "iteration-000008",
        "iteration-000010",
    ]


@pytest.mark.deep
def test_several_devices_show_the_same_pictures(trained, tmp_path):
    environment = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"}
    code, _, errors = Command("train_model", *WORDS, "--out", tmp_path, environment=environment).finish()
    assert code == 0, errors
    for picture in trained[0].glob("iteration-*.png"):
        assert (tmp_path / picture.name).read_bytes() == picture.read_bytes()


@pytest.mark.slow
def test_the_saved_model_scores_what_the_trained_one_did(trained):
    out, document = trained
    saved, texture = saved_models.load_with_textures(out / "model.safetensors")
    assert not saved.diverged
    held = programs.evaluate_one(saved.model, texture, saved.variables)
    row = document["runs"][0]
    assert float(metrics.accuracy(held.counts)) == row["accuracy"]
    assert float(metrics.accuracy(held.running_counts)) == row["accuracy_by_running_statistics"]
    assert float(held.losses["bce"]) == pytest.approx(row["held_out_bce"], rel=1e-6)
    assert held.image_iou.shape == (16,)
    assert row["worst_image_iou"] == float(held.image_iou.min()) <= row["image_iou"]
    assert held.edges.pixels.sum() == 16 * 16**2
    assert document["best_possible"]["window"] == 5


@pytest.mark.slow
def test_the_printed_command_uses_the_model(trained, tmp_path):
    out, _ = trained
    page = (out / "report.html").read_text()
    (printed,) = re.findall(r"python -m experiments\.inspect_layers ([^<]*)", page)
    document = execute(inspect_layers, "quick", *shlex.split(html.unescape(printed)), "--out", tmp_path)
    assert document["texture"]["image_size"] == 16
    assert {row["layer"] for row in document["removals"]} == {"", "conv1", "out"}


@pytest.mark.slow
def test_a_network_that_diverged_is_saved_with_a_warning_and_not_used(tmp_path):
    execute(train_model, *WORDS, "--learning-rate", "1e30", "--out", tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "The training diverged: the network that is saved is of no use." in page
    assert "The model is saved" not in page
    # The table of means shows no number of a run that diverged; nor does another.
    assert "Where the errors lie" not in page
    with pytest.raises(UsageError, match="its training diverged: its parameters are not finite numbers"):
        execute(inspect_layers, "--model", tmp_path / "model.safetensors", "--out", tmp_path / "look")


@pytest.mark.slow
def test_the_weights_go_to_pytorch_when_asked_for_later(tmp_path):
    words = [*SHORT, "--show-every", "10", "--architecture", "notebook", "--out", tmp_path]
    execute(train_model, *words)
    before = (tmp_path / "model.safetensors").read_bytes()
    assert not (tmp_path / "model-torch.safetensors").exists()
    execute(train_model, *words, "--export-torch")
    assert (tmp_path / "model.safetensors").read_bytes() == before
    ours, theirs = (saved_models.load(tmp_path / f"model{ending}.safetensors") for ending in ("", "-torch"))
    assert ours.model == theirs.model
    chex.assert_trees_all_equal(ours.variables, theirs.variables)


def test_what_pytorch_has_no_names_for_is_not_exported(tmp_path):
    with pytest.raises(UsageError, match="--export-torch needs an --architecture of: notebook, separate_norm"):
        execute(train_model, "--architecture", "patch", "--export-torch", "--out", tmp_path)
