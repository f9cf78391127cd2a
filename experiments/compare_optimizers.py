"""Which optimizer trains the notebook's network best? SGD, momentum, RMSprop and Adam, at one rate or their own.

    python -m experiments.compare_optimizers                    the notebook's protocol: one rate, 3 seeds
    python -m experiments.compare_optimizers --preset fair      each at its own best rate, 5 seeds, 64 x 64
    python -m experiments.compare_optimizers --preset quick     64 x 64, 60 iterations
    python -m experiments.compare_optimizers --tune --optimizers adam optax:lion=1e-5,1e-4,1e-3

Runs of one seed are paired: the same initial weights and the same images for every optimizer. The notebook made one
run each and called a second momentum run "SGD". Expect Adam and RMSprop to be equal at its rate of 0.001, momentum
well behind and plain SGD far behind: that is a statement about this one rate, which was tuned for Adam.

On 2 CPU cores, an iteration takes 0.07 to 0.17 s: 15 to 35 minutes for the whole, about an hour for the fair preset
(64 runs to tune, 20 to compare), under a minute for the quick one. Several devices train runs side by side, and one as
many as --width says; several processes share them (--coordinator).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from experiments.lab import experiment, fairness, names, processes, scores, tuning, views
from experiments.lab.options import Comparison, check_name, check_seeds
from experiments.lab.report import Report
from experiments.lab.runs import Result
from experiments.lab.scores import Arms, Target
from experiments.lab.stops import UsageError
from experiments.lab.train import train_all
from experiments.lab.tuning import Candidate, Grid
from experiments.notebook.published import ADAM_RATES
from segjax import OPTIMIZERS
from segjax.checks import check_positive

# The columns that are estimated, and the two that decide: where training ended, and its worth on other images.
ESTIMATED = ("final_loss", "loss", "iou")
DECISIVE = ("final_loss", "iou")


@dataclass(frozen=True, kw_only=True)
class Options(Comparison, processes.Group):
    """Trains the notebook's network with several optimizers, paired over seeds, and compares them."""

    optimizers: tuple[str, ...] = tuple(OPTIMIZERS)
    """Any of sgd, momentum (SGD with momentum 0.9), rmsprop, adam, and import paths such as optax:lion, which run the
    code of their module; with options as "optax:adamw(weight_decay=0.01)", with a rate of its own as optax:lion=1e-4,
    with --tune a grid of its own as optax:lion=1e-5,1e-4."""
    learning_rate: float = 1e-3  # The rate of all optimizers without one of their own; not used with --tune.
    reference: str = ""
    """Optimizer against which the others are held, seed by seed; the last of --optimizers by default."""
    target_loss: float = 0.03  # Loss to which the time is taken.
    target_iou: float = 0.95  # IoU to which the time is taken.
    tune: bool = False  # First find each optimizer's best rate, on seeds of its own and with equal budgets.
    rates: tuple[float, ...] = ADAM_RATES
    """Rates that --tune tries for each optimizer without a grid of its own; the notebook's eight."""
    tuning_seeds: int = 2  # Number of seeds on which --tune tries each rate.
    tuning_seed: int = 1000  # The first of those seeds.
    out: Path = Path("results/compare_optimizers")

    def inputs(self) -> list[Path]:
        return names.sources(self.optimizers)

    def check(self) -> None:
        super().check()
        if self.reference:
            check_name("--reference", self.reference, [name for name, _ in self.candidates])
        check_seeds("--tuning-seed", self.tuning_seed, "--tuning-seeds", self.tuning_seeds)
        check_positive("--target-loss", self.target_loss)
        check_positive("--target-iou", self.target_iou)
        several = [name for name, rates in self.candidates if len(rates) > 1]
        if several and not self.tune:
            raise ValueError(f"--optimizers {several[0]}= must have one rate; to choose among several pass --tune")

    @cached_property
    def candidates(self) -> list[Candidate]:
        return tuning.candidates(self.optimizers, self.rates if self.tune else [self.learning_rate])

    @property
    def all_tuning_seeds(self) -> range:
        return range(self.tuning_seed, self.tuning_seed + self.tuning_seeds)


PRESETS = {
    "notebook": Options(),
    # Its tuning is experiments.tune_learning_rate.
    "fair": Options(image_size=64, sigma=12.8, tune=True, tuning_seed=0, seed=2, seeds=5),
    "quick": Options(iterations=60, image_size=64, sigma=12.8),
}


class Found(NamedTuple):
    """The comparison, and what the tuning before it tried and found, where there was one."""

    results: Sequence[Result]
    trials: Arms
    grid: Grid | None


def work(options: Options, console: Console) -> Found:
    """Finds each optimizer's rate where that is asked for, and trains them all."""
    candidates, trials, grid = options.candidates, {}, None
    # Said again in the results: hours later it would be too late.
    for said in fairness.of_weights(name for name, _ in candidates):
        console.print(f"Warning: {said}", highlight=False)
    rates = {name: own[0] for name, own in candidates}
    if options.tune:
        results = train_all(tuning.plan(candidates, options.all_tuning_seeds, options), options, console)
        # Of several processes one alone holds the results, and knows the best rates.
        if results:
            trials = scores.arms(results, scores.by_rate)
            grid = tuning.grid(trials.values())
            for name, best in grid.best.items():
                if best.rate is None:
                    raise UsageError(f"{name} diverged at every rate that was tried; lower ones: {name}=RATE,RATE")
                rates[name] = best.rate
    # All processes must go on with the rates that one of them found.
    rates = dict(zip(rates, processes.broadcast(np.array(list(rates.values()))).tolist(), strict=True))
    chosen = [Candidate(name, (rate,)) for name, rate in rates.items()]
    return Found(train_all(tuning.plan(chosen, options.all_seeds, options), options, console), trials, grid)


def report(options: Options, found: Found) -> Report:
    # Optimizers at one rate need no more than their names.
    one_rate = len({result.run.learning_rate for result in found.results}) == 1
    arms = scores.arms(found.results, (lambda run: run.optimizer) if one_rate else scores.by_rate)
    labels = {arm.run.optimizer: label for label, arm in arms.items()}
    reference = labels[options.reference or list(labels)[-1]]
    targets = [
        Target("loss", f"loss <= {options.target_loss:g}", options.target_loss, False),
        Target("iou", f"IoU >= {options.target_iou:g}", options.target_iou, True),
    ]
    contest = scores.contest(arms, ESTIMATED, DECISIVE, targets, reference)
    results, rows = scores.document(arms, contest), [{"phase": "comparison", **row} for row in scores.rows(arms)]
    setting = f"{options.iterations} iterations, {options.size} images, {options.seeds} seeds"
    tables = views.contest_tables(arms, contest, targets)
    figures = views.contest_figures(arms, contest, targets, setting)
    findings = [views.leader(arms, column) for column in DECISIVE]
    warnings = fairness.of_contest(arms, contest, options.seeds)
    warnings += fairness.of_weights(name for name, _ in options.candidates)
    if found.grid:
        candidates, seeds = options.candidates, options.all_tuning_seeds
        trials, steps = scores.rows(found.trials), options.tuning_seeds * options.iterations
        results["tuning"] = {"best_rates": found.grid.document, "runs": trials}
        rows = [{"phase": "tuning", **row} for row in trials] + rows
        listed = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
        tables.append(tuning.table(candidates, found.grid, steps, listed))
        figures["rate_sensitivity"] = tuning.interval_figure(found.grid, f"Tuning on seeds {listed}")
        warnings += fairness.of_tuning(candidates, found.grid, steps, seeds, options.all_seeds)
    figures["predictions"] = views.predictions(arms, options)
    return Report(findings, tables, figures, results, rows, warnings)


if __name__ == "__main__":
    experiment.main()
