"""The matrix of losses and judges, and the names of losses."""

import numpy as np
from small_runs import result

from experiments import compare_losses
from experiments.compare_losses import JUDGES
from experiments.lab.arms import compare

# (true positive, false positive, false negative, true negative, agreeing) of 8 pixels.
GOOD, BAD = (4, 0, 0, 4, 8), (1, 3, 3, 1, 0)


# The losses on held-out images that each loss ends with.
LOW, HIGH = {"mse": 0.1, "bce": 0.5, "dice": 0.6}, {"mse": 0.4, "bce": 0.5, "dice": 0.6}


def arms_of(**runs):
    """name -> (counts, losses) for each seed."""
    results = []
    for name, seeds in runs.items():
        for seed, (counts, losses) in enumerate(seeds):
            trained = result([0.5], seed=seed, optimizer=name, counts=counts)
            results.append(trained._replace(held_out=trained.held_out._replace(losses=losses)))
    return compare(results, lambda run: run.optimizer)


def shades_of(arms):
    """judge -> the shade of each loss, NaN for none, and the figure's axes."""
    axes = compare_losses.matrix(arms, "title").axes[0]
    shades = np.ma.filled(axes.images[0].get_array(), np.nan)
    return dict(zip(JUDGES, shades.T.tolist(), strict=True)), axes


def test_the_matrix_has_the_mean_over_seeds_and_colours_what_is_decided_alone():
    # The second seed of the first loss is as bad as all of the second.
    shades, axes = shades_of(arms_of(mse=[(GOOD, LOW), (BAD, LOW)], dice=[(BAD, HIGH)] * 2))
    written = np.reshape([text.get_text() for text in axes.texts], (2, len(JUDGES)))
    assert list(written[:, JUDGES.index("accuracy")]) == ["0.6250", "0.2500"]
    assert axes.images[0].get_clim() == (0, 1)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mse", "dice"]
    np.testing.assert_array_equal(shades["accuracy"], [np.nan] * 2)
    np.testing.assert_array_equal(shades["held_out_bce"], [np.nan] * 2)
    # The lower loss is the better.
    assert shades["held_out_mse"] == [1, 0]


def test_losses_that_tie_with_the_best_have_its_colour():
    shades, _ = shades_of(arms_of(mse=[(GOOD, LOW)] * 3, bce=[(GOOD, LOW)] * 2 + [(BAD, HIGH)], dice=[(BAD, HIGH)] * 3))
    assert shades["accuracy"] == shades["held_out_mse"] == [1, 1, 0]


def test_one_seed_and_one_loss_decide_nothing():
    for arms in (arms_of(mse=[(GOOD, LOW)]), arms_of(mse=[(GOOD, LOW)], dice=[(BAD, HIGH)])):
        assert np.isnan(list(shades_of(arms)[0].values())).all()
