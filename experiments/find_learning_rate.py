"""Can one short run find the learning rate? A range test that works, over seeds, held against the true sweep.

    python -m experiments.find_learning_rate                    Adam, 64 x 64 images, 3 seeds
    python -m experiments.find_learning_rate --preset quick     32 x 32 images, 2 seeds
    python -m experiments.find_learning_rate --optimizer sgd --high 100
    python -m experiments.find_learning_rate --sweep results/tune_learning_rate/results.json

The rate grows geometrically from `--low` to `--high` in one run (Smith, 2017), on a fresh batch each step. The loss is
smoothed over steps and averaged over seeds; the suggestion is a third of the rate at which it is lowest: past the
minimum the run is falling apart, and at it the rate is already too large to be kept for long. The notebook tried a
finder and gave up on it.

With `--sweep`, the results of `experiments.tune_learning_rate`, it prints the regret: how much higher the sweep's final
loss is at the suggested rate (between two rates, by a straight line in log-log) than at its best rate.
Takes about a minute on 2 CPU cores.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

import segjax
from experiments.lab import experiment, store
from experiments.lab.names import ARCHITECTURES
from experiments.lab.options import Data, Seeds
from experiments.lab.report import Report, Table
from experiments.lab.runs import CHUNK_SIZE
from experiments.lab.train import progress_bar
from segjax import LOSSES, OPTIMIZERS, plotting, range_test
from segjax._checks import check_count, check_positive
from segjax.schedules import scheduled


@dataclass(frozen=True, kw_only=True)
class Options(Data, Seeds):
    """Suggests a learning rate from short runs in which it grows."""

    image_size: int = 64
    sigma: float = 12.8
    optimizer: str = "adam"  # One of sgd, momentum, rmsprop, adam.
    loss: str = "mse"  # One of mse, bce, dice.
    architecture: str = "notebook"  # Name of a network, such as notebook, separate_norm or unet.
    low: float = 1e-5  # Rate of the first step.
    high: float = 10.0  # Rate of the last step.
    steps: int = 400  # Training steps of each run.
    sweep: Path | None = None  # results.json of experiments.tune_learning_rate, to say how good the suggestion is.
    out: Path = Path("results/find_learning_rate")

    def inputs(self) -> list[Path]:
        return [self.sweep] if self.sweep else []

    def check(self) -> None:
        super().check()
        check_positive("--low", self.low)
        check_positive("--high", self.high)
        if self.low >= self.high:
            raise ValueError(f"--low must be below --high, got {self.low:g} and {self.high:g}")
        check_positive("--high / --low", self.high / self.low)
        check_count("--steps", self.steps, 10, maximum=10**6)
        if self.sweep:
            read_sweep(self)


PRESETS = {"full": Options(), "quick": Options(image_size=32, sigma=6.4, steps=150, seeds=2)}


def work(options: Options, console: Console) -> np.ndarray:
    """The loss at each step of a run in which the rate grows: (seeds, steps)."""
    growing = range_test.growing(options.high / options.low)
    fit = segjax.make_fit(
        ARCHITECTURES[options.architecture],
        optimizer=scheduled(OPTIMIZERS[options.optimizer], growing, options.steps),
        loss=LOSSES[options.loss],
        num_steps=options.steps,
        chunk_size=CHUNK_SIZE,
        **options.texture._asdict(),
    )
    losses = []
    with progress_bar(console) as progress:
        bar = progress.add_task("compiling", total=options.steps * options.seeds)
        for seed in options.all_seeds:

            def look(_: segjax.TrainState, history: segjax.History, seed: int = seed) -> None:
                progress.update(bar, advance=len(history.loss), description=f"seed {seed}")

            losses.append(np.asarray(fit(jax.random.key(seed), options.low, look)[1].loss))
    return np.stack(losses)


def report(options: Options, losses: np.ndarray) -> Report:
    rates = range_test.rates(options.low, options.high, options.steps)
    smoothed = np.stack([range_test.smooth(run) for run in losses])
    suggested, each = range_test.suggest(rates, smoothed), [range_test.suggest(rates, run) for run in smoothed]
    results: dict[str, Any] = {"suggested_rate": suggested, "each_seed": each}
    listed = ", ".join(f"{rate:.2g}" for rate in each)
    sentences = [f"Suggested rate for {options.optimizer}: {suggested:.2g} (single seeds: {listed})."]
    means = smoothed.mean(axis=0)
    lowest = int(np.argmin(means))
    if not np.isfinite(means[lowest]):
        sentences = ["No suggestion: the loss is not finite from the first step; try a lower --low."]
    elif lowest in (0, options.steps - 1):
        sentences.append(f"The loss is lowest at the {'last' if lowest else 'first'} rate: widen --low to --high.")
    # A suggestion is worth what a sweep of the same task says of it.
    if options.sweep:
        sweep_rates, sweep_losses = read_sweep(options)
        results["regret"] = regret = range_test.regret(suggested, sweep_rates, sweep_losses)
        best = sweep_rates[np.nanargmin(sweep_losses)]
        if regret is None:
            sentences.append(
                "The sweep cannot judge it: the suggestion lies outside of its rates, or beside one that diverged (its "
                f"best rate is {best:g})."
            )
        else:
            sentences.append(f"Regret against the sweep, whose best rate is {best:g}: {regret:+.1%} of its final loss.")
    rows = [{"seed": seed, "suggested_rate": rate} for seed, rate in zip(options.all_seeds, each, strict=True)]
    cells = [[str(row["seed"]), f"{row['suggested_rate']:.3g}"] for row in rows] + [["all", f"{suggested:.3g}"]]
    table = Table("Suggested rates", ("seed", "rate"), cells, f"{options.optimizer}, {options.architecture}")
    panel = plotting.Panel(
        f"loss ({options.loss}), smoothed",
        {f"loss, {options.over_seeds}": smoothed},
        log=True,
        x=rates,
        xlabel="learning rate, growing in the run",
        xlog=True,
        vertical_lines={f"suggestion {suggested:.2g}": suggested} if np.isfinite(suggested) else {},
    )
    title = f"Range test of {options.optimizer}, {options.steps} steps"
    figures = {"range_test": plotting.training_curves([panel], title)}
    return Report(sentences, [table], figures, results | {"rates": rates, "losses": losses}, rows)


def read_sweep(options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Rates and mean final losses of the optimizer in a sweep of the same task; NaN where a run diverged."""
    path, optimizer = Path(options.sweep or ""), options.optimizer
    try:
        document = store.read_document(path)
        if document["experiment"] != "tune_learning_rate":
            raise ValueError(f"it is of {document['experiment']}")
        rows = [row for row in document["runs"] if row["optimizer"] == optimizer]
        task = {**options.texture._asdict(), "objective": options.loss, "architecture": options.architecture}
        found = {**document["options"], **rows[0]}
        rates = sorted({row["learning_rate"] for row in rows})
        finals = [(row["learning_rate"], np.nan if row["diverged_at"] else row["final_loss"]) for row in rows]
        losses = [np.mean([loss for own, loss in finals if own == rate]) for rate in rates]
    except OSError as error:
        raise ValueError(f"--sweep {path} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, IndexError) as error:
        words = f": {error}" if isinstance(error, ValueError) else ""
        raise ValueError(f"--sweep {path} is not the results.json of experiments.tune_learning_rate{words}") from error
    for name, value in task.items():
        if found.get(name) != value:
            raise ValueError(f"--sweep {path} has {name} {found.get(name)}, not {value}: another task")
    if not np.isfinite(losses).any():
        raise ValueError(f"--sweep {path} has no run of {optimizer} that did not diverge")
    return np.array(rates), np.array(losses)


if __name__ == "__main__":
    experiment.main()
