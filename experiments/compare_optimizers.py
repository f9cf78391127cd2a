"""Which optimizer trains the notebook's network best? SGD, momentum, RMSprop and Adam, at one rate or their own.

    python -m experiments.compare_optimizers                    the notebook's protocol: one rate, 3 seeds
    python -m experiments.compare_optimizers --preset fair      each at its own best rate, 5 seeds, 64 x 64
    python -m experiments.compare_optimizers --preset rate_free     six that need no rate, against Adam
    python -m experiments.compare_optimizers --preset quick     each at 0.001 and at a rate chosen on other seeds
    python -m experiments.compare_optimizers --tune --optimizers adam optax:lion=1e-5,1e-4,1e-3
    python -m experiments.compare_optimizers --preset fair --optimizers mine=my_module:factory=0.01 \\
        --baseline docs/baselines/fair.json                     one of your own, against runs that are there

Runs of one seed are paired: the same initial weights and the same images for every optimizer. The notebook made one
run each and called a second momentum run "SGD". Expect Adam and RMSprop to be equal at its rate of 0.001, momentum
well behind and plain SGD far behind: that is a statement about this one rate, which was tuned for Adam.

On 2 CPU cores, an iteration on 128 x 128 images takes 0.07 to 0.17 s: 15 to 35 minutes for the whole, about an hour
for the presets fair (64 runs to tune, 20 to compare) and rate_free (16 and 40), a minute for the quick one. Several
devices train runs side by side, and one as many as --width says; several processes share them (--coordinator).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape

from experiments.lab import baseline, experiment, fairness, names, processes, scores, tuning, views
from experiments.lab.baseline import Baseline
from experiments.lab.options import Comparison, check_name, check_seeds
from experiments.lab.report import Report
from experiments.lab.scores import Arms, Target
from experiments.lab.stops import UsageError
from experiments.lab.train import train_all
from experiments.lab.tuning import Candidate, Grid
from experiments.notebook.published import ADAM_RATES
from segjax import OPTIMIZERS
from segjax._checks import check_positive

# The columns that are estimated, and the two that decide: where training ended, and its worth on other images.
ESTIMATED = ("final_loss", "loss", "iou")
DECISIVE = ("final_loss", "iou")


@dataclass(frozen=True, kw_only=True)
class Options(Comparison, processes.Group):
    """Trains the notebook's network with several optimizers, paired over seeds, and compares them."""

    optimizers: tuple[str, ...] = tuple(OPTIMIZERS)
    """Any of sgd, momentum (SGD with momentum 0.9), rmsprop, adam, and import paths such as optax:lion, which run the
    code of their module; with options as "optax:adamw(weight_decay=0.01)", under another name as mine=optax:lion, and
    with rates of its own as optax:lion=1e-5,1e-4: each of them is compared, or with --tune the best."""
    learning_rate: float = 1e-3  # The rate of all optimizers without one of their own; not used with --tune.
    reference: str = ""
    """Optimizer against which the others are held, seed by seed: its name, or with its rate as "adam 0.001"; by default
    the last of --baseline, or else adam, or else the last of --optimizers; of those that are compared."""
    baseline: Path | None = None
    """results.json of an earlier comparison: its runs, which are not trained again, are contenders beside --optimizers.
    It must have the same images, seeds and number of iterations."""
    target_loss: float = 0.03  # Loss to which the time is taken.
    target_iou: float = 0.95  # IoU to which the time is taken.
    tune: bool = False
    """First find the best rate of each optimizer that has several, on seeds of its own and with equal budgets; one that
    is given one rate keeps it."""
    extend: bool = False
    """With --tune, while an optimizer's best rate is the lowest or highest, try another beyond it, up to three."""
    rates: tuple[float, ...] = ADAM_RATES
    """Rates that --tune tries for each optimizer without a grid of its own; the notebook's eight."""
    tuning_seeds: int = 2  # Number of seeds on which --tune tries each rate.
    tuning_seed: int = 1000  # The first of those seeds.
    out: Path = Path("results/compare_optimizers")

    def called(self, optimizer: str) -> str:
        return tuning.label(self.candidates, optimizer)

    def inputs(self) -> list[Path]:
        return names.sources(optimizer for _, optimizer, _ in self.candidates) + (
            [self.baseline] if self.baseline else []
        )

    def check(self) -> None:
        super().check()
        # Optimizers and the baseline are read here, where mistakes in them are the user's.
        known = self.references
        if self.reference:
            check_name("--reference", self.reference, known)
        for it in self.candidates:
            for rate in () if it in self.tuned else it.rates:
                names.check_moves(f"--optimizers {it.label}", it.optimizer, rate)
        if self.extend and not self.tuned:
            raise ValueError("--extend adds to the grids of --tune, and no optimizer is tuned")
        check_seeds("--tuning-seed", self.tuning_seed, "--tuning-seeds", self.tuning_seeds)
        check_positive("--target-loss", self.target_loss)
        check_positive("--target-iou", self.target_iou)
        if self.target_iou > 1:
            raise ValueError(f"--target-iou must be at most 1, got {self.target_iou:g}")

    @cached_property
    def candidates(self) -> list[Candidate]:
        return tuning.candidates(self.optimizers, self.rates if self.tune else [self.learning_rate])

    @cached_property
    def stored(self) -> Baseline | None:
        return baseline.read(self.baseline, self) if self.baseline else None

    @property
    def tuned(self) -> list[Candidate]:
        """Those whose rate is to be found."""
        return [candidate for candidate in self.candidates if len(candidate.rates) > 1] if self.tune else []

    @property
    def references(self) -> list[str]:
        """What --reference may name: a label that stands for one contender, or a label and a rate that are known."""
        fixed = [candidate for candidate in self.candidates if candidate not in self.tuned]
        alone = [
            candidate.label for candidate in self.candidates if candidate not in fixed or len(candidate.rates) == 1
        ]
        with_rates = [candidate.arm(rate) for candidate in fixed for rate in candidate.rates]
        stored = [*self.stored.labels, *self.stored.arms] if self.stored else []
        return list(dict.fromkeys([*alone, *with_rates, *stored]))

    @property
    def all_tuning_seeds(self) -> range:
        return range(self.tuning_seed, self.tuning_seed + self.tuning_seeds)


# Its tuning is experiments.tune_learning_rate.
FAIR = Options(image_size=64, sigma=12.8, tune=True, tuning_seed=0, seed=2, seeds=5)
# Each at the rate that optax has as its default, which is the published one: they are to need no other.
RATE_FREE = (
    "prodigy=optax.contrib:prodigy=1",
    "dog=optax.contrib:dog=1",
    "dowg=optax.contrib:dowg=1",
    "dadapt_adamw=optax.contrib:dadapt_adamw=1",
    "cocob=optax.contrib:cocob=1",
    "schedule_free_adamw=optax.contrib:schedule_free_adamw=0.0025",
)
# The notebook's one rate, and those that --tune found for this setting on seeds 1000 and 1001; RMSprop's is the same.
QUICK = Options(
    optimizers=("sgd=0.001,0.5", "momentum=0.001,0.1", "rmsprop=0.001", "adam=0.001,0.01"),
    iterations=60,
    image_size=32,
    sigma=6.4,
    seeds=5,
    # Within reach of so few steps.
    target_loss=0.1,
    target_iou=0.8,
)
PRESETS = {
    "notebook": Options(),
    "fair": FAIR,
    "rate_free": replace(FAIR, optimizers=(*RATE_FREE, "adam=0.001", "tuned adam=adam"), reference="tuned adam"),
    "quick": QUICK,
}


class Found(NamedTuple):
    """The comparison, label -> its one arm, and what the tuning before it tried and found, where there was one."""

    compared: dict[str, Arms]
    trials: dict[str, Arms]
    grid: Grid | None


def work(options: Options, console: Console) -> Found:
    """Finds the rate of each optimizer that has several, where that is asked for, and trains them all."""
    candidates, trials, grid = options.candidates, {}, None
    # Said again in the results: hours later it would be too late.
    for said in fairness.of_weights(candidates):
        console.print(f"Warning: {escape(said)}", highlight=False)

    def train(candidates: Sequence[Candidate], seeds: Sequence[int]) -> dict[str, Arms]:
        results = train_all(tuning.plan(candidates, seeds, options), options, console)
        # Of several processes one alone holds the results.
        return tuning.trials(candidates, results, len(seeds)) if results else {}

    chosen = {candidate.label: candidate.rates[0] for candidate in options.tuned}

    def trial(candidates: list[Candidate]) -> dict[str, Arms]:
        return train(candidates, options.all_tuning_seeds)

    if chosen and (trials := tuning.search(options.tuned, trial, options.extend, console)):
        grid = tuning.grid(trials)
        lost = fairness.of_lost(grid, candidates)
        if options.reference in lost:
            raise UsageError(f"--reference {options.reference}: {lost[options.reference]}")
        if len(lost) == len(candidates):
            raise UsageError("; ".join(lost.values()))
        for label, why in lost.items():
            console.print(f"Warning: {escape(f'{label} is not compared: {why}.')}", highlight=False)
        chosen = {label: np.nan if best.rate is None else best.rate for label, best in grid.best.items()}
    # All processes must go on with the rates that one of them found.
    chosen = dict(zip(chosen, processes.broadcast(np.array(list(chosen.values()))).tolist(), strict=True))
    compared = [
        candidate._replace(rates=(chosen[candidate.label],)) if candidate.label in chosen else candidate
        for candidate in candidates
        if np.isfinite(chosen.get(candidate.label, 0.0))
    ]
    return Found(train(compared, options.all_seeds), trials, grid)


def report(options: Options, found: Found) -> Report:
    stored = options.stored
    # With --tune one may be lost on the way.
    candidates = [candidate for candidate in options.candidates if candidate.label in found.compared]
    arms = {name: arm for own in found.compared.values() for name, arm in own.items()}
    labels = {name: name for name in arms} | {label: next(iter(own)) for label, own in found.compared.items()}
    steps = options.tuning_seeds * options.iterations
    # A rate that was given costs nothing.
    spent = {name: steps * len(found.trials.get(it, ())) for it, own in found.compared.items() for name in own}
    trained = list(arms.values())
    if stored:
        arms, spent = {**arms, **stored.arms}, {**spent, **stored.spent}
        labels = {**stored.labels, **labels} | {name: name for name in stored.arms}
    # What one knows, where it is there.
    known = [name for name, arm in arms.items() if arm.run.optimizer == "adam" and not stored]
    reference = labels[options.reference] if options.reference else [*arms, *known][-1]
    targets = [
        Target("loss", f"loss <= {options.target_loss:g}", options.target_loss, False),
        Target("iou", f"IoU >= {options.target_iou:g}", options.target_iou, True),
    ]
    contest = scores.contest(arms, ESTIMATED, DECISIVE, targets, reference)
    results = {**scores.document(arms, contest), "tuning_steps": spent}
    rows = [{"phase": "comparison", **row} for row in scores.rows(arms)]
    over = f"{options.seeds} seed{'s' if options.seeds > 1 else ''}"
    setting = f"{options.iterations} iterations, {options.size} images, {over}"
    details = views.contest_tables(arms, contest, targets)
    figures = views.contest_figures(arms, contest, targets, setting)
    findings = [views.leader(arms, column) for column in DECISIVE]
    warnings = fairness.of_contest(arms, options.seeds) + fairness.of_weights(candidates)
    warnings += fairness.of_budgets(spent)
    if any(spent.values()):
        details.append(views.cost_table(arms, contest, targets, spent))
        if charged := views.cost_figure(arms, contest, targets, spent, setting):
            figures["time_with_tuning"] = charged
    if found.grid:
        seeds, trials = options.all_tuning_seeds, [row for own in found.trials.values() for row in scores.rows(own)]
        results["tuning"] = {"best_rates": found.grid.document, "runs": trials}
        rows = [{"phase": "tuning", **row} for row in trials] + rows
        listed = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
        details.append(tuning.table(found.trials, found.grid, steps, listed))
        figures["rate_sensitivity"] = tuning.range_figure(found.grid, f"Tuning on seeds {listed}: mean and range")
        lost = fairness.of_lost(found.grid, options.candidates)
        warnings += [f"{label} is not compared: {why}." for label, why in lost.items()]
        warnings += fairness.of_tuning(found.grid, seeds, options.all_seeds)
    if stored:
        # What one came for: the new ones against what was there.
        findings = [views.against(arm.label, contest) for arm in trained if arm.label != reference] + findings
        details.append(baseline.table(stored))
        warnings += baseline.warnings(stored, trained)
        results["stored"] = {"file": stored.path, "labels": list(stored.arms)}
    figures["predictions"] = views.predictions(arms, options)
    tables = [views.verdict_table(arms, contest, setting)]
    return Report(findings, tables, figures, results, rows, warnings, details=details)


if __name__ == "__main__":
    experiment.main()
