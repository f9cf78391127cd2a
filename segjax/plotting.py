"""Figures from arrays: each function returns a matplotlib Figure, without loading, saving or showing anything.

By default a figure has the size that it needs on a screen. With `width`, in inches, it is drawn for a printed page:
text of 7 to 8 points, lines wrapped accordingly, and panels below one another where they would be too narrow. A column
of a paper is about 3.3 inches wide, a page 6.8; `figure.at_width(3.3)` draws a figure again.

`order` holds all names of a report, in the order of their colours, line styles and markers: a name looks the same in
figures that show different names. By default it is the order of the figure's own names.
"""

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from segjax._checks import check_count, check_flags, check_positive
from segjax._figures import (
    COLOURS,
    LINES,
    PROBABILITY,
    Figure,
    check_axes,
    check_length,
    empty_figure,
    finish,
    label_axes,
    label_rows,
    ordered_styles,
    panel_axes,
    resizable,
    styles_of,
)

# The lower and the upper end of an interval along a curve.
Band = tuple[np.ndarray, np.ndarray]
_FEW_POINTS = 12
_BARS = {"probability": "probability of the mask", "signed": "weight"}
_MASK = ListedColormap([PROBABILITY(0.0), PROBABILITY(1.0)])
Kind = Literal["image", "mask", "probability", "signed", "feature"]
# The narrowest picture beside others on a page, in inches.
_NARROWEST_PICTURE = 1.0
_PIXELS = "(height, width) or (height, width, 3) or (height, width, 4)"
# In inches, so that a title of usual length fits.
_LEAST_WIDTH = 6.4


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
    figure, all_axes = panel_axes(len(panels), (max(5.5 * len(panels), 7.6), 4.6), width)
    for axes, panel in zip(all_axes, panels, strict=True):
        styles = ordered_styles(panel.curves) if panel.ordered else styles_of(panel.curves, panel.order)
        for name, runs in panel.curves.items():
            shape = check_axes(f"{name} of curves", runs, "(points,) or (runs, points), at least one number")
            for edge in panel.bands.get(name, ()):
                check_axes(f"{name} of bands", edge, f"{shape[-1:]}")
            if panel.x is not None:
                check_axes("x", panel.x, f"{shape[-1:]}")
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
            axes.axvline(x_line, color="black", linewidth=1.2, linestyle=LINES[index % len(LINES)], label=text)
        _draw_horizontal_lines(axes, panel.horizontal_lines)
        axes.margins(x=0)
        if panel.x is None:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        label_axes(figure, axes, panel.xlabel, panel.ylabel, panel.xlog, panel.log)
        if panel.ylim:
            axes.set_ylim(*panel.ylim)
        axes.grid(alpha=0.3)
    return finish(figure, title, legend=True)


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
    shape = check_axes("image", image, "(height, width), at least one number")
    for name, array in [("mask", mask), *((f"{name} of probabilities", each) for name, each in probabilities.items())]:
        check_axes(name, array, f"{shape}")
    row = [Picture("input image", image), Picture("true mask", mask, "mask")]
    row += [Picture(name, probability, "probability") for name, probability in probabilities.items()]
    return pictures([row] if width else in_rows(row), title, width=width)


def in_rows(row: Sequence[Picture], longest: int = 5) -> list[list[Picture]]:
    """Pictures in as few rows as possible, with at most `longest` pictures each, of lengths as equal as possible."""
    num_rows = math.ceil(len(row) / check_count("longest", longest, minimum=1))
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
    check_positive("size", size)
    if not len(grid) or not all(map(len, grid)):
        raise ValueError("grid must have at least one picture in each row, got an empty one")
    check_length("names", names, len(grid) if names else 0, "grid")
    for picture in itertools.chain.from_iterable(grid):
        check_axes(f"array of {picture.title}", picture.array, f"{_PIXELS}, at least one number")
    if width and not names:
        grid = [part for row in grid for part in in_rows(row, max(1, min(len(row), int(width / _NARROWEST_PICTURE))))]
    # In inches, of a colour bar and of the names; on a page the bar is below, since beside it takes a picture's room.
    margin = 0.9 if names or not width else 0.0
    if width:
        size = (width - margin) / max(map(len, grid))
    figure, axes, heights = _picture_axes(grid, size, width)
    # One scale for all signed pictures, symmetric, so that white is 0 in all of them.
    signed = [np.nanmax(np.abs(picture.array)) for row in grid for picture in row if picture.kind == "signed"]
    largest = float(max(signed, default=0.0)) or 1.0
    characters, lines, bar_source = figure.characters_in(size), 0, None
    for cells, row in zip(axes, grid, strict=True):
        for cell in cells[len(row) :]:
            cell.axis("off")
        for cell, picture in zip(cells, row, strict=False):
            artist = _draw_picture(cell, picture, largest, characters)
            bar_source = (picture.kind, artist) if picture.kind in _BARS else bar_source
        lines += max((cell.get_title().count("\n") for cell in cells), default=0)
    # `strict=False`: pictures may have no row names.
    for name, cells, height in zip(names, axes, heights, strict=False):
        # Wrapped, so that a long name, such as an import path, is not higher than its picture.
        cells[0].set_ylabel(textwrap.fill(name, figure.characters_in(height)))
    if bar_source:
        kind, artist = bar_source
        label = bar or _BARS[kind]
        if margin:
            figure.colorbar(artist, ax=axes[:, -1], label=label, shrink=max(0.5, 1 / len(grid)))
        else:
            figure.colorbar(artist, ax=axes, label=label, location="bottom", aspect=40)
            lines += 3
    figure.add_lines(lines)
    return finish(figure, title)


@resizable
def bars(
    values: Mapping[str, np.ndarray], xlabel: str, title: str, log: bool = True, *, width: float | None = None
) -> Figure:
    """A horizontal bar for each name: the median of its values, with their range.

    Args:
        values: name -> (repeats,).
        xlabel: the quantity with its unit.
    """
    for name, repeats in values.items():
        check_axes(f"{name} of values", repeats, "(repeats,), at least one number")
    figure, (axes,) = panel_axes(1, (8.4, 0.45 * len(values) + 1.6), width)
    # The median, since times on a shared machine have outliers on one side.
    medians = np.array([np.median(repeats) for repeats in values.values()])
    ranges = np.array([[np.median(r) - np.min(r), np.max(r) - np.median(r)] for r in values.values()]).T
    whiskers = ranges if ranges.any() else None
    # matplotlib warns of a logarithmic axis without a number above 0.
    log &= bool((medians > 0).any())
    axes.barh(range(len(values)), medians, xerr=whiskers, color=COLOURS[0], ecolor="black", capsize=3, log=log)
    label_rows(figure, axes, values)
    label_axes(figure, axes, xlabel, xlog=log)
    axes.grid(axis="x", alpha=0.3)
    return finish(figure, title)


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
    for name, matrix in (("values", values), ("ranks", values if ranks is None else ranks)):
        check_axes(name, matrix, f"{len(rows), len(columns)}")
    check_length("labels", labels, 3, "rows, columns and colours")
    try:
        format(0.0, form)
    except ValueError as error:
        raise ValueError(f"form must be the format of a number, such as '.3f': {error}") from None
    size = max(1.0 * len(columns) + 3.2, 6.0), max(0.62 * len(rows) + 2.0, 3.2)
    figure, (axes,) = panel_axes(1, size, width)
    shades = np.asarray(values, float) if ranks is None else _column_shades(np.asarray(ranks, float))
    # With ranks, the scale is from worst to best even if no column has colours.
    finite = shades[np.isfinite(shades)]
    low, high = (0.0, 1.0) if ranks is not None or not finite.size else (finite.min(), finite.max())
    colours = axes.imshow(shades, cmap=PROBABILITY, aspect="auto", vmin=low, vmax=high)
    axes.set_facecolor("0.93")
    texts = {index: format(value, form) for index, value in np.ndenumerate(values) if np.isfinite(value)}
    # Names, labels and the colour bar take about 2.2 inches; what is wider than its cell is turned.
    cell = figure.characters_in((figure.get_figwidth() - 2.2 * figure.text_scale) / len(columns))
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
    return finish(figure, title)


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
    check_length("xlabels", xlabels, len(groups), "groups")
    for name, runs in values.items():
        check_axes(f"{name} of values", runs, f"({len(groups)}, runs), at least one run")
    figure, panels = panel_axes(len(groups), (3.3 * len(groups) + 1.6, 0.42 * len(values) + 1.7), width, sharey=True)
    styles = styles_of(values, order)
    for index, (axes, group, xlabel) in enumerate(zip(panels, groups, xlabels, strict=True)):
        for row, (name, runs) in enumerate(values.items()):
            colour = styles[name].colour
            axes.plot(runs[index], np.full(len(runs[index]), row), "o", color=colour, alpha=0.6, markersize=5)
            axes.plot(np.mean(runs[index]), row, "|", color="black", markersize=14, markeredgewidth=2)
        axes.set(title=group)
        label_axes(figure, axes, xlabel)
        axes.grid(alpha=0.3)
    label_rows(figure, panels[0], values)
    return finish(figure, title)


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
    for name, runs in values.items():
        check_axes(f"{name} of values", runs, "(runs,)")
    check_axes("reference", reference, f"({len(values)},)")
    figure, (axes,) = panel_axes(1, (7.6, 0.3 * len(values) + 1.9), width)
    for row, runs in enumerate(values.values()):
        axes.plot(runs, np.full(len(runs), row), "o", color=COLOURS[0], alpha=0.7, label=labels[0])
    axes.plot(reference, range(len(values)), "D", color=COLOURS[1], fillstyle="none", markersize=8, label=labels[1])
    label_rows(figure, axes, values)
    label_axes(figure, axes, xlabel, xlog=True)
    axes.grid(alpha=0.3, which="both")
    return finish(figure, title, legend=True)


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
    rates = np.asarray(rates)
    check_axes("rates", rates, "(rates,), at least one rate")
    for name, values in losses.items():
        shape = check_axes(f"{name} of losses", values, f"(seeds, {len(rates)}), at least one seed")
        check_axes(f"{name} of diverged", check_flags(f"{name} of diverged", diverged.get(name)), f"{shape}")
        for edge in bands.get(name, ()):
            check_axes(f"{name} of bands", edge, f"{shape[1:]}")
    figure, (axes,) = panel_axes(1, (7.6, 4.9), width)
    crosses = []
    for name, (colour, line, marker) in styles_of(losses, order).items():
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
    label_axes(figure, axes, "learning rate", ylabel, xlog=True, ylog=True)
    _draw_crosses(axes, crosses)
    axes.grid(alpha=0.3, which="both")
    return finish(figure, title, legend=True)


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
    check_length("higher_is_better", higher_is_better, len(xlabels), "xlabels")
    for name, intervals in estimates.items():
        check_length(f"{name} of estimates", intervals, len(xlabels), "xlabels")
        check_length(f"{name} of pairs", pairs.get(name, ()), len(xlabels), "xlabels")
    size = max(3.9 * len(xlabels) + 1.6, 7.6), 0.42 * len(estimates) + 2.0
    figure, panels = panel_axes(len(xlabels), size, width, sharey=True)
    styles = styles_of(estimates, order)
    for index, (axes, xlabel, higher) in enumerate(zip(panels, xlabels, higher_is_better, strict=True)):
        axes.axvline(0, color="black", linewidth=1)
        for row, (name, intervals) in enumerate(estimates.items()):
            (value, low, high), colour = intervals[index], styles[name].colour
            axes.plot([low, high], [row, row], color=colour, linewidth=2)
            axes.plot(value, row, "o", color=colour)
            # Below the interval, so that neither hides the other.
            single = pairs[name][index]
            axes.plot(single, np.full(len(single), row + 0.22), ".", color="0.35", markersize=4)
        # At the end of the axis to which it points.
        side: Literal["left", "right"] = "right" if higher else "left"
        arrow = "better \N{RIGHTWARDS ARROW}" if higher else "\N{LEFTWARDS ARROW} better"
        axes.set_title(arrow, loc=side, fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        label_axes(figure, axes, xlabel)
        axes.grid(alpha=0.3)
    label_rows(figure, panels[0], estimates)
    # A long label, such as one with an import path, makes the figure higher, not the panels lower.
    lines = max(axes.get_xlabel().count("\n") for axes in panels)
    figure.add_lines(lines)
    return finish(figure, title)


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
    figure, (axes,) = panel_axes(1, (7.6, 4.9), width)
    for name, (colour, _, marker) in styles_of(points, order).items():
        axes.plot(*points[name], marker, color=colour, markersize=8, label=name)
    _draw_horizontal_lines(axes, horizontal_lines)
    axes.margins(0.12)
    label_axes(figure, axes, xlabel, ylabel, xlog)
    axes.grid(alpha=0.3, which="both")
    return finish(figure, title, legend=True)


def _picture_axes(
    grid: Sequence[Sequence[Picture]], size: float, width: float | None
) -> tuple[Figure, np.ndarray, list[float]]:
    """A figure for pictures, `size` inches wide each: its axes (rows, columns) and the height of each row in inches."""
    # A row has the height of its tallest picture, but a picture more than twice as high as wide is drawn narrower.
    shapes = [[np.shape(picture.array)[:2] for picture in row] for row in grid]
    heights = [size * min(2, max(high / wide for high, wide in row)) for row in shapes]
    rows, columns = len(grid), max(map(len, grid))
    figure = empty_figure((max(size * columns + 0.9, _LEAST_WIDTH), sum(heights) + 0.1 * rows + 0.8), width)
    return figure, figure.subplots(rows, columns, squeeze=False, height_ratios=heights), heights


def _draw_horizontal_lines(axes: Axes, horizontal_lines: Mapping[str, float]) -> None:
    for index, (text, y) in enumerate(horizontal_lines.items()):
        axes.axhline(y, color="black", linewidth=1.2, linestyle=LINES[(index + 1) % len(LINES)], label=text)


def _draw_crosses(axes: Axes, crosses: Sequence[tuple[np.ndarray, str]]) -> None:
    """Crosses above all curves, x and colour of each name; one row per name, so that none hides another."""
    low, high = np.log(axes.get_ylim())
    step = min(0.05, 0.5 / max(1, len(crosses)))
    axes.set_ylim(np.exp(low), np.exp(low + (high - low) / (1 - step * (len(crosses) + 0.2))))
    top = axes.get_xaxis_transform()
    for index, (x, colour) in enumerate(crosses):
        heights = np.full(len(x), 0.97 - step * index)
        # The grey ones below are those of the legend, since they have the colour of no name.
        axes.plot(x, heights, "x", color="0.3", markersize=8, transform=top, label="diverged")
        axes.plot(x, heights, "x", color=colour, markersize=8, transform=top, label="")


def _draw_picture(axes: Axes, picture: Picture, largest: float, characters: int) -> Any:
    """Draws one picture; signed pictures share one scale, from `-largest` to `largest`."""
    styles: dict[str, dict[str, Any]] = {
        "image": {"cmap": "gray", "vmin": 0, "vmax": 1},
        "mask": {"cmap": _MASK, "vmin": 0, "vmax": 1, "interpolation": "nearest"},
        # Without interpolation, which would show probabilities that no pixel has.
        "probability": {"cmap": PROBABILITY, "vmin": 0, "vmax": 1, "interpolation": "nearest"},
        "signed": {"cmap": "PuOr", "vmin": -largest, "vmax": largest, "interpolation": "nearest"},
        "feature": {"cmap": "gray", "interpolation": "nearest"},
    }
    # The pixel of a NaN is transparent and shows the grey background.
    axes.set(xticks=[], yticks=[], facecolor="0.55")
    # Wrapped to the width of the picture: a title can be an import path, or contain line breaks.
    title = "\n".join(textwrap.fill(line, characters) for line in picture.title.splitlines())
    axes.set_title(title, fontsize=10)
    return axes.imshow(np.asarray(picture.array), **styles[picture.kind])
