"""How images, masks and the predictions of one network are shown, and its errors by distance from the edge."""

from collections.abc import Mapping
from typing import Any

import numpy as np

import segjax
from experiments.lab.arms import COLUMNS, ERRORS_AT
from experiments.lab.report import Table
from segjax import plotting


def distance_table(row: Mapping[str, Any]) -> Table:
    """The errors of a network by distance from the edge, and its scores of edges and single images."""
    names = (*ERRORS_AT, "boundary_f", "image_iou", "worst_image_iou")
    rows = [[COLUMNS[name].heading, f"{row[name]:.4f}"] for name in names]
    note = (
        "Error: share of the held-out pixels at that distance. Boundary F: edges that lie within 2 pixels. A few wrong "
        "pixels take the IoU of an image with hardly any mask to near 0."
    )
    return Table("Where the errors lie", ("", "held-out images"), rows, note)


def beside_mask(batch: segjax.Batch, predictions: Mapping[str, np.ndarray], title: str) -> plotting.Figure:
    """The first image of a batch, its mask, and the predictions, in a row."""
    return plotting.predictions(batch.image[0, ..., 0], batch.mask[0, ..., 0], predictions, title)


def above_masks(batch: segjax.Batch, title: str) -> plotting.Figure:
    """The images of a batch, each above its mask."""
    images, masks = (np.asarray(part)[..., 0] for part in batch)
    grid = [[plotting.Picture("", image) for image in images], [plotting.Picture("", mask, "mask") for mask in masks]]
    return plotting.pictures(grid, title, ("image", "mask"))
