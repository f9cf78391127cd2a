import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import segjax
from segjax import checkpoints
from segjax.models import from_config, to_config

METADATA = {"name": "é", "numbers": [1, 2.5], "nothing": None, "nested": {"flag": True}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.safetensors"


def test_there_and_back_is_identical(path):
    tree = {
        "a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T, "empty": np.zeros((0, 2))},
        "counter": np.int64(7),
        "special": np.array([np.nan, np.inf, -0.0, 1e-45], np.float32),
        "traced": jnp.arange(3),
    }
    checkpoints.save(path, tree, METADATA)
    loaded, metadata = checkpoints.load(path)
    assert metadata == METADATA
    assert jax.tree.structure(loaded) == jax.tree.structure(jax.tree.map(np.asarray, tree))
    for ours, again in zip(jax.tree.leaves(tree), jax.tree.leaves(loaded), strict=True):
        assert np.asarray(ours).dtype == again.dtype
        assert np.asarray(ours).tobytes() == again.tobytes()


def test_a_reloaded_model_predicts_the_same(path):
    model = segjax.SegmentationCNN(num_channels=3, kernel_size=3, shared_norm=False, depth=2)
    image = jax.random.uniform(jax.random.key(0), (2, 16, 16, 1))
    variables = model.init(jax.random.key(1), image)
    checkpoints.save(path, variables, {"model": to_config(model)})
    loaded, metadata = checkpoints.load(path)
    again = from_config(metadata["model"])
    assert again == model
    np.testing.assert_array_equal(segjax.predict(again, loaded, image), segjax.predict(model, variables, image))


def test_replaces_a_file_and_leaves_nothing_beside_it(path):
    checkpoints.save(path, {"a": np.zeros(3)}, {})
    checkpoints.save(path, {"a": np.ones(3)}, {})
    np.testing.assert_array_equal(checkpoints.load(path)[0]["a"], np.ones(3))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_metadata_that_is_not_json_writes_nothing(path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpoints.save(path, {"a": np.zeros(3)}, {"path": path})
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"text", b"\x10" + bytes(40)])
def test_refuses_what_is_no_such_file(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"file.safetensors is not a safetensors file"):
        checkpoints.load(path)


def test_refuses_a_truncated_file(path):
    checkpoints.save(path, {"a": np.zeros(30)}, {})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="not a safetensors file"):
        checkpoints.load(path)


def test_refuses_the_file_of_others(path):
    save_file({"a": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="not one of segjax"):
        checkpoints.load(path)


def test_a_missing_file_is_an_oserror(path):
    with pytest.raises(FileNotFoundError):
        checkpoints.load(path)
