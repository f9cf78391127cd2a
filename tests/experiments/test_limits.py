import jax
import jax.numpy as jnp
import pytest

import segjax
from experiments.bench import limits


@pytest.mark.slow
def test_work_of_a_step_is_what_xla_counts():
    model, image = segjax.SegmentationCNN(num_channels=4, kernel_size=3, depth=2), jnp.zeros((2, 64, 64, 1))
    state = segjax.training.create_state(model, segjax.OPTIMIZERS["sgd"], jax.random.key(0), image, 0.1)
    step = jax.jit(
        lambda state, batch: segjax.training.train_step(
            model, segjax.OPTIMIZERS["sgd"], segjax.losses.mean_squared_error, state, batch, 0.1
        )
    )
    counted = step.lower(state, segjax.Batch(image, image)).compile().cost_analysis()["flops"]
    # XLA counts all else too, and leaves out the taps that fall on zeros.
    assert limits.step(model, 2, 64).flops == pytest.approx(counted, rel=0.25)


def test_the_limit_is_the_slower_of_computing_and_moving():
    device = limits.Limits(flops=100.0, bytes=10.0)
    assert limits.Work(flops=50.0, bytes=1.0).floor(device) == 0.5
    assert limits.Work(flops=50.0, bytes=20.0).floor(device) == 2.0


def test_the_share_of_the_limit_is_the_least_time_over_that_of_a_step():
    told = limits.as_dict(limits.Limits(flops=100.0, bytes=10.0), limits.Work(flops=50.0, bytes=20.0), seconds=8.0)
    assert told == {
        "flops": 100.0,
        "bytes": 10.0,
        "step": {"flops": 50.0, "bytes": 20.0},
        "floor_seconds": 2.0,
        "fraction": 0.25,
    }
