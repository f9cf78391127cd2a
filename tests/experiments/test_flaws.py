from small_runs import result

from experiments.lab.arms import by_rate, compare
from experiments.notebook import flaws


def arms_of(*results):
    return compare(results, by=by_rate)


def test_every_flaw_is_shown_in_numbers():
    runs = [("adam", 1e-3), ("rmsprop", 1e-3), ("momentum", 1e-3), ("momentum", 0.1), ("sgd", 1e-3), ("sgd", 1.0)]
    arms = arms_of(*(result([0.2, 0.2], rate=rate, optimizer=name) for name, rate in runs))
    shown = flaws.demonstrate(arms, steps=2, image_size=128, published=True)
    assert [flaw.flaw[0] for flaw in shown] == list("12345678")
    assert "published for SGD 0.0451; plain SGD 0.2000" in shown[1].shown
    # These two need no run: the loss is 0 with a gradient of 0, and the kernel's sum underflows to 0.
    assert "loss is 0 and its largest gradient 0" in shown[4].shown
    assert "kernel sums to 0 before" in shown[7].shown
    assert "gaussian_kernel sums to 1." in shown[7].shown


def test_paired_differences_are_adam_minus_rmsprop():
    arms = arms_of(result([0.2, 0.2], 0), result([0.3, 0.3], 0, agreeing=[0, 1], optimizer="rmsprop"))
    shown = flaws.adam_against_rmsprop(arms, 2)
    assert "loss -0.1000; agreement +0.5000" in shown
    assert "lower loss in 1 and the higher agreement in 1 of 1 seeds" in shown


def test_the_plotted_curve_is_another_run_s_sum():
    arms = arms_of(result([0.5] * 4, optimizer="sgd"), result([0.2, 0.1], optimizer="rmsprop"))
    sentence = "from 2 down to 1.000, where RMSprop's own running mean ends at 0.1500"
    assert sentence in flaws.other_sum(arms, 2)
    # A run that is no longer than RMSprop's is not the long one.
    assert flaws.other_sum(arms, 4) == "(not run)"


def test_a_number_over_seeds_has_its_range_where_there_is_one():
    assert flaws.over_seeds([0.25, 0.75]) == "0.5000 (0.2500-0.7500)"
    assert flaws.over_seeds([0.5]) == "0.5000"
