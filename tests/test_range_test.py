import jax
import numpy as np
import pytest

import segjax
from segjax import range_test

RATES = np.array([1e-3, 1e-2, 1e-1])


def test_suggests_below_the_minimum():
    rates = np.geomspace(1e-4, 1, 101)
    losses = (np.log10(rates) + 2) ** 2 + 0.1
    assert range_test.suggest(rates, losses) == pytest.approx(1e-2 / 3, rel=0.05)


def test_passes_over_noise_and_divergence():
    rng = np.random.default_rng(0)
    rates = np.geomspace(1e-4, 1, 400)
    clean = np.exp((np.log10(rates) + 2) ** 2 - 2)
    noisy = clean * np.exp(0.2 * rng.normal(size=(3, 400)))
    noisy[0, 350:] = np.nan
    smoothed = np.stack([range_test.smooth(run) for run in noisy])
    assert np.isinf(smoothed[0, 350:]).all()
    assert np.isfinite(smoothed[1:]).all()
    assert range_test.suggest(rates, smoothed) == pytest.approx(1e-2 / 3, rel=0.5)


def test_losses_are_averaged_as_logarithms():
    losses = np.random.default_rng(0).lognormal(size=60)
    np.testing.assert_allclose(range_test.smooth(losses**2), range_test.smooth(losses) ** 2)


def test_a_loss_below_zero_by_rounding_is_as_zero():
    np.testing.assert_array_equal(range_test.smooth([1.0, -1e-7, -np.inf]), range_test.smooth([1.0, 0.0, np.inf]))


def test_smoothing_keeps_a_constant():
    np.testing.assert_allclose(range_test.smooth(np.full(50, 0.3)), 0.3)


def test_rates_are_those_of_the_growing_schedule():
    np.testing.assert_allclose(range_test.rates(1e-4, 1.0, 5), [1e-4, 1e-3, 1e-2, 1e-1, 1])
    schedule = range_test.growing(1e4)(1e-4, 5)
    np.testing.assert_allclose([schedule(step) for step in range(5)], range_test.rates(1e-4, 1.0, 5), rtol=1e-5)


@pytest.mark.slow
def test_a_run_whose_rate_grows_diverges_at_its_end():
    optimizer = segjax.schedules.scheduled(segjax.OPTIMIZERS["sgd"], range_test.growing(1e12), 20)
    sizes = {"batch_size": 1, "image_size": 16, "sigma": 4.0}
    train = segjax.make_train(segjax.SegmentationCNN(2, 3, depth=1), optimizer=optimizer, num_steps=20, **sizes)
    _, history = jax.jit(train)(jax.random.key(0), 1e-3)
    smoothed = range_test.smooth(history.loss)
    assert range_test.suggest(range_test.rates(1e-3, 1e9, 20), smoothed) < 1e6
    assert smoothed[0] < smoothed[-1]


@pytest.mark.parametrize(
    ("rate", "regret"), [(1e-2, 0.0), (1e-3, 1.0), (10**-2.5, 2**0.5 - 1), (0.1, None), (1.0, None), (1e-4, None)]
)
def test_regret_is_interpolated_in_log_log(rate, regret):
    result = range_test.regret(rate, RATES, np.array([2.0, 1.0, np.nan]))
    assert result == (None if regret is None else pytest.approx(regret))


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (range_test.smooth, (["a"],), "losses must be real numbers"),
        (range_test.smooth, ([[1.0], [2.0]],), r"losses must have shape \(steps,\)"),
        (range_test.smooth, ([1.0, -2.0, np.nan],), "losses must be >= 0, since their logarithms .*, got -2.0"),
        (range_test.rates, (1.0, -1.0, 5), "high must be a finite number > 0"),
        (range_test.rates, (1.0, 2.0, 1), "num_steps must be an integer >= 2"),
        (range_test.growing, (0.0,), "ratio must be a finite number > 0"),
        (range_test.suggest, (RATES, np.ones(4)), r"smoothed must have shape \(..., 3\)"),
    ],
)
def test_refuses_what_makes_no_test(function, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        function(*arguments)


def test_a_rate_that_diverged_is_not_suggested():
    assert range_test.suggest(RATES, np.array([2.0, 1.0, np.nan])) == pytest.approx(RATES[1] / range_test.SAFETY)


def test_suggests_nothing_where_every_rate_diverges():
    assert np.isnan(range_test.suggest(RATES, np.full(3, np.inf)))
