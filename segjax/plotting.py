"""Figures from arrays. Nothing here computes, loads, saves or shows; importing it loads matplotlib."""

import textwrap
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

Band = tuple[np.ndarray, np.ndarray]
# Okabe and Ito's colours, told apart by colour-blind readers; black and the pale yellow left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_PROBABILITY = matplotlib.colormaps["cividis"]
_BARS = {"probability": "probability of the mask", "signed": "weight"}
_MASK = ListedColormap([_PROBABILITY(0.0), _PROBABILITY(1.0)])


Kind = Literal["image", "mask", "probability", "signed", "feature"]


class Panel(NamedTuple):
    """One axes of curves: name -> (runs, points), drawn as the mean over runs in the band from lowest to highest.

    Attributes:
        ylabel: with its unit.
        curves: where a run is not finite, its curve ends. More than six are taken as ordered, dark to light.
        bands: name -> its band's lower and upper edge, (points,) each, in place of lowest and highest.
        ylim: ends of the vertical axis, where the data do not say them.
        log: a logarithmic vertical axis.
        x: (points,), or None for iterations 1, 2, ...
        xlabel: with its unit.
        xlog: a logarithmic horizontal axis.
        marks: text -> the x of a vertical line.
    """

    ylabel: str
    curves: Mapping[str, np.ndarray]
    log: bool = False
    x: np.ndarray | None = None
    xlabel: str = "iteration"
    xlog: bool = False
    marks: Mapping[str, float] = {}
    bands: Mapping[str, Band] = {}
    ylim: tuple[float, float] | None = None


class Picture(NamedTuple):
    """An (n, n) array to be looked at.

    An image, a mask and a probability are in [0, 1]; signed weights lie around 0, on one scale for a figure; a feature
    is drawn from its own lowest value to its highest.
    """

    title: str
    array: ArrayLike
    kind: Kind = "image"


def training_curves(panels: Sequence[Panel], title: str) -> Figure:
    """Curves over iterations or another quantity, a panel beside the other, with one legend."""
    figure = Figure(figsize=(max(5.5 * len(panels), 7.6), 4.6), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        styles = _styles(len(panel.curves))
        for (name, runs), style in zip(panel.curves.items(), styles, strict=True):
            runs = np.atleast_2d(runs)
            x = np.arange(1, runs.shape[1] + 1) if panel.x is None else panel.x
            axes.plot(x, runs.mean(axis=0), label=name, linewidth=1.8, **style)
            if len(runs) > 1 or name in panel.bands:
                band = panel.bands.get(name, (runs.min(axis=0), runs.max(axis=0)))
                axes.fill_between(x, *band, color=style["color"], alpha=0.2, linewidth=0)
        for index, (text, place) in enumerate(panel.marks.items()):
            axes.axvline(place, color="black", linewidth=1.2, linestyle=_LINES[index % len(_LINES)], label=text)
        axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel)
        axes.margins(x=0)
        if panel.x is None:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if panel.xlog:
            _make_log(axes, "x")
        if panel.log:
            _make_log(axes, "y")
        if panel.ylim:
            axes.set_ylim(*panel.ylim)
        axes.grid(alpha=0.3)
    _legend(figure)
    _title(figure, title)
    return figure


def predictions(image: ArrayLike, mask: ArrayLike, probabilities: Mapping[str, ArrayLike], title: str) -> Figure:
    """A row for each prediction: input image, true mask, probability of the mask; all (n, n), in [0, 1]."""
    grid = [
        [Picture("", image), Picture("", mask, "mask"), Picture("", probability, "probability")]
        for probability in probabilities.values()
    ]
    headings = ("input image", "true mask", "prediction")
    grid[0] = [picture._replace(title=heading) for picture, heading in zip(grid[0], headings, strict=True)]
    return pictures(grid, title, list(probabilities))


def pictures(grid: Sequence[Sequence[Picture]], title: str, names: Sequence[str] = (), size: float = 2.5) -> Figure:
    """Pictures in rows, of which the last may be shorter; a colour bar for probabilities, or for signed weights.

    Args:
        names: one before each row.
        size: width of a picture in inches.
    """
    rows, columns = len(grid), max(map(len, grid))
    # A row is as high as its tallest picture, which gets narrower when it is over twice as high as wide.
    shapes = [[np.shape(picture.array) for picture in row] for row in grid]
    heights = [size * min(2, max(height / width for height, width in row)) for row in shapes]
    # No narrower than a title of usual length.
    figsize = (max(size * columns + 0.9, 6.4), sum(heights) + 0.1 * rows + 0.8)
    figure = Figure(figsize=figsize, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    signed = [np.nanmax(np.abs(picture.array)) for row in grid for picture in row if picture.kind == "signed"]
    reach = float(max(signed, default=0.0)) or 1.0
    measured = None
    for row, line in zip(axes, grid, strict=True):
        for cell in row[len(line) :]:
            cell.axis("off")
        for cell, picture in zip(row, line, strict=False):
            drawn = _draw(cell, picture, reach)
            measured = (picture.kind, drawn) if picture.kind in _BARS else measured
    for name, row in zip(names, axes, strict=False):
        row[0].set_ylabel(name, fontsize=11)
    if measured:
        kind, drawn = measured
        figure.colorbar(drawn, ax=axes[:, -1], label=_BARS[kind], shrink=max(0.5, 1 / rows))
    _title(figure, title)
    return figure


def bars(values: Mapping[str, np.ndarray], xlabel: str, title: str, log: bool = True) -> Figure:
    """A horizontal bar for each name: the median of its values (repeats,), with their range."""
    figure = Figure(figsize=(8.4, 0.45 * len(values) + 1.6), layout="constrained")
    axes = figure.subplots()
    medians = np.array([np.median(repeats) for repeats in values.values()])
    ranges = np.array([[np.median(r) - np.min(r), np.max(r) - np.median(r)] for r in values.values()]).T
    axes.barh(list(values), medians, xerr=ranges, color=COLOURS[0], ecolor="black", capsize=3, log=log)
    axes.invert_yaxis()
    axes.set(xlabel=xlabel)
    axes.grid(axis="x", alpha=0.3)
    _title(figure, title)
    return figure


def heatmap(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    labels: Sequence[str],
    form: str,
    title: str,
    ranks: np.ndarray | None = None,
) -> Figure:
    """A matrix (rows, columns) with its numbers written in it.

    Args:
        labels: of the vertical axis, the horizontal axis, and the colour.
        form: of a number, such as ".3f"; one that is not finite stays blank.
        ranks: (rows, columns), more is better, for columns that do not compare: each is coloured from its own worst to
            its best. Without them the values give the colours.
    """
    size = (1.0 * len(columns) + 3.2, 0.62 * len(rows) + 2.0)
    figure = Figure(figsize=(max(size[0], 6.0), max(size[1], 3.2)), layout="constrained")
    axes = figure.subplots()
    shades = np.asarray(values, float)
    if ranks is not None:
        # What is not finite is worst of all; where all are equal, all are best.
        ranks = np.where(np.isfinite(ranks), ranks, np.nan)
        worst, best = np.nanmin(ranks, axis=0), np.nanmax(ranks, axis=0)
        shades = np.where(best > worst, (ranks - worst) / np.where(best > worst, best - worst, 1), 1.0)
        shades = np.where(np.isfinite(ranks), shades, 0.0)
    drawn = axes.imshow(shades, cmap=_PROBABILITY, aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(ylabel=labels[0], xlabel=labels[1])
    middle = (np.nanmin(shades) + np.nanmax(shades)) / 2
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "black" if shades[row, column] > middle else "white"
            axes.text(column, row, format(value, form), ha="center", va="center", color=colour)
    bar = figure.colorbar(drawn, ax=axes, label=labels[2])
    if ranks is not None:
        bar.set_ticks([0, 1], labels=["worst", "best"])
    _title(figure, title)
    return figure


def scores(values: Mapping[str, np.ndarray], groups: Sequence[str], xlabels: Sequence[str], title: str) -> Figure:
    """Names down the side and a panel for each quantity: every run's dot, and a bar at their mean.

    Args:
        values: name -> (quantities, runs).
        groups: the quantities' names, above the panels.
        xlabels: the quantities with their units.
    """
    figure = Figure(figsize=(3.3 * len(groups) + 1.6, 0.42 * len(values) + 1.7), layout="constrained")
    panels = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
    for index, (axes, group, xlabel) in enumerate(zip(panels, groups, xlabels, strict=True)):
        for row, runs in enumerate(values.values()):
            axes.plot(runs[index], np.full(len(runs[index]), row), "o", color=COLOURS[0], alpha=0.6, markersize=5)
            axes.plot(np.mean(runs[index]), row, "|", color="black", markersize=14, markeredgewidth=2)
        axes.set(xlabel=xlabel, title=group)
        axes.grid(alpha=0.3)
    panels[0].set_yticks(range(len(values)), list(values))
    panels[0].set_ylim(len(values) - 0.5, -0.5)
    _title(figure, title)
    return figure


def dots(
    values: Mapping[str, np.ndarray], reference: np.ndarray, xlabel: str, labels: tuple[str, str], title: str
) -> Figure:
    """Names down the side, on a log axis: a dot for each run (runs,), and a diamond at a reference value for each."""
    figure = Figure(figsize=(7.6, 0.3 * len(values) + 1.9), layout="constrained")
    axes = figure.subplots()
    for row, runs in enumerate(values.values()):
        axes.plot(runs, np.full(len(runs), row), "o", color=COLOURS[0], alpha=0.7, label=labels[0])
    axes.plot(reference, range(len(values)), "D", color=COLOURS[1], fillstyle="none", markersize=8, label=labels[1])
    axes.set_yticks(range(len(values)), list(values))
    axes.set(xlabel=xlabel, ylim=(len(values) - 0.5, -0.5))
    _make_log(axes, "x")
    axes.grid(alpha=0.3, which="both")
    _legend(figure)
    _title(figure, title)
    return figure


def sensitivity(
    rates: np.ndarray,
    losses: Mapping[str, np.ndarray],
    diverged: Mapping[str, np.ndarray],
    ylabel: str,
    title: str,
    bands: Mapping[str, Band] = MappingProxyType({}),
) -> Figure:
    """Loss against learning rate, both logarithmic: mean and band over seeds, crosses where runs diverged.

    Args:
        rates: (rates,).
        losses: name -> (seeds, rates), NaN where a run was not made.
        diverged: name -> (seeds, rates), bool; a diverged run counts for no mean, and is a cross at the top.
        bands: name -> lower and upper edge, (rates,) each, NaN where there is none; the range where it is not given.
    """
    figure = Figure(figsize=(7.6, 4.9), layout="constrained")
    axes = figure.subplots()
    finite = np.concatenate([np.ravel(losses[name][~diverged[name]]) for name in losses])
    top = 1.6 * (np.nanmax(finite) if np.isfinite(finite).any() else 1.0)
    for index, (name, values) in enumerate(losses.items()):
        colour, line, marker = (styles[index % len(styles)] for styles in (COLOURS, _LINES, _MARKERS))
        kept = np.ma.masked_invalid(np.where(diverged[name], np.nan, values))
        band = bands.get(name, (kept.min(axis=0), kept.max(axis=0)))
        # A rate that only others tried is no gap in the line.
        tried = np.isfinite(values).any(axis=0) | diverged[name].any(axis=0)
        axes.plot(rates[tried], kept.mean(axis=0)[tried], color=colour, linestyle=line, marker=marker, label=name)
        axes.fill_between(rates[tried], *(edge[tried] for edge in band), color=colour, alpha=0.2, linewidth=0)
        lost = rates[diverged[name].any(axis=0)]
        # A row of crosses for each name, so that none hides another.
        axes.plot(lost, np.full(len(lost), top * 1.25**index), "x", color=colour, markersize=8)
    axes.set(xlabel="learning rate", ylabel=ylabel)
    _make_log(axes, "x")
    _make_log(axes, "y")
    axes.plot([], [], "x", color="black", label="some seed diverged")
    axes.grid(alpha=0.3, which="both")
    _legend(figure)
    _title(figure, title)
    return figure


def differences(
    estimates: Mapping[str, Sequence[tuple[float, float, float]]], xlabels: Sequence[str], title: str
) -> Figure:
    """Names down the side and a panel for each quantity: a difference and its interval, with a line at none.

    Args:
        estimates: name -> (value, low, high) for each quantity; one that is not finite is left out.
        xlabels: the quantities with their units.
    """
    figure = Figure(figsize=(max(3.9 * len(xlabels) + 1.6, 7.6), 0.42 * len(estimates) + 1.8), layout="constrained")
    panels = figure.subplots(1, len(xlabels), squeeze=False, sharey=True)[0]
    for index, (axes, xlabel) in enumerate(zip(panels, xlabels, strict=True)):
        axes.axvline(0, color="black", linewidth=1)
        for row, intervals in enumerate(estimates.values()):
            value, low, high = intervals[index]
            axes.plot([low, high], [row, row], color=COLOURS[0], linewidth=2)
            axes.plot(value, row, "o", color=COLOURS[0])
        axes.set(xlabel=xlabel)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(alpha=0.3)
    panels[0].set_yticks(range(len(estimates)), list(estimates))
    panels[0].set_ylim(len(estimates) - 0.5, -0.5)
    _title(figure, title)
    return figure


def tradeoff(
    points: Mapping[str, tuple[float, float]], xlabel: str, ylabel: str, title: str, xlog: bool = True
) -> Figure:
    """A labelled point (x, y) for each name."""
    figure = Figure(figsize=(7.6, 4.9), layout="constrained")
    axes = figure.subplots()
    for index, (name, (x, y)) in enumerate(points.items()):
        # Another marker in each round of the colours.
        marker = _MARKERS[(index + index // len(COLOURS)) % len(_MARKERS)]
        axes.plot(x, y, marker, color=COLOURS[index % len(COLOURS)], markersize=8, label=name)
    axes.margins(0.12)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if xlog:
        _make_log(axes, "x")
    axes.grid(alpha=0.3, which="both")
    _legend(figure)
    _title(figure, title)
    return figure


def _make_log(axes: Axes, name: Literal["x", "y"]) -> None:
    """A logarithmic axis, after its data are drawn: plain numbers where it is short, powers of ten where it is long."""
    axis: Axis = axes.xaxis if name == "x" else axes.yaxis
    (axes.set_xscale if name == "x" else axes.set_yscale)("log")
    low, high = axis.get_view_interval()
    short = high < 300 * low
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if short else (1,), numticks=99))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}") if short else LogFormatterSciNotation())
    axis.set_minor_formatter(NullFormatter())


def _styles(count: int) -> list[dict[str, Any]]:
    """A colour and a dash for each curve."""
    if count > len(COLOURS):
        return [{"color": _PROBABILITY(0.95 * i / (count - 1)), "linestyle": _LINES[i % 2]} for i in range(count)]
    return [{"color": COLOURS[i], "linestyle": _LINES[i % len(_LINES)]} for i in range(count)]


def _title(figure: Figure, title: str) -> None:
    """Over all the axes, on as many lines as its letters of 0.13 inches take."""
    figure.suptitle(textwrap.fill(title, max(20, int(figure.get_figwidth() / 0.13))))


def _legend(figure: Figure) -> None:
    """One legend under all the axes, each name once."""
    lines = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
    drawn = {label: line for label, line in lines.items() if not label.startswith("_")}
    # An average letter is 0.085 inches wide, a line and its gaps 0.7.
    widest = 0.085 * max(len(label) for label in drawn) + 0.7
    columns = max(1, min(len(drawn), int(figure.get_figwidth() / widest)))
    figure.legend(list(drawn.values()), list(drawn), loc="outside lower center", ncols=columns, frameon=False)


def _draw(axes: Axes, picture: Picture, reach: float) -> Any:
    """`reach` is the largest weight of the figure, so that signed pictures share one scale."""
    styles: dict[str, dict[str, Any]] = {
        "image": {"cmap": "gray", "vmin": 0, "vmax": 1},
        "mask": {"cmap": _MASK, "vmin": 0, "vmax": 1, "interpolation": "nearest"},
        "probability": {"cmap": _PROBABILITY, "vmin": 0, "vmax": 1, "interpolation": "nearest"},
        "signed": {"cmap": "PuOr", "vmin": -reach, "vmax": reach, "interpolation": "nearest"},
        "feature": {"cmap": "gray", "interpolation": "nearest"},
    }
    # What is NaN shows the face.
    axes.set(xticks=[], yticks=[], facecolor="0.55")
    axes.set_title(picture.title, fontsize=10)
    return axes.imshow(np.asarray(picture.array), **styles[picture.kind])
