import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_variables, under
from safetensors.numpy import load_file, save_file

import segjax
from segjax import torch_weights
from segjax.torch_weights import from_state_dict, to_state_dict

pytestmark = pytest.mark.usefixtures("full_precision")


@pytest.fixture
def state(golden_model):
    return under(golden_model, "state/")


def test_there_and_back_is_identical(state):
    again = to_state_dict(from_state_dict(state))
    assert again.keys() == state.keys()
    for name, array in state.items():
        assert again[name].dtype == array.dtype, name
        np.testing.assert_array_equal(again[name], array, err_msg=name)


def test_back_and_there_is_identical_for_separate_norms():
    model = segjax.SegmentationCNN(num_channels=3, kernel_size=3, shared_norm=False)
    variables = jax.tree.map(np.cos, random_variables(model))
    arrays = to_state_dict(variables)
    assert not any(name.startswith("bn.") for name in arrays)
    chex.assert_trees_all_equal(from_state_dict(arrays), variables)


def test_structure_is_the_model_s(state):
    variables = jax.eval_shape(segjax.SegmentationCNN().init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    chex.assert_trees_all_equal_shapes_and_dtypes(from_state_dict(state), variables)


def test_names_what_is_missing_or_unknown(state):
    del state["out.bias"]
    with pytest.raises(ValueError, match=r"missing: \['out.bias'\], unknown: \['head.bias'\]"):
        from_state_dict(state | {"head.bias": np.zeros(1)})


def test_names_the_shape_that_does_not_fit(state):
    with pytest.raises(ValueError, match=r"conv2 bias must have shape \(16,\), got \(3,\)"):
        from_state_dict(state | {"conv2.0.bias": np.zeros(3)})
    with pytest.raises(ValueError, match=r"conv1.0.weight must have shape \(out, in, height, width\)"):
        from_state_dict(state | {"conv1.0.weight": np.zeros(3)})


def test_a_file_there_and_back_is_identical(state, tmp_path):
    variables, path = from_state_dict(state), tmp_path / "model.safetensors"
    torch_weights.save(path, variables, num_batches_tracked=90)
    chex.assert_trees_all_equal(torch_weights.load(path), variables)
    arrays = load_file(path)
    assert arrays.keys() == state.keys()
    assert arrays["bn.num_batches_tracked"] == 90
    assert arrays["conv2.2.num_batches_tracked"].dtype == np.int64


def test_names_that_share_an_array_may_be_left_out(state, tmp_path):
    # As `safetensors.torch.save_model` does: the first of the names, in their order, stays.
    first_names = {name: array for name, array in state.items() if ".2." not in name}
    save_file(first_names, tmp_path / "model.safetensors")
    chex.assert_trees_all_equal(torch_weights.load(tmp_path / "model.safetensors"), from_state_dict(state))


def test_layers_with_norms_of_their_own_are_not_taken_for_one(state):
    state["conv2.2.weight"] = state["conv2.2.weight"] + 1
    with pytest.raises(ValueError, match=r"conv2.2.weight differs from bn.weight"):
        from_state_dict(state)


def test_the_network_is_read_off_its_variables(state):
    assert torch_weights.model_of(from_state_dict(state)) == segjax.SegmentationCNN()
    model = segjax.SegmentationCNN(num_channels=3, kernel_size=7, shared_norm=False)
    variables = random_variables(model)
    assert torch_weights.model_of(from_state_dict(to_state_dict(variables))) == model
    # Flax ignores layers that a network does not have: the prediction of a deeper one would be wrong.
    for other in (segjax.UNet(), segjax.PatchCNN(), segjax.SegmentationCNN(depth=4)):
        for function in (torch_weights.model_of, to_state_dict):
            with pytest.raises(ValueError, match=r"of a SegmentationCNN of depth 3, got the layers \['"):
                function(random_variables(other))
    with pytest.raises(TypeError, match="variables must be"):
        torch_weights.model_of(state)
    variables["params"]["conv1"]["kernel"] = np.zeros((3, 5, 1, 3), np.float32)
    with pytest.raises(ValueError, match="must have square kernels, got 3 x 5"):
        torch_weights.model_of(variables)


def test_the_statistics_of_batchnorm_must_be_there():
    with pytest.raises(ValueError, match="must have batch_stats of norm"):
        to_state_dict({"params": random_variables(segjax.SegmentationCNN(2, 3))["params"]})


def test_a_dtype_that_numpy_does_not_have_is_named(tmp_path):
    header = b'{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    (tmp_path / "model").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(ValueError, match="arrays of a dtype that NumPy does not have"):
        torch_weights.load(tmp_path / "model")


def test_a_file_of_something_else_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"model.safetensors is not a safetensors file"):
        torch_weights.load(path)
    with pytest.raises(OSError, match="No such file"):
        torch_weights.load(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        torch_weights.load(tmp_path / "pipe")


def notebook_s_network(torch):
    """The notebook's MyFirstsCNN: the names and shapes of its layers, and what it does to an image."""

    class MyFirstsCNN(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = torch.nn.BatchNorm2d(16)
            for number, channels in enumerate((1, 16, 16), start=1):
                convolution = torch.nn.Conv2d(channels, 16, 5, padding=2)
                setattr(self, f"conv{number}", torch.nn.Sequential(convolution, torch.nn.ReLU(), self.bn))
            self.out = torch.nn.Conv2d(16, 1, 5, padding=2)

        def forward(self, x):
            return torch.sigmoid(self.out(self.conv3(self.conv2(self.conv1(x)))))

    return MyFirstsCNN()


def probabilities(variables, image, train=True):
    model = torch_weights.model_of(variables)
    logits, _ = model.apply(variables, np.moveaxis(image, 1, -1), train=train, mutable=["batch_stats"])
    return np.moveaxis(jax.nn.sigmoid(logits), -1, 1)


def test_pytorch_loads_our_file_and_agrees(state, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    variables = from_state_dict(state)
    torch_weights.save(tmp_path / "model.safetensors", variables)
    network = notebook_s_network(torch)
    network.load_state_dict(load_file(tmp_path / "model.safetensors"))
    image = np.random.default_rng(0).uniform(size=(2, 1, 20, 20)).astype(np.float32)
    for train in (False, True):
        with torch.no_grad():
            theirs = network.train(train)(torch.from_numpy(image)).numpy()
        np.testing.assert_allclose(probabilities(variables, image, train), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("save_model", [False, True])
def test_we_load_pytorch_s_file_and_agree(save_model, tmp_path):
    torch = pytest.importorskip("torch")
    import safetensors.torch

    torch.manual_seed(0)
    network, path = notebook_s_network(torch), tmp_path / "model.safetensors"
    image = np.random.default_rng(0).uniform(size=(2, 1, 20, 20)).astype(np.float32)
    with torch.no_grad():
        # One step in training mode moves the running statistics from where they began.
        theirs = network(torch.from_numpy(image)).numpy()
        evaluated = network.eval()(torch.from_numpy(image)).numpy()
    if save_model:
        safetensors.torch.save_model(network, path)
    else:
        safetensors.torch.save_file({name: array.clone() for name, array in network.state_dict().items()}, path)
    variables = torch_weights.load(path)
    np.testing.assert_allclose(probabilities(variables, image), theirs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(probabilities(variables, image, train=False), evaluated, rtol=0, atol=1e-5)
