"""What callers of the library get wrong: a result that tells, or one sentence that names the argument."""

import io
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import AS_USERS, random_variables

import segjax
from segjax import exemplars, layers, metrics, oracle, plotting, statistics, tiling

KEY = jax.random.key(0)
SMALL = {"batch_size": 2, "image_size": 8}
TINY = segjax.SegmentationCNN(num_channels=1, kernel_size=1, depth=1)

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
    "profile": lambda: statistics.profile(MASKED, [1.0]),
    "running_mean": lambda: metrics.running_mean(MASKED),
    "diverged_at": lambda: metrics.diverged_at(MASKED),
}


@pytest.mark.parametrize("name", TAKE_ARRAYS)
def test_masked_numbers_are_refused(name):
    with pytest.raises(TypeError, match=r"(values|curves|reference|losses|loss|diverged) must have no masked numbers"):
        TAKE_ARRAYS[name]()


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


def sweep_on(mesh):
    return segjax.sweep(train_tiny(), jax.random.split(KEY, 2), [1e-3], mesh=mesh)


def make_of(generate):
    return segjax.make_train(TINY, num_steps=2, generate=generate)


def under_x64(make):
    train = make(TINY, num_steps=2, **SMALL)
    with jax.enable_x64(True):
        return train(jax.random.key(0), 1e-3)


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
    "a loss of nothing": (lambda: run_tiny(loss=lambda logits, mask: None), "loss must return an array .* got None"),
    "two losses": (lambda: run_tiny(loss=lambda logits, mask: (logits, mask)), "loss must return an array"),
    "a loss of integers": (lambda: run_tiny(loss=lambda logits, mask: (logits > 0).sum()), "loss must return an array"),
    "a loss of no numbers": (lambda: run_tiny(loss=lambda logits, mask: logits[:0]), "loss must return an array"),
    "a loss of complex numbers": (lambda: run_tiny(loss=lambda logits, mask: logits * 1j), "loss must return an array"),
    "a Python number as loss": (lambda: run_tiny(loss=lambda logits, mask: 1.0), "loss must return an array"),
    "a batch of nothing": (lambda: make_of(lambda key: None), "generate must return a segjax.Batch .* got None"),
    "a pair": (lambda: make_of(lambda key: (jnp.zeros((1, 8, 8, 1)),) * 2), "generate must return a segjax.Batch"),
    "an array": (lambda: make_of(lambda key: jnp.zeros((1, 8, 8, 1))), "generate must return a segjax.Batch"),
    "a batch without a mask": (
        lambda: make_of(lambda key: segjax.Batch(jnp.zeros((1, 8, 8, 1)), None)),
        "generate must return a segjax.Batch of two arrays",
    ),
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


@pytest.mark.parametrize(
    "steps", [optax.MultiSteps, lambda inner, n: optax.MultiSteps(inner, n).gradient_transformation()]
)
def test_an_optimizer_of_several_batches_works(steps):
    run_tiny(optimizer=lambda rate: steps(optax.adam(rate), 2))
    run_tiny(KEY, optimizer=steps(optax.adam(1e-3), 2))


def one_run(make, key):
    run = make(TINY, optimizer=segjax.OPTIMIZERS["sgd"], num_steps=2, **SMALL)
    return (jax.jit(run) if make is segjax.make_train else run)(key, 1e-3)


PHOTOGRAPH = np.random.default_rng(0).uniform(size=(20, 20)).astype(np.float32)
VARIABLES = random_variables(TINY)
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


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg"])
def test_runs_side_by_side_see_the_images_of_single_runs(implementation):
    """Under vmap, these generators draw other numbers for the second run than alone."""
    train, keys = train_tiny(), jax.random.split(jax.random.key(0, impl=implementation), 3)
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


@pytest.mark.slow
def test_muon_has_one_result_whole_and_in_chunks():
    """Without its barrier, the products of the two programs round differently from the first steps on."""
    options = {"optimizer": segjax.optimizers.muon, "num_steps": 8, "batch_size": 2, "image_size": 16}
    model = segjax.SegmentationCNN(num_channels=4, kernel_size=3, depth=1)
    whole = jax.jit(segjax.make_train(model, **options), compiler_options=AS_USERS)(KEY, 1e-2)
    fit = segjax.make_fit(model, chunk_size=5, **options)
    init, advance = (jax.jit(function, compiler_options=AS_USERS) for function in (fit.init, fit.advance))
    chex.assert_trees_all_equal(fit._replace(init=init, advance=advance)(KEY, 1e-2), whole)
