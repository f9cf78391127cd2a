"""Checks of arguments: what can be known before a program is traced, said in one sentence.

A value that is being traced has no number yet and passes; what is wrong with it shows as NaN in the results.
"""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np


def check_count(name: str, value: int, minimum: int, maximum: int = 2**31 - 1) -> int:
    """Returns `value` as an int, or says that `name` must be an integer from `minimum` to `maximum`."""
    try:
        if isinstance(value, bool):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer >= {minimum}, got {value!r}") from None
    if count < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {count}")
    if count > maximum:
        raise ValueError(f"{name} must be an integer <= {maximum}, got {count}")
    return count


def check_positive(name: str, value: jax.typing.ArrayLike) -> None:
    """Says that `name` must be one finite number above 0, unless it is or is being traced."""
    _check_number(name, value, "a finite number > 0", lambda number: math.isfinite(number) and number > 0)


def check_share(name: str, value: jax.typing.ArrayLike) -> None:
    """Says that `name` must be one number from 0 to 1, without 1, unless it is or is being traced."""
    _check_number(name, value, "a number in [0, 1)", lambda number: 0 <= number < 1)


def _check_number(name: str, value: jax.typing.ArrayLike, allowed: str, fits: Callable[[float], bool]) -> None:
    if isinstance(value, jax.core.Tracer):
        if value.shape:
            raise ValueError(f"{name} must be a single number, got an array of shape {value.shape}")
        return
    try:
        if isinstance(value, str):
            raise TypeError
        number = float(cast(float, value))
    except TypeError:
        raise TypeError(f"{name} must be {allowed}, got {value!r}") from None
    if not fits(number):
        raise ValueError(f"{name} must be {allowed}, got {number}")


def check_key(key: jax.Array) -> None:
    """Says that `key` must be one key of `jax.random`, of the typed or the older kind."""
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and dtype != jnp.uint32:
        raise TypeError(f"key must come from jax.random.key(seed), got {key!r}")
    if key.ndim != (0 if typed else 1):
        raise ValueError(f"key must be a single key, got shape {key.shape}; map over several with jax.vmap")


def check_array(name: str, array: Any) -> None:
    """Says that `name` must be an array of JAX or NumPy that holds numbers; a list, which has no dtype, is none."""
    if not isinstance(array, jax.Array | np.ndarray | np.generic):
        raise TypeError(f"{name} must be an array of numbers, got {array!r:.60}")
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        raise TypeError(f"{name} must be an array of numbers, got one of dtype {array.dtype}")


def check_real(name: str, values: Any) -> np.ndarray:
    """Returns `values`, an array or lists, as a NumPy array of float64, or says that they must be real numbers."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be real numbers, got {values!r:.60}")
    return array.astype(np.float64)


def check_model(model: Any) -> None:
    """Says that `model` must be a module of Flax Linen."""
    if isinstance(model, type) or not all(callable(getattr(model, name, None)) for name in ("init", "apply")):
        raise TypeError(f"model must be a Flax Linen module, such as segjax.SegmentationCNN(), got {model!r:.60}")


def check_variables(variables: Any) -> None:
    """Says that `variables` must be what `model.init` gives, as far as can be seen without the model."""
    collections = variables.values() if isinstance(variables, Mapping) and "params" in variables else [None]
    if not all(isinstance(collection, Mapping) for collection in collections):
        raise TypeError(f"variables must be a dict of dicts with 'params', as model.init gives, got {variables!r:.60}")


def check_callable(name: str, function: Any) -> Callable[..., Any]:
    """Returns `function`, or says that `name` must be one."""
    if not callable(function):
        raise TypeError(f"{name} must be a function, got {function!r:.60}")
    return cast(Callable[..., Any], function)


def check_images(name: str, array: jax.Array) -> None:
    """Says that `name` must be a batch of images (batch, height, width, channels) of floating point."""
    check_array(name, array)
    shape, dtype = jnp.shape(array), jnp.result_type(array)
    if len(shape) != 4:
        raise ValueError(f"{name} must have shape (batch, height, width, channels), got {shape}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} must be of a floating dtype, got {dtype}")


def check_same_shape(name: str, array: jax.Array, other_name: str, other: jax.Array) -> None:
    """Says that two arrays must have one shape, which broadcasting would otherwise hide."""
    check_array(name, array)
    check_array(other_name, other)
    if jnp.shape(array) != jnp.shape(other):
        raise ValueError(f"{name} must have the shape of {other_name}, {jnp.shape(other)}, got {jnp.shape(array)}")
