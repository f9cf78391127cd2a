import numpy as np
import pytest
from scipy import stats
from test_runs import result

from experiments import notebook, notebook_flaws
from experiments.reproduce_notebook import Comparison, Options, compare, findings, plan, prediction_interval, verdict


def test_prediction_interval_of_two_values():
    """mean +- t(0.975, 1) s sqrt(3/2), with t(0.975, 1) = tan(0.475 pi) and s = |a - b| / sqrt 2."""
    low, high = prediction_interval([1.0, 3.0])
    reach = np.tan(0.475 * np.pi) * np.sqrt(2) * np.sqrt(1.5)
    assert (low, high) == pytest.approx((2 - reach, 2 + reach))


def test_prediction_interval_holds_one_more_draw_as_often_as_it_says():
    draws = stats.norm.rvs(size=(2000, 4), random_state=0)
    held = [low <= draw[3] <= high for draw in draws for low, high in [prediction_interval(draw[:3])]]
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(
    ("published", "ours", "words"),
    [
        (0.5, [0.4, 0.6], "within our range"),
        (0.61, [0.4, 0.6, 0.5], "could be one of ours"),
        (5.0, [0.4, 0.6, 0.5], "no: above ours"),
        (-5.0, [0.4, 0.6, 0.5], "no: below ours"),
        (0.5, [0.6], "one run: no verdict, ours is +20%"),
        (0.5, [], "not run: no verdict"),
    ],
)
def test_verdict(published, ours, words):
    assert verdict(published, ours) == words


def test_every_published_number_is_there():
    """11 numbers of the long run, 8 rates, and 2 of each of 4 optimizers, those of one held against two runs."""
    assert len({(row.label, row.thousands, row.quantity, row.value) for row in notebook.PUBLISHED}) == 29
    planned = {run.label for run in plan(Options())}
    assert {row.label for row in notebook.PUBLISHED} <= planned


def test_the_long_run_is_its_seeds_only():
    sgd = [run.iterations for run in plan(Options(seeds=3, long_seeds=1)) if run.label == "sgd 0.001"]
    assert sgd == [10_000, 1000, 1000]


def test_ours_are_taken_at_the_same_step():
    long, short = result([0.4, 0.2, 0.3, 0.5], "sgd 0.001", 0), result([0.2, 0.4], "sgd 0.001", 1)
    options = Options(iterations=2, long_iterations=4)
    first, last = (notebook.Published("sgd 0.001", thousands, notebook.LOSS, 0.3) for thousands in (1, 2))
    assert compare(first, [long, short], options).ours == pytest.approx([0.3, 0.3])
    assert compare(last, [long, short], options).ours == pytest.approx([0.35])
    # What no run of ours reaches is not compared, nor is anything of another protocol.
    assert compare(last._replace(thousands=10), [long, short], options).ours == []
    assert compare(first, [long, short], options).verdict == "another protocol: no verdict"


def test_the_count_takes_each_published_number_once():
    row = Comparison("sgd", 1000, notebook.LOSS, 0.1, "", [0.1, 0.2], "within our range")
    misnamed = row._replace(note=notebook.MISNAMED, verdict="no: above ours")
    single = row._replace(verdict="one run: no verdict")
    found = findings([row, misnamed, single])
    assert found[0].startswith("1 of 1 published numbers")
    assert len(found) == 2
    assert findings([single]) == ["No verdict: it takes at least two seeds of the notebook's own protocol."]


def test_quantities_are_the_notebook_s():
    run = result([0.4, 0.2, 0.6], agreeing=[1, 0, 1])
    assert notebook.quantity(run, notebook.LOSS, 2) == pytest.approx(0.3)
    assert notebook.quantity(run, notebook.AGREEMENT, 3) == pytest.approx(2 / 3)
    assert notebook.quantity(run, notebook.LAST, 2) == 0


def test_every_flaw_is_shown_with_what_is_finished():
    none = notebook_flaws.demonstrate([], steps=2, image_size=128)
    assert [flaw.flaw[0] for flaw in none] == list("12345678")
    assert "not run" in none[1].shown
    # These two need no run: the loss is 0 with a gradient of 0, and the kernel's sum underflows to 0.
    assert "loss is 0 and its largest gradient 0" in none[4].shown
    assert "kernel sums to 0 before" in none[7].shown
    assert "gaussian_kernel sums to 1." in none[7].shown


def test_paired_differences_are_adam_less_rmsprop():
    results = [
        result([0.2, 0.2], "adam 0.001", 0),
        result([0.3, 0.3], "rmsprop 0.001", 0, agreeing=[0, 1]),
        result([0.5, 0.5], "adam 0.001", 1),
    ]
    shown = notebook_flaws.adam_against_rmsprop(results, 2)
    assert "loss -0.1000; agreement +0.5000" in shown
    assert "lower loss in 1 and the higher agreement in 1 of 1 seeds" in shown


def test_the_plotted_curve_is_another_run_s_sum():
    results = [result([0.5] * 4, "sgd 0.001"), result([0.2, 0.1], "rmsprop 0.001")]
    assert "from 2 down to 1.000, where RMSprop's own running mean ends at 0.1500" in notebook_flaws.other_sum(
        results, 2
    )
