"""The notebook's PyTorch weights to and from ours, by the names of its `state_dict`; no PyTorch is needed.

    torch_weights.save("model.safetensors", variables)                               # here, and there:
    MyFirstsCNN().load_state_dict(safetensors.torch.load_file("model.safetensors"))
    safetensors.torch.save_model(network, "model.safetensors")                       # there, and here:
    variables = torch_weights.load("model.safetensors")
    model = torch_weights.model_of(variables)

The names:

    conv{1,2,3}.0.{weight,bias}                     convolutions, (out, in, height, width) in PyTorch
    bn.{weight,bias,running_mean,running_var,...}   the shared BatchNorm, and again as conv{1,2,3}.2.*
    out.{weight,bias}                               the last convolution

A network with one BatchNorm a layer has the same names without `bn.*`, and its own arrays in each `conv{i}.2.*`.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from segjax import checkpoints
from segjax.checks import check_variables
from segjax.models import SegmentationCNN, Variables

_LAYERS = (1, 2, 3)
# (ours in its collection, PyTorch's)
_NORM_PARAMS = (("scale", "weight"), ("bias", "bias"))
_NORM_STATS = (("mean", "running_mean"), ("var", "running_var"))


def from_state_dict(arrays: Mapping[str, jax.typing.ArrayLike]) -> Variables:
    """The variables of a `SegmentationCNN`: {"params", "batch_stats"}, from named arrays.

    `shared_norm` is what the names say: True where `bn.*` is among them. The counter `num_batches_tracked` is not
    kept, since a BatchNorm with a momentum never reads it. Float64 arrays stay float64 where x64 is enabled.

    Raises:
        ValueError: naming the arrays that are missing or unknown, or the one whose shape does not fit.
    """
    if not isinstance(arrays, Mapping) or not all(isinstance(name, str) for name in arrays):
        raise TypeError(f"arrays must be a mapping of names to arrays, got {arrays!r:.60}")
    shared = any(name.startswith("bn.") for name in arrays)
    _check_names(arrays, shared)
    if shared:
        _check_aliases(arrays)
    params, batch_stats = {}, {}
    for ours, theirs in _convolutions():
        weight = jnp.asarray(arrays[f"{theirs}.weight"])
        if weight.ndim != 4:
            raise ValueError(f"{theirs}.weight must have shape (out, in, height, width), got {weight.shape}")
        params[ours] = {"kernel": weight.transpose(2, 3, 1, 0), "bias": jnp.asarray(arrays[f"{theirs}.bias"])}
    for ours, theirs in _norms(shared):
        params[ours] = {name: jnp.asarray(arrays[f"{theirs}.{other}"]) for name, other in _NORM_PARAMS}
        batch_stats[ours] = {name: jnp.asarray(arrays[f"{theirs}.{other}"]) for name, other in _NORM_STATS}
    variables = {"params": params, "batch_stats": batch_stats}
    _check_shapes(variables)
    return variables


def to_state_dict(variables: Variables, num_batches_tracked: int = 0) -> dict[str, np.ndarray]:
    """NumPy arrays by PyTorch's names, fresh and writable, for `load_state_dict` after `torch.from_numpy`.

    Args:
        variables: of a `SegmentationCNN` of depth 3.
        num_batches_tracked: PyTorch's counter of forward passes, which is not kept here and has no effect there.

    Raises:
        TypeError, ValueError: if the variables are no network's, or of one that is not of the notebook's depth.
    """
    check_variables(variables)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    layers = {name for name in params if not name.startswith("norm")}
    if layers != {ours for ours, _ in _convolutions()}:
        raise ValueError(f"variables must be of a SegmentationCNN of depth 3, got the layers {sorted(layers)}")
    shared = "norm" in params
    if missing := sorted({ours for ours, _ in _norms(shared)} - set(batch_stats)):
        raise ValueError(f"variables must have batch_stats of {', '.join(missing)}")
    arrays = {}
    for ours, theirs in _convolutions():
        arrays[f"{theirs}.weight"] = np.array(params[ours]["kernel"]).transpose(3, 2, 0, 1).copy()
        arrays[f"{theirs}.bias"] = np.array(params[ours]["bias"])
    aliases = [("norm", f"conv{layer}.2") for layer in _LAYERS] if shared else []
    for ours, theirs in [*_norms(shared), *aliases]:
        arrays |= {f"{theirs}.{other}": np.array(params[ours][name]) for name, other in _NORM_PARAMS}
        arrays |= {f"{theirs}.{other}": np.array(batch_stats[ours][name]) for name, other in _NORM_STATS}
        arrays[f"{theirs}.num_batches_tracked"] = np.array(num_batches_tracked, np.int64)
    return arrays


def load(path: str | os.PathLike[str]) -> Variables:
    """The variables in a safetensors file of the notebook's state_dict, as `safetensors.torch` writes it.

    `save_file` wants a copy of the arrays that share memory; `save_model` leaves out all names but one of the shared
    BatchNorm, and is read as well.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no safetensors file, or holds another state_dict.
    """
    try:
        arrays = from_bytes(Path(path).read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path} holds numbers of a kind that NumPy has not: {error}") from error
    return from_state_dict(arrays)


def save(path: str | os.PathLike[str], variables: Variables, num_batches_tracked: int = 0) -> None:
    """Writes `to_state_dict` as a safetensors file, whole or not at all, for the notebook's `load_state_dict`.

    With one BatchNorm a layer the file has no `bn.*`, and is for a class that has them so too.

    Raises:
        OSError: if the file cannot be written.
        TypeError, ValueError: as `to_state_dict`.
    """
    checkpoints.write(path, to_bytes(to_state_dict(variables, num_batches_tracked)))


def model_of(variables: Variables) -> SegmentationCNN:
    """The network that variables of `from_state_dict` are of."""
    check_variables(variables)
    if "conv1" not in (params := variables["params"]):
        raise ValueError(f"variables must be of a SegmentationCNN, got the layers {sorted(params)}")
    size, other, _, num_channels = params["conv1"]["kernel"].shape
    if size != other:
        raise ValueError(f"variables must have square kernels, got {size} x {other}")
    return SegmentationCNN(num_channels, size, shared_norm="norm" in params)


def _convolutions() -> list[tuple[str, str]]:
    return [*((f"conv{layer}", f"conv{layer}.0") for layer in _LAYERS), ("out", "out")]


def _norms(shared: bool) -> list[tuple[str, str]]:
    return [("norm", "bn")] if shared else [(f"norm{layer}", f"conv{layer}.2") for layer in _LAYERS]


def _check_names(arrays: Mapping[str, jax.typing.ArrayLike], shared: bool) -> None:
    needed = {f"{theirs}.{name}" for _, theirs in _convolutions() for name in ("weight", "bias")}
    norm_names = [theirs for _, theirs in (*_NORM_PARAMS, *_NORM_STATS)]
    needed |= {f"{theirs}.{name}" for _, theirs in _norms(shared) for name in norm_names}
    aliases = {f"conv{layer}.2.{name}" for layer in _LAYERS for name in norm_names} if shared else set()
    missing = sorted(needed - set(arrays))
    unknown = sorted(name for name in set(arrays) - needed - aliases if not name.endswith(".num_batches_tracked"))
    if missing or unknown:
        raise ValueError(f"arrays must be the notebook's state_dict; missing: {missing}, unknown: {unknown}")


def _check_aliases(arrays: Mapping[str, jax.typing.ArrayLike]) -> None:
    """Where the BatchNorm is shared, its arrays under the layers' names must be the same ones."""
    for name, array in arrays.items():
        shared = f"bn.{name.rpartition('.')[2]}"
        if ".2." in name and shared in arrays and not np.array_equal(array, arrays[shared], equal_nan=True):
            raise ValueError(f"arrays: {name} differs from {shared}: the notebook's network has one BatchNorm for all")


def _check_shapes(variables: Variables) -> None:
    """Each layer must take what the one before it gives, and each vector must match its convolution."""
    params = variables["params"]
    width, kernel_size = params["conv1"]["kernel"].shape[-1], params["conv1"]["kernel"].shape[:2]
    for layer, arrays in params.items():
        for name, array in {**arrays, **variables["batch_stats"].get(layer, {})}.items():
            features = 1 if layer == "out" else width
            channels = params["conv1"]["kernel"].shape[2] if layer == "conv1" else width
            wanted = (*kernel_size, channels, features) if name == "kernel" else (features,)
            if array.shape != wanted:
                raise ValueError(f"arrays: {layer} {name} must have shape {wanted}, got {array.shape}")
