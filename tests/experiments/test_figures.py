"""Figures of arms that several questions share."""

import numpy as np
import pytest
from conftest import random_variables
from small_runs import ARMS, arm, result

from experiments.lab import figures
from experiments.lab.names import ARCHITECTURES
from experiments.lab.options import Comparison, Data


@pytest.mark.slow
def test_every_arm_is_shown_its_own_textures():
    options = Comparison(data=Data(image_size=16, batch_size=1))
    variables = random_variables(ARCHITECTURES["shallow"])
    arms = {}
    for sigma2 in (0.4, 5.0):
        run = options.run(0, texture=options.data.texture._replace(sigma2=sigma2), architecture="shallow")
        arms |= arm(f"{sigma2:g}", [result([0.1])._replace(run=run, variables=variables)])
    # An arm that is known by its numbers alone has no network to draw.
    arms |= arm("stored", [])
    drawing = figures.predictions(arms)
    assert drawing.heading == "A held-out image and its predictions"
    assert drawing.figure.get_suptitle() == "A held-out image after 1000 iterations, seed 0"
    pictures = [axes.images[0].get_array() for axes in drawing.figure.axes if axes.images]
    assert len(pictures) == 6
    # A row per arm of image, mask and prediction: the mask's noise is the same, the texture outside of it is not.
    (first, mask, _), (second, other_mask, _) = pictures[:3], pictures[3:6]
    np.testing.assert_array_equal(mask, other_mask)
    assert np.abs(np.asarray(first) - np.asarray(second)).max() > 0.1


def test_a_panel_of_curves_has_running_means():
    panel = figures.curve_panel(ARMS, "loss", "loss")
    assert panel.log
    np.testing.assert_allclose(panel.curves["a"], [[0.4, 0.25], [0.4, 0.3], [0.4, 0.35]], rtol=1e-6)
    assert not figures.curve_panel(ARMS, "agreement", "agreement").log
