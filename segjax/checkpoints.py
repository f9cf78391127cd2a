"""A tree of arrays and its metadata in one safetensors file, written completely or not at all.

The file contains no pickle; PyTorch, NumPy and others read it too. A tree is any pytree of dicts, tuples and
NamedTuples; the path of a leaf is the name of its array, as in "params/conv1/kernel". A checksum over names, shapes,
dtypes, values and metadata detects every changed bit.
"""

import contextlib
import errno
import hashlib
import json
import os
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from safetensors import SafetensorError, deserialize
from safetensors import numpy as safetensors

from segjax._checks import describe, dtype_of, named_arrays

FORMAT = 1
# The safetensors header has one entry, which holds format, checksum and metadata as JSON. The order of several entries
# would be random, and two files of the same arrays would differ.
_ENTRY = "segjax"
# Name in a file's header -> dtype: those that both JAX and safetensors have. safetensors' own functions for NumPy write
# bfloat16 and float8, but do not read them.
_DTYPES = {
    **{f"{kind[0].upper()}{bits}": jnp.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{f"F{bits}": jnp.dtype(f"float{bits}") for bits in (16, 32, 64)},
    "BOOL": jnp.dtype("bool"),
    "C64": jnp.dtype("complex64"),
    "BF16": jnp.dtype("bfloat16"),
    "F8_E4M3": jnp.dtype("float8_e4m3fn"),
    "F8_E4M3FNUZ": jnp.dtype("float8_e4m3fnuz"),
    "F8_E5M2": jnp.dtype("float8_e5m2"),
    "F8_E5M2FNUZ": jnp.dtype("float8_e5m2fnuz"),
    "F8_E8M0": jnp.dtype("float8_e8m0fnu"),
}


class ForeignFileError(ValueError):
    """A safetensors file that another program wrote."""


class UnsyncedError(OSError):
    """A file is written, but its folder failed to synchronize: a power failure may bring back the older file."""


def save(path: str | os.PathLike[str], tree: Any, metadata: Mapping[str, Any]) -> None:
    """Writes a pytree of arrays, and metadata of JSON's types; a crash leaves the old file or the new one.

    In the metadata, `load` returns lists in place of tuples.

    Raises:
        OSError: if the file cannot be written; an older file of this name is then unchanged.
        UnsyncedError: if the file is written, but may not survive a power failure.
        TypeError: if the metadata is no mapping of text to JSON's types; or naming a leaf that is no array, is traced,
            has masked numbers, or is of a dtype that safetensors does not have, such as complex128.
        ValueError: if a key contains a / and two arrays have one name, as in {"a": {"b": x}, "a/b": y}; or naming an
            array that was donated, or whose name no file can have.
    """
    write(path, to_bytes(tree, metadata))


def to_bytes(tree: Any, metadata: Mapping[str, Any]) -> bytes:
    """The content of the file that `save` writes.

    Raises:
        TypeError, ValueError: as `save`.
    """
    metadata = _check_metadata(metadata)
    leaves = named_arrays("tree", tree)
    if len(leaves) < len(jax.tree.leaves(tree)) or _prefix_conflicts(leaves):
        raise ValueError("tree must give each array a name of its own, got a key with a / that repeats another name")
    for name, leaf in leaves.items():
        _check_leaf(name, leaf)
    implementations = {name: str(jax.random.key_impl(leaf)) for name, leaf in leaves.items() if _is_key(leaf)}
    data = {name: jax.random.key_data(leaf) if _is_key(leaf) else leaf for name, leaf in leaves.items()}
    # `device_get` of the whole tree copies all leaves at the same time.
    arrays = {name: _native(name, leaf) for name, leaf in jax.device_get(data).items()}
    entry = {"format": FORMAT, "metadata": metadata, "sha256": _checksum(arrays, metadata, implementations)}
    # Left out where it is empty, so that most files are as before.
    entry |= {"keys": implementations} if implementations else {}
    return safetensors.save(arrays, {_ENTRY: json.dumps(entry, sort_keys=True)})


def _check_metadata(metadata: Any) -> dict[str, Any]:
    """The metadata as `load` returns it, with lists in place of tuples."""
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping, got {describe(metadata)}")
    try:
        normal = dict(json.loads(json.dumps(dict(metadata))))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"metadata must be of JSON's types: {error}") from None
    # Otherwise {1: a, "1": b} would lose one of the two.
    if not _has_text_keys(metadata):
        raise TypeError(f"metadata must have keys that are text, got {describe(metadata)}")
    return normal


def _has_text_keys(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _has_text_keys(inner) for key, inner in value.items())
    return all(map(_has_text_keys, value)) if isinstance(value, list | tuple) else True


def _check_leaf(name: str, leaf: Any) -> None:
    # safetensors keeps the first for itself, and cannot encode others, such as "\ud800".
    if name == "__metadata__" or name.encode(errors="ignore").decode() != name:
        raise ValueError(f"tree must have names that safetensors takes, got {describe(name)}")
    must = "tree must hold arrays that are there"
    if isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct):
        raise TypeError(f"{must}, got {describe(leaf)} at {name}")
    if isinstance(leaf, jax.Array) and leaf.is_deleted():
        raise ValueError(f"{must}, got one that was donated or deleted at {name}")


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _native(name: str, leaf: Any) -> np.ndarray:
    """A leaf as an array in C order, since safetensors writes the memory as it is, and of this machine's byte order."""
    array = np.array(leaf, order="C")
    array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype not in _DTYPES.values():
        known = ", ".join(dtype.name for dtype in _DTYPES.values())
        raise TypeError(f"tree must hold arrays of the dtypes {known}, or keys; got {array.dtype} at {name}")
    return array


def write(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file completely or not at all: a temporary file beside it, fsync, rename, and fsync of the folder.

    Raises:
        OSError: naming the file, if it cannot be written.
        UnsyncedError: naming the file, if it is written, but its folder cannot be synchronized.
    """
    path = Path(path)
    unfinished = temporary(path)
    try:
        # A link under this name is removed, not followed: it may point to somebody else's file.
        unfinished.unlink(missing_ok=True)
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException as error:
        # If the name is too long this fails too, and its error would name the temporary file.
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        # The error of a full disk does not name the file.
        raise OSError(error.errno, error.strerror, str(path)) from error
    # Without this the rename itself may not survive a power failure.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        # Some network file systems cannot synchronize a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise UnsyncedError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(folder)


def temporary(path: str | os.PathLike[str]) -> Path:
    """The temporary file that `write` renames at the end; a crash may leave it."""
    # In the same folder, since a rename is atomic only within one file system.
    return Path(path).with_name(f".{Path(path).name}.tmp")


def read(path: str | os.PathLike[str]) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: if it cannot be read, or if it is a pipe or a device, whose content might never end.
    """

    def opener(name: str, flags: int) -> int:
        # Otherwise opening a pipe waits for somebody who writes to it.
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    with open(path, "rb", opener=opener) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        return file.read()


def load(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays that `save` wrote, bit for bit, as nested dicts of NumPy arrays and typed keys, and the metadata.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if `save` did not write the file, or if it is truncated, damaged or of a newer format.
    """
    content = read(path)
    entry = _entry(path, content)
    if entry.get("format") != FORMAT:
        raise ValueError(f"{path} is of format {entry.get('format', 0)}; this version of segjax reads format {FORMAT}")
    if not isinstance(entry.get("metadata"), dict):
        raise ValueError(f"{path} is damaged: its metadata is no mapping")
    try:
        arrays = {
            name: np.frombuffer(view["data"], _DTYPES[view["dtype"]]).reshape(view["shape"])
            for name, view in deserialize(content)
        }
        implementations = dict(entry.get("keys", {}))
        intact = _checksum(arrays, entry["metadata"], implementations) == entry["sha256"]
        keys = {
            name: jax.random.wrap_key_data(jnp.asarray(arrays[name]), impl=implementation)
            for name, implementation in implementations.items()
        }
    # A correct checksum does not prove that `save` wrote the file: the metadata can be any JSON.
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not intact:
        raise ValueError(f"{path} is damaged: its checksum does not match its content")
    if conflicts := _prefix_conflicts(arrays):
        raise ValueError(f"{path} is no tree: {conflicts[0]} is an array, and has others below it")
    return unflatten_dict({**arrays, **keys}, sep="/"), entry["metadata"]


def restore(template: Any, arrays: Mapping[str, Any]) -> Any:
    """A tree with the structure of `template` and the arrays that `load` returned.

    Args:
        template: a pytree of arrays or of `jax.ShapeDtypeStruct`s, as `jax.eval_shape` returns.
        arrays: nested dicts of arrays, by the names in `template`.

    Raises:
        TypeError: if `arrays` is not a mapping.
        ValueError: naming the first array that is missing, superfluous, or of another shape or dtype; the byte order
            does not matter.
    """
    if not isinstance(arrays, Mapping):
        raise TypeError(f"arrays must be nested dicts of arrays, got {describe(arrays)}")
    flat, leaves = named_arrays("arrays", dict(arrays)), named_arrays("template", template)
    for name, leaf in leaves.items():
        if name not in flat:
            raise ValueError(f"the file holds another tree: it has no {name}")
        there, expected = (f"{dtype_of(array).name} of shape {np.shape(array)}" for array in (flat[name], leaf))
        if there != expected:
            raise ValueError(f"the file holds another tree: {name} is {there}, not {expected}")
    if extra := sorted(flat.keys() - leaves.keys()):
        raise ValueError(f"the file holds another tree: it has {extra[0]} as well")
    return jax.tree.unflatten(jax.tree.structure(template), [flat[name] for name in leaves])


def _prefix_conflicts(arrays: Mapping[str, Any]) -> list[str]:
    """Names of arrays that are prefixes of others: a nested dict cannot hold both."""
    parents = {name[:end] for name in arrays for end, character in enumerate(name) if character == "/"}
    return sorted(parents & arrays.keys())


def _entry(path: str | os.PathLike[str], content: bytes) -> dict[str, Any]:
    """The header's entry that `save` wrote; the lengths in the header must agree with that of the file."""
    if not content:
        raise ValueError(f"{path} is empty")
    # A safetensors file begins with the length of its JSON header, 8 bytes, little-endian. It is parsed here, because
    # the errors of safetensors do not distinguish a truncated file from another format.
    size = struct.unpack("<Q", content[:8])[0] if len(content) >= 8 else 0
    try:
        header = json.loads(content[8 : 8 + size])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        entries = header.get("__metadata__", {})
        end = 8 + size + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        # A length above 4 GB means that the first 8 bytes are text or another format.
        truncated = len(content) < 8 + size < 2**32
        fault = "is truncated, or no checkpoint" if truncated else "is not a checkpoint"
        raise ValueError(f"{path} {fault}: its header cannot be read") from error
    if end > len(content):
        raise ValueError(f"{path} is truncated: it has {len(content)} of {end} bytes")
    if not isinstance(entries, dict) or _ENTRY not in entries:
        raise ForeignFileError(f"{path} is a safetensors file, but not one of segjax")
    try:
        entry = json.loads(entries[_ENTRY])
        return {**entry}
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _checksum(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any], implementations: Mapping[str, str] = {}
) -> str:
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    digest.update(json.dumps(dict(implementations), sort_keys=True).encode() if implementations else b"")
    # Sorted, since safetensors changes the order of the arrays.
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        # NumPy has one text, <V1, for several kinds of float8.
        dtype = array.dtype.name if array.dtype.kind == "V" else array.dtype.str
        digest.update(f"{name} {dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
