"""Which optimizer trains the notebook's network best? SGD, SGD with momentum, RMSprop and Adam at one learning rate.

    python -m experiments.compare_optimizers                    the notebook's protocol, over 3 seeds
    python -m experiments.compare_optimizers --preset quick     64 x 64, 100 iterations

Runs of one seed are paired: the same initial weights and the same images for every optimizer. The notebook made one
run each and called a second momentum run "SGD". Expect Adam and RMSprop to be equal at its rate of 0.001, momentum
well behind and plain SGD far behind: that is a statement about this one rate, which was tuned for Adam.

On 2 CPU cores, an iteration takes 0.07 to 0.17 s: 15 to 35 minutes for the whole, about a minute for the quick preset.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

import segjax
from experiments import command, output
from segjax import metrics, plotting
from segjax.checks import check_count, check_positive

# Held-out images: the same for every optimizer and every seed.
HELD_OUT_KEY, HELD_OUT_BATCHES = 20240130, 16
# Steps between two looks at the progress.
CHUNK_SIZE = 10
HEADINGS = {
    "loss": "running-mean loss",
    "agreement": "agreement",
    "accuracy": "accuracy",
    "iou": "IoU",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class Options:
    """Trains the notebook's network with several optimizers, paired over seeds, and compares them."""

    preset: Literal["notebook", "quick"] = "notebook"
    """Defaults of all other options: the notebook's protocol, or a small one."""
    optimizers: tuple[str, ...] = tuple(segjax.OPTIMIZERS)
    """Any of sgd, momentum (SGD with momentum 0.9), rmsprop, adam."""
    learning_rate: float = 1e-3
    """The one rate of all optimizers."""
    iterations: int = 1000
    """Training steps of a run, each on a fresh batch."""
    batch_size: int = 8
    """Images a batch."""
    image_size: int = 128
    """Height and width of the images, in pixels."""
    sigma1: float = 0.2
    """Width of the texture inside the mask, in pixels."""
    sigma2: float = 1.2
    """Width of the texture outside the mask, in pixels."""
    sigma: float = 25.6
    """Width of the mask's smooth field, in pixels."""
    seeds: int = 3
    """Number of seeds, each a run of every optimizer."""
    seed: int = 0
    """The first seed; the others follow it."""
    out: Path = Path("results/compare_optimizers")
    """Folder for the figures, results.json and runs.csv."""
    overwrite: bool = False
    """Write into a folder that already holds files."""


PRESETS = {
    "notebook": Options(),
    "quick": Options(preset="quick", iterations=100, image_size=64, sigma=12.8),
}


def main(options: Options) -> None:
    with command.usage_errors():
        fits = prepare(options)
    output.claim(options.out, options.overwrite)
    console = Console()
    runs, states = train_all(options, fits, console)
    summary = {name: summarize([run for run in runs if run["optimizer"] == name]) for name in options.optimizers}
    console.print(table(summary, options))
    rows = [{name: value for name, value in run.items() if name != "curves"} for run in runs]
    results = {"experiment": "compare_optimizers", "runs": runs, "summary": summary}
    output.save(options.out, options, results, rows, draw(options, runs, states))
    console.print(f"Wrote curves.png, predictions.png, runs.csv and results.json to {options.out}", soft_wrap=True)


def prepare(options: Options) -> dict[str, Any]:
    """A compiled-once `fit` for each optimizer, after a check of every option."""
    for name in ("learning_rate", "sigma1", "sigma2", "sigma"):
        check_positive(command.flag(name), getattr(options, name))
    for name, minimum in (("iterations", 1), ("batch_size", 1), ("image_size", 2), ("seeds", 1), ("seed", 0)):
        check_count(command.flag(name), getattr(options, name), minimum)
    if options.seed + options.seeds > 2**32:
        raise ValueError(f"--seed must be below 2^32 - seeds, got {options.seed}")
    if not options.optimizers or len(set(options.optimizers)) < len(options.optimizers):
        raise ValueError(f"--optimizers must be different names out of: {', '.join(segjax.OPTIMIZERS)}")
    for name in options.optimizers:
        if name not in segjax.OPTIMIZERS:
            raise ValueError(f"--optimizers must be of: {', '.join(segjax.OPTIMIZERS)}; got {name!r}")
    return {
        name: segjax.make_fit(
            segjax.SegmentationCNN(),
            optimizer=segjax.OPTIMIZERS[name],
            num_steps=options.iterations,
            chunk_size=CHUNK_SIZE,
            **texture(options),
        )
        for name in options.optimizers
    }


def texture(options: Options) -> dict[str, Any]:
    names = ("batch_size", "image_size", "sigma1", "sigma2", "sigma")
    return {name: getattr(options, name) for name in names}


def train_all(
    options: Options, fits: dict[str, Any], console: Console
) -> tuple[list[dict[str, Any]], dict[str, segjax.TrainState]]:
    """Every run, with progress; and each optimizer's state after the first seed, for the picture."""
    evaluate = jax.jit(
        partial(segjax.evaluate, segjax.SegmentationCNN(), num_batches=HELD_OUT_BATCHES, **texture(options))
    )
    runs: list[dict[str, Any]] = []
    states: dict[str, segjax.TrainState] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        bar = progress.add_task("", total=len(fits) * options.seeds * options.iterations)
        for name, fit in fits.items():
            for seed in range(options.seed, options.seed + options.seeds):
                key = jax.random.key(seed)
                progress.update(bar, description=f"{name}, seed {seed}: compiling")
                fit.compile(key, options.learning_rate)
                start = time.perf_counter()
                state, history = fit(key, options.learning_rate, reporter(progress, bar, f"{name}, seed {seed}"))
                seconds = time.perf_counter() - start
                counts = evaluate(state.variables, jax.random.key(HELD_OUT_KEY))
                runs.append(describe(name, options.learning_rate, seed, history, counts, seconds))
                states.setdefault(name, state)
    return runs, states


def reporter(progress: Progress, bar: Any, label: str) -> Callable[[segjax.TrainState, segjax.History], None]:
    """Moves the bar after each chunk and shows the running loss."""
    total, steps = 0.0, 0

    def report(_: segjax.TrainState, history: segjax.History) -> None:
        nonlocal total, steps
        total, steps = total + float(history.loss.sum()), steps + len(history.loss)
        progress.update(bar, advance=len(history.loss), description=f"{label}: running loss {total / steps:.4e}")

    return report


def describe(
    optimizer: str, learning_rate: float, seed: int, history: segjax.History, counts: metrics.Counts, seconds: float
) -> dict[str, Any]:
    """One run as a row: its numbers at the end, and its curves."""
    agreement = metrics.agreement(history.counts)
    unfinite = np.flatnonzero(~np.isfinite(history.loss))
    return {
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "seed": seed,
        "loss": float(metrics.running_mean(history.loss)[-1]),
        "agreement": float(metrics.running_mean(agreement)[-1]),
        "accuracy": float(metrics.accuracy(counts)),
        "iou": float(metrics.iou(counts)),
        "precision": float(metrics.precision(counts)),
        "recall": float(metrics.recall(counts)),
        "f1": float(metrics.f1(counts)),
        "diverged_at": int(unfinite[0]) + 1 if unfinite.size else None,
        "seconds": seconds,
        "curves": {"loss": history.loss, "agreement": agreement},
    }


def summarize(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and range over seeds of each number."""
    values = {name: np.array([run[name] for run in runs]) for name in HEADINGS}
    return {name: {"mean": v.mean(), "min": v.min(), "max": v.max()} for name, v in values.items()}


def table(summary: dict[str, dict[str, dict[str, float]]], options: Options) -> Table:
    """Mean over seeds, and under it the range where there is one."""
    protocol = f"{options.iterations} iterations at learning rate {options.learning_rate:g}"
    many = options.seeds > 1
    result = Table(
        title=f"{protocol}: " + (f"mean and range of {options.seeds} seeds" if many else f"seed {options.seed} alone"),
        caption="Loss and agreement: running means while training; accuracy and IoU: held-out images.",
        box=box.SIMPLE_HEAVY,
        padding=(0, 1),
        pad_edge=False,
    )
    result.add_column("optimizer")
    for heading in HEADINGS.values():
        result.add_column(heading, justify="right")
    for name, numbers in summary.items():
        cells = [
            f"{n['mean']:{form}}" + (f"\n[dim]{n['min']:{form}}-{n['max']:{form}}[/]" if many else "")
            for n, form in zip(numbers.values(), (".4f", ".3f", ".3f", ".3f", ".0f"), strict=True)
        ]
        result.add_row(name, *cells)
    return result


def draw(options: Options, runs: list[dict[str, Any]], states: dict[str, segjax.TrainState]) -> dict[str, Any]:
    """The figures: running means with the range over seeds, and each optimizer's prediction of one held-out image."""

    def running(curve: str) -> dict[str, np.ndarray]:
        return {
            name: metrics.running_mean(np.stack([run["curves"][curve] for run in runs if run["optimizer"] == name]))
            for name in options.optimizers
        }

    panels = [
        plotting.Panel("running-mean loss (mean squared error)", running("loss"), log=True),
        plotting.Panel("running-mean agreement (share of pixels)", running("agreement")),
    ]
    seeds = f"mean and range of {options.seeds} seeds" if options.seeds > 1 else f"seed {options.seed}"
    batch = segjax.generate_data(jax.random.fold_in(jax.random.key(HELD_OUT_KEY), 0), **texture(options))
    probabilities = {
        name: jax.nn.sigmoid(segjax.predict(segjax.SegmentationCNN(), state.variables, batch.image))[0, ..., 0]
        for name, state in states.items()
    }
    return {
        "curves": plotting.training_curves(panels, f"Learning rate {options.learning_rate:g}, {seeds}"),
        "predictions": plotting.predictions(
            batch.image[0, ..., 0],
            batch.mask[0, ..., 0],
            probabilities,
            f"A held-out image after {options.iterations} iterations, seed {options.seed}",
        ),
    }


if __name__ == "__main__":
    command.run(main, Options, PRESETS)
