"""Shared by all figures: their size on a screen and on a page, text that fits, the style of each name, the legend."""

import functools
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, ParamSpec, get_args, get_origin

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from segjax._checks import check_flag, check_positive, check_real, check_shape, describe

# Okabe and Ito's colours (2008), which colour-blind readers can tell apart, without black and the pale yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P")
# Perceptually uniform, and nearly the same to readers with and without colour blindness (Nunez et al., 2018).
PROBABILITY = matplotlib.colormaps["cividis"]
# Spaces of a title at which no line ends.
_UNBROKEN = re.compile(r"(?<=\d) (?=x \d|%)|(?<=\d x) (?=\d)| (?== )|(?<= =) ")
# For a page: the size of text relative to a screen's, and the narrowest panel beside others, in inches.
_PRINTED = 0.7
_NARROWEST_PANEL = 2.6
# Width of an average character at 10 points, and height of a line, in inches.
_CHARACTER = 0.085
_LINE = 0.2
_Arguments = ParamSpec("_Arguments")


class Figure(matplotlib.figure.Figure):
    """A figure that can be drawn again at another width."""

    # Size of the text relative to a screen's.
    text_scale: float
    _redraw: Callable[..., "Figure"]

    def at_width(self, width: float) -> "Figure":
        """The same figure drawn for a page, `width` inches wide."""
        return self._redraw(width=width)

    def characters_in(self, inches: float) -> int:
        """How many characters of average width fit on a line."""
        return max(1, int(inches / (_CHARACTER * self.text_scale)))

    def add_lines(self, number: int) -> None:
        """Makes the figure higher by some lines of text, which the panels would otherwise make room for."""
        self.set_figheight(self.get_figheight() + _LINE * self.text_scale * number)


def resizable(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
    """Lets `at_width` call a function that has an argument `width`, and checks its arguments by their annotations."""
    signature = inspect.signature(draw)

    @functools.wraps(draw)
    def wrapper(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Figure:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            _check_kind(name, value, signature.parameters[name].annotation)
        width: Any = kwargs.get("width")
        if width is not None:
            check_positive("width", width)
        figure = draw(*args, **kwargs)
        figure._redraw = functools.partial(wrapper, *args, **kwargs)
        return figure

    return wrapper


def _check_kind(name: str, value: Any, kind: Any) -> None:
    """Raises TypeError or ValueError unless a value and its parts are of an annotated kind.

    It knows the kinds of annotations that `segjax.plotting` has, and accepts any value for others.
    """
    origin, kinds = get_origin(kind), get_args(kind)
    if kind is bool:
        check_flag(name, value)
    elif kind in (np.ndarray, ArrayLike, float):
        check_axes(name, value, "()" if kind is float else "...")
    elif origin is Mapping:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise TypeError(f"{name} must be a mapping of names, got {describe(value)}")
        for key, part in value.items():
            _check_kind(f"{key} of {name}", part, kinds[1])
    elif origin in (Sequence, tuple):
        # Arrays without an axis have no length.
        has_length = isinstance(value, Collection) and getattr(value, "ndim", 1) > 0
        if not has_length or (origin is tuple and len(value) != len(kinds)):
            length = f" of {len(kinds)}" if origin is tuple else ""
            raise TypeError(f"{name} must be a sequence{length}, got {describe(value)}")
        for part, part_kind in zip(value, kinds if origin is tuple else kinds * len(value), strict=True):
            _check_kind(f"each of {name}", part, part_kind)
    elif origin is Literal:
        if not isinstance(value, str) or value not in kinds:
            raise ValueError(f"{name} must be one of {', '.join(kinds)}, got {describe(value)}")
    elif type(None) in kinds:
        if value is not None:
            _check_kind(name, value, kinds[0])
    elif kind is str or hasattr(kind, "_fields"):
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, got {describe(value)}")
        for field in getattr(kind, "_fields", ()):
            _check_kind(f"{field} of {name}", getattr(value, field), kind.__annotations__[field])


def check_axes(name: str, values: Any, allowed: str) -> tuple[int, ...]:
    """Returns the shape of real numbers, flags or masked numbers; raises TypeError or ValueError as `check_shape`."""
    numbers = values.data if isinstance(values, np.ma.MaskedArray) else values
    flags = getattr(getattr(numbers, "dtype", None), "kind", "") == "b"
    shape: tuple[int, ...] = numbers.shape if flags else check_real(name, numbers).shape
    check_shape(name, shape, allowed)
    return shape


def check_length(name: str, values: Collection[Any], length: int, of: str) -> None:
    """Raises ValueError unless there are as many values as there are of something else."""
    if len(values) != length:
        raise ValueError(f"{name} must have the length of {of}, {length}, got {len(values)}")


class Style(NamedTuple):
    """How a name looks in every figure of a report; `line` and `marker` as matplotlib names them."""

    colour: Any
    line: str
    marker: str


# `Figure` and not `pyplot`, which keeps references to all figures, and opens windows.
def empty_figure(size: tuple[float, float], width: float | None) -> Figure:
    """An empty figure of this size in inches; `width` replaces that of the size, and asks for text of a page."""
    figure = Figure(figsize=(width or size[0], size[1]), layout="constrained")
    figure.text_scale = _PRINTED if width else 1.0
    return figure


def panel_axes(
    count: int, size: tuple[float, float], width: float | None, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with a row of panels, of this size in inches, or on a page in several rows of nearly this height."""
    if not count:
        raise ValueError("panels must be at least one, got none")
    columns, height = count, size[1]
    if width:
        columns = max(1, min(count, int(width / _NARROWEST_PANEL)))
        # The title and the legend take a quarter, once.
        height *= _PRINTED * (0.25 + 0.75 * math.ceil(count / columns))
    figure = empty_figure((size[0], height), width)
    axes = list(figure.subplots(math.ceil(count / columns), columns, squeeze=False, sharey=sharey).flat)
    for empty in axes[count:]:
        empty.remove()
    return figure, axes[:count]


def finish(figure: Figure, title: str, legend: bool = False) -> Figure:
    """Adds the title and the legend, after everything else is drawn."""
    if figure.text_scale != 1:
        for text in figure.findobj(Text):
            text.set_fontsize(float(text.get_fontsize()) * figure.text_scale)
        for axes in figure.axes:
            # Ticks that matplotlib makes later take this size.
            axes.tick_params(labelsize=10 * figure.text_scale)
    if legend:
        _legend(figure)
    # The title is wrapped: its characters are half as wide again as those of labels.
    characters = figure.characters_in(figure.get_figwidth() / 1.5)
    figure.suptitle(_balanced(title, max(20, characters)), fontsize=12 * figure.text_scale)
    return figure


def label_axes(
    figure: Figure, axes: Axes, xlabel: str, ylabel: str = "", xlog: bool = False, ylog: bool = False
) -> None:
    """Labels the axes, after their data are drawn: wrapped to the panel, and marked where a scale is log."""
    spec = axes.get_subplotspec()
    rows, columns = spec.get_geometry()[:2] if spec else (1, 1)
    # Without the other axis's labels, the title and the legend.
    scale, width, height = figure.text_scale, figure.get_figwidth() / columns, figure.get_figheight() / rows
    lengths = width - 0.8 * scale, height - 1.2 * scale
    for name, text, log, length in zip("xy", (xlabel, ylabel), (xlog, ylog), lengths, strict=True):
        if log:
            _make_log(axes, name)
            text += ", log scale"
        axes.set(**{f"{name}label": _balanced(text, figure.characters_in(length))})


def _balanced(text: str, characters: int) -> str:
    """The text in as few lines as possible, of similar lengths."""
    # For textwrap, no-break spaces are characters: "32 x 32", "95 %" and "sigma = 15" stay in one line.
    text = _UNBROKEN.sub("\N{NO-BREAK SPACE}", " ".join(text.split()))
    fewest = max(1, len(textwrap.wrap(text, characters)))
    # A line shorter than a word would cut it.
    longest = max(1, *map(len, text.split(" ")))
    lengths = range(min(longest, characters), characters + 1)
    lines = next(lines for length in lengths if (lines := textwrap.fill(text, length)).count("\n") < fewest)
    return lines.replace("\N{NO-BREAK SPACE}", " ")


def label_rows(figure: Figure, axes: Axes, names: Collection[str]) -> None:
    """One row per name, the first at the top."""
    characters = figure.characters_in(0.42 * figure.get_figwidth())
    axes.set_yticks(range(len(names)), [textwrap.fill(name, characters) for name in names])
    axes.set_ylim(max(1, len(names)) - 0.5, -0.5)


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


def styles_of(names: Collection[str], order: Sequence[str]) -> dict[str, Style]:
    """The style of each name, by its place in the order."""
    places = {name: place for place, name in reversed([*enumerate([*order, *names])])}
    styles = {}
    for name in names:
        # More than six colours are hard to distinguish: line and marker change each time the colours repeat.
        colour, turn = places[name] % len(COLOURS), places[name] + places[name] // len(COLOURS)
        styles[name] = Style(COLOURS[colour], LINES[turn % len(LINES)], _MARKERS[turn % len(_MARKERS)])
    return styles


def ordered_styles(names: Collection[str]) -> dict[str, Style]:
    """From dark to light."""
    last = max(len(names) - 1, 1)
    return {name: Style(PROBABILITY(0.95 * i / last), LINES[i % 2], _MARKERS[0]) for i, name in enumerate(names)}


def _legend(figure: Figure) -> None:
    """Adds one legend below all panels, with each name once."""
    named = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
    # matplotlib's defaults are `_child1` and so on; a line without a finite value is not visible.
    visible = {
        label: line
        for label, line in named.items()
        if not re.fullmatch(r"_child\d+", label) and np.isfinite(np.asarray(line.get_ydata(), float)).any()
    }
    if not visible:
        return
    # In inches: the characters, and 0.8 for the line's sample and the gaps.
    scale, width = figure.text_scale, figure.get_figwidth()
    widest = scale * (_CHARACTER * max(len(label) for label in visible) + 0.8)
    columns = max(1, min(len(visible), int(width / widest)))
    # A name wider than the figure is wrapped; wide characters have 0.1 inches.
    names = [textwrap.fill(label, max(1, int((width / scale - 0.8) / 0.1))) for label in visible]
    # Names are wrapped only if there is one column.
    lines_below = math.ceil(sum(name.count("\n") + 1 for name in names) / columns)
    # The figure grows by the height of the legend beyond three lines; the panels would shrink otherwise.
    figure.add_lines(max(0, lines_below - 3))
    lines, size = list(visible.values()), 10 * scale
    figure.legend(
        lines, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=size, handlelength=2.8
    )
