"""The learning-rate range test (Smith, 2017): a short run with a growing rate, and the rate that it suggests.

The run is a run of `make_train` with a special schedule:

    optimizer = scheduled(OPTIMIZERS["adam"], range_test.growing(10.0 / 1e-5), num_steps)
    state, history = jax.jit(make_train(model, optimizer=optimizer, num_steps=num_steps))(key, 1e-5)
    range_test.suggest(range_test.rates(1e-5, 10.0, num_steps), range_test.smooth(history.loss))
"""

import jax
import numpy as np
import optax
from numpy.typing import ArrayLike

from segjax._checks import check_concrete, check_count, check_positive, check_rates, check_real, describe
from segjax.schedules import Schedule, with_checks

# The suggestion is the rate of the lowest loss divided by this: at the lowest loss the rate is already too large for a
# long run, and soon after it the run diverges.
SAFETY = 3.0
# Standard deviation of the smoothing, as a share of the steps. Losses of single batches are too noisy to be compared,
# and a minimum is wider than this.
SMOOTHING = 0.03
# In float32, rounding can bring Dice's loss of a perfect prediction this far below 0.
_ROUNDING = 1e-5


def growing(ratio: float) -> Schedule:
    """A schedule whose rate grows geometrically, to `ratio` times the first rate at the last step."""

    check_positive("ratio", ratio)

    @with_checks
    def schedule(low: jax.typing.ArrayLike, num_steps: int) -> optax.Schedule:
        return optax.exponential_decay(low, num_steps - 1, ratio)

    return schedule


def rates(low: float, high: float, num_steps: int) -> np.ndarray:
    """The rate of each step, (num_steps,): geometric from `low` to `high`."""
    for name, rate in (("low", low), ("high", high)):
        check_concrete(name, check_positive(name, rate))
    check_count("num_steps", num_steps, 2)
    return low * (high / low) ** (np.arange(num_steps) / (num_steps - 1))


def smooth(losses: ArrayLike) -> np.ndarray:
    """The losses of a run, (steps,), smoothed over steps by a Gaussian mean of their logarithms.

    They are infinite from the first loss that is not finite, at which the run has diverged.

    Raises:
        TypeError, ValueError: if the losses are not real numbers of one run, >= 0 up to rounding before it diverged.
    """
    losses = check_real("losses", losses, "(steps,), at least one step")
    end = int(np.argmax(~np.isfinite(losses))) if not np.isfinite(losses).all() else len(losses)
    if (losses[:end] < -_ROUNDING).any():
        raise ValueError(f"losses must be >= 0, since their logarithms are averaged, got {losses[:end].min()}")
    steps = np.arange(end)
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / (SMOOTHING * len(losses))) ** 2)
    # The logarithm of a loss <= 0 is not finite.
    logs = np.log(np.maximum(losses[:end], np.finfo(np.float32).tiny))
    smoothed = np.exp(weights @ logs / weights.sum(axis=1))
    return np.concatenate([smoothed, np.full(len(losses) - end, np.inf)])


def suggest(rates: np.ndarray, smoothed: np.ndarray) -> float:
    """A third of the rate at which the mean over runs (runs, steps), or one run (steps,), is lowest.

    Returns:
        The rate; NaN if the mean is finite at no rate.

    Raises:
        TypeError, ValueError: if a rate is not > 0, or the last axis of `smoothed` is not that of `rates`.
    """
    rates, smoothed = check_rates(rates, ascending=False), check_real("smoothed", smoothed)
    if smoothed.ndim not in (1, 2) or smoothed.shape[-1] != len(rates) or not smoothed.size:
        raise ValueError(f"smoothed must have shape (..., {len(rates)}), as rates has, got {smoothed.shape}")
    means = np.atleast_2d(smoothed).mean(axis=0)
    return float(rates[np.nanargmin(means)] / SAFETY) if np.isfinite(means).any() else float("nan")


def regret(rate: float, rates: np.ndarray, losses: np.ndarray) -> float | None:
    """Relative increase of a sweep's loss at `rate` over the loss at its best rate.

    Args:
        rates: (rates,) of the sweep, ascending.
        losses: (rates,) of the sweep, NaN where it diverged.

    Returns:
        The regret, interpolated linearly in log-log between two rates; None outside the sweep's rates, or next to a
        rate that diverged.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    check_concrete("rate", check_positive("rate", rate))
    rates, losses = check_rates(rates), check_real("losses", losses)
    if losses.shape != rates.shape or not (np.isnan(losses) | (losses > 0)).all():
        raise ValueError(f"losses must be numbers > 0 of shape {rates.shape}, as rates has, got {describe(losses)}")
    if not rates[0] <= rate <= rates[-1]:
        return None
    loss = np.exp(np.interp(np.log(rate), np.log(rates), np.log(losses)))
    return float(loss / np.nanmin(losses) - 1) if np.isfinite(loss) else None
