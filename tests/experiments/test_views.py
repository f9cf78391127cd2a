import numpy as np
import pytest
from conftest import drawn
from small_runs import ARMS, DECISIVE, arm, contest, result

from experiments.lab import scores, views
from experiments.lab.names import ARCHITECTURES
from experiments.lab.options import Comparison
from experiments.lab.scores import Arm, Target
from segjax import statistics

IOU = Target("iou", "IoU >= 0.5", 0.5, True)


def accuracies(label, *shares):
    """An arm whose runs have these accuracies; None is one that diverged."""
    results = []
    for seed, share in enumerate(shares):
        right = 9 if share is None else round(10 * share)
        loss = [np.nan] if share is None else [1 - share]
        results.append(result(loss, seed, counts=(right, 10 - right, 0, 0, 0)))
    return arm(label, results)


def test_a_spread_is_the_mean_and_the_range():
    assert views.spread(np.array([0.25, 0.75]), ".2f") == "0.50\n0.25-0.75"
    assert views.spread(np.array([0.25]), ".2f") == "0.25"


def test_the_leader_is_ahead_by_the_paired_differences():
    ahead = accuracies("a", 0.9, 0.8, 0.7, 0.8, 0.9) | accuracies("b", 0.6, 0.5, 0.4, 0.5, 0.6)
    assert views.leader(ahead, "accuracy") == (
        "Highest held-out accuracy: a (0.820), ahead of all others; of b, the next, by +0.300 (+0.300 to +0.300)."
    )
    # Of losses: of 0.1, 0.2, ... against 0.4, 0.5, ...
    said = views.leader(ahead, "loss")
    assert (
        said
        == "Lowest running-mean loss: a (0.1800), ahead of all others; of b, the next, by -0.3000 (-0.3000 to -0.3000)."
    )


def test_ties_are_ties():
    level = accuracies("a", 0.9, 0.5, 0.7) | accuracies("b", 0.8, 0.7, 0.5) | accuracies("c", 0.6, 0.2, 0.4)
    said = views.leader(level, "accuracy")
    found = statistics.bootstrap([0.1, -0.2, 0.2])
    assert said == (
        "Highest held-out accuracy: a (0.700); tied with (difference a less the other, 95 %): "
        f"b: +0.033 ({found.low:+.3f} to {found.high:+.3f})."
    )
    # Two that have only one seed in common.
    apart = accuracies("a", 0.9, 0.8, None) | accuracies("b", None, 0.9, 0.5)
    assert views.leader(apart, "accuracy").endswith("(difference a less the other, 95 %): b: too few pairs.")
    # One that diverged in one seed more is behind, and no difference of the rest is told.
    fewer = accuracies("a", 0.4, 0.3, 0.2) | accuracies("b", 0.9, 0.8, None)
    assert views.leader(fewer, "accuracy") == "Highest held-out accuracy: a (0.300), ahead of all others."
    # One seed has no interval, and one arm no rival.
    assert views.leader(accuracies("a", 0.9) | accuracies("b", 0.8), "accuracy") == (
        "Highest held-out accuracy: a (0.900); one seed cannot tell them apart."
    )
    assert views.leader(accuracies("a", 0.9, 0.5), "loss") == "Lowest running-mean loss: a (0.3000)."


def test_one_against_the_reference():
    arms = accuracies("a", 0.9, 0.8, 0.7, 0.8, 0.9) | accuracies("b", 0.6, 0.5, 0.4, 0.5, 0.6)
    held = scores.contest(arms, ("accuracy",), ("accuracy",), (), "a")
    assert views.against("b", held) == ("b less a: held-out accuracy -0.300 (-0.300 to -0.300), better in 0 of 5.")


def test_a_table_has_a_row_an_arm():
    table = views.table(ARMS, "title", ("iou", "seconds"))
    assert table.headings == ["", "IoU", "seconds"]
    assert table.rows == [["a", "0.600\n0.600-0.600", "1\n1-1"], ["b", "0.600\n0.600-0.600", "1\n1-1"]]


def test_tables_of_a_contest_show_its_numbers():
    estimates, _, paired, *_ = views.contest_tables(ARMS, contest(ARMS), [])
    assert estimates.title == "Loss, last tenth"
    assert estimates.rows[0][1].startswith("0.2000\n")
    (row,) = paired.rows
    assert row[0] == "b"
    assert row[2:] == ["1 of 3", "0.33\n0.06 to 0.79"]


def test_what_diverged_altogether_has_no_number_in_the_table():
    arms = arm("c", [result([np.nan, 0.1])])
    # One arm has none to be held against.
    first, second, target = views.contest_tables(arms, contest(arms, [IOU], "c"), [IOU])
    assert first.rows == second.rows == [["c", "-", "-", "-"]]
    assert target.title == "Time to a target"


def test_verdicts_follow_the_paired_intervals():
    counts = {"low": (4, 6, 0, 0, 10), "high": (9, 1, 0, 0, 10)}
    worse, better, lost = (
        [result([0.4, last], seed, counts=counts[iou]) for seed in range(5)]
        for last, iou in ((0.2, "low"), (0.1, "high"), (np.nan, "high"))
    )
    arms = {**arm("low", worse), **arm("high", better), **arm("same", better), **arm("lost", lost)}
    table = views.verdict_table(arms, contest(arms, reference="high"), "title")
    assert [row[-1] for row in table.rows] == ["worse", "reference", "tied", "5 of 5 diverged"]
    assert table.headings[-2] == "IoU less that of high"
    # Runs that diverged are in no mean.
    assert table.rows[-1][1:4] == ["-", "-", "-"]
    flipped = views.verdict_table(arms, contest(arms, reference="low"), "title")
    assert [row[-1] for row in flipped.rows][:2] == ["reference", "better"]
    alone = {label: Arm(label, it.results[:1]) for label, it in arms.items()}
    assert views.verdict_table(alone, contest(alone, reference="high"), "title").rows[0][-1] == "too few seeds"


def test_ties_are_told():
    *_, paired, _ = views.contest_tables(ARMS, contest(ARMS), [])
    assert paired.title == "Held-out IoU, against a"
    assert paired.rows[0][2] == "0 of 3\n2 ties"


def test_misses_are_never(monkeypatch):
    monkeypatch.setattr(scores, "WINDOW", 1)
    targets = [Target("loss", f"loss <= {value}", value, False) for value in (0.25, 0.01)]
    # A second for two steps.
    row = views.contest_tables(ARMS, contest(ARMS, targets), targets)[-1].rows[0]
    assert row == ["a", "2 of 3", "2", "1.0", "0 of 3", "never", "never"]


def test_figures_show_intervals():
    five = arm("a", [result([0.4, loss], seed) for seed, loss in enumerate([0.1, 0.2, 0.3, 0.2, 0.1])])
    drawn = views.contest_figures(five, contest(five, [IOU]), [IOU], "title")["curves"]
    low, _ = statistics.bootstrap(np.float32([0.1, 0.2, 0.3, 0.2, 0.1]) / 2 + 0.2)[1:]
    edge = drawn.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert edge.max() == pytest.approx(0.4, rel=1e-5)
    assert edge.min() == pytest.approx(low, rel=1e-5)
    assert "95 % interval" in drawn.get_suptitle()


def test_figures_of_few_seeds_show_their_range():
    alone = {"a": ARMS["a"]}
    drawn = views.contest_figures(alone, contest(alone, [IOU]), [IOU], "title")["curves"]
    edge = drawn.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    # Of running means (0.4 + 0.1) / 2 and more.
    assert edge.min() == pytest.approx(0.25, rel=1e-5)
    assert "95 %" not in drawn.get_suptitle()
    figures = views.contest_figures(ARMS, contest(ARMS, [IOU]), [IOU], "title")
    assert set(figures) == {"curves", "paired_differences", "time_to_target"}
    assert figures["paired_differences"].get_suptitle() == "title: paired differences, mean and range; a dot a seed"
    axes = figures["paired_differences"].axes
    # Of -0.1 and 0.1: the third pair has a run that diverged.
    np.testing.assert_allclose(axes[0].lines[1].get_xdata(), [-0.1, 0.1], rtol=1e-5)
    assert axes[0].get_xlabel() == "loss, last tenth, less that of a"
    assert axes[1].get_xlabel() == "held-out IoU, less that of a"
    assert len(axes) == len(DECISIVE)
    # All arrive at once, at the second step.
    share = figures["time_to_target"].axes[0].lines[0].get_ydata()
    assert share[-1] == 1


def test_nothing_is_drawn_of_a_target_that_nobody_reaches(monkeypatch):
    monkeypatch.setattr(scores, "WINDOW", 1)
    never, reached = (Target("loss", f"loss <= {value}", value, False) for value in (0.01, 0.25))
    drawn = views.contest_figures(ARMS, contest(ARMS, [never, reached]), [never, reached], "title")["time_to_target"]
    assert [axes.get_ylabel() for axes in drawn.axes] == ["share of runs at loss <= 0.25"]
    assert "time_to_target" not in views.contest_figures(ARMS, contest(ARMS, [never]), [never], "title")


def test_tuning_is_charged(monkeypatch):
    monkeypatch.setattr(scores, "WINDOW", 1)
    targets = [Target("loss", f"loss <= {value}", value, False) for value in (0.25, 0.01)]
    held, spent = contest(ARMS, targets), {"a": 0, "b": 100}
    table = views.cost_table(ARMS, held, targets, spent)
    assert table.rows == [
        ["a", "0", "0.2000", "2", "2", "never", "never", "2"],
        ["b", "100", "0.1500", "2", "102", "never", "never", "102"],
    ]
    (axes,) = views.cost_figure(ARMS, held, targets, spent, "title").axes
    assert axes.get_xscale() == "log"
    for line, arrival in zip(axes.lines, (2, 102), strict=True):
        x, share = line.get_xdata(), line.get_ydata()
        # Two runs of three arrive; the first point that is drawn from there on has them.
        assert set(share[x < arrival]) <= {0.0}
        np.testing.assert_allclose(share[x >= arrival], 2 / 3)


def test_a_run_that_diverged_is_behind_and_in_no_mean():
    both = accuracies("a", 0.9, None) | accuracies("b", 0.5, 0.6)
    assert views.leader(both, "accuracy").startswith("Highest held-out accuracy: b (0.550), ahead")
    lost = accuracies("a", None, None) | accuracies("b", None, None)
    assert views.leader(lost, "accuracy") == "Highest held-out accuracy: none, every run diverged."
    half = accuracies("a", 0.9, None) | accuracies("b", None, 0.6)
    assert views.leader(half, "accuracy").startswith("Highest held-out accuracy: a (0.900)")


@pytest.mark.slow
def test_every_arm_is_shown_its_own_textures():
    options = Comparison(image_size=16, sigma=4.0, batch_size=1)
    variables = drawn(ARCHITECTURES["shallow"])
    made = {}
    for width in (0.4, 5.0):
        run = options.run(0, texture=options.texture._replace(sigma2=width), architecture="shallow")
        made |= arm(f"{width:g}", [result([0.1])._replace(run=run, variables=variables)])
    shown = [axes.images[0].get_array() for axes in views.predictions(made, options).axes if axes.images]
    # A row an arm of image, mask and prediction: the mask's noise is the same, the texture outside of it is not.
    (first, mask, _), (second, other_mask, _) = shown[:3], shown[3:6]
    np.testing.assert_array_equal(mask, other_mask)
    assert np.abs(np.asarray(first) - np.asarray(second)).max() > 0.1
