import numpy as np
from matplotlib.figure import Figure

from segjax import plotting


def test_training_curves():
    runs = np.array([[3.0, 2.0, 1.0], [5.0, 4.0, np.nan]])
    panels = [
        plotting.Panel("loss", {"sgd": runs, "adam": runs[:1]}, log=True),
        plotting.Panel("agreement", {"sgd": runs}),
    ]
    figure = plotting.training_curves(panels, "title")
    assert isinstance(figure, Figure)
    loss, agreement = figure.axes
    assert (loss.get_ylabel(), loss.get_xlabel(), loss.get_yscale()) == ("loss", "iteration", "log")
    assert agreement.get_yscale() == "linear"
    np.testing.assert_array_equal(loss.lines[0].get_data(), [[1, 2, 3], [4, 3, np.nan]])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sgd", "adam"]


def test_predictions():
    image = np.linspace(0, 1, 16).reshape(4, 4)
    mask = (image > 0.5).astype(float)
    figure = plotting.predictions(image, mask, {"sgd": 1 - image, "adam": image}, "title")
    drawn = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    np.testing.assert_array_equal(drawn[:3], [image, mask, 1 - image])
    assert [axes.get_title() for axes in figure.axes[:3]] == ["input image", "true mask", "prediction"]
    assert [figure.axes[row].get_ylabel() for row in (0, 3)] == ["sgd", "adam"]


def test_bars():
    figure = plotting.bars({"slow": np.array([10.0, 30.0, 20.0]), "fast": np.array([1.0])}, "time (ms)", "title")
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [20, 1]
    assert (axes.get_xlabel(), axes.get_xscale()) == ("time (ms)", "log")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["slow", "fast"]
