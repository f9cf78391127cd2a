import sys
import sysconfig
from functools import partial

import chex
import jax
import numpy as np
import pytest

import segjax
from experiments.bench import contenders

pytestmark = pytest.mark.slow


def test_growth_changes_one_quantity_at_a_time(monkeypatch):
    monkeypatch.setenv("SEGJAX_NATIVE", "0")
    parts = contenders.growth(8, 32, 5)
    values = {"image_size": (8, 16, 32), "batch_size": (2, 4, 8, 16), "num_channels": (8, 16, 32), "num_steps": (5, 20)}
    assert list(parts) == [f"{name} {value}" for name, chosen in values.items() for value in chosen]
    assert parts["num_steps 20"]["ours"].units == 20
    assert parts["image_size 8"]["ours"].make().run()[1].loss.shape == (5,)


@pytest.mark.skipif(not contenders.has_two_convolutions(), reason="needs segjax-native, on a CPU")
def test_with_xla_s_convolution_nothing_is_computed_in_c_plus_plus(monkeypatch):
    monkeypatch.setenv("SEGJAX_NATIVE", "1")
    parts = contenders.layers(1, 4)
    assert len(parts) == 9
    texts = []
    monkeypatch.setattr(
        contenders.timing,
        "compiled",
        lambda function, *arguments: texts.append(str(jax.jit(function).lower(*arguments).as_text())),
    )
    for programs in parts.values():
        for program in programs.values():
            program.make()
        assert ["segjax_" in text for text in texts] == [True, False]
        texts.clear()
    assert all(len(programs) == 2 for programs in contenders.growth(2, 8, 1).values())


def test_naive_convolutions_train_the_same_network():
    """On the same variables: the same logits, statistics, loss and gradients; and so the same losses of a run."""
    ours, naive = segjax.SegmentationCNN(num_channels=2), contenders.NaiveCNN(num_channels=2)
    batch = segjax.generate_data(jax.random.key(0), batch_size=2, image_size=8, sigma=2.0)
    variables = jax.jit(ours.init)(jax.random.key(1), batch.image)
    shapes = jax.eval_shape(naive.init, jax.random.key(1), batch.image)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, variables)

    def loss(model, params):
        logits, updates = model.apply({**variables, "params": params}, batch.image, train=True, mutable=["batch_stats"])
        return segjax.losses.mean_squared_error(logits, batch.mask).mean(), (logits, updates)

    gradients = (jax.jit(jax.value_and_grad(partial(loss, model), has_aux=True)) for model in (naive, ours))
    actual, expected = (gradient(variables["params"]) for gradient in gradients)
    chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-6)
    evaluated = (jax.jit(partial(model.apply, train=False))(variables, batch.image) for model in (naive, ours))
    np.testing.assert_allclose(*evaluated, rtol=1e-4, atol=1e-6)


def test_naive_steps_train_as_ours_do():
    ours, naive = segjax.SegmentationCNN(num_channels=2), contenders.NaiveCNN(num_channels=2)
    optimizer, loss = segjax.OPTIMIZERS["sgd"], segjax.losses.mean_squared_error
    keys = jax.random.split(jax.random.key(0), 3)
    batches = [segjax.generate_data(key, batch_size=2, image_size=8, sigma=2.0) for key in keys]
    first = segjax.training.create_state(jax.random.key(1), ours, optimizer, batches[0].image, 0.1)
    losses = []
    for model in (naive, ours):
        state = first
        for batch in batches:
            state, step = jax.jit(partial(segjax.training.train_step, model, optimizer, loss))(state, batch, 0.1)
            losses.append(step.loss)
    np.testing.assert_allclose(losses[:3], losses[3:], rtol=1e-4)


def test_a_step_of_many_runs_is_that_of_one_of_them():
    programs = contenders.many_runs(8, 32, 2, (1, 16))["runs"]
    assert {name: program.units for name, program in programs.items()} == {
        "sweep of 1": 2,
        "sweep of 16": 32,
        "sweep of 4, width 4": 8,
        "jax.vmap of 4": 8,
        "naive JAX: jax.vmap of 4, plain convolutions": 4,
    }


def test_a_compiler_without_python_s_headers_compiles_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: tmp_path)
    assert not contenders.can_compile()
    (tmp_path / "Python.h").touch()
    assert contenders.can_compile()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not contenders.can_compile()
