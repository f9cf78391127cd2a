"""Each check takes what is within its bounds, refuses what is just beyond, and says what is allowed."""

import math
import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from segjax import _checks as checks

MOST = 2**31 - 1
F32 = jnp.finfo(np.float32)
TINY, LARGEST = float(F32.tiny), float(F32.max)
KEY = jax.random.key(0)
IMAGES = np.zeros((2, 4, 4, 1), np.float32)


class Told(nn.Module):
    margin = 3


def below(number):
    """The float32 before it, as a number of Python."""
    return float(np.nextafter(np.float32(number), np.float32(-np.inf)))


count = partial(checks.check_count, "n", minimum=2, maximum=5)
share = partial(checks.check_share, "n")
positive, sigma = partial(checks.check_positive, "n"), partial(checks.check_sigma, "n")


@pytest.mark.parametrize("value", [2, 5, np.int64(3), np.uint8(4)])
def test_a_count_is_an_int_from_its_minimum_to_its_maximum(value):
    assert count(value) == value
    assert type(count(value)) is int


def test_a_count_is_at_most_what_int32_holds():
    assert checks.check_count("n", MOST, minimum=0) == MOST
    with pytest.raises(ValueError, match="n must be an integer <= 2147483647, got 2147483648"):
        checks.check_count("n", MOST + 1, minimum=0)


@pytest.mark.parametrize(
    ("check", "values"),
    [
        (positive, [TINY, LARGEST, 1, np.float64(0.5), np.array(2.0), jnp.float32(3)]),
        (partial(positive, dtype=np.float64), [1e-300, 1e300]),
        (sigma, [TINY**0.5, LARGEST, 1]),
        (partial(sigma, dtype=np.float64), [1e-150]),
        (share, [0, 0.0, 0.5, math.nextafter(1, 0)]),
    ],
)
def test_a_number_within_its_bounds_is_given_back_as_it_is(check, values):
    for value in values:
        assert check(value) is value


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (count, 1, "n must be an integer >= 2, got 1"),
        (count, 6, "n must be an integer <= 5, got 6"),
        (positive, 0, r"n must be a finite number > 0, got 0\.0$"),
        (positive, -0.0, r"n must be a finite number > 0, got -0\.0$"),
        (positive, math.nan, "n must be a finite number > 0, got nan$"),
        (positive, math.inf, "n must be a finite number > 0, got inf$"),
        (positive, 10**400, "n must be a finite number > 0, got inf$"),
        (positive, below(TINY), "n must be a finite number > 0, got .*, which is 0 in float32"),
        (
            positive,
            math.nextafter(LARGEST, math.inf),
            "n must be a finite number > 0, got .*, which is infinite in float32",
        ),
        (partial(positive, dtype=np.float64), 1e-310, "n must be a finite number > 0, got .*, which is 0 in float64"),
        (sigma, 0, r"n must be a finite number > 0, got 0\.0$"),
        (sigma, below(TINY), "n must be a finite number > 0, got .*, which is 0 in float32"),
        (sigma, math.nextafter(TINY**0.5, 0), "n must be a finite number > 0, got .*, whose square is 0 in float32"),
        (share, math.nextafter(0, -1), r"n must be a number in \[0, 1\), got -5e-324"),
        (share, 1, r"n must be a number in \[0, 1\), got 1\.0"),
        (share, math.nan, r"n must be a number in \[0, 1\), got nan"),
    ],
)
def test_a_number_just_beyond_its_bounds_is_refused(check, value, message):
    with pytest.raises(ValueError, match=message):
        check(value)


@pytest.mark.parametrize(
    ("check", "allowed", "values"),
    [
        (count, "an integer >= 2", [None, True, 3.0, "3", b"3", [3], np.array([3, 4]), 1j]),
        (positive, "a finite number > 0", [None, "1e-3", b"1", [1.0], np.ones(2), np.ones(1), 1j, np.True_, print]),
        (sigma, "a finite number > 0", [None, "1e-3", np.ones(2)]),
        (share, r"a number in \[0, 1\)", [None, "0.5", np.zeros(2)]),
    ],
)
def test_what_is_no_number_is_refused(check, allowed, values):
    for value in values:
        with pytest.raises(TypeError, match=f"n must be {allowed}, got "):
            check(value)


@pytest.mark.parametrize("check", [positive, sigma, share])
def test_a_traced_number_passes_and_a_traced_array_does_not(check):
    assert jax.eval_shape(check, np.float32(-1)).shape == ()
    with pytest.raises(ValueError, match=r"n must be a single number, got an array of shape \(2,\)"):
        jax.eval_shape(check, np.ones(2))


def test_pixels_are_at_most_what_int32_counts():
    assert checks.check_pixels("n", MOST) == MOST
    with pytest.raises(ValueError, match=r"n must be at most 2\^31 - 1 pixels, got 2147483648"):
        checks.check_pixels("n", MOST + 1)


def test_a_key_is_one_key_of_either_kind():
    for key in (KEY, jax.random.PRNGKey(0)):
        assert checks.check_key(key) is key
        jax.eval_shape(checks.check_key, key)
    for keys in (jax.random.split(KEY), np.zeros((2, 2), np.uint32)):
        with pytest.raises(ValueError, match=r"key must be a single key, got shape \(2,.*; map over several"):
            checks.check_key(keys)
    for other in (0, None, np.zeros(2), np.zeros(2, np.int32)):
        with pytest.raises(TypeError, match=r"key must come from jax.random.key\(seed\), got "):
            checks.check_key(other)


def test_an_array_has_a_dtype_of_numbers():
    for array in (IMAGES, np.zeros(0, int), np.zeros(1, bool), np.float32(1), jnp.zeros(1), 1j * np.zeros(1)):
        assert checks.check_array("n", array) is array
    jax.eval_shape(partial(checks.check_array, "n"), IMAGES)
    for other in ([1.0], 1.0, None, "a"):
        with pytest.raises(TypeError, match="n must be an array of numbers, got "):
            checks.check_array("n", other)
    for other in (np.array(["a"]), np.array([None]), KEY):
        with pytest.raises(TypeError, match="n must be an array of numbers, got one of dtype "):
            checks.check_array("n", other)


@pytest.mark.parametrize(
    ("allowed", "good", "bad"),
    [
        ("...", [(), (0,), (2, 3)], []),
        ("()", [()], [(1,)]),
        ("(steps,)", [(0,), (3,)], [(), (3, 3)]),
        ("(seeds, 3), at least one seed", [(1, 3)], [(0, 3), (3,), (3, 1)]),
        ("(batch, n, n)", [(0, 4, 4), (2, 1, 1)], [(2, 4, 3), (4, 4)]),
        ("(..., steps), at least one step", [(1,), (0, 2, 1)], [(), (2, 0)]),
        ("(seeds, ...), at least one number", [(1,), (2, 3)], [(), (0,), (2, 0)]),
        ("(n,) or (runs, n, 2)", [(3,), (4, 3, 2)], [(), (3, 2), (4, 3, 1)]),
    ],
)
def test_a_shape_is_one_that_the_notation_allows(allowed, good, bad):
    for shape in good:
        checks.check_shape("n", shape, allowed)
    for shape in bad:
        message = f"n must have shape {allowed}, got {shape or 'a single number'}"
        with pytest.raises(ValueError, match=re.escape(message)):
            checks.check_shape("n", shape, allowed)


def test_real_numbers_become_float64():
    for values in ([1, 2.5], 3, np.float32([1]), jnp.arange(2), np.uint8([[1], [2]]), jnp.ones(2, jnp.bfloat16)):
        array = checks.check_real("n", values)
        assert array.dtype == np.float64
        np.testing.assert_array_equal(array, np.asarray(values))
    for other in ([[1], [1, 2]], "a", ["a"], None, 1j, KEY, {}, True, [False], np.ones(1, "m8[s]")):
        with pytest.raises(TypeError, match="n must be real numbers, got "):
            checks.check_real("n", other)


def test_a_flag_is_true_or_false():
    for flag in (True, False, np.True_):
        assert checks.check_flag("n", flag) is bool(flag)
    for other in (1, 0, None, "True", np.array([True])):
        with pytest.raises(TypeError, match="n must be True or False, got "):
            checks.check_flag("n", other)


def test_a_model_is_told_by_its_methods():
    class Wrapper:
        init = apply = print

    for model in (Told(), Wrapper()):
        assert checks.check_model(model) is model
    for other in (Told, None, print, object()):
        with pytest.raises(TypeError, match=r"model must be a Flax Linen module, such as segjax\.SegmentationCNN"):
            checks.check_model(other)


def test_a_network_has_the_attributes_that_are_asked_for():
    model = Told()
    assert checks.check_model(model) is checks.check_model(model, "margin") is model
    with pytest.raises(
        TypeError, match=r"model must have the attribute multiple, which segjax\.models\.Network describes"
    ):
        checks.check_model(model, "margin", "multiple")
    with pytest.raises(TypeError, match="model must be a Flax Linen module"):
        checks.check_model(None, "margin")


def test_variables_are_a_dict_of_dicts_with_params():
    for variables in ({"params": {}}, {"params": {"a": 1}, "batch_stats": {}}, {"params": {}, "rng": {"a": KEY}}):
        assert checks.check_variables(variables) is variables
    for other in (None, {}, {"batch_stats": {}}, {"params": 1}, {"params": {}, "batch_stats": 1}, ["params"]):
        with pytest.raises(
            TypeError, match=r"variables must be a dict of dicts with 'params', as model\.init gives, got"
        ):
            checks.check_variables(other)


def test_a_function_is_callable():
    assert checks.check_callable("n", print) is print
    with pytest.raises(TypeError, match="n must be a function, got 'adam'"):
        checks.check_callable("n", "adam")
    for function in (lambda a, b: a, lambda *a: a, lambda a, b=1, *, c=2: a, jnp.add, dict, max):
        assert checks.check_callable("n", function, "a", "b") is function
    for function in (lambda a: a, lambda a, b, c: a, lambda a, *, b: a, len):
        with pytest.raises(TypeError, match=r"n must be a function of \(a, b\): "):
            checks.check_callable("n", function, "a", "b")


def test_images_are_floating_and_have_four_axes():
    for images in (IMAGES, jnp.zeros((0, 1, 1, 3), jnp.float16)):
        assert checks.check_images("n", images) is images
    jax.eval_shape(partial(checks.check_images, "n"), IMAGES)
    for shape in ((4, 4, 1), (1, 2, 4, 4, 1)):
        with pytest.raises(ValueError, match=r"n must have shape \(batch, height, width, channels\), got "):
            checks.check_images("n", np.zeros(shape, np.float32))
    for dtype in (int, bool, np.uint8, complex):
        with pytest.raises(TypeError, match="n must be of a floating dtype, got "):
            checks.check_images("n", IMAGES.astype(dtype))
    with pytest.raises(TypeError, match="n must be an array of numbers"):
        checks.check_images("n", [[[[1.0]]]])


def test_logits_are_floating_and_have_the_shape_of_the_mask():
    for mask in (IMAGES, IMAGES.astype(bool)):
        assert checks.check_logits(IMAGES, mask) is IMAGES
    jax.eval_shape(checks.check_logits, IMAGES, IMAGES)
    with pytest.raises(ValueError, match=r"logits must have the shape of mask, \(1, 4, 4, 1\), got \(2, 4, 4, 1\)"):
        checks.check_logits(IMAGES, IMAGES[:1])
    with pytest.raises(TypeError, match="logits must be of a floating dtype, got int"):
        checks.check_logits(IMAGES.astype(int), IMAGES)
    with pytest.raises(TypeError, match="logits must be an array of numbers"):
        checks.check_logits([1.0], IMAGES)
    with pytest.raises(TypeError, match="mask must be an array of numbers"):
        checks.check_logits(IMAGES, None)


def test_an_optimizer_is_a_factory_or_a_transformation():
    class Transformation:
        def init(self, params): ...

        def update(self, gradient, state, params): ...

    ready = (optax.adam(1e-3), optax.chain(optax.clip(1.0), optax.sgd(0.1)), Transformation())
    for optimizer in (optax.adam, *ready):
        assert checks.check_optimizer(optimizer) is optimizer
        assert checks.is_ready(optimizer) == (optimizer is not optax.adam)
    assert checks.check_optimizer(optax.adam, may_be_ready=False) is optax.adam
    assert not checks.is_ready(Transformation)
    for optimizer in ready:
        with pytest.raises(TypeError, match=r"pass the factory, optax.adam, and not optax.adam\(1e-3\)"):
            checks.check_optimizer(optimizer, may_be_ready=False)
    with pytest.raises(TypeError, match=r"\['adam'\] or optax.adam, or an optax transformation, got 'adam'"):
        checks.check_optimizer("adam")
    with pytest.raises(TypeError, match=r"such as segjax.OPTIMIZERS\['adam'\] or optax.adam, got 'adam'"):
        checks.check_optimizer("adam", may_be_ready=False)


def test_options_of_a_function_are_those_after_its_first_argument():
    assert checks.options_of(lambda key, a, *, b=1: None) == ["a", "b"]
    assert checks.options_of(partial(lambda key, a, b=1: None, a=2)) == ["a", "b"]
    assert checks.options_of(lambda key, **options: None) is None
    assert checks.options_of(getattr) is None


def test_unknown_options_name_those_of_both():
    def caller(model, *, num_steps=1, **options): ...

    def function(key, batch_size=8): ...

    checks.check_options(caller, function, ["batch_size"])
    with pytest.raises(
        TypeError, match="caller has no option nsteps; its options, the closest first: num_steps, model, batch_size"
    ):
        checks.check_options(caller, function, ["nsteps"])
    # What takes anything, or tells nothing of itself, is not second-guessed.
    checks.check_options(caller, caller, ["nsteps"])
    checks.check_options(caller, getattr, ["nsteps"])
