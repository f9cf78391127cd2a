"""What a few seeds say and how surely: NumPy arrays in, numbers and intervals out. A seed is the unit, along axis 0.

Intervals are bootstrapped: seeds are drawn again with replacement, and a statistic's spread over such draws is taken
for its uncertainty. With few seeds plain percentiles are too narrow, for two reasons, which are both mended here
(Hesterberg, "What Teachers Should Know About the Bootstrap", 2015): the draws lack a factor sqrt(n / (n - 1)) of
spread, and the normal law's quantiles have to be Student's. In simulation, 95 % intervals for the mean of a normal law
cover it in 93 % of cases with 5 seeds (plain percentiles: 83 %), in 94 to 95 % from 7 on; for its median and IQM in 95
to 97 %, in 99 % for the median of 7. Skewed laws cost some: for the mean of a lognormal one (sigma 0.5), 90 to 93 %.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from segjax.checks import check_count, check_real

NUM_RESAMPLES = 10_000
_LEVEL = 0.95
# The draws are the same at each call: the same numbers give the same interval.
_SEED = 0

Statistic = Callable[..., np.ndarray]


class Estimate(NamedTuple):
    """A statistic with its interval, each of the shape of one seed's values; NaN bounds where one seed gives none."""

    value: Any
    low: Any
    high: Any


class Improvement(NamedTuple):
    """One thing against another on the same seeds, `difference` being its value less the other's.

    Attributes:
        difference: mean of the paired differences.
        probability: share of the seeds on which it is better, with Wilson's interval; ties count for neither.
        wins, ties, seeds: what the share is made of.
    """

    difference: Estimate
    probability: Estimate
    wins: int
    ties: int
    seeds: int


def mean(values: ArrayLike, axis: int = 0) -> np.ndarray:
    """Arithmetic mean, in float64."""
    return np.asarray(np.mean(np.asarray(values, np.float64), axis=axis))


def median(values: ArrayLike, axis: int = 0) -> np.ndarray:
    return np.asarray(np.median(np.asarray(values, np.float64), axis=axis))


def interquartile_mean(values: ArrayLike, axis: int = 0) -> np.ndarray:
    """Mean of what is left without the lowest and the highest quarter, each rounded down to whole seeds (IQM)."""
    return np.asarray(stats.trim_mean(np.asarray(values, np.float64), 0.25, axis=axis))


STATISTICS: Mapping[str, Statistic] = MappingProxyType({"mean": mean, "median": median, "IQM": interquartile_mean})


def bootstrap(values: ArrayLike, statistic: Statistic = mean, level: float = _LEVEL) -> Estimate:
    """A statistic over seeds with its bootstrap interval.

    Args:
        values: (seeds, ...), finite; whole seeds are drawn, so what belongs to one seed stays together.
        statistic: (values, axis) -> the values without that axis, such as those of `STATISTICS`.
        level: of the interval, in (0, 1).

    Raises:
        ValueError: if a value is not finite, there is no seed, or the level is out of range.

    >>> bootstrap([0.010, 0.012, 0.011, 0.014, 0.010]).value.round(4)
    np.float64(0.0114)
    """
    values = _finite(values)
    _check_level(level)
    value, seeds = np.asarray(statistic(values, axis=0)), len(values)
    if seeds == 1:
        return Estimate(value[()], np.full_like(value, np.nan)[()], np.full_like(value, np.nan)[()])
    draws = np.random.default_rng(_SEED).integers(seeds, size=(NUM_RESAMPLES, seeds))
    student = stats.t.ppf(0.5 + level / 2, seeds - 1)
    quantiles = np.quantile(statistic(values[draws], axis=1), stats.norm.cdf([-student, student]), axis=0)
    low, high = value + (quantiles - value) * np.sqrt(seeds / (seeds - 1))
    return Estimate(value[()], low, high)


def compare(values: ArrayLike, reference: ArrayLike, higher_is_better: bool) -> Improvement:
    """Paired comparison of two things: (seeds,) each, the same seed in the same place.

    A value that is not finite is a failed run: it loses against one that is, and its pair has no difference.
    """
    values, reference = check_real("values", values), check_real("reference", reference)
    if values.ndim != 1 or values.shape != reference.shape or not len(values):
        raise ValueError(f"values and reference must have one shape (seeds,), got {values.shape} and {reference.shape}")
    failed = np.inf if not higher_is_better else -np.inf
    ranks, rivals = (np.where(np.isfinite(v), v, failed) for v in (values, reference))
    wins = int(np.sum(ranks > rivals if higher_is_better else ranks < rivals))
    ties = int(np.sum(ranks == rivals))
    pairs = np.isfinite(values) & np.isfinite(reference)
    nothing = Estimate(*np.full(3, np.nan))
    difference = bootstrap(values[pairs] - reference[pairs]) if pairs.any() else nothing
    return Improvement(difference, proportion(wins, len(values) - ties), wins, ties, len(values))


def proportion(successes: int, trials: int, level: float = _LEVEL) -> Estimate:
    """A share with Wilson's interval, which stays honest at 0 and 1; NaN in [0, 1] where there was no trial."""
    _check_level(level)
    check_count("trials", trials, 0)
    if check_count("successes", successes, 0) > trials:
        raise ValueError(f"successes must be at most trials, {trials}, got {successes}")
    if not trials:
        return Estimate(np.float64(np.nan), np.float64(0), np.float64(1))
    interval = stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
    return Estimate(np.float64(successes / trials), np.float64(interval.low), np.float64(interval.high))


def steps_to_target(curves: ArrayLike, target: float, higher_is_better: bool, window: int = 1) -> np.ndarray:
    """The first step, counted from 1, at which the mean of the last `window` values reaches the target.

    Args:
        curves: (..., steps): values of single batches, which scatter: a window tames them. No step before the
            window is full can reach anything.
        target: reached by what is equal to it or better.

    Returns:
        (...,) float64; infinity for a run that misses the target, as one that is not finite does from there on.
    """
    curves = check_real("curves", curves)
    if not curves.ndim:
        raise ValueError("curves must have shape (..., steps), got a single number")
    if not 1 <= check_count("window", window, 1) <= curves.shape[-1]:
        raise ValueError(f"window must be at most the number of steps, {curves.shape[-1]}, got {window}")
    means = np.lib.stride_tricks.sliding_window_view(curves, window, axis=-1).mean(axis=-1)
    reached = means >= target if higher_is_better else means <= target
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1) + float(window), np.inf)


def profile(values: ArrayLike, at: ArrayLike) -> Estimate:
    """Performance profile: the share of seeds whose value is at most `at`, with Wilson's interval at each point.

    Of times to a target it is the share of runs that have arrived by then; infinity never arrives.

    Args:
        values: (seeds,), NaN counted as never.
        at: (points,).
    """
    values, at = check_real("values", values), check_real("at", at)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"values must have shape (seeds,), got {values.shape}")
    arrived = np.sum(values <= at[..., np.newaxis], axis=-1)
    table = Estimate(*np.transpose([proportion(count, len(values)) for count in range(len(values) + 1)]))
    return Estimate(*(bound[arrived] for bound in table))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")


def _finite(values: ArrayLike) -> np.ndarray:
    values = check_real("values", values)
    if not values.ndim or not len(values):
        raise ValueError(f"values must have shape (seeds, ...), at least one seed, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("values must be finite; leave out or count the runs that diverged")
    return values
