"""Training by the clock: a network gets a time, compilation included or not, and its learning rate follows the clock.

Snapshots are kept along the way and judged afterwards, outside of the clock, on held-out images in evaluation mode:
each image alone, by the running statistics of the BatchNorms. The clock decides how many steps there are: two runs
never give quite the same numbers.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

import segjax
from experiments.lab import scores, store, views
from experiments.lab.names import ARCHITECTURES
from experiments.lab.options import Images
from experiments.lab.report import Report, Table
from experiments.lab.runs import CHUNK_SIZE, Begun, held_out_of
from experiments.lab.train import in_chunks, progress_bar
from experiments.pictures import saved_models
from segjax import LOSSES, OPTIMIZERS, SCHEDULES, plotting
from segjax._checks import check_count, check_pixels, check_positive

# Shares of the time at which a snapshot is kept.
SNAPSHOTS = np.linspace(0.1, 1, 10)
# Steps of the schedule that the clock reads: more than a minute of training has.
RESOLUTION = 10_000
Generate = Callable[..., segjax.Batch]
NO_LEVELS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Options(Images):
    """For an experiment that trains by the clock."""

    batch_size: int = 4
    seconds: float = 60.0
    """Time to train, or to compile and train."""
    count_compilation: bool = True
    """The seconds include those of compiling."""
    architecture: str = "patch"
    """A network whose running statistics work: separate_norm, unet, patch or another, but not notebook."""
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

    def check(self) -> None:
        super().check()
        check_positive("--seconds", self.seconds)
        check_positive("--covered", self.covered)
        if self.covered > 1:
            raise ValueError(f"--covered must be in (0, 1], got {self.covered:g}")
        check_count("--held-out", self.held_out, 1)
        check_pixels("the held-out images, --held-out * --image-size^2,", self.held_out * self.image_size**2)
        if ARCHITECTURES[self.architecture].batch_statistics:
            raise ValueError(
                "--architecture must have running statistics that work; those of a shared BatchNorm do not"
            )
        saved_models.check_export(self.export_torch, self.architecture)


class Snapshot(NamedTuple):
    """A network on its way: the clock in seconds, the steps done, the mean loss since the snapshot before."""

    seconds: float
    step: int
    loss: float
    variables: dict[str, Any]


def train(options: Options, generate: Generate, console: Console) -> list[Snapshot]:
    """Compiles and trains until the clock says so, from where an interrupted command was.

    Args:
        generate: key -> Batch.
    """
    start = time.perf_counter()
    chosen: dict[str, Any] = {"optimizer": OPTIMIZERS[options.optimizer], "loss": LOSSES[options.loss]}
    fit = segjax.make_fit(ARCHITECTURES[options.architecture], generate=generate, chunk_size=CHUNK_SIZE, **chosen)
    rate_at = SCHEDULES[options.schedule](options.learning_rate, RESOLUTION)
    key, names = jax.random.key(options.seed), [f"{store.CLOCK}seed{options.seed}"]
    store.announce_runs(options.out, names)
    with progress_bar(console) as progress:
        bar = progress.add_task("compiling", total=round(options.seconds))
        fit.compile(key, options.learning_rate)
        compiled, shots = time.perf_counter() - start if options.count_compilation else 0.0, []
        template = jax.eval_shape(fit.init, key, options.learning_rate)
        if found := store.read_begun(options.out, names, template):
            # A second compilation is not on the clock: the seconds of the first, and those since, are in the file.
            begun, notes = found
            compiled = float(notes["compiled"])
            for _, shot in sorted(notes.get("shots", {}).items()):
                shots.append(
                    Snapshot(float(shot["seconds"]), int(shot["step"]), float(shot["loss"]), shot["variables"])
                )
        else:
            begun = Begun(fit.init(key, options.learning_rate), [], compiled)
        losses = [float(loss) for chunk in begun.chunks for loss in chunk.loss]
        # What is resumed at its very end must not make one more chunk.
        before, chunk_seconds = begun.seconds, float(found[1]["chunk_seconds"]) if found else 0.0

        def chunk(begun: Begun) -> tuple[segjax.TrainState, segjax.History] | None:
            # The next chunk is expected to take as long as the last: the clock is not overrun by more than noise.
            if losses and begun.seconds + chunk_seconds >= options.seconds:
                return None
            # The schedule covers what is left after compiling.
            share = (begun.seconds - compiled) / max(options.seconds - compiled, 1e-9)
            rate = rate_at(int(options.covered * min(share, 1.0) * (RESOLUTION - 1)))
            return fit.advance(key, begun.state, jnp.asarray(rate, float), CHUNK_SIZE)

        def look(begun: Begun) -> None:
            nonlocal before, chunk_seconds
            seconds, step = begun.seconds, int(begun.state.step)
            losses.extend(np.asarray(begun.chunks[-1].loss).tolist())
            before, chunk_seconds = seconds, seconds - before
            progress.update(bar, completed=int(seconds), description=f"step {step}: loss {losses[-1]:.4f}")
            # The last snapshot is that of the last chunk: the next would end too late.
            if (seconds + chunk_seconds) / options.seconds >= SNAPSHOTS[min(len(shots), len(SNAPSHOTS) - 1)]:
                since = float(np.mean(losses[shots[-1].step if shots else 0 :]))
                shots.append(Snapshot(seconds, step, since, jax.device_get(begun.state.variables)))

        def save(begun: Begun) -> None:
            numbered = {f"{index:02}": shot for index, shot in enumerate(shots)}
            notes = {"compiled": compiled, "chunk_seconds": chunk_seconds, "shots": numbered}
            store.write_begun(options.out, names, begun, notes)

        in_chunks(begun, chunk, look, save, options.checkpoint_seconds, save_end=True)
    return shots


def judge(options: Options, snapshots: list[Snapshot], generate: Generate, console: Console) -> list[dict[str, Any]]:
    """Every snapshot on the same held-out images, with the running statistics: images cannot help one another.

    Args:
        generate: (key, batch_size=...) -> Batch.
    """
    model = ARCHITECTURES[options.architecture]
    # At most 16 images at a time, and no image left over.
    batch_size = math.gcd(options.held_out, 16)
    drawn, batches = partial(generate, batch_size=batch_size), options.held_out // batch_size
    evaluate = jax.jit(partial(held_out_of, model, drawn, batches))
    rows = []
    with progress_bar(console) as progress:
        for shot in progress.track(snapshots, description="judging the snapshots"):
            judged = {name: float(number) for name, number in scores.held_out(evaluate(shot.variables)).items()}
            rows.append({"seconds": shot.seconds, "step": shot.step, "loss": shot.loss, **judged})
    return rows


def report(
    options: Options,
    findings: list[str],
    figures: dict[str, Figure],
    snapshots: list[Snapshot],
    rows: list[dict[str, Any]],
    trained_on: dict[str, Any],
) -> Report:
    """What both questions report alike: quality over time, and the last network as a file."""
    variables, losses = snapshots[-1].variables, np.array([shot.loss for shot in snapshots])
    diverged = bool(scores.diverged_at(losses, variables["params"]))
    files = saved_models.files(options.architecture, variables, trained_on, options.export_torch, diverged)
    # The first says how long it trained. The others propose to use the network, which is of no use.
    findings = findings[:1] if diverged else findings
    tables = [_table(rows), views.distance_table(rows[-1])]
    return Report(findings, tables, figures, {"snapshots": rows}, rows, warnings(options, rows, diverged), files)


def warnings(options: Options, rows: list[dict[str, Any]], diverged: bool) -> list[str]:
    """Says why a training came to nothing, where it did."""
    if diverged:
        return [saved_models.DIVERGED]
    if rows[-1]["step"] <= CHUNK_SIZE:
        spent = "went into compiling" if options.count_compilation else f"went into the first {CHUNK_SIZE} steps"
        return [f"Nearly all of the time {spent}: give it more --seconds."]
    return []


def quality_figures(
    options: Options, rows: list[dict[str, Any]], title: str, levels: Mapping[str, float] = NO_LEVELS
) -> dict[str, Figure]:
    """Held-out error over time, logarithmic: what is left to gain shows at its end, and beside it what is possible.

    A single snapshot, as a time that is too short leaves, makes no figure.
    """
    if len(rows) < 2:
        return {}
    x = np.array([row["seconds"] for row in rows])
    curves = {
        f"1 - {scores.COLUMNS[name].heading}": 1 - np.array([row[name] for row in rows]) for name in ("accuracy", "iou")
    }
    ylabel = "held-out error (share of pixels)"
    xlabel = "time since the start (s)" if options.count_compilation else "time of training (s)"
    panel = plotting.Panel(ylabel, curves, log=True, x=x, xlabel=xlabel, horizontal_lines=levels)
    return {"quality_over_time": plotting.training_curves([panel], title)}


def predictions(options: Options, snapshots: list[Snapshot], batch: segjax.Batch, title: str) -> Figure:
    """One held-out image as the first, the middle and the last snapshot see it."""
    shots = [snapshots[index] for index in dict.fromkeys([0, len(snapshots) // 2, len(snapshots) - 1])]
    model = ARCHITECTURES[options.architecture]
    seen = {f"after {shot.seconds:.0f} s": views.probability(model, shot.variables, batch) for shot in shots}
    return views.look(batch, seen, title)


def _table(rows: list[dict[str, Any]]) -> Table:
    cells = [
        [f"{row['seconds']:.1f}", f"{row['step']}", *(f"{row[name]:.4f}" for name in ("loss", "accuracy", "iou"))]
        for row in rows
    ]
    note = "Loss: mean since the row before. Accuracy and IoU: held-out images in evaluation mode."
    return Table("Quality over time", ("seconds", "step", "training loss", "accuracy", "IoU"), cells, note)
