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
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from segjax import checkpoints
from segjax._checks import check_count, check_floating, check_variables, describe, named_arrays
from segjax.models import SegmentationCNN, Variables

# The names of the state_dict exist for the notebook's depth only.
_LAYERS = (1, 2, 3)
# (name in segjax, name in PyTorch)
_NORM_PARAMS = (("scale", "weight"), ("bias", "bias"))
_NORM_STATS = (("mean", "running_mean"), ("var", "running_var"))


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
    _check_names(arrays, shared)
    if shared:
        _check_aliases(arrays)
    params, batch_stats = {}, {}
    for ours, theirs in _convolutions():
        name = f"{theirs}.weight"
        weight = check_floating(name, jnp.asarray(arrays[name]), "(out, in, height, width)")
        # PyTorch has (out, in, height, width), JAX (height, width, in, out); both cross-correlate: nothing is flipped.
        params[ours] = {"kernel": weight.transpose(2, 3, 1, 0), "bias": jnp.asarray(arrays[f"{theirs}.bias"])}
    for ours, theirs in _norms(shared):
        params[ours] = {name: jnp.asarray(arrays[f"{theirs}.{other}"]) for name, other in _NORM_PARAMS}
        batch_stats[ours] = {name: jnp.asarray(arrays[f"{theirs}.{other}"]) for name, other in _NORM_STATS}
    variables = {"params": params, "batch_stats": batch_stats}
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
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    _check_layers(params)
    shared = "norm" in params
    if missing := sorted({ours for ours, _ in _norms(shared)} - set(batch_stats)):
        raise ValueError(f"variables must have batch_stats of {', '.join(missing)}")
    _check_shapes("variables", variables)
    arrays = {}
    for ours, theirs in _convolutions():
        # Copied: a transposed view is not contiguous, and safetensors would write it in the order of its memory.
        arrays[f"{theirs}.weight"] = np.array(params[ours]["kernel"]).transpose(3, 2, 0, 1).copy()
        arrays[f"{theirs}.bias"] = np.array(params[ours]["bias"])
    # PyTorch's state_dict repeats the shared BatchNorm under a name for each layer that uses it.
    aliases = [("norm", f"conv{layer}.2") for layer in _LAYERS] if shared else []
    for ours, theirs in [*_norms(shared), *aliases]:
        arrays |= {f"{theirs}.{other}": np.array(params[ours][name]) for name, other in _NORM_PARAMS}
        arrays |= {f"{theirs}.{other}": np.array(batch_stats[ours][name]) for name, other in _NORM_STATS}
        arrays[f"{theirs}.num_batches_tracked"] = np.array(num_batches_tracked, np.int64)
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


def _convolutions() -> list[tuple[str, str]]:
    return [*((f"conv{layer}", f"conv{layer}.0") for layer in _LAYERS), ("out", "out")]


def _norms(shared: bool) -> list[tuple[str, str]]:
    return [("norm", "bn")] if shared else [(f"norm{layer}", f"conv{layer}.2") for layer in _LAYERS]


def _check_layers(params: Mapping[str, Any]) -> None:
    layers = {str(name) for name in params if not str(name).startswith("norm")}
    if layers != {ours for ours, _ in _convolutions()}:
        raise ValueError(f"variables must be of a SegmentationCNN of depth 3, got the layers {sorted(layers)}")


def _check_names(arrays: Mapping[str, jax.typing.ArrayLike], shared: bool) -> None:
    needed = {f"{theirs}.{name}" for _, theirs in _convolutions() for name in ("weight", "bias")}
    norm_names = [theirs for _, theirs in (*_NORM_PARAMS, *_NORM_STATS)]
    needed |= {f"{theirs}.{name}" for _, theirs in _norms(shared) for name in norm_names}
    # `save_model` omits the aliases, `save_file` writes them: both are valid.
    aliases = {f"conv{layer}.2.{name}" for layer in _LAYERS for name in norm_names} if shared else set()
    missing = sorted(needed - set(arrays))
    # The counter is ignored: a BatchNorm with a momentum never reads it.
    unknown = sorted(name for name in set(arrays) - needed - aliases if not name.endswith(".num_batches_tracked"))
    if missing or unknown:
        raise ValueError(f"arrays must be the notebook's state_dict; missing: {missing}, unknown: {unknown}")


def _check_aliases(arrays: Mapping[str, jax.typing.ArrayLike]) -> None:
    """The arrays of a shared BatchNorm must be equal under all names."""
    for name, array in arrays.items():
        shared = f"bn.{name.rpartition('.')[2]}"
        if ".2." in name and shared in arrays and not np.array_equal(array, arrays[shared], equal_nan=True):
            raise ValueError(f"arrays: {name} differs from {shared}: the notebook's network has one BatchNorm for all")


def _kernel_shape(argument: str, variables: Variables) -> tuple[int, ...]:
    """The shape of the first kernel."""
    kernel = named_arrays(argument, variables).get("params/conv1/kernel")
    return check_floating(f"{argument}: conv1 kernel", kernel, "(height, width, in, out)").shape


def _check_shapes(argument: str, variables: Variables) -> None:
    """The input channels of a layer must be the output channels of the one before, and vectors must fit kernels."""
    # JAX would accept kernels with other channels as another network, and fail only when it is applied.
    *size, channels, features = _kernel_shape(argument, variables)
    shapes: dict[tuple[str, str, str], tuple[int, ...]] = {}
    for layer, _ in _convolutions():
        inputs, outputs = channels if layer == "conv1" else features, 1 if layer == "out" else features
        shapes |= {("params", layer, "kernel"): (*size, inputs, outputs), ("params", layer, "bias"): (outputs,)}
    for layer, _ in _norms("norm" in variables["params"]):
        shapes |= {("params", layer, name): (features,) for name, _ in _NORM_PARAMS}
        shapes |= {("batch_stats", layer, name): (features,) for name, _ in _NORM_STATS}
    arrays = named_arrays(argument, variables)
    for (collection, layer, name), expected in shapes.items():
        array = arrays.get(f"{collection}/{layer}/{name}")
        check_floating(f"{argument}: {layer} {name}", array, f"{expected}")
