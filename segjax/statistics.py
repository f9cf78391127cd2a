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
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

import numpy as np

# scipy imports `scipy.stats` at its first use: imported here, its 0.7 s would be a third of a command's start.
import scipy
from numpy.typing import ArrayLike

from segjax._checks import (
    check_callable,
    check_concrete,
    check_count,
    check_flag,
    check_flags,
    check_positive,
    check_rates,
    check_real,
    check_shape,
    describe,
)

# With 10,000 resamples, the Monte Carlo error of an interval's ends is about 1 % of its width.
NUM_RESAMPLES = 10_000
# With fewer seeds, no interval is bootstrapped.
FEWEST_SEEDS = 5
_LEVEL = 0.95
# A fixed seed: equal values always have the same interval.
_SEED = 0
# Beyond as many seeds, `seeds_to_decide` stops counting.
_MOST_SEEDS = 10**6

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


class Sequential(NamedTuple):
    """Two tests of paired differences after each seed, which stay valid however often somebody looks.

    An e-value of 20 rejects "no difference" at the 5 % level. An interval holds at all numbers of seeds at once.
    Everything has the shape of the differences.

    Attributes:
        difference: the mean difference of the seeds so far; its interval is infinite for fewer than 4 seeds.
        evidence: e-value against a mean difference of 0; 1 is none. Assumes a normal distribution.
        probability: positive / (positive + negative) so far, with its interval.
        sign_evidence: e-value against a probability of one half. Assumes no distribution.
    """

    difference: Estimate
    evidence: np.ndarray
    probability: Estimate
    sign_evidence: np.ndarray


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
    return _without_overflow(np.mean, values, axis)


def median(values: ArrayLike, axis: int = 0) -> np.ndarray:
    """Median over `axis`, in float64."""
    return _without_overflow(np.median, values, axis)


def interquartile_mean(values: ArrayLike, axis: int = 0) -> np.ndarray:
    """Mean without the lowest and the highest quarter, each rounded down to whole seeds (IQM), in float64."""
    # Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", 2021: nearly as robust
    # to single failed runs as the median, with less variance.
    return _without_overflow(partial(scipy.stats.trim_mean, proportiontocut=0.25), values, axis)


STATISTICS: Mapping[str, Statistic] = MappingProxyType({"mean": mean, "median": median, "IQM": interquartile_mean})


@np.errstate(over="ignore")
def bootstrap(values: ArrayLike, statistic: Statistic = mean, level: float = _LEVEL) -> Estimate:
    """A statistic over seeds with its bootstrap interval.

    With fewer than 5 seeds, `mean` has Student's interval, and other statistics have none; one seed has none at all.

    Args:
        values: (seeds, ...), finite; whole seeds are resampled, so that the values of one seed stay together.
        statistic: (values, axis) -> the values without that axis, such as those of `STATISTICS`.
        level: confidence level of the interval, in (0, 1).

    Raises:
        TypeError, ValueError: if a value is not a finite real number, there is no seed, the level is out of range, or
            `statistic` returns anything else.

    >>> bootstrap([0.010, 0.012, 0.011, 0.014, 0.010]).value.round(4)
    np.float64(0.0114)
    """
    values = _finite(values)
    _check_level(level)
    check_callable("statistic", statistic, "values", axis=0)
    value, seeds = _apply(statistic, values, axis=0), len(values)
    if seeds == 1 or (seeds < FEWEST_SEEDS and statistic is not mean):
        return Estimate(value[()], np.full_like(value, np.nan)[()], np.full_like(value, np.nan)[()])
    # Student's quantiles, since the spread of few seeds is itself uncertain.
    student = scipy.stats.t.ppf(0.5 + level / 2, seeds - 1)
    if seeds < FEWEST_SEEDS:
        scale = _power_of_two(values)
        distances = np.multiply.outer([-student, student], (values / scale).std(axis=0, ddof=1)) / np.sqrt(seeds)
    else:
        resamples = np.random.default_rng(_SEED).integers(seeds, size=(NUM_RESAMPLES, seeds))
        samples = _apply(statistic, values[resamples], axis=1)
        scale = _power_of_two(samples)
        # Hesterberg's corrections: the percentiles at these quantiles, scaled around the value by sqrt(n / (n - 1)).
        quantiles = np.quantile(samples / scale, scipy.stats.norm.cdf([-student, student]), axis=0)
        distances = (quantiles - value / scale) * np.sqrt(seeds / (seeds - 1))
    low, high = (value / scale + distances) * scale
    return Estimate(value[()], low[()], high[()])


def estimates(values: ArrayLike) -> dict[str, Estimate]:
    """Each of `STATISTICS` over the finite values of (seeds,), in which a failed run is NaN; NaN if all failed.

    Raises:
        TypeError, ValueError: if the values are not real numbers of shape (seeds,).
    """
    values = check_real("values", values, "(seeds,)")
    finite = values[np.isfinite(values)]
    if not finite.size:
        return dict.fromkeys(STATISTICS, Estimate(*np.full(3, np.nan)))
    return {name: bootstrap(finite, statistic) for name, statistic in STATISTICS.items()}


def band(curves: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the mean's interval along curves (seeds, points); NaN for one seed, and where one is not finite.

    Raises:
        TypeError, ValueError: if the curves are not real numbers of shape (seeds, points), at least one seed.
    """
    curves = check_real("curves", curves, "(seeds, points), at least one seed")
    finite = np.isfinite(curves).all(axis=0)
    low, high = np.full((2, curves.shape[1]), np.nan)
    if finite.any():
        _, low[finite], high[finite] = bootstrap(curves[:, finite])
    return low, high


@np.errstate(over="ignore")
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
    scale, count = _power_of_two(values), len(values)
    center, deviation = mean(values) / scale, (values / scale).std(ddof=1)
    half = scipy.stats.t.ppf(0.5 + level / 2, count - 1) * deviation * np.sqrt(1 + 1 / count)
    return float((center - half) * scale), float((center + half) * scale)


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
    difference = Estimate(*np.full(3, np.nan))
    if pairs.any():
        scale = _power_of_two(np.stack([values[pairs], reference[pairs]]), axis=None)
        difference = bootstrap(values[pairs] / scale - reference[pairs] / scale)
        with np.errstate(over="ignore"):
            difference = Estimate(*(part * scale for part in difference))
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


def sequential(differences: ArrayLike, level: float = _LEVEL, effect_variance: float = 2.0) -> Sequential:
    """Anytime-valid tests and intervals of paired differences, for adding seeds until a comparison is decided.

    Student's interval is for one look: looking after each of 5 to 50 seeds, and stopping when it excludes 0, calls
    27 % of equal pairs different. An e-value is the ratio of a mixture of alternatives to the null hypothesis, and
    exceeds 20 at any time with a probability of at most 5 % (Ville). For the mean, the mixture has the right Haar prior
    on the scale and a normal prior on the effect in standard deviations: Lai, "On confidence sequences", 1976; Wang and
    Ramdas, "Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance", 2023. For the
    signs, it is a beta-binomial mixture with Jeffreys' prior (Robbins, 1970): 7 straight wins decide.

    The mean's test assumes normal differences. In 10,000 simulations of 50 looks, its false verdicts are 2.4 % for
    normal ones, 1.7 % for Student's t with 3 degrees, 4.5 % for uniform ones, but 8 % for a lognormal distribution with
    sigma 0.5 and 24 % with sigma 1 (Student's interval with as many looks: 34 % and 47 %). The signs' test keeps to 5 %
    for every distribution; its null hypothesis is that either sign is as probable, which for a skewed distribution is
    another one than a mean of 0.

    Args:
        differences: (seeds, ...), in the order of the seeds. Infinite where one run of a pair failed: its sign counts,
            and the mean has no evidence and an infinite interval from there on. NaN where both failed: no sign either.
        level: level of the intervals, in (0, 1).
        effect_variance: prior variance of the effect in standard deviations; 2 decides effects of 1 to 3 early.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.

    >>> sequential([0.03, 0.02, 0.04, 0.03, 0.05]).evidence.round(1)
    array([ 1. ,  1.9,  4.2, 13.4, 26.9])
    """
    _check_level(level)
    check_concrete("effect_variance", check_positive("effect_variance", effect_variance))
    differences = check_real("differences", differences, "(seeds, ...), at least one number")
    wins, losses = np.cumsum(differences > 0, axis=0), np.cumsum(differences < 0, axis=0)
    probability, sign_evidence = _sign_test(wins, losses, level)
    usable = np.logical_and.accumulate(np.isfinite(differences), axis=0)
    # The evidence has no unit: on this scale no square is infinite, or 0.
    scale = np.abs(np.where(usable, differences, 0)).max() or 1.0
    scale = scale * _power_of_two(np.where(usable, differences, 0) / scale)
    mean_difference, evidence = _mean_test(np.where(usable, differences / scale, 0), level, effect_variance)
    difference = Estimate(*(part * scale for part in mean_difference))
    without = (np.nan, -np.inf, np.inf)
    difference = Estimate(*(np.where(usable, part, none) for part, none in zip(difference, without, strict=True)))
    return Sequential(difference, np.where(usable, evidence, 1.0), probability, sign_evidence)


def seeds_to_decide(effect: float, evidence: float = 20.0, effect_variance: float = 2.0) -> float:
    """Number of seeds at which `sequential` has as much evidence for a mean difference, if its effect stays the same.

    Args:
        effect: mean difference in standard deviations of the differences.
        evidence: the e-value to reach, > 1.
        effect_variance: as in `sequential`.

    Returns:
        At least 2, infinity for more than a million seeds.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.

    >>> seeds_to_decide(1.0)
    14.0
    """
    if check_real("effect", effect).ndim or not np.isfinite(effect):
        raise ValueError(f"effect must be a finite number, got {describe(effect)}")
    if cast(float, check_concrete("evidence", check_positive("evidence", evidence))) <= 1:
        raise ValueError(f"evidence must be > 1, got {evidence}")
    check_concrete("effect_variance", check_positive("effect_variance", effect_variance))
    # Beyond 1e100, evidence no longer depends on the effect, whose square would be infinite.
    effect = min(abs(float(effect)), 1e100)
    seeds = np.arange(2.0, _MOST_SEEDS + 1)
    reached = _evidence(seeds, seeds * effect**2, seeds - 1, effect_variance) >= evidence
    return float(seeds[reached.argmax()]) if reached.any() else np.inf


def shared_evidence(evidence: ArrayLike) -> np.ndarray:
    """E-values of several comparisons, adjusted so that 20 keeps the chance of any false verdict at 5 %.

    The adjusted value of a comparison is the lowest mean over all sets of comparisons that contain it: the closed test
    of averages (Vovk and Wang, "E-values: calibration, combination and applications", 2021). It needs no independence,
    and an average is at least a share 1 / n of its largest value, so that whatever Holm's rule rejects is rejected here
    too.

    Args:
        evidence: (comparisons,), e-values >= 0.

    Raises:
        TypeError, ValueError: if the values are not real numbers >= 0 of shape (comparisons,).

    >>> shared_evidence([60.0, 30.0, 1.0])
    array([30.33333333, 15.5       ,  1.        ])
    """
    evidence = check_real("evidence", evidence)
    if evidence.ndim != 1 or not (evidence >= 0).all():
        raise ValueError(f"evidence must be numbers >= 0 of shape (comparisons,), got {describe(evidence)}")
    order = np.argsort(evidence)
    ascending = evidence[order]
    # The lowest mean of a set of k others with a comparison is the one with the k lowest.
    sums, sizes = np.cumsum(ascending), np.arange(1, len(ascending) + 1)
    adjusted = np.empty_like(ascending)
    for rank, value in enumerate(ascending):
        with_lower = (sums[:rank] + value) / (sizes[:rank] + 1)
        adjusted[order[rank]] = min([value, *with_lower])
    return adjusted


def best_rate(rates: ArrayLike, losses: ArrayLike, diverged: ArrayLike) -> Best:
    """The rate of the lowest mean loss among those at which no seed diverged, and whether it is an edge of the grid.

    For a sweep, `losses` may be `metrics.last_tenth(result.histories.loss).mean(-1)`, and `diverged` is
    `result.diverged_at > 0`.

    Args:
        rates: (rates,), > 0, ascending.
        losses: (seeds, rates); NaN for a run that does not exist: a rate that lacks the run of some seed is not chosen,
            and neither is one with an infinite loss.
        diverged: (seeds, rates), bool.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.

    >>> best_rate([0.01, 0.1, 1.0], [[0.3, 0.2, 0.1]], [[False, False, True]])
    Best(rate=0.1, loss=0.2, edge=None)
    """
    rates, failed = check_rates(rates), check_flags("diverged", diverged)
    losses = check_real("losses", losses, f"(seeds, {len(rates)}), at least one seed")
    check_shape("diverged", failed.shape, f"{losses.shape}")
    with_runs = np.flatnonzero(np.isfinite(losses).any(axis=0) | failed.any(axis=0))
    # A rate at which one seed of three diverges is not recommended.
    means = mean(losses)
    means = np.where(failed.any(axis=0) | ~np.isfinite(means), np.nan, means)
    if np.isnan(means).all():
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
        target: a mean reaches it if it is better, or equals it up to a relative 1e-12, for the mean's rounding.
        higher_is_better: as in `compare`.
        window: number of steps, from 1 to all; the first step that can reach the target is step `window`.

    Returns:
        (...,) float64; infinity for a run that does not reach the target. A window with a value that is not finite does
        not reach it; a later one can.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    curves = check_real("curves", curves, "(..., steps)")
    if not 1 <= check_count("window", window, 1) <= curves.shape[-1]:
        raise ValueError(f"window must be at most the number of steps of the curves, {curves.shape[-1]}, got {window}")
    goal = check_real("target", target)
    if goal.ndim or np.isnan(goal):
        raise ValueError(f"target must be a single number, got {describe(target)}")
    check_flag("higher_is_better", higher_is_better)
    scale = _power_of_two(curves, axis=-1)
    # Views of the curves, not a cumulative sum, in which one infinite value would affect all later windows.
    means = np.lib.stride_tricks.sliding_window_view(curves / scale, window, axis=-1).mean(axis=-1)
    with np.errstate(over="ignore"):
        goal = goal / scale
    better = means >= goal if higher_is_better else means <= goal
    reached = np.isfinite(means) & (better | np.isclose(means, goal, rtol=1e-12, atol=0))
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1) + float(window), np.inf)


def profile(values: ArrayLike, at: ArrayLike) -> Estimate:
    """Performance profile: the share of seeds whose value is at most `at`, with Wilson's interval at each point.

    For times to a target, it is the share of the runs that have reached the target by that time (Dolan and More, 2002).

    Args:
        values: (seeds,); NaN and infinity are above every point.
        at: (points,), no NaN.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    values, at = check_real("values", values, "(seeds,), at least one seed"), check_real("at", at)
    if np.isnan(at).any():
        raise ValueError(f"at must be numbers without NaN, got {describe(at)}")
    arrived = np.sum(np.isfinite(values) & (values <= at[..., np.newaxis]), axis=-1)
    # One interval for each possible number of seeds, since many points have the same number.
    table = Estimate(*np.transpose([proportion(count, len(values)) for count in range(len(values) + 1)]))
    return Estimate(*(bound[arrived] for bound in table))


def _mean_test(differences: np.ndarray, level: float, effect_variance: float) -> tuple[Estimate, np.ndarray]:
    """After each seed, the mean difference with its anytime-valid interval, and the e-value against 0."""
    count = np.arange(1.0, len(differences) + 1).reshape((-1,) + (1,) * (differences.ndim - 1))
    average = np.cumsum(differences, axis=0) / count
    # Welford's sum of squares, which does not cancel.
    steps = (differences[1:] - average[:-1]) ** 2 * ((count - 1) / count)[1:]
    squares = np.concatenate([np.zeros_like(average[:1]), np.cumsum(steps, axis=0)])
    evidence, inflation = _evidence(count, count * average**2, squares, effect_variance), 1 + count * effect_variance
    with np.errstate(all="ignore"):
        # The means whose e-value is below the threshold, solved for t^2 / nu.
        limit = (np.sqrt(inflation) / (1 - level)) ** (2 / count)
        half = np.sqrt((limit - 1) / (1 - limit / inflation) * squares / count)
    half = np.where(limit < inflation, half, np.inf)
    # A single seed has no scale.
    evidence[0] = 1.0
    return Estimate(average, average - half, average + half), evidence


def _evidence(count: np.ndarray, signal: np.ndarray, squares: np.ndarray, effect_variance: float) -> np.ndarray:
    """The e-value against a mean of 0: t^2 / (count - 1) is signal / squares."""
    inflation = 1 + count * effect_variance
    with np.errstate(all="ignore"):
        # (1 + t^2 / nu) / (1 + t^2 / (nu inflation)), multiplied by the squares: equal differences stay finite.
        ratio = np.where(signal > 0, (squares + signal) / (squares + signal / inflation), 1.0)
        return np.asarray(ratio ** (count / 2) / np.sqrt(inflation))


def _sign_test(wins: np.ndarray, losses: np.ndarray, level: float) -> tuple[Estimate, np.ndarray]:
    """The share of wins with its anytime-valid interval, and the e-value against one half."""
    # Not an attribute of `scipy.optimize` before it is imported.
    from scipy.optimize.elementwise import find_root

    trials = wins + losses
    log_mixture = scipy.special.betaln(wins + 0.5, losses + 0.5) - scipy.special.betaln(0.5, 0.5)

    def excess(share: np.ndarray, wins: np.ndarray, losses: np.ndarray, log_mixture: np.ndarray) -> np.ndarray:
        log_likelihood = scipy.special.xlogy(wins, share) + scipy.special.xlog1py(losses, -share)
        return np.asarray(log_mixture - log_likelihood + np.log(1 - level))

    def lower_end(wins: np.ndarray, losses: np.ndarray) -> np.ndarray:
        # The e-value against the observed share is below 1, that against a tiny share is huge.
        bracket = (np.full(wins.shape, 1e-300), np.where(wins > 0, wins, trials) / np.maximum(trials, 1))
        root = find_root(excess, bracket, args=(wins, losses, log_mixture))
        return np.where(wins > 0, root.x, 0.0)

    with np.errstate(all="ignore"):
        share = wins / trials
        evidence = np.exp(log_mixture + trials * np.log(2))
        low, high = lower_end(wins, losses), 1 - lower_end(losses, wins)
    return Estimate(share, low, high), evidence


def _apply(statistic: Statistic, values: np.ndarray, axis: int) -> np.ndarray:
    """A statistic over an axis; raises TypeError or ValueError unless it returns the values without that axis."""
    result = check_real("the result of statistic", statistic(values, axis=axis))
    shape = values.shape[:axis] + values.shape[axis + 1 :]
    if result.shape != shape:
        arguments = f"values of shape {values.shape} and axis={axis}"
        raise ValueError(f"statistic must return numbers of shape {shape}, got {describe(result)} for {arguments}")
    return result


def _without_overflow(statistic: Callable[..., Any], values: ArrayLike, axis: int) -> np.ndarray:
    """A statistic of at least one value that is a mean: finite for finite values, even if their sum overflows."""
    values = check_real("values", values)
    if not values.ndim or not values.size:
        raise ValueError(f"values must have at least one number, along an axis, got shape {values.shape}")
    axis = check_count("axis", axis, -values.ndim, values.ndim - 1)
    with np.errstate(over="ignore", invalid="ignore"):
        result = np.asarray(statistic(values, axis=axis))
        finite = np.isfinite(result)
        # By a power of two: exact.
        return result if finite.all() else np.where(finite, result, statistic(values * 2.0**-64, axis=axis) * 2.0**64)


def _power_of_two(values: np.ndarray, axis: int | None = 0) -> np.ndarray:
    """A scale for values whose squares or differences overflow or vanish: 1 for usual values, which keep their bits."""
    largest = np.max(np.abs(np.where(np.isfinite(values), values, 0)), axis=axis, keepdims=axis == -1)
    usual = (largest == 0) | ((largest > 1e-100) & (largest < 1e100))
    return np.where(usual, 1.0, np.ldexp(1.0, np.frexp(largest)[1] - 1))


def _check_level(level: float) -> None:
    """Raises TypeError or ValueError unless it is in (0, 1)."""
    if cast(float, check_concrete("level", check_positive("level", level))) >= 1:
        raise ValueError(f"level must be in (0, 1), got {level}")


def _finite(values: ArrayLike) -> np.ndarray:
    """The values as float64, (seeds, ...); raises TypeError or ValueError if one is not finite."""
    values = check_real("values", values, "(seeds, ...), at least one seed")
    # The caller decides whether a diverged run counts as a loss or is left out: it changes the meaning of the interval.
    if infinite := int(np.sum(~np.isfinite(values))):
        raise ValueError(f"values must be finite, got {infinite} that are not; leave out or count runs that diverged")
    return values
