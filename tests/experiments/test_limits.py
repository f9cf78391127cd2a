import jax
import jax.numpy as jnp
import pytest

import segjax
from experiments.bench import limits


@pytest.mark.slow
def test_work_of_a_step_is_what_xla_counts(monkeypatch):
    # XLA cannot look into a function in C++.
    monkeypatch.setenv("SEGJAX_NATIVE", "0")
    model, image = segjax.SegmentationCNN(num_channels=4, kernel_size=3, depth=2), jnp.zeros((2, 64, 64, 1))
    state = segjax.training.create_state(jax.random.key(0), model, segjax.OPTIMIZERS["sgd"], image, 0.1)
    step = jax.jit(
        lambda state, batch: segjax.training.train_step(
            model, segjax.OPTIMIZERS["sgd"], segjax.losses.mean_squared_error, state, batch, 0.1
        )
    )
    counted = step.lower(state, segjax.Batch(image, image)).compile().cost_analysis()["flops"]
    # XLA counts all else too, and leaves out the taps that fall on zeros.
    assert limits.step(model, 2, 64).flops == pytest.approx(counted, rel=0.25)


@pytest.mark.parametrize("model", [segjax.SegmentationCNN(), segjax.SegmentationCNN(4, 3, depth=2)], ids=["16", "4"])
def test_work_of_a_step_is_that_of_its_convolutions(model):
    """For each tap one product and one sum, forward and in both gradients; none with respect to the images."""
    pixels, taps, channels = 2 * 32**2, model.kernel_size**2, model.num_channels
    pairs = 2 * channels + (model.depth - 1) * channels**2
    step, prediction = limits.step(model, 2, 32), limits.prediction(model, 2, 32)
    assert step.flops == 2 * pixels * taps * (3 * pairs - channels)
    assert prediction.flops == 2 * pixels * taps * pairs
    # Each hidden map and its gradient are written once and read twice, but for the last maps of one channel.
    assert step.bytes == pytest.approx(6 * model.depth * pixels * channels * 4, rel=0.1)


def test_work_of_a_loop_is_that_of_all_its_turns():
    def products(matrix):
        return jax.lax.scan(lambda carry, _: (carry @ matrix, None), matrix, length=5)[0]

    assert limits.work(products, jnp.ones((8, 8))) == limits.Work(5 * 2 * 8**3, 5 * 3 * 8 * 8 * 4)


def test_unused_results_are_no_work():
    def wasteful(matrix):
        return matrix + 1, matrix @ matrix

    assert limits.work(lambda matrix: wasteful(matrix)[0], jnp.ones((8, 8))) == limits.Work(0, 0)


def test_the_limit_is_the_slower_of_computing_and_moving():
    device = limits.Limits(flops=100.0, bytes=10.0)
    assert limits.Work(flops=50.0, bytes=1.0).floor(device) == 0.5
    assert limits.Work(flops=50.0, bytes=20.0).floor(device) == 2.0
