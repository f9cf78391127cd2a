"""Training runs: what one is, how many are trained with progress, and where finished ones are kept.

Each finished run is a file under `runs/` in the folder of results, so that an interrupted command loses only the run
that it was in: the same command goes on from there.
"""

import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import segjax
from experiments import command, output, settings
from segjax import checkpoints, metrics
from segjax.losses import LOSSES
from segjax.models import ARCHITECTURES, from_config, to_config
from segjax.schedules import SCHEDULES, scheduled

# Held-out images: the same for every run.
HELD_OUT_KEY, HELD_OUT_BATCHES = 20240130, 16
# Steps between two looks at the progress.
CHUNK_SIZE = 10
METRICS = {
    "accuracy": metrics.accuracy,
    "iou": metrics.iou,
    "precision": metrics.precision,
    "recall": metrics.recall,
    "f1": metrics.f1,
}


class Run(NamedTuple):
    """One training run, by names and numbers alone; `label` is what people call it, the same for all its seeds."""

    label: str
    seed: int
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    iterations: int = 1000
    schedule: str = "constant"
    objective: str = "mse"
    architecture: str = "notebook"


class Result(NamedTuple):
    """A finished run: its curves (iterations,), and what it scores on held-out images.

    `counts` are those of `segjax.predict`, `running_counts` those with the running statistics of the BatchNorms;
    `losses` are the mean of each loss of `LOSSES` on the same images. `seconds` is training alone, compiled.
    """

    run: Run
    history: segjax.History
    variables: dict[str, Any]
    counts: metrics.Counts
    running_counts: metrics.Counts
    losses: dict[str, float]
    seconds: float


def train_all(runs: Sequence[Run], options: settings.Training, console: Console) -> list[Result]:
    """Every run, in order, with progress; those that `options.out` already holds are read from there."""
    (options.out / output.RUNS).mkdir(exist_ok=True)
    results: list[Result] = []
    texture = settings.texture(options)
    with progress_bar(console) as progress:
        bar = progress.add_task("", total=sum(run.iterations for run in runs))
        for run in runs:
            file = path(options, run)
            if file.exists():
                result = read(file, run, texture)
                progress.update(bar, advance=run.iterations)
            else:
                result = train(run, texture, progress, bar)
                write(file, result, texture)
            results.append(result)
    return results


def path(options: settings.Training, run: Run) -> Path:
    """Where a finished run is kept."""
    return options.out / output.RUNS / f"{run.label.replace(' ', '-')}-seed{run.seed}.safetensors"


def progress_bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, expand=True)


def train(
    run: Run,
    texture: dict[str, Any],
    progress: Progress,
    bar: Any,
    watch: Callable[[segjax.TrainState, segjax.History], None] | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> Result:
    """One run, after compiling it; `watch` is called after every chunk."""
    key, name = jax.random.key(run.seed), f"{run.label}, seed {run.seed}"
    progress.update(bar, description=f"{name}: compiling")
    fit = program(run, texture, chunk_size)
    fit.compile(key, run.learning_rate)
    total, steps = 0.0, 0

    def report(state: segjax.TrainState, history: segjax.History) -> None:
        nonlocal total, steps
        total, steps = total + float(history.loss.sum()), steps + len(history.loss)
        progress.update(bar, advance=len(history.loss), description=f"{name}: running loss {total / steps:.4e}")
        if watch:
            watch(state, history)

    start = time.perf_counter()
    state, history = jax.block_until_ready(fit(key, run.learning_rate, report))
    seconds = time.perf_counter() - start
    progress.update(bar, description=f"{name}: evaluating")
    scores = jax.device_get(_evaluation(run.architecture, tuple(texture.items()))(state.variables))
    losses = {loss: float(value) for loss, value in scores[2].items()}
    return Result(run, history, jax.device_get(state.variables), scores[0], scores[1], losses, seconds)


def program(run: Run, texture: dict[str, Any], chunk_size: int = CHUNK_SIZE) -> segjax.training.Fit:
    """The training program of a run, compiled once for all the seeds and rates that use it."""
    shared = run._replace(label="", seed=0, learning_rate=0.0)
    return _program(shared, tuple(texture.items()), min(chunk_size, run.iterations))


@cache
def _program(run: Run, texture: tuple[tuple[str, Any], ...], chunk_size: int) -> segjax.training.Fit:
    optimizer = segjax.OPTIMIZERS[run.optimizer]
    if run.schedule != "constant":
        optimizer = scheduled(optimizer, SCHEDULES[run.schedule], run.iterations)
    return segjax.make_fit(
        ARCHITECTURES[run.architecture],
        optimizer=optimizer,
        loss=LOSSES[run.objective],
        num_steps=run.iterations,
        chunk_size=chunk_size,
        **dict(texture),
    )


@cache
def _evaluation(architecture: str, texture: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    return jax.jit(partial(held_out, ARCHITECTURES[architecture], dict(texture)))


def held_out(
    model: nn.Module, texture: dict[str, Any], variables: Any
) -> tuple[metrics.Counts, metrics.Counts, dict[str, jax.Array]]:
    """Counts by `predict`, counts by running statistics, and mean losses on the held-out images; to be jitted."""

    def score(index: jax.Array) -> Any:
        batch = segjax.generate_data(jax.random.fold_in(jax.random.key(HELD_OUT_KEY), index), **texture)
        logits = segjax.predict(model, variables, batch.image)
        running = cast(jax.Array, model.apply(variables, batch.image, train=False))
        losses = {name: jnp.mean(loss(logits, batch.mask)) for name, loss in LOSSES.items()}
        return metrics.count(logits, batch.mask), metrics.count(running, batch.mask), losses

    counts, running_counts, losses = jax.lax.map(score, jnp.arange(HELD_OUT_BATCHES))
    total = partial(jax.tree.map, lambda leaf: leaf.sum(axis=0))
    return total(counts), total(running_counts), jax.tree.map(jnp.mean, losses)


def held_out_batch(texture: dict[str, Any]) -> segjax.Batch:
    """The first of the held-out batches, for pictures."""
    return segjax.generate_data(jax.random.fold_in(jax.random.key(HELD_OUT_KEY), 0), **texture)


def describe(result: Result) -> dict[str, Any]:
    """A finished run as a row: what it was, its running means, then its scores on the held-out images."""
    loss, agreement = np.asarray(result.history.loss), metrics.agreement(result.history.counts)
    return {
        **result.run._asdict(),
        "loss": float(metrics.running_mean(loss)[-1]),
        "final_loss": final_loss(loss),
        "agreement": float(metrics.running_mean(agreement)[-1]),
        **{name: float(metric(result.counts)) for name, metric in METRICS.items()},
        "accuracy_by_running_statistics": float(metrics.accuracy(result.running_counts)),
        "held_out_agreement": float(metrics.agreement(result.counts)),
        **{f"held_out_{name}": value for name, value in result.losses.items()},
        "diverged_at": diverged_at(loss),
        "seconds": result.seconds,
    }


def curves(result: Result) -> dict[str, np.ndarray]:
    """What `results.json` keeps of every step."""
    return {"loss": np.asarray(result.history.loss), "agreement": np.asarray(metrics.agreement(result.history.counts))}


def final_loss(loss: np.ndarray) -> float:
    """Mean of the last tenth of the steps: where the run is, without where it came from."""
    return float(np.mean(loss[-max(1, len(loss) // 10) :], dtype=np.float64))


def diverged_at(loss: np.ndarray) -> int | None:
    """The first step whose loss is not finite; else the run's end, where that is clearly worse than its beginning.

    Clearly is by a fifth: the loss of an untrained network moves by a few hundredths of itself from batch to batch.
    """
    unfinite = np.flatnonzero(~np.isfinite(loss))
    if unfinite.size:
        return int(unfinite[0]) + 1
    return len(loss) if len(loss) > 1 and final_loss(loss) > 1.2 * loss[0] else None


def save_model(path: Path, architecture: str, variables: Any, texture: dict[str, Any]) -> None:
    """Writes a trained network as one file, with the textures that it was trained on."""
    model = to_config(ARCHITECTURES[architecture])
    checkpoints.save(path, variables, {"model": model, "texture": texture})


def load_model(path: Path) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """The network, its variables and its textures; a UsageError where the file is no such model."""
    try:
        variables, metadata = checkpoints.load(path)
        return from_config(metadata["model"]), variables, metadata["texture"]
    except OSError as error:
        raise command.UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError) as error:
        raise command.UsageError(f"{path} is not a model of these experiments: {error}") from error


def write(path: Path, result: Result, texture: dict[str, Any]) -> None:
    """Keeps a finished run: arrays as they are, numbers in the metadata."""
    arrays = {
        "variables": result.variables,
        "loss": result.history.loss,
        "history": result.history.counts._asdict(),
        "counts": result.counts._asdict(),
        "running_counts": result.running_counts._asdict(),
    }
    numbers = {"losses": result.losses, "seconds": result.seconds}
    checkpoints.save(path, arrays, {"run": result.run._asdict(), "texture": texture, **numbers})


def read(path: Path, run: Run, texture: dict[str, Any]) -> Result:
    """A finished run from its file; a UsageError where the file holds another one."""
    try:
        arrays, metadata = checkpoints.load(path)
    except (ValueError, OSError) as error:
        raise command.UsageError(f"{error}; delete it, or pass --overwrite") from error
    wanted = {**run._asdict(), **texture}
    found = {**metadata.get("run", {}), **metadata.get("texture", {})}
    for name, value in wanted.items():
        if found.get(name) != value:
            raise command.UsageError(
                f"{path} is a run with {name} {found.get(name)}, not {value}; name another --out, or pass --overwrite"
            )
    history = segjax.History(arrays["loss"], metrics.Counts(**arrays["history"]))
    counts, running = metrics.Counts(**arrays["counts"]), metrics.Counts(**arrays["running_counts"])
    return Result(run, history, arrays["variables"], counts, running, metadata["losses"], metadata["seconds"])
