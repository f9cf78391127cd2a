import html
import json
import os
import re
import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import command, inspect_layers, programs, runs, train_best_model, train_model
from segjax import predict

SMALL = ["--iterations", "10", "--show-every", "4", "--image-size", "16", "--architecture", "kernel_3"]


def run(script, out, *arguments):
    options = command.parse(script.Options, script.PRESETS, ["--preset", "quick", *arguments, "--out", str(out)])
    script.main(options)
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short training, with pictures at steps that are no multiple of the usual chunk."""
    out = tmp_path_factory.mktemp("trained")
    return out, run(train_model, out, *SMALL)


def test_a_picture_every_so_many_iterations_and_at_the_end(trained):
    out, _ = trained
    assert sorted(path.stem for path in out.glob("iteration-*")) == [
        "iteration-000004",
        "iteration-000008",
        "iteration-000010",
    ]


def test_several_devices_show_the_same_pictures(trained, tmp_path):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    words = [sys.executable, "-m", "experiments.train_model", "--preset", "quick", *SMALL, "--out", str(tmp_path)]
    done = subprocess.run(words, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for picture in trained[0].glob("iteration-*.png"):
        assert (tmp_path / picture.name).exists()


def test_the_saved_model_scores_what_the_trained_one_did(trained):
    out, document = trained
    model, variables, texture = runs.load_model(out / "model.safetensors")
    counts, running, losses = jax.jit(lambda variables: programs.held_out(model, texture, variables))(variables)
    row = document["runs"][0]
    assert float(runs.METRICS["accuracy"](counts)) == row["accuracy"]
    assert float(runs.METRICS["accuracy"](running)) == row["accuracy_by_running_statistics"]
    assert float(losses["bce"]) == pytest.approx(row["held_out_bce"], rel=1e-6)


def test_reloading_gives_identical_predictions(tmp_path):
    batch = programs.held_out_batch({"batch_size": 2, "image_size": 16, "sigma": 4.0})
    for name in ("patch", "unet", "separate_norm"):
        model = programs.ARCHITECTURES[name]
        variables = model.init(jax.random.key(1), batch.image)
        runs.save_model(tmp_path / "model.safetensors", name, variables, {})
        again, loaded, _ = runs.load_model(tmp_path / "model.safetensors")
        np.testing.assert_array_equal(predict(again, loaded, batch.image), predict(model, variables, batch.image))


def test_the_printed_command_uses_the_model(trained, tmp_path):
    out, _ = trained
    page = (out / "report.html").read_text()
    (printed,) = re.findall(r"python -m experiments\.inspect_layers ([^<]*)", page)
    document = run(inspect_layers, tmp_path, *shlex.split(html.unescape(printed)))
    assert document["texture"]["image_size"] == 16
    assert {row["layer"] for row in document["removals"]} == {"", "conv1", "conv2", "conv3", "out"}


def test_the_best_model_is_the_last_and_tells_how_it_grew(tmp_path):
    document = run(train_best_model, tmp_path, "--seconds", "4", "--image-size", "16", "--held-out", "12")
    rows = document["snapshots"]
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    model, variables, texture = runs.load_model(tmp_path / "model.safetensors")
    options = command.parse(
        train_best_model.Options,
        train_best_model.PRESETS,
        ["--preset", "quick", "--image-size", "16", "--held-out", "12"],
    )
    assert texture["image_size"] == 16
    last = train_best_model.Snapshot(0.0, 1, 0.0, variables)
    assert train_best_model.judge(options, [last], train_best_model.Console(quiet=True))[0]["iou"] == rows[-1]["iou"]
    assert model == programs.ARCHITECTURES["patch"]
