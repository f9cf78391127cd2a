import numpy as np
import pytest
from small_runs import SHORT, execute, parse

from experiments import best_possible
from experiments.best_possible import EXPECTED, OBSERVED, Error
from experiments.lab.stops import UsageError
from segjax import oracle

WORDS = [*SHORT, "--image-size", "24", "--windows", "3", "1", "--sigma2s", "0.8", "1.2"]
WORDS += ["--num-masks", "20", "--num-images", "2"]


def error(mean, standard_error=0.001):
    return Error(mean, standard_error, np.full(5, mean))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """The folder of a small comparison, and its rows by prediction, window and sigma2."""
    out = tmp_path_factory.mktemp("best")
    document = execute(best_possible, *WORDS, "--out", out)
    return out, {(row["what"], row["window"], row["sigma2"]): row for row in document["errors"]}


@pytest.mark.slow
def test_every_prediction_is_evaluated(comparison):
    _, rows = comparison
    bayes = {key for key in rows if key[0].startswith("Bayes")}
    kinds = ("Bayes' rule, expected", "Bayes' rule, observed")
    assert bayes == {(kind, *pair) for kind in kinds for pair in ((1, 1.2), (3, 1.2), (3, 0.8))}
    assert rows.keys() - bayes == {
        (name, field, w) for name, field in (("notebook", 17), ("patch", 38)) for w in (0.8, 1.2)
    }
    assert all(0 <= row["error"] <= 1 for row in rows.values())
    # A larger window, or textures that differ more, give a smaller error.
    expected = {key[1:]: row["error"] for key, row in rows.items() if key[0] == kinds[0]}
    assert expected[3, 1.2] < expected[1, 1.2]
    assert expected[3, 1.2] < expected[3, 0.8]


@pytest.mark.slow
def test_a_resumed_command_reads_the_predictions_of_bayes_rule(comparison, monkeypatch):
    out, rows = comparison
    assert {path.stem for path in out.glob("over_*.png")} == {"over_window", "over_sigma2"}
    for path in out.glob("*.*"):
        path.unlink()
    monkeypatch.setattr(oracle, "posterior", lambda *_, **__: pytest.fail("computed again"))
    again = execute(best_possible, *WORDS, "--out", out)["errors"]
    assert [row["error"] for row in again] == [row["error"] for row in rows.values()]


def test_errors_are_of_the_inner_pixels():
    options = parse(best_possible, *WORDS)
    mask = np.asarray(best_possible.images(options, 1.2, rescaled=False).mask[..., 0])
    right = best_possible.evaluate(options, mask)[1]
    assert (right.mean, right.standard_error) == (0, 0)
    wrong = mask.copy()
    # Wrong pixels at the border do not count.
    wrong[:, : options.margin] = 1 - wrong[:, : options.margin]
    assert best_possible.evaluate(options, wrong)[1].mean == 0
    wrong[0] = 1 - mask[0]
    half = best_possible.evaluate(options, wrong)[1]
    assert half.mean == pytest.approx(0.5)
    assert half.standard_error == pytest.approx(0.5)
    assert best_possible.evaluate(options, np.full_like(mask, 0.3))[0].mean == pytest.approx(0.3)


def test_every_sigma2_has_the_same_masks():
    options = parse(best_possible, *WORDS)
    first, second = (best_possible.images(options, sigma2, rescaled=True).mask for sigma2 in (0.8, 1.2))
    np.testing.assert_array_equal(first, second)


def test_a_warning_says_that_the_masks_are_too_few():
    errors = {(EXPECTED, 9, 1.2): [error(0.010)], (OBSERVED, 9, 1.2): [error(0.013)]}
    assert best_possible.warnings(errors) == []
    (warning,) = best_possible.warnings({**errors, (OBSERVED, 9, 1.2): [error(0.02)]})
    assert warning.startswith("At 9 x 9 pixels, sigma2 1.2, more --num-masks are needed: Bayes' rule expects an error")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--windows", "4"], "--windows must be odd"),
        (["--windows", "3", "3"], "--windows must be different numbers"),
        (["--windows", "0"], "--windows must be an integer >= 1"),
        (["--windows", "15"], "--image-size must be above 24 for these windows and textures"),
        (["--sigma2s", "0"], "--sigma2s must be a finite number > 0"),
        (["--sigma2s", "5"], "--image-size must be above 34"),
        (["--num-masks", "1"], "--num-masks must be an integer >= 2"),
        (["--num-images", "1"], "--num-images must be an integer >= 2"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path):
    with pytest.raises(UsageError, match=message) as error:
        execute(best_possible, *WORDS, *words, "--out", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())
