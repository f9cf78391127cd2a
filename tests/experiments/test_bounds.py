import importlib
import json
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from experiments.bench import bounds
from experiments.bench.bounds import Bound
from experiments.lab.runs import Texture
from experiments.lab.train import progress_bar
from segjax.oracle import BayesError

BOUND = Bound(9, BayesError(0.002, 0.0005, 0.003, 0.001))


def lab():
    """What `measure` needs of a lab, with a list of what it says."""
    lines = []
    return SimpleNamespace(say=lines.append, lines=lines, progress=lambda: progress_bar(Console(quiet=True)))


def test_the_window_fits_into_the_image(monkeypatch):
    monkeypatch.setattr(bounds, "NUM_MASKS", 20)
    monkeypatch.setattr(bounds, "PIXELS", 4)
    bound = bounds.measure(Texture(1, 16, 0.2, 1.2, 4.0), lab())
    # Textures reach 5 pixels and half of the window 2: of 16 pixels two are left.
    assert bound.window == 5
    assert 0 <= bound.error.expected <= 0.5
    # The masks' margin has its place, however small the sigmas are.
    assert bounds.measure(Texture(1, 16, 0.2, 0.5, 4.0), lab()).window == 5
    # Where the textures reach over the whole image there is none.
    assert bounds.measure(Texture(1, 16, 0.2, 5.0, 4.0), lab()) is None
    assert bounds.document(None) is None
    assert bounds.document(bound)["window"] == 5


@pytest.mark.parametrize("name", ["train_model", "train_best_model", "compare_architectures"])
def test_the_bounds_of_the_presets_are_known(name, monkeypatch):
    monkeypatch.setattr(bounds, "_measured", lambda *_: pytest.fail("run python -m experiments.bench.bounds"))
    for preset in importlib.import_module(f"experiments.{name}").PRESETS.values():
        bound = bounds.measure(preset.data.texture, known := lab())
        assert 0.001 < bound.error.expected < 0.02
        assert known.lines == ["The best possible error: known for these textures."]


@pytest.mark.parametrize(
    "change",
    [{"sigma1": 0.3}, {"sigma2": 1.3}, {"sigma": 6.5}, {"image_size": 48}],
)
def test_other_textures_are_measured(change, monkeypatch):
    monkeypatch.setattr(bounds, "_measured", lambda *_: BOUND.error)
    texture = Texture(image_size=32, sigma=6.4)
    assert bounds.measure(texture, lab()) != BOUND
    assert bounds.measure(texture._replace(**change), lab()) == BOUND
    # The images per batch are none of its options.
    assert bounds.measure(texture._replace(batch_size=3), lab()) != BOUND


@pytest.mark.parametrize("name", ["WINDOW", "NUM_MASKS", "NUM_IMAGES", "PIXELS", "code"])
def test_a_known_bound_of_other_counts_or_code_is_no_known_bound(name, monkeypatch):
    monkeypatch.setattr(bounds, "_measured", lambda *_: BOUND.error)
    monkeypatch.setattr(bounds, name, {"WINDOW": 7, "code": lambda: "other"}.get(name, 16))
    assert bounds.measure(Texture(image_size=32, sigma=6.4), lab()).error == BOUND.error


def test_docstrings_comments_and_spaces_are_no_code(tmp_path, monkeypatch):
    digests = []
    for text in ("x = 1\n", '"""Doc."""\nx  =  1  # a number\n', "x = 2\n"):
        (tmp_path / "module.py").write_text(text)
        monkeypatch.setattr(bounds, "oracle", SimpleNamespace(__file__=str(tmp_path / "module.py")))
        bounds.code.cache_clear()
        digests.append(bounds.code())
    bounds.code.cache_clear()
    assert digests[0] == digests[1] != digests[2]
    assert re.fullmatch("[0-9a-f]{16}", digests[0])


@pytest.mark.slow
def test_a_small_measurement_agrees_with_the_known_bound():
    row = next(row for row in json.loads(bounds.KNOWN.read_text()) if row["settings"]["image_size"] == 32)
    small = bounds._measured(row["settings"] | {"num_masks": 100, "num_images": 16, "pixels_per_image": 64})
    known = BayesError(**row["error"])
    assert abs(small.expected - known.expected) < 3 * (small.expected_error**2 + known.expected_error**2) ** 0.5
    # Another sigma2 is told apart: it would not pass.
    other = bounds._measured(row["settings"] | {"sigma2": 0.5, "num_masks": 100, "num_images": 16})
    assert abs(other.expected - known.expected) > 3 * (other.expected_error**2 + known.expected_error**2) ** 0.5


@pytest.mark.deep
def test_the_command_writes_the_known_bounds(tmp_path, monkeypatch):
    known = json.loads(bounds.KNOWN.read_text())
    monkeypatch.setattr(bounds, "KNOWN", tmp_path / "known.json")
    monkeypatch.setattr(bounds, "SIZES", (32,))
    bounds.main()
    (row,) = json.loads(bounds.KNOWN.read_text())
    assert (row["settings"], row["code"]) == (known[0]["settings"], known[0]["code"])
    assert row["error"] == pytest.approx(known[0]["error"], rel=1e-3)


def test_the_finding_says_which_networks_could_do_better():
    finding = bounds.finding(BOUND, "this network", 0.006, 17)
    assert "Bayes' rule on 9 x 9 pixels errs on 0.20% (+- 0.05%) of the pixels away from the border" in finding
    assert "this network errs on 0.60%, 3.0 times as many. A network with a receptive field of 17 x 17 may" in finding
    assert bounds.finding(BOUND, "it", 0.006, 9).endswith("No network with so small a receptive field can do better.")
    nothing = Bound(9, BayesError(0.0, 0.0, 0.0, 0.0))
    assert "it errs on 0.10%. " in bounds.finding(nothing, "it", 0.001, 17)
    assert bounds.heading(BOUND) == "Bayes' rule, 9 x 9 pixels"
