"""Figures from arrays: each function returns a matplotlib Figure, without loading, saving or showing anything."""

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
# Spaces of a title at which no line ends.
_UNBROKEN = re.compile(r"(?<=\d) (?=x \d|%)|(?<=\d x) (?=\d)| (?== )|(?<= =) ")
Kind = Literal["image", "mask", "probability", "signed", "feature"]


class Panel(NamedTuple):
    """One panel of curves: the mean over runs, in a band from the lowest run to the highest.

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
        ordered: the curves belong to increasing values, such as learning rates, and are coloured from dark to light.
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
    """An array (height, width), drawn according to its `kind`; an image may be in colour, (height, width, 3).

    An image, a mask and a probability are in [0, 1], and 8-bit colours in 0 ... 255. Signed weights have one scale
    around 0 for the figure. The scale of a feature is from its lowest value to its highest.
    """

    title: str
    array: ArrayLike
    kind: Kind = "image"


def training_curves(panels: Sequence[Panel], title: str) -> Figure:
    """Curves over iterations or another quantity: panels in a row, with one legend."""
    figure = Figure(figsize=(max(5.5 * len(panels), 7.6), 4.6), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        styles = _styles(len(panel.curves), panel.ordered)
        for (name, runs), style in zip(panel.curves.items(), styles, strict=True):
            runs = np.atleast_2d(runs)
            x = np.arange(1, runs.shape[1] + 1) if panel.x is None else panel.x
            # Few points are marked; a single one would be invisible without a marker.
            marker = "o" if runs.shape[1] <= _FEW_POINTS else ""
            axes.plot(x, runs.mean(axis=0), label=name, linewidth=1.8, marker=marker, markersize=4, **style)
            # The band of a single run would have no area.
            if len(runs) > 1 or name in panel.bands:
                band = panel.bands.get(name, (runs.min(axis=0), runs.max(axis=0)))
                axes.fill_between(x, *band, color=style["color"], alpha=0.2, linewidth=0)
        for index, (text, x_line) in enumerate(panel.vertical_lines.items()):
            axes.axvline(x_line, color="black", linewidth=1.2, linestyle=_LINES[index % len(_LINES)], label=text)
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
    """Input image, true mask, and predicted probabilities of the mask; all (n, n), in [0, 1].

    Args:
        probabilities: name -> (n, n).
    """
    row = [Picture("input image", image), Picture("true mask", mask, "mask")]
    row += [Picture(name, probability, "probability") for name, probability in probabilities.items()]
    return pictures(in_rows(row), title)


def in_rows(row: Sequence[Picture], longest: int = 5) -> list[list[Picture]]:
    """Pictures in as few rows as possible, with at most `longest` pictures each, of lengths as equal as possible."""
    num_rows = math.ceil(len(row) / longest)
    ends = [math.ceil(len(row) * index / max(1, num_rows)) for index in range(num_rows + 1)]
    return [list(row[start:end]) for start, end in itertools.pairwise(ends)]


def pictures(
    grid: Sequence[Sequence[Picture]], title: str, names: Sequence[str] = (), size: float = 2.5, bar: str = ""
) -> Figure:
    """Pictures in rows, of one or different lengths, with a colour bar for probabilities or signed weights.

    Args:
        names: one for each row, to its left.
        size: width of a picture in inches.
        bar: label of the colour bar, if it is neither the probability of the mask nor a weight.
    """
    rows, columns = len(grid), max(map(len, grid))
    # A row has the height of its tallest picture, but a picture more than twice as high as wide is drawn narrower.
    shapes = [[np.shape(picture.array)[:2] for picture in row] for row in grid]
    heights = [size * min(2, max(height / width for height, width in row)) for row in shapes]
    # At least 6.4 inches, so that a title of usual length fits.
    figsize = (max(size * columns + 0.9, 6.4), sum(heights) + 0.1 * rows + 0.8)
    figure = Figure(figsize=figsize, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    # One scale for all signed pictures, symmetric, so that white is 0 in all of them.
    signed = [np.nanmax(np.abs(picture.array)) for row in grid for picture in row if picture.kind == "signed"]
    largest = float(max(signed, default=0.0)) or 1.0
    with_bar = None
    for cells, row in zip(axes, grid, strict=True):
        for cell in cells[len(row) :]:
            cell.axis("off")
        for cell, picture in zip(cells, row, strict=False):
            artist = _draw(cell, picture, largest)
            with_bar = (picture.kind, artist) if picture.kind in _BARS else with_bar
    # `strict=False`: pictures may have no row names.
    for name, cells in zip(names, axes, strict=False):
        # Wrapped, so that a long name, such as an import path, is not higher than its picture.
        cells[0].set_ylabel(textwrap.fill(name, 26), fontsize=11)
    if with_bar:
        kind, artist = with_bar
        figure.colorbar(artist, ax=axes[:, -1], label=bar or _BARS[kind], shrink=max(0.5, 1 / rows))
    return _finish(figure, title)


def bars(values: Mapping[str, np.ndarray], xlabel: str, title: str, log: bool = True) -> Figure:
    """A horizontal bar for each name: the median of its values, with their range.

    Args:
        values: name -> (repeats,).
        xlabel: the quantity with its unit.
    """
    figure, axes = _single(8.4, 0.45 * len(values) + 1.6)
    # The median, since times on a shared machine have outliers on one side.
    medians = np.array([np.median(repeats) for repeats in values.values()])
    ranges = np.array([[np.median(r) - np.min(r), np.max(r) - np.median(r)] for r in values.values()]).T
    whiskers = ranges if ranges.any() else None
    # matplotlib warns of a logarithmic axis without a number above 0.
    log &= bool((medians > 0).any())
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
    """A matrix (rows, columns) as colours, with its values as text.

    Args:
        labels: of the vertical axis, the horizontal axis, and the colour.
        form: format of a value, such as ".3f"; a value that is not finite has no text.
        ranks: (rows, columns), larger is better, for columns with different units: the colours of each column are from
            its worst to its best. Without ranks, the colours are those of the values.
    """
    figure, axes = _single(max(1.0 * len(columns) + 3.2, 6.0), max(0.62 * len(rows) + 2.0, 3.2))
    shades = np.asarray(values, float)
    if ranks is not None:
        # A value that is not finite is the worst; in a column of equal values all are the best.
        finite = np.isfinite(ranks)
        worst = np.where(finite, ranks, np.inf).min(axis=0)
        best = np.where(finite, ranks, -np.inf).max(axis=0)
        ranks = np.where(finite, ranks, np.nan)
        shades = np.where(best > worst, (ranks - worst) / np.where(best > worst, best - worst, 1), 1.0)
        shades = np.where(finite, shades, 0.0)
    # With ranks, the scale is from worst to best even if all columns have equal values, such as those of a single row.
    finite_shades = shades[np.isfinite(shades)]
    fixed = ranks is not None or not finite_shades.size
    low, high = (0.0, 1.0) if fixed else (finite_shades.min(), finite_shades.max())
    colours = axes.imshow(shades, cmap=_PROBABILITY, aspect="auto", vmin=low, vmax=high)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(ylabel=labels[0], xlabel=labels[1])
    # Black on the bright half of cividis, white on the dark half.
    middle = (low + high) / 2
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "black" if shades[row, column] > middle else "white"
            axes.text(column, row, format(value, form), ha="center", va="center", color=colour)
    bar = figure.colorbar(colours, ax=axes, label=labels[2])
    if ranks is not None:
        bar.set_ticks([0, 1], labels=["worst", "best"])
    return _finish(figure, title)


def scores(values: Mapping[str, np.ndarray], groups: Sequence[str], xlabels: Sequence[str], title: str) -> Figure:
    """One panel per quantity, one row per name: one dot per run, and a bar at their mean.

    Args:
        values: name -> (quantities, runs).
        groups: titles of the panels.
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
    """One row per name, with a logarithmic axis: one dot per run, and a diamond at a reference value.

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
    """Loss against learning rate, both logarithmic: mean and band over seeds, with crosses for diverged runs.

    Args:
        rates: (rates,).
        losses: name -> (seeds, rates), NaN for a run that does not exist.
        diverged: name -> (seeds, rates), bool; a cross at the top edge marks a diverged run, which the mean excludes.
        bands: name -> lower and upper edge, (rates,) each, NaN for a gap; by default, the range of the seeds.
    """
    figure, axes = _single(7.6, 4.9)
    crosses = []
    for index, (name, values) in enumerate(losses.items()):
        colour, line, marker = (styles[index % len(styles)] for styles in (COLOURS, _LINES, _MARKERS))
        # Masked, not NaN: NumPy warns of the mean of no value.
        finite = np.ma.masked_invalid(np.where(diverged[name], np.nan, values))
        band = bands.get(name, (finite.min(axis=0), finite.max(axis=0)))
        # Rates without a run of this name are left out; as NaN they would interrupt the line.
        with_runs = np.isfinite(values).any(axis=0) | diverged[name].any(axis=0)
        x, mean = rates[with_runs], finite.mean(axis=0)[with_runs]
        axes.plot(x, mean, color=colour, linestyle=line, marker=marker, label=name)
        axes.fill_between(x, *(edge[with_runs] for edge in band), color=colour, alpha=0.2, linewidth=0)
        if (diverged_rates := rates[diverged[name].any(axis=0)]).size:
            crosses.append((diverged_rates, colour))
    axes.set(xlabel="learning rate", ylabel=ylabel)
    _make_log(axes, "x")
    _make_log(axes, "y")
    # At the top edge, above all curves: one row per name, so that none hides another.
    low, high = np.log(axes.get_ylim())
    step = min(0.05, 0.5 / max(1, len(crosses)))
    axes.set_ylim(np.exp(low), np.exp(low + (high - low) / (1 - step * (len(crosses) + 0.2))))
    for index, (x, colour) in enumerate(crosses):
        heights = np.full(len(x), 0.97 - step * index)
        label = "" if index else "some seed diverged"
        axes.plot(x, heights, "x", color=colour, markersize=8, transform=axes.get_xaxis_transform(), label=label)
    axes.grid(alpha=0.3, which="both")
    return _finish(figure, title, legend=True)


def differences(
    estimates: Mapping[str, Sequence[tuple[float, float, float]]],
    pairs: Mapping[str, Sequence[np.ndarray]],
    xlabels: Sequence[str],
    higher_is_better: Sequence[bool],
    title: str,
) -> Figure:
    """One panel per quantity, one row per name: a difference, its interval over the pairs, and a line at 0.

    Args:
        estimates: name -> (value, low, high) for each quantity; values that are not finite are not drawn.
        pairs: name -> (pairs,) for each quantity: the single differences, one small dot per pair.
        xlabels: the quantities with their units.
        higher_is_better: for each quantity; an arrow shows the direction.
    """
    # Wrapped to the width of its panel: it can contain an import path.
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
            single = pairs[name][index]
            axes.plot(single, np.full(len(single), row + 0.22), ".", color="0.35", markersize=4)
        # At the end of the axis to which it points.
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
    """One point (x, y) per name, with a legend; `horizontal_lines` are text -> y."""
    figure, axes = _single(7.6, 4.9)
    for index, (name, (x, y)) in enumerate(points.items()):
        # The markers shift each time the colours repeat, so that no two of 36 names look the same.
        marker = _MARKERS[(index + index // len(COLOURS)) % len(_MARKERS)]
        axes.plot(x, y, marker, color=COLOURS[index % len(COLOURS)], markersize=8, label=name)
    _draw_horizontal_lines(axes, horizontal_lines)
    axes.margins(0.12)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if xlog:
        _make_log(axes, "x")
    axes.grid(alpha=0.3, which="both")
    return _finish(figure, title, legend=True)


# `Figure` and not `pyplot`, which keeps references to all figures, and opens windows.
def _single(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one panel, of this size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _finish(figure: Figure, title: str, legend: bool = False) -> Figure:
    """Adds the title and the legend, after everything else is drawn."""
    if legend:
        _legend(figure)
    # The title is wrapped: a character is about 0.13 inches wide.
    figure.suptitle(_balanced(title, max(20, int(figure.get_figwidth() / 0.13))))
    return figure


def _balanced(text: str, width: int) -> str:
    """The text in as few lines as possible, of similar lengths."""
    # For textwrap, no-break spaces are characters: "32 x 32", "95 %" and "sigma = 15" stay in one line.
    text = _UNBROKEN.sub("\N{NO-BREAK SPACE}", " ".join(text.split()))
    fewest = max(1, len(textwrap.wrap(text, width)))
    # A line shorter than a word would cut it.
    longest = max(1, *map(len, text.split(" ")))
    lengths = range(min(longest, width), width + 1)
    lines = next(lines for length in lengths if (lines := textwrap.fill(text, length)).count("\n") < fewest)
    return lines.replace("\N{NO-BREAK SPACE}", " ")


def _draw_horizontal_lines(axes: Axes, horizontal_lines: Mapping[str, float]) -> None:
    for index, (text, y) in enumerate(horizontal_lines.items()):
        axes.axhline(y, color="black", linewidth=1.2, linestyle=_LINES[(index + 1) % len(_LINES)], label=text)


def _rows(axes: Axes, names: Collection[str]) -> None:
    """One row per name, the first at the top."""
    axes.set_yticks(range(len(names)), [textwrap.fill(name, 40) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)


def _make_log(axes: Axes, name: Literal["x", "y"]) -> None:
    """Makes an axis logarithmic, after its data are drawn: plain numbers on a short axis, powers of ten otherwise."""
    axis: Axis = axes.xaxis if name == "x" else axes.yaxis
    if not np.isfinite(axis.get_minpos()):
        # No number is above 0, or all runs diverged: matplotlib would warn.
        (axes.set_xlim if name == "x" else axes.set_ylim)(0.1, 1.0)
    # With matplotlib's default ticks, an axis of less than a decade has one label, or none.
    (axes.set_xscale if name == "x" else axes.set_yscale)("log")
    low, high = axis.get_view_interval()
    short = high / 300 < low
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}") if short else LogFormatterSciNotation())
    # A single label does not define a scale: finer ticks, until there are two.
    for subs in ((1, 2, 5), range(1, 10)) if short else ((1,),):
        axis.set_major_locator(LogLocator(subs=subs, numticks=99))
        if np.sum((axis.get_majorticklocs() >= low) & (axis.get_majorticklocs() <= high)) > 1:
            break
    else:
        axis.set_major_locator(MaxNLocator(4))
    axis.set_minor_formatter(NullFormatter())


def _styles(count: int, ordered: bool) -> list[dict[str, Any]]:
    """A colour and a line style for each curve."""
    if ordered:
        return [{"color": _PROBABILITY(0.95 * i / max(count - 1, 1)), "linestyle": _LINES[i % 2]} for i in range(count)]
    # More than six colours are hard to distinguish: the line style changes each time the colours repeat.
    dashes = [_LINES[(i + i // len(COLOURS)) % len(_LINES)] for i in range(count)]
    return [{"color": COLOURS[i % len(COLOURS)], "linestyle": dash} for i, dash in enumerate(dashes)]


def _legend(figure: Figure) -> None:
    """Adds one legend below all panels, with each name once."""
    lines = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
    # Labels with an underscore are matplotlib's defaults; a line without a finite value is not visible.
    visible = {
        label: line
        for label, line in lines.items()
        if not label.startswith("_") and np.isfinite(np.asarray(line.get_ydata(), float)).any()
    }
    if not visible:
        return
    # In inches: 0.085 for an average character, 0.7 for the line's sample and the gaps.
    widest = 0.085 * max(len(label) for label in visible) + 0.7
    columns = max(1, min(len(visible), int(figure.get_figwidth() / widest)))
    # A name wider than the figure is wrapped; wide characters have 0.1 inches.
    names = [textwrap.fill(label, int((figure.get_figwidth() - 0.7) / 0.1)) for label in visible]
    # Names are wrapped only if there is one column.
    lines_below = math.ceil(sum(name.count("\n") + 1 for name in names) / columns)
    # The figure grows by the height of the legend beyond three lines of 0.2 inches; the panels would shrink otherwise.
    figure.set_figheight(figure.get_figheight() + 0.2 * max(0, lines_below - 3))
    figure.legend(list(visible.values()), names, loc="outside lower center", ncols=columns, frameon=False)


def _draw(axes: Axes, picture: Picture, largest: float) -> Any:
    """Draws one picture; signed pictures share one scale, from `-largest` to `largest`."""
    styles: dict[str, dict[str, Any]] = {
        "image": {"cmap": "gray", "vmin": 0, "vmax": 1},
        "mask": {"cmap": _MASK, "vmin": 0, "vmax": 1, "interpolation": "nearest"},
        # Without interpolation, which would show probabilities that no pixel has.
        "probability": {"cmap": _PROBABILITY, "vmin": 0, "vmax": 1, "interpolation": "nearest"},
        "signed": {"cmap": "PuOr", "vmin": -largest, "vmax": largest, "interpolation": "nearest"},
        "feature": {"cmap": "gray", "interpolation": "nearest"},
    }
    # The pixel of a NaN is transparent and shows the grey background.
    axes.set(xticks=[], yticks=[], facecolor="0.55")
    # Wrapped to the width of the picture: a title can be an import path, or contain line breaks.
    title = "\n".join(textwrap.fill(line, 30) for line in picture.title.splitlines())
    axes.set_title(title, fontsize=10)
    return axes.imshow(np.asarray(picture.array), **styles[picture.kind])
