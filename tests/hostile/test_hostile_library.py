"""What callers of the library get wrong: a result that tells, or one sentence that names the argument."""

import io
from functools import partial
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import AS_USERS, random_variables
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import segjax
from segjax import (
    checkpoints,
    edges,
    exemplars,
    layers,
    metrics,
    oracle,
    plotting,
    range_test,
    statistics,
    textures,
    tiling,
    torch_weights,
    tracking,
)
from segjax.sweeps import map_runs

KEY = jax.random.key(0)
SMALL = {"batch_size": 2, "image_size": 8}
TINY = segjax.SegmentationCNN(num_channels=1, kernel_size=1, depth=1)
MESH, AXES = jax.make_mesh((1,), ("devices",), axis_types=(AxisType.Explicit,)), PartitionSpec("devices")

# float32 -> numbers that no sigma may be.
NO_SIGMA = [0.0, -0.0, -4.0, np.nan, np.inf, -np.inf, 1e-20, 1e-40]


@pytest.mark.parametrize("name", ["sigma", "sigma1", "sigma2"])
@pytest.mark.parametrize("rescaled", [True, False])
def test_a_traced_sigma_that_is_none_makes_the_whole_batch_nan(name, rescaled):
    def generate(value):
        # With so wide a mask, one of the textures is in no pixel of many an image.
        return segjax.generate_data(KEY, **SMALL, **{"sigma": 1e9, name: value}, rescaled=rescaled)

    batches = jax.jit(jax.vmap(generate))(jnp.array([*NO_SIGMA, 2.0]))
    for leaf in batches:
        assert np.isnan(leaf[:-1]).all()
        assert np.isfinite(leaf[-1]).all()


def test_a_traced_sigma_that_is_none_makes_the_kernel_nan():
    kernels = jax.jit(jax.vmap(partial(segjax.gaussian_kernel, 8)))(jnp.array([*NO_SIGMA, 2.0]))
    assert np.isnan(kernels[:-1]).all()
    np.testing.assert_allclose(kernels[-1].sum(), 1, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_traced_sigma_has_the_bounds_of_the_dtype(dtype, x64):
    tiny, noise = float(jnp.finfo(dtype).tiny), np.ones((3, 1, 4, 4), dtype)
    compose = jax.jit(jax.vmap(lambda sigma: segjax.compose_batch(noise, 1.0, 1.0, sigma)))
    image = compose(jnp.array([0.9 * tiny**0.5, 1.1 * tiny**0.5, jnp.finfo(dtype).max, np.nan], dtype)).image
    assert image.dtype == dtype
    assert np.isnan(image).all(axis=(1, 2, 3, 4)).tolist() == [True, False, False, True]


def test_a_sweep_tells_which_sigmas_are_none():
    train = segjax.make_train(TINY, num_steps=2, **SMALL)
    sweep = jax.jit(lambda keys, sigma: segjax.sweep(train, keys, [1e-3], sigma=sigma))
    sigmas = jnp.array([4.0, -4.0, np.nan, 0.0, np.inf])
    assert sweep(jax.random.split(KEY, 1), sigmas).diverged_at[0, 0].tolist() == [0, 1, 1, 1, 1]


IMAGE = np.full((1, 8, 8, 1), 0.5, np.float32)
CALLS = {
    "predict": lambda model, variables: segjax.predict(model, variables, IMAGE),
    "evaluate": lambda model, variables: segjax.evaluate(KEY, model, variables, **SMALL),
    "recalibrate": lambda model, variables: segjax.recalibrate(KEY, model, variables, **SMALL),
    "segment": lambda model, variables: tiling.segment(model, variables, IMAGE[0, ..., 0], image_size=8),
    "feature_maps": lambda model, variables: layers.feature_maps(model, variables, IMAGE),
}
# Changes of TINY -> what of its own is missing, superfluous or of another shape there.
LAYOUTS = {
    "deeper": ({"depth": 3}, r"params/conv2/bias is of shape \(1,\) there, and missing here"),
    "wider": ({"num_channels": 2}, r"batch_stats/norm/mean is of shape \(2,\) there, and of shape \(1,\) here"),
    "larger kernels": (
        {"kernel_size": 3},
        r"conv1/kernel is of shape \(3, 3, 1, 1\) there, and of shape \(1, 1, 1, 1\)",
    ),
    "a norm per layer": ({"shared_norm": False}, r"batch_stats/norm/mean is missing there, and of shape \(1,\) here"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("other", LAYOUTS)
def test_weights_of_another_layout_are_refused(call, other):
    changes, difference = LAYOUTS[other]
    message = f"variables must be of this model and these images: .*{difference}"
    with pytest.raises(ValueError, match=message):
        CALLS[call](TINY, random_variables(TINY.clone(**changes)))


def test_images_of_more_channels_are_refused():
    difference = r"params/conv1/kernel is of shape \(1, 1, 1, 1\) there, and of shape \(1, 1, 2, 1\) here"
    with pytest.raises(ValueError, match=f"variables must be of this model and these images: {difference}"):
        segjax.predict(TINY, random_variables(TINY), np.zeros((1, 8, 8, 2), np.float32))


def test_weights_may_have_another_dtype_than_the_images():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), random_variables(TINY))
    assert segjax.predict(TINY, half, IMAGE).shape == IMAGE.shape


# Another dtype -> what of the weights is named.
DTYPES = {
    int: "batch_stats/norm/mean is int32, not floating, of shape",
    bool: "batch_stats/norm/mean is bool, not floating, of shape",
    complex: "batch_stats/norm/mean is complex64, not floating, of shape",
    str: r"variables must hold arrays of numbers, got array\(.* at batch_stats/norm/mean",
    object: r"variables must hold arrays of numbers, got array\(.* at batch_stats/norm/mean",
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_that_are_not_floating_are_refused(call, dtype):
    weights = jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), random_variables(TINY))
    with pytest.raises((TypeError, ValueError), match=DTYPES[dtype]):
        CALLS[call](TINY, weights)


def test_images_of_a_traced_sigma_that_is_none_have_the_lowest_score():
    count = jax.jit(lambda sigma: segjax.evaluate(KEY, TINY, random_variables(TINY), 2, **SMALL, sigma=sigma))
    counts = count(np.nan)
    assert [float(score(counts)) for score in (metrics.iou, metrics.accuracy, metrics.agreement)] == [0, 0, 0]
    assert int(counts.false_positive) == 2 * 2 * 8 * 8


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_counts_of_half_precision_are_those_of_its_numbers_in_float32(dtype):
    logits = jnp.linspace(-3, 3, 2001).astype(dtype)
    mask = (jnp.arange(2001) % 3 > 0).astype(dtype)
    assert metrics.count(logits, mask) == metrics.count(logits.astype(jnp.float32), mask)
    assert metrics.count(jnp.array([0.005], dtype), mask[1:2]).true_positive == 1
    images = [values.reshape(1, 3, 667, 1) for values in (logits / 500, mask)]
    chex.assert_trees_all_equal(edges.count(*images), edges.count(images[0].astype(jnp.float32), images[1]))


class Constant(nn.Module):
    """A logit of 0.005 for each pixel, in half precision."""

    margin, multiple, batch_statistics = 0, 1, False

    @nn.compact
    def __call__(self, image, train=False):
        return jnp.full_like(image, 0.005, jnp.bfloat16) + self.param("zero", nn.initializers.zeros, (), jnp.bfloat16)


def test_a_picture_of_half_precision_has_probabilities_of_float32():
    variables = {"params": {"zero": jnp.zeros((), jnp.bfloat16)}}
    assert (tiling.predict_tiled(Constant(), variables, PHOTOGRAPH) > 0.5).all()


@pytest.mark.parametrize("name", segjax.LOSSES)
def test_losses_of_float64_mix_no_dtypes(name, x64):
    with jax.numpy_dtype_promotion("strict"):
        assert segjax.LOSSES[name](IMAGE.astype(float), IMAGE.astype(float)).dtype == np.float64


def test_float64_of_numpy_is_float32_without_a_warning():
    image = IMAGE.astype(np.float64)
    weights = random_variables(TINY)
    chex.assert_trees_all_equal(segjax.predict(TINY, weights, image), segjax.predict(TINY, weights, IMAGE))
    noise = np.random.default_rng(0).normal(size=(3, 1, 8, 8))
    chex.assert_trees_all_equal(*(segjax.compose_batch(noise.astype(kind), 1.0, 2.0, 3.0) for kind in (float, "f4")))


MASKED = np.ma.masked_array([0.1, 0.2, 99.0], [False, False, True])
GRID = np.ma.masked_array([[0.3, 0.2]], [[False, True]])
TAKE_ARRAYS = {
    "mean": lambda: statistics.mean(MASKED),
    "median": lambda: statistics.median(MASKED),
    "interquartile_mean": lambda: statistics.interquartile_mean(MASKED),
    "bootstrap": lambda: statistics.bootstrap(MASKED),
    "estimates": lambda: statistics.estimates(MASKED),
    "band": lambda: statistics.band(GRID),
    "prediction_interval": lambda: statistics.prediction_interval(MASKED),
    "compare": lambda: statistics.compare(MASKED, [1, 2, 3], higher_is_better=True),
    "compare with": lambda: statistics.compare([1, 2, 3], MASKED, higher_is_better=True),
    "verdict": lambda: statistics.verdict(MASKED, [1, 2, 3], higher_is_better=True),
    "best_rate": lambda: statistics.best_rate([0.1, 1.0], GRID, [[False, False]]),
    "best_rate, diverged": lambda: statistics.best_rate([0.1, 1.0], [[0.3, 0.2]], GRID > 0),
    "steps_to_target": lambda: statistics.steps_to_target(MASKED, 0.2, higher_is_better=False),
    "save": lambda: checkpoints.to_bytes({"losses": MASKED}, {}),
    "count_parameters": lambda: segjax.count_parameters({"params": {"losses": MASKED}}),
    "profile": lambda: statistics.profile(MASKED, [1.0]),
    "running_mean": lambda: metrics.running_mean(MASKED),
    "diverged_at": lambda: metrics.diverged_at(MASKED),
}


@pytest.mark.parametrize("name", TAKE_ARRAYS)
def test_masked_numbers_are_refused(name):
    message = r"(values|curves|reference|losses|loss|diverged|tree|variables) must have no masked numbers"
    with pytest.raises(TypeError, match=message):
        TAKE_ARRAYS[name]()


SCORES = np.array([0.5, 0.75, 0.6, 0.7, 0.55, 0.65])
# The results are in the unit of the values: all that a power of two changes is their exponent.
IN_UNITS = {
    "mean": lambda values: statistics.mean(values),
    "median": lambda values: statistics.median(values),
    "interquartile mean": lambda values: statistics.interquartile_mean(values),
    "bootstrap": lambda values: statistics.bootstrap(values),
    "bootstrap of 3": lambda values: statistics.bootstrap(values[:3]),
    "bootstrap of the median": lambda values: statistics.bootstrap(values, statistics.median),
    "band": lambda values: statistics.band(np.stack([values, values[::-1]])),
    "prediction interval": lambda values: statistics.prediction_interval(values),
    "compare": lambda values: statistics.compare(values, values[::-1], higher_is_better=True).difference,
    "sequential": lambda values: statistics.sequential(values - values[0]).difference,
    "best_rate": lambda values: statistics.best_rate([1, 2, 3, 4, 5, 6], values[None], [[False] * 6]).loss,
    "running mean": lambda values: metrics.running_mean(values),
}


@pytest.mark.parametrize("name", IN_UNITS)
@pytest.mark.parametrize("exponent", [1024, 1023, 600, -600, -1000])
def test_numbers_at_the_ends_of_float64_have_the_statistics_of_others(name, exponent):
    def scaled(values):
        return np.ldexp(np.array(values, float), exponent)

    with np.errstate(over="ignore"):
        expected = scaled(IN_UNITS[name](SCORES))
    np.testing.assert_allclose(IN_UNITS[name](scaled(SCORES)), expected, rtol=1e-13)


def test_the_scale_of_one_column_is_not_that_of_another():
    differences = np.stack([SCORES, np.ldexp(SCORES, -900)], axis=1)
    evidence = statistics.sequential(differences).evidence
    np.testing.assert_allclose(evidence[:, 0], evidence[:, 1], rtol=1e-12)


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 1e308, 1e-308, -0.1])
@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_mean_of_equal_values_reaches_them(value, higher_is_better):
    for window in range(1, 11):
        reached = statistics.steps_to_target(np.full(10, value), value, higher_is_better, window)
        missed = statistics.steps_to_target(
            np.full(10, value), value + (1e-9 if higher_is_better else -1e-9) * abs(value), higher_is_better, window
        )
        assert (reached, missed) == (window, np.inf)


@pytest.mark.parametrize("name", segjax.SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 10, 1000, 2**24, 2**31 - 1])
def test_no_rate_beyond_the_run_exceeds_the_peak(name, num_steps):
    schedule = segjax.SCHEDULES[name](1.0, num_steps)
    steps = np.int32([num_steps - 1, 2**27, 2**30, 2**31 - 2, 2**31 - 1])
    rates = jax.jit(jax.vmap(schedule))(steps[steps >= num_steps - 1])
    assert (rates >= 0).all()
    assert (jnp.diff(rates) <= 0).all()
    assert rates[0] <= 1


@pytest.mark.parametrize("name", segjax.SCHEDULES)
@pytest.mark.parametrize("step", [2**31, 2**70, np.int64(2**31), -1, np.nan, True, "1", [1, 2], KEY])
def test_a_step_that_no_run_has_is_refused(name, step):
    with pytest.raises((TypeError, ValueError), match="step must be "):
        segjax.SCHEDULES[name](1.0, 5)(step)
    assert segjax.SCHEDULES[name](1.0, 5)(2**31 - 1) <= 1


def test_an_array_without_a_masked_number_is_as_any_other():
    assert statistics.mean(np.ma.masked_array([1.0, 2.0])) == 1.5


def train_tiny(**options):
    return segjax.make_train(TINY, optimizer=segjax.OPTIMIZERS["sgd"], num_steps=2, **{**SMALL, **options})


def test_a_sweep_has_a_key():
    with pytest.raises(ValueError, match=r"keys must be typed keys of shape \(seeds,\), at least one"):
        segjax.sweep(train_tiny(), jax.random.split(KEY, 0), [1e-3])


def test_a_history_has_one_row_for_each_step():
    state, history = jax.eval_shape(train_tiny(), KEY, 1e-3)
    shorter = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1,), leaf.dtype), history)
    for bad in (
        history._replace(counts=shorter.counts),
        history._replace(loss=shorter.loss),
        history._replace(loss=jax.ShapeDtypeStruct((2, 1), np.float32)),
        history._replace(counts=None),
        history._replace(loss=None),
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((), leaf.dtype), history),
    ):
        with pytest.raises(ValueError, match=r"resume_from must have a history of 6 arrays of one shape \(steps,\)"):
            train_tiny()(KEY, 1e-3, resume_from=(state, bad))


@pytest.mark.parametrize("options", [{"batch_size": 2}, {"image_size": 8}, {"rescaled": False}])
def test_options_that_may_not_be_traced_are_given_before(options):
    (name,) = options
    with pytest.raises(TypeError, match=f"{name} may not be traced: give it to make_train and not to train"):
        train_tiny()(KEY, 1e-3, **options)


@pytest.mark.parametrize("value", [True, 1j, KEY], ids=str)
def test_a_traced_number_is_real(value):
    with pytest.raises(TypeError, match="sigma1 must be a finite number > 0, got a traced"):
        jax.eval_shape(lambda value: segjax.generate_data(KEY, **SMALL, sigma1=value), value)


def test_options_that_may_be_traced_keep_their_own_messages():
    with pytest.raises(ValueError, match=r"sigma1 must be a finite number > 0, got -1.0"):
        train_tiny()(KEY, 1e-3, sigma1=-1.0)
    with pytest.raises(TypeError, match="sigma1 must be a finite number > 0, got 'wide'"):
        train_tiny()(KEY, 1e-3, sigma1="wide")


class Bare(nn.Module):
    """Without parameters."""

    def __call__(self, image, train=False):
        return image


class Trainless(nn.Module):
    """Without the argument `train`."""

    @nn.compact
    def __call__(self, image):
        return nn.Dense(1)(image)


def run_tiny(*arguments, model=TINY, **options):
    train = segjax.make_train(model, num_steps=2, **{**SMALL, **options})
    return jax.eval_shape(lambda: train(*(arguments or (KEY, 1e-3))))


class Twice(nn.Module):
    @nn.compact
    def __call__(self, image, train=False):
        logits = nn.Conv(1, (1, 1))(image)
        return logits, logits


def sweep_on(mesh):
    return segjax.sweep(train_tiny(), jax.random.split(KEY, 2), [1e-3], mesh=mesh)


def sweep_in(mesh):
    with jax.set_mesh(mesh):
        return sweep_on(mesh)


def make_of(generate):
    return segjax.make_train(TINY, num_steps=2, generate=generate)


def evaluate_on(generate):
    return segjax.evaluate(KEY, TINY, random_variables(TINY), generate=generate)


def recalibrate_on(generate):
    return segjax.recalibrate(KEY, TINY, random_variables(TINY), generate=generate)


def make_of_loss(loss):
    return segjax.make_train(TINY, loss=loss, num_steps=2, **SMALL)


def run_with(update):
    optimizer = optax.GradientTransformation(lambda params: jnp.zeros(2), lambda g, s, params: update(g, s))
    return run_tiny(KEY, optimizer=optimizer)


def fit_tiny():
    return segjax.make_fit(TINY, num_steps=2, **SMALL)


def sweep_of(train, rates=(1e-3,), **options):
    return jax.eval_shape(lambda keys: segjax.sweep(train, keys, rates, **options), jax.random.split(KEY, 2))


def segment_with(progress):
    return tiling.segment(TINY, random_variables(TINY), IMAGE[0, ..., 0], image_size=8, progress=progress)


def change(function):
    return layers.predict_changed(TINY, random_variables(TINY), IMAGE, "conv1", function)


def averaged(learning_rate):
    """Its evaluation weights are an average in its state."""
    return optax.GradientTransformation(lambda params: Average(params), lambda g, state, params: (g, state))


averaged.eval_params = lambda opt_state, params: opt_state.average


def with_eval_params(function):
    optimizer = partial(averaged)
    optimizer.eval_params = function
    return optimizer


class Average(NamedTuple):
    average: dict


def evaluate_with(optimizer, optimizer_of_state, **changes):
    params = random_variables(TINY)["params"]
    state = segjax.TrainState(params, {}, optimizer_of_state(1e-3).init(params), np.int32(0))
    return segjax.eval_variables(KEY, TINY, optimizer, state._replace(**changes), **SMALL)


def history(shape):
    return segjax.History(np.ones(shape), metrics.Counts(*[np.ones(shape, int)] * 5))


def under_x64(make):
    train = make(TINY, num_steps=2, **SMALL)
    with jax.enable_x64(True):
        return train(jax.random.key(0), 1e-3)


def of_state_alone(learning_rate, b1):
    return optax.adam(learning_rate, b1)


of_state_alone.eval_params = lambda opt_state: opt_state

PHOTOGRAPH = np.random.default_rng(0).uniform(size=(20, 20)).astype(np.float32)
NO_MORE = "optimizer must need no more than a learning rate, which may be traced, a gradient and the loss: "
# What is passed -> what passes it, and the sentence.
ARGUMENTS = {
    "a mesh of text": (lambda: sweep_on("x"), "mesh must be a jax.sharding.Mesh, .* got 'x'"),
    "devices, no mesh": (lambda: sweep_on(jax.devices()), "mesh must be a jax.sharding.Mesh"),
    "a mesh without devices": (
        lambda: sweep_on(jax.make_mesh((1,), ("runs",)).abstract_mesh),
        "mesh must be a jax.sharding.Mesh",
    ),
    "an optimizer of nothing": (
        lambda: run_tiny(optimizer=lambda rate: None),
        "optimizer must return an optax transformation, got None",
    ),
    "a schedule": (
        lambda: run_tiny(optimizer=lambda rate: optax.constant_schedule(rate)),
        "optimizer must return an optax transformation, got <function",
    ),
    "MultiSteps": (lambda: run_tiny(optimizer=optax.MultiSteps), f"{NO_MORE}.*every_k_schedule"),
    "plateau": (lambda: run_tiny(optimizer=optax.contrib.reduce_on_plateau), f"{NO_MORE}Attempted boolean"),
    "lookahead": (lambda: run_tiny(optimizer=optax.lookahead), f"{NO_MORE}.*sync_period"),
    "lookahead of Adam": (
        lambda: run_tiny(optimizer=lambda rate: optax.lookahead(optax.adam(rate), 5, 0.5)),
        f"{NO_MORE}'dict' object has no attribute 'fast'",
    ),
    "sam": (lambda: run_tiny(optimizer=optax.contrib.sam), f"{NO_MORE}.*adv_optimizer"),
    "sam of Adam": (
        lambda: run_tiny(optimizer=lambda rate: optax.contrib.sam(optax.adam(rate), optax.sgd(0.1))),
        f"{NO_MORE}.*'value'",
    ),
    "lbfgs": (lambda: run_tiny(optimizer=optax.lbfgs), f"{NO_MORE}.*'value_fn'"),
    "lbfgs, ready": (lambda: run_tiny(KEY, optimizer=optax.lbfgs()), f"{NO_MORE}.*'value_fn'"),
    "a rate made a Python number": (
        lambda: run_tiny(optimizer=lambda rate: optax.adam(float(rate))),
        f"{NO_MORE}Abstract tracer value",
    ),
    "a loss per pixel": (
        lambda: make_of_loss(lambda logits, mask: logits[..., 0]),
        r"loss must return an array of shape \(batch,\), \(2,\), got \(2, 8, 8\)",
    ),
    "one loss": (lambda: make_of_loss(lambda logits, mask: jnp.mean(logits)), r"loss must return .* got \(\)"),
    "a loss of one argument": (
        lambda: make_of_loss(lambda logits: logits),
        r"loss must be a function of \(logits, mask\)",
    ),
    "a loss that fails": (
        lambda: make_of_loss(lambda logits, mask: logits.numpy()),
        "loss must be a function of logits and mask: traced array has no attribute numpy",
    ),
    "a module as loss": (lambda: make_of_loss(nn.Dense), "loss must return an array .* got Dense"),
    "no updates": (
        lambda: run_with(lambda g, s: (None, s)),
        "updates of optimizer must .*: conv1/bias is missing there",
    ),
    "updates of another shape": (
        lambda: run_with(lambda g, s: (jax.tree.map(jnp.sum, g), s)),
        r"updates of optimizer must .*: conv1/bias is of shape \(\) there, and of shape \(1,\) here",
    ),
    "updates of integers": (
        lambda: run_with(lambda g, s: (jax.tree.map(lambda leaf: leaf.astype(int), g), s)),
        "updates of optimizer must .*: conv1/bias is int32, not floating",
    ),
    "updates alone": (lambda: run_with(lambda g, s: g), "optimizer must return updates and its state, got {'conv1'"),
    "an update of nothing": (
        lambda: run_with(lambda g, s: None),
        "optimizer must return updates and its state, got None",
    ),
    "a state of another shape": (
        lambda: run_with(lambda g, s: (g, jnp.zeros(3))),
        r"state of optimizer must be .*: the array is float32 of shape \(3,\) there, and float32 of shape \(2,\) here",
    ),
    "a state of another dtype": (lambda: run_with(lambda g, s: (g, s > 0)), "state of optimizer must .* is bool"),
    "a state of text": (
        lambda: run_tiny(KEY, optimizer=optax.GradientTransformation(lambda params: "x", print)),
        "state of optimizer must hold arrays of numbers, got 'x'",
    ),
    **{
        f"big-endian {name}": (
            lambda call=call: call(PHOTOGRAPH.astype(">f4")),
            f"{name} must have the byte order of this machine, got >f4",
        )
        for name, call in {
            "image": lambda array: segjax.predict(TINY, random_variables(TINY), array[None, ..., None]),
            "inputs": lambda array: segjax.convolution.conv2d(array[None, ..., None], np.ones((1, 1, 1, 1))),
            "first": lambda array: exemplars.generate_crops(KEY, array, array, **SMALL),
            "logits": lambda array: segjax.LOSSES["bce"](array, PHOTOGRAPH),
            "mask": lambda array: segjax.LOSSES["mse"](PHOTOGRAPH, array),
            "kernel": lambda array: segjax.convolution.conv2d(np.ones((1, 1, 1, 1), "f4"), array[None, None]),
            "loss": lambda array: metrics.diverged_at(array[0]),
        }.items()
    },
    "evaluation weights of one argument": (
        lambda: segjax.optimizers.eval_params(partial(of_state_alone, b1=0.5), None),
        r"eval_params must be a function of \(opt_state, params\): too many",
    ),
    "a schedule of one argument": (
        lambda: segjax.schedules.scheduled(optax.adam, lambda peak: optax.constant_schedule(peak), 2),
        r"schedule must be a function of \(learning_rate, num_steps\): too many",
    ),
    "a batch that is a pair": (
        lambda: segjax.training.train_step(TINY, optax.adam, segjax.LOSSES["mse"], None, (IMAGE, IMAGE), 1e-3),
        "batch must be a segjax.Batch, got",
    ),
    "a report that is none": (
        lambda: fit_tiny()(KEY, 1e-3, report=1),
        r"report must be a function of \(state, history\)",
    ),
    "a report of nothing": (
        lambda: fit_tiny()(KEY, 1e-3, report=lambda: 0),
        r"report must be a function of \(state, hist",
    ),
    "progress that is none": (lambda: segment_with(1), r"progress must be a function of \(done, all\), got 1"),
    "progress of one number": (lambda: segment_with(lambda done: 0), r"progress must be a function of \(done, all\)"),
    "a sweep of chunks": (lambda: sweep_of(fit_tiny()), "train must be made by make_train, got a Fit of make_fit"),
    "a sweep of a factory": (
        lambda: sweep_of(segjax.make_train),
        r"train must be a function of \(key, learning_rate\): missing a required argument: 'model'",
    ),
    "a sweep of nothing": (
        lambda: sweep_of(lambda key, learning_rate: None),
        r"train must return \(state, history\), .* got None",
    ),
    "keys sharded over explicit axes": (
        lambda: segjax.sweep(train_tiny(), jax.device_put(jax.random.split(KEY), NamedSharding(MESH, AXES)), [1e-3]),
        "keys must not be sharded over explicit axes: with mesh, sweep gives each device its share",
    ),
    "a mesh beside the one that is set": (
        lambda: sweep_in(MESH),
        "mesh must be None inside jax.set_mesh, which has set one already",
    ),
    "a schedule that gives nothing": (
        lambda: run_tiny(optimizer=segjax.schedules.scheduled(optax.sgd, lambda peak, num_steps: None, 2)),
        r"the result of schedule must be a function of \(step\), got None",
    ),
    "an optimizer of other weights": (
        lambda: run_tiny(optimizer=lambda rate: optax.masked(optax.sgd(rate), {"a": True})),
        "optimizer must fit the weights of model: pytree structure error",
    ),
    "a run in chunks with a traced key": (
        lambda: jax.jit(lambda key: fit_tiny()(key, 1e-2))(KEY),
        "key must not be traced, since the host needs its value",
    ),
    **{
        f"map_runs of {name}": (
            lambda mesh=mesh, arguments=arguments: map_runs(lambda *run: run, *arguments, mesh=mesh),
            f"arguments must be arrays with one length >= 1 of their first axis, got {got}",
        )
        for mesh in (None, jax.make_mesh((1,), ("runs",)))
        for name, arguments, got in (
            (f"a shorter argument, {mesh}", (np.ones(3), np.ones(2)), r"\[\(2,\), \(3,\)\]"),
            (f"a single number, {mesh}", (np.ones(3), {"a": np.float32(1)}), r"\[\(\), \(3,\)\]"),
            (f"no runs, {mesh}", (np.ones((0, 2)),), r"\[\(0,\)\]"),
            (f"nothing, {mesh}", (), "none"),
        )
    },
    "map_runs of no function": (lambda: map_runs(1, np.ones(3)), "function must be a function, got 1"),
    "map_runs of text": (lambda: map_runs(len, ["a"]), "arguments must hold arrays of numbers, got 'a' at 0/0"),
    "rates given twice": (
        lambda: sweep_of(train_tiny(), learning_rate=[0.1]),
        "traced_options must not have learning_rate, which keys or learning_rates set",
    ),
    "a key beside keys": (
        lambda: sweep_of(train_tiny(), key=[1.0]),
        "traced_options must not have key, which keys or learning_rates set",
    ),
    "a static option of a sweep": (
        lambda: sweep_of(train_tiny(), batch_size=[1, 2]),
        "batch_size may not be traced: give it to make_train and not to train",
    ),
    **{
        f"rows of {longest} pictures": (
            lambda longest=longest: plotting.in_rows([], longest),
            "longest must be an integer >= 1, got",
        )
        for longest in (0, -2, "a")
    },
    "a run in chunks with a traced rate": (
        lambda: jax.jit(lambda rate: fit_tiny()(KEY, rate))(1e-2),
        "learning_rate must not be traced, since the host needs its value",
    ),
    "a run in chunks inside jit": (
        lambda: jax.jit(lambda: fit_tiny()(KEY, 1e-2))(),
        "the result of a Fit must not be traced, since the host needs its value",
    ),
    **{
        f"evaluation weights that are {name}": (
            lambda function=function: evaluate_with(with_eval_params(function), averaged),
            f"the result of eval_params of optimizer must be of this state's params: conv1/bias is {got} there, and of",
        )
        for name, function, got in (
            ("none", lambda opt_state, params: None, "missing"),
            ("a number", lambda opt_state, params: 3.0, "missing"),
            ("of other shapes", lambda opt_state, params: jax.tree.map(jnp.sum, params), r"of shape \(\)"),
        )
    },
    "images of whole numbers": (
        lambda: segjax.make_train(TINY, generate=lambda key: segjax.Batch(IMAGE.astype(np.uint8), IMAGE)),
        "generate must return floating images, got uint8",
    ),
    "a network of two results": (
        lambda: run_tiny(model=Twice()),
        "model must return one array, the logits, got",
    ),
    "a text for an option of the optimizer": (
        lambda: segjax.make_train(TINY, optimizer=optax.adam, num_steps=2, **SMALL)(KEY, 1e-3, b1="a"),
        "options of optimizer must hold arrays of numbers, got 'a' at b1",
    ),
    "a mask of another size than the image": (
        lambda: plotting.predictions(np.ones((4, 4)), np.ones((9, 4)), {}, "title"),
        r"mask must have shape \(4, 4\), got \(9, 4\)",
    ),
    "names of more rows than there are": (
        lambda: plotting.pictures([[plotting.Picture("a", np.ones((4, 4)))]], "title", ["a", "b"]),
        "names must have the length of grid, 1, got 2",
    ),
    "rates that are flags": (
        lambda: sweep_of(train_tiny(), [True]),
        r"learning_rates must be real numbers, got \[True\]",
    ),
    "a flag among rates": (
        lambda: sweep_of(train_tiny(), [True, 2.0]),
        r"learning_rates must be real numbers, got \[True, 2.0\]",
    ),
    "a flag among rows": (
        lambda: statistics.mean([[0.1, 0.2], (0.3, np.True_)]),
        r"values must be real numbers, got \[\[0.1, 0.2\]",
    ),
    "sigmas that are flags": (
        lambda: sweep_of(train_tiny(), [1e-3], sigma=[True]),
        r"sigma must be real numbers, got \[True\]",
    ),
    "a rate that is a flag": (
        lambda: run_tiny(KEY, np.True_),
        "learning_rate must be a finite number > 0, got np.True_",
    ),
    "a change into nothing": (lambda: change(lambda before, after: None), "change must .*: conv1 is missing there"),
    "a change of the shape": (
        lambda: change(lambda before, after: after[:, :4]),
        r"change must .*: conv1 is float32 of shape \(1, 4, 8, 1\) there",
    ),
    "a change of one argument": (
        lambda: change(lambda after: after),
        r"change must be a function of \(input, output\)",
    ),
    "a level that is traced": (
        lambda: jax.eval_shape(lambda level: statistics.bootstrap(SCORES, level=level).value, 0.9),
        "level must not be traced, since the host needs its value, got traced",
    ),
    "values that are traced": (
        lambda: jax.eval_shape(statistics.mean, np.ones((9, 9))),
        r"values must be real numbers, got traced\(float32\[9,9\]\)",
    ),
    "a size that is traced": (
        lambda: jax.eval_shape(lambda size: segjax.generate_data(KEY, size), 2),
        "batch_size must be an integer >= 1, got traced",
    ),
    "many sigmas": (
        lambda: segjax.generate_data(KEY, **SMALL, sigma=np.ones((40, 40))),
        r"sigma must be a finite number > 0, got array\(\[\[1., 1.",
    ),
    "an effect that is a flag": (lambda: statistics.seeds_to_decide(True), "effect must be real numbers, got True"),
    "a statistic without an axis": (
        lambda: statistics.bootstrap(SCORES, lambda values: values.mean()),
        r"statistic must be a function of \(values, axis\): got an unexpected keyword argument 'axis'",
    ),
    "a statistic that keeps the axis": (
        lambda: statistics.bootstrap(SCORES, lambda values, axis: values),
        r"statistic must return numbers of shape \(\), got array",
    ),
    "a statistic of nothing": (
        lambda: statistics.bootstrap(SCORES, lambda values, axis: None),
        "the result of statistic must be real numbers, got None",
    ),
    "a statistic of one number": (
        lambda: statistics.bootstrap(np.ones((9, 2)), lambda values, axis: values.mean()),
        r"statistic must return numbers of shape \(2,\), got array\(1.\) for values of shape \(9, 2\) and axis=0",
    ),
    "a statistic of another axis": (
        lambda: statistics.bootstrap(SCORES, lambda values, axis: values.mean(0)),
        r"statistic must return numbers of shape \(10000,\), got .* for values of shape \(10000, 6\) and axis=1",
    ),
    "a statistic of complex numbers": (
        lambda: statistics.bootstrap(SCORES, lambda values, axis: values.mean(axis) * 1j),
        "the result of statistic must be real numbers, got np.complex128",
    ),
    "a state of another optimizer": (
        lambda: evaluate_with(optax.contrib.schedule_free_adamw, segjax.OPTIMIZERS["adam"]),
        "state.opt_state must be of this optimizer: b1 is missing there, and float32 of shape",
    ),
    "an optimizer of another state": (
        lambda: evaluate_with(segjax.OPTIMIZERS["adam"], optax.contrib.schedule_free_adamw),
        "state.opt_state must be of this optimizer: 0/count is missing there, and int32 of shape",
    ),
    "a state of other weights": (
        lambda: evaluate_with(averaged, averaged, params={"a": "x"}),
        "state.params must hold arrays of numbers, got 'x' at a",
    ),
    "a state of one weight": (
        lambda: evaluate_with(averaged, averaged, params=0.5),
        r"state.opt_state must be of this optimizer: average is missing there, and float32 of shape \(\) here",
    ),
    "a state without the average": (
        lambda: evaluate_with(averaged, segjax.OPTIMIZERS["sgd"]),
        r"state.opt_state must be of this optimizer: average/conv1/bias is missing there, and float32 of shape \(1,\)",
    ),
    "more steps than the run has": (
        lambda: tracking.rows(history(9), 4),
        r"history must have arrays of one shape \(steps,\), at most 4, got \[\(9,\), ",
    ),
    "the history of a sweep": (
        lambda: tracking.rows(history((2, 3)), 3),
        r"history must have arrays of one shape \(steps,\), at most 3, got \[\(2, 3\), ",
    ),
    "a history without counts": (
        lambda: tracking.rows(segjax.History(np.ones(9), None), 9),
        "counts must be Counts of real numbers, .* got None",
    ),
    "a history without losses": (
        lambda: tracking.rows(history(9)._replace(loss=None), 9),
        "history.loss must be real numbers, got None",
    ),
    "a history that is traced": (
        lambda: jax.eval_shape(lambda history: tracking.rows(history, 9), history(9)),
        "history.loss must be real numbers, got traced",
    ),
    "crops that are not square": (
        lambda: exemplars.mix_crops(np.ones((1, 8, 4), bool), *np.ones((2, 1, 8, 4))),
        r"first must have shape \(batch, n, n\), got \(1, 8, 4\)",
    ),
    "fields that are not square": (
        lambda: textures.blur(np.ones((1, 8, 4)), 1.0),
        r"fields must have shape \(batch, n, n\), got \(1, 8, 4\)",
    ),
    "counts that are an array": (
        lambda: metrics.iou(np.ones(5)),
        "counts must be Counts of real numbers, .* got array",
    ),
    "counts of edges": (
        lambda: metrics.f1(edges.EdgeCounts(*[np.ones(5)] * 6)),
        "counts must be Counts of real numbers, as segjax.metrics.count returns, got EdgeCounts",
    ),
    "counts of nothing": (lambda: metrics.accuracy(metrics.Counts(*[None] * 5)), "counts must be Counts of real"),
    "counts of two shapes": (
        lambda: metrics.iou(history(3).counts._replace(false_negative=np.ones(2))),
        r"counts must be Counts of real numbers, .* got fields of shapes \(3,\), \(3,\), \(2,\), \(3,\), \(3,\)",
    ),
    "counts of other bands": (
        lambda: edges.error(edges.EdgeCounts(np.ones(5), np.ones(4), *np.ones(4))),
        r"counts must be EdgeCounts of real numbers, .* got fields of shapes \(5,\), \(4,\), \(\), ",
    ),
    "counts of other edges": (
        lambda: edges.boundary_f(edges.EdgeCounts(*np.ones((2, 3, 5)), *np.ones((3, 3)), np.ones(2))),
        "counts must be EdgeCounts of real numbers, .* got fields of shapes",
    ),
    "counts that are no edges": (
        lambda: edges.error(metrics.Counts(*[np.ones(5)] * 5)),
        "counts must be EdgeCounts of real numbers, as segjax.edges.count returns, got Counts",
    ),
    **{
        f"one logit to {name}": (
            lambda loss=loss: loss(np.float32(1), np.float32(1)),
            r"mask must have shape \(batch, ...\), got a single number",
        )
        for name, loss in segjax.LOSSES.items()
    },
    "a loss of another rate": (
        lambda: range_test.regret(0.1, RATES, np.ones(3)),
        r"losses must be numbers > 0 of shape \(2,\), as rates has, got array",
    ),
    "rates of two sweeps": (
        lambda: range_test.suggest(np.ones((2, 3)), np.ones((4, 2, 3))),
        "rates must be at least one finite number > 0, got array",
    ),
    "losses of no run": (
        lambda: range_test.suggest(RATES, np.ones((0, 2))),
        r"smoothed must have shape \(..., 2\), as rates has, got \(0, 2\)",
    ),
    "weights of integers": (
        lambda: torch_weights.from_state_dict(
            {name: array.astype(int) for name, array in torch_weights.to_state_dict(DEEP).items()}
        ),
        "conv1.0.weight must be of a floating dtype, got int32",
    ),
    "weights of complex numbers": (
        lambda: torch_weights.to_state_dict(jax.tree.map(lambda leaf: leaf * 1j, DEEP)),
        "variables: conv1 kernel must be of a floating dtype, got complex64",
    ),
    "weights of several runs": (
        lambda: torch_weights.to_state_dict(jax.tree.map(lambda leaf: np.stack([leaf] * 2), DEEP)),
        r"variables: conv1 kernel must have shape \(height, width, in, out\), got \(2, 3, 3, 1, 2\)",
    ),
    "a list to rescale": (
        lambda: textures.rescale([[0.0, 1.0]]),
        r"images must be an array of numbers, got \[\[0.0, 1.0\]\]",
    ),
    "integers to rescale": (lambda: textures.rescale(np.eye(2, dtype=np.uint8)), "images must be of a floating dtype"),
    "a row to rescale": (lambda: textures.rescale(np.ones(3)), r"images must have shape \(..., height, width\), got"),
    "a rate that is text": (lambda: segjax.OPTIMIZERS["sgd"]("adam"), "learning_rate must be a finite number > 0, got"),
    "a schedule of nothing": (
        lambda: segjax.OPTIMIZERS["adam"](lambda: 0.1),
        r"learning_rate must be a function of \(step\): too many positional arguments",
    ),
    "an axis beyond": (lambda: statistics.median(SCORES, axis=1), "axis must be an integer <= 0, got 1"),
    "scores that are flags": (lambda: statistics.bootstrap([True, False]), "values must be real numbers, got"),
    "a target of no number": (
        lambda: statistics.steps_to_target(SCORES, np.nan, higher_is_better=True),
        "target must be a single number, got nan",
    ),
    "rates below zero": (
        lambda: statistics.best_rate([-1.0, 1.0], [[1, 2]], [[False, False]]),
        "rates must be .* in ascending order and > 0",
    ),
    "no mean": (lambda: statistics.mean([]), "values must have at least one number"),
    "a loss of nothing": (lambda: run_tiny(loss=lambda logits, mask: None), "loss must return an array .* got None"),
    "two losses": (lambda: run_tiny(loss=lambda logits, mask: (logits, mask)), "loss must return an array"),
    "a loss of integers": (lambda: run_tiny(loss=lambda logits, mask: (logits > 0).sum()), "loss must return an array"),
    "a loss of no numbers": (lambda: run_tiny(loss=lambda logits, mask: logits[:0]), "loss must return an array"),
    "a loss of complex numbers": (lambda: run_tiny(loss=lambda logits, mask: logits * 1j), "loss must return an array"),
    "a Python number as loss": (lambda: run_tiny(loss=lambda logits, mask: 1.0), "loss must return an array"),
    "a batch of nothing": (lambda: make_of(lambda key: None), "generate must return a segjax.Batch .* got None"),
    "a pair": (lambda: make_of(lambda key: (jnp.zeros((1, 8, 8, 1)),) * 2), "generate must return a segjax.Batch"),
    "an array": (lambda: make_of(lambda key: jnp.zeros((1, 8, 8, 1))), "generate must return a segjax.Batch"),
    **{
        f"an option that generate has not, in {use.__name__}": (
            lambda use=use: use(KEY, TINY, random_variables(TINY), sgima=3),
            f"{use.__name__} has no option sgima; its options, the closest first: sigma, ",
        )
        for use in (segjax.evaluate, segjax.recalibrate)
    },
    "a batch without a mask": (
        lambda: make_of(lambda key: segjax.Batch(jnp.zeros((1, 8, 8, 1)), None)),
        "generate must return a segjax.Batch of two arrays",
    ),
    **{
        f"a batch of shape {shape} to {use.__name__}": (
            lambda shape=shape, use=use: use(lambda key: segjax.Batch(jnp.ones(shape), jnp.ones(shape))),
            "generate must return images and masks of at least one pixel, got arrays of shape",
        )
        for shape in ((0, 8, 8, 1), (1, 0, 8, 1))
        for use in (make_of, evaluate_on, recalibrate_on)
    },
    "a batch of nothing to evaluate": (
        lambda: segjax.evaluate(KEY, TINY, random_variables(TINY), generate=lambda key: None),
        "generate must return a segjax.Batch",
    ),
    "a batch of nothing to recalibrate": (
        lambda: segjax.recalibrate(KEY, TINY, random_variables(TINY), generate=lambda key: None),
        "generate must return a segjax.Batch",
    ),
    "no parameters": (lambda: run_tiny(model=Bare()), r"model must have parameters to train, got none in Bare\(\)"),
    "no train": (lambda: run_tiny(model=Trainless()), "model must have the argument train"),
    "a key of 3 numbers": (
        lambda: run_tiny(np.zeros(3, np.uint32), 1e-3),
        r"key must have shape \(2,\), .* got \(3,\)",
    ),
    "a key of no numbers": (lambda: run_tiny(np.zeros(0, np.uint32), 1e-3), r"key must have shape \(2,\)"),
    "x64 after make_train": (lambda: under_x64(segjax.make_train), "jax_enable_x64 must be as when the run was made"),
    "x64 after make_fit": (lambda: under_x64(segjax.make_fit), "jax_enable_x64 must be as when the run was made"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.filterwarnings("ignore:Some donated buffers")
def test_a_bad_argument_is_named_in_one_sentence(name):
    call, message = ARGUMENTS[name]
    with pytest.raises((TypeError, ValueError), match=message) as error:
        call()
    assert "\n" not in str(error.value)
    assert "Tracer" not in str(error.value)


def deleted():
    array = jnp.zeros(3) + 1
    array.delete()
    return array


CIRCLE = {}
CIRCLE["itself"] = CIRCLE
# What no file can hold -> the tree, the metadata, and the sentence.
UNSAVED = {
    "a name of safetensors": (
        {"__metadata__": SCORES},
        {},
        "tree must have names that safetensors takes, got '__metad",
    ),
    "a name of half a character": (
        {"\ud800": SCORES},
        {},
        r"tree must have names that safetensors takes, got '\\ud800'",
    ),
    "names of two kinds": ({1: SCORES, "a": SCORES}, {}, "tree must be a tree with keys that can be sorted"),
    "complex128": ({"a": SCORES * 1j}, {}, "tree must hold arrays of the dtypes int8, .* got complex128 at a"),
    "int4": ({"a": jnp.ones(2, jnp.int4)}, {}, "tree must hold arrays of the dtypes int8, .* got int4 at a"),
    "texts": ({"a": np.array(["x"])}, {}, r"tree must hold arrays of numbers, got array\(.* at a"),
    "objects": ({"a": {"b": object()}}, {}, "tree must hold arrays of numbers, got <object .* at a/b"),
    "dates": ({"a": np.ones(2, "m8[s]")}, {}, "tree must hold arrays of numbers, got array.* at a"),
    "shapes": ({"a": jax.ShapeDtypeStruct((2,), float)}, {}, "tree must hold arrays that are there, got Shape.* at a"),
    "a deleted array": ({"a": deleted()}, {}, "tree must hold arrays that are there, got one that was donated .* at a"),
    "no metadata": ({}, None, "metadata must be a mapping, got None"),
    "pairs": ({}, [["a", 1]], "metadata must be a mapping, got"),
    "numbers as keys": ({}, {"a": [{1: 2}]}, r"metadata must have keys that are text, got {'a': \[{1: 2}\]}"),
    "a set": ({}, {"a": {1}}, "metadata must be of JSON's types: Object of type set"),
    "an array": ({}, {"a": SCORES}, "metadata must be of JSON's types: Object of type ndarray"),
    "a circle": ({}, CIRCLE, "metadata must be of JSON's types: Circular"),
}


@pytest.mark.parametrize("name", UNSAVED)
def test_what_no_file_can_hold_is_refused(name):
    tree, metadata, message = UNSAVED[name]
    with pytest.raises((TypeError, ValueError), match=message) as error:
        checkpoints.to_bytes(tree, metadata)
    assert "\n" not in str(error.value)


def test_what_is_traced_is_not_saved():
    with pytest.raises(TypeError, match=r"tree must hold arrays that are there, got traced\(float32\[6\]\) at a"):
        jax.eval_shape(lambda array: checkpoints.to_bytes({"a": array}, {}), np.float32(SCORES))


@pytest.mark.parametrize(
    "steps", [optax.MultiSteps, lambda inner, n: optax.MultiSteps(inner, n).gradient_transformation()]
)
def test_an_optimizer_of_several_batches_works(steps):
    run_tiny(optimizer=lambda rate: steps(optax.adam(rate), 2))
    run_tiny(KEY, optimizer=steps(optax.adam(1e-3), 2))


def one_run(make, key):
    run = make(TINY, optimizer=segjax.OPTIMIZERS["sgd"], num_steps=2, **SMALL)
    return (jax.jit(run) if make is segjax.make_train else run)(key, 1e-3)


VARIABLES, DEEP = random_variables(TINY), random_variables(segjax.SegmentationCNN(2, 3))
# What takes a key -> it, and how often it may get the same key: runs and their evaluations are paired on purpose.
TAKE_KEYS = {
    "generate_data": (lambda key: segjax.generate_data(key, **SMALL), 1),
    "generate_crops": (lambda key: exemplars.generate_crops(key, PHOTOGRAPH, PHOTOGRAPH, **SMALL), 1),
    "init": (lambda key: TINY.init(key, IMAGE), 1),
    "make_train": (lambda key: one_run(segjax.make_train, key), 2),
    "make_fit": (lambda key: one_run(segjax.make_fit, key), 2),
    "sweep": (lambda key: jax.jit(lambda keys: segjax.sweep(train_tiny(), keys, [1e-3]))(key[None]), 2),
    "evaluate": (lambda key: segjax.evaluate(key, TINY, VARIABLES, 2, **SMALL), 2),
    "recalibrate": (lambda key: segjax.recalibrate(key, TINY, VARIABLES, 2, **SMALL), 2),
    "posterior": (lambda key: oracle.posterior(key, -np.ones((1, 16, 16, 1)), 0.2, 1.2, 3.0, window=3, num_masks=4), 1),
    "interior_error": (lambda key: oracle.interior_error(key, 0.2, 1.2, window=3, image_size=16, num_windows=4), 1),
}


@pytest.mark.parametrize("name", TAKE_KEYS)
def test_no_random_number_is_drawn_twice(name):
    function, times = TAKE_KEYS[name]
    with jax.debug_key_reuse(True):
        key = jax.random.key(5)
        for _ in range(times):
            function(key)


class Noisy(nn.Module):
    """Draws numbers in training, as dropout does."""

    @nn.compact
    def __call__(self, image, train=False):
        image = nn.Conv(1, (1, 1))(image)
        return nn.Dropout(0.5, deterministic=not train)(image)


@pytest.mark.slow
@pytest.mark.parametrize("model", [TINY, Noisy()])
@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg"])
def test_runs_side_by_side_draw_the_numbers_of_single_runs(implementation, model):
    """Under vmap, these generators draw other numbers for the second run than alone."""
    train = segjax.make_train(model, optimizer=segjax.OPTIMIZERS["sgd"], num_steps=2, **SMALL)
    keys = jax.random.split(jax.random.key(0, impl=implementation), 3)
    alone = np.stack([jax.jit(train)(key, 1e-3)[1].loss for key in keys])
    by_vmap = jax.jit(jax.vmap(train, (0, None)))(keys, 1e-3)[1].loss
    by_width = jax.jit(lambda keys: segjax.sweep(train, keys, [1e-3], width=2))(keys).histories.loss[:, 0]
    np.testing.assert_allclose(by_vmap, alone, rtol=1e-5)
    np.testing.assert_allclose(by_width, alone, rtol=1e-5)
    assert len({float(loss) for loss in alone[:, 0]}) == 3


ZEROS, NO_NUMBERS, RATES = np.zeros((2, 20)), np.full((2, 20), np.nan), np.array([1e-3, 1e-2])


def curves(values, **options):
    return plotting.training_curves([plotting.Panel("loss", {"adam": values}, log=True, **options)], "title")


def sensitivity(values):
    return plotting.sensitivity(RATES, {"adam": values}, {"adam": np.zeros((2, 2), bool)}, "loss", "title")


FIGURES = {
    "curves of zeros": lambda: curves(ZEROS),
    "curves of one zero": lambda: curves(ZEROS[0]),
    "curves below zero": lambda: curves(ZEROS - 1),
    "curves of no numbers": lambda: curves(NO_NUMBERS),
    "curves over zeros": lambda: curves(ZEROS, x=ZEROS[0], xlog=True),
    "curves of huge numbers": lambda: curves(np.full(20, 1e305)),
    "bars of zeros": lambda: plotting.bars({"adam": np.zeros(3), "sgd": np.zeros(3)}, "seconds", "title"),
    "dots of zeros": lambda: plotting.dots({"adam": np.zeros(3)}, np.zeros(1), "loss", ("ours", "theirs"), "title"),
    "sensitivity to nothing": lambda: sensitivity(np.zeros((2, 2))),
    "tradeoff of nothing": lambda: plotting.tradeoff({"adam": (0, 0), "sgd": (0, 1)}, "seconds", "loss", "title"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_logarithmic_axis_takes_any_numbers_without_a_warning(name):
    FIGURES[name]().savefig(io.BytesIO())


def test_a_name_that_begins_with_an_underscore_is_in_the_legend():
    figure = plotting.training_curves([plotting.Panel("loss", {"_mine": ZEROS[0], "adam": ZEROS[0]})], "title")
    figure.savefig(io.BytesIO())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["_mine", "adam"]


@pytest.mark.slow
def test_muon_has_one_result_whole_and_in_chunks():
    """Without its barrier, the products of the two programs round differently from the first steps on."""
    options = {"optimizer": segjax.optimizers.muon, "num_steps": 8, "batch_size": 2, "image_size": 16}
    model = segjax.SegmentationCNN(num_channels=4, kernel_size=3, depth=1)
    whole = jax.jit(segjax.make_train(model, **options), compiler_options=AS_USERS)(KEY, 1e-2)
    fit = segjax.make_fit(model, chunk_size=5, **options)
    init, advance = (jax.jit(function, compiler_options=AS_USERS) for function in (fit.init, fit.advance))
    chex.assert_trees_all_equal(fit._replace(init=init, advance=advance)(KEY, 1e-2), whole)
