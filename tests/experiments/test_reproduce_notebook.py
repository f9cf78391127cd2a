import pytest
from small_runs import result

from experiments.lab import scores
from experiments.notebook import flaws, published
from experiments.reproduce_notebook import Compared, Options, compare, findings, plan, verdict


def arms_of(*results):
    return scores.arms(results, scores.by_rate)


@pytest.mark.parametrize(
    ("number", "ours", "words"),
    [
        (0.5, [0.4, 0.6], "within our range"),
        (0.61, [0.4, 0.6, 0.5], "could be one of ours"),
        (5.0, [0.4, 0.6, 0.5], "no: above ours"),
        (-5.0, [0.4, 0.6, 0.5], "no: below ours"),
        (0.5, [0.6], "one run: no verdict, ours is +20%"),
        (0.5, [], "not run: no verdict"),
    ],
)
def test_verdict(number, ours, words):
    assert verdict(number, ours) == words


def test_every_published_number_is_there():
    """11 numbers of the long run, 8 rates, and 2 of each of 4 optimizers, those of one held against two runs."""
    assert len({(row.label, row.thousands, row.quantity, row.value) for row in published.PUBLISHED}) == 29
    planned = {scores.by_rate(run) for run in plan(Options())}
    assert {row.label for row in published.PUBLISHED} <= planned


def test_the_long_run_is_its_seeds_only():
    sgd = [run.iterations for run in plan(Options(seeds=3, long_seeds=1)) if scores.by_rate(run) == "sgd 0.001"]
    assert sgd == [10_000, 1000, 1000]


def test_ours_are_taken_at_the_same_step():
    arms = arms_of(result([0.4, 0.2, 0.3, 0.5], 0, optimizer="sgd"), result([0.2, 0.4], 1, optimizer="sgd"))
    options = Options(iterations=2, long_iterations=4)
    first, last = (published.Published("sgd 0.001", thousands, published.LOSS, 0.3) for thousands in (1, 2))
    assert compare(first, arms, options).ours == pytest.approx([0.3, 0.3])
    assert compare(last, arms, options).ours == pytest.approx([0.35])
    # What no run of ours reaches is not compared, nor is anything of another protocol.
    assert compare(last._replace(thousands=10), arms, options).ours == []
    assert compare(first, arms, options).verdict == "another protocol: no verdict"


def test_the_count_takes_each_published_number_once():
    row = Compared("sgd", 1000, published.LOSS, 0.1, "", [0.1, 0.2], "within our range")
    misnamed = row._replace(note=published.MISNAMED, verdict="no: above ours")
    single = row._replace(verdict="one run: no verdict")
    found = findings([row, misnamed, single])
    assert found[0].startswith("1 of 1 published numbers")
    assert len(found) == 2
    assert findings([single]) == ["No verdict: it takes at least two seeds of the notebook's own protocol."]


def test_quantities_are_the_notebook_s():
    run = result([0.4, 0.2, 0.6], agreeing=[1, 0, 1])
    assert published.quantity(run, published.LOSS, 2) == pytest.approx(0.3)
    assert published.quantity(run, published.AGREEMENT, 3) == pytest.approx(2 / 3)
    assert published.quantity(run, published.LAST, 2) == 0


def test_every_flaw_is_shown_with_what_is_finished():
    none = flaws.demonstrate({}, steps=2, image_size=128)
    assert [flaw.flaw[0] for flaw in none] == list("12345678")
    assert "not run" in none[1].shown
    # These two need no run: the loss is 0 with a gradient of 0, and the kernel's sum underflows to 0.
    assert "loss is 0 and its largest gradient 0" in none[4].shown
    assert "kernel sums to 0 before" in none[7].shown
    assert "gaussian_kernel sums to 1." in none[7].shown


def test_paired_differences_are_adam_less_rmsprop():
    arms = arms_of(
        result([0.2, 0.2], 0),
        result([0.3, 0.3], 0, agreeing=[0, 1], optimizer="rmsprop"),
        result([0.5, 0.5], 1),
    )
    shown = flaws.adam_against_rmsprop(arms, 2)
    assert "loss -0.1000; agreement +0.5000" in shown
    assert "lower loss in 1 and the higher agreement in 1 of 1 seeds" in shown


def test_the_plotted_curve_is_another_run_s_sum():
    arms = arms_of(result([0.5] * 4, optimizer="sgd"), result([0.2, 0.1], optimizer="rmsprop"))
    said = "from 2 down to 1.000, where RMSprop's own running mean ends at 0.1500"
    assert said in flaws.other_sum(arms, 2)
