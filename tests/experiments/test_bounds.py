from rich.console import Console

from experiments.bench import bounds
from experiments.bench.bounds import Bound
from experiments.lab.runs import Texture
from experiments.lab.train import progress_bar
from segjax.oracle import BayesError

BOUND = Bound(9, BayesError(0.002, 0.0005, 0.003, 0.001))


def test_the_window_fits_into_the_image(monkeypatch):
    monkeypatch.setattr(bounds, "NUM_MASKS", 20)
    monkeypatch.setattr(bounds, "PIXELS", 4)
    quiet = Console(quiet=True)
    bound = bounds.measure(Texture(1, 16, 0.2, 1.2, 4.0), progress_bar(quiet))
    # Textures reach 5 pixels and half of the window 2: of 16 pixels two are left.
    assert bound.window == 5
    assert 0 <= bound.error.expected <= 0.5
    # The masks' margin has its place, however small the sigmas are.
    assert bounds.measure(Texture(1, 16, 0.2, 0.5, 4.0), progress_bar(quiet)).window == 5
    # Where the textures reach over the whole image there is none.
    assert bounds.measure(Texture(1, 16, 0.2, 5.0, 4.0), progress_bar(quiet)) is None
    assert bounds.document(None) is None
    assert bounds.document(bound)["window"] == 5


def test_the_finding_says_which_networks_could_do_better():
    finding = bounds.finding(BOUND, "this network", 0.006, 17)
    assert "Bayes' rule on 9 x 9 pixels errs on 0.20% (+- 0.05%) of the pixels away from the border" in finding
    assert "this network errs on 0.60%, 3.0 times as many. A network with a receptive field of 17 x 17 may" in finding
    assert bounds.finding(BOUND, "it", 0.006, 9).endswith("No network with so small a receptive field can do better.")
    nothing = Bound(9, BayesError(0.0, 0.0, 0.0, 0.0))
    assert "it errs on 0.10%. " in bounds.finding(nothing, "it", 0.001, 17)
    assert bounds.heading(BOUND) == "Bayes' rule, 9 x 9 pixels"
