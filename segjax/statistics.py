"""Statistics over a few seeds: NumPy arrays in, estimates and intervals out. The unit is the seed, along axis 0.

Intervals are bootstrapped: seeds are resampled with replacement, and the spread of a statistic over the resamples is
its uncertainty. With few seeds, plain percentile intervals are too narrow. Two corrections widen them (Hesterberg,
"What Teachers Should Know About the Bootstrap", 2015): a factor sqrt(n / (n - 1)) for the bias of the resampled spread,
and Student's quantiles instead of the normal ones.

In simulations, 95 % intervals for the mean of a normal distribution cover it in 93 % of cases with 5 seeds (plain
percentiles: 83 %) and in 94 to 95 % from 7 seeds on; for its median and IQM in 95 to 97 %, and in 99 % for the median
of 7. The coverage is lower for skewed distributions: 90 to 93 % for the mean of a lognormal one (sigma 0.5).

Fewer than 5 seeds have too few distinct resamples: the same intervals would cover the mean of a normal distribution in
61 % of cases with 2 seeds and in 82 % with 3. A mean then has Student's interval, which is exact for a normal
distribution and any number of seeds; other statistics have no interval.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

import numpy as np

# scipy imports `scipy.stats` at its first use: imported here, its 0.7 s would be a third of a command's start.
import scipy
from numpy.typing import ArrayLike

from segjax._checks import check_count, check_flag, check_positive, check_real

# With 10,000 resamples, the Monte Carlo error of an interval's ends is about 1 % of its width.
NUM_RESAMPLES = 10_000
# With fewer seeds, no interval is bootstrapped.
FEWEST_SEEDS = 5
_LEVEL = 0.95
# A fixed seed: equal values always have the same interval.
_SEED = 0

# (values, axis) -> the values without that axis.
Statistic = Callable[..., np.ndarray]


class Estimate(NamedTuple):
    """A statistic with its interval, each of the shape of one seed's values; NaN bounds where there is no interval."""

    value: Any
    low: Any
    high: Any


class Improvement(NamedTuple):
    """The comparison of a candidate with a reference on the same seeds.

    Attributes:
        difference: mean of the paired differences, candidate minus reference.
        probability: wins / (seeds - ties), with Wilson's interval: the share of the seeds without a tie on which the
            candidate is better.
        wins, ties, seeds: numbers of seeds.
    """

    difference: Estimate
    probability: Estimate
    wins: int
    ties: int
    seeds: int


# How a candidate compares with the reference.
Verdict = Literal["better", "worse", "not told apart"]


class Best(NamedTuple):
    """The rate of the lowest mean loss, and that loss; all fields are None if every rate diverged.

    Attributes:
        edge: "lowest" or "highest" if the rate is the lowest or highest of the rates with a run, else None.
    """

    rate: float | None
    loss: float | None
    edge: str | None


def mean(values: ArrayLike, axis: int = 0) -> np.ndarray:
    """Arithmetic mean over `axis`, in float64."""
    return np.asarray(np.mean(np.asarray(values, np.float64), axis=axis))


def median(values: ArrayLike, axis: int = 0) -> np.ndarray:
    """Median over `axis`, in float64."""
    return np.asarray(np.median(np.asarray(values, np.float64), axis=axis))


def interquartile_mean(values: ArrayLike, axis: int = 0) -> np.ndarray:
    """Mean without the lowest and the highest quarter, each rounded down to whole seeds (IQM), in float64."""
    # Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", 2021: nearly as robust
    # to single failed runs as the median, with less variance.
    return np.asarray(scipy.stats.trim_mean(np.asarray(values, np.float64), 0.25, axis=axis))


STATISTICS: Mapping[str, Statistic] = MappingProxyType({"mean": mean, "median": median, "IQM": interquartile_mean})


def bootstrap(values: ArrayLike, statistic: Statistic = mean, level: float = _LEVEL) -> Estimate:
    """A statistic over seeds with its bootstrap interval.

    With fewer than 5 seeds, `mean` has Student's interval, and other statistics have none; one seed has none at all.

    Args:
        values: (seeds, ...), finite; whole seeds are resampled, so that the values of one seed stay together.
        statistic: (values, axis) -> the values without that axis, such as those of `STATISTICS`.
        level: confidence level of the interval, in (0, 1).

    Raises:
        TypeError, ValueError: if a value is not a finite real number, there is no seed, or the level is out of range.

    >>> bootstrap([0.010, 0.012, 0.011, 0.014, 0.010]).value.round(4)
    np.float64(0.0114)
    """
    values = _finite(values)
    _check_level(level)
    value, seeds = np.asarray(statistic(values, axis=0)), len(values)
    if seeds == 1 or (seeds < FEWEST_SEEDS and statistic is not mean):
        return Estimate(value[()], np.full_like(value, np.nan)[()], np.full_like(value, np.nan)[()])
    # Student's quantiles, since the spread of few seeds is itself uncertain.
    student = scipy.stats.t.ppf(0.5 + level / 2, seeds - 1)
    if seeds < FEWEST_SEEDS:
        half = student * values.std(axis=0, ddof=1) / np.sqrt(seeds)
        return Estimate(value[()], (value - half)[()], (value + half)[()])
    resamples = np.random.default_rng(_SEED).integers(seeds, size=(NUM_RESAMPLES, seeds))
    # Hesterberg's corrections: the percentiles at these quantiles, scaled around the value by sqrt(n / (n - 1)).
    quantiles = np.quantile(statistic(values[resamples], axis=1), scipy.stats.norm.cdf([-student, student]), axis=0)
    low, high = value + (quantiles - value) * np.sqrt(seeds / (seeds - 1))
    return Estimate(value[()], low, high)


def estimates(values: ArrayLike) -> dict[str, Estimate]:
    """Each of `STATISTICS` over the finite values of (seeds,), in which a failed run is NaN; NaN if all failed.

    Raises:
        TypeError, ValueError: if the values are not real numbers of shape (seeds,).
    """
    values = check_real("values", values)
    if values.ndim != 1:
        raise ValueError(f"values must have shape (seeds,), got {values.shape}")
    finite = values[np.isfinite(values)]
    if not finite.size:
        return dict.fromkeys(STATISTICS, Estimate(*np.full(3, np.nan)))
    return {name: bootstrap(finite, statistic) for name, statistic in STATISTICS.items()}


def band(curves: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the mean's interval along curves (seeds, points); NaN for one seed, and where one is not finite.

    Raises:
        TypeError, ValueError: if the curves are not real numbers of shape (seeds, points), at least one seed.
    """
    curves = check_real("curves", curves)
    if curves.ndim != 2 or not len(curves):
        raise ValueError(f"curves must have shape (seeds, points), at least one seed, got {curves.shape}")
    finite = np.isfinite(curves).all(axis=0)
    low, high = np.full((2, curves.shape[1]), np.nan)
    if finite.any():
        _, low[finite], high[finite] = bootstrap(curves[:, finite])
    return low, high


def prediction_interval(values: ArrayLike, level: float = _LEVEL) -> tuple[float, float]:
    """Interval of one further value with probability `level`, given (seeds >= 2,) from one normal distribution.

    Raises:
        TypeError, ValueError: if the values are not finite real numbers of at least two seeds, or the level is out of
            range.
    """
    values = _finite(values)
    _check_level(level)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"values must have shape (seeds,), at least two seeds, got {values.shape}")
    count, deviation = len(values), np.std(values, ddof=1)
    half = scipy.stats.t.ppf(0.5 + level / 2, count - 1) * deviation * np.sqrt(1 + 1 / count)
    return float(np.mean(values) - half), float(np.mean(values) + half)


def compare(values: ArrayLike, reference: ArrayLike, higher_is_better: bool) -> Improvement:
    """Paired comparison of a candidate with a reference on the same seeds.

    A value that is not finite is a failed run: it loses against a finite value, and its pair has no difference.

    Args:
        values, reference: (seeds,) each, the seeds in the same order.
        higher_is_better: True for an accuracy, False for a loss.

    Raises:
        TypeError, ValueError: if they are not real numbers of one shape (seeds,).
    """
    check_flag("higher_is_better", higher_is_better)
    values, reference = check_real("values", values), check_real("reference", reference)
    if values.ndim != 1 or values.shape != reference.shape or not len(values):
        raise ValueError(f"values and reference must have one shape (seeds,), got {values.shape} and {reference.shape}")
    worst = -np.inf if higher_is_better else np.inf
    # The worst value replaces NaN, which is neither better nor worse than, nor equal to, another value.
    candidates, references = (np.where(np.isfinite(runs), runs, worst) for runs in (values, reference))
    wins = int(np.sum(candidates > references if higher_is_better else candidates < references))
    ties = int(np.sum(candidates == references))
    # Differences within a seed, since both runs have the same weights and images: the variance between seeds cancels.
    pairs = np.isfinite(values) & np.isfinite(reference)
    no_estimate = Estimate(*np.full(3, np.nan))
    difference = bootstrap(values[pairs] - reference[pairs]) if pairs.any() else no_estimate
    return Improvement(difference, proportion(wins, len(values) - ties), wins, ties, len(values))


def verdict(values: ArrayLike, reference: ArrayLike, higher_is_better: bool) -> Verdict:
    """The result of a paired comparison: "better" or "worse" than the reference, or "not told apart" from it.

    The candidate with fewer failed runs wins, regardless of its other runs. If both have as many, the 95 % interval of
    the mean paired difference must exclude 0. The size of the difference does not matter.

    Args:
        values, reference, higher_is_better: as in `compare`.

    Raises:
        TypeError, ValueError: as `compare`.

    >>> verdict([0.91, 0.92, 0.90, 0.93, 0.92], [0.88, 0.90, 0.88, 0.90, 0.91], higher_is_better=True)
    'better'
    """
    difference = compare(values, reference, higher_is_better).difference
    failed, failed_reference = (int(np.sum(~np.isfinite(check_real("values", runs)))) for runs in (values, reference))
    if failed != failed_reference:
        return "better" if failed < failed_reference else "worse"
    if difference.low > 0 or difference.high < 0:
        return "better" if (difference.low > 0) == higher_is_better else "worse"
    return "not told apart"


def best_rate(rates: ArrayLike, losses: ArrayLike, diverged: ArrayLike) -> Best:
    """The rate of the lowest mean loss among those at which no seed diverged, and whether it is an edge of the grid.

    For a sweep, `losses` may be `metrics.last_tenth(result.histories.loss).mean(-1)`, and `diverged` is
    `result.diverged_at > 0`.

    Args:
        rates: (rates,), ascending.
        losses: (seeds, rates); NaN for a run that does not exist: a rate that lacks the run of some seed is not chosen.
        diverged: (seeds, rates), bool.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.

    >>> best_rate([0.01, 0.1, 1.0], [[0.3, 0.2, 0.1]], [[False, False, True]])
    Best(rate=0.1, loss=0.2, edge=None)
    """
    rates, losses = check_real("rates", rates), check_real("losses", losses)
    failed = check_real("diverged", diverged) != 0
    if rates.ndim != 1 or not rates.size or not (np.isfinite(rates).all() and (np.diff(rates) > 0).all()):
        raise ValueError(f"rates must be at least one finite number, in ascending order, got {rates}")
    for name, runs in (("losses", losses), ("diverged", failed)):
        if runs.ndim != 2 or runs.shape[1] != len(rates) or len(runs) != len(losses) or not len(runs):
            raise ValueError(f"{name} must have shape (seeds, {len(rates)}), the same for both, got {runs.shape}")
    with_runs = np.flatnonzero(np.isfinite(losses).any(axis=0) | failed.any(axis=0))
    # A rate at which one seed of three diverges is not recommended.
    means = np.where(failed.any(axis=0), np.nan, losses.mean(axis=0))
    if not np.isfinite(means).any():
        return Best(None, None, None)
    index = int(np.nanargmin(means))
    edge = "lowest" if index == with_runs[0] else "highest" if index == with_runs[-1] else None
    return Best(float(rates[index]), float(means[index]), edge)


def proportion(successes: int, trials: int, level: float = _LEVEL) -> Estimate:
    """A share with Wilson's interval; without trials, NaN with the interval [0, 1].

    Raises:
        TypeError, ValueError: if `successes` and `trials` are not counts, or the level is out of range.
    """
    # The normal approximation has an interval of width 0 at a share of 0 or 1.
    _check_level(level)
    check_count("trials", trials, 0)
    if check_count("successes", successes, 0) > trials:
        raise ValueError(f"successes must be at most trials, {trials}, got {successes}")
    if not trials:
        return Estimate(np.float64(np.nan), np.float64(0), np.float64(1))
    interval = scipy.stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
    return Estimate(np.float64(successes / trials), np.float64(interval.low), np.float64(interval.high))


def steps_to_target(curves: ArrayLike, target: float, higher_is_better: bool, window: int = 1) -> np.ndarray:
    """The first step, counted from 1, at which the mean of the last `window` values reaches the target.

    Args:
        curves: (..., steps), values of single batches, whose noise the window averages out.
        target: a mean reaches it if it equals the target or is better.
        higher_is_better: as in `compare`.
        window: number of steps, from 1 to all; the first step that can reach the target is the `window`th.

    Returns:
        (...,) float64; infinity for a run that does not reach the target. A window with a value that is not finite does
        not reach it; a later one can.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    curves = check_real("curves", curves)
    if not curves.ndim:
        raise ValueError("curves must have shape (..., steps), got a single number")
    if not 1 <= check_count("window", window, 1) <= curves.shape[-1]:
        raise ValueError(f"window must be at most the number of steps of the curves, {curves.shape[-1]}, got {window}")
    if check_real("target", target).ndim:
        raise ValueError(f"target must be a single number, got {target!r:.60}")
    check_flag("higher_is_better", higher_is_better)
    # Views of the curves, not a cumulative sum, in which one infinite value would affect all later windows.
    means = np.lib.stride_tricks.sliding_window_view(curves, window, axis=-1).mean(axis=-1)
    reached = np.isfinite(means) & (means >= target if higher_is_better else means <= target)
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1) + float(window), np.inf)


def profile(values: ArrayLike, at: ArrayLike) -> Estimate:
    """Performance profile: the share of seeds whose value is at most `at`, with Wilson's interval at each point.

    For times to a target, it is the share of the runs that have reached the target by that time (Dolan and More, 2002).

    Args:
        values: (seeds,); NaN and infinity are above every point.
        at: (points,).

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    values, at = check_real("values", values), check_real("at", at)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"values must have shape (seeds,), got {values.shape}")
    arrived = np.sum(np.isfinite(values) & (values <= at[..., np.newaxis]), axis=-1)
    # One interval for each possible number of seeds, since many points have the same number.
    table = Estimate(*np.transpose([proportion(count, len(values)) for count in range(len(values) + 1)]))
    return Estimate(*(bound[arrived] for bound in table))


def _check_level(level: float) -> None:
    if cast(float, check_positive("level", level)) >= 1:
        raise ValueError(f"level must be in (0, 1), got {level}")


def _finite(values: ArrayLike) -> np.ndarray:
    values = check_real("values", values)
    if not values.ndim or not len(values):
        raise ValueError(f"values must have shape (seeds, ...), at least one seed, got {values.shape}")
    # The caller decides whether a diverged run counts as a loss or is left out: it changes the meaning of the interval.
    if infinite := int(np.sum(~np.isfinite(values))):
        raise ValueError(f"values must be finite, got {infinite} that are not; leave out or count runs that diverged")
    return values
