"""How the numbers of `scores` look: tables, figures and sentences that several experiments share."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from matplotlib.figure import Figure

import segjax
from experiments.lab.names import ARCHITECTURES
from experiments.lab.options import Comparison
from experiments.lab.report import Table
from experiments.lab.runs import held_out_batch
from experiments.lab.scores import COLUMNS, ERRORS_AT, HELD_OUT, WINDOW, Arm, Arms, Contest, Target
from segjax import plotting, statistics
from segjax.models import Variables
from segjax.statistics import Estimate

# Points at which a curve with its interval is drawn: a bootstrap each, and no screen shows more.
POINTS = 200
# The columns of most tables, and what they are.
SCORES = ("loss", "agreement", "accuracy", "iou", "seconds")
VERDICT = ("final_loss", "accuracy", "iou")
NOTE = (
    "Loss and agreement: running means while training; accuracy and IoU: held-out images. Agreement: the share of "
    "pixels that are right and sure, with a probability below 0.1 or above 0.9."
)


def spread(numbers: np.ndarray, form: str) -> str:
    """The mean, and under it the range where there is one."""
    mean = f"{np.mean(numbers):{form}}"
    return f"{mean}\n{np.min(numbers):{form}}-{np.max(numbers):{form}}" if len(numbers) > 1 else mean


def table(arms: Arms, title: str, columns: Sequence[str] = SCORES, note: str = NOTE) -> Table:
    """A row an arm, a column a score: mean and range over the seeds."""
    rows = [[label, *(spread(arm.values(name), COLUMNS[name].form) for name in columns)] for label, arm in arms.items()]
    return Table(title, ["", *(COLUMNS[name].heading for name in columns)], rows, note)


def leader(arms: Arms, column: str, setting: str = "") -> str:
    """A sentence: whose mean over seeds is best, and who cannot be told apart from it by the paired differences."""
    title, form, better = COLUMNS[column].title, COLUMNS[column].form, COLUMNS[column].higher_is_better
    kept = {label: arm.kept(column) for label, arm in arms.items()}

    def place(label: str) -> tuple[int, float]:
        finite = kept[label][np.isfinite(kept[label])]
        # A run that diverged is behind every other: an average would hide it.
        return len(finite), (1 if better else -1) * finite.mean() if finite.size else -np.inf

    first, *rivals = sorted(arms, key=place, reverse=True)
    end = "Highest" if better else "Lowest"
    if not place(first)[0]:
        return f"{end} {title}{setting}: none, every run diverged."
    sentence = f"{end} {title}{setting}: {first} ({np.nanmean(kept[first]):{form}})"
    if not rivals:
        return f"{sentence}."
    if place(first)[0] == 1:
        return f"{sentence}; one seed cannot tell them apart."
    held = {label: statistics.compare(kept[first], kept[label], better).difference for label in rivals}
    if tied := [label for label in rivals if statistics.verdict(kept[first], kept[label], better) != "better"]:
        listed = "; ".join(f"{label}: {_difference(held[label], form)}" for label in tied)
        return f"{sentence}; tied with (difference {first} less the other, 95 %): {listed}."
    # A rival of which more runs diverged is no measure.
    near = next((label for label in rivals if place(label)[0] == place(first)[0]), None)
    return f"{sentence}, ahead of all others" + (
        f"; of {near}, the next, by {_difference(held[near], form)}." if near else "."
    )


def against(label: str, contest: Contest) -> str:
    """A sentence: an arm against the reference in each decisive column, seed by seed."""
    parts = []
    for column, found in contest.improvements.items():
        it, form = found[label], COLUMNS[column].form
        parts.append(f"{COLUMNS[column].title} {_difference(it.difference, form)}, better in {it.wins} of {it.seeds}")
    return f"{label} less {contest.reference}: {'; '.join(parts)}."


def distance_table(row: Mapping[str, Any]) -> Table:
    """Where the errors of one network lie: its columns of `scores.HELD_OUT`, a row each."""
    names = (*ERRORS_AT, "boundary_f", "image_iou", "worst_image_iou")
    rows = [[HELD_OUT[name][0], f"{row[name]:.4f}"] for name in names]
    note = (
        "Error: share of the held-out pixels at that distance. Boundary F: edges that lie within 2 pixels. A few wrong "
        "pixels take the IoU of an image with hardly any mask to near 0."
    )
    return Table("Where the errors lie", ("", "held-out images"), rows, note)


def verdict_table(arms: Arms, contest: Contest, setting: str) -> Table:
    """A row an arm: where it ended, its worth on held-out images, and the verdict on it by IoU."""
    few, reference, rows = _are_few(arms), arms[contest.reference].kept("iou"), []
    for label, arm in arms.items():
        kept = {name: arm.kept(name) for name in VERDICT}
        finite = {name: numbers[np.isfinite(numbers)] for name, numbers in kept.items()}
        cells = [f"{own.mean():{COLUMNS[name].form}}" if own.size else "-" for name, own in finite.items()]
        if label == contest.reference:
            rows.append([label, *cells, "", "reference"])
            continue
        it = contest.improvements["iou"][label].difference
        known = np.isfinite(it).all()
        interval = f"{it.value:+.3f} ({it.low:+.3f}, {it.high:+.3f})" if known else "-"
        verdict: str = statistics.verdict(kept["iou"], reference, higher_is_better=True)
        if lost := int(arm.diverged.sum()):
            verdict = f"{lost} of {len(arm.rows)} diverged"
        elif verdict == "not told apart":
            verdict = "tied" if known else "too few seeds"
        rows.append([label, *cells, interval, verdict])
    headings = [COLUMNS[name].heading for name in VERDICT]
    note = (
        "Means over seeds that did not diverge; accuracy and IoU of held-out images. Verdict: by the difference of "
        f"IoU, seed by seed, and its 95 % interval ({'Student' if few else 'bootstrap'}); tied where that holds 0."
    )
    heading = f"IoU less that of {contest.reference}"
    return Table(setting, ["optimizer, rate", *headings, heading, "verdict"], rows, note)


def contest_tables(arms: Arms, contest: Contest, targets: Sequence[Target]) -> list[Table]:
    """The estimates, the paired differences, and the times to the targets."""
    tables = [_estimate_table(column, by_label) for column, by_label in contest.estimates.items()]
    if len(arms) > 1:
        tables += [_paired_table(contest, column) for column in contest.improvements]
    return [*tables, _target_table(arms, contest, targets)]


def contest_figures(arms: Arms, contest: Contest, targets: Sequence[Target], setting: str) -> dict[str, Figure]:
    """The curves, the paired differences, and the share of runs that have reached the targets."""
    # Few seeds show where they are, and promise nothing.
    few = _are_few(arms)
    figures = {"curves": _curves(arms, f"{setting}: mean and " + ("range" if few else "its 95 % interval"), few)}
    if len(arms) > 1:
        figures["paired_differences"] = _difference_figure(arms, contest, setting, few)
    # Arms may differ in their steps; a shorter one that never arrives stays level.
    steps = max(arm.run.iterations for arm in arms.values())
    title, uncharged = f"{setting}: runs that have arrived", dict.fromkeys(arms, 0)
    if arrived := _arrivals(contest, targets, np.arange(1, steps + 1), uncharged, title):
        figures["time_to_target"] = arrived
    return figures


def _are_few(arms: Arms) -> bool:
    """Whether the seeds are too few for a bootstrap."""
    return min(len(arm.rows) for arm in arms.values()) < statistics.FEWEST_SEEDS


def _difference_figure(arms: Arms, contest: Contest, setting: str, few: bool) -> Figure:
    """Each arm less the reference: its interval, or the range over few seeds, and a dot a seed."""
    columns, reference = contest.improvements, arms[contest.reference]
    rivals = {label: arm for label, arm in arms.items() if label != contest.reference}
    pairs = {label: [arm.kept(column) - reference.kept(column) for column in columns] for label, arm in rivals.items()}
    estimates = {
        label: [
            (float(finite.mean()), float(finite.min()), float(finite.max()))
            if few and (finite := own[np.isfinite(own)]).size
            else tuple(columns[column][label].difference)
            for column, own in zip(columns, pairs[label], strict=True)
        ]
        for label in rivals
    }
    xlabels = [f"{COLUMNS[column].title}, less that of {contest.reference}" for column in columns]
    better = [COLUMNS[column].higher_is_better for column in columns]
    title = f"{setting}: paired differences, " + ("mean and range" if few else "mean and its 95 % interval")
    return plotting.differences(estimates, pairs, xlabels, better, f"{title}; a dot a seed")


def cost_table(arms: Arms, contest: Contest, targets: Sequence[Target], spent: Mapping[str, int]) -> Table:
    """What each arm reaches, and when, if the steps of its tuning count: label -> those steps."""
    headings, rows = ["", "steps of tuning", "loss, last tenth"], []
    for label, arm in arms.items():
        mean = contest.estimates["final_loss"][label]["mean"].value
        rows.append([label, f"{spent[label]}", f"{mean:.4f}" if np.isfinite(mean) else "-"])
        for target in targets:
            median = np.median(contest.steps[target.heading][label])
            rows[-1] += [_time(median, ".0f"), _time(median + spent[label], ".0f")]
        rows[-1].append(f"{spent[label] + arm.run.iterations}")
    for target in targets:
        headings += [f"{target.heading}: median steps", "with its tuning"]
    note = "Steps of tuning: all that its grid was trained for, on every tuning seed; a rate that was given costs none."
    return Table("With the cost of tuning", [*headings, "steps in all"], rows, note)


def cost_figure(
    arms: Arms, contest: Contest, targets: Sequence[Target], spent: Mapping[str, int], setting: str
) -> Figure | None:
    """The share of runs that have reached the targets, over steps that include those of tuning; None if none has."""
    last = max(spent[label] + arm.run.iterations for label, arm in arms.items())
    arrivals = [steps + spent[label] for found in contest.steps.values() for label, steps in found.items()]
    # From somewhat before the first arrival.
    first = max(1, np.nanmin(arrivals) // 2) if np.isfinite(arrivals).any() else 1
    # Twice as many: the first points of a logarithmic axis round to the same steps.
    at = np.unique(np.geomspace(first, last, 2 * POINTS).astype(int))
    return _arrivals(contest, targets, at, spent, f"{setting}: runs that have arrived, with the steps of tuning")


def _arrivals(
    contest: Contest, targets: Sequence[Target], at: np.ndarray, spent: Mapping[str, int], title: str
) -> Figure | None:
    """A panel for each target that some run has reached."""
    panels, charged = [], any(spent.values())
    for target in targets:
        if not np.isfinite(list(contest.steps[target.heading].values())).any():
            continue
        # No band: the intervals of so few runs would hide one another.
        shares = {
            label: statistics.profile(arrived + spent[label], at).value[np.newaxis]
            for label, arrived in contest.steps[target.heading].items()
        }
        heading, xlabel = f"share of runs at {target.heading}", "steps, tuning included" if charged else "iteration"
        panels.append(plotting.Panel(heading, shares, x=at, xlabel=xlabel, xlog=charged, ylim=(-0.03, 1.03)))
    return plotting.training_curves(panels, title) if panels else None


@partial(jax.jit, static_argnums=0)
def _probability(model: nn.Module, variables: Variables, image: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(segjax.predict(model, variables, image))


def probability(model: nn.Module, variables: Variables, batch: segjax.Batch) -> np.ndarray:
    """What a network sees in the first image of a batch: (n, n)."""
    return np.asarray(_probability(model, variables, batch.image))[0, ..., 0]


def look(batch: segjax.Batch, seen: Mapping[str, np.ndarray], title: str) -> Figure:
    """The first image of a batch and its mask beside each prediction of it."""
    return plotting.predictions(batch.image[0, ..., 0], batch.mask[0, ..., 0], seen, title)


def predictions(arms: Arms, options: Comparison) -> Figure:
    """The first held-out image of each arm's textures as the first seed of each sees it; of those that have weights."""
    grid: list[list[plotting.Picture]] = []
    trained = {label: arm for label, arm in arms.items() if arm.results}
    # Arms of the same textures share an image.
    for texture in dict.fromkeys(arm.run.texture for arm in trained.values()):
        batch = held_out_batch(texture)
        image, mask = (part[0, ..., 0] for part in batch)
        shown = [plotting.Picture("input image", image), plotting.Picture("true mask", mask, "mask")]
        for label, arm in trained.items():
            if arm.run.texture == texture:
                seen = probability(ARCHITECTURES[arm.run.architecture], arm.results[0].variables, batch)
                shown.append(plotting.Picture(label, seen, "probability"))
        grid += plotting.in_rows(shown)
    title = f"A held-out image after {options.iterations} iterations, seed {options.seed}"
    return plotting.pictures(grid, title)


def curve_panel(arms: Mapping[str, Arm], curve: str, ylabel: str) -> plotting.Panel:
    """Running means of a curve over the steps, a line an arm; those of a loss on a logarithmic axis."""
    return plotting.Panel(ylabel, {label: arm.running(curve) for label, arm in arms.items()}, log=curve == "loss")


def _curves(arms: Arms, title: str, few: bool) -> Figure:
    panels = []
    for curve, ylabel in (
        ("loss", "running-mean loss (mean squared error)"),
        ("iou", "running-mean IoU of the training batches"),
    ):
        whole = curve_panel(arms, curve, ylabel)
        length = next(iter(whole.curves.values())).shape[-1]
        places = np.unique(np.linspace(0, length - 1, POINTS).astype(int))
        thinned = {label: numbers[:, places] for label, numbers in whole.curves.items()}
        bands = {} if few else {label: statistics.band(numbers) for label, numbers in thinned.items()}
        panels.append(whole._replace(curves=thinned, x=places + 1, bands=bands))
    return plotting.training_curves(panels, title)


def _title(column: str) -> str:
    heading = COLUMNS[column].title
    return heading[0].upper() + heading[1:]


def _estimate_table(column: str, by_label: Mapping[str, Mapping[str, Estimate]]) -> Table:
    form, better = COLUMNS[column].form, "more" if COLUMNS[column].higher_is_better else "less"
    rows = [[label, *(_cell(estimate, form) for estimate in found.values())] for label, found in by_label.items()]
    note = (
        f"95 % intervals over seeds, {better} is better: bootstrapped; with fewer than {statistics.FEWEST_SEEDS} seeds "
        "Student's, of the mean alone. IQM: mean without the highest and the lowest quarter, from 4 seeds on."
    )
    return Table(_title(column), ["", *statistics.STATISTICS], rows, note)


def _paired_table(contest: Contest, column: str) -> Table:
    rows = []
    for label, found in contest.improvements[column].items():
        decided = f"{found.wins} of {found.seeds}" + (f"\n{found.ties} ties" if found.ties else "")
        difference = _cell(found.difference, "+" + COLUMNS[column].form)
        rows.append([label, difference, decided, _cell(found.probability, ".2f")])
    note = (
        f"Each less {contest.reference}, on the same seeds: same initial weights, same images. 95 % intervals: of the "
        f"mean difference by bootstrap (with fewer than {statistics.FEWEST_SEEDS} seeds Student's), of the probability "
        "by Wilson's formula."
    )
    headings = ("", "difference", "better in", "probability of being better")
    return Table(f"{_title(column)}, against {contest.reference}", headings, rows, note)


def _target_table(arms: Arms, contest: Contest, targets: Sequence[Target]) -> Table:
    headings, rows = [""], {label: [label] for label in arms}
    for target in targets:
        headings += [f"{target.heading}: reached", "median steps", "median seconds"]
        for label, steps in contest.steps[target.heading].items():
            seconds = steps * arms[label].values("seconds") / arms[label].run.iterations
            reached = f"{int(np.isfinite(steps).sum())} of {len(steps)}"
            rows[label] += [reached, _time(np.median(steps), ".0f"), _time(np.median(seconds), ".1f")]
    note = (
        f"Means of the last {WINDOW} training batches; a run that misses the target counts as one that never arrives. "
        "Seconds: of training, compilation left out."
    )
    return Table("Time to a target", headings, list(rows.values()), note)


def _cell(estimate: Estimate, form: str) -> str:
    """A number, and under it its interval."""
    value = f"{estimate.value:{form}}" if np.isfinite(estimate.value) else "-"
    if not np.isfinite([estimate.low, estimate.high]).all():
        return value
    return f"{value}\n{estimate.low:{form}} to {estimate.high:{form}}"


def _difference(estimate: Estimate, form: str) -> str:
    if not np.isfinite(estimate).all():
        return "too few pairs"
    return f"{estimate.value:+{form}} ({estimate.low:+{form}} to {estimate.high:+{form}})"


def _time(value: float, form: str) -> str:
    return f"{value:{form}}" if np.isfinite(value) else "never"
