"""Figures from arrays: each function returns a matplotlib Figure, without loading, saving or showing anything.

By default a figure has the size that it needs on a screen. With `width`, in inches, it is drawn for a printed page:
text of 7 to 8 points, lines wrapped accordingly, and panels below one another where they would be too narrow. A column
of a paper is about 3.3 inches wide, a page 6.8; `figure.at_width(3.3)` draws a figure again.

`order` holds all names of a report, in the order of their colours, line styles and markers: a name looks the same in
figures that show different names. By default it is the order of the figure's own names.
"""

import functools
import itertools
import math
import re
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, ParamSpec

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import ListedColormap
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from segjax._checks import check_positive

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
# For a page: the size of text relative to a screen's, and the narrowest panel and picture beside others, in inches.
_PRINTED = 0.7
_NARROWEST_PANEL, _NARROWEST_PICTURE = 2.6, 1.0
# In inches, so that a title of usual length fits.
_LEAST_WIDTH = 6.4
# Width of an average character at 10 points, and height of a line, in inches.
_CHARACTER = 0.085
_LINE = 0.2
_Arguments = ParamSpec("_Arguments")


class Figure(matplotlib.figure.Figure):
    """A figure that can be drawn again at another width."""

    # Size of the text relative to a screen's.
    _scale: float
    _draw: Callable[..., "Figure"]

    def at_width(self, width: float) -> "Figure":
        """The same figure drawn for a page, `width` inches wide."""
        return self._draw(width=width)

    def _characters(self, inches: float) -> int:
        """How many characters of average width fit on a line."""
        return max(1, int(inches / (_CHARACTER * self._scale)))


def resizable(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
    """Lets `at_width` call a function that has an argument `width` and returns a figure of this module."""

    @functools.wraps(draw)
    def drawn(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Figure:
        width: Any = kwargs.get("width")
        if width is not None:
            check_positive("width", width)
        figure = draw(*args, **kwargs)
        figure._draw = functools.partial(drawn, *args, **kwargs)
        return figure

    return drawn


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
        order: names in the order of their colours.
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
    order: Sequence[str] = ()


class Style(NamedTuple):
    """How a name looks in every figure of a report; `line` and `marker` as matplotlib names them."""

    colour: Any
    line: str
    marker: str


class Picture(NamedTuple):
    """An array (height, width), drawn according to its `kind`; an image may be in colour, (height, width, 3).

    An image, a mask and a probability are in [0, 1], and 8-bit colours in 0 ... 255. Signed weights have one scale
    around 0 for the figure. The scale of a feature is from its lowest value to its highest.
    """

    title: str
    array: ArrayLike
    kind: Kind = "image"


@resizable
def training_curves(panels: Sequence[Panel], title: str, *, width: float | None = None) -> Figure:
    """Curves over iterations or another quantity: panels in a row, with one legend."""
    figure, all_axes = _panels(len(panels), (max(5.5 * len(panels), 7.6), 4.6), width)
    for axes, panel in zip(all_axes, panels, strict=True):
        styles = _ordered_styles(panel.curves) if panel.ordered else _styles(panel.curves, panel.order)
        for name, runs in panel.curves.items():
            runs, (colour, line, _) = np.atleast_2d(runs), styles[name]
            x = np.arange(1, runs.shape[1] + 1) if panel.x is None else panel.x
            # Few points are marked; a single one would be invisible without a marker.
            marker = "o" if runs.shape[1] <= _FEW_POINTS else ""
            style = {"color": colour, "linestyle": line, "marker": marker}
            axes.plot(x, runs.mean(axis=0), label=name, linewidth=1.8, markersize=4, **style)
            # The band of a single run would have no area.
            if len(runs) > 1 or name in panel.bands:
                band = panel.bands.get(name, (runs.min(axis=0), runs.max(axis=0)))
                axes.fill_between(x, *band, color=colour, alpha=0.2, linewidth=0)
        for index, (text, x_line) in enumerate(panel.vertical_lines.items()):
            axes.axvline(x_line, color="black", linewidth=1.2, linestyle=_LINES[index % len(_LINES)], label=text)
        _draw_horizontal_lines(axes, panel.horizontal_lines)
        axes.margins(x=0)
        if panel.x is None:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _label(figure, axes, panel.xlabel, panel.ylabel, panel.xlog, panel.log)
        if panel.ylim:
            axes.set_ylim(*panel.ylim)
        axes.grid(alpha=0.3)
    return _finish(figure, title, legend=True)


@resizable
def predictions(
    image: ArrayLike,
    mask: ArrayLike,
    probabilities: Mapping[str, ArrayLike],
    title: str,
    *,
    width: float | None = None,
) -> Figure:
    """Input image, true mask, and predicted probabilities of the mask; all (n, n), in [0, 1].

    Args:
        probabilities: name -> (n, n).
    """
    row = [Picture("input image", image), Picture("true mask", mask, "mask")]
    row += [Picture(name, probability, "probability") for name, probability in probabilities.items()]
    return pictures([row] if width else in_rows(row), title, width=width)


def in_rows(row: Sequence[Picture], longest: int = 5) -> list[list[Picture]]:
    """Pictures in as few rows as possible, with at most `longest` pictures each, of lengths as equal as possible."""
    num_rows = math.ceil(len(row) / longest)
    ends = [math.ceil(len(row) * index / max(1, num_rows)) for index in range(num_rows + 1)]
    return [list(row[start:end]) for start, end in itertools.pairwise(ends)]


@resizable
def pictures(
    grid: Sequence[Sequence[Picture]],
    title: str,
    names: Sequence[str] = (),
    size: float = 2.5,
    bar: str = "",
    *,
    width: float | None = None,
) -> Figure:
    """Pictures in rows, of one or different lengths, with a colour bar for probabilities or signed weights.

    Args:
        names: one for each row, to its left.
        size: width of a picture in inches, unless `width` decides; rows without names are then divided.
        bar: label of the colour bar, if it is neither the probability of the mask nor a weight.
    """
    if width and not names:
        grid = [part for row in grid for part in in_rows(row, max(1, int(width / _NARROWEST_PICTURE)))]
    # In inches, of a colour bar and of the names; on a page the bar is below, since beside it takes a picture's room.
    margin = 0.9 if names or not width else 0.0
    if width:
        size = (width - margin) / max(map(len, grid))
    figure, axes, heights = _picture_axes(grid, size, width)
    # One scale for all signed pictures, symmetric, so that white is 0 in all of them.
    signed = [np.nanmax(np.abs(picture.array)) for row in grid for picture in row if picture.kind == "signed"]
    largest = float(max(signed, default=0.0)) or 1.0
    characters, lines, with_bar = figure._characters(size), 0, None
    for cells, row in zip(axes, grid, strict=True):
        for cell in cells[len(row) :]:
            cell.axis("off")
        for cell, picture in zip(cells, row, strict=False):
            artist = _draw(cell, picture, largest, characters)
            with_bar = (picture.kind, artist) if picture.kind in _BARS else with_bar
        lines += max((cell.get_title().count("\n") for cell in cells), default=0)
    # `strict=False`: pictures may have no row names.
    for name, cells, height in zip(names, axes, heights, strict=False):
        # Wrapped, so that a long name, such as an import path, is not higher than its picture.
        cells[0].set_ylabel(textwrap.fill(name, figure._characters(height)))
    if with_bar:
        kind, artist = with_bar
        if margin:
            figure.colorbar(artist, ax=axes[:, -1], label=bar or _BARS[kind], shrink=max(0.5, 1 / len(grid)))
        else:
            figure.colorbar(artist, ax=axes, label=bar or _BARS[kind], location="bottom", aspect=40)
            lines += 3
    figure.set_figheight(figure.get_figheight() + _LINE * figure._scale * lines)
    return _finish(figure, title)


@resizable
def bars(
    values: Mapping[str, np.ndarray], xlabel: str, title: str, log: bool = True, *, width: float | None = None
) -> Figure:
    """A horizontal bar for each name: the median of its values, with their range.

    Args:
        values: name -> (repeats,).
        xlabel: the quantity with its unit.
    """
    figure, (axes,) = _panels(1, (8.4, 0.45 * len(values) + 1.6), width)
    # The median, since times on a shared machine have outliers on one side.
    medians = np.array([np.median(repeats) for repeats in values.values()])
    ranges = np.array([[np.median(r) - np.min(r), np.max(r) - np.median(r)] for r in values.values()]).T
    whiskers = ranges if ranges.any() else None
    # matplotlib warns of a logarithmic axis without a number above 0.
    log &= bool((medians > 0).any())
    axes.barh(range(len(values)), medians, xerr=whiskers, color=COLOURS[0], ecolor="black", capsize=3, log=log)
    _rows(figure, axes, values)
    _label(figure, axes, xlabel, xlog=log)
    axes.grid(axis="x", alpha=0.3)
    return _finish(figure, title)


@resizable
def heatmap(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    labels: Sequence[str],
    form: str,
    title: str,
    ranks: np.ndarray | None = None,
    *,
    width: float | None = None,
) -> Figure:
    """A matrix (rows, columns) as colours, with its values as text.

    Args:
        labels: of the vertical axis, the horizontal axis, and the colour.
        form: format of a value, such as ".3f"; a value that is not finite has no text.
        ranks: (rows, columns), larger is better, for columns with different units: the colours of each column are from
            its worst to its best; equal ranks and those that are not finite have none. Without ranks, the colours are
            those of the values.
    """
    size = max(1.0 * len(columns) + 3.2, 6.0), max(0.62 * len(rows) + 2.0, 3.2)
    figure, (axes,) = _panels(1, size, width)
    shades = np.asarray(values, float) if ranks is None else _column_shades(np.asarray(ranks, float))
    # With ranks, the scale is from worst to best even if no column has colours.
    finite = shades[np.isfinite(shades)]
    low, high = (0.0, 1.0) if ranks is not None or not finite.size else (finite.min(), finite.max())
    colours = axes.imshow(shades, cmap=_PROBABILITY, aspect="auto", vmin=low, vmax=high)
    axes.set_facecolor("0.93")
    texts = {index: format(value, form) for index, value in np.ndenumerate(values) if np.isfinite(value)}
    # Names, labels and the colour bar take about 2.2 inches; what is wider than its cell is turned.
    cell = figure._characters((figure.get_figwidth() - 2.2 * figure._scale) / len(columns))
    headings = [textwrap.fill(name, cell, break_long_words=False) for name in columns]
    turned = [90 * any(len(word) > cell for word in words) for words in (" ".join(columns).split(), texts.values())]
    axes.set_xticks(range(len(columns)), columns if turned[0] else headings, rotation=turned[0])
    axes.set_yticks(range(len(rows)), rows)
    axes.set(ylabel=labels[0], xlabel=labels[1])
    # Black on the bright half of cividis and without a colour, white on the dark half.
    for (row, column), text in texts.items():
        colour = "white" if shades[row, column] <= (low + high) / 2 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, rotation=turned[1])
    bar = figure.colorbar(colours, ax=axes, label=labels[2])
    if ranks is not None:
        bar.set_ticks([0, 1], labels=["worst", "best"])
    return _finish(figure, title)


def _column_shades(ranks: np.ndarray) -> np.ndarray:
    """Ranks (rows, columns) scaled to 0 for the worst and 1 for the best of each column.

    A rank that is not finite, and a column of equal ranks, have no shade: NaN.
    """
    finite = np.ma.masked_invalid(ranks)
    worst = finite.min(axis=0)
    shades: np.ndarray = ((finite - worst) / np.ma.masked_equal(finite.max(axis=0) - worst, 0)).filled(np.nan)
    return shades


@resizable
def scores(
    values: Mapping[str, np.ndarray],
    groups: Sequence[str],
    xlabels: Sequence[str],
    title: str,
    *,
    order: Sequence[str] = (),
    width: float | None = None,
) -> Figure:
    """One panel per quantity, one row per name: one dot per run, and a bar at their mean.

    Args:
        values: name -> (quantities, runs).
        groups: titles of the panels.
        xlabels: the quantities with their units.
    """
    figure, panels = _panels(len(groups), (3.3 * len(groups) + 1.6, 0.42 * len(values) + 1.7), width, sharey=True)
    styles = _styles(values, order)
    for index, (axes, group, xlabel) in enumerate(zip(panels, groups, xlabels, strict=True)):
        for row, (name, runs) in enumerate(values.items()):
            axes.plot(
                runs[index], np.full(len(runs[index]), row), "o", color=styles[name].colour, alpha=0.6, markersize=5
            )
            axes.plot(np.mean(runs[index]), row, "|", color="black", markersize=14, markeredgewidth=2)
        axes.set(title=group)
        _label(figure, axes, xlabel)
        axes.grid(alpha=0.3)
    _rows(figure, panels[0], values)
    return _finish(figure, title)


@resizable
def dots(
    values: Mapping[str, np.ndarray],
    reference: np.ndarray,
    xlabel: str,
    labels: tuple[str, str],
    title: str,
    *,
    width: float | None = None,
) -> Figure:
    """One row per name, with a logarithmic axis: one dot per run, and a diamond at a reference value.

    Args:
        values: name -> (runs,).
        reference: (names,).
        xlabel: the quantity with its unit.
        labels: of the dots and of the diamonds.
    """
    figure, (axes,) = _panels(1, (7.6, 0.3 * len(values) + 1.9), width)
    for row, runs in enumerate(values.values()):
        axes.plot(runs, np.full(len(runs), row), "o", color=COLOURS[0], alpha=0.7, label=labels[0])
    axes.plot(reference, range(len(values)), "D", color=COLOURS[1], fillstyle="none", markersize=8, label=labels[1])
    _rows(figure, axes, values)
    _label(figure, axes, xlabel, xlog=True)
    axes.grid(alpha=0.3, which="both")
    return _finish(figure, title, legend=True)


@resizable
def sensitivity(
    rates: np.ndarray,
    losses: Mapping[str, np.ndarray],
    diverged: Mapping[str, np.ndarray],
    ylabel: str,
    title: str,
    bands: Mapping[str, Band] = MappingProxyType({}),
    *,
    order: Sequence[str] = (),
    width: float | None = None,
) -> Figure:
    """Loss against learning rate, both logarithmic: mean and band over seeds, with crosses for diverged runs.

    Args:
        rates: (rates,).
        losses: name -> (seeds, rates), NaN for a run that does not exist.
        diverged: name -> (seeds, rates), bool; a cross at the top edge marks a diverged run, which the mean excludes.
        bands: name -> lower and upper edge, (rates,) each, NaN for a gap; by default, the range of the seeds.
    """
    figure, (axes,) = _panels(1, (7.6, 4.9), width)
    crosses = []
    for name, (colour, line, marker) in _styles(losses, order).items():
        values = losses[name]
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
    _label(figure, axes, "learning rate", ylabel, xlog=True, ylog=True)
    _draw_crosses(axes, crosses)
    axes.grid(alpha=0.3, which="both")
    return _finish(figure, title, legend=True)


@resizable
def differences(
    estimates: Mapping[str, Sequence[tuple[float, float, float]]],
    pairs: Mapping[str, Sequence[np.ndarray]],
    xlabels: Sequence[str],
    higher_is_better: Sequence[bool],
    title: str,
    *,
    order: Sequence[str] = (),
    width: float | None = None,
) -> Figure:
    """One panel per quantity, one row per name: a difference, its interval over the pairs, and a line at 0.

    Args:
        estimates: name -> (value, low, high) for each quantity; values that are not finite are not drawn.
        pairs: name -> (pairs,) for each quantity: the single differences, one small dot per pair.
        xlabels: the quantities with their units.
        higher_is_better: for each quantity; an arrow shows the direction.
    """
    size = max(3.9 * len(xlabels) + 1.6, 7.6), 0.42 * len(estimates) + 2.0
    figure, panels = _panels(len(xlabels), size, width, sharey=True)
    styles = _styles(estimates, order)
    for index, (axes, xlabel, higher) in enumerate(zip(panels, xlabels, higher_is_better, strict=True)):
        axes.axvline(0, color="black", linewidth=1)
        for row, (name, intervals) in enumerate(estimates.items()):
            value, low, high = intervals[index]
            axes.plot([low, high], [row, row], color=styles[name].colour, linewidth=2)
            axes.plot(value, row, "o", color=styles[name].colour)
            # Below the interval, so that neither hides the other.
            single = pairs[name][index]
            axes.plot(single, np.full(len(single), row + 0.22), ".", color="0.35", markersize=4)
        # At the end of the axis to which it points.
        side: Literal["left", "right"] = "right" if higher else "left"
        arrow = "better \N{RIGHTWARDS ARROW}" if higher else "\N{LEFTWARDS ARROW} better"
        axes.set_title(arrow, loc=side, fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        _label(figure, axes, xlabel)
        axes.grid(alpha=0.3)
    _rows(figure, panels[0], estimates)
    # A long label, such as one with an import path, makes the figure higher, not the panels lower.
    lines = max(axes.get_xlabel().count("\n") for axes in panels)
    figure.set_figheight(figure.get_figheight() + _LINE * figure._scale * lines)
    return _finish(figure, title)


@resizable
def tradeoff(
    points: Mapping[str, tuple[float, float]],
    xlabel: str,
    ylabel: str,
    title: str,
    xlog: bool = True,
    horizontal_lines: Mapping[str, float] = MappingProxyType({}),
    *,
    order: Sequence[str] = (),
    width: float | None = None,
) -> Figure:
    """One point (x, y) per name, with a legend; `horizontal_lines` are text -> y."""
    figure, (axes,) = _panels(1, (7.6, 4.9), width)
    for name, (colour, _, marker) in _styles(points, order).items():
        axes.plot(*points[name], marker, color=colour, markersize=8, label=name)
    _draw_horizontal_lines(axes, horizontal_lines)
    axes.margins(0.12)
    _label(figure, axes, xlabel, ylabel, xlog)
    axes.grid(alpha=0.3, which="both")
    return _finish(figure, title, legend=True)


# `Figure` and not `pyplot`, which keeps references to all figures, and opens windows.
def _figure(size: tuple[float, float], width: float | None) -> Figure:
    """An empty figure of this size in inches; `width` replaces that of the size, and asks for text of a page."""
    figure = Figure(figsize=(width or size[0], size[1]), layout="constrained")
    figure._scale = _PRINTED if width else 1.0
    return figure


def _panels(
    count: int, size: tuple[float, float], width: float | None, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, of this size in inches, or on a page in several rows of nearly this height."""
    columns, height = count, size[1]
    if width:
        columns = max(1, min(count, int(width / _NARROWEST_PANEL)))
        # The title and the legend take a quarter, once.
        height *= _PRINTED * (0.25 + 0.75 * math.ceil(count / columns))
    figure = _figure((size[0], height), width)
    axes = list(figure.subplots(math.ceil(count / columns), columns, squeeze=False, sharey=sharey).flat)
    for empty in axes[count:]:
        empty.remove()
    return figure, axes[:count]


def _picture_axes(
    grid: Sequence[Sequence[Picture]], size: float, width: float | None
) -> tuple[Figure, np.ndarray, list[float]]:
    """A figure for pictures, `size` inches wide each: its axes (rows, columns) and the height of each row in inches."""
    # A row has the height of its tallest picture, but a picture more than twice as high as wide is drawn narrower.
    shapes = [[np.shape(picture.array)[:2] for picture in row] for row in grid]
    heights = [size * min(2, max(high / wide for high, wide in row)) for row in shapes]
    rows, columns = len(grid), max(map(len, grid))
    figure = _figure((max(size * columns + 0.9, _LEAST_WIDTH), sum(heights) + 0.1 * rows + 0.8), width)
    return figure, figure.subplots(rows, columns, squeeze=False, height_ratios=heights), heights


def _finish(figure: Figure, title: str, legend: bool = False) -> Figure:
    """Adds the title and the legend, after everything else is drawn."""
    if figure._scale != 1:
        for text in figure.findobj(Text):
            text.set_fontsize(float(text.get_fontsize()) * figure._scale)
        for axes in figure.axes:
            # Of ticks that matplotlib makes later.
            axes.tick_params(labelsize=10 * figure._scale)
    if legend:
        _legend(figure)
    # The title is wrapped: its characters are half as wide again as those of labels.
    characters = figure._characters(figure.get_figwidth() / 1.5)
    figure.suptitle(_balanced(title, max(20, characters)), fontsize=12 * figure._scale)
    return figure


def _label(figure: Figure, axes: Axes, xlabel: str, ylabel: str = "", xlog: bool = False, ylog: bool = False) -> None:
    """Labels the axes, after their data are drawn: wrapped to the panel, and with the word that a scale is log."""
    spec = axes.get_subplotspec()
    rows, columns = spec.get_geometry()[:2] if spec else (1, 1)
    # Without the other axis's labels, the title and the legend.
    lengths = figure.get_figwidth() / columns - 0.8 * figure._scale, figure.get_figheight() / rows - 1.2 * figure._scale
    for name, text, log, length in zip("xy", (xlabel, ylabel), (xlog, ylog), lengths, strict=True):
        if log:
            _make_log(axes, name)
            text += ", log scale"
        axes.set(**{f"{name}label": _balanced(text, figure._characters(length))})


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


def _draw_crosses(axes: Axes, crosses: Sequence[tuple[np.ndarray, str]]) -> None:
    """Crosses at the top edge, x and colour of each name."""
    # At the top edge, above all curves: one row per name, so that none hides another.
    low, high = np.log(axes.get_ylim())
    step = min(0.05, 0.5 / max(1, len(crosses)))
    axes.set_ylim(np.exp(low), np.exp(low + (high - low) / (1 - step * (len(crosses) + 0.2))))
    top = axes.get_xaxis_transform()
    for index, (x, colour) in enumerate(crosses):
        heights = np.full(len(x), 0.97 - step * index)
        # The grey ones below are those of the legend, since they have the colour of no name.
        axes.plot(x, heights, "x", color="0.3", markersize=8, transform=top, label="diverged")
        axes.plot(x, heights, "x", color=colour, markersize=8, transform=top, label="")


def _rows(figure: Figure, axes: Axes, names: Collection[str]) -> None:
    """One row per name, the first at the top."""
    characters = figure._characters(0.42 * figure.get_figwidth())
    axes.set_yticks(range(len(names)), [textwrap.fill(name, characters) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)


def _make_log(axes: Axes, name: str) -> None:
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


def _styles(names: Collection[str], order: Sequence[str]) -> dict[str, Style]:
    """The style of each name, by its place in the order."""
    places = {name: place for place, name in reversed([*enumerate([*order, *names])])}
    styles = {}
    for name in names:
        # More than six colours are hard to distinguish: line and marker change each time the colours repeat.
        colour, turn = places[name] % len(COLOURS), places[name] + places[name] // len(COLOURS)
        styles[name] = Style(COLOURS[colour], _LINES[turn % len(_LINES)], _MARKERS[turn % len(_MARKERS)])
    return styles


def _ordered_styles(names: Collection[str]) -> dict[str, Style]:
    """From dark to light."""
    last = max(len(names) - 1, 1)
    return {name: Style(_PROBABILITY(0.95 * i / last), _LINES[i % 2], _MARKERS[0]) for i, name in enumerate(names)}


def _legend(figure: Figure) -> None:
    """Adds one legend below all panels, with each name once."""
    named = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
    # Labels with an underscore are matplotlib's defaults; a line without a finite value is not visible.
    visible = {
        label: line
        for label, line in named.items()
        if not label.startswith("_") and np.isfinite(np.asarray(line.get_ydata(), float)).any()
    }
    if not visible:
        return
    # In inches: the characters, and 0.8 for the line's sample and the gaps.
    scale, width = figure._scale, figure.get_figwidth()
    widest = scale * (_CHARACTER * max(len(label) for label in visible) + 0.8)
    columns = max(1, min(len(visible), int(width / widest)))
    # A name wider than the figure is wrapped; wide characters have 0.1 inches.
    names = [textwrap.fill(label, int((width / scale - 0.8) / 0.1)) for label in visible]
    # Names are wrapped only if there is one column.
    lines_below = math.ceil(sum(name.count("\n") + 1 for name in names) / columns)
    # The figure grows by the height of the legend beyond three lines; the panels would shrink otherwise.
    figure.set_figheight(figure.get_figheight() + _LINE * scale * max(0, lines_below - 3))
    lines, size = list(visible.values()), 10 * scale
    figure.legend(
        lines, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=size, handlelength=2.8
    )


def _draw(axes: Axes, picture: Picture, largest: float, characters: int) -> Any:
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
    title = "\n".join(textwrap.fill(line, characters) for line in picture.title.splitlines())
    axes.set_title(title, fontsize=10)
    return axes.imshow(np.asarray(picture.array), **styles[picture.kind])
