"""How contenders compare with a reference over the same seeds: estimates, paired differences, times to a target."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from experiments.lab.arms import COLUMNS, Arm, Arms
from experiments.lab.figures import curve_panel
from experiments.lab.report import Drawing, Table
from experiments.lab.tables import difference_text, estimate_text
from experiments.optimizers.sequential import ENOUGH, Decision
from segjax import plotting, statistics
from segjax.plotting import Figure
from segjax.statistics import Estimate, Improvement

# The columns with estimates, and the two that decide: the loss at the end of training, and the held-out IoU.
ESTIMATED = ("final_loss", "loss", "iou")
DECISIVE = ("final_loss", "iou")
# The columns of the verdict table.
VERDICT = ("final_loss", "accuracy", "iou")
# Steps over which curves are averaged, so that a single lucky batch does not reach a target.
WINDOW = 20
# Points of a curve with its interval: each costs a bootstrap, and a figure cannot show more.
POINTS = 200


class Target(NamedTuple):
    """A value that a curve should reach."""

    curve: str
    heading: str
    value: float
    higher_is_better: bool


@dataclass(frozen=True)
class Contest:
    """Arms and a reference over the same seeds; estimates and paired differences leave out runs that diverged.

    Attributes:
        reference: label of the arm that the others are compared with.
        setting: setting of all runs, for titles.
        tuning_steps: label -> training steps for the choice of its learning rate.
    """

    arms: Arms
    reference: str
    targets: Sequence[Target]
    setting: str
    tuning_steps: Mapping[str, int]

    @property
    def rivals(self) -> dict[str, Arm]:
        return {label: arm for label, arm in self.arms.items() if label != self.reference}

    @property
    def few_seeds(self) -> bool:
        """Whether there are too few seeds for a bootstrap."""
        return min(len(arm.rows) for arm in self.arms.values()) < statistics.FEWEST_SEEDS

    @cached_property
    def estimates(self) -> dict[str, dict[str, dict[str, Estimate]]]:
        """column -> label -> statistic -> estimate; NaN if every run diverged."""
        return {
            column: {label: statistics.estimates(arm.masked(column)) for label, arm in self.arms.items()}
            for column in ESTIMATED
        }

    @cached_property
    def improvements(self) -> dict[str, dict[str, Improvement]]:
        """column -> label of a rival -> its comparison with the reference, over the seeds on which neither diverged."""
        reference = self.arms[self.reference]
        return {
            column: {label: _improvement(arm, reference, column) for label, arm in self.rivals.items()}
            for column in DECISIVE
        }

    @cached_property
    def steps(self) -> dict[Target, dict[str, np.ndarray]]:
        """target -> label -> (seeds,) steps to the target, infinity for a run that misses it."""
        return {target: {label: _steps_to(target, arm) for label, arm in self.arms.items()} for target in self.targets}

    @property
    def document(self) -> dict[str, Any]:
        """The contest in results.json."""
        return {
            "estimates": self.estimates,
            "paired": self.improvements,
            "steps_to_target": {target.heading: steps for target, steps in self.steps.items()},
            "reference": self.reference,
            "tuning_steps": dict(self.tuning_steps),
        }


def _improvement(arm: Arm, reference: Arm, column: str) -> Improvement:
    both = ~(arm.diverged | reference.diverged)
    if not both.any():
        return Improvement(Estimate(*np.full(3, np.nan)), statistics.proportion(0, 0), wins=0, ties=0, seeds=0)
    values, against = (each.values(column)[both] for each in (arm, reference))
    return statistics.compare(values, against, COLUMNS[column].higher_is_better)


def _steps_to(target: Target, arm: Arm) -> np.ndarray:
    curves = np.stack([curves[target.curve] for curves in arm.curves])
    return statistics.steps_to_target(curves, target.value, target.higher_is_better, _window(arm))


def _window(arm: Arm) -> int:
    return min(WINDOW, arm.run.iterations)


def against_reference(label: str, contest: Contest) -> str:
    """A finding: how a rival compares with the reference in each decisive column."""
    parts = []
    for column, improvements in contest.improvements.items():
        improvement = improvements[label]
        text = difference_text(improvement.difference, COLUMNS[column].form)
        parts.append(f"{COLUMNS[column].title} {text}, better in {improvement.wins} of {improvement.seeds}")
    return f"{label} minus {contest.reference}: {'; '.join(parts)}."


def verdict_table(contest: Contest, decisions: Mapping[str, Decision] | None = None) -> Table:
    """One row per arm: its final loss, its held-out scores, and the verdict by IoU, of `decisions` if there are any."""
    verdicts = {
        label: _anytime_verdict(decisions[label]) if decisions else _verdict(label, contest) for label in contest.rivals
    }
    rows = [[label, *_means(arm), *verdicts.get(label, ["", "reference"])] for label, arm in contest.arms.items()]
    note = "Means over seeds that did not diverge; accuracy and IoU of held-out images."
    if verdicts:
        note += (
            f" Verdict: by the difference of IoU, seed by seed, and its 95 % interval {_interval(contest, decisions)}."
        )
    headings = ["optimizer, rate", *(COLUMNS[name].heading for name in VERDICT)]
    return Table(contest.setting, [*headings, f"IoU minus {contest.reference}'s", "verdict"], rows, note)


def _interval(contest: Contest, decisions: Mapping[str, Decision] | None) -> str:
    if decisions:
        return f"that holds at every number of seeds; undecided where the evidence is below {ENOUGH:g}"
    pairs = [improvement.seeds for improvement in contest.improvements["iou"].values()]
    # With fewer pairs than seeds, since runs diverged, the method may differ from row to row.
    methods = {"bootstrap" if number >= statistics.FEWEST_SEEDS else "Student's" for number in pairs}
    return f"for one look ({' or '.join(sorted(methods))}); tied where that includes 0"


def _anytime_verdict(decision: Decision) -> list[str]:
    """The difference of a rival's IoU, and the verdict, both valid at every number of seeds."""
    is_known = np.isfinite(decision.difference.value)
    difference = estimate_text(decision.difference, "+.3f") if is_known else "runs diverged"
    return [difference, "undecided" if decision.decided_after is None else decision.verdict]


def _means(arm: Arm) -> list[str]:
    means = {name: arm.mean(name) for name in VERDICT}
    return [f"{mean:{COLUMNS[name].form}}" if np.isfinite(mean) else "-" for name, mean in means.items()]


def verdict(values: np.ndarray, reference: np.ndarray) -> tuple[str, str]:
    """The verdict by IoU, (seeds,) with NaN for runs that diverged, and the numbers of these if they decide it."""
    diverged = [int(np.isnan(each).sum()) for each in (values, reference)]
    if diverged[0] != diverged[1]:
        counts = " and ".join(f"{count} of {len(values)}" for count in diverged)
        return f"{'fewer' if diverged[0] < diverged[1] else 'more'} runs diverged", f" ({counts})"
    return statistics.verdict(values, reference, higher_is_better=True), ""


def _verdict(label: str, contest: Contest) -> list[str]:
    """The difference of a rival's IoU, and the verdict for one look."""
    arm, reference = contest.arms[label], contest.arms[contest.reference]
    difference = contest.improvements["iou"][label].difference
    text = "".join(verdict(arm.masked("iou"), reference.masked("iou")))
    if text == "not told apart":
        text = "tied" if np.isfinite(difference).all() else "too few seeds"
    return [estimate_text(difference, "+.3f"), text]


def detail_tables(contest: Contest) -> Iterator[Table]:
    """The estimates, the paired differences, and the times to the targets."""
    for column, estimates in contest.estimates.items():
        yield _estimate_table(column, estimates)
    for column in contest.improvements if contest.rivals else ():
        yield _paired_table(contest, column)
    yield _target_table(contest)


def drawings(contest: Contest) -> dict[str, Drawing]:
    """The curves, the paired differences, and the share of runs that have reached the targets."""
    # An interval needs more seeds.
    spread = "range" if contest.few_seeds else "its 95 % interval"
    figures = {"curves": Drawing("Training curves", _curves(contest, f"{contest.setting}: mean and {spread}"))}
    if contest.rivals:
        heading = "Differences to the reference, seed by seed"
        figures["paired_differences"] = Drawing(heading, _difference_figure(contest))
    heading = "Share of runs that have reached each target"
    # A target that no run reaches has no panel.
    if reached := [target for target, steps in contest.steps.items() if np.isfinite([*steps.values()]).any()]:
        figures["time_to_target"] = Drawing(heading, _arrivals(contest, reached, dict.fromkeys(contest.arms, 0)))
        if any(contest.tuning_steps.values()):
            with_tuning = _arrivals(contest, reached, contest.tuning_steps)
            figures["time_with_tuning"] = Drawing(f"{heading}, tuning included", with_tuning)
    return figures


def _difference_figure(contest: Contest) -> Figure:
    """Each rival minus the reference: its interval, or the range over few seeds, and one dot per seed."""
    reference = contest.arms[contest.reference]
    pairs = {
        label: [arm.masked(column) - reference.masked(column) for column in DECISIVE]
        for label, arm in contest.rivals.items()
    }

    def estimate(label: str, column: str, differences: np.ndarray) -> Estimate:
        if contest.few_seeds and np.isfinite(differences).any():
            return Estimate(*(float(number(differences)) for number in (np.nanmean, np.nanmin, np.nanmax)))
        return contest.improvements[column][label].difference

    estimates = {
        label: [estimate(label, *pair) for pair in zip(DECISIVE, columns, strict=True)]
        for label, columns in pairs.items()
    }
    xlabels = [f"{COLUMNS[column].title} minus {contest.reference}'s" for column in DECISIVE]
    better = [COLUMNS[column].higher_is_better for column in DECISIVE]
    interval = "mean and range" if contest.few_seeds else "mean and its 95 % interval for one look"
    title = f"{contest.setting}: paired differences, {interval}; one dot per seed"
    return plotting.differences(estimates, pairs, xlabels, better, title, order=list(contest.arms))


def _arrivals(contest: Contest, targets: Sequence[Target], tuning_steps: Mapping[str, int]) -> Figure:
    """The share of runs that have reached each target by a step, those of tuning included."""
    reached = {
        target: {label: steps + tuning_steps[label] for label, steps in contest.steps[target].items()}
        for target in targets
    }
    # Arms may have different numbers of steps: the lines of shorter ones stay level at their end.
    last = max(tuning_steps[label] + arm.run.iterations for label, arm in contest.arms.items())
    at, xlabel, title = np.arange(1, last + 1), "iteration", f"{contest.setting}: runs that have arrived"
    if log := any(tuning_steps.values()):
        first = max(1, np.min([[*steps.values()] for steps in reached.values()]) // 2)
        # Twice as many points, since the first ones of a logarithmic axis round to the same steps.
        at = np.unique(np.geomspace(first, last, 2 * POINTS).astype(int))
        xlabel, title = "steps, tuning included", f"{title}, with the steps of tuning"
    panels = []
    for target, by_label in reached.items():
        # No bands: the intervals of so few runs would cover each other.
        shares = {label: statistics.profile(steps, at).value[np.newaxis] for label, steps in by_label.items()}
        ylabel = f"share of runs at {target.heading}"
        panels.append(plotting.Panel(ylabel, shares, x=at, xlabel=xlabel, xlog=log, ylim=(-0.03, 1.03)))
    return plotting.training_curves(panels, title)


def _curves(contest: Contest, title: str) -> Figure:
    panels = []
    for curve, ylabel in (
        ("loss", "running-mean loss (mean squared error)"),
        ("iou", "running-mean IoU of the training batches"),
    ):
        panel = curve_panel(contest.arms, curve, ylabel)
        length = next(iter(panel.curves.values())).shape[-1]
        indices = np.unique(np.linspace(0, length - 1, POINTS).astype(int))
        thinned = {label: numbers[:, indices] for label, numbers in panel.curves.items()}
        bands = {} if contest.few_seeds else {label: statistics.band(numbers) for label, numbers in thinned.items()}
        panels.append(panel._replace(curves=thinned, x=indices + 1, bands=bands))
    return plotting.training_curves(panels, title)


def _title(column: str) -> str:
    heading = COLUMNS[column].title
    return heading[0].upper() + heading[1:]


def _estimate_table(column: str, estimates: Mapping[str, Mapping[str, Estimate]]) -> Table:
    form, better = COLUMNS[column].form, "more" if COLUMNS[column].higher_is_better else "less"
    rows = [
        [label, *(estimate_text(estimate, form, in_lines=True) for estimate in by_statistic.values())]
        for label, by_statistic in estimates.items()
    ]
    note = (
        f"95 % intervals over seeds, {better} is better: bootstrapped; with fewer than {statistics.FEWEST_SEEDS} seeds "
        "Student's, of the mean alone. IQM: mean without the highest and the lowest quarter, from 4 seeds on."
    )
    return Table(_title(column), ["", *statistics.STATISTICS], rows, note)


def _paired_table(contest: Contest, column: str) -> Table:
    rows = []
    for label, (difference, probability, wins, ties, seeds) in contest.improvements[column].items():
        counts = f"{wins} of {seeds}" + (f"\n{ties} ties" if ties else "")
        difference_lines = estimate_text(difference, f"+{COLUMNS[column].form}", in_lines=True)
        rows.append([label, difference_lines, counts, estimate_text(probability, ".2f", in_lines=True)])
    note = (
        f"Each minus {contest.reference}, on the same seeds: same initial weights, same images. 95 % intervals for one "
        "look (after adding seeds until one excludes 0 they do not hold; --until-decided has some that do): of the "
        f"mean difference by bootstrap (with fewer than {statistics.FEWEST_SEEDS} pairs Student's), of the probability "
        "by Wilson's formula."
    )
    headings = ("", "difference", "better in", "probability of being better")
    return Table(f"{_title(column)}, against {contest.reference}", headings, rows, note)


def _target_table(contest: Contest) -> Table:
    """One row per arm: its times to the targets, and with tuning also those with the steps of its tuning."""
    charged = any(contest.tuning_steps.values())
    headings, rows = [""], {label: [label] for label in contest.arms}
    for target, by_label in contest.steps.items():
        headings += [f"{target.heading}: reached", "median steps", "with its tuning" if charged else "median seconds"]
        for label, steps in by_label.items():
            arm, median = contest.arms[label], np.median(steps)
            seconds = np.median(steps * arm.values("seconds") / arm.run.iterations)
            time = _time(median + contest.tuning_steps[label], ".0f") if charged else _time(seconds, ".1f")
            rows[label] += [f"{int(np.isfinite(steps).sum())} of {len(steps)}", _time(median, ".0f"), time]
    windows = " or ".join(map(str, sorted({_window(arm) for arm in contest.arms.values()})))
    if charged:
        headings.append("steps of tuning")
        rows = {label: [*row, f"{contest.tuning_steps[label]}"] for label, row in rows.items()}
    note = (
        f"Means of the last {windows} training batches; a run that misses the target counts as one that never arrives. "
        + ("Tuning: all steps of its grid, on every seed." if charged else "Seconds: without the compilation.")
    )
    return Table("Time to a target", headings, list(rows.values()), note)


def _time(value: float, form: str) -> str:
    return f"{value:{form}}" if np.isfinite(value) else "never"
