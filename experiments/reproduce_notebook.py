"""Does the notebook hold? Every number it publishes beside ours over seeds, and its eight flaws shown in numbers.

    python -m experiments.reproduce_notebook                    the notebook's protocol, 3 seeds
    python -m experiments.reproduce_notebook --preset quick     32 x 32 images, 30 iterations, 2 seeds
    python -m experiments.reproduce_notebook --report-only      the finished runs of a command that still runs

Seeds are trained one after the other, each with every run of the notebook; the first also makes the long SGD run, whose
first 1000 steps are its short one. Finished runs are kept: the command can be cut short, and goes on when typed again.

The verdict on a number asks whether the notebook's single run could be one more of ours: whether it lies in the 95 %
prediction interval of one further run, which takes our runs for normally distributed. One seed gives no verdict.

Beside the usual files it writes `notebook-revisited.md`. 1 to 2 hours on 2 CPU cores; quick, 40 seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats

from experiments import command, folder, output, runs, settings, summary, training
from experiments.notebook import ADAM_RATES, LOSS, MISNAMED, PUBLISHED, Published, quantity
from experiments.notebook_flaws import Flaw, demonstrate
from experiments.report import Report, Table, question, to_markdown
from experiments.runs import Result, Run
from segjax import checkpoints, metrics, plotting
from segjax.checks import check_count

EXPERIMENT, DOCUMENT = "reproduce_notebook", "notebook-revisited.md"


@dataclass(frozen=True)
class Options(settings.Options):
    """Trains every run of the notebook over several seeds, and holds its numbers against them."""

    preset: Literal["notebook", "quick"] = "notebook"
    """Defaults of all other options: the notebook's protocol, or a small one."""
    long_iterations: int = 10_000
    """Steps of the long SGD run."""
    long_seeds: int = 1
    """Number of seeds of the long SGD run; the other seeds stop it at --iterations."""
    report_only: bool = False
    """Train nothing: report the finished runs that the folder holds."""
    out: Path = Path("results/reproduce_notebook")


PRESETS = {
    "notebook": Options(),
    "quick": Options(preset="quick", iterations=30, long_iterations=300, image_size=32, sigma=6.4, seeds=2),
}


def main(options: Options) -> None:
    with command.usage_errors():
        settings.check(options)
        check_count("--long-iterations", options.long_iterations, options.iterations)
        check_count("--long-seeds", options.long_seeds, 0)
        if options.report_only and options.overwrite:
            raise ValueError("--overwrite would delete the runs that --report-only is to report")
    # A finished command may be typed again, with more seeds say: what is there is reported anew.
    folder.claim(options, free=("seeds", "long_seeds", "report_only"))
    console = Console()
    planned = plan(options)
    if options.report_only:
        planned = [run for run in planned if runs.path(options, run).exists()]
        if not planned:
            raise command.UsageError(f"--out {options.out} holds no finished run to report")
    results = training.train_all(planned, options, console)
    comparison = [compare(number, results, options) for number in PUBLISHED]
    flaws = demonstrate(results, options.iterations, options.image_size)
    figures = draw(results, comparison, options)
    report = Report(
        question(__doc__), findings(comparison), [*comparison_tables(comparison), flaw_table(flaws)], figures
    )
    document, rows = summary.document(EXPERIMENT, results)
    document |= {"published": [row._asdict() for row in comparison], "flaws": [flaw._asdict() for flaw in flaws]}
    text = to_markdown(report, output.provenance(options), ".")
    checkpoints.write(options.out / DOCUMENT, text.encode())
    output.finish(options, document, rows, report, console)


def plan(options: Options) -> list[Run]:
    """The runs of each seed in turn: what is cut short has whole seeds."""
    planned = []
    for index, seed in enumerate(settings.seeds(options)):
        named = [("adam", rate) for rate in ADAM_RATES] + [("rmsprop", 1e-3), ("momentum", 1e-3)]
        planned += [Run(f"{name} {rate:g}", seed, name, rate, options.iterations) for name, rate in named]
        steps = options.long_iterations if index < options.long_seeds else options.iterations
        planned.append(Run("sgd 0.001", seed, "sgd", 1e-3, steps))
        # Flaw 3: what the two do at rates of their own.
        own_rates = [("momentum", 0.1), ("sgd", 1.0)]
        planned += [Run(f"{name} {rate:g}", seed, name, rate, options.iterations) for name, rate in own_rates]
    return [run._replace(schedule=options.schedule) for run in planned]


class Comparison(NamedTuple):
    """A published number beside ours: one value a seed."""

    label: str
    iterations: int
    quantity: str
    published: float
    note: str
    ours: list[float]
    verdict: str


def compare(number: Published, results: Sequence[Result], options: Options) -> Comparison:
    """Ours at the same step. A run shorter than that says nothing of it."""
    step = number.thousands * options.iterations
    ours = [
        quantity(result, number.quantity, step)
        for result in results
        if result.run.label == number.label and result.run.iterations >= step
    ]
    words = verdict(number.value, ours) if is_notebook_s(options) else "another protocol: no verdict"
    return Comparison(number.label, step, number.quantity, number.value, number.note, ours, words)


def is_notebook_s(options: Options) -> bool:
    """Whether our runs are made as the notebook's were, so that the numbers can be compared at all."""
    names = ("iterations", "batch_size", "image_size", "sigma1", "sigma2", "sigma", "schedule")
    return all(getattr(options, name) == getattr(PRESETS["notebook"], name) for name in names)


def verdict(published: float, ours: Sequence[float]) -> str:
    """Whether the published number could be one more of our runs."""
    if len(ours) < 2:
        gap = f", ours is {ours[0] / published - 1:+.0%}" if ours else ""
        return f"{'one run' if ours else 'not run'}: no verdict{gap}"
    if min(ours) <= published <= max(ours):
        return "within our range"
    low, high = prediction_interval(ours)
    return "could be one of ours" if low <= published <= high else f"no: {'below' if published < low else 'above'} ours"


def prediction_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Where one further value lies with the given probability, if all are drawn from one normal law."""
    count, deviation = len(values), np.std(values, ddof=1)
    reach = stats.t.ppf(0.5 + level / 2, count - 1) * deviation * np.sqrt(1 + 1 / count)
    return float(np.mean(values) - reach), float(np.mean(values) + reach)


def findings(comparison: Sequence[Comparison]) -> list[str]:
    judged = [row for row in comparison if "no verdict" not in row.verdict]
    if not judged:
        return ["No verdict: it takes at least two seeds of the notebook's own protocol."]
    # Its second momentum run stands under SGD as well, to show flaw 2; it is counted once.
    counted = [row for row in judged if row.note != MISNAMED]
    kept = sum(not row.verdict.startswith("no:") for row in counted)
    sentences = [f"{kept} of {len(counted)} published numbers with a verdict could be one more of our runs."]
    for row in judged:
        if row.verdict.startswith("no:"):
            mean = np.mean(row.ours)
            sentences.append(
                f"{row.label}{f' ({row.note})' if row.note else ''}, {row.quantity}: published {row.published:.4g}, "
                f"ours {mean:.4g} on average."
            )
    return sentences


def comparison_tables(comparison: Sequence[Comparison]) -> list[Table]:
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
    return [Table("Published numbers beside ours", headings, rows, note)]


def flaw_table(flaws: Sequence[Flaw]) -> Table:
    return Table("The eight flaws", ("flaw", "shown"), flaws, "Mean over seeds (range) where there are several.")


def draw(results: Sequence[Result], comparison: Sequence[Comparison], options: Options) -> dict[str, Figure]:
    shown = [row for row in comparison if row.ours and row.quantity == LOSS]
    figures = {
        "published_losses": plotting.dots(
            {f"{row.label}, {row.iterations}{' *' if row.note else ''}": np.array(row.ours) for row in shown},
            np.array([row.published for row in shown]),
            "running-mean loss (mean squared error)",
            ("ours, each seed", "published"),
            "Published losses beside ours; * where the notebook has two",
        )
    }
    short = {
        label: np.stack([metrics.running_mean(result.history.loss[: options.iterations]) for result in group])
        for label, group in summary.by_label(results).items()
    }
    optimizers = ("sgd 0.001", "momentum 0.001", "rmsprop 0.001", "adam 0.001", "momentum 0.1", "sgd 1")
    panels = [
        plotting.Panel("running-mean loss", {n: short[n] for n in optimizers if n in short}, log=True),
        plotting.Panel("running-mean loss", {n: v for n, v in short.items() if n.startswith("adam")}, log=True),
    ]
    for name, panel in zip(("optimizers", "adam_rates"), panels, strict=True):
        if panel.curves:
            figures[name] = plotting.training_curves([panel], f"{heading_of(name)}, mean and range over seeds")
    return figures


def heading_of(name: str) -> str:
    return {"optimizers": "At the notebook's rate and at rates of their own", "adam_rates": "Adam at eight rates"}[name]


if __name__ == "__main__":
    command.run(main, Options, PRESETS)
