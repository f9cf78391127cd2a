"""The matrix of losses and judges, and the names of losses."""

import numpy as np
from small_runs import result

from experiments import compare_losses
from experiments.compare_losses import JUDGES
from experiments.lab.arms import compare

# (true positive, false positive, false negative, true negative, agreeing) of 8 pixels.
GOOD, BAD = (4, 0, 0, 4, 8), (1, 3, 3, 1, 0)


def test_the_matrix_has_the_mean_over_seeds_and_colours_the_best_of_each_column():
    # The second seed of the first loss is as bad as both of the second.
    counts = {"mse": (GOOD, BAD), "dice": (BAD, BAD)}
    runs = [
        result([0.5], seed=seed, optimizer=name, counts=each)
        for name, both in counts.items()
        for seed, each in enumerate(both)
    ]
    axes = compare_losses.matrix(compare(runs, lambda run: run.optimizer), "title").axes[0]
    written = np.reshape([text.get_text() for text in axes.texts], (2, len(JUDGES)))
    shades = dict(zip(JUDGES, axes.images[0].get_array().T, strict=True))
    column = JUDGES.index("accuracy")
    assert list(written[:, column]) == ["0.6250", "0.2500"]
    assert list(shades["accuracy"]) == [1, 0]
    # Both have the losses of `result`: in a column of equal values all are best.
    assert list(shades["held_out_mse"]) == [1, 1]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mse", "dice"]


def test_a_single_loss_is_the_best_and_the_colours_run_from_the_worst():
    axes = compare_losses.matrix(compare([result([0.5])], lambda run: "mse"), "title").axes[0]
    assert axes.images[0].get_clim() == (0, 1)
    assert set(axes.images[0].get_array().ravel()) == {1}


def test_the_lower_loss_is_the_better():
    low, high = (result([0.5], optimizer=name) for name in ("low", "high"))
    high = high._replace(held_out=high.held_out._replace(losses={"mse": 0.4, "bce": 0.5, "dice": 0.6}))
    axes = compare_losses.matrix(compare([low, high], lambda run: run.optimizer), "title").axes[0]
    assert list(axes.images[0].get_array()[:, JUDGES.index("held_out_mse")]) == [1, 0]
