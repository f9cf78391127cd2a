"""With a limited training time, what is the best model? 60 seconds, compilation included, on the device that is here.

    python -m experiments.train_best_model                    60 seconds at the notebook's sizes
    python -m experiments.train_best_model --seconds 300
    python -m experiments.train_best_model --preset quick     10 seconds on 32 x 32 images

The clock starts before the training program is compiled and stops after the last step; the learning rate follows the
clock, so that it has come down when the time is up, whatever the machine's speed. Snapshots are kept along the way and
judged afterwards, outside of the clock, on held-out images in evaluation mode: each image alone, by the running
statistics of the BatchNorms. The model that is saved is the last one.

The clock decides how many steps there are: two runs never give quite the same numbers.
"""

import math
import shlex
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import segjax
from experiments import command, folder, output, programs, runs, settings, training
from experiments.report import Report, Table, question
from segjax import plotting
from segjax.checks import check_count, check_positive
from segjax.losses import LOSSES
from segjax.models import ARCHITECTURES
from segjax.schedules import SCHEDULES

MODEL = "model.safetensors"
# Shares of the time at which a snapshot is kept.
SNAPSHOTS = np.linspace(0.1, 1, 10)
# Points of a schedule that is read by the clock.
RESOLUTION = 10_000
GOALS = {"accuracy": 0.993, "iou": 0.987}


@dataclass(frozen=True)
class Options(settings.Data):
    """Trains the best model that a time allows."""

    preset: Literal["full", "quick"] = "full"
    """Defaults of all other options: the full time, or a short one."""
    seconds: float = 60.0
    """Time to compile and train."""
    batch_size: int = 4
    architecture: str = "patch"
    """A name of segjax.models.ARCHITECTURES whose running statistics work: any but notebook."""
    optimizer: str = "adam"
    """One of sgd, momentum, rmsprop, adam."""
    learning_rate: float = 1e-2
    """Peak learning rate."""
    schedule: str = "warmup_cosine"
    """How the learning rate moves with the clock: constant, exponential, cosine, warmup, warmup_cosine or one_cycle."""
    covered: float = 1.0
    """Share of the schedule that the time covers, in (0, 1]: at 0.5 a cosine ends at half its peak."""
    loss: str = "bce"
    """One of mse, bce, dice."""
    held_out: int = 256
    """Held-out images on which each snapshot is judged, one at a time."""
    out: Path = Path("results/train_best_model")


PRESETS = {
    "full": Options(),
    "quick": Options(preset="quick", seconds=10.0, image_size=32, sigma=6.4, held_out=128),
}


class Snapshot(NamedTuple):
    """A network on its way: the clock in seconds, the steps done, the mean loss since the snapshot before."""

    seconds: float
    step: int
    loss: float
    variables: dict[str, Any]


def main(options: Options) -> None:
    with command.usage_errors():
        check(options)
    folder.claim(options)
    console = Console()
    snapshots = train(options, console)
    rows = judge(options, snapshots, console)
    runs.save_model(options.out / MODEL, options.architecture, snapshots[-1].variables, settings.texture(options))
    last, size = rows[-1], f"{options.image_size} x {options.image_size}"
    title = (
        f"{options.architecture}, {options.optimizer} at {options.learning_rate:g}, {options.schedule}, {size} images"
    )
    headings = {"accuracy": "accuracy", "iou": "IoU"}
    reached = [f"{headings[name]} {last[name]:.4f} (goal {goal:g})" for name, goal in GOALS.items()]
    use = shlex.join(["python", "-m", "experiments.inspect_layers", "--model", str(options.out / MODEL)])
    sentences = [
        f"After {last['seconds']:.1f} s, {snapshots[-1].step} steps: {', '.join(reached)}, in evaluation mode, on "
        f"{options.held_out} held-out images. The goals are for 128 x 128 images and 60 s on 2 CPU cores.",
        f"The model is saved; look inside it with: {use}",
    ]
    figures = {"quality_over_time": quality_figure(rows, title), "predictions": predictions(options, snapshots)}
    report = Report(question(__doc__), sentences, [table(rows)], figures)
    output.finish(options, {"experiment": "train_best_model", "snapshots": rows}, rows, report, console)


def check(options: Options) -> None:
    settings.check(options)
    check_positive("--seconds", options.seconds)
    check_positive("--covered", options.covered)
    if options.covered > 1:
        raise ValueError(f"--covered must be in (0, 1], got {options.covered:g}")
    check_count("--held-out", options.held_out, 1)
    if getattr(ARCHITECTURES[options.architecture], "shared_norm", False):
        raise ValueError("--architecture must have running statistics that work; those of a shared BatchNorm do not")


def train(options: Options, console: Console) -> list[Snapshot]:
    """Compiles and trains until the clock says so."""
    begin = time.perf_counter()
    fit = segjax.make_fit(
        ARCHITECTURES[options.architecture],
        optimizer=segjax.OPTIMIZERS[options.optimizer],
        loss=LOSSES[options.loss],
        chunk_size=programs.CHUNK_SIZE,
        **settings.texture(options),
    )
    rate_at = SCHEDULES[options.schedule](options.learning_rate, RESOLUTION)
    key = jax.random.key(options.seed)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TimeElapsedColumn())
    snapshots: list[Snapshot] = []
    with Progress(*columns, console=console, expand=True) as progress:
        bar = progress.add_task("compiling", total=options.seconds)
        fit.compile(key, options.learning_rate)
        state = fit.init(key, options.learning_rate)
        losses: list[float] = []
        started = now = time.perf_counter()
        chunk_seconds = 0.0
        while not losses or now - begin + chunk_seconds < options.seconds:
            # The schedule covers what is left after compiling.
            share = (now - started) / max(begin + options.seconds - started, 1e-9)
            rate = jnp.asarray(rate_at(int(options.covered * share * (RESOLUTION - 1))), float)
            state, history = jax.block_until_ready(fit.advance(key, state, rate, programs.CHUNK_SIZE))
            losses += np.asarray(history.loss).tolist()
            now, before = time.perf_counter(), now
            chunk_seconds = now - before
            progress.update(bar, completed=now - begin, description=f"step {state.step}: loss {losses[-1]:.4f}")
            done = (now - begin + chunk_seconds) / options.seconds
            if done >= SNAPSHOTS[min(len(snapshots), len(SNAPSHOTS) - 1)]:
                since = losses[snapshots[-1].step if snapshots else 0 :]
                variables = jax.device_get(state.variables)
                snapshots.append(Snapshot(now - begin, int(state.step), float(np.mean(since)), variables))
    return snapshots


def judge(options: Options, snapshots: list[Snapshot], console: Console) -> list[dict[str, Any]]:
    """Every snapshot on the same held-out images, with the running statistics: images cannot help one another."""
    model = ARCHITECTURES[options.architecture]
    texture = {**settings.texture(options), "batch_size": math.gcd(options.held_out, 16)}
    batches = options.held_out // texture["batch_size"]
    evaluate = jax.jit(partial(segjax.evaluate, model, num_batches=batches, **texture))
    key = jax.random.key(programs.HELD_OUT_KEY)
    rows = []
    with training.progress_bar(console) as progress:
        for shot in progress.track(snapshots, description="judging the snapshots"):
            counts = evaluate(shot.variables, key)
            scores = {name: float(metric(counts)) for name, metric in runs.METRICS.items()}
            rows.append({"seconds": shot.seconds, "step": shot.step, "loss": shot.loss, **scores})
    return rows


def table(rows: list[dict[str, Any]]) -> Table:
    cells = [
        [f"{row['seconds']:.1f}", f"{row['step']}", f"{row['loss']:.4f}", f"{row['accuracy']:.4f}", f"{row['iou']:.4f}"]
        for row in rows
    ]
    note = "Loss: mean since the row before. Accuracy and IoU: held-out images in evaluation mode."
    return Table("Quality over time", ("seconds", "step", "training loss", "accuracy", "IoU"), cells, note)


def quality_figure(rows: list[dict[str, Any]], title: str) -> Figure:
    x = np.array([row["seconds"] for row in rows])
    errors = {name: 1 - np.array([row[name] for row in rows]) for name in GOALS}
    curves = {"1 - accuracy": errors["accuracy"], "1 - IoU": errors["iou"]}
    panel = plotting.Panel("held-out error (share of pixels)", curves, True, x, "time since the start (s)")
    return plotting.training_curves([panel], title)


def predictions(options: Options, snapshots: list[Snapshot]) -> Figure:
    """One held-out image as the first, the middle and the last snapshot see it."""
    model = ARCHITECTURES[options.architecture]
    batch = programs.held_out_batch(settings.texture(options))
    seen = {}
    for shot in dict.fromkeys([0, len(snapshots) // 2, len(snapshots) - 1]):
        logits = segjax.predict(model, snapshots[shot].variables, batch.image[:1])
        seen[f"after {snapshots[shot].seconds:.0f} s"] = np.asarray(jax.nn.sigmoid(logits))[0, ..., 0]
    return plotting.predictions(batch.image[0, ..., 0], batch.mask[0, ..., 0], seen, "A held-out image")


if __name__ == "__main__":
    command.run(main, Options, PRESETS)
