from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import Plain, random_variables

import segjax
from segjax.training import TrainState

KEY = jax.random.key(0)
MODEL = segjax.SegmentationCNN(num_channels=4, kernel_size=3, depth=1, shared_norm=False)
SMALL = {"batch_size": 2, "image_size": 16, "sigma": 4.0}


def halved(learning_rate):
    return optax.sgd(learning_rate)


halved.eval_params = lambda opt_state, params: jax.tree.map(lambda leaf: leaf / 2, params)


def state_of(optimizer, variables):
    params = variables["params"]
    return TrainState(params, variables["batch_stats"], optimizer(0.1).init(params), jnp.int32(0))


@pytest.mark.slow
def test_evaluate_is_the_mean_over_fresh_batches():
    variables = random_variables(MODEL)
    counts = jax.jit(partial(segjax.evaluate, model=MODEL, num_batches=3, **SMALL))(KEY, variables=variables)
    assert int(sum(counts[:4])) == 3 * 2 * 16 * 16

    @jax.jit
    def part(index):
        batch = segjax.generate_data(jax.random.fold_in(KEY, index), **SMALL)
        logits = segjax.predict(MODEL, variables, batch.image)
        return segjax.metrics.accuracy(segjax.metrics.count(logits, batch.mask))

    parts = [float(part(index)) for index in range(3)]
    assert float(segjax.metrics.accuracy(counts)) == pytest.approx(np.mean(parts), abs=3e-3)


def test_running_statistics_are_the_means_of_the_batches_own():
    variables = random_variables(MODEL)
    result = jax.jit(partial(segjax.recalibrate, model=MODEL, num_batches=3, **SMALL))(KEY, variables=variables)

    @jax.jit
    def inputs_of_the_norm(index):
        image = segjax.generate_data(jax.random.fold_in(KEY, index), **SMALL).image
        kernel, bias = (variables["params"]["conv1"][name] for name in ("kernel", "bias"))
        return jax.nn.relu(segjax.convolution.conv2d(image, kernel) + bias[None, None, None])

    parts = [np.asarray(inputs_of_the_norm(index), np.float64) for index in range(3)]
    for name in ("mean", "var"):
        expected = np.mean([getattr(part, name)((0, 1, 2)) for part in parts], axis=0)
        np.testing.assert_allclose(result["batch_stats"]["norm1"][name], expected, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_equal(result["params"], variables["params"])


@pytest.mark.slow
def test_old_statistics_do_not_count():
    variables = random_variables(MODEL)
    other = {**variables, "batch_stats": jax.tree.map(lambda leaf: leaf + 7, variables["batch_stats"])}
    recalibrate = jax.jit(partial(segjax.recalibrate, KEY, MODEL, num_batches=2, **SMALL))
    chex.assert_trees_all_equal(recalibrate(variables), recalibrate(other))


@pytest.mark.slow
def test_large_statistics_keep_their_digits():
    def statistics(scale):
        def generate(key):
            batch = segjax.generate_data(key, **SMALL)
            return batch._replace(image=scale * batch.image)

        variables = random_variables(MODEL)
        variables["params"]["conv1"]["bias"] *= scale
        recalibrate = jax.jit(partial(segjax.recalibrate, KEY, MODEL, num_batches=2, generate=generate))
        return recalibrate(variables)["batch_stats"]["norm1"]

    small, large = statistics(np.float32(1)), statistics(np.float32(1e5))
    np.testing.assert_allclose(large["mean"], 1e5 * small["mean"], rtol=1e-4)
    np.testing.assert_allclose(large["var"], 1e10 * small["var"], rtol=1e-3)


def test_a_network_without_batchnorm_has_no_statistics():
    variables = random_variables(Plain())
    assert segjax.recalibrate(KEY, Plain(), variables, **SMALL) is variables


def test_most_optimizers_are_evaluated_with_the_weights_that_they_train():
    variables = random_variables(MODEL)
    for optimizer in segjax.OPTIMIZERS.values():
        result = segjax.eval_variables(KEY, MODEL, optimizer, state_of(optimizer, variables), **SMALL)
        chex.assert_trees_all_equal(result, variables)


@pytest.mark.slow
def test_others_have_evaluation_weights_and_statistics_of_those():
    variables = random_variables(MODEL)
    eval_variables = jax.jit(partial(segjax.eval_variables, KEY, MODEL, halved, num_batches=2, **SMALL))
    result, params = eval_variables(state_of(halved, variables)), halved.eval_params((), variables["params"])
    chex.assert_trees_all_equal(result["params"], params)
    recalibrate = jax.jit(partial(segjax.recalibrate, KEY, MODEL, num_batches=2, **SMALL))
    chex.assert_trees_all_close(result, recalibrate({**variables, "params": params}), rtol=1e-6)


def many(tree, axes=(3, 2)):
    """Runs along two axes, each a little different."""
    scale = np.linspace(0.5, 1.5, 6, dtype=np.float32).reshape(axes)
    return jax.tree.map(lambda leaf: np.asarray(np.multiply.outer(scale, leaf), np.asarray(leaf).dtype), tree)


def assert_each_is_as_alone(function, trees):
    function = partial(function, num_batches=2, **SMALL)
    together, alone = jax.jit(function)(trees), jax.jit(function)
    for place in np.ndindex(3, 2):
        run = jax.tree.map(lambda leaf, place=place: leaf[place], (together, trees))
        chex.assert_trees_all_equal(run[0], alone(run[1]))
    assert any(np.any(leaf[0, 0] != leaf[2, 1]) for leaf in jax.tree.leaves(together))


SHARED = MODEL.clone(shared_norm=True)
OF_VARIABLES = [(segjax.evaluate, MODEL), (segjax.evaluate, SHARED), (segjax.recalibrate, MODEL)]


@pytest.mark.slow
@pytest.mark.parametrize(("function", "model"), OF_VARIABLES)
def test_many_runs_give_in_one_call_what_each_gives_alone(function, model):
    assert_each_is_as_alone(partial(function, KEY, model), many(random_variables(model)))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [halved, optax.contrib.schedule_free_sgd, segjax.OPTIMIZERS["adam"]])
def test_many_runs_have_in_one_call_the_evaluation_weights_of_each(optimizer):
    """The schedule-free state has numbers of each run beside its weights."""
    states = many(state_of(optimizer, random_variables(MODEL)))
    assert_each_is_as_alone(partial(segjax.eval_variables, KEY, MODEL, optimizer), states)


def test_a_ready_transformation_is_evaluated_with_the_weights_of_its_state():
    variables = random_variables(MODEL)
    for optimizer, trained in ((optax.adam(0.1), True), (optax.contrib.schedule_free_sgd(0.1), False)):
        state = state_of(lambda rate, ready=optimizer: ready, variables)
        result = jax.eval_shape(partial(segjax.eval_variables, KEY, MODEL, optimizer, **SMALL), state)
        chex.assert_trees_all_equal_shapes(result, variables)
        assert (segjax.optimizers.eval_params(optimizer, state.opt_state) is None) == trained
    assert segjax.optimizers.copies_of_weights(optax.adam(0.1), variables["params"]) == []


def test_options_of_the_run_may_change_the_state_of_other_optimizers():
    variables = random_variables(MODEL)
    for optimizer, options in (
        (optax.sgd, {"momentum": 0.9}),
        (lambda rate, decay: optax.sgd(rate, decay), {"decay": 0.9}),
    ):
        state = state_of(partial(optimizer, **options), variables)
        assert segjax.eval_variables(KEY, MODEL, optimizer, state, **SMALL)["params"] is variables["params"]


@pytest.mark.slow
def test_memory_of_many_runs_is_that_of_one():
    def temporaries(axes):
        variables = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*axes, *leaf.shape)), random_variables(MODEL))
        program = jax.jit(partial(segjax.evaluate, model=MODEL, num_batches=2, **SMALL))
        return program.lower(KEY, variables=variables).compile().memory_analysis().temp_size_in_bytes

    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(random_variables(MODEL)))
    # One batch's feature maps are 8 KiB; the counts of a run are 20 bytes, and XLA may copy what it loops over.
    assert temporaries((4, 3)) < temporaries((1,)) + 12 * (weights + 100)


@pytest.mark.parametrize("function", [segjax.evaluate, segjax.recalibrate])
def test_statistics_must_have_the_axes_of_the_runs(function):
    single, several = random_variables(MODEL), many(random_variables(MODEL))
    message = "variables must be of this model and these images: batch_stats/norm1/mean is "
    for variables in (
        {**several, "batch_stats": single["batch_stats"]},
        {**single, "batch_stats": several["batch_stats"]},
        {**several, "batch_stats": many(single["batch_stats"], (2, 3))},
    ):
        with pytest.raises(ValueError, match=message):
            function(KEY, MODEL, variables, **SMALL)


def test_refuses_what_is_no_argument():
    for function in (segjax.evaluate, segjax.recalibrate):
        with pytest.raises(TypeError, match="key must come from"):
            function(0, MODEL, random_variables(MODEL), generate=lambda key: segjax.generate_data(KEY, **SMALL))
        with pytest.raises(ValueError, match="num_batches must be an integer >= 1"):
            function(KEY, MODEL, random_variables(MODEL), num_batches=0)
    with pytest.raises(TypeError, match="optimizer must be"):
        segjax.eval_variables(KEY, MODEL, "adam", state_of(halved, random_variables(MODEL)))


@pytest.mark.parametrize(("num_batches", "batch_size"), [(2**22, 2), (2, 2**22)])
def test_evaluate_refuses_more_pixels_than_counts_can_hold(num_batches, batch_size):
    message = r"num_batches times the pixels of a batch must be at most 2\^31 - 1 pixels, got 2147483648"
    with pytest.raises(ValueError, match=message):
        segjax.evaluate(KEY, MODEL, {}, num_batches=num_batches, **{**SMALL, "batch_size": batch_size})
