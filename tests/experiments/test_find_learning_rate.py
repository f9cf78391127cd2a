import json

import numpy as np
import pytest
from small_runs import execute

from experiments import find_learning_rate
from experiments.lab.stops import UsageError
from segjax import range_test

RUN = {"optimizer": "adam", "objective": "mse", "architecture": "notebook", "diverged_at": None}
RUN |= {"learning_rate": 0.1, "final_loss": 0.1}


def sweep_file(path, **changes):
    options = {"batch_size": 8, "image_size": 64, "sigma1": 0.2, "sigma2": 1.2, "sigma": 12.8}
    runs = [
        {**RUN, "learning_rate": 1e-2, "final_loss": 0.3, "diverged_at": 5},
        *({**RUN, "learning_rate": 1e-3, "final_loss": loss} for loss in (0.1, 0.3)),
    ]
    document = {"experiment": "tune_learning_rate", "options": options, "runs": runs, **changes}
    path.write_text(json.dumps(document, default=str))
    return find_learning_rate.Options(sweep=path)


def read(options):
    return find_learning_rate.read_sweep(options.sweep, options)


def test_reads_the_mean_over_seeds_of_a_sweep(tmp_path):
    rates, losses = read(sweep_file(tmp_path / "results.json"))
    np.testing.assert_allclose(rates, [1e-3, 1e-2])
    np.testing.assert_allclose(losses, [0.2, np.nan])


@pytest.mark.parametrize(
    ("rates", "finding"), [((1e-3, 1e-2), "Regret against"), ((1e-5, 1e-4), "cannot judge the suggestion")]
)
def test_the_suggestion_is_compared_with_the_sweep(rates, finding, tmp_path, monkeypatch):
    """The loss of the range test is lowest at 0.01: a third of that lies between the rates of one sweep alone."""
    options = sweep_file(tmp_path / "results.json", runs=[{**RUN, "learning_rate": rate} for rate in rates])
    rates = np.geomspace(options.low, options.high, options.steps)
    losses = np.exp((np.log10(rates) + 2) ** 2 - 2)
    monkeypatch.setattr(find_learning_rate, "train", lambda *_: np.stack([losses] * options.seeds.seeds))
    report = find_learning_rate.answer(options, None)
    assert any(finding in sentence for sentence in report.findings)
    assert not any("means nothing" in warning for warning in report.warnings)
    assert [row["suggested_rate"] for row in report.rows] == pytest.approx([1e-2 / 3] * 3, rel=0.1)


@pytest.mark.parametrize("steps", [10, 40, 400])
def test_a_fall_is_told_from_noise(steps):
    rng = np.random.default_rng(0)
    losses = np.exp(rng.normal(0, 0.3, (100, 2, steps)))
    falls = np.exp(-3 * np.linspace(0, 1, steps))
    constant, falling = (np.mean([is_noise(runs * fall) for runs in losses]) for fall in (1, falls))
    assert constant > 0.9
    assert falling == 0


@pytest.mark.parametrize("losses", [[[1, np.inf, np.inf]], [[1, 1, np.inf, np.inf, np.nan]], [[1, np.nan], [1, 1]]])
def test_a_loss_that_only_diverges_does_not_fall(losses):
    assert is_noise(np.array(losses, float))


def test_a_suggestion_from_noise_has_a_warning(monkeypatch):
    options = find_learning_rate.Options()
    losses = np.exp(np.random.default_rng(0).normal(0, 0.3, (options.seeds.seeds, options.steps)))
    monkeypatch.setattr(find_learning_rate, "train", lambda *_: losses)
    assert any("means nothing" in warning for warning in find_learning_rate.answer(options, None).warnings)


def is_noise(losses):
    return find_learning_rate.is_noise(losses, np.stack([range_test.smooth(run) for run in losses]))


def test_the_rates_rise(tmp_path):
    with pytest.raises(UsageError, match="--low must be below --high"):
        execute(find_learning_rate, "quick", "--low", "1", "--high", "0.1", "--out", tmp_path / "out")
    # Each is a number of float32, and their ratio, by which the rate grows, is none.
    with pytest.raises(UsageError, match="--high / --low must be a finite number > 0"):
        execute(find_learning_rate, "quick", "--low", "2e-38", "--high", "100", "--out", tmp_path / "out")
