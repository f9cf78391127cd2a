"""Files of arrays: one safetensors file for a tree of arrays and what is to be said of it, whole or not there at all.

No pickle is involved, and PyTorch, NumPy and others open the file as well. A tree is any pytree of dicts, tuples and
NamedTuples; its path becomes the name of an array, as in "params/conv1/kernel". A checksum over names, shapes, dtypes,
numbers and metadata makes sure that what is read is what was written.
"""

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

FORMAT = 1
# The one entry of the safetensors header, JSON: format, checksum and metadata. Of several, the order would be random,
# and two files of the same arrays would not be the same.
_ENTRY = "segjax"


class OfAnotherError(ValueError):
    """A safetensors file that something else wrote."""


def save(path: str | os.PathLike[str], tree: Any, metadata: Mapping[str, Any]) -> None:
    """Writes a pytree of arrays, with metadata of JSON's types, so that a crash leaves the old file or the new one.

    Raises:
        OSError: if the file cannot be written; what was there before is then unchanged.
        TypeError: if the metadata is not of JSON's types.
    """
    arrays = {name: np.array(leaf, order="C") for name, leaf in _named(jax.device_get(tree)).items()}
    entry = {"format": FORMAT, "metadata": dict(metadata), "sha256": _checksum(arrays, metadata)}
    write(path, to_bytes(arrays, {_ENTRY: json.dumps(entry, sort_keys=True)}))


def write(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file whole or not at all: a temporary file beside it, fsync, rename, and fsync of the folder."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        # A full disk does not say of which file.
        raise OSError(error.errno, error.strerror, str(path)) from error
    # Without it the rename itself may not survive a power failure.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays that `save` wrote, bit for bit, as nested dicts by their names, and the metadata.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not such a file, is truncated or damaged, or is of a newer format.
    """
    content = Path(path).read_bytes()
    entry = _entry(path, content)
    if entry.get("format") != FORMAT:
        raise ValueError(f"{path} is of format {entry.get('format', 0)}; this version of segjax reads format {FORMAT}")
    try:
        arrays = from_bytes(content)
        intact = _checksum(arrays, entry["metadata"]) == entry["sha256"]
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not intact:
        raise ValueError(f"{path} is damaged: its checksum does not match its content")
    return unflatten_dict(arrays, sep="/"), entry["metadata"]


def restore(template: Any, arrays: Mapping[str, Any]) -> Any:
    """A tree of the structure of `template`, which may be of `jax.ShapeDtypeStruct`s, with arrays that `load` gave.

    Raises:
        ValueError: naming the first array that is missing, is too much, or has another shape or dtype.
    """
    if not isinstance(arrays, Mapping):
        raise TypeError(f"arrays must be nested dicts of arrays, got {arrays!r:.60}")
    flat, wanted = flatten_dict(dict(arrays), sep="/"), _named(template)
    for name, leaf in wanted.items():
        if name not in flat:
            raise ValueError(f"the file holds another tree: it has no {name}")
        found = flat[name]
        if found.shape != leaf.shape or found.dtype != leaf.dtype:
            expected = f"{leaf.dtype} of shape {tuple(leaf.shape)}"
            raise ValueError(
                f"the file holds another tree: {name} is {found.dtype} of shape {found.shape}, not {expected}"
            )
    if extra := sorted(flat.keys() - wanted.keys()):
        raise ValueError(f"the file holds another tree: it has {extra[0]} as well")
    return jax.tree.unflatten(jax.tree.structure(template), [flat[name] for name in wanted])


def _named(tree: Any) -> dict[str, Any]:
    """name -> leaf, in the order of the tree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(place, simple=True, separator="/"): leaf for place, leaf in leaves}


def _entry(path: str | os.PathLike[str], content: bytes) -> dict[str, Any]:
    """What `save` put into the header, after the length that this states has been held against the file's."""
    if not content:
        raise ValueError(f"{path} is empty")
    size = struct.unpack("<Q", content[:8])[0] if len(content) >= 8 else 0
    try:
        header = json.loads(content[8 : 8 + size])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        entries = header.get("__metadata__", {})
        end = 8 + size + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        truncated = len(content) < 8 + size < 2**32
        what = "is truncated, or no checkpoint" if truncated else "is not a checkpoint"
        raise ValueError(f"{path} {what}: its header cannot be read") from error
    if end > len(content):
        raise ValueError(f"{path} is truncated: it has {len(content)} of {end} bytes")
    if not isinstance(entries, dict) or _ENTRY not in entries:
        raise OfAnotherError(f"{path} is a safetensors file, but not one of segjax")
    try:
        entry = json.loads(entries[_ENTRY])
        return {**entry}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _checksum(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
