import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import under

import segjax
from segjax.torch_weights import from_state_dict, to_state_dict


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
    variables = jax.tree.map(jnp.cos, model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1))))
    arrays = to_state_dict(variables)
    assert not any(name.startswith("bn.") for name in arrays)
    chex.assert_trees_all_equal(from_state_dict(arrays), variables)


def test_structure_is_the_model_s(state):
    variables = segjax.SegmentationCNN().init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    chex.assert_trees_all_equal_shapes_and_dtypes(from_state_dict(state), variables)


def test_counter_of_batches(state):
    assert to_state_dict(from_state_dict(state), num_batches_tracked=90)["bn.num_batches_tracked"] == 90


def test_names_what_is_missing_or_unknown(state):
    del state["out.bias"]
    with pytest.raises(ValueError, match=r"missing: \['out.bias'\], unknown: \['head.bias'\]"):
        from_state_dict(state | {"head.bias": np.zeros(1)})


def test_names_the_shape_that_does_not_fit(state):
    with pytest.raises(ValueError, match=r"conv2 bias must have shape \(16,\), got \(3,\)"):
        from_state_dict(state | {"conv2.0.bias": np.zeros(3)})
    with pytest.raises(ValueError, match=r"conv1.0.weight must have shape \(out, in, height, width\)"):
        from_state_dict(state | {"conv1.0.weight": np.zeros(3)})


def test_refuses_another_depth():
    variables = segjax.SegmentationCNN(2, 3, depth=4).init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    with pytest.raises(ValueError, match=r"SegmentationCNN of depth 3, got the layers \['conv1', .*'conv4', 'out'\]"):
        to_state_dict(variables)


def test_pytorch_agrees(state):
    """The notebook's own layers, loaded from our arrays, predict what we predict."""
    torch = pytest.importorskip("torch")
    arrays = {name: torch.from_numpy(array) for name, array in to_state_dict(from_state_dict(state)).items()}
    norm = torch.nn.BatchNorm2d(16)
    layers = [
        torch.nn.Sequential(torch.nn.Conv2d(channels, 16, 5, padding=2), torch.nn.ReLU(), norm)
        for channels in (1, 16, 16)
    ]
    network = torch.nn.Sequential()
    for name, module in zip(("bn", "conv1", "conv2", "conv3"), (norm, *layers), strict=True):
        network.add_module(name, module)
    network.add_module("out", torch.nn.Conv2d(16, 1, 5, padding=2))
    network.load_state_dict(arrays)
    image = np.random.default_rng(0).uniform(size=(2, 1, 20, 20)).astype(np.float32)
    theirs = torch.from_numpy(image)
    with torch.no_grad():
        for name in ("conv1", "conv2", "conv3", "out"):
            theirs = getattr(network, name)(theirs)
    ours, _ = segjax.SegmentationCNN().apply(
        from_state_dict(state), np.moveaxis(image, 1, -1), train=True, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(np.moveaxis(ours, -1, 1), theirs.numpy(), rtol=1e-4, atol=1e-4)
