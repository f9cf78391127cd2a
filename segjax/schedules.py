"""Learning rates that change during a run: (peak rate, number of steps) -> the rate at each step, as optax takes it.

The peak may be traced; the number of steps is static. `scheduled` combines a schedule and an optimizer for
`make_train`. A bad peak or number of steps raises TypeError or ValueError.
"""

from collections.abc import Callable
from functools import wraps
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from segjax._checks import check_callable, check_count, check_optimizer, check_positive, check_real, describe
from segjax.optimizers import Factory, Rate

# (peak of the learning rate, number of steps) -> (step -> learning rate).
Schedule = Callable[[jax.typing.ArrayLike, int], optax.Schedule]


def with_checks(schedule: Schedule) -> Schedule:
    """The schedule, which first checks the peak, the number of steps and each step; traced values pass."""

    @wraps(schedule)
    def make_rate(learning_rate: jax.typing.ArrayLike, num_steps: int) -> optax.Schedule:
        check_positive("learning_rate", learning_rate)
        rate = schedule(learning_rate, check_count("num_steps", num_steps, minimum=1))
        return lambda step: rate(_check_step(step))

    return make_rate


def _check_step(step: Any) -> Any:
    """Returns `step`, from 0 to 2^31 - 1 or traced, as an array; raises TypeError or ValueError otherwise."""
    # JAX raises an OverflowError for a larger int of Python, and an int64 of NumPy becomes negative.
    if not isinstance(step, jax.core.Tracer):
        steps = check_real("step", step)
        if isinstance(step, list | tuple) or not ((steps >= 0) & (steps < 2**31)).all():
            raise ValueError(f"step must be from 0 to {2**31 - 1}, a number or an array, got {describe(step)}")
    # In jax's default dtype, since a hundred times the step overflows in int8, int16 and float16.
    step = jnp.asarray(step)
    return step.astype(float if jnp.issubdtype(step.dtype, jnp.floating) else int)


@with_checks
def constant(learning_rate: jax.typing.ArrayLike, num_steps: int) -> optax.Schedule:
    """One rate for the whole run, as in every finished run of the notebook."""
    return optax.constant_schedule(learning_rate)


@with_checks
def exponential(learning_rate: jax.typing.ArrayLike, num_steps: int) -> optax.Schedule:
    """The notebook's 0.95^epoch: `torch.optim.lr_scheduler.LambdaLR`, stepped once per epoch.

    The run has 100 epochs, as in the notebook, where an epoch has 100 batches. A run of 100 steps or more ends at
    0.95^99, about 0.6 % of the peak.
    """
    # Steps are counted in these units, so that 100 of them per step stay below 2^31: 1 up to 2^24 steps, 128 at most.
    unit = 2 ** max(0, num_steps.bit_length() - 24)
    units = -(-num_steps // unit)
    # The notebook also updated the weights only once per epoch, on a loss that is always 0: a flaw, not reproduced.

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        # Runs of this length so far, and the rest: far beyond its end, 100 times the step would exceed 2^31.
        runs, rest = jnp.divmod(step // unit, units)
        return jnp.asarray(learning_rate) * 0.95 ** _float(100 * jnp.minimum(runs, 10_000) + 100 * rest // units)

    return rate


@with_checks
def cosine(learning_rate: jax.typing.ArrayLike, num_steps: int) -> optax.Schedule:
    """Half a cosine from the peak to 0 (Loshchilov and Hutter, 2017)."""
    # The last step is num_steps - 1, at which the rate is still above 0: no step is wasted.
    return _cosine(learning_rate, num_steps)


@with_checks
def warmup(learning_rate: jax.typing.ArrayLike, num_steps: int) -> optax.Schedule:
    """A straight line up to the peak over the first tenth of the run, then the peak."""
    steps = max(1, num_steps // 10)
    # step + 1: at rate 0, which optax's own linear schedule starts from, the first step would be wasted.
    # Clipped: the step after 2^31 - 1 is negative.
    return lambda step: jnp.asarray(learning_rate) * jnp.minimum(1, _float(jnp.minimum(step, steps) + 1) / steps)


@with_checks
def warmup_cosine(learning_rate: jax.typing.ArrayLike, num_steps: int) -> optax.Schedule:
    """The product of `warmup` and `cosine`: small steps at both ends."""
    # Both have the peak 1; the product of two peaks would be its square.
    rising, falling = warmup(1.0, num_steps), cosine(1.0, num_steps)
    return lambda step: jnp.asarray(learning_rate) * rising(step) * falling(step)


@with_checks
def one_cycle(learning_rate: jax.typing.ArrayLike, num_steps: int) -> optax.Schedule:
    """A cosine from 1/25 of the peak up over the first 30 % of the run, then down to 1/250,000 of it (Smith, 2018).

    The shape is that of `torch.optim.lr_scheduler.OneCycleLR`, which peaks one step earlier, at 0.3 num_steps - 1; the
    momentum does not change here. A run of 2 steps consists of the peak and the end.
    """
    rise = max(int(num_steps != 2), int(0.3 * num_steps))
    up, down = _cosine(1.0, max(1, rise)), _cosine(1.0, max(1, num_steps - 1 - rise), 1 / 250_000)

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        rising = 1 - (1 - 1 / 25) * up(step)
        return jnp.asarray(learning_rate) * jnp.where(jnp.asarray(step) < rise, rising, down(step - rise))

    return rate


# name -> schedule, by the names of the commands.
SCHEDULES = MappingProxyType(
    {schedule.__name__: schedule for schedule in (constant, exponential, cosine, warmup, warmup_cosine, one_cycle)}
)


def scheduled(optimizer: Factory, schedule: Schedule, num_steps: int) -> Factory:
    """The optimizer with a schedule: its learning rate is the peak (for `range_test.growing`, the first rate).

    Args:
        optimizer: learning rate -> optax transformation.
        schedule: one of `SCHEDULES`, or any (peak, num_steps) -> (step -> rate).
        num_steps: that of the run; it is not checked that the two agree.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.

    >>> import segjax
    >>> optimizer = segjax.schedules.scheduled(segjax.OPTIMIZERS["adam"], segjax.schedules.cosine, num_steps=5)
    >>> train = segjax.make_train(segjax.SegmentationCNN(), optimizer=optimizer, num_steps=5, image_size=16, sigma=3)
    """
    check_optimizer(optimizer, may_be_ready=False)
    check_callable("schedule", schedule, "learning_rate", "num_steps")
    num_steps = check_count("num_steps", num_steps, minimum=1)

    # The schedule is built from the traced peak: one program serves every rate. `wraps` keeps `eval_params`.
    @wraps(optimizer)
    def with_peak(learning_rate: Rate, **options: Any) -> optax.GradientTransformation:
        # optax would take None for a rate of -1.
        rate = check_callable("the result of schedule", schedule(learning_rate, num_steps), "step")
        return optimizer(rate, **options)

    return with_peak


def _cosine(peak: jax.typing.ArrayLike, num_steps: int, alpha: float = 0.0) -> optax.Schedule:
    decay = optax.cosine_decay_schedule(peak, num_steps, alpha)
    return lambda step: decay(_float(step))


def _float(step: jax.typing.ArrayLike) -> jax.Array:
    # In jax's default dtype: with integers, optax's schedules are float32 also where x64 is enabled.
    return jnp.asarray(step, float)
