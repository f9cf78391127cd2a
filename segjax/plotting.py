"""Figures from arrays. Nothing here computes, loads, saves or shows; importing it loads matplotlib."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

# Okabe and Ito's colours, told apart by colour-blind readers; black and the pale yellow left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LINES = ("-", "--", "-.", ":")
_PROBABILITY = matplotlib.colormaps["cividis"]
_MASK = ListedColormap([_PROBABILITY(0.0), _PROBABILITY(1.0)])


class Panel(NamedTuple):
    """One axes of curves: name -> (runs, steps), drawn as the mean over runs in the band from lowest to highest."""

    ylabel: str
    curves: Mapping[str, np.ndarray]
    log: bool = False


def training_curves(panels: Sequence[Panel], title: str) -> Figure:
    """Curves over iterations, a panel beside the other, with one legend. Where a run is not finite its curve ends."""
    figure = Figure(figsize=(5.5 * len(panels), 4.4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for index, (name, runs) in enumerate(panel.curves.items()):
            runs = np.atleast_2d(runs)
            steps = np.arange(1, runs.shape[1] + 1)
            style = {"color": COLOURS[index % len(COLOURS)], "linestyle": _LINES[index % len(_LINES)]}
            axes.plot(steps, runs.mean(axis=0), label=name, linewidth=1.8, **style)
            axes.fill_between(steps, runs.min(axis=0), runs.max(axis=0), color=style["color"], alpha=0.2, linewidth=0)
        axes.set(xlabel="iteration", ylabel=panel.ylabel)
        axes.set_yscale("log" if panel.log else "linear")
        axes.margins(x=0)
        axes.grid(alpha=0.3)
    drawn = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
    figure.legend(
        list(drawn.values()), list(drawn), loc="outside lower center", ncols=min(len(drawn), 4), frameon=False
    )
    figure.suptitle(title)
    return figure


def predictions(image: ArrayLike, mask: ArrayLike, probabilities: Mapping[str, ArrayLike], title: str) -> Figure:
    """A row for each prediction: input image, true mask, probability of the mask; all (n, n), in [0, 1]."""
    rows = len(probabilities)
    figure = Figure(figsize=(8.4, 2.5 * rows + 0.7), layout="constrained")
    grid = figure.subplots(rows, 3, squeeze=False)
    for row, (name, probability) in zip(grid, probabilities.items(), strict=True):
        row[0].imshow(image, cmap="gray", vmin=0, vmax=1)
        row[1].imshow(mask, cmap=_MASK, vmin=0, vmax=1, interpolation="nearest")
        drawn = row[2].imshow(probability, cmap=_PROBABILITY, vmin=0, vmax=1, interpolation="nearest")
        row[0].set_ylabel(name, fontsize=11)
        for axes in row:
            axes.set(xticks=[], yticks=[])
    for axes, heading in zip(grid[0], ("input image", "true mask", "prediction"), strict=True):
        axes.set_title(heading)
    figure.colorbar(drawn, ax=grid[:, 2], label="probability of the mask", shrink=max(0.5, 1 / rows))
    figure.suptitle(title)
    return figure


def bars(values: Mapping[str, np.ndarray], xlabel: str, title: str) -> Figure:
    """A horizontal bar for each name: the median of its values (repeats,), on a log axis, with their range."""
    figure = Figure(figsize=(8.4, 0.45 * len(values) + 1.6), layout="constrained")
    axes = figure.subplots()
    medians = np.array([np.median(repeats) for repeats in values.values()])
    ranges = np.array([[np.median(r) - np.min(r), np.max(r) - np.median(r)] for r in values.values()]).T
    axes.barh(list(values), medians, xerr=ranges, color=COLOURS[0], ecolor="black", capsize=3, log=True)
    axes.invert_yaxis()
    axes.set(xlabel=xlabel, title=title)
    axes.grid(axis="x", alpha=0.3)
    return figure
