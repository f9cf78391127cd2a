from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from segjax import statistics
from segjax.statistics import STATISTICS, Best

FIVE = np.array([0.3, 0.1, 0.2, 0.5, 0.4])


def test_closed_forms():
    values = np.array([7.0, 1.0, 2.0, 3.0, 100.0, 4.0, 6.0, 5.0])
    assert statistics.mean(values) == 16
    assert statistics.median(values) == 4.5
    # Two of eight are cut on each side.
    assert statistics.interquartile_mean(values) == (3 + 4 + 5 + 6) / 4
    assert statistics.interquartile_mean(np.arange(3.0)) == 1


def test_bootstrap_is_scipy_s_but_for_the_mended_width():
    values = np.random.default_rng(3).normal(size=200)
    for statistic in STATISTICS.values():
        ours = statistics.bootstrap(values, statistic)
        theirs = stats.bootstrap((values,), statistic, method="percentile", n_resamples=10_000, rng=0)
        # With 200 seeds the mending is 1 %; two sets of 10,000 draws differ by about as much.
        width = ours.high - ours.low
        np.testing.assert_allclose(ours[1:], theirs.confidence_interval, atol=0.04 * width)


def test_the_mean_of_few_seeds_has_student_s_interval():
    few = FIVE[:4]
    np.testing.assert_allclose(
        statistics.bootstrap(few)[1:], stats.t.interval(0.95, 3, few.mean(), stats.sem(few)), rtol=1e-12
    )
    pairs = statistics.bootstrap(np.stack([few, few + 1], axis=-1), level=0.8)
    np.testing.assert_allclose(pairs.low[1], pairs.low[0] + 1)
    for name in ("median", "IQM"):
        assert np.isnan(statistics.bootstrap(few, STATISTICS[name])[1:]).all()
        assert np.isfinite(statistics.bootstrap(FIVE, STATISTICS[name])).all()


def test_bootstrap_keeps_seeds_together():
    whole = statistics.bootstrap(np.stack([FIVE, FIVE + 1], axis=-1))
    alone = statistics.bootstrap(FIVE)
    np.testing.assert_allclose(np.transpose(whole), [alone, np.array(alone) + 1])


def test_one_seed_has_no_interval():
    np.testing.assert_array_equal(statistics.bootstrap([0.3]), [0.3, np.nan, np.nan])
    assert np.isnan(statistics.bootstrap(np.ones((1, 4))).low).all()


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8))
def test_an_interval_holds_its_value_and_narrows_with_its_level(values):
    wide, narrow = (statistics.bootstrap(values, level=level) for level in (0.95, 0.5))
    slack = 1e-9 * (1 + np.abs(values).max())
    assert wide.low - slack <= narrow.low <= narrow.value + slack
    assert narrow.value - slack <= narrow.high <= wide.high + slack


# Distribution -> draws, and its mean, median and IQM (the mean of its middle half).
DISTRIBUTIONS = {
    "normal": (lambda rng, shape: rng.standard_normal(shape), (0.0, 0.0, 0.0)),
    "uniform": (lambda rng, shape: rng.uniform(-1, 1, shape), (0.0, 0.0, 0.0)),
    "skewed": (lambda rng, shape: rng.lognormal(0, 0.5, shape), (np.exp(0.125), 1.0, 1.0264)),
}
MOST = (2, 3, 4, 5, 7, 10, 14, 20)


@pytest.mark.parametrize("seeds", [pytest.param(n, marks=[] if n in (2, 3, 5) else pytest.mark.slow) for n in MOST])
@pytest.mark.parametrize("distribution", list(DISTRIBUTIONS))
def test_intervals_cover_what_they_promise(distribution, seeds, monkeypatch):
    """Or there is none: 2000 trials know the coverage to half a percent."""
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 1000)
    draw, truths = DISTRIBUTIONS[distribution]
    values = draw(np.random.default_rng(seeds), (seeds, 2000))
    for (name, statistic), truth in zip(STATISTICS.items(), truths, strict=True):
        estimates = [statistics.bootstrap(part, statistic)[1:] for part in np.split(values, 10, 1)]
        low, high = np.concatenate(estimates, axis=1)
        if seeds < statistics.FEWEST_SEEDS and name != "mean":
            assert np.isnan([low, high]).all()
            continue
        covered = np.mean((low <= truth) & (high >= truth))
        # Skewed distributions are covered less, and two values of a uniform one are further apart than Student expects.
        assert covered >= {"normal": 0.92, "uniform": 0.90, "skewed": 0.88}[distribution], (name, covered)
        assert covered <= 0.995


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_paired_differences_cover_what_they_promise(shift, monkeypatch):
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 2000)
    rng, covered = np.random.default_rng(1), []
    for _ in range(300):
        # A seed's effect on both is ten times the noise of their difference.
        common = rng.normal(size=8)
        ours, reference = common + shift + 0.1 * rng.normal(size=8), common
        difference = statistics.compare(ours, reference, higher_is_better=True).difference
        covered.append(difference.low <= shift <= difference.high)
    assert 0.92 <= np.mean(covered) <= 0.98


@pytest.mark.parametrize(("sign", "higher"), [(1, True), (-1, False)])
def test_paired_comparison(sign, higher):
    comparison = statistics.compare(sign * FIVE, sign * np.array([0.2, 0.2, 0.2, 0.4, np.nan]), higher)
    assert (comparison.wins, comparison.ties, comparison.seeds) == (3, 1, 5)
    assert comparison.probability == statistics.proportion(3, 4)
    # The pair of the failed run is won, and has no difference.
    assert comparison.difference.value == pytest.approx(sign * np.mean([0.1, -0.1, 0, 0.1]))


def test_failed_runs_lose_and_tie():
    comparison = statistics.compare([np.nan, np.inf, 0.1], [0.5, np.nan, np.nan], higher_is_better=False)
    assert (comparison.wins, comparison.ties) == (1, 1)
    assert np.isnan(comparison.difference.value)


def test_proportion_is_wilson_s():
    share, z = 4 / 5, stats.norm.ppf(0.975)
    centre = (share + z**2 / 10) / (1 + z**2 / 5)
    reach = z * np.sqrt(share * (1 - share) / 5 + z**2 / 100) / (1 + z**2 / 5)
    np.testing.assert_allclose(statistics.proportion(4, 5), [share, centre - reach, centre + reach])
    assert statistics.proportion(5, 5).low == pytest.approx(5 / (5 + z**2))
    np.testing.assert_array_equal(statistics.proportion(0, 0), [np.nan, 0, 1])


@pytest.mark.parametrize(
    ("curve", "window", "step"),
    [
        ([3, 2, 1, 0], 1, 3),
        ([1, 2, 3, 3], 1, 1),
        ([3, 2, 2, 2], 1, np.inf),
        ([9, 0, 9, 1, 1], 2, 5),
        ([0, 0, 9, 9], 2, 2),
        ([3, np.nan, 0, 0], 1, 3),
        ([3, np.nan, np.inf, 3], 2, np.inf),
        ([3, -np.inf, 2, 1], 1, 4),
    ],
)
def test_steps_to_target(curve, window, step):
    assert statistics.steps_to_target(curve, 1, higher_is_better=False, window=window) == step
    assert statistics.steps_to_target(-np.array(curve), -1, higher_is_better=True, window=window) == step


def test_steps_to_target_of_many_runs():
    curves = np.array([[[3, 1], [3, 3]], [[1, 1], [2, 1]]])
    np.testing.assert_array_equal(statistics.steps_to_target(curves, 1, False), [[2, np.inf], [1, 2]])


def test_profile_counts_what_has_arrived():
    profile = statistics.profile([2, 4, np.inf, np.nan], [1, 2, 3, 4, 1e9])
    np.testing.assert_array_equal(profile.value, [0, 0.25, 0.25, 0.5, 0.5])
    np.testing.assert_allclose([profile.low[3], profile.high[3]], statistics.proportion(2, 4)[1:])
    assert statistics.profile([2, np.inf], [np.inf]).value == [0.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.bootstrap([]), "at least one seed"),
        (lambda: statistics.bootstrap(0.5), "at least one seed"),
        (lambda: statistics.bootstrap([0.1, np.nan]), "values must be finite"),
        (lambda: statistics.bootstrap([0.1, 0.2], level=1.0), r"level must be in \(0, 1\)"),
        (lambda: statistics.compare([1.0], [1.0, 2.0], True), "must have one shape"),
        (lambda: statistics.compare([], [], True), "must have one shape"),
        (lambda: statistics.proportion(3, 2), "successes must be at most trials"),
        (lambda: statistics.proportion(0, -1), "trials must be an integer >= 0"),
        (lambda: statistics.steps_to_target([1.0, 2.0], 1, True, window=3), "window must be at most"),
        (lambda: statistics.steps_to_target([1.0, 2.0], 1, True, window=0), "window must be an integer >= 1"),
        (lambda: statistics.profile([[1.0]], [1.0]), "values must have shape"),
        (lambda: statistics.profile([1.0, 2.0], [1.0, np.nan]), "at must be numbers without NaN"),
        (lambda: statistics.estimates(np.ones((2, 3))), r"values must have shape \(seeds,\), got \(2, 3\)"),
        (lambda: statistics.band([1.0, 2.0]), r"curves must have shape \(seeds, points\)"),
        (lambda: statistics.band(np.ones((0, 3))), "at least one seed"),
        (lambda: statistics.prediction_interval([1.0]), "at least two seeds"),
        (
            lambda: statistics.best_rate([0.1, 0.01], [[1, 2]], [[False, False]]),
            "rates must be at least one finite number, in ascending order",
        ),
        (lambda: statistics.best_rate([], np.zeros((1, 0)), np.zeros((1, 0))), "rates must be at least one finite"),
        (lambda: statistics.best_rate([0.1], [1], [[False]]), r"losses must have shape \(seeds, 1\), .* got \(1,\)"),
        (
            lambda: statistics.best_rate([0.1], [[1]], [[False], [True]]),
            r"diverged must have shape \(1, 1\), got \(2, 1\)",
        ),
        (lambda: statistics.prediction_interval(np.ones((2, 3))), r"values must have shape \(seeds,\)"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_estimates_leave_failed_runs_out():
    estimates = statistics.estimates([0.1, np.nan, 0.3, np.inf])
    assert list(estimates) == list(statistics.STATISTICS)
    assert estimates["mean"] == statistics.bootstrap([0.1, 0.3])
    assert np.isnan(statistics.estimates([np.nan, np.inf])["median"]).all()


def test_a_band_is_the_interval_at_each_point():
    curves = np.array([[1.0, 2.0, np.nan], [3.0, 2.5, 1.0], [2.0, 2.0, 1.0]])
    low, high = statistics.band(curves)
    alone = statistics.bootstrap(curves[:, 1])
    assert (low[1], high[1]) == pytest.approx((alone.low, alone.high))
    # A seed that is not finite leaves no interval.
    assert np.isnan([low[2], high[2]]).all()
    assert np.isnan(statistics.band(curves[:1, :2])).all()


def test_prediction_interval_of_two_values():
    """mean +- t(0.975, 1) s sqrt(3/2), with t(0.975, 1) = tan(0.475 pi) and s = |a - b| / sqrt 2."""
    low, high = statistics.prediction_interval([1.0, 3.0])
    reach = np.tan(0.475 * np.pi) * np.sqrt(2) * np.sqrt(1.5)
    assert (low, high) == pytest.approx((2 - reach, 2 + reach))


def test_a_prediction_interval_covers_one_further_value():
    draws = np.random.default_rng(0).normal(size=(2000, 4))
    covered = []
    for *values, further in draws:
        low, high = statistics.prediction_interval(values)
        covered.append(low <= further <= high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def best(losses, diverged=None):
    losses = np.atleast_2d(losses).astype(float)
    diverged = np.zeros(losses.shape, bool) if diverged is None else np.atleast_2d(diverged)
    return statistics.best_rate([1e-3, 1e-2, 1e-1], losses, diverged)


def test_a_level_is_that_of_the_interval():
    assert statistics.proportion(5, 5, level=0.8).low == pytest.approx(5 / (5 + stats.norm.ppf(0.9) ** 2))
    # Student's quantile at 0.75 with one degree of freedom is 1.
    assert statistics.prediction_interval([1.0, 3.0], level=0.5) == pytest.approx((2 - 3**0.5, 2 + 3**0.5))


def test_best_rate_is_that_of_the_lowest_mean():
    assert best([[3, 2, 3], [3, 2, 1]]) == Best(rate=1e-2, loss=2, edge=None)
    # Nor is a rate that lacks the run of a seed.
    assert best([[3, 2, np.nan], [3, 2, 1]]).rate == 1e-2


def test_a_best_rate_at_an_edge_of_the_grid_names_the_edge():
    assert best([1, 2, 3]).edge == "lowest"
    assert best([3, 2, 1]).edge == "highest"
    # A rate that was not tried is no edge.
    assert best([np.nan, 1, 3]).edge == "lowest"


def test_a_rate_at_which_a_seed_diverged_is_not_best():
    chosen = best([[3, 2, 1], [3, 2, 1]], [[False, False, True], [False, False, False]])
    assert (chosen.rate, chosen.edge) == (1e-2, None)
    assert best([1, 1, 1], [True, True, True]) == Best(rate=None, loss=None, edge=None)


@pytest.mark.parametrize(
    ("apart", "failed", "rival_failed", "expected"),
    [
        (1.0, 0, 0, "better"),
        (-1.0, 0, 0, "worse"),
        (0.0, 0, 0, "not told apart"),
        # The candidate with more failed runs is behind, regardless of the others.
        (1.0, 1, 0, "worse"),
        (-1.0, 1, 2, "better"),
        (1.0, 1, 1, "better"),
        (1.0, 5, 5, "not told apart"),
    ],
)
def test_verdicts(apart, failed, rival_failed, expected):
    values, reference = FIVE + apart + [0.01, -0.01, 0.02, -0.02, 0.0], FIVE.copy()
    values[:failed], reference[:rival_failed] = np.nan, np.inf
    assert statistics.verdict(values, reference, higher_is_better=True) == expected
    assert statistics.verdict(-values, -reference, higher_is_better=False) == expected


def test_one_seed_tells_nothing_apart():
    assert statistics.verdict([1.0], [0.0], higher_is_better=True) == "not told apart"


def mixture_over_effects(values, variance):
    """The e-value of the mean by integration: the density of t, with effects from the prior, over that without one."""
    count = len(values)
    t = np.sqrt(count) * np.mean(values) / np.std(values, ddof=1)
    densities = integrate.quad(
        lambda effect: (
            stats.norm.pdf(effect, scale=np.sqrt(variance)) * stats.nct.pdf(t, count - 1, effect * np.sqrt(count))
        ),
        *(-12, 12),
        limit=400,
    )[0]
    return densities / stats.t.pdf(t, count - 1)


@pytest.mark.parametrize("variance", [0.5, 2.0])
def test_evidence_is_the_mixture_of_likelihood_ratios(variance):
    values = np.random.default_rng(1).normal(0.7, 1, 7)
    result = statistics.sequential(values, effect_variance=variance)
    for seeds in (3, 5, 7):
        np.testing.assert_allclose(
            result.evidence[seeds - 1], mixture_over_effects(values[:seeds], variance), rtol=1e-6
        )
    wins, losses = int(np.sum(values > 0)), int(np.sum(values < 0))
    mixture = integrate.quad(lambda p: stats.beta.pdf(p, 0.5, 0.5) * p**wins * (1 - p) ** losses, 0, 1)[0]
    np.testing.assert_allclose(result.sign_evidence[-1], mixture * 2 ** len(values), rtol=1e-6)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_ends_of_a_sequential_interval_have_the_evidence_of_its_level(level):
    values = np.random.default_rng(2).normal(0.3, 1, 9)
    result = statistics.sequential(values, level)
    for end in (result.difference.low[-1], result.difference.high[-1]):
        np.testing.assert_allclose(statistics.sequential(values - end).evidence[-1], 1 / (1 - level), rtol=1e-9)
    wins, losses = int(np.sum(values > 0)), int(np.sum(values < 0))
    for share in (result.probability.low[-1], result.probability.high[-1]):
        evidence = result.sign_evidence[-1] * 0.5 ** len(values) / (share**wins * (1 - share) ** losses)
        np.testing.assert_allclose(evidence, 1 / (1 - level), rtol=1e-6)


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, shape: rng.standard_normal(shape),
        lambda rng, shape: rng.standard_t(3, shape),
        lambda rng, shape: rng.uniform(-1, 1, shape),
    ],
    ids=["normal", "Student's t", "uniform"],
)
def test_looking_after_each_seed_keeps_the_level(draw):
    """At most 5 % false verdicts among 10,000 nulls; Student's interval gives five times as many."""
    values = draw(np.random.default_rng(0), (30, 10_000))
    result = statistics.sequential(values)
    for evidence in (result.evidence, result.sign_evidence):
        assert (evidence >= 20).any(axis=0).mean() <= 0.05
    covered = (result.difference.low <= 0) & (result.difference.high >= 0)
    assert covered.all(axis=0).mean() >= 0.95
    student = [np.abs(stats.ttest_1samp(values[:seeds], 0).statistic) for seeds in range(5, 31)]
    limits = stats.t.ppf(0.975, np.arange(4, 30))[:, np.newaxis]
    assert (student > limits).any(axis=0).mean() > 0.2


def test_the_signs_keep_the_level_for_a_skewed_distribution():
    values = np.random.default_rng(0).lognormal(0, 1, (30, 10_000)) - 1
    assert (statistics.sequential(values).sign_evidence >= 20).any(axis=0).mean() <= 0.05


def test_sequential_verdicts_by_hand():
    seven = statistics.sequential(np.ones(7))
    # Equal differences: (1 + 2 n)^((n - 1) / 2) for the mean, and 7 wins in a row for the signs.
    np.testing.assert_allclose(seven.evidence, (1 + 2 * np.arange(1, 8)) ** (np.arange(7) / 2))
    assert list(seven.sign_evidence >= 20) == [False] * 6 + [True]
    no_differences = statistics.sequential(np.zeros(3))
    assert no_differences.evidence[-1] < 1
    np.testing.assert_array_equal(no_differences.sign_evidence, 1)
    # The second pair has two failed runs, and the third a failed candidate for which smaller is worse.
    failed = statistics.sequential([1.0, np.nan, -np.inf, 2.0])
    np.testing.assert_array_equal(failed.evidence, 1)
    np.testing.assert_array_equal(failed.difference.high, np.inf)
    np.testing.assert_allclose(failed.probability.value, [1, 1, 1 / 2, 2 / 3])


finite_differences = st.lists(st.floats(-1e3, 1e3).filter(lambda x: x == 0 or abs(x) > 1e-3), min_size=2, max_size=9)


@given(finite_differences, st.sampled_from([1e-300, 1e-3, 0.1, 7.0, 1e3, 1e300]))
def test_sequential_evidence_has_no_unit_and_no_direction(values, scale):
    result, scaled, mirrored = (statistics.sequential(np.multiply(values, by)) for by in (1, scale, -1))
    for other in (scaled, mirrored):
        np.testing.assert_allclose(other.evidence, result.evidence, rtol=1e-5)
        np.testing.assert_array_equal(other.sign_evidence, result.sign_evidence)
    np.testing.assert_allclose(mirrored.difference.low, np.negative(result.difference.high))
    np.testing.assert_allclose(mirrored.probability.low, 1 - result.probability.high, atol=1e-9)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=6))
def test_shared_evidence_is_the_closed_test_of_averages(evidence):
    def lowest(index):
        others = [value for place, value in enumerate(evidence) if place != index]
        sets = chain.from_iterable(combinations(others, size) for size in range(len(evidence)))
        return min(np.mean([evidence[index], *chosen]) for chosen in sets)

    adjusted = statistics.shared_evidence(evidence)
    np.testing.assert_allclose(adjusted, [lowest(index) for index in range(len(evidence))], rtol=1e-9)
    # Holm's rule never rejects more.
    rejected = np.sort(evidence)[::-1] >= 20 * np.arange(len(evidence), 0, -1)
    assert np.sum(adjusted >= 20 * (1 - 1e-12)) >= np.logical_and.accumulate(rejected).sum()


def test_sequential_names_a_wrong_argument():
    for wrong in ([], 0.3):
        with pytest.raises(ValueError, match="differences must have shape"):
            statistics.sequential(wrong)
    with pytest.raises(ValueError, match="effect_variance"):
        statistics.sequential([0.1, 0.2], effect_variance=0)
    for wrong in ([-1.0], [np.nan], [[1.0]]):
        with pytest.raises(ValueError, match="evidence must be numbers >= 0"):
            statistics.shared_evidence(wrong)


@pytest.mark.parametrize("effect", [-0.4, 0.7, 3.0])
def test_seeds_to_decide_is_the_first_number_with_enough_evidence(effect):
    seeds = int(statistics.seeds_to_decide(effect))

    def evidence(count):
        values = np.arange(count) - (count - 1) / 2
        return statistics.sequential(values / np.std(values, ddof=1) + effect).evidence[-1]

    assert evidence(seeds) >= 20 > evidence(seeds - 1)
    assert statistics.seeds_to_decide(0.0) == np.inf
    for wrong in (np.nan, [1.0]):
        with pytest.raises(ValueError, match="effect must be a finite number"):
            statistics.seeds_to_decide(wrong)
    with pytest.raises(ValueError, match="evidence must be > 1"):
        statistics.seeds_to_decide(1.0, evidence=1)
