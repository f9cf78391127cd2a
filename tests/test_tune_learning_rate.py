import json

import numpy as np
import pytest
from test_runs import result

from experiments import find_learning_rate, tune_learning_rate, tuning
from experiments.tuning import Candidate

RATES = np.array([1e-3, 1e-2, 1e-1])


def best(losses, diverged=None):
    losses = np.atleast_2d(losses).astype(float)
    diverged = np.zeros(losses.shape, bool) if diverged is None else np.atleast_2d(diverged)
    return tuning.best_rate(RATES, losses, diverged)


def test_best_rate_is_that_of_the_lowest_mean():
    assert best([[3, 2, 3], [3, 2, 1]]) == {"rate": 1e-2, "loss": 2, "edge": None}


def test_an_edge_is_said_to_be_one():
    assert best([1, 2, 3])["edge"] == "lowest"
    assert best([3, 2, 1])["edge"] == "highest"
    # A rate that was not tried is no edge.
    assert best([np.nan, 1, 3])["edge"] == "lowest"


def test_a_rate_at_which_a_seed_diverged_is_not_best():
    chosen = best([[3, 2, 1], [3, 2, 1]], [[False, False, True], [False, False, False]])
    assert (chosen["rate"], chosen["edge"]) == (1e-2, None)
    assert best([1, 1, 1], [True, True, True]) == {"rate": None, "loss": None, "edge": None}


def runs_at(losses, optimizer="adam"):
    return [
        result([1.0, loss], f"{optimizer} {rate:g}", 0, rate, optimizer=optimizer)
        for rate, loss in zip(RATES, losses, strict=False)
    ]


def test_grid_places_every_run():
    results = [*runs_at([0.3, 0.2, np.nan]), *runs_at([0.4], "sgd")]
    losses, diverged, rates = tuning.grid(results)
    np.testing.assert_array_equal(rates, RATES)
    np.testing.assert_allclose(losses["adam"], [[0.3, 0.2, np.nan]], rtol=1e-6)
    np.testing.assert_allclose(losses["sgd"], [[0.4, np.nan, np.nan]], rtol=1e-6)
    np.testing.assert_array_equal(diverged["adam"], [[False, False, True]])


@pytest.mark.parametrize(
    ("losses", "beyond"),
    [([0.1, 0.2, 0.3], [1e-4]), ([0.3, 0.2, 0.1], [1.0]), ([0.3, 0.1, 0.3], [])],
)
def test_the_grid_extends_itself_beyond_its_edge(losses, beyond):
    extended = tune_learning_rate.extension(runs_at(losses), [Candidate("adam", tuple(RATES))])
    assert [rate for candidate in extended for rate in candidate.rates] == pytest.approx(beyond)


def test_the_grid_does_not_extend_for_ever():
    # Three rates below the grid that was asked for, the lowest still the best.
    assert tune_learning_rate.extension(runs_at([0.1, 0.2, 0.3]), [Candidate("adam", (1.0, 2.0))]) == []


def test_range_test_suggests_below_the_minimum():
    rates = np.geomspace(1e-4, 1, 101)
    losses = (np.log10(rates) + 2) ** 2 + 0.1
    assert find_learning_rate.suggest(rates, losses[None]) == pytest.approx(1e-2 / 3, rel=0.05)


def test_range_test_passes_over_noise_and_divergence():
    rng = np.random.default_rng(0)
    rates = np.geomspace(1e-4, 1, 400)
    clean = np.exp((np.log10(rates) + 2) ** 2 - 2)
    noisy = clean * np.exp(0.2 * rng.normal(size=(3, 400)))
    noisy[0, 350:] = np.nan
    smoothed = np.stack([find_learning_rate.smooth(run) for run in noisy])
    assert np.isinf(smoothed[0, 350:]).all()
    assert np.isfinite(smoothed[1:]).all()
    assert find_learning_rate.suggest(rates, smoothed) == pytest.approx(1e-2 / 3, rel=0.5)


def test_smoothing_keeps_a_constant():
    np.testing.assert_allclose(find_learning_rate.smooth(np.full(50, 0.3)), 0.3)


def test_rates_of_the_range_test_are_those_of_its_schedule():
    options = find_learning_rate.Options(low=1e-4, high=1.0, steps=5)
    np.testing.assert_allclose(find_learning_rate.rate_at(options, np.arange(5)), [1e-4, 1e-3, 1e-2, 1e-1, 1])


@pytest.mark.parametrize(
    ("rate", "regret"), [(1e-2, 0.0), (1e-3, 1.0), (10**-2.5, 2**0.5 - 1), (0.1, None), (1.0, None), (1e-4, None)]
)
def test_regret_is_interpolated_in_log_log(rate, regret):
    found = find_learning_rate.regret_of(rate, RATES, np.array([2.0, 1.0, np.nan]))
    assert found == (None if regret is None else pytest.approx(regret))


def sweep_file(path, **changes):
    options = {"batch_size": 8, "image_size": 64, "sigma1": 0.2, "sigma2": 1.2, "sigma": 12.8}
    rows = [
        {"optimizer": "adam", "learning_rate": rate, "final_loss": loss, "diverged_at": None}
        for rate, loss in ((1e-2, 0.3), (1e-3, 0.1), (1e-3, 0.3))
    ]
    rows[0]["diverged_at"] = 5
    rows = [{**row, "objective": "mse", "architecture": "notebook"} for row in rows]
    document = {"experiment": "tune_learning_rate", "options": options, "runs": rows, **changes}
    path.write_text(json.dumps(document))
    return find_learning_rate.Options(sweep=path)


def test_reads_the_mean_over_seeds_of_a_sweep(tmp_path):
    rates, losses = find_learning_rate.read_sweep(sweep_file(tmp_path / "results.json"))
    np.testing.assert_allclose(rates, [1e-3, 1e-2])
    np.testing.assert_allclose(losses, [0.2, np.nan])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experiment": "compare_losses"}, "is not the results.json of experiments.tune_learning_rate"),
        ({"runs": []}, "is not the results.json of"),
        ({"runs": [{}]}, "is not the results.json of"),
        ({"options": {"image_size": 32}}, "has batch_size None, not 8: another task"),
    ],
)
def test_refuses_another_sweep(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        find_learning_rate.read_sweep(sweep_file(tmp_path / "results.json", **changes))


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_refuses_what_is_no_sweep(content, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"--sweep .*results\.json is not"):
        find_learning_rate.read_sweep(find_learning_rate.Options(sweep=path))
