"""Files of arrays: one safetensors file for a tree of arrays and what is to be said of it, whole or not there at all.

No pickle is involved, and PyTorch, NumPy and others open the file as well. A tree is a nested dict; its path becomes
the name of an array, as in "params/conv1/kernel".
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

# The one entry of the safetensors header: JSON, so that numbers and lists survive.
_ENTRY = "segjax"


def save(path: str | os.PathLike[str], tree: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Writes a nested dict of arrays, with metadata of JSON's types: a temporary file, fsync, then a rename.

    Raises:
        OSError: if the file cannot be written; what was there before is then unchanged.
        TypeError: if the metadata is not of JSON's types.
    """
    path = Path(path)
    arrays = {name: np.array(leaf, order="C") for name, leaf in flatten_dict(jax.device_get(tree), sep="/").items()}
    content = to_bytes(arrays, {_ENTRY: json.dumps(dict(metadata), sort_keys=True)})
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The nested dict of NumPy arrays and the metadata that `save` wrote, bit for bit.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not such a file.
    """
    try:
        with safe_open(path, framework="np") as file:
            entries = file.metadata() or {}
            if _ENTRY not in entries:
                raise ValueError(f"{path} is a safetensors file, but not one of segjax")
            names = file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    return unflatten_dict(arrays, sep="/"), json.loads(entries[_ENTRY])
