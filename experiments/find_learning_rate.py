"""Can one short run find the learning rate? A range test that works, over seeds, held against the true sweep.

    python -m experiments.find_learning_rate                    Adam, 64 x 64 images, 3 seeds
    python -m experiments.find_learning_rate --preset quick     32 x 32 images, 2 seeds
    python -m experiments.find_learning_rate --optimizer sgd --high 100
    python -m experiments.find_learning_rate --sweep results/tune_learning_rate/results.json

The rate grows geometrically from `--low` to `--high` in one run (Smith, 2017), on a fresh batch each step. The loss is
smoothed over steps and averaged over seeds; the suggestion is a third of the rate at which it
is lowest: past the minimum the run is falling apart, and at it the rate is already too large to be kept for long. The
notebook tried a finder and gave up on it.

With `--sweep`, the results of `experiments.tune_learning_rate`, it prints the regret: how much higher the sweep's final
loss is at the suggested rate (between two rates, by a straight line in log-log) than at its best rate.
Takes about a minute on 2 CPU cores.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax
from rich.console import Console

import segjax
from experiments import command, folder, output, programs, settings, summary, training
from experiments.report import Report, Table, question
from segjax import plotting
from segjax.checks import check_count, check_positive
from segjax.losses import LOSSES
from segjax.models import ARCHITECTURES
from segjax.schedules import scheduled

# What the suggestion is below the rate of the lowest loss.
SAFETY = 3.0
# Width of the smoothing, as a share of the steps.
SMOOTHING = 0.03


@dataclass(frozen=True)
class Options(settings.Data):
    """Suggests a learning rate from short runs in which it grows."""

    preset: Literal["full", "quick"] = "full"
    """Defaults of all other options: the full test, or a small one."""
    image_size: int = 64
    sigma: float = 12.8
    optimizer: str = "adam"
    """One of sgd, momentum, rmsprop, adam."""
    loss: str = "mse"
    """One of mse, bce, dice."""
    architecture: str = "notebook"
    """A name of segjax.models.ARCHITECTURES, such as notebook, separate_norm or unet."""
    low: float = 1e-5
    """Rate of the first step."""
    high: float = 10.0
    """Rate of the last step."""
    steps: int = 400
    """Training steps of each run."""
    seeds: int = 3
    """Number of seeds, each a run."""
    sweep: Path | None = None
    """results.json of experiments.tune_learning_rate, to say how good the suggestion is."""
    out: Path = Path("results/find_learning_rate")


PRESETS = {
    "full": Options(),
    "quick": Options(preset="quick", image_size=32, sigma=6.4, steps=150, seeds=2),
}


def main(options: Options) -> None:
    with command.usage_errors():
        check(options)
        sweep = read_sweep(options) if options.sweep else None
    folder.claim(options)
    console = Console()
    losses = range_test(options, console)
    rates = rate_at(options, np.arange(options.steps))
    smoothed = np.stack([smooth(run) for run in losses])
    suggested, each = suggest(rates, smoothed), [suggest(rates, run[None]) for run in smoothed]
    sentences = [f"Suggested rate for {options.optimizer}: {suggested:.2g} (single seeds: {listed(each)})."]
    lowest = int(np.argmin(smoothed.mean(axis=0)))
    if not np.isfinite(smoothed.mean(axis=0)[lowest]):
        sentences = ["No suggestion: the loss is not finite from the first step; try a lower --low."]
    elif lowest in (0, options.steps - 1):
        sentences.append(f"The loss is lowest at the {'last' if lowest else 'first'} rate: widen --low to --high.")
    results: dict[str, Any] = {"experiment": "find_learning_rate", "suggested_rate": suggested, "each_seed": each}
    figures = {
        "range_test": plotting.training_curves(
            [
                plotting.Panel(
                    f"loss ({options.loss}), smoothed",
                    {f"loss, {summary.over_seeds(options)}": smoothed},
                    log=True,
                    x=rates,
                    xlabel="learning rate, growing in the run",
                    xlog=True,
                    marks={f"suggestion {suggested:.2g}": suggested},
                )
            ],
            f"Range test of {options.optimizer}, {options.steps} steps",
        )
    }
    if sweep:
        regret = regret_of(suggested, *sweep)
        results["regret"] = regret
        best = sweep[0][np.nanargmin(sweep[1])]
        if regret is None:
            sentences.append(
                f"The sweep says nothing of the suggestion: its rates end before, or diverge (best {best:g})."
            )
        else:
            sentences.append(f"Regret against the sweep, whose best rate is {best:g}: {regret:+.1%} of its final loss.")
    rows = [{"seed": seed, "suggested_rate": rate} for seed, rate in zip(settings.seeds(options), each, strict=True)]
    rows_table = [[str(row["seed"]), f"{row['suggested_rate']:.3g}"] for row in rows] + [["all", f"{suggested:.3g}"]]
    table = Table("Suggested rates", ("seed", "rate"), rows_table, f"{options.optimizer}, {options.architecture}")
    results |= {"rates": rates, "losses": losses}
    output.finish(options, results, rows, Report(question(__doc__), sentences, [table], figures), console)


def check(options: Options) -> None:
    settings.check(options)
    for name in ("low", "high"):
        check_positive(command.flag(name), getattr(options, name))
    if options.low >= options.high:
        raise ValueError(f"--low must be below --high, got {options.low:g} and {options.high:g}")
    check_count("--steps", options.steps, 10)


def rate_at(options: Options, step: Any) -> Any:
    """The rate of each step: geometric from low to high."""
    return options.low * (options.high / options.low) ** (step / (options.steps - 1))


def range_test(options: Options, console: Console) -> np.ndarray:
    """The loss at each step, (seeds, steps)."""

    def growing(low: jax.typing.ArrayLike, num_steps: int) -> optax.Schedule:
        return optax.exponential_decay(low, num_steps - 1, options.high / options.low)

    fit = segjax.make_fit(
        ARCHITECTURES[options.architecture],
        optimizer=scheduled(segjax.OPTIMIZERS[options.optimizer], growing, options.steps),
        loss=LOSSES[options.loss],
        num_steps=options.steps,
        chunk_size=programs.CHUNK_SIZE,
        **settings.texture(options),
    )
    losses = []
    with training.progress_bar(console) as progress:
        bar = progress.add_task("compiling", total=options.steps * options.seeds)
        for seed in settings.seeds(options):

            def report(_: segjax.TrainState, history: segjax.History, seed: int = seed) -> None:
                progress.update(bar, advance=len(history.loss), description=f"seed {seed}")

            losses.append(np.asarray(fit(jax.random.key(seed), options.low, report)[1].loss))
    return np.stack(losses)


def smooth(losses: np.ndarray) -> np.ndarray:
    """Log-losses averaged under a Gaussian over steps; infinite from the first loss that is not finite on."""
    end = int(np.argmax(~np.isfinite(losses))) if not np.isfinite(losses).all() else len(losses)
    steps = np.arange(end)
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / (SMOOTHING * len(losses))) ** 2)
    logs = np.log(np.maximum(losses[:end], np.finfo(np.float32).tiny))
    smoothed = np.exp(weights @ logs / weights.sum(axis=1))
    return np.concatenate([smoothed, np.full(len(losses) - end, np.inf)])


def suggest(rates: np.ndarray, smoothed: np.ndarray) -> float:
    """A third of the rate at which the mean over runs (runs, steps) is lowest."""
    return float(rates[np.argmin(smoothed.mean(axis=0))] / SAFETY)


def read_sweep(options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Rates and mean final losses of the optimizer in a sweep of the same task; NaN where a run diverged."""
    path, optimizer = Path(options.sweep or ""), options.optimizer
    try:
        document = json.loads(path.read_text())
        if document["experiment"] != "tune_learning_rate":
            raise ValueError
        rows = [row for row in document["runs"] if row["optimizer"] == optimizer]
        task = {**settings.texture(options), "objective": options.loss, "architecture": options.architecture}
        found = {**document["options"], **rows[0]}
        rates = sorted({row["learning_rate"] for row in rows})
        losses = [
            np.mean(
                [np.nan if row["diverged_at"] else row["final_loss"] for row in rows if row["learning_rate"] == rate]
            )
            for rate in rates
        ]
    except OSError as error:
        raise ValueError(f"--sweep {path} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"--sweep {path} is not the results.json of experiments.tune_learning_rate") from error
    for name, value in task.items():
        if found.get(name) != value:
            raise ValueError(f"--sweep {path} has {name} {found.get(name)}, not {value}: another task")
    if not np.isfinite(losses).any():
        raise ValueError(f"--sweep {path} has no run of {optimizer} that did not diverge")
    return np.array(rates), np.array(losses)


def regret_of(rate: float, rates: np.ndarray, losses: np.ndarray) -> float | None:
    """Relative excess of the sweep's loss at `rate`, interpolated in log-log; None outside of what the sweep knows."""
    if not rates[0] <= rate <= rates[-1]:
        return None
    loss = np.exp(np.interp(np.log(rate), np.log(rates), np.log(losses)))
    return float(loss / np.nanmin(losses) - 1) if np.isfinite(loss) else None


def listed(numbers: list[float]) -> str:
    return ", ".join(f"{number:.2g}" for number in numbers)


if __name__ == "__main__":
    command.run(main, Options, PRESETS)
