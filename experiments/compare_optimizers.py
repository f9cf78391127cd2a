"""Which optimizer trains the notebook's network best? SGD, momentum, RMSprop and Adam, at one rate or their own.

    python -m experiments.compare_optimizers                    the notebook's protocol: one rate, 3 seeds
    python -m experiments.compare_optimizers --preset fair      each at its own best rate, 5 seeds, 64 x 64
    python -m experiments.compare_optimizers --preset quick     64 x 64, 60 iterations
    python -m experiments.compare_optimizers --tune --optimizers adam optax:lion=1e-5,1e-4,1e-3

Runs of one seed are paired: the same initial weights and the same images for every optimizer. The notebook made one
run each and called a second momentum run "SGD". Expect Adam and RMSprop to be equal at its rate of 0.001, momentum
well behind and plain SGD far behind: that is a statement about this one rate, which was tuned for Adam.

On 2 CPU cores, an iteration takes 0.07 to 0.17 s: 15 to 35 minutes for the whole, about an hour for the fair preset
(64 runs to tune, 20 to compare), under a minute for the quick one. Several devices train runs side by side, and several
processes share them (--coordinator).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from rich.console import Console

import segjax
from experiments import command, comparison, folder, output, processes, protocol, settings, summary, training, tuning
from experiments.notebook import ADAM_RATES
from experiments.report import Report, Table, question
from experiments.runs import Result, Run
from experiments.tuning import Best, Candidate
from segjax.checks import check_positive


@dataclass(frozen=True)
class Options(settings.Processes):
    """Trains the notebook's network with several optimizers, paired over seeds, and compares them."""

    preset: Literal["notebook", "fair", "quick"] = "notebook"
    """Defaults of all other options: the notebook's protocol, every optimizer at its own best rate, or a small one."""
    optimizers: tuple[str, ...] = tuple(segjax.OPTIMIZERS)
    """Any of sgd, momentum (SGD with momentum 0.9), rmsprop, adam, and import paths such as optax:lion; with a rate of
    its own as optax:lion=1e-4, with --tune a grid of its own as optax:lion=1e-5,1e-4."""
    learning_rate: float = 1e-3
    """The rate of all optimizers without one of their own; not used with --tune."""
    reference: str = ""
    """Optimizer against which the others are held, seed by seed; the last of --optimizers by default."""
    target_loss: float = 0.03
    """Loss to which the time is taken."""
    target_iou: float = 0.95
    """IoU to which the time is taken."""
    tune: bool = False
    """First find each optimizer's best rate, on seeds of its own and with equal budgets."""
    rates: tuple[float, ...] = ADAM_RATES
    """Rates that --tune tries for each optimizer without a grid of its own; the notebook's eight."""
    tuning_seeds: int = 2
    """Number of seeds on which --tune tries each rate."""
    tuning_seed: int = 1000
    """The first of those seeds."""
    out: Path = Path("results/compare_optimizers")


PRESETS = {
    "notebook": Options(),
    # Its tuning is experiments.tune_learning_rate.
    "fair": Options(preset="fair", image_size=64, sigma=12.8, tune=True, tuning_seed=0, seed=2, seeds=5),
    "quick": Options(preset="quick", iterations=60, image_size=64, sigma=12.8),
}


class Tuning(NamedTuple):
    """How the rates were found: every run of it, and the best of each optimizer."""

    results: Sequence[Result]
    best: dict[str, Best]


def main(options: Options) -> None:
    with processes.joined(options):
        with command.usage_errors():
            candidates = check(options)
        if processes.is_writer():
            folder.claim(options)
        console = Console(quiet=not processes.is_writer())
        tuned = tune(candidates, options, console) if options.tune else None
        rates = agreed_rates(candidates, tuned)
        planned = plan(rates, options)
        results = training.train_all(planned, options, console)
        if processes.is_writer():
            write(options, candidates, results, tuned, console)


def check(options: Options) -> list[Candidate]:
    settings.check(options)
    candidates = tuning.candidates(options.optimizers, options.rates if options.tune else [options.learning_rate])
    names = [candidate.optimizer for candidate in candidates]
    if options.reference:
        command.check_name("reference", options.reference, names)
    check_positive("--target-loss", options.target_loss)
    check_positive("--target-iou", options.target_iou)
    settings.check_seeds("tuning_seed", options.tuning_seed, "tuning_seeds", options.tuning_seeds)
    several = [candidate.optimizer for candidate in candidates if len(candidate.rates) > 1]
    if several and not options.tune:
        raise ValueError(f"--optimizers {several[0]}= must have one rate; to choose among several pass --tune")
    return candidates


def tuning_seeds(options: Options) -> range:
    return range(options.tuning_seed, options.tuning_seed + options.tuning_seeds)


def tune(candidates: Sequence[Candidate], options: Options, console: Console) -> Tuning:
    results = tuning.train_grid(candidates, tuning_seeds(options), options, console)
    losses, diverged, rates = tuning.grid(results)
    best = {name: tuning.best_rate(rates, losses[name], diverged[name]) for name in losses}
    for name, found in best.items():
        if found["rate"] is None:
            raise command.UsageError(
                f"{name} diverged at every rate that was tried; give it lower ones: {name}=RATE,RATE"
            )
    return Tuning(results, best)


def agreed_rates(candidates: Sequence[Candidate], tuned: Tuning | None) -> dict[str, float]:
    """optimizer -> its rate, which only the process that holds the results of the tuning knows."""
    rates = np.array([candidate.rates[0] for candidate in candidates])
    if tuned:
        # Without results there is no best, and what stands here is not heard.
        rates = np.array(
            [
                tuned.best[name]["rate"] if tuned.best else rate
                for (name, _), rate in zip(candidates, rates, strict=True)
            ]
        )
    rates = processes.broadcast(rates)
    return {candidate.optimizer: float(rate) for candidate, rate in zip(candidates, rates, strict=True)}


def plan(rates: dict[str, float], options: Options) -> list[Run]:
    """Every optimizer at its rate over the seeds, called by both where the rates differ."""
    planned = [
        tuning.run_of(name, rate, seed, options) for name, rate in rates.items() for seed in settings.seeds(options)
    ]
    return planned if len(set(rates.values())) > 1 else [run._replace(label=run.optimizer) for run in planned]


def write(
    options: Options,
    candidates: Sequence[Candidate],
    results: Sequence[Result],
    tuned: Tuning | None,
    console: Console,
) -> None:
    """The report and its files."""
    labels = {result.run.optimizer: result.run.label for result in results}
    reference = labels[options.reference or candidates[-1].optimizer]
    targets = comparison.targets(options)
    size = f"{options.image_size} x {options.image_size}"
    setting = f"{options.iterations} iterations, {size} images, {options.seeds} seeds"
    figures = {"curves": comparison.curves_figure(results, f"{setting}: mean and its 95 % interval")}
    tables = [comparison.score_table(results, score) for score in comparison.SCORES]
    if len(labels) > 1:
        title = f"{setting}: paired differences, 95 %"
        figures["paired_differences"] = comparison.differences_figure(results, reference, title)
        tables += [comparison.paired_table(results, score, reference) for score in comparison.DECISIVE]
    figures["time_to_target"] = comparison.profile_figure(results, targets, f"{setting}: runs that have arrived")
    tables.append(comparison.target_table(results, targets))
    document, rows = summary.document("compare_optimizers", results)
    rows = [{"phase": "comparison", **row} for row in rows]
    document |= comparison.document(results, targets, reference)
    if tuned:
        losses, diverged, rates = tuning.grid(tuned.results)
        title = f"Tuning on seeds {summary.listed(tuning_seeds(options))}: mean and its 95 % interval"
        figures["rate_sensitivity"] = comparison.sensitivity_figure(rates, losses, diverged, title)
        tables.append(tuning_table(tuned, candidates, options))
        trials = summary.document("", tuned.results)[1]
        document["tuning"] = {"best_rates": tuned.best, "runs": trials}
        rows = [{"phase": "tuning", **row} for row in trials] + rows
    figures["predictions"] = summary.predictions(results, options)
    report = Report(
        question(__doc__), findings(results), tables, figures, warnings(options, candidates, results, tuned)
    )
    output.finish(options, document, rows, report, console)


def findings(results: Sequence[Result]) -> list[str]:
    return [
        summary.leader(comparison.values(results, score), score.heading, score.form, score.higher_is_better)
        for score in comparison.DECISIVE
    ]


def warnings(
    options: Options, candidates: Sequence[Candidate], results: Sequence[Result], tuned: Tuning | None
) -> list[str]:
    words = protocol.few_seeds(options.seeds)
    words += protocol.diverged(comparison.diverged(results), options.seeds)
    for score in comparison.DECISIVE:
        means = {label: found["mean"] for label, found in comparison.estimates(results, score).items()}
        words += protocol.overlaps(score.heading, means, score.higher_is_better)
    if tuned:
        words += protocol.edges({name: found["edge"] for name, found in tuned.best.items()})
        words += protocol.budgets(spent(candidates, options))
        words += protocol.reused(tuning_seeds(options), settings.seeds(options))
    return words


def spent(candidates: Sequence[Candidate], options: Options) -> dict[str, int]:
    """optimizer -> steps of its tuning."""
    return {name: len(rates) * options.tuning_seeds * options.iterations for name, rates in candidates}


def tuning_table(tuned: Tuning, candidates: Sequence[Candidate], options: Options) -> Table:
    rows, steps = [], spent(candidates, options)
    for name, rates in candidates:
        best = tuned.best[name]
        lost = sum(comparison.diverged([r for r in tuned.results if r.run.optimizer == name]).values())
        edge = f"{best['edge']} of its grid" if best["edge"] else ""
        grid = ", ".join(f"{rate:g}" for rate in rates)
        rows.append([name, f"{best['rate']:g}", f"{best['loss']:.4f}", f"{lost}", f"{steps[name]}", edge, grid])
    headings = ("", "best rate", "loss, last tenth", "runs diverged", "steps spent", "edge", "grid")
    return Table(
        "Each at its own rate", headings, rows, f"Seeds of the tuning: {summary.listed(tuning_seeds(options))}."
    )


if __name__ == "__main__":
    command.run(main, Options, PRESETS)
