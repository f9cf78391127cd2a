"""How questions about one network show it."""

import numpy as np
from small_runs import ARMS

import segjax
from experiments.pictures import views


def test_errors_are_shown_by_their_distance_from_the_edge():
    table = views.distance_table(ARMS["a"].rows[0])
    assert table.headings == ("", "held-out images")
    assert table.rows[0] == ["error 0-1 pixels from the edge", "0.1000"]
    assert table.rows[-3:] == [
        ["boundary F (2 pixels)", "0.5000"],
        ["IoU of single images, mean", "0.6000"],
        ["IoU of the worst image", "0.4000"],
    ]


def test_images_stand_above_their_masks_and_a_mask_beside_its_predictions():
    image = np.arange(2.0 * 4 * 4).reshape(2, 4, 4, 1)
    batch = segjax.Batch(image, (image > 20).astype(float))
    above = [np.asarray(axes.images[0].get_array()) for axes in views.above_masks(batch, "all").axes]
    np.testing.assert_array_equal(above, [*image[..., 0], *batch.mask[..., 0]])
    beside = views.beside_mask(batch, {"net": np.full((4, 4), 0.5)}, "first")
    assert beside.get_suptitle() == "first"
    shown = [np.asarray(axes.images[0].get_array()) for axes in beside.axes if axes.images][:3]
    np.testing.assert_array_equal(shown, [image[0, ..., 0], batch.mask[0, ..., 0], np.full((4, 4), 0.5)])
