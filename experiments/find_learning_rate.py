"""Can one short run find the learning rate? A range test over seeds, compared with the sweep that it replaces.

    python -m experiments.find_learning_rate           Adam, 64 x 64 images, 3 seeds
    python -m experiments.find_learning_rate quick     32 x 32 images, 2 seeds
    python -m experiments.find_learning_rate --optimizer sgd --high 100
    python -m experiments.find_learning_rate --sweep results/tune_learning_rate/results.json

The rate grows geometrically from `--low` to `--high` in one run (Smith, 2017), on a fresh batch each step. The loss is
smoothed over steps and averaged over seeds. The suggestion is a third of the rate at which the loss is lowest: that
rate itself is too large for a long run, and beyond it the run diverges. Expect it at or below the best rate; in runs of
under 100 steps, far above it, where single seeds differ most. The notebook began a finder and gave it up.

With `--sweep`, the results of `experiments.tune_learning_rate`, it prints the regret: how much higher the sweep's final
loss is at the suggested rate than at its best rate. Between two rates of the sweep the loss is interpolated linearly in
log-log. Takes about a minute on 2 CPU cores.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import msgspec
import numpy as np

import segjax
from experiments.lab import folder, question, tables
from experiments.lab.names import ARCHITECTURES
from experiments.lab.options import Command, Data, Seeds, check_training
from experiments.lab.programs import CHUNK_SIZE
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report, Table
from experiments.optimizers import baseline
from segjax import LOSSES, OPTIMIZERS, plotting, range_test
from segjax._checks import check_count, check_positive
from segjax.schedules import scheduled


@dataclass(frozen=True, kw_only=True)
class Options(Command):
    """Suggests a learning rate from short runs in which it grows."""

    data: Data = Data(image_size=64)
    seeds: Seeds = Seeds()
    optimizer: str = "adam"  # One of sgd, momentum, rmsprop, adam.
    loss: str = "mse"  # One of mse, bce, dice.
    architecture: str = "notebook"  # Name of a network, such as notebook, separate_norm or unet.
    low: float = 1e-5  # Rate of the first step.
    high: float = 10.0  # Rate of the last step.
    steps: int = 400  # Training steps of each run.
    sweep: Path | None = None  # results.json of experiments.tune_learning_rate, to judge the suggestion by its runs.
    out: Path = Path("results/find_learning_rate")

    def inputs(self) -> list[Path]:
        return [self.sweep] if self.sweep else []

    def check(self) -> None:
        super().check()
        check_training(self.optimizer, self.loss, self.architecture)
        check_positive("--low", self.low)
        check_positive("--high", self.high)
        if self.low >= self.high:
            raise ValueError(f"--low must be below --high, got {self.low:g} and {self.high:g}")
        check_positive("--high / --low", self.high / self.low)
        check_count("--steps", self.steps, 10, maximum=10**6)
        if self.sweep:
            read_sweep(self.sweep, self)


PRESETS = {"full": Options(), "quick": Options(data=Data(image_size=32), steps=150, seeds=Seeds(seeds=2))}


def answer(options: Options, lab: Lab) -> Report:
    losses = train(options, lab)
    rates = range_test.rates(options.low, options.high, options.steps)
    smoothed = np.stack([range_test.smooth(run) for run in losses])
    suggested, by_seed = range_test.suggest(rates, smoothed), [range_test.suggest(rates, run) for run in smoothed]
    single = ", ".join(f"{rate:.2g}" for rate in by_seed)
    findings = [
        f"Suggested rate for {options.optimizer}: {suggested:.2g}, a third of the rate at which the smoothed loss, "
        f"averaged over seeds, is lowest (single seeds: {single})."
    ]
    means = smoothed.mean(axis=0)
    lowest = int(np.argmin(means))
    if not np.isfinite(means[lowest]):
        findings = ["No suggestion: the loss is not finite from the first step; try a lower --low."]
    elif lowest in (0, options.steps - 1):
        findings.append(f"The loss is lowest at the {'last' if lowest else 'first'} rate: widen --low to --high.")
    results = {"suggested_rate": suggested, "each_seed": by_seed, "rates": rates, "losses": losses}
    if options.sweep:
        sweep_rates, sweep_losses = read_sweep(options.sweep, options)
        results["regret"] = regret = range_test.regret(suggested, sweep_rates, sweep_losses)
        findings.append(regret_finding(regret, sweep_rates[np.nanargmin(sweep_losses)]))
    rows = [{"seed": seed, "suggested_rate": rate} for seed, rate in zip(options.seeds, by_seed, strict=True)]
    cells = [[str(row["seed"]), f"{row['suggested_rate']:.3g}"] for row in rows] + [["all", f"{suggested:.3g}"]]
    table = Table("Suggested rates", ("seed", "rate"), cells, f"{options.optimizer}, {options.architecture}")
    figures = {"range_test": drawing(options, rates, smoothed, suggested)}
    warnings = tables.seeds_warning(options.seeds.seeds)
    if np.isfinite(means[lowest]) and is_noise(losses, smoothed):
        warnings.append(
            "Between --low and --high the loss falls by no more than its noise from batch to batch explains, so the "
            "suggestion means nothing; try other rates, more --steps or a larger --batch-size."
        )
    return Report(findings, [table], figures, results=results, rows=rows, warnings=warnings)


def train(options: Options, lab: Lab) -> np.ndarray:
    """(seeds, steps), the losses of runs in which the rate grows."""
    growing = range_test.growing(options.high / options.low)
    fit = segjax.make_fit(
        ARCHITECTURES[options.architecture],
        optimizer=scheduled(OPTIMIZERS[options.optimizer], growing, options.steps),
        loss=LOSSES[options.loss],
        num_steps=options.steps,
        chunk_size=CHUNK_SIZE,
        **options.data.texture._asdict(),
    )
    losses = []
    with lab.progress() as progress:
        bar = progress.add_task("compiling", total=options.steps * options.seeds.seeds)
        for seed in options.seeds:

            def look(_: segjax.TrainState, history: segjax.History, seed: int = seed) -> None:
                progress.update(bar, advance=len(history.loss), description=f"seed {seed}")

            losses.append(np.asarray(fit(jax.random.key(seed), options.low, look)[1].loss))
    return np.stack(losses)


def is_noise(losses: np.ndarray, smoothed: np.ndarray) -> bool:
    """Whether the mean smoothed loss falls from its first step by at most five standard errors of its logarithm.

    Args:
        losses, smoothed: (seeds, steps), `smoothed` infinite after a divergence, but not in the first step.
    """
    before_divergence = np.isfinite(smoothed)
    logs = np.log(np.maximum(losses, np.finfo(np.float32).tiny), out=np.zeros(losses.shape), where=before_divergence)
    changes = np.abs(np.diff(logs, axis=1)[before_divergence[:, 1:]])
    # Two independent normal numbers differ by 0.954 standard deviations in the median.
    deviation = np.median(changes) / 0.954 if changes.size else 0.0
    # The mean of so many independent losses varies like a Gaussian mean over steps.
    num_losses = max(1.0, 2 * np.sqrt(np.pi) * range_test.SMOOTHING * losses.shape[1]) * len(losses)
    means = smoothed.mean(axis=0)
    return bool(np.log(means[0] / means.min()) <= 5 * deviation / np.sqrt(num_losses))


def regret_finding(regret: float | None, best_rate: float) -> str:
    if regret is None:
        return (
            "The sweep cannot judge the suggestion, which lies outside of its rates or beside one that diverged (its "
            f"best rate is {best_rate:g})."
        )
    return f"Regret against the sweep, whose best rate is {best_rate:g}: {regret:+.1%} of its final loss."


def drawing(options: Options, rates: np.ndarray, smoothed: np.ndarray, suggested: float) -> Drawing:
    panel = plotting.Panel(
        f"loss ({options.loss}), smoothed",
        {f"loss, {options.seeds}": smoothed},
        log=True,
        x=rates,
        xlabel="learning rate, growing in the run",
        xlog=True,
        vertical_lines={f"suggestion {suggested:.2g}": suggested} if np.isfinite(suggested) else {},
    )
    title = f"Range test of {options.optimizer}, {options.steps} steps"
    return Drawing("Loss while the rate grows", plotting.training_curves([panel], title))


class SweepRun(msgspec.Struct):
    """The fields of a run in a sweep that are read."""

    optimizer: str
    objective: str
    architecture: str
    learning_rate: baseline.Positive
    final_loss: baseline.Positive | None
    diverged_at: baseline.Step | None


class Sweep(msgspec.Struct):
    """The entries of a sweep's results.json that are read."""

    experiment: Literal["tune_learning_rate"]
    options: Data
    runs: list[SweepRun]


def read_sweep(path: Path, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Rates and mean final losses of the optimizer in a sweep of the same task; the loss is NaN if a run diverged.

    Raises:
        ValueError: naming --sweep, if the file cannot be read or is not from such a sweep.
    """
    with baseline.refusals("--sweep", path, "tune_learning_rate"):
        sweep = msgspec.convert(folder.read_document(path), Sweep)
    runs = [run for run in sweep.runs if run.optimizer == options.optimizer]
    finals: dict[float, list[float]] = {run.learning_rate: [] for run in runs}
    for run in runs:
        finals[run.learning_rate].append(np.nan if run.diverged_at or run.final_loss is None else run.final_loss)
    rates = np.array(sorted(finals))
    losses = np.array([np.mean(finals[rate]) for rate in rates])
    if not np.isfinite(losses).any():
        raise ValueError(f"--sweep {path} has no run of {options.optimizer} that did not diverge")
    task = {**options.data.texture._asdict(), "objective": options.loss, "architecture": options.architecture}
    for run in runs:
        swept = {**sweep.options.texture._asdict(), "objective": run.objective, "architecture": run.architecture}
        for name, value in task.items():
            if swept[name] != value:
                raise ValueError(f"--sweep {path} has {name} {swept[name]}, not {value}: another task")
    return rates, losses


if __name__ == "__main__":
    question.main()
