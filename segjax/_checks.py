"""Argument checks, run before a program is traced: each returns a valid value, or raises an error with its name.

A traced value is not known yet and passes; a bad one shows as NaN in the results.
"""

import contextlib
import difflib
import inspect
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

# A line to add to the class of a network: an attribute of `segjax.models.Network` and a value.
_ATTRIBUTES = {"batch_statistics": False, "margin": 8, "multiple": 1, "standardize": False}
# Kinds of dtypes: real numbers, those of arrays, and those that a tree may hold as well.
_REAL = (jnp.floating, jnp.integer)
_NUMBERS = (*_REAL, jnp.complexfloating, jnp.bool_)
_LEAVES = (*_NUMBERS, jax.dtypes.prng_key)
_FACTORY = "a function of the learning rate, such as segjax.OPTIMIZERS['adam'] or optax.adam"


def describe(value: Any) -> str:
    """A value in the text of an error: its first 60 characters, in one line."""
    # Callers do not know the names of jax's tracers.
    return re.sub(r"\w*Tracer\b", "traced", " ".join(f"{value!r:.240}".split()))[:60]


def describe_error(error: Exception) -> str:
    """The text of an error of jax's or of a caller's function, in one line."""
    # The first line alone: in the others jax explains its tracers.
    return re.sub(r"\w*Tracer\b", "traced array", str(error).partition("\n")[0])


# The default maximum is that of int32, the type of XLA's step counts and sizes.
def check_count(name: str, value: int, minimum: int, maximum: int = 2**31 - 1) -> int:
    """Returns `value` as an int from `minimum` to `maximum`; raises TypeError or ValueError naming `name` otherwise."""
    try:
        # Python's bool is an int, but `num_steps=True` is a mistake.
        if isinstance(value, bool):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer >= {minimum}, got {describe(value)}") from None
    if count < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {count}")
    if count > maximum:
        raise ValueError(f"{name} must be an integer <= {maximum}, got {count}")
    return count


def check_positive(
    name: str, value: jax.typing.ArrayLike, dtype: jax.typing.DTypeLike | None = None, squared: bool = False
) -> jax.typing.ArrayLike:
    """Returns `value`, one finite number above 0 or traced; raises TypeError or ValueError naming `name` otherwise.

    The number must be finite and above 0 in `dtype` too, by default jax's float dtype: in float32, 1e-50 is 0 and 1e39
    is infinite. With `squared`, its square must not be 0 either.
    """
    info = jnp.finfo(jnp.result_type(float) if dtype is None else dtype)

    def fault(number: float) -> str | None:
        if not (math.isfinite(number) and number > 0):
            return ""
        if number > float(info.max):
            return f", which is infinite in {info.dtype}"
        # XLA replaces anything smaller by 0.
        if number < float(info.tiny):
            return f", which is 0 in {info.dtype}"
        return f", whose square is 0 in {info.dtype}" if squared and number < float(info.tiny) ** 0.5 else None

    return _check_number(name, value, "a finite number > 0", fault)


def check_sigma(
    name: str, value: jax.typing.ArrayLike, dtype: jax.typing.DTypeLike | None = None
) -> jax.typing.ArrayLike:
    """Returns `value`, a Gaussian's sigma: as `check_positive`, and its square must not be 0 in `dtype` either."""
    # A compiled program computes x / sigma / sigma as x / (sigma * sigma), which is 0 / 0 if the square underflows.
    return check_positive(name, value, dtype, squared=True)


def check_share(name: str, value: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
    """Returns `value`, one number in [0, 1) or traced; raises TypeError or ValueError naming `name` otherwise."""
    return _check_number(name, value, "a number in [0, 1)", lambda number: None if 0 <= number < 1 else "")


def _check_number(
    name: str, value: jax.typing.ArrayLike, allowed: str, fault: Callable[[float], str | None]
) -> jax.typing.ArrayLike:
    """Returns `value`; `fault` returns None for a valid number, and otherwise the end of the error message."""
    if isinstance(value, jax.core.Tracer):
        if value.shape:
            raise ValueError(f"{name} must be a single number, got an array of shape {value.shape}")
        if not (jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)):
            raise TypeError(f"{name} must be {allowed}, got a traced {value.dtype}")
        return value
    try:
        # float() would accept the text "1e-3", True as 1, and an array of one number.
        if isinstance(value, str | bytes | bool) or np.ndim(value) or not _is_any(dtype_of(value), *_REAL, np.object_):
            raise TypeError
        number = float(cast(float, value))
    # NumPy refuses rows of different lengths with a ValueError.
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be {allowed}, got {describe(value)}") from None
    # Python's int has no upper bound.
    except OverflowError:
        number = math.inf
    if (explanation := fault(number)) is not None:
        raise ValueError(f"{name} must be {allowed}, got {number}{explanation}")
    # Not `number`, whose dtype may differ: results computed from it would differ in their last bits.
    return value


def check_concrete(name: str, value: Any) -> Any:
    """Returns `value`, which is not traced; raises TypeError naming `name` otherwise."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{name} must not be traced, since the host needs its value, got {describe(value)}")
    return value


def check_pixels(name: str, pixels: int) -> int:
    """Returns `pixels`, at most 2^31 - 1; raises ValueError naming `name` otherwise."""
    # Counts are int32, and a larger one would silently wrap to a negative number.
    if pixels > 2**31 - 1:
        raise ValueError(f"{name} must be at most 2^31 - 1 pixels, got {pixels}")
    return pixels


def check_key(key: jax.Array) -> jax.Array:
    """Returns `key`, one typed or raw key of `jax.random`; raises TypeError or ValueError otherwise."""
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and dtype != jnp.uint32:
        raise TypeError(f"key must come from jax.random.key(seed), got {describe(key)}")
    # A raw key is itself a vector: two numbers for threefry, jax's default.
    if key.ndim != (0 if typed else 1):
        raise ValueError(f"key must be a single key, got shape {key.shape}; map over several with jax.vmap")
    if not typed and key.shape != (expected := jax.eval_shape(jax.random.PRNGKey, 0).shape):
        raise ValueError(f"key must have shape {expected}, as jax.random.PRNGKey(seed) has, got {key.shape}")
    return key


def check_array(name: str, array: Any, any_order: bool = False) -> jax.Array:
    """Returns `array`, a JAX or NumPy array of numbers; raises TypeError naming `name` otherwise.

    A list is refused, since it has no dtype.

    Args:
        any_order: whether its byte order may be that of another machine, for callers that compute with NumPy.
    """
    check_unmasked(name, array)
    if not isinstance(array, jax.Array | np.ndarray | np.generic):
        raise TypeError(f"{name} must be an array of numbers, got {describe(array)}")
    if not _is_any(array.dtype, *_NUMBERS):
        raise TypeError(f"{name} must be an array of numbers, got one of dtype {array.dtype}")
    # Such as the arrays of a FITS file, which jax refuses in many lines.
    if not (any_order or array.dtype.isnative):
        raise TypeError(f"{name} must have the byte order of this machine, got {array.dtype.str}; convert with astype")
    return cast(jax.Array, array)


def check_shape(name: str, shape: tuple[int, ...], allowed: str) -> None:
    """Raises ValueError naming `name` unless a shape is an allowed one, in the notation of docstrings.

    Args:
        allowed: such as "(..., height, width)", "(seeds, 3), at least one seed", "(n,) or (runs, n), at least one
            number". A word stands for any length, the same wherever it occurs, and "..." for any number of axes.
    """
    forms, _, unit = allowed.partition(", at least one ")
    for form in forms.split(" or "):
        axes = re.findall(r"[\w.]+", form)
        if "..." in axes:
            place = axes.index("...")
            axes[place : place + 1] = [f"...{index}" for index in range(len(shape) - len(axes) + 1)]
        if len(axes) == len(shape):
            lengths = dict(zip(axes, shape, strict=True)) | {axis: int(axis) for axis in axes if axis.isdigit()}
            enough = not unit or lengths.get(f"{unit}s", math.prod(shape)) > 0
            if enough and shape == tuple(lengths[axis] for axis in axes):
                return
    raise ValueError(f"{name} must have shape {allowed}, got {shape or 'a single number'}")


def check_real(name: str, values: Any, shape: str = "...") -> np.ndarray:
    """Returns `values`, real numbers of an allowed shape, as a float64 array of NumPy.

    Args:
        shape: the allowed ones, as in `check_shape`.

    Raises:
        TypeError, ValueError: naming `name`.
    """
    array = _to_numpy(name, values, "real numbers", *_REAL)
    check_shape(name, array.shape, shape)
    return array.astype(np.float64, copy=False)


def check_rates(rates: Any, ascending: bool = True) -> np.ndarray:
    """Returns `rates`, (rates,), finite and above 0, as `check_real` does; raises TypeError or ValueError otherwise."""
    rates = check_real("rates", rates)
    valid = rates.ndim == 1 and rates.size and np.isfinite(rates).all() and (rates > 0).all()
    if not valid or (ascending and (np.diff(rates) <= 0).any()):
        order = ", in ascending order and" if ascending else ""
        raise ValueError(f"rates must be at least one finite number{order} > 0, got {describe(rates)}")
    return rates


def check_flags(name: str, values: Any) -> np.ndarray:
    """Returns `values`, True or False, as an array of NumPy; raises TypeError naming `name` otherwise."""
    return _to_numpy(name, values, "True or False", jnp.bool_)


def _to_numpy(name: str, values: Any, allowed: str, *kinds: Any) -> np.ndarray:
    check_unmasked(name, values)
    # NumPy refuses rows of different lengths, keys, and what is traced.
    with contextlib.suppress(TypeError, ValueError):
        array = np.asarray(values)
        # In a list, NumPy converts True to 1.
        if _is_any(array.dtype, *kinds) and (array.dtype == bool or not _has_flag(values)):
            return array
    raise TypeError(f"{name} must be {allowed}, got {describe(values)}")


def _has_flag(values: Any) -> bool:
    """Whether a value is True or False, or a list that holds one of them."""
    if isinstance(values, list | tuple):
        return any(map(_has_flag, values))
    return isinstance(values, bool) or _is_any(getattr(values, "dtype", None), jnp.bool_)


def _is_any(dtype: Any, *kinds: Any) -> bool:
    """Whether a dtype is of one of these kinds."""
    try:
        # NumPy takes a difference of two times for an integer.
        return not jnp.issubdtype(dtype, np.timedelta64) and any(jnp.issubdtype(dtype, kind) for kind in kinds)
    # A dtype of another library, such as PyTorch.
    except TypeError:
        return False


def check_unmasked(name: str, values: Any) -> None:
    """Raises TypeError naming `name` if a number is masked."""
    # NumPy's conversions ignore the mask.
    if np.ma.is_masked(values):
        raise TypeError(f"{name} must have no masked numbers, got {describe(values)}; use NaN for a failed run")


def check_flag(name: str, value: Any) -> bool:
    """Returns `value`, True or False; raises TypeError naming `name` otherwise."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {describe(value)}")
    return bool(value)


def check_model(model: Any, *attributes: str) -> Any:
    """Returns `model`, a Linen module with these attributes of `Network`; raises TypeError naming the missing one."""
    # By its methods and not by its class: a wrapper with `init` and `apply` is accepted too.
    if isinstance(model, type) or not all(callable(getattr(model, name, None)) for name in ("init", "apply")):
        raise TypeError(f"model must be a Flax Linen module, such as segjax.SegmentationCNN(), got {describe(model)}")
    options = options_of(model)
    if options is not None and "train" not in options:
        raise TypeError(
            f"model must have the argument train, as __call__(self, image, train=False), got {describe(model)}"
        )
    for name in attributes:
        if not hasattr(model, name):
            line = f"{name} = {_ATTRIBUTES[name]}"
            raise TypeError(f"model must have the attribute {name}, which segjax.models.Network describes, as {line}")
    return model


def check_variables(variables: Any) -> Any:
    """Returns `variables`, a dict of dicts with "params", as `model.init` returns; raises TypeError otherwise."""
    collections = variables.values() if isinstance(variables, Mapping) and "params" in variables else [None]
    if not all(isinstance(collection, Mapping) for collection in collections):
        must = "variables must be a dict of dicts with 'params', as model.init gives"
        raise TypeError(f"{must}, got {describe(variables)}")
    named_arrays("variables", variables)
    return variables


def named_arrays(name: str, tree: Any) -> dict[str, Any]:
    """Name -> array, in the order of a tree; raises TypeError or ValueError naming `name` and what is no array."""
    try:
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    # jax sorts the keys of a dict, which fails for 1 and "a".
    except ValueError as error:
        raise ValueError(f"{name} must be a tree with keys that can be sorted: {error}") from None
    arrays = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    for path, array in arrays.items():
        check_unmasked(f"{path} of {name}", array)
        if not _is_any(dtype_of(array), *_LEAVES):
            raise TypeError(f"{name} must hold arrays of numbers, got {describe(array)} at {path or 'its root'}")
    return arrays


def dtype_of(array: Any) -> Any:
    """The dtype of an array, or of the one that NumPy makes of a number."""
    return array.dtype if hasattr(array, "dtype") else np.asarray(array).dtype


def check_layout(name: str, tree: Any, template: Any, origin: str, dtypes: bool = True) -> None:
    """Raises ValueError naming `name` and the first array that is not of the template's name, shape and dtype.

    Args:
        origin: what the template belongs to, such as "model".
        dtypes: False if floating arrays may have another floating dtype.
    """

    def describe_array(leaf: Any) -> str:
        dtype = jnp.result_type(leaf)
        floating = jnp.issubdtype(dtype, jnp.floating)
        kind = f"{dtype} " if dtypes else "" if floating else f"{dtype}, not floating, "
        return f"{kind}of shape {jnp.shape(leaf)}"

    # Flax ignores the parameters of layers that a network does not have.
    layout, expected = (
        {path: describe_array(leaf) for path, leaf in named_arrays(name, arrays).items()} for arrays in (tree, template)
    )
    for leaf in [*expected, *layout]:
        if layout.get(leaf) != expected.get(leaf):
            there, here = (arrays.get(leaf, "missing") for arrays in (layout, expected))
            raise ValueError(
                f"{name} must be of this {origin}: {leaf or 'the array'} is {there} there, and {here} here"
            )


def check_callable(name: str, function: Any, /, *arguments: str, **keywords: Any) -> Callable[..., Any]:
    """Returns `function`, which can be called with these arguments; raises TypeError naming `name` otherwise."""
    names = ", ".join([*arguments, *keywords])
    form = f"a function of ({names})" if names else "a function"
    if not callable(function):
        raise TypeError(f"{name} must be {form}, got {describe(function)}")
    try:
        signature = inspect.signature(function) if names else None
    # Some functions of other languages tell nothing of their arguments.
    except (TypeError, ValueError):
        signature = None
    try:
        if signature:
            signature.bind(*arguments, **keywords)
    except TypeError as error:
        raise TypeError(f"{name} must be {form}: {error}") from None
    return cast(Callable[..., Any], function)


def is_ready(optimizer: Any) -> bool:
    """Whether an optimizer is a ready optax transformation, with `init` and `update`, and no factory of one."""
    # The class `optax.GradientTransformation` has both names too.
    return hasattr(optimizer, "init") and hasattr(optimizer, "update") and not isinstance(optimizer, type)


def check_optimizer(optimizer: Any, may_be_ready: bool = True) -> Any:
    """Returns `optimizer`, a function of the learning rate or, if it `may_be_ready`, an optax transformation.

    Raises:
        TypeError: for anything else.
    """
    if is_ready(optimizer) and not may_be_ready:
        raise TypeError(f"optimizer must be {_FACTORY}: pass the factory, optax.adam, and not optax.adam(1e-3)")
    if not callable(optimizer) and not is_ready(optimizer):
        must = f"{_FACTORY}, or an optax transformation" if may_be_ready else _FACTORY
        raise TypeError(f"optimizer must be {must}, got {describe(optimizer)}")
    return optimizer


def options_of(function: Any) -> list[str] | None:
    """Names of the options of a function, its arguments after the first; None if it takes any, or has no signature."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return None if takes_any else [parameter.name for parameter in parameters[1:]]


def check_options(caller: Callable[..., Any], function: Callable[..., Any], options: Iterable[str]) -> None:
    """Raises TypeError for an option that `caller` would pass on to a function that does not take it.

    The error lists the options of both functions, since a misspelt one may belong to either.
    """
    if (accepted := options_of(function)) is None:
        return
    for name in options:
        if name not in accepted:
            parameters = inspect.signature(caller).parameters.values()
            callers = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
            known = list(dict.fromkeys([*callers, *accepted]))
            close = difflib.get_close_matches(name, known, 3, 0.6)
            ordered = ", ".join([*close, *(option for option in known if option not in close)])
            raise TypeError(f"{caller.__name__} has no option {name}; its options, the closest first: {ordered}")


def check_floating(name: str, array: Any, shape: str = "...") -> jax.Array:
    """Returns `array`, floating, of a shape that `check_shape` allows; raises TypeError or ValueError otherwise."""
    array = check_array(name, array)
    # Not converted: only the caller knows whether 255 or 1 is white.
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be of a floating dtype, got {array.dtype}")
    check_shape(name, array.shape, shape)
    return array


def check_images(name: str, array: Any, channels: str = "channels") -> jax.Array:
    """Returns `array`, floating images (batch, height, width, channels); raises TypeError or ValueError otherwise."""
    return check_floating(name, array, f"(batch, height, width, {channels})")


def check_logits(logits: Any, mask: Any) -> jax.Array:
    """Returns `logits`, floating and of the shape of `mask`; raises TypeError or ValueError naming the bad one."""
    logits, mask = check_array("logits", logits), check_array("mask", mask)
    check_shape("mask", mask.shape, "(batch, ...)")
    if jnp.issubdtype(mask.dtype, jnp.complexfloating):
        raise TypeError(f"mask must be of real numbers, got {mask.dtype}")
    # Broadcasting would hide the mistake: 8 images with the mask of one have a loss too.
    if jnp.shape(logits) != jnp.shape(mask):
        raise ValueError(f"logits must have the shape of mask, {jnp.shape(mask)}, got {jnp.shape(logits)}")
    return check_floating("logits", logits)


def check_counts(counts: Any, kind: Any, per_band: int = 0) -> None:
    """Raises TypeError or ValueError unless it is a NamedTuple of this kind: real numbers of one shape in all fields.

    The first `per_band` fields may have another shape than the others.
    """
    leaves = named_arrays("counts", counts) if isinstance(counts, kind) else {}
    real = all(_is_any(dtype_of(leaf), *_REAL) for leaf in leaves.values())
    must = f"counts must be {kind.__name__} of real numbers, as {kind.__module__}.count returns"
    if not real or list(leaves) != list(kind._fields):
        raise TypeError(f"{must}, got {describe(counts)}")
    shapes = [np.shape(leaf) for leaf in leaves.values()]
    if len({*shapes[:per_band]}) > 1 or len({*shapes[per_band:]}) > 1:
        raise ValueError(f"{must}, got fields of shapes {', '.join(map(str, shapes))}")
