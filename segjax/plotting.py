"""Figures from arrays: each function returns a matplotlib Figure and neither loads, saves nor shows anything."""

import itertools
import math
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
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

# The lower and the upper end of an interval along a curve.
Band = tuple[np.ndarray, np.ndarray]
# Okabe and Ito's colours (2008), which colour-blind readers can tell apart, without black and the pale yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LINES = ("-", "--", "-.", ":")
_FEW_POINTS = 12
_MARKERS = ("o", "s", "^", "D", "v", "P")
# Perceptually uniform, and nearly the same to readers with and without colour blindness (Nunez et al., 2018).
_PROBABILITY = matplotlib.colormaps["cividis"]
_BARS = {"probability": "probability of the mask", "signed": "weight"}
_MASK = ListedColormap([_PROBABILITY(0.0), _PROBABILITY(1.0)])
# Spaces of a title that end no line.
_UNBROKEN = re.compile(r"(?<=\d) (?=x \d|%)|(?<=\d x) (?=\d)| (?== )|(?<= =) ")
Kind = Literal["image", "mask", "probability", "signed", "feature"]


class Panel(NamedTuple):
    """One panel of curves, each the mean over runs in a band from the lowest run to the highest.

    Attributes:
        ylabel: with its unit.
        curves: name -> (runs, points) or (points,). A curve ends where a run is not finite.
        log: a logarithmic vertical axis.
        x: (points,), or None for iterations 1, 2, ...
        xlabel: with its unit.
        xlog: a logarithmic horizontal axis.
        vertical_lines: text -> the x of a vertical line.
        horizontal_lines: text -> the y of a horizontal line.
        bands: name -> lower and upper edge, (points,) each, in place of the lowest and the highest run.
        ylim: ends of the vertical axis; None lets the data choose.
        ordered: the curves are of a growing quantity, such as a learning rate, and go from dark to light.
    """

    ylabel: str
    curves: Mapping[str, np.ndarray]
    log: bool = False
    x: np.ndarray | None = None
    xlabel: str = "iteration"
    xlog: bool = False
    vertical_lines: Mapping[str, float] = {}
    horizontal_lines: Mapping[str, float] = {}
    bands: Mapping[str, Band] = {}
    ylim: tuple[float, float] | None = None
    ordered: bool = False


class Picture(NamedTuple):
    """An array (height, width), drawn as its `kind` says; an image may be one of colours, (height, width, 3).

    An image, a mask and a probability are in [0, 1], and colours in 8 bits in 0 ... 255. Signed weights
    lie around 0, on one scale for the figure. A feature is drawn from its own lowest value to its highest.
    """

    title: str
    array: ArrayLike
    kind: Kind = "image"


def training_curves(panels: Sequence[Panel], title: str) -> Figure:
    """Curves over iterations or another quantity: panels side by side, with one legend."""
    figure = Figure(figsize=(max(5.5 * len(panels), 7.6), 4.6), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        styles = _styles(len(panel.curves), panel.ordered)
        for (name, runs), style in zip(panel.curves.items(), styles, strict=True):
            runs = np.atleast_2d(runs)
            x = np.arange(1, runs.shape[1] + 1) if panel.x is None else panel.x
            # Few points are seen as such, and a single one at all.
            marker = "o" if runs.shape[1] <= _FEW_POINTS else ""
            axes.plot(x, runs.mean(axis=0), label=name, linewidth=1.8, marker=marker, markersize=4, **style)
            # A single run would have a band without width.
            if len(runs) > 1 or name in panel.bands:
                band = panel.bands.get(name, (runs.min(axis=0), runs.max(axis=0)))
                axes.fill_between(x, *band, color=style["color"], alpha=0.2, linewidth=0)
        for index, (text, place) in enumerate(panel.vertical_lines.items()):
            axes.axvline(place, color="black", linewidth=1.2, linestyle=_LINES[index % len(_LINES)], label=text)
        _draw_horizontal_lines(axes, panel.horizontal_lines)
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
    return _finish(figure, title, legend=True)


def predictions(image: ArrayLike, mask: ArrayLike, probabilities: Mapping[str, ArrayLike], title: str) -> Figure:
    """Input image, true mask, and each prediction of it, the probability of the mask; all (n, n), in [0, 1].

    Args:
        probabilities: name -> (n, n).
    """
    shown = [Picture("input image", image), Picture("true mask", mask, "mask")]
    shown += [Picture(name, probability, "probability") for name, probability in probabilities.items()]
    return pictures(in_rows(shown), title)


def in_rows(shown: Sequence[Picture], longest: int = 5) -> list[list[Picture]]:
    """Pictures in the fewest rows of at most so many, which are as equal as they can be."""
    rows = math.ceil(len(shown) / longest)
    ends = [math.ceil(len(shown) * row / max(1, rows)) for row in range(rows + 1)]
    return [list(shown[start:end]) for start, end in itertools.pairwise(ends)]


def pictures(
    grid: Sequence[Sequence[Picture]], title: str, names: Sequence[str] = (), size: float = 2.5, bar: str = ""
) -> Figure:
    """Pictures in rows, of one or different lengths, with a colour bar for probabilities or signed weights.

    Args:
        names: one for each row, at its left.
        size: width of a picture in inches.
        bar: what the colour bar shows, where it is not the probability of the mask or a weight.
    """
    rows, columns = len(grid), max(map(len, grid))
    # A row is as high as its tallest picture, but a picture over twice as high as wide is drawn narrower instead.
    shapes = [[np.shape(picture.array)[:2] for picture in row] for row in grid]
    heights = [size * min(2, max(height / width for height, width in row)) for row in shapes]
    # At least 6.4 inches, so that a title of usual length fits.
    figsize = (max(size * columns + 0.9, 6.4), sum(heights) + 0.1 * rows + 0.8)
    figure = Figure(figsize=figsize, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    # One scale for all signed pictures, symmetric, so that white is 0 in each of them.
    signed = [np.nanmax(np.abs(picture.array)) for row in grid for picture in row if picture.kind == "signed"]
    reach = float(max(signed, default=0.0)) or 1.0
    measured = None
    for row, line in zip(axes, grid, strict=True):
        for cell in row[len(line) :]:
            cell.axis("off")
        for cell, picture in zip(row, line, strict=False):
            drawn = _draw(cell, picture, reach)
            measured = (picture.kind, drawn) if picture.kind in _BARS else measured
    # `strict=False`: pictures may have no row names.
    for name, row in zip(names, axes, strict=False):
        # As high as its picture, and no higher: names can be import paths.
        row[0].set_ylabel(textwrap.fill(name, 26), fontsize=11)
    if measured:
        kind, drawn = measured
        figure.colorbar(drawn, ax=axes[:, -1], label=bar or _BARS[kind], shrink=max(0.5, 1 / rows))
    return _finish(figure, title)


def bars(values: Mapping[str, np.ndarray], xlabel: str, title: str, log: bool = True) -> Figure:
    """A horizontal bar for each name: the median of its values, with their range.

    Args:
        values: name -> (repeats,).
        xlabel: the quantity with its unit.
    """
    figure, axes = _single(8.4, 0.45 * len(values) + 1.6)
    # The median, since a time on a shared machine has outliers to one side.
    medians = np.array([np.median(repeats) for repeats in values.values()])
    ranges = np.array([[np.median(r) - np.min(r), np.max(r) - np.median(r)] for r in values.values()]).T
    whiskers = ranges if ranges.any() else None
    axes.barh(list(values), medians, xerr=whiskers, color=COLOURS[0], ecolor="black", capsize=3, log=log)
    axes.invert_yaxis()
    axes.set(xlabel=xlabel)
    axes.grid(axis="x", alpha=0.3)
    return _finish(figure, title)


def heatmap(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    labels: Sequence[str],
    form: str,
    title: str,
    ranks: np.ndarray | None = None,
) -> Figure:
    """A matrix (rows, columns), coloured, with its numbers written into it.

    Args:
        labels: of the vertical axis, the horizontal axis, and the colour.
        form: format of a number, such as ".3f"; one that is not finite stays blank.
        ranks: (rows, columns), more is better, for columns with different units: each column is coloured from its own
            worst to its best. Without ranks the values give the colours.
    """
    figure, axes = _single(max(1.0 * len(columns) + 3.2, 6.0), max(0.62 * len(rows) + 2.0, 3.2))
    shades = np.asarray(values, float)
    if ranks is not None:
        # A value that is not finite counts as the worst; in a column of equal values all are best.
        finite = np.isfinite(ranks)
        worst = np.where(finite, ranks, np.inf).min(axis=0)
        best = np.where(finite, ranks, -np.inf).max(axis=0)
        ranks = np.where(finite, ranks, np.nan)
        shades = np.where(best > worst, (ranks - worst) / np.where(best > worst, best - worst, 1), 1.0)
        shades = np.where(finite, shades, 0.0)
    # All from worst to best, also where every column has equal values, such as those of a single row.
    kept = shades[np.isfinite(shades)]
    low, high = (0.0, 1.0) if ranks is not None or not kept.size else (kept.min(), kept.max())
    drawn = axes.imshow(shades, cmap=_PROBABILITY, aspect="auto", vmin=low, vmax=high)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(ylabel=labels[0], xlabel=labels[1])
    # Black on the bright half of cividis, white on the dark one.
    middle = (low + high) / 2
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "black" if shades[row, column] > middle else "white"
            axes.text(column, row, format(value, form), ha="center", va="center", color=colour)
    bar = figure.colorbar(drawn, ax=axes, label=labels[2])
    if ranks is not None:
        bar.set_ticks([0, 1], labels=["worst", "best"])
    return _finish(figure, title)


def scores(values: Mapping[str, np.ndarray], groups: Sequence[str], xlabels: Sequence[str], title: str) -> Figure:
    """Names at the left and a panel for each quantity: a dot for every run, and a bar at their mean.

    Args:
        values: name -> (quantities, runs).
        groups: names of the quantities, above the panels.
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
    _rows(panels[0], values)
    return _finish(figure, title)


def dots(
    values: Mapping[str, np.ndarray], reference: np.ndarray, xlabel: str, labels: tuple[str, str], title: str
) -> Figure:
    """Names at the left, values on a logarithmic axis: a dot for each run, and a diamond at a reference value.

    Args:
        values: name -> (runs,).
        reference: (names,).
        xlabel: the quantity with its unit.
        labels: of the dots and of the diamonds.
    """
    figure, axes = _single(7.6, 0.3 * len(values) + 1.9)
    for row, runs in enumerate(values.values()):
        axes.plot(runs, np.full(len(runs), row), "o", color=COLOURS[0], alpha=0.7, label=labels[0])
    axes.plot(reference, range(len(values)), "D", color=COLOURS[1], fillstyle="none", markersize=8, label=labels[1])
    _rows(axes, values)
    axes.set(xlabel=xlabel)
    _make_log(axes, "x")
    axes.grid(alpha=0.3, which="both")
    return _finish(figure, title, legend=True)


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
        diverged: name -> (seeds, rates), bool; a cross at the top edge marks a diverged run, which the mean leaves out.
        bands: name -> lower and upper edge, (rates,) each, NaN where the band has a gap; without it, the seeds' range.
    """
    figure, axes = _single(7.6, 4.9)
    crosses = []
    for index, (name, values) in enumerate(losses.items()):
        colour, line, marker = (styles[index % len(styles)] for styles in (COLOURS, _LINES, _MARKERS))
        kept = np.ma.masked_invalid(np.where(diverged[name], np.nan, values))
        # Masked instead of NaN, whose mean over no seed makes NumPy warn.
        band = bands.get(name, (kept.min(axis=0), kept.max(axis=0)))
        # Rates that only other names tried are left out; as NaN they would break the line.
        tried = np.isfinite(values).any(axis=0) | diverged[name].any(axis=0)
        axes.plot(rates[tried], kept.mean(axis=0)[tried], color=colour, linestyle=line, marker=marker, label=name)
        axes.fill_between(rates[tried], *(edge[tried] for edge in band), color=colour, alpha=0.2, linewidth=0)
        if (lost := rates[diverged[name].any(axis=0)]).size:
            crosses.append((lost, colour))
    axes.set(xlabel="learning rate", ylabel=ylabel)
    _make_log(axes, "x")
    _make_log(axes, "y")
    # At the top edge, above every curve: a row for each name, so that none hides another.
    low, high = np.log(axes.get_ylim())
    step = min(0.05, 0.5 / max(1, len(crosses)))
    axes.set_ylim(np.exp(low), np.exp(low + (high - low) / (1 - step * (len(crosses) + 0.2))))
    for index, (lost, colour) in enumerate(crosses):
        places = np.full(len(lost), 0.97 - step * index)
        label = "" if index else "some seed diverged"
        axes.plot(lost, places, "x", color=colour, markersize=8, transform=axes.get_xaxis_transform(), label=label)
    axes.grid(alpha=0.3, which="both")
    return _finish(figure, title, legend=True)


def differences(
    estimates: Mapping[str, Sequence[tuple[float, float, float]]],
    pairs: Mapping[str, Sequence[np.ndarray]],
    xlabels: Sequence[str],
    higher_is_better: Sequence[bool],
    title: str,
) -> Figure:
    """Names at the left and a panel for each quantity: a difference and its interval over the pairs, with a line at 0.

    Args:
        estimates: name -> (value, low, high) for each quantity; matplotlib leaves out numbers that are not finite.
        pairs: name -> (pairs,) for each quantity: the single differences, a small dot each.
        xlabels: the quantities with their units.
        higher_is_better: of each quantity; an arrow says so.
    """
    # As wide as its panel: a name in it can be an import path.
    xlabels = [textwrap.fill(xlabel, 40) for xlabel in xlabels]
    height = 0.42 * len(estimates) + 2.0 + 0.2 * max(xlabel.count("\n") for xlabel in xlabels)
    figure = Figure(figsize=(max(3.9 * len(xlabels) + 1.6, 7.6), height), layout="constrained")
    panels = figure.subplots(1, len(xlabels), squeeze=False, sharey=True)[0]
    for index, (axes, xlabel, higher) in enumerate(zip(panels, xlabels, higher_is_better, strict=True)):
        axes.axvline(0, color="black", linewidth=1)
        for row, (name, intervals) in enumerate(estimates.items()):
            value, low, high = intervals[index]
            axes.plot([low, high], [row, row], color=COLOURS[0], linewidth=2)
            axes.plot(value, row, "o", color=COLOURS[0])
            # Below the interval, so that neither hides the other.
            own = pairs[name][index]
            axes.plot(own, np.full(len(own), row + 0.22), ".", color="0.35", markersize=4)
        # At the end of the axis that it points to.
        arrow, side = ("better \N{RIGHTWARDS ARROW}", "right") if higher else ("\N{LEFTWARDS ARROW} better", "left")
        axes.set_title(arrow, loc=side, fontsize=10)
        axes.set(xlabel=xlabel)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(alpha=0.3)
    _rows(panels[0], estimates)
    return _finish(figure, title)


def tradeoff(
    points: Mapping[str, tuple[float, float]],
    xlabel: str,
    ylabel: str,
    title: str,
    xlog: bool = True,
    horizontal_lines: Mapping[str, float] = MappingProxyType({}),
) -> Figure:
    """A point (x, y) for each name, with a legend; a horizontal line for each of `horizontal_lines`, text -> y."""
    figure, axes = _single(7.6, 4.9)
    for index, (name, (x, y)) in enumerate(points.items()):
        # The markers shift with each round of the colours, so that no two of 36 names look the same.
        marker = _MARKERS[(index + index // len(COLOURS)) % len(_MARKERS)]
        axes.plot(x, y, marker, color=COLOURS[index % len(COLOURS)], markersize=8, label=name)
    _draw_horizontal_lines(axes, horizontal_lines)
    axes.margins(0.12)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if xlog:
        _make_log(axes, "x")
    axes.grid(alpha=0.3, which="both")
    return _finish(figure, title, legend=True)


# `Figure` and not `pyplot`, which keeps every figure alive, and opens windows.
def _single(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one panel; its size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _finish(figure: Figure, title: str, legend: bool = False) -> Figure:
    """Title and legend, after everything is drawn."""
    if legend:
        _legend(figure)
    # The title takes as many lines as it needs: a letter is about 0.13 inches wide.
    figure.suptitle(_balanced(title, max(20, int(figure.get_figwidth() / 0.13))))
    return figure


def _balanced(text: str, width: int) -> str:
    """The text in as few lines as fit, and none of them much shorter than the others."""
    # Textwrap takes no-break spaces for letters: "32 x 32", "95 %" and "sigma = 15" stay in one line.
    text = _UNBROKEN.sub("\N{NO-BREAK SPACE}", " ".join(text.split()))
    fewest = max(1, len(textwrap.wrap(text, width)))
    # A narrower line than a word would cut it.
    longest = max(1, *map(len, text.split(" ")))
    widths = range(min(longest, width), width + 1)
    lines = next(lines for it in widths if (lines := textwrap.fill(text, it)).count("\n") < fewest)
    return lines.replace("\N{NO-BREAK SPACE}", " ")


def _draw_horizontal_lines(axes: Axes, horizontal_lines: Mapping[str, float]) -> None:
    for index, (text, place) in enumerate(horizontal_lines.items()):
        axes.axhline(place, color="black", linewidth=1.2, linestyle=_LINES[(index + 1) % len(_LINES)], label=text)


def _rows(axes: Axes, names: Collection[str]) -> None:
    """The names at the left, the first at the top."""
    axes.set_yticks(range(len(names)), [textwrap.fill(name, 40) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)


def _make_log(axes: Axes, name: Literal["x", "y"]) -> None:
    """A logarithmic axis, after its data are drawn: plain numbers on a short one, powers of ten on a long one."""
    axis: Axis = axes.xaxis if name == "x" else axes.yaxis
    # matplotlib's own ticks leave an axis of less than a decade with one number, or none.
    (axes.set_xscale if name == "x" else axes.set_yscale)("log")
    low, high = axis.get_view_interval()
    if low <= 0:
        # Nothing is drawn, since every run diverged.
        (axes.set_xlim if name == "x" else axes.set_ylim)(low := 0.1, high := 1.0)
    short = high < 300 * low
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}") if short else LogFormatterSciNotation())
    # One label alone gives no scale: finer ones, until there are two.
    for subs in ((1, 2, 5), range(1, 10)) if short else ((1,),):
        axis.set_major_locator(LogLocator(subs=subs, numticks=99))
        if np.sum((axis.get_majorticklocs() >= low) & (axis.get_majorticklocs() <= high)) > 1:
            break
    else:
        axis.set_major_locator(MaxNLocator(4))
    axis.set_minor_formatter(NullFormatter())


def _styles(count: int, ordered: bool) -> list[dict[str, Any]]:
    """A colour and a dash for each curve."""
    if ordered:
        return [{"color": _PROBABILITY(0.95 * i / max(count - 1, 1)), "linestyle": _LINES[i % 2]} for i in range(count)]
    # Beyond six, no set of colours stays apart: each round of the colours has other dashes.
    dashes = [_LINES[(i + i // len(COLOURS)) % len(_LINES)] for i in range(count)]
    return [{"color": COLOURS[i % len(COLOURS)], "linestyle": dash} for i, dash in enumerate(dashes)]


def _legend(figure: Figure) -> None:
    """One legend below all panels, each name once."""
    lines = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
    # matplotlib gives labels with an underscore itself; a line without a number is not drawn.
    drawn = {
        label: line
        for label, line in lines.items()
        if not label.startswith("_") and np.isfinite(np.asarray(line.get_ydata(), float)).any()
    }
    if not drawn:
        return
    # In inches: 0.085 for an average letter, 0.7 for the sample of the line and the gaps.
    widest = 0.085 * max(len(label) for label in drawn) + 0.7
    columns = max(1, min(len(drawn), int(figure.get_figwidth() / widest)))
    # A name wider than the figure takes several lines; wide letters are 0.1 inches.
    names = [textwrap.fill(label, int((figure.get_figwidth() - 0.7) / 0.1)) for label in drawn]
    # Only a column of its own has names of several lines.
    lines_below = math.ceil(sum(name.count("\n") + 1 for name in names) / columns)
    # The figure grows by what the legend has beyond three lines of 0.2 inches, or it would take the panels' room.
    figure.set_figheight(figure.get_figheight() + 0.2 * max(0, lines_below - 3))
    figure.legend(list(drawn.values()), names, loc="outside lower center", ncols=columns, frameon=False)


def _draw(axes: Axes, picture: Picture, reach: float) -> Any:
    """Draws one picture; `reach` is the largest weight of the figure, since signed pictures share one scale."""
    styles: dict[str, dict[str, Any]] = {
        "image": {"cmap": "gray", "vmin": 0, "vmax": 1},
        "mask": {"cmap": _MASK, "vmin": 0, "vmax": 1, "interpolation": "nearest"},
        # Nearest: smoothing would show probabilities that no pixel has.
        "probability": {"cmap": _PROBABILITY, "vmin": 0, "vmax": 1, "interpolation": "nearest"},
        "signed": {"cmap": "PuOr", "vmin": -reach, "vmax": reach, "interpolation": "nearest"},
        "feature": {"cmap": "gray", "interpolation": "nearest"},
    }
    # A NaN leaves its pixel open, and the grey behind it shows.
    axes.set(xticks=[], yticks=[], facecolor="0.55")
    # As wide as the picture: a title can be an import path, or have lines of its own.
    title = "\n".join(textwrap.fill(line, 30) for line in picture.title.splitlines())
    axes.set_title(title, fontsize=10)
    return axes.imshow(np.asarray(picture.array), **styles[picture.kind])
