"""What a few seeds say, and how surely: NumPy arrays in, numbers and intervals out. Seeds are the unit, along axis 0.

Intervals are bootstrapped: seeds are drawn again with replacement, and the spread of a statistic over the draws is its
uncertainty. With few seeds, plain percentiles are too narrow. Two corrections widen them (Hesterberg, "What Teachers
Should Know About the Bootstrap", 2015): a factor sqrt(n / (n - 1)), which the draws lack in spread, and Student's
quantiles in place of the normal law's.

In simulations, 95 % intervals for the mean of a normal law cover it in 93 % of cases with 5 seeds (plain percentiles:
83 %) and in 94 to 95 % from 7 on; for its median and IQM in 95 to 97 %, in 99 % for the median of 7. Skewed laws are
covered less: the mean of a lognormal one (sigma 0.5) in 90 to 93 %.

Fewer than 5 seeds have too few different draws: the same intervals would cover the mean of a normal law in 61 % of
cases with 2 seeds and in 82 % with 3. A mean then has Student's interval, which holds for a normal law with any number,
and is as wide as so few seeds deserve; other statistics have none.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

import numpy as np

# scipy loads `scipy.stats` at its first use: imported here, its 0.7 s would be a third of a command's start.
import scipy
from numpy.typing import ArrayLike

from segjax._checks import check_count, check_flag, check_positive, check_real

# At 10,000 draws the chance in an interval's ends is about 1 % of its width.
NUM_RESAMPLES = 10_000
# With fewer, no interval is bootstrapped.
FEWEST_SEEDS = 5
_LEVEL = 0.95
# A fixed seed: the same numbers always give the same interval.
_SEED = 0

# (values, axis) -> the values without that axis.
Statistic = Callable[..., np.ndarray]


class Estimate(NamedTuple):
    """A statistic with its interval, each of the shape of one seed's values; NaN bounds where there is no interval."""

    value: Any
    low: Any
    high: Any


class Improvement(NamedTuple):
    """The comparison of one thing with a reference on the same seeds.

    Attributes:
        difference: mean of the paired differences, its value less the reference's.
        probability: wins / (seeds - ties), with Wilson's interval: of the seeds without a tie, the share on which it is
            better.
        wins, ties, seeds: the numbers of seeds behind this share.
    """

    difference: Estimate
    probability: Estimate
    wins: int
    ties: int
    seeds: int


# Of a thing beside a reference.
Verdict = Literal["better", "worse", "not told apart"]


class Best(NamedTuple):
    """The rate of the lowest mean loss, that loss, and the `edge` of the tried rates at which it lies, if it does.

    All are None if no rate is left, and `edge` is "lowest", "highest" or None.
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
    # against single failed runs as the median, and with less scatter.
    return np.asarray(scipy.stats.trim_mean(np.asarray(values, np.float64), 0.25, axis=axis))


STATISTICS: Mapping[str, Statistic] = MappingProxyType({"mean": mean, "median": median, "IQM": interquartile_mean})


def bootstrap(values: ArrayLike, statistic: Statistic = mean, level: float = _LEVEL) -> Estimate:
    """A statistic over seeds with its bootstrap interval.

    With fewer than 5 seeds, `mean` has Student's interval, and other statistics have none; one seed has none at all.

    Args:
        values: (seeds, ...), finite; whole seeds are drawn, so that the values of one seed stay together.
        statistic: (values, axis) -> the values without that axis, such as those of `STATISTICS`.
        level: of the interval, in (0, 1).

    Raises:
        TypeError, ValueError: if a value is not a finite real number, no seed is given, or the level is out of range.

    >>> bootstrap([0.010, 0.012, 0.011, 0.014, 0.010]).value.round(4)
    np.float64(0.0114)
    """
    values = _finite(values)
    _check_level(level)
    value, seeds = np.asarray(statistic(values, axis=0)), len(values)
    if seeds == 1 or (seeds < FEWEST_SEEDS and statistic is not mean):
        return Estimate(value[()], np.full_like(value, np.nan)[()], np.full_like(value, np.nan)[()])
    # At Student's quantiles: of few seeds the spread itself is uncertain.
    student = scipy.stats.t.ppf(0.5 + level / 2, seeds - 1)
    if seeds < FEWEST_SEEDS:
        reach = student * values.std(axis=0, ddof=1) / np.sqrt(seeds)
        return Estimate(value[()], (value - reach)[()], (value + reach)[()])
    draws = np.random.default_rng(_SEED).integers(seeds, size=(NUM_RESAMPLES, seeds))
    # Hesterberg's corrections: the percentiles at these quantiles, stretched by sqrt(n / (n - 1)) from the value.
    quantiles = np.quantile(statistic(values[draws], axis=1), scipy.stats.norm.cdf([-student, student]), axis=0)
    low, high = value + (quantiles - value) * np.sqrt(seeds / (seeds - 1))
    return Estimate(value[()], low, high)


def estimates(values: ArrayLike) -> dict[str, Estimate]:
    """Each of `STATISTICS` of the seeds that did not fail: (seeds,), NaN for a failed run; NaN where all failed.

    Raises:
        TypeError, ValueError: if the values are not real numbers of shape (seeds,).
    """
    values = check_real("values", values)
    if values.ndim != 1:
        raise ValueError(f"values must have shape (seeds,), got {values.shape}")
    kept = values[np.isfinite(values)]
    if not kept.size:
        return dict.fromkeys(STATISTICS, Estimate(*np.full(3, np.nan)))
    return {name: bootstrap(kept, statistic) for name, statistic in STATISTICS.items()}


def band(curves: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the mean's interval along curves (seeds, points); NaN where a seed is not finite, or the only one.

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
    """Where one further value lies with the given probability, if all are drawn from one normal law: (seeds,), >= 2.

    Raises:
        TypeError, ValueError: if the values are not finite real numbers of at least two seeds, or the level is out of
            range.
    """
    values = _finite(values)
    _check_level(level)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"values must have shape (seeds,), at least two seeds, got {values.shape}")
    count, deviation = len(values), np.std(values, ddof=1)
    reach = scipy.stats.t.ppf(0.5 + level / 2, count - 1) * deviation * np.sqrt(1 + 1 / count)
    return float(np.mean(values) - reach), float(np.mean(values) + reach)


def compare(values: ArrayLike, reference: ArrayLike, higher_is_better: bool) -> Improvement:
    """Paired comparison of two things on the same seeds.

    A value that is not finite is a failed run: it loses against a finite one, and its pair has no difference.

    Args:
        values, reference: (seeds,) each, the same seed in the same place.
        higher_is_better: True for an accuracy, False for a loss.

    Raises:
        TypeError, ValueError: if they are not real numbers of one shape (seeds,).
    """
    check_flag("higher_is_better", higher_is_better)
    values, reference = check_real("values", values), check_real("reference", reference)
    if values.ndim != 1 or values.shape != reference.shape or not len(values):
        raise ValueError(f"values and reference must have one shape (seeds,), got {values.shape} and {reference.shape}")
    failed = np.inf if not higher_is_better else -np.inf
    # An infinitely bad value in place of NaN, which would compare as neither better nor worse nor equal.
    ranks, rivals = (np.where(np.isfinite(v), v, failed) for v in (values, reference))
    wins = int(np.sum(ranks > rivals if higher_is_better else ranks < rivals))
    ties = int(np.sum(ranks == rivals))
    # Pairs of seeds, since both saw the same weights and images: the scatter between seeds cancels.
    pairs = np.isfinite(values) & np.isfinite(reference)
    nothing = Estimate(*np.full(3, np.nan))
    difference = bootstrap(values[pairs] - reference[pairs]) if pairs.any() else nothing
    return Improvement(difference, proportion(wins, len(values) - ties), wins, ties, len(values))


def verdict(values: ArrayLike, reference: ArrayLike, higher_is_better: bool) -> Verdict:
    """What a paired comparison comes to, in words: "better", "worse", or "not told apart" from the reference.

    Of two things, the one with fewer failed runs is better, whatever the others of its runs did. If as many failed, the
    95 % interval of the mean paired difference must leave out 0. It says nothing of how large the difference is.

    Args:
        values, reference, higher_is_better: as in `compare`.

    Raises:
        TypeError, ValueError: as `compare`.

    >>> verdict([0.91, 0.92, 0.90, 0.93, 0.92], [0.88, 0.90, 0.88, 0.90, 0.91], higher_is_better=True)
    'better'
    """
    difference = compare(values, reference, higher_is_better).difference
    failed, rival = (int(np.sum(~np.isfinite(check_real("values", it)))) for it in (values, reference))
    if failed != rival:
        return "better" if failed < rival else "worse"
    if difference.low > 0 or difference.high < 0:
        return "better" if (difference.low > 0) == higher_is_better else "worse"
    return "not told apart"


def best_rate(rates: ArrayLike, losses: ArrayLike, diverged: ArrayLike) -> Best:
    """The rate of the lowest mean loss among those at which no seed diverged, and whether it is an edge of the grid.

    Of a sweep, `losses` may be `metrics.last_tenth(result.histories.loss).mean(-1)`, and `diverged` is
    `result.diverged_at > 0`.

    Args:
        rates: (rates,), ascending.
        losses: (seeds, rates); NaN where a run was not made: a rate without the run of some seed is not chosen.
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
    tried = np.flatnonzero(np.isfinite(losses).any(axis=0) | failed.any(axis=0))
    # A rate that fails in one seed of three is no rate to recommend.
    means = np.where(failed.any(axis=0), np.nan, losses.mean(axis=0))
    if not np.isfinite(means).any():
        return Best(None, None, None)
    place = int(np.nanargmin(means))
    edge = "lowest" if place == tried[0] else "highest" if place == tried[-1] else None
    return Best(float(rates[place]), float(means[place]), edge)


def proportion(successes: int, trials: int, level: float = _LEVEL) -> Estimate:
    """A share with Wilson's interval; without a trial, NaN in [0, 1].

    Raises:
        TypeError, ValueError: if `successes` and `trials` are not counts, or the level is out of range.
    """
    # The usual normal interval would have width 0 at a share of 0 or 1.
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
        curves: (..., steps), values of single batches, whose scatter the window averages out.
        target: a mean that equals it or is better reaches it.
        higher_is_better: as in `compare`.
        window: number of steps, from 1 to all; the first step that can reach the target is the `window`th.

    Returns:
        (...,) float64; infinity for a run that misses the target. A window with a value that is not finite does not
        reach it; a later one can.

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
    # Views of the curves instead of a cumulative sum, in which one infinite value would spoil all later windows.
    means = np.lib.stride_tricks.sliding_window_view(curves, window, axis=-1).mean(axis=-1)
    reached = np.isfinite(means) & (means >= target if higher_is_better else means <= target)
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1) + float(window), np.inf)


def profile(values: ArrayLike, at: ArrayLike) -> Estimate:
    """Performance profile: the share of seeds whose value is at most `at`, with Wilson's interval at each point.

    For times to a target it is the share of the runs that have reached the target by then (Dolan and More, 2002).

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
    # One interval for each possible number of seeds; many points share them.
    table = Estimate(*np.transpose([proportion(count, len(values)) for count in range(len(values) + 1)]))
    return Estimate(*(bound[arrived] for bound in table))


def _check_level(level: float) -> None:
    if cast(float, check_positive("level", level)) >= 1:
        raise ValueError(f"level must be in (0, 1), got {level}")


def _finite(values: ArrayLike) -> np.ndarray:
    values = check_real("values", values)
    if not values.ndim or not len(values):
        raise ValueError(f"values must have shape (seeds, ...), at least one seed, got {values.shape}")
    # Left to the caller: whether a diverged run counts as a loss or is left out changes what the interval says.
    if not np.isfinite(values).all():
        raise ValueError("values must be finite; leave out or count the runs that diverged")
    return values
