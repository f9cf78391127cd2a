"""The notebook's published numbers beside ours."""

import pytest
from small_runs import result

from experiments.lab.arms import by_rate, compare
from experiments.notebook import comparison, published
from experiments.notebook.comparison import Compared, Verdict, findings


@pytest.mark.parametrize(
    ("number", "ours", "verdict", "text"),
    [
        (0.5, [0.4, 0.6], Verdict.IN_RANGE, "within our range"),
        (0.5, [0.1, 0.6], Verdict.IN_RANGE, "within our range, which spans a factor of 6"),
        (0.61, [0.4, 0.6, 0.5], Verdict.POSSIBLE, "could be one of ours"),
        (5.0, [0.4, 0.6, 0.5], Verdict.ABOVE, "no: above ours"),
        (-5.0, [0.4, 0.6, 0.5], Verdict.BELOW, "no: below ours"),
        (0.5, [0.6], Verdict.ONE_RUN, "one run: no verdict, ours is +20%"),
        (0.5, [], Verdict.NO_RUN, "no run: no verdict"),
    ],
)
def test_verdict(number, ours, verdict, text):
    assert comparison.judge(number, ours) is verdict
    assert Compared("sgd", 1, published.LOSS, number, "", ours, verdict).verdict_text == text


def test_ours_are_taken_at_the_same_step():
    runs = [result([0.4, 0.2, 0.3, 0.5], 0, optimizer="sgd"), result([0.2, 0.4], 1, optimizer="sgd")]
    arms = compare(runs, by=by_rate)
    first, last = (published.Published("sgd 0.001", thousands, published.LOSS, 0.3) for thousands in (1, 2))
    assert comparison.compare(first, arms, 2).ours == pytest.approx([0.3, 0.3])
    assert comparison.compare(last, arms, 2).ours == pytest.approx([0.35])
    # No run of ours reaches this step.
    assert comparison.compare(last._replace(thousands=10), arms, 2).ours == []
    # A run that ended in NaN does not count.
    diverged = compare([*runs, result([0.4, float("nan")], 2, optimizer="sgd")], by=by_rate)
    assert comparison.compare(first, diverged, 2) == comparison.compare(first, arms, 2)


def test_numbers_that_do_not_fit_come_first_and_each_number_counts_once():
    row = Compared("sgd", 1000, published.LOSS, 0.1, "", [0.1, 0.2], Verdict.IN_RANGE)
    misnamed = row._replace(note=published.MISNAMED, verdict=Verdict.ABOVE)
    as_momentum = row._replace(label="momentum", note=published.AS_MOMENTUM)
    single = row._replace(verdict=Verdict.ONE_RUN)
    first, second = findings([row, misnamed, as_momentum, single])
    assert first.startswith("1 published numbers do not fit as SGD: loss 0.1, ours 0.15 on average. As momentum")
    assert first.endswith("they do: loss 0.1, ours 0.15 on average.")
    assert second.startswith("2 of 2 published numbers")
    below = findings([row, row._replace(verdict=Verdict.BELOW)])
    assert below[-1] == "sgd, loss 0.1, ours 0.15 on average: no: below ours."
    assert findings([single])[0].startswith("No published number is judged")


def test_the_figure_has_a_row_for_each_loss_of_ours():
    row = Compared("sgd", 1000, published.LOSS, 0.1, "", [0.1, 0.2], Verdict.IN_RANGE)
    figure = comparison.figure([row, row._replace(quantity=published.AGREEMENT), row._replace(ours=[])])
    assert len(figure.axes[0].get_yticklabels()) == 1
