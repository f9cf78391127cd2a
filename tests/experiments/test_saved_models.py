from functools import cache
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from conftest import random_variables, to_nhwc, under
from safetensors.numpy import save_file

from experiments.lab.names import ARCHITECTURES
from experiments.lab.stops import UsageError
from experiments.pictures import novelty, saved_models
from segjax import checkpoints, predict

pytestmark = pytest.mark.usefixtures("full_precision")

IMAGE = np.random.default_rng(0).uniform(size=(2, 16, 16, 1)).astype(np.float32)
TEXTURE = {"batch_size": 2, "image_size": 16, "sigma1": 0.3, "sigma2": 1.5, "sigma": 4.0}
EXEMPLARS = {"first": "brick", "second": "grass", "image_size": 32, "sigma": 6.4, "contrast": 0.2}


# Networks that are equal have one program.
logits, untrained = jax.jit(predict, static_argnums=0), cache(random_variables)


def save(out, name, trained_on, export_torch=False):
    """Writes the files of an untrained network; its own file, and its variables."""
    variables = untrained(ARCHITECTURES[name])
    files = saved_models.files(name, variables, trained_on, export_torch)
    assert set(files) == {saved_models.MODEL, *([saved_models.TORCH] if export_torch else [])}
    for file, content in files.items():
        (out / file).write_bytes(content)
    return out / saved_models.MODEL, variables


NAMES = ("inside the mask (sigma 0.3)", "outside the mask (sigma 1.5)")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("separate_norm", "unet", "patch")]


@pytest.mark.parametrize("name", ["notebook", *SLOW])
def test_reloading_gives_identical_predictions(name, tmp_path):
    path, variables = save(tmp_path, name, {"texture": TEXTURE})
    network = saved_models.load(path)
    assert network.model == ARCHITECTURES[name]
    np.testing.assert_array_equal(
        logits(network.model, network.variables, IMAGE), logits(ARCHITECTURES[name], variables, IMAGE)
    )
    assert (network.texture, network.image_size, network.names) == (TEXTURE, 16, NAMES)
    assert saved_models.load_with_textures(path)[1]._asdict() == TEXTURE
    assert not network.diverged
    assert saved_models.reference(network).squares.shape[1] == novelty.NUM_FEATURES


def test_photographs_have_names_and_no_textures_to_draw(tmp_path):
    path, _ = save(tmp_path, "patch", {"exemplars": EXEMPLARS})
    network = saved_models.load(path)
    assert (network.texture, network.image_size, network.names) == (None, 32, ("brick", "grass"))
    with pytest.raises(UsageError, match="was trained on photographs"):
        saved_models.load_with_textures(path)


@pytest.mark.parametrize("name", ["notebook", "separate_norm"])
def test_a_file_for_pytorch_is_a_network_too(name, tmp_path):
    _, variables = save(tmp_path, name, {"texture": TEXTURE}, export_torch=True)
    network = saved_models.load(tmp_path / saved_models.TORCH)
    assert network.model == ARCHITECTURES[name]
    chex.assert_trees_all_equal(network.variables, variables)
    assert network.texture == saved_models.NOTEBOOK


def test_pytorch_s_own_weights_predict_what_pytorch_does(golden_model, tmp_path):
    path = tmp_path / "theirs.safetensors"
    save_file(under(golden_model, "state/"), path)
    network = saved_models.load(path)
    probability = jax.nn.sigmoid(logits(network.model, network.variables, to_nhwc(golden_model["x"])))
    np.testing.assert_allclose(probability, to_nhwc(golden_model["train/output"]), rtol=0, atol=1e-5)


def test_a_bad_segjax_native_is_not_blamed_on_the_file(tmp_path, monkeypatch):
    path, _ = save(tmp_path, "shallow", {"texture": TEXTURE})
    monkeypatch.setenv("SEGJAX_NATIVE", "maybe")
    with pytest.raises(UsageError, match=r"^SEGJAX_NATIVE must be 0 or 1, got 'maybe'"):
        saved_models.load(path)


def test_what_is_no_model_is_one_line(tmp_path):
    other, cut, run = (tmp_path / f"{name}.safetensors" for name in ("other", "cut", "run"))
    save_file({"weight": np.zeros(3)}, other)
    path, _ = save(tmp_path, "shallow", {"texture": TEXTURE})
    cut.write_bytes(path.read_bytes()[:-5])
    checkpoints.save(run, {"a": np.zeros(3)}, {"run": 1})
    (tmp_path / "unknown").mkdir()
    model = {"network": "Perceptron"}
    checkpoints.save(tmp_path / "unknown" / "model", {"a": np.zeros(3)}, {"model": model, "texture": TEXTURE})
    for file, message in {
        other: "is not a model of these experiments: arrays must be the notebook's state_dict",
        cut: "is not a model of these experiments: .* is truncated",
        run: "is not a model of these experiments: it holds no network",
        tmp_path / "unknown" / "model": "config must name one of",
        tmp_path / "absent": "cannot be read: No such file",
        tmp_path: "cannot be read: Is a directory",
        Path(__file__): "is not a checkpoint",
    }.items():
        with pytest.raises(UsageError, match=message) as error:
            saved_models.load(file)
        assert "\n" not in str(error.value)


def changed(tmp_path, change, texture=TEXTURE):
    """The file of an untrained network, after `change(arrays, metadata)`, with a checksum that is right."""
    path, _ = save(tmp_path, "shallow", {"texture": texture} if texture else {"exemplars": EXEMPLARS})
    arrays, metadata = checkpoints.load(path)
    change(arrays, metadata)
    checkpoints.save(path, arrays, metadata)
    return path


OUT = ("params", "out", "kernel")


AREA = {"slope": 0.3, "tilt": -0.2, "picture": 1e-6, "square": 2e-5, "reach": 2.0}
NOVELTY = {"squares": [[0.5] * 8, [0.25] * 8], "images": [[0.1] * 8, [0.3] * 8], "number": 16}


def put(tree, *path, value):
    for name in path[:-1]:
        tree = tree[name]
    tree[path[-1]] = value


def drop(tree, *path):
    for name in path[:-1]:
        tree = tree[name]
    del tree[path[-1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays, _: drop(arrays, "params"), "another tree: it has no params/conv1/bias"),
        (lambda arrays, _: drop(arrays, *OUT), "another tree: it has no params/out/kernel"),
        (lambda arrays, _: drop(arrays, "batch_stats"), "another tree: it has no batch_stats/norm1/mean"),
        (lambda arrays, _: put(arrays, "more", value=np.zeros(1)), "another tree: it has more as well"),
        (lambda arrays, _: put(arrays, *OUT, value=np.zeros((5, 5, 8, 1))), r"of shape \(5, 5, 8, 1\), not"),
        (lambda arrays, _: put(arrays, *OUT, value=np.zeros((5, 5, 16, 1), int)), "params/out/kernel is int64"),
        (lambda arrays, _: put(arrays, *OUT, value=np.full((5, 5, 16, 1), np.nan)), "its training diverged"),
        (lambda arrays, _: arrays.update(params=np.zeros(1)), "another tree: it has no params/conv1/bias"),
    ],
)
def test_arrays_that_are_not_the_network_s_are_refused(change, message, tmp_path):
    with pytest.raises(UsageError, match=f"model.safetensors is not a model of these experiments: .*{message}"):
        saved_models.load(changed(tmp_path, change))


MODEL = {"network": "SegmentationCNN", "depth": 1, "shared_norm": False}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        *(({"model": value}, "config must") for value in (None, 5, [], "UNet", {"network": None}, {"depth": 1})),
        ({"model": {**MODEL, "depth": 5 * 10**8}}, "depth must be an integer <= 256"),
        ({"model": {**MODEL, "num_channels": "x"}}, "num_channels must be an integer"),
        ({"model": {**MODEL, "kernel_size": 3.0}}, "kernel_size must be an integer"),
        ({"model": {"network": "PatchCNN", "patch": 0}}, "patch must be an integer"),
        ({"model": {**MODEL, "depth": 2}}, "another tree: it has no batch_stats/norm2/mean"),
        ({"model": {"network": "PatchCNN", "num_channels": 6}}, r"must be a multiple of patch\^2"),
        *(({"diverged": value}, "diverged must be true or false") for value in (0, "no", None)),
        *(({"texture": value}, "texture must have batch_size, image_size") for value in (None, 5, [], "", {})),
        ({"texture": {**TEXTURE, "sigma3": 1.0}}, "texture must have"),
        ({"texture": {"image_size": 16, "sigma1": 0.3, "sigma2": 1.5}}, "texture must have"),
        *(
            ({"texture": {**TEXTURE, "image_size": it}}, "image_size must")
            for it in (float("inf"), 0, "16", None, 16.0)
        ),
        ({"texture": {**TEXTURE, "image_size": 2 * 10**9}}, r"at most 2\^31 - 1 pixels"),
        *(
            ({"texture": {**TEXTURE, "sigma1": it}}, "sigma1 must")
            for it in (float("nan"), -1, "0.3", None, [1], 1e-50)
        ),
        ({"texture": {**TEXTURE, "sigma2": 10**400}}, "sigma2 must be a finite number"),
        ({"texture": {**TEXTURE, "batch_size": True}}, "batch_size must be an integer"),
    ],
)
def test_metadata_that_makes_no_sense_is_one_line(entry, message, tmp_path):
    path = changed(tmp_path, lambda _, metadata: metadata.update(entry))
    with pytest.raises(
        UsageError, match=f"model.safetensors is not a model of these experiments: .*{message}"
    ) as error:
        saved_models.load(path)
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("exemplars", "message"),
    [
        *((value, "exemplars must have first, second and image_size") for value in (None, 5, [], "brick", {})),
        ({**EXEMPLARS, "first": 3}, "first and second must be names, got 3"),
        *(({**EXEMPLARS, "image_size": value}, "image_size must") for value in (0, "32", float("inf"), None)),
        ({"first": "brick", "second": "grass"}, "exemplars must have"),
        *(({**EXEMPLARS, "novelty": entry}, "novelty must have squares, images, number") for entry in (5, [], {})),
        *(
            ({**EXEMPLARS, "novelty": NOVELTY | {"squares": entry}}, "squares must be 2 to 1024 rows of 8 numbers")
            for entry in (5, "x", [[1, 2]], [[1] * 8], [[1] * 7 + ["x"]] * 2)
        ),
        ({**EXEMPLARS, "novelty": NOVELTY | {"images": [[0.0] * 7 + [float("inf")]] * 2}}, "images must be finite"),
        ({**EXEMPLARS, "novelty": NOVELTY | {"number": 0}}, "number must be an integer >= 1"),
        *(
            ({**EXEMPLARS, "area": entry}, "area must have finite slope, tilt, picture, square, reach, the last")
            for entry in (5, {}, AREA | {"tilt": float("nan")}, AREA | {"slope": "x"}, AREA | {"square": -1.0})
        ),
    ],
)
def test_photographs_that_make_no_sense_are_one_line(exemplars, message, tmp_path):
    path = changed(tmp_path, lambda _, metadata: metadata.update(exemplars=exemplars), texture=None)
    with pytest.raises(UsageError, match=f"is not a model of these experiments: .*{message}"):
        saved_models.load(path)


def test_images_smaller_than_a_square_have_no_reference(tmp_path):
    path = changed(tmp_path, lambda _, metadata: metadata["texture"].update(image_size=7))
    assert saved_models.reference(saved_models.load(path)) is None


def test_the_reference_of_photographs_comes_with_the_file(tmp_path):
    path = changed(tmp_path, lambda _, metadata: metadata["exemplars"].update(novelty=NOVELTY), texture=None)
    reference = saved_models.reference(saved_models.load(path))
    assert saved_models.load(path).area is None
    assert {"squares": reference.squares.tolist(), "images": reference.images.tolist(), "number": 16} == NOVELTY
    # A file of an earlier version has none, or squares of other features.
    for change in (lambda *_: None, lambda _, metadata: metadata["exemplars"].update(squares=[[0.5] * 5] * 2)):
        assert saved_models.reference(saved_models.load(changed(tmp_path, change, texture=None))) is None


def test_two_photographs_of_one_name_are_told_apart(tmp_path):
    path = changed(tmp_path, lambda _, metadata: metadata["exemplars"].update(second="brick"), texture=None)
    assert saved_models.load(path).names == ("brick (first)", "brick (second)")


def test_a_network_must_say_what_it_was_trained_on(tmp_path):
    path = changed(tmp_path, lambda _, metadata: metadata.pop("texture"))
    with pytest.raises(UsageError, match="exemplars must have first"):
        saved_models.load(path)


def test_a_network_that_diverged_says_so(tmp_path):
    path = changed(tmp_path, lambda _, metadata: metadata.update(diverged=True))
    assert saved_models.load(path).diverged
    # A file of an earlier version does not have it.
    assert not saved_models.load(changed(tmp_path, lambda _, metadata: metadata.pop("diverged"))).diverged


def test_weights_of_pytorch_that_are_no_numbers_are_refused(golden_model, tmp_path):
    arrays, path = under(golden_model, "state/"), tmp_path / "theirs.safetensors"
    for dtype, value, message in (
        (np.float32, np.nan, "its training diverged"),
        (np.int32, 1, r"out\.weight must be of a floating dtype, got int32"),
    ):
        save_file({**arrays, "out.weight": np.full_like(arrays["out.weight"], value, dtype)}, path)
        with pytest.raises(UsageError, match=f"is not a model of these experiments: .*{message}"):
            saved_models.load(path)
