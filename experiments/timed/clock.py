"""Training for a fixed time, with or without that of compilation; the learning rate follows the clock.

Snapshots are taken along the way and judged when the clock has stopped, on held-out images in evaluation mode: each
image alone, by the running statistics of the BatchNorms. The clock decides on the number of steps: two runs never give
quite the same numbers.
"""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import segjax
from experiments.lab import arms, figures
from experiments.lab.folder import CLOCK
from experiments.lab.names import ARCHITECTURES
from experiments.lab.options import Group, check_name, check_training, flag
from experiments.lab.programs import CHUNK_SIZE, held_out_of
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report, Table
from experiments.lab.runs import PartialRun
from experiments.lab.train import in_chunks
from experiments.pictures import saved_models, views
from segjax import LOSSES, OPTIMIZERS, SCHEDULES, plotting
from segjax._checks import check_count, check_pixels, check_positive

# Shares of the time at which a snapshot is taken.
SNAPSHOTS = np.linspace(0.1, 1, 10)
# Steps of the schedule that the clock follows: more than the steps of a minute of training.
RESOLUTION = 10_000
Generate = Callable[..., segjax.Batch]


@dataclass(frozen=True, kw_only=True)
class Timed(Group):
    """How a network is trained by the clock."""

    #: Time to train, or to compile and train.
    seconds: float = 60.0
    #: Training steps, instead of seconds: then a second run has the same result.
    steps: int | None = None
    #: The seconds include the compilation.
    count_compilation: bool = True
    #: A network whose running statistics work: separate_norm, unet, patch or another, but not notebook.
    architecture: str = "patch"
    #: One of sgd, momentum, rmsprop, adam.
    optimizer: str = "adam"
    #: Peak learning rate.
    learning_rate: float = 1e-2
    #: How the learning rate moves with the clock: constant, exponential, cosine, warmup, warmup_cosine or one_cycle.
    schedule: str = "warmup_cosine"
    #: Share of the schedule that the time covers, in (0, 1]: at 0.5 a cosine ends at half its peak, at 1 at 0.
    covered: float = 0.5
    #: One of mse, bce, dice.
    loss: str = "bce"
    #: Held-out images on which each snapshot is judged, one at a time.
    held_out: int = 256
    #: Seconds between checkpoints; a crash loses at most this much.
    checkpoint_seconds: float = 30.0
    #: Also write the weights under PyTorch's names, model-torch.safetensors; for separate_norm and its other sizes.
    export_torch: bool = False

    def check(self) -> None:
        check_training(self.optimizer, self.loss, self.architecture)
        check_name("--schedule", self.schedule, SCHEDULES)
        for name in ("learning_rate", "checkpoint_seconds", "seconds", "covered"):
            check_positive(flag(name), getattr(self, name))
        if self.steps is not None:
            check_count("--steps", self.steps, 1)
        if self.covered > 1:
            raise ValueError(f"--covered must be in (0, 1], got {self.covered:g}")
        check_count("--held-out", self.held_out, 1)
        # The running statistics of a shared BatchNorm do not work.
        known = [name for name, network in ARCHITECTURES.items() if not network.batch_statistics]
        check_name("--architecture", self.architecture, known)
        saved_models.check_export(self.export_torch, self.architecture, known)

    def check_held_out(self, image_size: int) -> None:
        """Raises a ValueError if a program cannot count so many held-out pixels."""
        check_pixels("the held-out images, --held-out * --image-size^2,", self.held_out * image_size**2)


class Snapshot(NamedTuple):
    """A network in training: seconds on the clock, steps done, mean loss since the previous snapshot, variables."""

    seconds: float
    step: int
    loss: float
    variables: dict[str, Any]


@dataclass
class TimedRun:
    """A run in progress, and its clock.

    Attributes:
        start_seconds: on the clock when the training began.
        seconds: on the clock after the last chunk, which took `chunk_seconds`.
        steps: done so far.
        snapshots: in the order of their steps.
    """

    timed: Timed
    start_seconds: float
    seconds: float
    chunk_seconds: float = 0.0
    steps: int = 0
    snapshots: list[Snapshot] = field(default_factory=list)

    @classmethod
    def resumed(cls, timed: Timed, partial_run: PartialRun, notes: Mapping[str, Any]) -> "TimedRun":
        """The run of a checkpoint; the time of the second compilation does not count."""
        snapshots = [
            Snapshot(float(shot["seconds"]), int(shot["step"]), float(shot["loss"]), shot["variables"])
            for _, shot in sorted(notes.get("shots", {}).items())
        ]
        start_seconds, chunk_seconds = float(notes["compiled"]), float(notes["chunk_seconds"])
        return cls(timed, start_seconds, partial_run.seconds, chunk_seconds, partial_run.steps, snapshots)

    @property
    def notes(self) -> dict[str, Any]:
        """The notes that `resumed` takes."""
        numbered = {f"{index:02}": snapshot for index, snapshot in enumerate(self.snapshots)}
        return {"compiled": self.start_seconds, "chunk_seconds": self.chunk_seconds, "shots": numbered}

    @property
    def share(self) -> float:
        """The share of the steps that are done, or of the training time, without compilation, that has passed."""
        if self.timed.steps:
            return self.steps / self.timed.steps
        return min((self.seconds - self.start_seconds) / max(self.timed.seconds - self.start_seconds, 1e-9), 1.0)

    @property
    def is_over(self) -> bool:
        """Whether all steps are done, or another chunk would end too late, so that only noise overruns the time."""
        if self.timed.steps:
            return self.steps >= self.timed.steps
        return bool(self.steps) and self.seconds + self.chunk_seconds >= self.timed.seconds

    def add_chunk(self, partial_run: PartialRun) -> None:
        """Adds the last chunk of a run, and takes a snapshot if one is due."""
        self.chunk_seconds, self.seconds = partial_run.seconds - self.seconds, partial_run.seconds
        self.steps = partial_run.steps
        due = SNAPSHOTS[min(len(self.snapshots), len(SNAPSHOTS) - 1)]
        # Compared with the end of the next chunk: then the last chunk has a snapshot. The last step is known.
        end = self.share if self.timed.steps else (self.seconds + self.chunk_seconds) / self.timed.seconds
        if end >= due - 1e-9:
            losses = partial_run.history.loss
            loss = float(np.mean(losses[self.snapshots[-1].step if self.snapshots else 0 :].astype(float)))
            variables = jax.device_get(partial_run.state.variables)
            self.snapshots.append(Snapshot(self.seconds, self.steps, loss, variables))


def train(timed: Timed, seed: int, generate: Generate, lab: Lab) -> list[Snapshot]:
    """Compiles and trains until the time is up; resumes from the checkpoint of an interrupted command.

    Args:
        generate: key -> Batch.
    """
    start = time.perf_counter()
    objective: dict[str, Any] = {"optimizer": OPTIMIZERS[timed.optimizer], "loss": LOSSES[timed.loss]}
    fit = segjax.make_fit(ARCHITECTURES[timed.architecture], generate=generate, chunk_size=CHUNK_SIZE, **objective)
    rate_at = SCHEDULES[timed.schedule](timed.learning_rate, RESOLUTION)
    key, names = jax.random.key(seed), [f"{CLOCK}seed{seed}"]
    lab.folder.announce_runs(names)
    with lab.progress() as progress:
        bar = progress.add_task("compiling", total=timed.steps or round(timed.seconds))
        fit.compile(key, timed.learning_rate)
        start_seconds = time.perf_counter() - start if timed.count_compilation else 0.0
        template = jax.eval_shape(fit.init, key, timed.learning_rate)
        if checkpoint := lab.folder.read_partial(names, template):
            partial_run, run = checkpoint[0], TimedRun.resumed(timed, *checkpoint)
        else:
            partial_run = PartialRun(fit.init(key, timed.learning_rate), start_seconds)
            run = TimedRun(timed, start_seconds, start_seconds)

        def chunk(current: PartialRun) -> tuple[segjax.TrainState, segjax.History] | None:
            if run.is_over:
                return None
            rate = rate_at(int(timed.covered * run.share * (RESOLUTION - 1)))
            steps = min(CHUNK_SIZE, (timed.steps or sys.maxsize) - run.steps)
            return fit.advance(key, current.state, jnp.asarray(rate, float), steps)

        def after_chunk(current: PartialRun) -> None:
            run.add_chunk(current)
            description = f"step {run.steps}: loss {current.history.loss[-1]:.4f}"
            completed = run.steps if timed.steps else int(run.seconds)
            progress.update(bar, completed=completed, description=description)

        def save(current: PartialRun) -> None:
            lab.folder.write_partial(names, current, run.notes)

        in_chunks(partial_run, chunk, after_chunk, save, timed.checkpoint_seconds, save_end=True)
    return run.snapshots


def evaluate(timed: Timed, snapshots: Sequence[Snapshot], generate: Generate, lab: Lab) -> list[dict[str, Any]]:
    """One row per snapshot: its scores on the same held-out images, each alone by the running statistics.

    Args:
        generate: (key, batch_size=...) -> Batch.
    """
    # Batches of at most 16 images, all of one size.
    batch_size = math.gcd(timed.held_out, 16)
    draw, num_batches = partial(generate, batch_size=batch_size), timed.held_out // batch_size
    held_out = jax.jit(partial(held_out_of, ARCHITECTURES[timed.architecture], draw, num_batches))
    rows = []
    with lab.progress() as progress:
        for shot in progress.track(snapshots, description="evaluating the snapshots"):
            scores = {name: float(number) for name, number in arms.held_out(held_out(shot.variables)).items()}
            rows.append({"seconds": shot.seconds, "step": shot.step, "loss": shot.loss, **scores})
    return rows


def report(
    timed: Timed,
    findings: Sequence[str],
    drawings: Mapping[str, Drawing],
    snapshots: Sequence[Snapshot],
    rows: Sequence[dict[str, Any]],
    trained_on: Mapping[str, Any],
) -> Report:
    """The report of either question: quality over time, and the last network as a file."""
    variables, losses = snapshots[-1].variables, np.array([shot.loss for shot in snapshots])
    diverged = bool(arms.diverged_at(losses, variables["params"]))
    return Report(
        # The first describes the training. The others propose to use the network, which is of no use.
        findings[:1] if diverged else findings,
        [_table(rows), views.distance_table(rows[-1])],
        drawings,
        results={"snapshots": rows},
        rows=rows,
        warnings=warnings(timed, rows, diverged),
        files=saved_models.files(timed.architecture, variables, trained_on, timed.export_torch, diverged),
    )


def warnings(timed: Timed, rows: Sequence[Mapping[str, Any]], diverged: bool) -> list[str]:
    """The reason why the training failed, if it did."""
    if diverged:
        return [saved_models.DIVERGED]
    if timed.steps is None and rows[-1]["step"] <= CHUNK_SIZE:
        activity = "compiling" if timed.count_compilation else f"the first {CHUNK_SIZE} steps"
        return [f"Nearly all of the time went into {activity}: give it more --seconds."]
    return []


def quality_drawings(
    timed: Timed, rows: Sequence[Mapping[str, Any]], title: str, lines: Mapping[str, float] | None = None
) -> dict[str, Drawing]:
    """Held-out error over time, logarithmic to show late gains; empty for a single snapshot.

    Args:
        lines: label -> error, drawn for comparison.
    """
    if len(rows) < 2:
        return {}
    x = np.array([row["seconds"] for row in rows])
    curves = {
        f"1 - {arms.COLUMNS[name].heading}": 1 - np.array([row[name] for row in rows]) for name in ("accuracy", "iou")
    }
    ylabel = "held-out error (share of pixels)"
    xlabel = "time since the start (s)" if timed.count_compilation else "time of training (s)"
    panel = plotting.Panel(ylabel, curves, log=True, x=x, xlabel=xlabel, horizontal_lines=lines or {})
    return {"quality_over_time": Drawing("Held-out error over time", plotting.training_curves([panel], title))}


def predictions(timed: Timed, snapshots: Sequence[Snapshot], batch: segjax.Batch, title: str) -> Drawing:
    """The predictions of the first, the middle and the last snapshot for one held-out image."""
    shots = [snapshots[index] for index in dict.fromkeys([0, len(snapshots) // 2, len(snapshots) - 1])]
    model = ARCHITECTURES[timed.architecture]
    arrays = {f"after {shot.seconds:.0f} s": figures.probability(model, shot.variables, batch) for shot in shots}
    return Drawing("A held-out image and its predictions", views.beside_mask(batch, arrays, title))


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    cells = [
        [f"{row['seconds']:.1f}", f"{row['step']}", *(f"{row[name]:.4f}" for name in ("loss", "accuracy", "iou"))]
        for row in rows
    ]
    note = "Loss: mean over the steps since the previous row. Accuracy and IoU: held-out images in evaluation mode."
    return Table("Quality over time", ("seconds", "step", "training loss", "accuracy", "IoU"), cells, note)
