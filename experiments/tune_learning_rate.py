"""Which learning rate suits each optimizer? The notebook's eight rates, which it tried for Adam alone, for all four.

    python -m experiments.tune_learning_rate                      64 x 64 images, 2 seeds
    python -m experiments.tune_learning_rate --preset notebook    the notebook's sizes, 3 seeds
    python -m experiments.tune_learning_rate --preset quick       32 x 32 images, 4 rates, 40 iterations
    python -m experiments.tune_learning_rate --extend             more rates where the best is the grid's edge

The best rate is the one of the lowest mean loss over the last tenth of the run, averaged over seeds. A run diverged
where its loss is not finite, or ends above where it began. A best rate at the edge of the grid is said to be so: the
true one may lie beyond.

Expect Adam and RMSprop to be best between 1e-3 and 1e-1, momentum and SGD at rates hundreds of times the notebook's.
On 2 CPU cores 25 to 45 minutes; 2 to 4 hours with the notebook's sizes; quick, half a minute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console

import segjax
from experiments import command, folder, output, runs, settings, summary, tuning
from experiments.notebook import ADAM_RATES
from experiments.report import Report, Table, question
from experiments.runs import Result
from experiments.tuning import Best, Candidate
from segjax import plotting

# Rates that --extend may add on one side.
MOST_ADDED = 3


@dataclass(frozen=True)
class Options(settings.Options):
    """Trains every optimizer at every rate."""

    preset: Literal["full", "notebook", "quick"] = "full"
    """Defaults of all other options: smaller images than the notebook's, the notebook's, or a small grid."""
    image_size: int = 64
    sigma: float = 12.8
    seeds: int = 2
    optimizers: tuple[str, ...] = tuple(segjax.OPTIMIZERS)
    """Any of sgd, momentum (SGD with momentum 0.9), rmsprop, adam, and import paths such as optax:lion; rates of
    its own are given as optax:lion=1e-5,1e-4."""
    rates: tuple[float, ...] = ADAM_RATES
    """Learning rates, each tried for every optimizer; the notebook's eight."""
    extend: bool = False
    """While an optimizer's best rate is the lowest or highest, try another beyond it, up to three."""
    out: Path = Path("results/tune_learning_rate")


PRESETS = {
    "full": Options(),
    "notebook": Options(preset="notebook", image_size=128, sigma=25.6, seeds=3),
    "quick": Options(preset="quick", image_size=32, sigma=6.4, iterations=40, seeds=2, rates=(1e-3, 1e-2, 0.1, 1.0)),
}


def main(options: Options) -> None:
    with command.usage_errors():
        settings.check(options)
        candidates = tuning.candidates(options.optimizers, options.rates)
    folder.claim(options)
    console = Console()
    seeds = settings.seeds(options)
    results = tuning.train_grid(candidates, seeds, options, console)
    while options.extend and (beyond := extension(results, candidates)):
        for candidate in beyond:
            console.print(
                f"the best rate of {candidate.optimizer} is an edge of its grid: trying {candidate.rates[0]:g}"
            )
        results += tuning.train_grid(beyond, seeds, options, console)

    order = [candidate.optimizer for candidate in candidates]
    results.sort(key=lambda result: (order.index(result.run.optimizer), result.run.learning_rate))
    losses, diverged, rates = tuning.grid(results)
    best = {name: tuning.best_rate(rates, losses[name], diverged[name]) for name in losses}
    over = summary.over_seeds(options)
    title = f"{options.iterations} iterations, {options.image_size} x {options.image_size} images, {over}"
    figures = {"rate_sensitivity": plotting.sensitivity(rates, losses, diverged, "mean loss, last tenth", title)}
    for name in losses:
        own = [
            result._replace(run=result.run._replace(label=f"{result.run.learning_rate:g}"))
            for result in results
            if result.run.optimizer == name
        ]
        panel = plotting.Panel("running-mean loss (mean squared error)", summary.running(own, "loss"), log=True)
        figures[f"curves_{name}"] = plotting.training_curves([panel], f"{name}: {over} at each rate")
    report = Report(question(__doc__), findings(best, losses, diverged, rates), tables(results, best, over), figures)
    document, rows = summary.document("tune_learning_rate", results)
    output.finish(options, {**document, "best_rates": best}, rows, report, console)


def extension(results: Sequence[Result], candidates: Sequence[Candidate]) -> list[Candidate]:
    """The next rate to try of each whose best is an edge: as far beyond it as the edge is from its neighbour."""
    losses, diverged, rates = tuning.grid(results)
    beyond = []
    for name, given in candidates:
        tried = rates[np.isfinite(losses[name]).any(axis=0) | diverged[name].any(axis=0)]
        best = tuning.best_rate(rates, losses[name], diverged[name])
        if best["edge"] is None or len(tried) < 2:
            continue
        lowest = best["edge"] == "lowest"
        added = sum(tried < min(given)) if lowest else sum(tried > max(given))
        if added < MOST_ADDED:
            ratio = tried[0] / tried[1] if lowest else tried[-1] / tried[-2]
            beyond.append(Candidate(name, (float(f"{(tried[0] if lowest else tried[-1]) * ratio:.6g}"),)))
    return beyond


def findings(
    best: dict[str, Best],
    losses: dict[str, np.ndarray],
    diverged: dict[str, np.ndarray],
    rates: np.ndarray,
) -> list[str]:
    sentences = []
    for name, numbers in best.items():
        if numbers["rate"] is None:
            sentences.append(f"{name}: every rate diverged.")
            continue
        edge = f", at the {numbers['edge']} edge of its grid: the true best may lie beyond" if numbers["edge"] else ""
        lost = ", ".join(f"{rate:g}" for rate in rates[diverged[name].any(axis=0)])
        sentences.append(
            f"{name}: best rate {numbers['rate']:g} (loss {numbers['loss']:.4f}){edge}; "
            + (f"diverged at {lost}." if lost else "no rate diverged.")
        )
    return sentences


def tables(results: Sequence[Result], best: dict[str, Best], seeds: str) -> list[Table]:
    rows = []
    for label, group in summary.by_label(results).items():
        described = [runs.describe(result) for result in group]
        run = group[0].run
        lost = sum(row["diverged_at"] is not None for row in described)
        mark = "best" if best[run.optimizer]["rate"] == run.learning_rate else ""
        scores = [
            summary.spread(np.array([row[column] for row in described]), form)
            for column, form in (("loss", ".4f"), ("final_loss", ".4f"), ("accuracy", ".3f"))
        ]
        rows.append([label, *scores, f"{lost} of {len(group)} diverged" if lost else mark])
    headings = ("", "running-mean loss", "last tenth", "accuracy", "")
    return [Table(f"Every optimizer at every rate: {seeds}", headings, rows, "Accuracy: held-out images.")]


if __name__ == "__main__":
    command.run(main, Options, PRESETS)
