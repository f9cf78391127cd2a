"""Does the notebook hold? Every number it publishes beside ours over seeds, and its eight flaws shown in numbers.

    python -m experiments.reproduce_notebook                    the notebook's protocol, 3 seeds
    python -m experiments.reproduce_notebook --preset quick     32 x 32 images, 30 iterations, 2 seeds
    python -m experiments.reproduce_notebook --report-only      the finished runs of a command that was interrupted

Seeds are trained one after the other, each with every run of the notebook; the first also makes the long SGD run, whose
first 1000 steps are its short one. Finished runs are kept: the command can be cut short, and goes on when typed again.

The verdict on a number asks whether the notebook's single run could be one more of ours: whether it lies in the 95 %
prediction interval of one further run, which takes our runs for normally distributed. One seed gives no verdict, and
other sizes or numbers of steps than the notebook's are not held against its numbers.

Beside the usual files it writes `notebook-revisited.md`. 1 to 2 hours on 2 CPU cores; quick, a minute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.lab import experiment, fairness, scores, store, views
from experiments.lab.options import Comparison
from experiments.lab.report import Report, Table
from experiments.lab.runs import Result, Run
from experiments.lab.scores import Arms
from experiments.lab.stops import UsageError
from experiments.notebook.flaws import Flaw, demonstrate
from experiments.notebook.published import (
    ADAM_RATES,
    AGREEMENT,
    AS_MOMENTUM,
    LOSS,
    MISNAMED,
    PUBLISHED,
    Published,
    quantity,
)
from segjax import metrics, plotting, statistics
from segjax._checks import check_count


@dataclass(frozen=True, kw_only=True)
class Options(Comparison):
    """Trains every run of the notebook over several seeds, and holds its numbers against them."""

    long_iterations: int = 10_000  # Steps of the long SGD run.
    long_seeds: int = 1  # Number of seeds of the long SGD run; the other seeds stop it at --iterations.
    report_only: bool = False  # Train nothing: report the finished runs that the folder holds.
    out: Path = Path("results/reproduce_notebook")

    # A finished command may be typed again with more seeds: the runs in the folder are reported anew.
    free: ClassVar[tuple[str, ...]] = ("seeds", "long_seeds", "report_only")

    def check(self) -> None:
        super().check()
        check_count("--long-iterations", self.long_iterations, self.iterations)
        check_count("--long-seeds", self.long_seeds, 0)
        if self.report_only and self.overwrite:
            raise ValueError("--overwrite would delete the runs that --report-only is to report")


PRESETS = {
    "notebook": Options(),
    "quick": Options(iterations=30, long_iterations=300, image_size=32, sigma=6.4, seeds=2),
}


def plan(options: Options) -> list[Run]:
    """The runs of each seed in turn, so that a command that is cut short has whole seeds."""
    planned = []
    for index, seed in enumerate(options.all_seeds):
        named = [("adam", rate) for rate in ADAM_RATES] + [("rmsprop", 1e-3), ("momentum", 1e-3)]
        # Flaw 3: what momentum and SGD do at rates of their own.
        own_rates = [("momentum", 0.1), ("sgd", 1.0)]
        steps = options.long_iterations if index < options.long_seeds else options.iterations
        planned += [options.run(seed, optimizer=name, learning_rate=rate) for name, rate in named]
        planned.append(options.run(seed, optimizer="sgd", learning_rate=1e-3, iterations=steps))
        planned += [options.run(seed, optimizer=name, learning_rate=rate) for name, rate in own_rates]
    if not options.report_only:
        return planned
    kept = [run for run in planned if store.has_run(options.out, run)]
    if not kept:
        raise UsageError(f"--out {options.out} holds no finished run to report")
    return kept


def report(options: Options, results: Sequence[Result]) -> Report:
    arms = scores.arms(results, scores.by_rate)
    # Other sizes or steps give other numbers: nothing published stands beside them.
    comparison = [compare(number, arms, options) for number in PUBLISHED] if is_notebook_s(options) else []
    flaws = demonstrate(arms, options.iterations, options.image_size, published=bool(comparison))
    told = {"published": [row._asdict() for row in comparison], "flaws": [flaw._asdict() for flaw in flaws]}
    return Report(
        findings(comparison),
        [comparison_table(comparison) if comparison else ours_table(arms, options), flaw_table(flaws)],
        draw(arms, comparison, options),
        {**scores.document(arms), **told},
        scores.rows(arms),
        fairness.of_seeds(min(len(arm.results) for arm in arms.values())),
        markdown="notebook-revisited.md",
    )


class Compared(NamedTuple):
    """A published number beside ours: one value a seed."""

    label: str
    iterations: int
    quantity: str
    published: float
    note: str
    ours: list[float]
    verdict: str


def compare(number: Published, arms: Arms, options: Options) -> Compared:
    """Ours at the same step. A run shorter than that says nothing of it, nor does one whose number is not finite."""
    step = number.thousands * options.iterations
    results = arms[number.label].results if number.label in arms else ()
    reached = [quantity(result, number.quantity, step) for result in results if result.run.iterations >= step]
    ours = [value for value in reached if np.isfinite(value)]
    words = verdict(number.value, ours)
    return Compared(number.label, step, number.quantity, number.value, number.note, ours, words)


def is_notebook_s(options: Options) -> bool:
    """Whether our runs are made as the notebook's were, so that the numbers can be compared at all."""
    names = ("iterations", "batch_size", "image_size", "sigma1", "sigma2", "sigma", "schedule")
    return all(getattr(options, name) == getattr(PRESETS["notebook"], name) for name in names)


def verdict(published: float, ours: Sequence[float]) -> str:
    """Whether the published number could be one more of our runs, which are finite."""
    if len(ours) < 2:
        gap = f", ours is {ours[0] / published - 1:+.0%}" if ours else ""
        return f"{'one run' if ours else 'no run'}: no verdict{gap}"
    # Within the range no law need be assumed.
    if min(ours) <= published <= max(ours):
        return "within our range"
    low, high = statistics.prediction_interval(ours)
    return "could be one of ours" if low <= published <= high else f"no: {'below' if published < low else 'above'} ours"


def findings(comparison: Sequence[Compared]) -> list[str]:
    """What does not fit first, and what it fits in its place; then how many do."""
    judged = [row for row in comparison if "no verdict" not in row.verdict]
    if not judged:
        return ["No published number is judged: it takes the notebook's own protocol, and at least two seeds of it."]

    def told(rows: Sequence[Compared]) -> str:
        return "; ".join(f"{row.quantity} {row.published:.4g}, ours {np.mean(row.ours):.4g} on average" for row in rows)

    sentences = []
    # Of its run that it called SGD and made with momentum: beside both of ours.
    named, made = ([row for row in judged if row.note == note] for note in (MISNAMED, AS_MOMENTUM))
    fitting = [row for row in made if not row.verdict.startswith("no:")]
    if fitting and (lost := [row for row in named if row.verdict.startswith("no:")]):
        sentences.append(
            f"{len(lost)} published numbers do not fit as SGD: {told(lost)}. As momentum, which the notebook's "
            f"code trains, they do: {told(fitting)}."
        )
    # They stand here once, as what they are.
    counted = [row for row in judged if row.note != MISNAMED]
    odd = [row for row in counted if row.verdict.startswith("no:")]
    kept = len(counted) - len(odd)
    fit = 'could be one more of our runs; its "SGD" counts as momentum'
    sentences.append(f"{kept} of {len(counted)} published numbers with a verdict {fit}.")
    return sentences + [f"{row.label}, {told([row])}: {row.verdict}." for row in odd]


def comparison_table(comparison: Sequence[Compared]) -> Table:
    rows = []
    for row in comparison:
        mean, low, high = (f"{f(row.ours):.4f}" if row.ours else "" for f in (np.mean, np.min, np.max))
        name = row.label + (f" ({row.note})" if row.note else "")
        rows.append([name, f"{row.iterations}", row.quantity, f"{row.published:.4f}", mean, low, high, row.verdict])
    headings = ("run", "step", "quantity", "published", "mean", "min", "max", "verdict")
    counts = sorted({len(row.ours) for row in comparison})
    seeds = " or ".join(map(str, counts))
    note = (
        f"Loss and agreement: running means. Ours over {seeds} seeds. The verdict asks whether the published run could "
        "be one more of ours, at 95 %: by chance 1 in 20 could not, and few seeds make wide intervals."
    )
    return Table("Published numbers beside ours", headings, rows, note)


def ours_table(arms: Arms, options: Options) -> Table:
    """Our runs alone, the long one as well, after the short number of steps."""

    def at_end(result: Result) -> list[float]:
        return [quantity(result, name, options.iterations) for name in (LOSS, AGREEMENT)]

    rows = [
        [label, *(views.spread(np.array(own), ".4f") for own in zip(*(at_end(it) for it in arm.results), strict=True))]
        for label, arm in arms.items()
    ]
    counts = " or ".join(map(str, sorted({len(arm.results) for arm in arms.values()})))
    title = f"Our runs after {options.iterations} steps on {options.size} images: mean and range of {counts} seeds"
    return Table(
        title, ("run", LOSS, AGREEMENT), rows, "Running means. The notebook's numbers are of other sizes or steps."
    )


def flaw_table(flaws: Sequence[Flaw]) -> Table:
    return Table("The eight flaws", ("flaw", "shown"), flaws, "Mean over seeds (range) where there are several.")


def draw(arms: Arms, comparison: Sequence[Compared], options: Options) -> dict[str, Figure]:
    figures = {}
    if shown := [row for row in comparison if row.ours and row.quantity == LOSS]:
        figures["published_losses"] = plotting.dots(
            {f"{row.label}, {row.iterations}{' *' if row.note else ''}": np.array(row.ours) for row in shown},
            np.array([row.published for row in shown]),
            "running-mean loss (mean squared error)",
            ("ours, each seed", "published"),
            "Published losses beside ours; * where the notebook has two",
        )
    short = {
        label: np.stack([metrics.running_mean(result.history.loss[: options.iterations]) for result in arm.results])
        for label, arm in arms.items()
    }
    compared = ("sgd 0.001", "momentum 0.001", "rmsprop 0.001", "adam 0.001", "momentum 0.1", "sgd 1")
    chosen = {
        "optimizers": ("At the notebook's rate and at rates of their own", [n for n in compared if n in short]),
        "adam_rates": ("Adam at eight rates", [n for n in short if arms[n].run.optimizer == "adam"]),
    }
    for name, (title, labels) in chosen.items():
        if labels:
            own, ordered = {label: short[label] for label in labels}, name == "adam_rates"
            panel = plotting.Panel("running-mean loss", own, log=True, ordered=ordered)
            figures[name] = plotting.training_curves([panel], f"{title}, mean and range over seeds")
    return figures


if __name__ == "__main__":
    experiment.main()
