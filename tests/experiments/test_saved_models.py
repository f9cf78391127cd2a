import chex
import jax
import numpy as np
import pytest
from conftest import to_nhwc, under
from safetensors.numpy import save_file

from experiments.lab import saved_models
from experiments.lab.names import ARCHITECTURES
from experiments.lab.stops import UsageError
from segjax import checkpoints, predict

IMAGE = np.random.default_rng(0).uniform(size=(2, 16, 16, 1)).astype(np.float32)
TEXTURE = {"batch_size": 2, "image_size": 16, "sigma1": 0.3, "sigma2": 1.5, "sigma": 4.0}
EXEMPLARS = {"first": "brick", "second": "grass", "image_size": 32, "sigma": 6.4, "contrast": 0.2}


def save(out, name, trained_on, export_torch=False):
    """Writes the files of an untrained network; its own file, and its variables."""
    variables = ARCHITECTURES[name].init(jax.random.key(1), IMAGE)
    files = saved_models.files(name, variables, trained_on, export_torch)
    assert set(files) == {saved_models.MODEL, *([saved_models.TORCH] if export_torch else [])}
    for file, content in files.items():
        (out / file).write_bytes(content)
    return out / saved_models.MODEL, variables


@pytest.mark.parametrize("name", ["notebook", "separate_norm", "unet", "patch"])
def test_reloading_gives_identical_predictions(name, tmp_path):
    path, variables = save(tmp_path, name, {"texture": TEXTURE})
    network = saved_models.load(path)
    assert network.model == ARCHITECTURES[name]
    np.testing.assert_array_equal(
        predict(network.model, network.variables, IMAGE), predict(ARCHITECTURES[name], variables, IMAGE)
    )
    assert (network.texture, network.image_size, network.names) == (TEXTURE, 16, ("sigma 0.3", "sigma 1.5"))
    assert saved_models.load_with_textures(path)[2] == TEXTURE


def test_photographs_have_names_but_no_law(tmp_path):
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
    probability = jax.nn.sigmoid(predict(network.model, network.variables, to_nhwc(golden_model["x"])))
    np.testing.assert_allclose(probability, to_nhwc(golden_model["train/output"]), rtol=0, atol=1e-5)


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
        tmp_path / "unknown" / "model": "config must name a network of",
        tmp_path / "absent": "cannot be read: No such file",
        tmp_path: "cannot be read: Is a directory",
        __file__: "is not a checkpoint",
    }.items():
        with pytest.raises(UsageError, match=message) as error:
            saved_models.load(file)
        assert "\n" not in str(error.value)
