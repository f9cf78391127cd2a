"""Which optimizer trains the notebook's network best? SGD, momentum, RMSprop and Adam, at one rate or their own.

    python -m experiments.compare_optimizers               the notebook's protocol: one rate, 3 seeds
    python -m experiments.compare_optimizers fair          each at its own best rate, 5 seeds, 64 x 64
    python -m experiments.compare_optimizers rate_free     six that need no tuned rate, against Adam
    python -m experiments.compare_optimizers quick         60 steps, at 0.001 and at the rates of the fair comparison
    python -m experiments.compare_optimizers --tune --optimizers adam optax:lion=1e-5,1e-4,1e-3
    python -m experiments.compare_optimizers fair --optimizers mine=my_module:factory=0.01 \\
        --baseline docs/baselines/fair.json                your own optimizer against stored runs
    python -m experiments.compare_optimizers fair --until-decided   further seeds until each verdict is certain

Runs of one seed are paired: the same initial weights and the same images for every optimizer. The notebook has one run
of each and calls a second momentum run "SGD". Expect Adam and RMSprop to be equal at its rate of 0.001, momentum well
behind and plain SGD far behind. That holds for this one rate, which was tuned for Adam.

On 2 CPU cores, an iteration on 128 x 128 images takes 0.07 to 0.17 s: 15 to 35 minutes for the whole, about an hour
for the presets fair (64 runs to tune, 20 to compare) and rate_free (16 and 40), a minute for the quick one. `--workers`
trains runs on several local processes at once, and `--cluster` on other machines (docs/cluster.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from experiments.lab import figures, import_paths, question, tables
from experiments.lab.arms import Arm, Arms, rows
from experiments.lab.options import Comparison, Data, Seeds, Training, check_name, check_seeds
from experiments.lab.question import Lab
from experiments.lab.report import Report
from experiments.lab.stops import UsageError
from experiments.notebook.published import ADAM_RATES
from experiments.optimizers import baseline, contest, fairness, sequential, trials, tuning
from experiments.optimizers.baseline import Baseline
from experiments.optimizers.contest import DECISIVE, Contest, Target
from experiments.optimizers.sequential import Decision
from experiments.optimizers.tuning import Candidate, Grid
from segjax import OPTIMIZERS
from segjax._checks import check_count, check_positive


@dataclass(frozen=True, kw_only=True)
class Options(Comparison):
    """Trains the notebook's network with several optimizers, paired over seeds, and compares them."""

    #: Any of sgd, momentum (SGD with momentum 0.9), rmsprop, adam, and import paths such as optax:lion, which run the
    #: code of their module. Options: "optax:adamw(weight_decay=0.01)"; another name: mine=optax:lion; rates:
    #: optax:lion=1e-5,1e-4, which are all compared, or with --tune only the best. A path may lead to a ready
    #: transformation, which has its own rate and takes none.
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS)
    learning_rate: float = 1e-3  # Rate of optimizers without rates of their own; unused with --tune.
    #: Optimizer that the others are compared with: its name, or its name and rate, "adam 0.001". By default the last
    #: of --baseline, otherwise adam, otherwise the last of --optimizers.
    reference: str = ""
    #: results.json of an earlier comparison, whose runs are added as contenders and not trained again. It must have the
    #: same images, seeds and number of iterations.
    baseline: Path | None = None
    target_loss: float = 0.03  # Loss for the time to a target.
    target_iou: float = 0.95  # IoU for the time to a target.
    #: First find the best rate of each optimizer with several rates, on separate seeds and with equal budgets.
    tune: bool = False
    #: With --tune, while an optimizer's best rate is the lowest or highest, try another beyond it, up to three.
    extend: bool = False
    #: Add seeds, beginning with --seeds, until every optimizer is decided against the reference in held-out IoU. The
    #: verdicts stay valid however often they are looked at; those without it are for one look.
    until_decided: bool = False
    most_seeds: int = 20  # Most seeds with --until-decided.
    #: Rates that --tune tries for each optimizer without rates of its own; the notebook's eight.
    rates: tuple[float, ...] = ADAM_RATES
    tuning_seeds: int = 2  # Number of seeds for each rate with --tune.
    tuning_seed: int = 1000  # The first of those seeds.
    out: Path = Path("results/compare_optimizers")

    free = (
        *("seeds", "optimizers", "reference", "baseline", "target_loss", "target_iou"),
        *("tune", "extend", "rates", "tuning_seed", "tuning_seeds", "until_decided", "most_seeds"),
    )

    def inputs(self) -> list[Path]:
        files = import_paths.loaded_files(optimizer for _, optimizer, _ in self.candidates)
        return [*files.values(), *([self.baseline] if self.baseline else [])]

    def check(self) -> None:
        super().check()
        check_positive("--learning-rate", self.learning_rate)
        tuning.check_rates("--rates", self.rates)
        # Always computed, since it reads the optimizers and the baseline, and finds mistakes in them.
        known = self.references
        if self.reference:
            check_name("--reference", self.reference, known)
        for candidate in self.candidates:
            for rate in () if candidate in self.tuned else candidate.rates:
                trials.check_moves(f"--optimizers {candidate.label}", candidate.optimizer, rate)
        if self.extend and not self.tuned:
            raise ValueError("--extend adds to the grids of --tune, and no optimizer is tuned")
        check_seeds("--tuning-seed", self.tuning_seed, "--tuning-seeds", self.tuning_seeds)
        check_count("--most-seeds", self.most_seeds, 1)
        if self.until_decided:
            self._check_until_decided()
        check_positive("--target-loss", self.target_loss)
        check_positive("--target-iou", self.target_iou)
        if self.target_iou > 1:
            raise ValueError(f"--target-iou must be at most 1, got {self.target_iou:g}")

    def _check_until_decided(self) -> None:
        check_seeds("--seed", self.seeds.seed, "--most-seeds", self.most_seeds)
        if self.most_seeds < self.seeds.seeds:
            raise ValueError(f"--most-seeds must be at least --seeds, {self.seeds.seeds}, got {self.most_seeds}")
        contenders = sum(1 if candidate in self.tuned else len(candidate.rates) for candidate in self.candidates)
        if contenders + len(self.stored.arms if self.stored else ()) < 2:
            raise ValueError("--until-decided needs an optimizer to compare with the reference")

    @cached_property
    def candidates(self) -> list[Candidate]:
        return tuning.candidates(self.optimizers, self.rates if self.tune else [self.learning_rate])

    @cached_property
    def stored(self) -> Baseline | None:
        return baseline.read(self.baseline, self) if self.baseline else None

    @property
    def tuned(self) -> list[Candidate]:
        """The candidates with several rates, if --tune is given."""
        return [candidate for candidate in self.candidates if len(candidate.rates) > 1] if self.tune else []

    @property
    def references(self) -> list[str]:
        """Allowed values of --reference: a label with one contender, or a label with a known rate."""
        fixed = [candidate for candidate in self.candidates if candidate not in self.tuned]
        alone = [candidate.label for candidate in self.candidates if self.tune or len(candidate.rates) == 1]
        with_rates = [candidate.arm(rate) for candidate in fixed for rate in candidate.rates]
        stored = [*self.stored.labels, *self.stored.arms] if self.stored else []
        return list(dict.fromkeys([*alone, *with_rates, *stored]))

    @property
    def all_tuning_seeds(self) -> range:
        return range(self.tuning_seed, self.tuning_seed + self.tuning_seeds)


# Tunes with the runs of experiments.tune_learning_rate.
FAIR = Options(data=Data(image_size=64), seeds=Seeds(seed=2, seeds=5), tune=True, tuning_seed=0)
# At optax's default rates, which are the published ones: these optimizers should need no other.
RATE_FREE = (
    "prodigy=optax.contrib:prodigy=1",
    "dog=optax.contrib:dog=1",
    "dowg=optax.contrib:dowg=1",
    "dadapt_adamw=optax.contrib:dadapt_adamw=1",
    "cocob=optax.contrib:cocob=1",
    "schedule_free_adamw=optax.contrib:schedule_free_adamw=0.0025",
)
# The notebook's rate, and the best rates of docs/fair-comparison.md; for RMSprop and Adam they are equal.
QUICK = Options(
    optimizers=("sgd=0.001,0.1", "momentum=0.001,0.1", "rmsprop=0.001", "adam=0.001"),
    data=Data(image_size=32),
    training=Training(iterations=60),
    seeds=Seeds(seeds=5),
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


def answer(options: Options, lab: Lab) -> Report:
    # Printed before the training too, since hours later it would be too late.
    weights_warnings = fairness.weights_warnings(options.candidates)
    for warning in weights_warnings:
        lab.say(f"Warning: {warning}")
    seeds = options.all_tuning_seeds
    grid = tuning.search(options.tuned, seeds, options, lab, options.extend)
    candidates, excluded = candidates_at_best_rate(options, grid)
    for label, reason in excluded.items():
        lab.say(f"Warning: {label} is not compared: {reason}.")
    if options.until_decided:
        options = with_seeds_that_decide(options, candidates, grid, lab)
    trained = tuning.train(candidates, options.seeds, options, lab)
    comparison = contest_of(options, trained, grid)
    decisions = None
    if options.until_decided:
        decisions = sequential.decisions(comparison.rivals, comparison.arms[comparison.reference])
    warnings = tables.seeds_warning(options.seeds.seeds) + tables.diverged_warning(comparison.arms) + weights_warnings
    warnings += fairness.budget_warnings(comparison.tuning_steps) + fairness.steps_warning(options.training.iterations)
    report = Report(
        [tables.leader(comparison.arms, column) for column in DECISIVE],
        [contest.verdict_table(comparison, decisions)],
        {**contest.drawings(comparison), "predictions": figures.predictions(comparison.arms)},
        comparison.arms,
        comparison.document,
        [{"phase": "comparison", **row} for row in rows(comparison.arms)],
        warnings,
        [*tables.ties(comparison.arms, DECISIVE), *contest.detail_tables(comparison)],
    )
    if grid.trials:
        more = [f"{label} is not compared: {reason}." for label, reason in excluded.items()]
        # A tuned label has the colour of its contender, which also has a rate in its name.
        labels = {name: label for label, arms in trained.items() for name in arms}
        order = [labels.get(name, name) for name in comparison.arms]
        report = with_tuning(report, grid, options, order, more)
    if options.stored:
        new_arms = [arm for arms in trained.values() for arm in arms.values()]
        report = with_stored_runs(report, options.stored, new_arms, comparison)
    if decisions:
        report = with_evidence(report, options, comparison.reference, decisions)
    return report


def with_tuning(report: Report, grid: Grid, options: Options, order: Sequence[str], warnings: Sequence[str]) -> Report:
    """The report with the results of the tuning; `order` has the labels in the order of their colours."""
    seeds = options.all_tuning_seeds
    listed, tuning_rows = ", ".join(map(str, seeds)), rows(grid.arms)
    drawing = tuning.drawing(grid, f"Tuning on seeds {listed}: mean and range", order)
    return report._replace(
        figures={**report.figures, "rate_sensitivity": drawing},
        results={**report.results, "tuning": {"best_rates": grid.best, "runs": tuning_rows}},
        rows=[{"phase": "tuning", **row} for row in tuning_rows] + [*report.rows],
        warnings=[*report.warnings, *warnings, *fairness.tuning_warnings(grid, seeds, options.seeds)],
        details=[*report.details, tuning.table(grid, listed)],
    )


def with_stored_runs(report: Report, stored: Baseline, new_arms: Sequence[Arm], comparison: Contest) -> Report:
    """The report with the provenance of the stored runs; the new optimizers against the stored reference come first."""
    rivals = [arm.label for arm in new_arms if arm.label != comparison.reference]
    return report._replace(
        findings=[contest.against_reference(label, comparison) for label in rivals] + [*report.findings],
        results={**report.results, "stored": {"file": stored.path, "labels": list(stored.arms)}},
        warnings=[*report.warnings, *baseline.warnings(stored, new_arms)],
        details=[*report.details, baseline.table(stored)],
    )


def with_evidence(report: Report, options: Options, reference: str, decisions: Mapping[str, Decision]) -> Report:
    """The report with the verdicts that are valid at any number of seeds, in place of those for one look."""
    stored, warnings = options.stored, [*report.warnings]
    if stored and stored.most_seeds < options.most_seeds and not sequential.all_decided(decisions.values()):
        warnings.append(
            f"No more than {stored.most_seeds} seeds, since --baseline has no more: not the {options.most_seeds} of "
            "--most-seeds."
        )
    return report._replace(
        warnings=warnings,
        findings=[sequential.finding(label, reference, each) for label, each in decisions.items()],
        figures={**report.figures, "evidence": sequential.drawing(decisions, reference, [*report.arms])},
        results={**report.results, "sequential": decisions},
        details=[sequential.table(decisions, reference), *report.details],
    )


def candidates_at_best_rate(options: Options, grid: Grid) -> tuple[list[Candidate], dict[str, str]]:
    """The candidates, tuned ones at their best rate, and label -> reason for each one without a best rate.

    Raises:
        UsageError: if the reference, or every candidate, has no best rate.
    """
    excluded = fairness.reasons_without_rate(grid, options.candidates)
    if options.reference in excluded:
        raise UsageError(f"--reference {options.reference}: {excluded[options.reference]}")
    if len(excluded) == len(options.candidates):
        raise UsageError("; ".join(excluded.values()))
    best = {label: (best.rate,) for label, best in grid.best.items() if best.rate is not None}
    candidates = [candidate for candidate in options.candidates if candidate.label not in excluded]
    return [candidate._replace(rates=best.get(candidate.label, candidate.rates)) for candidate in candidates], excluded


def with_seeds_that_decide(options: Options, candidates: Sequence[Candidate], grid: Grid, lab: Lab) -> Options:
    """The options with as many seeds as it takes to decide every rival, or with the most seeds."""
    most = min(options.most_seeds, options.stored.most_seeds if options.stored else options.most_seeds)
    while True:
        comparison = contest_of(options, tuning.train(candidates, options.seeds, options, lab), grid)
        decisions = sequential.decisions(comparison.rivals, comparison.arms[comparison.reference])
        count = options.seeds.seeds
        listed = ", ".join(f"{label} {decision.evidence[-1]:.3g}" for label, decision in decisions.items())
        lab.say(f"After {count} seeds, evidence of {sequential.ENOUGH:g} decides: {listed}")
        if sequential.all_decided(decisions.values()) or count >= most:
            return options
        options = replace(options, seeds=replace(options.seeds, seeds=count + 1))


def contest_of(options: Options, trained: Mapping[str, Arms], grid: Grid) -> Contest:
    """The contest of the trained arms, label -> arms, and the stored arms."""
    arms = Grid(trained).arms
    # A rate without tuning costs nothing.
    tuning_steps = {name: grid.steps.get(label, 0) for label, by_name in trained.items() for name in by_name}
    labels = {name: name for name in arms} | {label: next(iter(arms)) for label, arms in trained.items()}
    if stored := options.stored:
        arms, tuning_steps = {**arms, **stored.arms}, {**tuning_steps, **stored.tuning_steps}
        labels = {**stored.labels, **labels} | {name: name for name in stored.arms}
    # Adam, the best known optimizer, is the default.
    adams = [name for name, arm in arms.items() if arm.run.optimizer == "adam" and not stored]
    reference = labels[options.reference] if options.reference else [*arms, *adams][-1]
    targets = [
        Target("loss", f"loss <= {options.target_loss:g}", options.target_loss, False),
        Target("iou", f"IoU >= {options.target_iou:g}", options.target_iou, True),
    ]
    seeds = f"{options.seeds.seeds} seed{'s' if options.seeds.seeds > 1 else ''}"
    setting = f"{options.training.iterations} iterations, {options.data.size} images, {seeds}"
    return Contest(arms, reference, targets, setting, tuning_steps)


if __name__ == "__main__":
    question.main()
