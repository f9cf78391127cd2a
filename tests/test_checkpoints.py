import contextlib
import errno
import json
import os
import stat
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save

import segjax
from segjax import checkpoints

METADATA = {"name": "é", "numbers": [1, 2.5], "nothing": None, "nested": {"flag": True}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.safetensors"


def assert_same_bytes(loaded, tree):
    assert jax.tree.structure(loaded) == jax.tree.structure(tree)
    for ours, original in zip(jax.tree.leaves(loaded), map(np.asarray, jax.tree.leaves(tree)), strict=True):
        assert ours.dtype == original.dtype
        assert ours.tobytes() == original.tobytes()


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
    assert_same_bytes(loaded, tree)


def test_replaces_a_file_and_leaves_nothing_beside_it(path):
    checkpoints.save(path, {"a": np.zeros(3)}, {})
    checkpoints.save(path, {"a": np.ones(3)}, {})
    np.testing.assert_array_equal(checkpoints.load(path)[0]["a"], np.ones(3))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_metadata_that_is_not_json_writes_nothing(path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpoints.save(path, {"a": np.zeros(3)}, {"path": path})
    assert not path.exists()


def test_metadata_comes_back_as_json_has_it(path):
    checkpoints.save(path, {"a": np.zeros(3)}, {"m": {"a": None, "b": (2, 3)}})
    assert checkpoints.load(path)[1] == {"m": {"a": None, "b": [2, 3]}}


@pytest.mark.parametrize("first", [{"b": np.zeros(3)}, np.zeros(3)])
def test_two_arrays_of_one_name_are_refused(path, first):
    with pytest.raises(ValueError, match="tree must give each array a name of its own"):
        checkpoints.save(path, {"a": first, "a/b": np.ones(3)}, {})
    assert not path.exists()


def test_a_name_that_is_too_long_is_named(path):
    long = path.with_name("x" * 300)
    with pytest.raises(OSError, match="name too long") as error:
        checkpoints.save(long, {"a": np.zeros(3)}, {})
    assert error.value.filename == str(long)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"text", "is truncated, or no checkpoint"),
        (b"\x10" + bytes(7) + b"[" * 40, "is not a checkpoint"),
        (save({"a": np.zeros(3)}), "not one of segjax"),
        (struct.pack("<Q", 100_000) + b"[" * 100_000, "is not a checkpoint"),
    ],
)
def test_refuses_what_is_no_checkpoint(path, content, message):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        checkpoints.load(path)


def signed(metadata, arrays=None):
    """A file with a checksum that is right, whatever it says."""
    arrays = {"a": np.zeros(2)} if arrays is None else arrays
    try:
        checksum = checkpoints._checksum(arrays, metadata)
    except (TypeError, ValueError):
        checksum = checkpoints._checksum(arrays, {})
    entry = {"format": checkpoints.FORMAT, "metadata": metadata, "sha256": checksum}
    return save(arrays, {"segjax": json.dumps(entry)})


@pytest.mark.parametrize(
    "content",
    [
        *(signed(metadata) for metadata in (None, 5, True, "ab", [], [["model", 1]])),
        *(save({"a": np.zeros(2)}, {"segjax": text}) for text in ("5", "null", "[]", '{"format": 1}', "[" * 100_000)),
        *(signed({}, {"a": np.zeros(1), name: np.zeros(1)}) for name in ("a/b", "a/", "a/b/c")),
    ],
)
def test_what_is_signed_but_makes_no_sense_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"file.safetensors is (damaged|of format|no tree)"):
        checkpoints.load(path)


@pytest.fixture
def small(path):
    """A small checkpoint: its bytes, arrays and metadata."""
    tree = {"a": np.arange(3, dtype=np.float32), "b": {"c": np.int32(7)}}
    checkpoints.save(path, tree, {"step": 3})
    return path.read_bytes()


def test_every_truncation_is_refused(path, small):
    for length in range(len(small)):
        path.write_bytes(small[:length])
        with pytest.raises(ValueError, match=r"file.safetensors is (truncated|empty|not a checkpoint)"):
            checkpoints.load(path)


@pytest.mark.parametrize("leaf", [np.float32(1), jnp.bfloat16(1), jax.random.key(1)], ids=["number", "half", "key"])
def test_every_flipped_bit_is_refused(path, leaf):
    checkpoints.save(path, {"a": np.arange(3, dtype=np.float32), "b": {"c": leaf}}, {"step": 3})
    small = path.read_bytes()
    for bit in range(8 * len(small)):
        damaged = bytearray(small)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"file.safetensors is (damaged|truncated|not|of format|a safetensors)"):
            checkpoints.load(path)


def test_anything_after_the_end_is_refused(path, small):
    path.write_bytes(small + b"more")
    with pytest.raises(ValueError, match="is damaged"):
        checkpoints.load(path)


def test_refuses_a_newer_format(path, monkeypatch):
    monkeypatch.setattr(checkpoints, "FORMAT", 2)
    checkpoints.save(path, {"a": np.zeros(3)}, {})
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"is of format 2; this version of segjax reads format 1"):
        checkpoints.load(path)


def test_a_state_is_restored_into_its_template(path):
    model = segjax.SegmentationCNN(num_channels=2, kernel_size=3, depth=1)
    train = segjax.make_fit(model, num_steps=1, image_size=16, sigma=4)
    state = train.init(jax.random.key(0), 1e-3)
    checkpoints.save(path, {"state": state}, {})
    arrays, _ = checkpoints.load(path)
    template = jax.eval_shape(train.init, jax.random.key(0), 1e-3)
    assert_same_bytes(checkpoints.restore(template, arrays["state"]), state)


@pytest.mark.parametrize("order", "<>")
def test_a_tree_is_restored_into_itself_whatever_its_byte_order(path, order):
    tree = {"a": np.arange(3, dtype=f"{order}f4"), "b": np.arange(3, dtype=f"{order}i8")}
    checkpoints.save(path, tree, {})
    restored = checkpoints.restore(tree, checkpoints.load(path)[0])
    jax.tree.map(np.testing.assert_array_equal, restored, tree)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"a": np.zeros(3), "b": np.zeros(1)}, "it has no b"),
        ({}, "it has a as well"),
        ({"a": np.zeros(4)}, r"a is float64 of shape \(3,\), not float64 of shape \(4,\)"),
        ({"a": np.zeros(3, np.float32)}, r"a is float64 of shape \(3,\), not float32"),
    ],
)
def test_another_tree_is_refused_by_name(template, message):
    with pytest.raises(ValueError, match=f"the file holds another tree: {message}"):
        checkpoints.restore(template, {"a": np.zeros(3)})


def test_the_same_arrays_give_the_same_bytes(path, small):
    for _ in range(10):
        checkpoints.save(path, {"b": {"c": np.int32(7)}, "a": np.arange(3, dtype=np.float32)}, {"step": 3})
        assert path.read_bytes() == small


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(path, small, fails, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    target = checkpoints.os if fails == "fsync" else type(path)
    monkeypatch.setattr(target, fails, fail)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(path, {"a": np.zeros(100)}, {})
    assert path.read_bytes() == small
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_content_is_on_the_disk_before_its_name_and_then_the_name(path, monkeypatch):
    synced, fsync = [], os.fsync

    def note(number):
        synced.append((stat.S_ISDIR(os.fstat(number).st_mode), path.exists()))
        fsync(number)

    monkeypatch.setattr(checkpoints.os, "fsync", note)
    checkpoints.save(path, {"a": np.zeros(3)}, {})
    assert synced == [(False, False), (True, True)]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_folder_that_cannot_be_synchronized_costs_nothing(path, small, number, monkeypatch):
    """Some network disks refuse it; where a disk fails, the error says that the file is written."""
    fsync = os.fsync

    def refused(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(checkpoints.os, "fsync", refused)
    with contextlib.ExitStack() as stack:
        if number == errno.EIO:
            error = stack.enter_context(pytest.raises(checkpoints.UnsyncedError, match="Input/output error"))
        checkpoints.save(path, {"a": np.zeros(100)}, {})
    assert number != errno.EIO or error.value.filename == str(path)
    assert checkpoints.load(path)[0]["a"].shape == (100,)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_pipe_is_refused_and_not_waited_for(path):
    os.mkfifo(path)
    with pytest.raises(OSError, match="no regular file"):
        checkpoints.load(path)


def test_a_missing_file_is_an_oserror(path):
    with pytest.raises(FileNotFoundError):
        checkpoints.load(path)
