"""Stored runs as contenders: what is read of an earlier results.json, and what is refused."""

import json

import numpy as np
import pytest
from small_runs import SHORT, arm, execute, parse, result

from experiments import compare_optimizers
from experiments.lab.arms import COLUMNS
from experiments.lab.stops import UsageError
from experiments.optimizers import baseline

WORDS = [*SHORT, "--seeds", "2"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """results.json of a small comparison, one optimizer of it tuned."""
    out = tmp_path_factory.mktemp("stored")
    tuned = ["--tune", "--tuning-seeds", "1", "--optimizers", "lion=optax:lion=1e-3", "tuned sgd=sgd=0.1,1"]
    execute(compare_optimizers, *WORDS, *tuned, "--out", out)
    return out / "results.json"


def compare(stored, *words):
    return execute(compare_optimizers, *WORDS, "--optimizers", "adam", "--baseline", stored, *words)


def changed(stored, tmp_path, change):
    """The same file after `change` of its document."""
    document = json.loads(stored.read_text())
    change(document)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.slow
def test_stored_runs_are_contenders(stored, tmp_path):
    document = compare(stored, "--out", tmp_path)
    before = json.loads(stored.read_text())
    labels = [row["label"] for row in before["runs"][::2]]
    assert labels[0] == "lion 0.001"
    adam, sgd = "adam 0.001", f"{labels[1]} (stored)"
    assert list(document["summary"]) == [adam, "lion 0.001 (stored)", sgd]
    # Its tuning is charged, and it is the reference.
    assert document["tuning_steps"] == {adam: 0, "lion 0.001 (stored)": 0, sgd: 20}
    assert document["reference"] == sgd
    stored_rows = [{**row, "label": ""} for row in document["runs"][2:]]
    assert stored_rows == [{**row, "label": ""} for row in before["runs"]]
    # The folder has the runs that this command trained, and no others.
    assert {path.name.partition("-")[0] for path in (tmp_path / "runs").iterdir()} == {"adam"}
    assert document["stored"] == {"file": str(stored), "labels": ["lion 0.001 (stored)", sgd]}
    assert not any("began at another loss" in warning for warning in document["warnings"])
    assert any(warning.startswith("The budgets of tuning are unequal") for warning in document["warnings"])
    page = (tmp_path / "report.html").read_text()
    assert f"{adam} minus {sgd}: loss, last tenth " in page
    for text in ("Stored runs, which this command did not make", before["date"], before["versions"]["jax"]):
        assert text in page


@pytest.mark.slow
def test_a_stored_run_may_be_the_reference(stored, tmp_path):
    assert compare(stored, "--reference", "lion 0.001", "--out", tmp_path)["reference"] == "lion 0.001 (stored)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--iterations", "9"], "has iterations 10, not 9: the protocol must be the same"),
        (["--schedule", "cosine"], "has schedule constant, not cosine"),
        (["--image-size", "17"], "has --image-size 16, not 17"),
        (["--sigma2", "1.3"], "has --sigma2 1.2, not 1.3"),
        (["--batch-size", "2"], "has --batch-size 1, not 2"),
        (["--seeds", "3"], r"has seeds \[0, 1\], not \[0, 1, 2\]"),
        (["--seed", "1"], r"has seeds \[0, 1\], not \[1, 2\]"),
        (["--reference", "rmsprop"], "--reference must be one of: adam, adam 0.001, lion 0.001, tuned sgd 0.1"),
    ],
)
def test_another_protocol_is_one_line(stored, tmp_path, words, message):
    with pytest.raises(UsageError, match=message) as error:
        compare(stored, *words, "--out", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda file: file.update(experiment="train_model"),
            "is not the results.json of .* Invalid enum value 'train_model' - at `.*experiment`",
        ),
        (lambda file: file.pop("runs"), "missing required field `runs`"),
        (lambda file: file.pop("tuning_steps"), "missing required field `tuning_steps`"),
        (lambda file: file.update(runs=[]), "Expected `array` of length >= 1"),
        (lambda file: file["runs"][0].pop("iou"), "missing required field `iou`"),
        (lambda file: file["runs"][0].update(iou="much"), "Expected `float \\| null`, got `str` - at `\\$.iou`"),
        (lambda file: file["runs"][3].update(iou=1.5), r"runs\[3\]: Expected `float` <= 1.0 - at `\$.iou`"),
        (
            lambda file: file["runs"][0].update(agreement=-0.5),
            r"runs\[0\]: Expected `float` >= 0.0 - at `\$.agreement`",
        ),
        (lambda file: file["runs"][0].update(final_loss=-3.0), "Expected `float` >= -1e-06 - at `\\$.final_loss`"),
        (
            lambda file: file["runs"][0]["curves"]["iou"].__setitem__(4, 2.0),
            "Expected `float` <= 1.0 - at .*curves.iou",
        ),
        (
            lambda file: file["runs"].append(file["runs"][0]),
            r"runs\[4\]: lion 0.001 must have one run per seed, got two of seed 0",
        ),
        (
            lambda file: file["runs"][1]["curves"]["loss"].__setitem__(slice(6, None), [None] * 4),
            "diverged_at of lion 0.001, seed 1, must be 7 by its losses, got null",
        ),
        (
            lambda file: file["runs"][1]["curves"]["loss"].__setitem__(9, 5.0),
            "diverged_at of lion 0.001, seed 1, must be 10 by its losses",
        ),
        (
            lambda file: file["runs"][0].update(diverged_at=3),
            "diverged_at of lion 0.001, seed 0, must be null or 10 by its losses, got 3",
        ),
        (lambda file: file["runs"][0]["curves"]["loss"].pop(), "its curves do not have 10 steps"),
        (lambda file: file["runs"][0]["curves"].update(loss=[[1.0] * 10]), "Expected `float.* - at `.*curves.loss"),
        (lambda file: file.update(command=3), "Expected `str`, got `int` - at `.*command`"),
        (
            lambda file: file["tuning_steps"].update({"lion 0.001": 10**25}),
            "Expected `int` <= 2147483647 - at `.*tuning_steps",
        ),
        (
            lambda file: file["runs"][0].update(learning_rate="abc"),
            "Expected `float`, got `str` - at `.*learning_rate`",
        ),
        (lambda file: file["runs"][1].update(learning_rate=0.5), "the runs of lion 0.001 are not of one optimizer"),
        (lambda file: file["runs"][0].update(diverged_at=0), "Expected `int` >= 1 - at `.*diverged_at`"),
        (lambda file: file["runs"][1].update(iterations=7), "has iterations 7, not 10"),
        (lambda file: file["runs"][0]["curves"].update(loss=[1e308] * 10), "Expected `float.* - at `.*curves.loss"),
        (lambda file: file["runs"][0].update(final_loss="0.3"), "Expected `float .*`, got `str` - at `.*final_loss`"),
        (lambda file: [row.update(label="$x$") for row in file["runs"][:2]], "a label must be words"),
        (lambda file: file["numerics"].update(enable_x64=True), "has jax's enable_x64 True, not False"),
        (lambda file: file["options"].update(sigma=[1]), r"has --sigma \[1\], not 3.2"),
    ],
)
def test_a_file_of_anything_else_is_one_line(stored, tmp_path, change, message):
    path = changed(stored, tmp_path, change)
    with pytest.raises(ValueError, match=message) as error:
        baseline.read(path, parse(compare_optimizers, *WORDS))
    assert "\n" not in str(error.value)


def test_no_file_is_one_line(tmp_path):
    options = parse(compare_optimizers, *WORDS)
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        baseline.read(tmp_path / "none.json", options)
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        baseline.read(tmp_path, options)


@pytest.mark.slow
def test_stored_runs_of_other_versions_or_images_are_warned_of(stored, tmp_path):
    def change(document):
        document["versions"]["jax"] = "0.1"
        document["runs"][0]["curves"]["loss"][0] *= 2

    read = baseline.read(changed(stored, tmp_path, change), parse(compare_optimizers, *WORDS))
    curves = next(iter(read.arms.values())).curves
    ours = [result([curve["loss"][0] / (2 if seed == 0 else 1), 0.1], seed) for seed, curve in enumerate(curves)]
    seconds, versions, unpaired = baseline.warnings(read, arm("adam", ours).values())
    assert "seconds of stored runs" in seconds
    assert "jax 0.1 (here" in versions
    assert unpaired.startswith("lion 0.001 (stored) began at another loss than the runs beside it (seeds 0)")


@pytest.mark.slow
def test_a_stored_run_that_diverged_still_counts_as_diverged(stored, tmp_path):
    def change(document):
        document["runs"][0].update(diverged_at=3, **dict.fromkeys(COLUMNS))
        document["runs"][0]["curves"]["loss"][2:] = [None] * 8

    (lion, _) = baseline.read(changed(stored, tmp_path, change), parse(compare_optimizers, *WORDS)).arms.values()
    assert lion.diverged.tolist() == [True, False]
    assert np.isnan(lion.masked("iou")).tolist() == [True, False]
    assert np.isnan(lion.curves[0]["loss"]).sum() == 8
