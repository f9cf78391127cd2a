import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from segjax import plotting


def curves(values, **options):
    """The axes of one panel of curves."""
    return plotting.training_curves([plotting.Panel("loss", values, **options)], "title").axes[0]


def heatmap(values, ranks=None):
    rows = "abc"[: len(values)]
    return plotting.heatmap(np.array(values), rows, "de", ("down", "across", "colour"), ".1f", "title", ranks).axes


def title_of(text):
    return plotting.training_curves([plotting.Panel("loss", {"a": np.ones(3)})], text).get_suptitle()


def test_training_curves():
    runs = np.array([[3.0, 2.0, 1.0], [5.0, 4.0, np.nan]])
    panels = [
        plotting.Panel("loss", {"sgd": runs, "adam": runs[:1]}, log=True),
        plotting.Panel("agreement", {"sgd": runs}),
    ]
    figure = plotting.training_curves(panels, "title")
    assert isinstance(figure, Figure)
    loss, agreement = figure.axes
    assert (loss.get_ylabel(), loss.get_xlabel(), loss.get_yscale()) == ("loss, log scale", "iteration", "log")
    assert agreement.get_yscale() == "linear"
    np.testing.assert_array_equal(loss.lines[0].get_data(), [[1, 2, 3], [4, 3, np.nan]])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sgd", "adam"]


def test_bands_take_the_place_of_the_range():
    runs, band = np.array([[1.0, 2.0], [3.0, 4.0]]), (np.array([0.0, 1.0]), np.array([5.0, 6.0]))
    axes = curves({"a": runs, "b": runs}, bands={"a": band}, ylim=(-1, 9))
    assert axes.get_ylim() == (-1, 9)
    ranges = [collection.get_datalim(axes.transData).intervaly.tolist() for collection in axes.collections]
    assert ranges == [[0, 6], [1, 4]]


def test_differences_show_intervals_beside_none_and_every_pair():
    estimates = {"a": [(0.1, -0.1, 0.3), (2.0, 1.0, 3.0)], "b": [(np.nan, np.nan, np.nan), (0.0, -1.0, 1.0)]}
    pairs = {name: [np.array([0.0, 0.2]), np.array([1.5, np.nan])] for name in estimates}
    left, right = plotting.differences(estimates, pairs, ("loss", "IoU"), (False, True), "title").axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("loss", "IoU")
    assert [label.get_text() for label in left.get_yticklabels()] == ["a", "b"]
    zero, interval, value, single = left.lines[:4]
    assert list(zero.get_xdata()) == [0, 0]
    assert list(interval.get_xdata()) == [-0.1, 0.3]
    assert list(value.get_xdata()) == [0.1]
    assert list(single.get_xdata()) == [0.0, 0.2]
    # The arrow stands at the end of the axis that it points to.
    assert left.get_title("left") == "\N{LEFTWARDS ARROW} better"
    assert right.get_title("right") == "better \N{RIGHTWARDS ARROW}"


def test_predictions_show_image_and_mask_once():
    image = np.linspace(0, 1, 16).reshape(4, 4)
    mask = (image > 0.5).astype(float)
    figure = plotting.predictions(image, mask, {"sgd": 1 - image, "adam": image}, "title")
    pictures = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    np.testing.assert_array_equal(pictures[:4], [image, mask, 1 - image, image])
    assert [axes.get_title() for axes in figure.axes[:4]] == ["input image", "true mask", "sgd", "adam"]


def test_a_picture_s_title_keeps_its_lines_and_its_width():
    picture = plotting.Picture(f"one\ntwo\n{'path' * 20}", np.zeros((2, 2)))
    lines = plotting.pictures([[picture]], "title").axes[0].get_title().splitlines()
    assert lines[:2] == ["one", "two"]
    assert max(map(len, lines)) == 29


@pytest.mark.parametrize(
    ("count", "rows"),
    [(1, [1]), (5, [5]), (6, [3, 3]), (7, [4, 3]), (11, [4, 4, 3]), (13, [5, 4, 4]), (21, [5, 4, 4, 4, 4]), (0, [])],
)
def test_rows_of_pictures_are_few_and_equal(count, rows):
    pictures = [plotting.Picture(str(number), np.zeros((2, 2))) for number in range(count)]
    grid = plotting.in_rows(pictures)
    assert [len(row) for row in grid] == rows
    assert [picture for row in grid for picture in row] == pictures


@pytest.mark.parametrize("ends", [(3.0, 4.0), (0.011, 0.018), (1.0, 1.3), (6.0, 40.0), (1e-3, 1e2)])
def test_a_logarithmic_axis_has_two_labels_at_least(ends):
    axes = curves({"a": np.array(ends)}, log=True)
    FigureCanvasAgg(axes.figure).draw()
    low, high = axes.get_ylim()
    labels = [label for label in axes.yaxis.get_ticklabels() if low <= label.get_position()[1] <= high]
    assert len([label for label in labels if label.get_text()]) >= 2


def test_a_legend_names_what_is_drawn_alone():
    axes = curves({"drawn": np.ones(3), "lost": np.full(3, np.nan)})
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["drawn"]


def test_bars():
    figure = plotting.bars({"slow": np.array([10.0, 30.0, 20.0]), "fast": np.array([1.0])}, "time (ms)", "title")
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [20, 1]
    assert (axes.get_xlabel(), axes.get_xscale()) == ("time (ms), log scale", "log")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["slow", "fast"]


def test_curves_over_another_quantity():
    x = np.geomspace(1e-3, 1, 4)
    axes = curves({"all": np.ones((2, 4))}, x=x, xlabel="rate", xlog=True, vertical_lines={"best": 0.1})
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), x)
    assert (axes.get_xlabel(), axes.get_xscale()) == ("rate, log scale", "log")
    assert axes.lines[1].get_xdata()[0] == 0.1


@pytest.mark.parametrize(("points", "marker"), [(1, "o"), (12, "o"), (13, "")])
def test_few_points_are_marked(points, marker):
    assert curves({"a": np.ones(points)}).lines[0].get_marker() == marker


@pytest.mark.parametrize("ordered", [False, True])
def test_many_curves_are_told_apart_and_ordered_ones_go_from_dark_to_light(ordered):
    lines = curves({str(index): np.arange(3.0) + index for index in range(9)}, ordered=ordered).lines
    assert len({(str(line.get_color()), line.get_linestyle()) for line in lines}) == 9
    if ordered:
        brightness = [sum(line.get_color()[:3]) for line in lines]
        assert brightness == sorted(brightness)
        assert brightness[0] < brightness[-1]


def test_pictures_of_one_kind_share_a_scale():
    grid = [[plotting.Picture("a", np.eye(2), "signed"), plotting.Picture("b", -3 * np.eye(2), "signed")], []]
    grid[1] = [plotting.Picture("c", np.zeros((2, 2)), "signed")]
    figure = plotting.pictures(grid, "title", ("first", "second"))
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.images[0].get_clim() for axes in panels] == [(-3, 3)] * 3
    assert [axes.get_title() for axes in panels] == ["a", "b", "c"]
    assert [panels[0].get_ylabel(), panels[2].get_ylabel()] == ["first", "second"]
    # The place without a picture is empty, and the colour bar says what it measures.
    assert [axes.axison for axes in figure.axes].count(False) == 1
    assert figure.axes[-1].get_ylabel() == "weight"


def test_rows_of_pictures_are_as_high_as_they_need():
    grid = [[plotting.Picture("", np.zeros(shape))] for shape in ((1, 2), (3, 2), (9, 2))]
    figure = plotting.pictures(grid, "title", size=2)
    assert figure.get_figheight() == pytest.approx(2 * (0.5 + 1.5 + 2) + 1.1)
    assert figure.axes[0].get_gridspec().get_height_ratios() == pytest.approx([1, 3, 4])


def test_heatmap_writes_its_numbers():
    axes, bar = heatmap([[1.0, np.nan], [3.0, 4.0]])
    assert [text.get_text() for text in axes.texts] == ["1.0", "3.0", "4.0"]
    assert (axes.get_ylabel(), axes.get_xlabel(), bar.get_ylabel()) == ("down", "across", "colour")


@pytest.mark.parametrize(("rows", "columns"), [(3, 14), (20, 4), (20, 14)])
def test_every_cell_of_a_heatmap_has_room_for_its_number(rows, columns):
    names = ([f"row {row}" for row in range(rows)], [f"column {column}" for column in range(columns)])
    figure = plotting.heatmap(np.ones((rows, columns)), *names, ("", "", ""), ".3f", "title", np.ones((rows, columns)))
    FigureCanvasAgg(figure).draw()
    box = figure.axes[0].get_window_extent()
    assert box.width / figure.dpi / columns > 0.75  # inches
    assert box.height / figure.dpi / rows > 0.55


def test_heatmap_by_ranks_colours_each_column_alone():
    values = [[1.0, 100.0], [2.0, np.nan], [3.0, 50.0]]
    axes = heatmap(values, values * np.array([1, -1]))[0]
    # A value that is not finite has no colour, and leaves those of the others.
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0, 0], [0.5, np.nan], [1, 1]])


def test_scores_and_dots_show_every_run():
    values = {"a": np.array([[1.0, 2.0], [3.0, 4.0]]), "b": np.array([[5.0, 6.0], [7.0, 8.0]])}
    panels = plotting.scores(values, ["first", "second"], ["x", "y"], "title").axes
    assert [axes.get_title() for axes in panels] == ["first", "second"]
    np.testing.assert_array_equal(panels[1].lines[2].get_xdata(), [7, 8])
    np.testing.assert_array_equal(panels[1].lines[3].get_xdata(), [7.5])
    axes = plotting.dots({"a": np.array([1.0, 2.0])}, np.array([3.0]), "loss", ("ours", "theirs"), "title").axes[0]
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 2], [3]]
    assert axes.get_xscale() == "log"
    ours, theirs = axes.lines
    assert ours.get_color() != theirs.get_color()


def test_sensitivity_shows_what_diverged_as_diverged():
    rates = np.array([0.1, 1.0, 10.0])
    losses = {"adam": np.array([[1.0, 0.5, 9.0], [3.0, 0.5, 0.1]])}
    diverged = {"adam": np.array([[False, False, True], [False, False, False]])}
    figure = plotting.sensitivity(rates, losses, diverged, "loss", "title")
    mean, crosses = figure.axes[0].lines[:2]
    # The run that diverged counts for no mean; its rate has a cross at the top edge, above all that is drawn.
    np.testing.assert_allclose(mean.get_ydata(), [2, 0.5, 0.1])
    assert list(crosses.get_xdata()) == [10]
    assert 0.9 < crosses.get_ydata()[0] < 1
    assert figure.axes[0].transAxes.inverted().transform(figure.axes[0].transData.transform((1, 3)))[1] < 0.95
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["adam", "diverged"]


def test_a_rate_that_was_not_tried_is_no_gap():
    rates, never = np.array([0.1, 1.0, 10.0]), np.zeros((2, 3), bool)
    losses = {"a": np.array([[1.0, np.nan, 3.0], [2.0, np.nan, 4.0]])}
    bands = {"a": (np.array([0.5, np.nan, 2.5]), np.array([2.5, np.nan, 4.5]))}
    axes = plotting.sensitivity(rates, losses, {"a": never}, "loss", "title", bands).axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_data(), [[0.1, 10], [1.5, 3.5]])
    assert axes.collections[0].get_datalim(axes.transData).intervaly.tolist() == [0.5, 4.5]


def test_crosses_of_many_names_leave_the_curves_their_room():
    losses = {str(name): np.array([[1.0, 0.5, 0.5]]) for name in range(30)}
    diverged = {name: np.array([[False, False, True]]) for name in losses}
    axes = plotting.sensitivity(np.array([0.1, 1.0, 10.0]), losses, diverged, "loss", "title").axes[0]
    assert 1 < axes.get_ylim()[1] < 10


def test_sensitivity_where_everything_diverged():
    lost = np.ones((1, 2), bool)
    figure = plotting.sensitivity(np.array([1.0, 2.0]), {"sgd": np.full((1, 2), np.nan)}, {"sgd": lost}, "loss", "t")
    assert len(figure.axes[0].lines[1].get_xdata()) == 2


@pytest.mark.parametrize("names", [8, 30, 150])
@pytest.mark.parametrize("panels", [1, 2])
def test_title_and_legend_stay_inside_the_figure(names, panels):
    values = {f"curve {'n' * names} {index}": np.ones(3) * index for index in range(8)}
    figure = plotting.training_curves([plotting.Panel("loss", values)] * panels, "A title " * 20)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for part in (figure.legends[0], figure.texts[0]):
        box = part.get_window_extent(canvas.get_renderer())
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
    assert figure.axes[0].get_window_extent().height > 1.5 * figure.dpi


def test_no_word_of_a_title_stands_alone():
    title = "Each at its own rate: paired differences of four seeds with intervals"
    lines = title_of(title).splitlines()
    assert " ".join(lines) == title
    assert len(lines) == 2
    assert len(lines[0]) < 1.5 * len(lines[1])


@pytest.mark.parametrize("size", ["32 x 32", "95 %", "sigma1 = 0.2"])
@pytest.mark.parametrize("before", range(20, 40))
def test_titles_do_not_break_inside_of_a_size(size, before):
    assert size in title_of(f"{'a ' * before}{size} {'b ' * 20}")


@pytest.mark.parametrize("title", ["", "word", "a" * 200, "optax.contrib:schedule_free_adamw and others"])
def test_titles_of_any_length_keep_their_characters(title):
    assert "".join(title_of(title).split()) == "".join(title.split())


@pytest.mark.parametrize("ranked", [True, False])
def test_heatmap_where_nothing_is_finite(ranked):
    values = np.array([[np.nan, 1.0], [np.inf, 2.0]]) if ranked else np.full((2, 2), np.nan)
    axes = heatmap(values, values if ranked else None)[0]
    assert [text.get_text() for text in axes.texts] == (["1.0", "2.0"] if ranked else [])


def test_an_infinite_value_leaves_the_colours_of_the_others():
    assert heatmap([[1.0, np.inf], [2.0, 3.0]])[0].images[0].get_clim() == (1, 3)


def test_tradeoff_tells_many_points_apart():
    points = {str(index): (index + 1.0, 0.5) for index in range(10)}
    axes = plotting.tradeoff(points, "time (ms)", "accuracy", "title").axes[0]
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == 10
    assert (axes.get_xlabel(), axes.get_xscale()) == ("time (ms), log scale", "log")


LABELS = ["sgd 0.001", "momentum 0.1", "adam 0.01", "optax.contrib:schedule_free_adamw 0.0025", "sgd 1", "lion", "dog"]
RUNS = {label: np.geomspace(1, 0.1 * place, 20) for place, label in enumerate(LABELS, 1)}
IMAGES = {label: np.eye(8) for label in LABELS}
RATES, NEVER = np.array([1e-3, 1e-2, 0.1]), np.zeros((2, 3), bool)
TITLE = "1000 iterations, 64 x 64 images, 5 seeds: mean and its 95 % interval"
PAGES = {
    "curves": lambda: plotting.training_curves(
        [plotting.Panel("running-mean loss (mean squared error)", RUNS, log=True), plotting.Panel("IoU", RUNS)], TITLE
    ),
    "predictions": lambda: plotting.predictions(np.eye(8), np.eye(8), IMAGES, TITLE),
    "pictures in named rows": lambda: plotting.pictures(
        [[plotting.Picture(f"sigma2 = {number}", np.eye(8)) for number in range(5)]] * 2, TITLE, ["first", "second"]
    ),
    "bars": lambda: plotting.bars(RUNS, "time of a batch or a step (ms)", TITLE),
    "heatmap": lambda: plotting.heatmap(
        np.ones((3, 9)), ["mse", "bce", "dice"], ["agreement", "BCE (nats)"] * 4 + ["F1"], ("a", "b", "c"), ".4f", TITLE
    ),
    "scores": lambda: plotting.scores(
        {label: np.stack([runs, runs]) for label, runs in RUNS.items()}, ("steps", "seconds"), ("accuracy",) * 2, TITLE
    ),
    "dots": lambda: plotting.dots(RUNS, np.full(len(RUNS), 0.5), "running-mean loss", ("ours", "published"), TITLE),
    "sensitivity": lambda: plotting.sensitivity(
        RATES, dict.fromkeys(LABELS, np.eye(2, 3) + 1), dict.fromkeys(LABELS, NEVER), "mean loss, last tenth", TITLE
    ),
    "differences": lambda: plotting.differences(
        dict.fromkeys(LABELS, [(0.1, 0.0, 0.2)] * 2),
        dict.fromkeys(LABELS, [np.ones(3)] * 2),
        ["loss, last tenth minus adam 0.01's", "held-out IoU minus adam 0.01's"],
        (False, True),
        TITLE,
    ),
    "tradeoff": lambda: plotting.tradeoff(dict.fromkeys(LABELS, (1.0, 0.5)), "time of a step (ms)", "accuracy", TITLE),
}


def texts_of(figure):
    """The text of each label, title and number that is drawn, its size in points, and its box in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        texts += [*axes.texts, axes.title, axes._left_title, axes._right_title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    texts = [text for text in texts if text.get_text() and text.get_visible()]
    return [(text.get_text(), text.get_fontsize(), text.get_window_extent(canvas.get_renderer())) for text in texts]


@pytest.mark.parametrize("width", [3.3, 6.8])
@pytest.mark.parametrize("name", PAGES)
def test_figures_of_a_page_are_legible(name, width):
    figure = PAGES[name]().at_width(width)
    assert figure.get_figwidth() == width
    texts = texts_of(figure)
    assert len(texts) > 5
    for text, size, box in texts:
        assert size >= 6, text
        assert box.x0 > -1, text
        assert box.y0 > -1, text
        assert box.x1 < figure.bbox.x1 + 1, text
        assert box.y1 < figure.bbox.y1 + 1, text
    for (text, _, box), (other, _, near) in itertools.combinations(texts, 2):
        across, up = min(box.x1, near.x1) - max(box.x0, near.x0), min(box.y1, near.y1) - max(box.y0, near.y0)
        # Boxes have some room around their characters.
        assert min(across, up) < 2, (text, other)


@pytest.mark.parametrize("width", [0, -1.0, np.nan, np.inf, "3.3"])
def test_a_page_has_a_width(width):
    with pytest.raises((ValueError, TypeError), match="width must be"):
        PAGES["bars"]().at_width(width)


def test_a_name_looks_the_same_in_figures_of_other_names():
    all_lines = curves({"a": np.ones(3), "b": np.ones(3), "c": np.ones(3)}).lines
    (line,) = curves({"c": np.ones(3)}, order=["a", "b", "c"]).lines
    assert (line.get_color(), line.get_linestyle()) == (all_lines[2].get_color(), all_lines[2].get_linestyle())
    # A name that the order lacks comes after it.
    lines = curves({"d": np.ones(3), "a": np.ones(3)}, order=["a", "b", "c"]).lines
    assert [line.get_color() for line in lines] == [plotting.COLOURS[3], plotting.COLOURS[0]]


def test_crosses_have_the_colours_of_their_names_and_the_legend_none_of_these():
    diverged = {"a": np.array([[False, False, True]]), "b": np.array([[False, True, True]])}
    losses = dict.fromkeys(diverged, np.array([[1.0, 0.5, 0.5]]))
    figure = plotting.sensitivity(np.array([0.1, 1.0, 10.0]), losses, diverged, "loss", "title")
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    # The one on top is drawn last.
    assert [line.get_color() for line in crosses[1::2]] == list(plotting.COLOURS[:2])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["a", "b", "diverged"]
    assert figure.legends[0].get_lines()[-1].get_color() not in plotting.COLOURS
