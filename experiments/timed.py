"""Training by the clock: a network gets a time, compilation included, and its learning rate follows the clock.

Snapshots are kept along the way and judged afterwards, outside of the clock, on held-out images in evaluation mode:
each image alone, by the running statistics of the BatchNorms. The clock decides how many steps there are: two runs
never give quite the same numbers.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import segjax
from experiments import command, folder, interruption, networks, programs, runs, settings, training
from experiments.interruption import Interrupted
from experiments.report import Table
from segjax import checkpoints, plotting
from segjax.checks import check_count, check_positive
from segjax.losses import LOSSES
from segjax.models import ARCHITECTURES
from segjax.schedules import SCHEDULES
from segjax.training import Fit

# Shares of the time at which a snapshot is kept.
SNAPSHOTS = np.linspace(0.1, 1, 10)
# Points of a schedule that is read by the clock.
RESOLUTION = 10_000
HEADINGS = {"accuracy": "accuracy", "iou": "IoU"}


@dataclass(frozen=True)
class Options(settings.Images):
    """What every experiment that trains by the clock lets its user choose."""

    batch_size: int = 4
    seconds: float = 60.0
    """Time to compile and train."""
    architecture: str = "patch"
    """A name of segjax.models.ARCHITECTURES whose running statistics work: any but notebook."""
    optimizer: str = "adam"
    """One of sgd, momentum, rmsprop, adam."""
    learning_rate: float = 1e-2
    """Peak learning rate."""
    schedule: str = "warmup_cosine"
    """How the learning rate moves with the clock: constant, exponential, cosine, warmup, warmup_cosine or one_cycle."""
    covered: float = 0.5
    """Share of the schedule that the time covers, in (0, 1]: at 0.5 a cosine ends at half its peak, at 1 at nothing."""
    loss: str = "bce"
    """One of mse, bce, dice."""
    held_out: int = 256
    """Held-out images on which each snapshot is judged, one at a time."""
    checkpoint_seconds: float = 30.0
    """Time between two savings of a network that is under way: what a crash can cost."""
    export_torch: bool = False
    """Also write the weights by PyTorch's names, model-torch.safetensors; for separate_norm and its other sizes."""


class Snapshot(NamedTuple):
    """A network on its way: the clock in seconds, the steps done, the mean loss since the snapshot before."""

    seconds: float
    step: int
    loss: float
    variables: dict[str, Any]


class Begun(NamedTuple):
    """Training under way: state, loss of each step, snapshots, the clock, and what that showed after compiling."""

    state: segjax.TrainState
    losses: list[float]
    snapshots: list[Snapshot]
    seconds: float
    compiled: float


def check(options: Options) -> None:
    settings.check(options)
    check_positive("--seconds", options.seconds)
    check_positive("--covered", options.covered)
    if options.covered > 1:
        raise ValueError(f"--covered must be in (0, 1], got {options.covered:g}")
    check_count("--held-out", options.held_out, 1)
    if getattr(ARCHITECTURES[options.architecture], "shared_norm", False):
        raise ValueError("--architecture must have running statistics that work; those of a shared BatchNorm do not")
    networks.check(options)


def train(options: Options, generate: Callable[..., segjax.Batch], console: Console) -> list[Snapshot]:
    """Compiles and trains until the clock says so, from where an interrupted command was.

    Args:
        generate: key -> Batch.
    """
    begin = time.perf_counter()
    fit = segjax.make_fit(
        ARCHITECTURES[options.architecture],
        optimizer=segjax.OPTIMIZERS[options.optimizer],
        loss=LOSSES[options.loss],
        chunk_size=programs.CHUNK_SIZE,
        generate=generate,
    )
    rate_at = SCHEDULES[options.schedule](options.learning_rate, RESOLUTION)
    key, file = jax.random.key(options.seed), _file(options)
    folder.keep(options)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TimeElapsedColumn())
    with Progress(*columns, console=console, expand=True) as progress, interruption.deferred() as signals:
        bar = progress.add_task("compiling", total=options.seconds)
        fit.compile(key, options.learning_rate)
        compiled = time.perf_counter() - begin
        state, losses, snapshots, seconds, compiled = _read(file, fit, key, options) or Begun(
            fit.init(key, options.learning_rate), [], [], compiled, compiled
        )
        # What was spent before is on the clock, and a second compilation is not.
        begin = time.perf_counter() - seconds
        saved, chunk_seconds = seconds, 0.0
        while not losses or seconds + chunk_seconds < options.seconds:
            # The schedule covers what is left after compiling.
            share = (seconds - compiled) / max(options.seconds - compiled, 1e-9)
            rate = jnp.asarray(rate_at(int(options.covered * min(share, 1.0) * (RESOLUTION - 1))), float)
            state, history = jax.block_until_ready(fit.advance(key, state, rate, programs.CHUNK_SIZE))
            losses += np.asarray(history.loss).tolist()
            seconds, before = time.perf_counter() - begin, seconds
            chunk_seconds = seconds - before
            progress.update(bar, completed=seconds, description=f"step {state.step}: loss {losses[-1]:.4f}")
            done = (seconds + chunk_seconds) / options.seconds
            if done >= SNAPSHOTS[min(len(snapshots), len(SNAPSHOTS) - 1)]:
                since = losses[snapshots[-1].step if snapshots else 0 :]
                variables = jax.device_get(state.variables)
                snapshots.append(Snapshot(seconds, int(state.step), float(np.mean(since)), variables))
            if signals or seconds - saved >= options.checkpoint_seconds:
                _write(file, Begun(jax.device_get(state), losses, snapshots, seconds, compiled))
                saved = seconds
            if signals:
                raise Interrupted(signals[0])
        # What follows can be interrupted as well, or find the disk full.
        _write(file, Begun(jax.device_get(state), losses, snapshots, seconds, compiled))
    if signals:
        raise Interrupted(signals[0])
    return snapshots


def forget(options: Options) -> None:
    """Deletes what training kept for the case that it is interrupted: once its network is saved."""
    _file(options).unlink(missing_ok=True)


def _file(options: Options) -> Path:
    return Path(options.out / folder.RUNS / f"clock-seed{options.seed}.{folder.PART}")


def _write(file: Path, begun: Begun) -> None:
    arrays = {
        "state": begun.state,
        "losses": np.array(begun.losses),
        "snapshots": {str(index): shot.variables for index, shot in enumerate(begun.snapshots)},
    }
    shots = [[shot.seconds, shot.step, shot.loss] for shot in begun.snapshots]
    checkpoints.save(file, arrays, {"snapshots": shots, "seconds": begun.seconds, "compiled": begun.compiled})


def _read(file: Path, fit: Fit, key: jax.Array, options: Options) -> Begun | None:
    """Training that was interrupted; None where there is none, and a UsageError where its file cannot be used."""
    if not file.exists():
        return None
    try:
        arrays, metadata = checkpoints.load(file)
        state = checkpoints.restore(jax.eval_shape(fit.init, key, options.learning_rate), arrays["state"])
    except ValueError as error:
        raise command.UsageError(f"{file}: {error}; delete it, or pass --overwrite") from error
    shots = [
        Snapshot(seconds, step, loss, arrays["snapshots"][str(index)])
        for index, (seconds, step, loss) in enumerate(metadata["snapshots"])
    ]
    return Begun(state, arrays["losses"].tolist(), shots, metadata["seconds"], metadata["compiled"])


def judge(
    options: Options, snapshots: list[Snapshot], generate: Callable[..., segjax.Batch], console: Console
) -> list[dict[str, Any]]:
    """Every snapshot on the same held-out images, with the running statistics: images cannot help one another.

    Args:
        generate: (key, batch_size) -> Batch.
    """
    model = ARCHITECTURES[options.architecture]
    batch_size = math.gcd(options.held_out, 16)
    batches = options.held_out // batch_size
    evaluate = jax.jit(partial(segjax.evaluate, model, num_batches=batches, generate=generate, batch_size=batch_size))
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


def warnings(rows: list[dict[str, Any]]) -> list[str]:
    """What is to be said of a training that came to nothing."""
    if not math.isfinite(rows[-1]["loss"]):
        return ["The training diverged: the network that is saved is of no use. Try a lower --learning-rate."]
    if rows[-1]["step"] <= programs.CHUNK_SIZE:
        return ["Nearly all of the time went into compiling: give it more --seconds."]
    return []


def quality_figure(rows: list[dict[str, Any]], title: str) -> Figure:
    x = np.array([row["seconds"] for row in rows])
    curves = {f"1 - {heading}": 1 - np.array([row[name] for row in rows]) for name, heading in HEADINGS.items()}
    panel = plotting.Panel("held-out error (share of pixels)", curves, True, x, "time since the start (s)")
    return plotting.training_curves([panel], title)


def predictions(options: Options, snapshots: list[Snapshot], batch: segjax.Batch, title: str) -> Figure:
    """One held-out image as the first, the middle and the last snapshot see it."""
    model = ARCHITECTURES[options.architecture]
    seen = {}
    for shot in dict.fromkeys([0, len(snapshots) // 2, len(snapshots) - 1]):
        logits = segjax.predict(model, snapshots[shot].variables, batch.image[:1])
        seen[f"after {snapshots[shot].seconds:.0f} s"] = np.asarray(jax.nn.sigmoid(logits))[0, ..., 0]
    return plotting.predictions(batch.image[0, ..., 0], batch.mask[0, ..., 0], seen, title)
