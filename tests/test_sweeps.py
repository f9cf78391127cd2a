import json
import os
import subprocess
import sys
import textwrap
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_are_cudnn_s, convolutions_on_gpu

import segjax
from segjax.sweeps import map_runs

MODEL = segjax.SegmentationCNN(num_channels=2, kernel_size=3, depth=2)
# Plain SGD: Adam's first step is the sign of the gradient, in which a last digit can be worth a whole step.
OPTIONS = {"optimizer": segjax.OPTIMIZERS["sgd"], "batch_size": 2, "image_size": 16, "sigma": 4.0}
TRAIN = segjax.make_train(MODEL, num_steps=3, **OPTIONS)
KEYS = jax.random.split(jax.random.key(0), 2)
RATES = [1e-3, 1e-2, 1e-1]


@pytest.fixture(scope="module")
def program():
    """Two seeds at three rates: one program for all of them."""
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def program(keys, rates):
        return segjax.sweep(TRAIN, keys, rates)

    return program


@pytest.fixture(scope="module")
def single():
    return jax.jit(TRAIN)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 4])
def test_every_seed_at_every_rate(program, single, width):
    side_by_side = jax.jit(partial(segjax.sweep, TRAIN, width=width))
    result = (program if width == 1 else side_by_side)(KEYS, jnp.array(RATES))
    chex.assert_tree_shape_prefix((result.states, result.histories, result.diverged_at), (2, 3))
    for seed, index in np.ndindex(2, 3):
        # The number of runs side by side changes the rounding.
        expected = single(KEYS[seed], RATES[index])[1].loss
        np.testing.assert_allclose(result.histories.loss[seed, index], expected, rtol=1e-4)


TWO_STEPS = segjax.History(jnp.ones(2), segjax.metrics.Counts(*jnp.zeros((5, 2), jnp.int32)))


def test_axes_are_named_in_their_order_and_every_run_has_its_values():
    def train(key, learning_rate, **options):
        return segjax.TrainState({"learning_rate": learning_rate, **options}, key, (), jnp.int32(2)), TWO_STEPS

    axes = {"learning_rate": [0.1], "sigma2": [1.2, 3.0, 0.7], "sigma1": [0.5, 0.25]}
    options = {name: axes[name] for name in ("sigma2", "sigma1")}
    result = jax.jit(lambda keys: segjax.sweep(train, keys, axes["learning_rate"], width=5, **options))(KEYS)
    assert list(result.axes) == ["key", *axes]
    assert result.histories.loss.shape == (2, 1, 3, 2, 2)
    for index, (name, values) in enumerate(axes.items(), start=1):
        np.testing.assert_allclose(result.axes[name], values)
        along = np.reshape(np.float32(values), [-1 if axis == index else 1 for axis in range(4)])
        np.testing.assert_array_equal(result.states.params[name], np.broadcast_to(along, (2, 1, 3, 2)))
    keys = np.broadcast_to(jax.random.key_data(KEYS)[:, None, None, None], (2, 1, 3, 2, 2))
    np.testing.assert_array_equal(jax.random.key_data(result.states.batch_stats), keys)


@pytest.mark.slow
def test_a_run_that_diverges_is_marked_and_disturbs_no_other(program):
    mixed, alone = (program(KEYS, jnp.array([1e-2, other, 1e-1])) for other in (1e30, 1e-3))
    first_lost = 1 + np.argmax(~np.isfinite(np.asarray(mixed.histories.loss[:, 1])), axis=-1)
    np.testing.assert_array_equal(mixed.diverged_at, np.stack([[0, 0], first_lost, [0, 0]], axis=-1))
    assert (first_lost > 1).all()
    others = [jax.tree.map(lambda leaf: leaf[:, ::2], (result.states, result.histories)) for result in (mixed, alone)]
    chex.assert_trees_all_equal(*others)


def test_broken_weights_mark_a_run_whose_losses_are_finite():
    def train(key, learning_rate):
        return segjax.TrainState({"weight": 1 / learning_rate}, {}, (), jnp.int32(2)), TWO_STEPS

    # Traced, since such a rate would be refused.
    result = jax.jit(partial(segjax.sweep, train))(KEYS, jnp.array([0.0, 1e-2]))
    np.testing.assert_array_equal(result.diverged_at, [[2, 0], [2, 0]])


def temporaries(num_keys, num_steps, width=1):
    train = segjax.make_train(MODEL, num_steps=num_steps, **OPTIONS)
    keys = jax.random.split(jax.random.key(0), num_keys)
    program = jax.jit(lambda keys: segjax.sweep(train, keys, RATES, width=width))
    return program.lower(keys).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_on_a_gpu_runs_side_by_side_are_groups():
    convolutions = convolutions_on_gpu(lambda keys: segjax.sweep(TRAIN, keys, RATES, width=4), KEYS)
    # Six runs: four side by side, then two.
    assert_are_cudnn_s(convolutions, (3, 3), {1, 2, 4})
    assert {convolution.batch_groups for convolution in convolutions} == {1, 2, 4}


@pytest.mark.deep
def test_memory_grows_with_the_width_alone():
    least, run = temporaries(1, 3), 100  # bytes of a run's key, rate and place
    assert temporaries(12, 3) < least + 12 * 3 * run
    assert temporaries(4, 3, width=4) > 2 * least
    history_of_one_run = 1000 * 4 * len(jax.tree.leaves(segjax.History(0, segjax.metrics.Counts(*range(5)))))
    assert temporaries(1, 1003) < least + 1.1 * history_of_one_run


@pytest.mark.slow
def test_rates_are_no_part_of_the_program(program):
    """`program` may be traced once."""
    rates = jnp.array(RATES)
    there, back = program(KEYS, rates), program(KEYS[::-1], rates[::-1])
    np.testing.assert_array_equal(there.histories.loss, back.histories.loss[::-1, ::-1])
    assert program._cache_size() == 1


MANY_DEVICES = """
    import json, re
    import jax, numpy as np, segjax
    from test_sweeps import TRAIN, RATES

    keys = jax.random.split(jax.random.key(0), 3)  # 9 runs on 4 devices: 3 places are left over
    mesh = jax.make_mesh((2, 2), ("a", "b"))
    one = jax.jit(lambda keys: segjax.sweep(TRAIN, keys, RATES))(keys)
    program = jax.jit(lambda keys: segjax.sweep(TRAIN, keys, RATES, mesh=mesh))
    many = program(keys)
    pairs = zip(*([np.asarray(leaf, float) for leaf in jax.tree.leaves(tree)] for tree in (one[1:], many[1:])))
    blocks = re.split(r"\\n(?=\\S)", program.lower(keys).compile().as_text())
    print(json.dumps({
        "devices": jax.device_count(),
        "apart": [float(np.max(np.abs(a - b))) for a, b in pairs],
        "axes": list(many.axes),
        "blocks": [block.split()[0] for block in blocks if re.search(r" (all-|collective-|reduce-scatter)", block)],
        "loops": sum(" while(" in block for block in blocks),
    }))
"""


@pytest.mark.slow
def test_many_devices_give_the_bits_of_one():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": f"{os.path.dirname(__file__)}:."}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MANY_DEVICES)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["devices"] == 4
    assert len(facts["apart"]) > 10
    # From 0.11 or 0.12 on, jax compiles a program for several devices with other rounding: a few last digits.
    assert max(facts["apart"]) <= (0 if jax.__version_info__ < (0, 11) else 1e-7)
    assert facts["axes"] == ["key", "learning_rate"]
    # Devices communicate when all runs are over, and never inside a loop.
    assert set(facts["blocks"]) <= {"ENTRY"}
    assert facts["loops"]


@pytest.mark.parametrize("width", [1, 2, 5])
def test_map_runs_maps(width):
    rows, weights = jnp.arange(6.0).reshape(3, 2), {"w": jnp.array([1.0, 2.0, 3.0])}
    result = jax.jit(lambda *a: map_runs(lambda row, tree: row * tree["w"], *a, width=width))(rows, weights)
    np.testing.assert_array_equal(result, rows * weights["w"][:, None])


NO_RATES = (1e-3, [], [[1e-3]])


@pytest.mark.parametrize("keys", [jax.random.key(0), jnp.zeros((2, 2), jnp.uint32)])
def test_refuses_other_keys(keys):
    with pytest.raises(ValueError, match=r"keys must be typed keys of shape \(seeds,\)"):
        segjax.sweep(TRAIN, keys, RATES)


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        *((ValueError, {"learning_rates": rates}, r"learning_rates must have shape \(values,\)") for rates in NO_RATES),
        (
            ValueError,
            {"learning_rates": [1e-3, 1e-50]},
            "each of learning_rates must be a finite number > 0, got 1e-50",
        ),
        (ValueError, {"learning_rates": [1e39, 1]}, "each of learning_rates must .* infinite in float32"),
        (ValueError, {"width": 0}, "width must be an integer >= 1"),
        (ValueError, {"sigma1": 0.2}, r"sigma1 must have shape \(values,\)"),
        (TypeError, {"sigma3": [0.2]}, "sigma3"),
        (ValueError, {"sigma1": [-1]}, "sigma1 must be a finite number > 0, got -1.0"),
        (ValueError, {"sigma1": [0.2, 0.0, 0.4]}, "sigma1 must be a finite number > 0, got 0.0"),
        (ValueError, {"sigma2": [0.2, float("nan")]}, "sigma2 must be a finite number > 0, got nan"),
        (ValueError, {"sigma2": [0.2, 1e39]}, "sigma2 must be .* which is infinite in float32"),
        (ValueError, {"sigma": jnp.array([1.0, -2.0])}, "sigma must be a finite number > 0, got -2.0"),
        (ValueError, {"batch_size": 2}, r"batch_size must have shape \(values,\).*: a sweep takes .* may be traced"),
        (TypeError, {"batch_size": [2, 3]}, "batch_size may not be traced: give it to make_train .*: a sweep takes"),
    ],
)
def test_refuses(error, options, message):
    with pytest.raises(error, match=message):
        segjax.sweep(TRAIN, KEYS, **{"learning_rates": RATES, **options})


@pytest.mark.slow
def test_traced_values_pass_beside_concrete_ones():
    def program(keys, rates, sigmas):
        return segjax.sweep(TRAIN, keys, rates, sigma1=sigmas, sigma=[1.0, 2.0])

    shapes = jax.eval_shape(program, KEYS, jnp.array([-1.0, 1.0, 2.0]), jnp.array([-1.0, 0.0]))
    assert shapes.diverged_at.shape == (2, 3, 2, 2)


def test_a_ready_transformation_is_swept_over_keys_alone():
    train = segjax.make_train(MODEL, num_steps=3, **{**OPTIONS, "optimizer": optax.sgd(1e-2)})
    result = jax.eval_shape(lambda keys: segjax.sweep(train, keys, sigma1=[0.2, 0.5, 0.7]), KEYS)
    assert list(result.axes) == ["key", "sigma1"]
    assert result.histories.loss.shape == (2, 3, 3)
    with pytest.raises(TypeError, match="learning_rate must be None for a ready transformation"):
        segjax.sweep(train, KEYS, RATES)
    with pytest.raises(TypeError, match="learning_rate must be a finite number > 0, got None"):
        segjax.sweep(TRAIN, KEYS)


@pytest.mark.slow
def test_options_of_the_optimizer_are_swept():
    train = segjax.make_train(MODEL, num_steps=3, **{**OPTIONS, "optimizer": optax.adam})
    result = jax.jit(lambda keys: segjax.sweep(train, keys, [1e-2], b1=[0.5, 0.9]))(KEYS)
    assert list(result.axes) == ["key", "learning_rate", "b1"]
    single = jax.jit(train)
    for index, b1 in enumerate((0.5, 0.9)):
        expected = single(KEYS[1], 1e-2, b1=b1)[1].loss
        np.testing.assert_allclose(result.histories.loss[1, 0, index], expected, rtol=1e-4)
