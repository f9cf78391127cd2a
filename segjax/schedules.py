"""Learning rates that change during a run: (peak rate, number of steps) -> the rate at each step, as optax takes it.

The peak may be traced; the number of steps is static. `scheduled` puts one into an optimizer, for `make_train`.
"""

from collections.abc import Callable
from types import MappingProxyType

import jax
import jax.numpy as jnp
import optax

from segjax.checks import check_count, check_positive

Schedule = Callable[[jax.typing.ArrayLike, int], optax.Schedule]
Optimizer = Callable[..., optax.GradientTransformation]


def constant(learning_rate: jax.typing.ArrayLike, num_steps: int) -> optax.Schedule:
    """One rate for the whole run, as in every finished run of the notebook."""
    num_steps = _check(learning_rate, num_steps)
    return optax.constant_schedule(learning_rate)


def exponential(learning_rate: jax.typing.ArrayLike, num_steps: int) -> optax.Schedule:
    """The notebook's 0.95^epoch: what `torch.optim.lr_scheduler.LambdaLR` gives when stepped once an epoch.

    An epoch is a hundredth of the run, as in the notebook, whose epochs have 100 batches: a run of 100 steps or more
    ends at 0.95^99, about 0.6 % of the peak. The notebook updated the weights only once an epoch, on a loss that is
    always 0.
    """
    num_steps = _check(learning_rate, num_steps)
    return lambda step: jnp.asarray(learning_rate) * 0.95 ** (100 * jnp.asarray(step) // num_steps)


def cosine(learning_rate: jax.typing.ArrayLike, num_steps: int) -> optax.Schedule:
    """Half a cosine from the peak to 0 (Loshchilov and Hutter, 2017)."""
    num_steps = _check(learning_rate, num_steps)
    return optax.cosine_decay_schedule(learning_rate, num_steps)


def warmup(learning_rate: jax.typing.ArrayLike, num_steps: int) -> optax.Schedule:
    """A straight line up to the peak over the first tenth of the run, then the peak; no step is wasted at rate 0."""
    num_steps = _check(learning_rate, num_steps)
    steps = max(1, num_steps // 10)
    return lambda step: jnp.asarray(learning_rate) * jnp.minimum(1, (step + 1) / steps)


def warmup_cosine(learning_rate: jax.typing.ArrayLike, num_steps: int) -> optax.Schedule:
    """The product of `warmup` and `cosine`: gentle at both ends."""
    num_steps = _check(learning_rate, num_steps)
    rising, falling = warmup(1.0, num_steps), cosine(1.0, num_steps)
    return lambda step: jnp.asarray(learning_rate) * rising(step) * falling(step)


def one_cycle(learning_rate: jax.typing.ArrayLike, num_steps: int) -> optax.Schedule:
    """Cosine from 1/25 of the peak up over the first 30 % of the run, then down to 1/250,000 of it (Smith, 2018).

    The shape is `torch.optim.lr_scheduler.OneCycleLR`'s, whose momentum stays as it is here.
    """
    num_steps = _check(learning_rate, num_steps)
    rise = max(1, int(0.3 * num_steps))
    up = optax.cosine_decay_schedule(1.0, rise)
    down = optax.cosine_decay_schedule(1.0, max(1, num_steps - 1 - rise), alpha=1 / 250_000)

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        rising = 1 - (1 - 1 / 25) * up(step)
        return jnp.asarray(learning_rate) * jnp.where(jnp.asarray(step) < rise, rising, down(step - rise))

    return rate


SCHEDULES = MappingProxyType(
    {
        "constant": constant,
        "exponential": exponential,
        "cosine": cosine,
        "warmup": warmup,
        "warmup_cosine": warmup_cosine,
        "one_cycle": one_cycle,
    }
)


def scheduled(optimizer: Optimizer, schedule: Schedule, num_steps: int) -> Optimizer:
    """An optimizer whose learning rate is the peak of a schedule over `num_steps`.

    >>> import segjax
    >>> optimizer = segjax.schedules.scheduled(segjax.OPTIMIZERS["adam"], segjax.schedules.cosine, num_steps=5)
    >>> train = segjax.make_train(segjax.SegmentationCNN(), optimizer=optimizer, num_steps=5, image_size=16, sigma=3)
    """
    num_steps = check_count("num_steps", num_steps, minimum=1)
    return lambda learning_rate: optimizer(schedule(learning_rate, num_steps))


def _check(learning_rate: jax.typing.ArrayLike, num_steps: int) -> int:
    check_positive("learning_rate", learning_rate)
    return check_count("num_steps", num_steps, minimum=1)
