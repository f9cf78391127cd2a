"""Conversion of weights to and from the notebook's PyTorch network, by the names of its `state_dict`, without PyTorch.

From `variables` to the notebook's `MyFirstsCNN`:

    torch_weights.save("model.safetensors", variables)
    MyFirstsCNN().load_state_dict(safetensors.torch.load_file("model.safetensors"))     # in PyTorch

From a `network` of PyTorch to `variables`:

    safetensors.torch.save_model(network, "model.safetensors")                          # in PyTorch
    variables = torch_weights.load("model.safetensors")
    model = torch_weights.model_of(variables)

The names in a `state_dict`:

    conv{1,2,3}.0.{weight,bias}                     convolutions, (out, in, height, width) in PyTorch
    bn.{weight,bias,running_mean,running_var,...}   the shared BatchNorm, repeated as conv{1,2,3}.2.*
    out.{weight,bias}                               the last convolution

A network with one BatchNorm per layer has the same names without `bn.*`, and different arrays in each `conv{i}.2.*`.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from segjax import checkpoints
from segjax._checks import check_count, check_floating, check_variables, describe, named_arrays
from segjax.models import SegmentationCNN, Variables

# The names of the state_dict exist for the notebook's depth only.
_LAYERS = (1, 2, 3)
# Array of a layer in segjax -> its collection, and its name in PyTorch.
_CONVOLUTION = {"kernel": ("params", "weight"), "bias": ("params", "bias")}
_NORM = {
    "scale": ("params", "weight"),
    "bias": ("params", "bias"),
    "mean": ("batch_stats", "running_mean"),
    "var": ("batch_stats", "running_var"),
}


def from_state_dict(arrays: Mapping[str, jax.typing.ArrayLike]) -> Variables:
    """The variables of a `SegmentationCNN`, {"params", "batch_stats"}, from the arrays of a state_dict.

    With names `bn.*` the network has `shared_norm`. Float64 arrays stay float64 if x64 is enabled.

    Raises:
        TypeError: if `arrays` is not a mapping of names, or naming an array that is not floating.
        ValueError: naming the arrays that are missing or unknown, or the one whose shape does not fit.
    """
    if not isinstance(arrays, Mapping) or not all(isinstance(name, str) for name in arrays):
        raise TypeError(f"arrays must be a mapping of names to arrays, got {describe(arrays)}")
    if named_arrays("arrays", dict(arrays)).keys() != arrays.keys():
        raise TypeError("arrays must hold one array under each name")
    shared = any(name.startswith("bn.") for name in arrays)
    names = _names(shared)
    # `save_model` omits the repeated names, `save_file` writes them: both are valid.
    repeated = {name for name in names if shared and ".2." in name}
    missing = sorted(names.keys() - repeated - arrays.keys())
    # The counter is ignored: a BatchNorm with a momentum never reads it.
    unknown = sorted(name for name in arrays.keys() - names.keys() if not name.endswith(".num_batches_tracked"))
    if missing or unknown:
        raise ValueError(f"arrays must be the notebook's state_dict; missing: {missing}, unknown: {unknown}")
    for name in sorted(repeated & arrays.keys()):
        first = f"bn.{name.rpartition('.')[2]}"
        if not np.array_equal(arrays[name], arrays[first], equal_nan=True):
            raise ValueError(f"arrays: {name} differs from {first}: the notebook's network has one BatchNorm for all")
    flat = {place: jnp.asarray(arrays[name]) for name, place in names.items() if name not in repeated}
    for name, place in names.items():
        if place[-1] == "kernel":
            # PyTorch has (out, in, height, width), JAX (height, width, in, out); both cross-correlate, without a flip.
            flat[place] = check_floating(name, flat[place], "(out, in, height, width)").transpose(2, 3, 1, 0)
    variables = unflatten_dict(flat)
    _check_shapes("arrays", variables)
    return variables


def to_state_dict(variables: Variables, num_batches_tracked: int = 0) -> dict[str, np.ndarray]:
    """NumPy arrays by PyTorch's names, copied and writable, for `load_state_dict` after `torch.from_numpy`.

    Args:
        variables: of a `SegmentationCNN` of depth 3.
        num_batches_tracked: PyTorch's counter of forward passes, which segjax does not have; PyTorch ignores it.

    Raises:
        TypeError, ValueError: if the variables are not those of a network of the notebook's depth.
    """
    check_variables(variables)
    check_count("num_batches_tracked", num_batches_tracked, 0, 2**63 - 1)
    _check_layers(variables["params"])
    names = _names("norm" in variables["params"])
    norms = {layer for collection, layer, _ in names.values() if collection == "batch_stats"}
    if missing := sorted(norms - set(variables.get("batch_stats", {}))):
        raise ValueError(f"variables must have batch_stats of {', '.join(missing)}")
    _check_shapes("variables", variables)
    arrays = {}
    for name, (collection, layer, ours) in names.items():
        array = np.array(variables[collection][layer][ours])
        # Copied: a transposed view is not contiguous, and safetensors would write it in the order of its memory.
        arrays[name] = array.transpose(3, 2, 0, 1).copy() if ours == "kernel" else array
        if ours == "var":
            arrays[name.replace("running_var", "num_batches_tracked")] = np.array(num_batches_tracked, np.int64)
    return arrays


def load(path: str | os.PathLike[str]) -> Variables:
    """The variables in a safetensors file of the notebook's state_dict, as `safetensors.torch` writes it.

    It reads files of `save_model`, which stores one name of the shared BatchNorm, and of `save_file`.

    Raises:
        OSError: if the file cannot be read, or is a pipe or a device.
        ValueError: if it is not a safetensors file, or holds another state_dict.
    """
    try:
        arrays = safetensors.load(checkpoints.read(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    except KeyError as error:
        # Such as bfloat16, which NumPy does not have.
        raise ValueError(f"{path} holds arrays of a dtype that NumPy does not have: {error}") from error
    return from_state_dict(arrays)


def save(path: str | os.PathLike[str], variables: Variables, num_batches_tracked: int = 0) -> None:
    """Writes `to_state_dict` as a safetensors file, completely or not at all, for the notebook's `load_state_dict`.

    With one BatchNorm per layer the file has no `bn.*`; the class in PyTorch then needs one BatchNorm per layer too.

    Raises:
        OSError: if the file cannot be written.
        TypeError, ValueError: as `to_state_dict`.
    """
    checkpoints.write(path, to_bytes(variables, num_batches_tracked))


def to_bytes(variables: Variables, num_batches_tracked: int = 0) -> bytes:
    """The content of the file that `save` writes; raises as `to_state_dict`."""
    return safetensors.save(to_state_dict(variables, num_batches_tracked))


def model_of(variables: Variables) -> SegmentationCNN:
    """The network to which variables from `from_state_dict` belong.

    Raises:
        TypeError, ValueError: if they are not those of a `SegmentationCNN` of depth 3 with square kernels.
    """
    check_variables(variables)
    _check_layers(variables["params"])
    # The first kernel is sufficient: `from_state_dict` has checked that the others agree with it.
    size, other, _, num_channels = _kernel_shape("variables", variables)
    if size != other:
        raise ValueError(f"variables must have square kernels, got {size} x {other}")
    return SegmentationCNN(num_channels, size, shared_norm="norm" in variables["params"])


def _names(shared: bool) -> dict[str, tuple[str, str, str]]:
    """Name in PyTorch -> collection, layer and name in segjax; PyTorch repeats a shared BatchNorm for each layer."""
    convolutions = {**{f"conv{layer}.0": f"conv{layer}" for layer in _LAYERS}, "out": "out"}
    norms = {f"conv{layer}.2": "norm" if shared else f"norm{layer}" for layer in _LAYERS}
    return {
        f"{theirs}.{other}": (collection, ours, name)
        for layers, arrays in ((convolutions, _CONVOLUTION), ({"bn": "norm"} if shared else {}, _NORM), (norms, _NORM))
        for theirs, ours in layers.items()
        for name, (collection, other) in arrays.items()
    }


def _check_layers(params: Mapping[str, Any]) -> None:
    layers = {str(name) for name in params if not str(name).startswith("norm")}
    if layers != {layer for _, layer, name in _names(shared=True).values() if name == "kernel"}:
        raise ValueError(f"variables must be of a SegmentationCNN of depth 3, got the layers {sorted(layers)}")


def _kernel_shape(argument: str, variables: Variables) -> tuple[int, ...]:
    """The shape of the first kernel."""
    kernel = named_arrays(argument, variables).get("params/conv1/kernel")
    return check_floating(f"{argument}: conv1 kernel", kernel, "(height, width, in, out)").shape


def _check_shapes(argument: str, variables: Variables) -> None:
    """The input channels of a layer must be the output channels of the one before, and vectors must fit kernels."""
    # JAX would accept kernels with other channels as another network, and fail only when it is applied.
    *size, channels, features = _kernel_shape(argument, variables)
    arrays = named_arrays(argument, variables)
    for collection, layer, name in dict.fromkeys(_names("norm" in variables["params"]).values()):
        inputs, outputs = channels if layer == "conv1" else features, 1 if layer == "out" else features
        shape = (*size, inputs, outputs) if name == "kernel" else (outputs,)
        check_floating(f"{argument}: {layer} {name}", arrays.get(f"{collection}/{layer}/{name}"), f"{shape}")
