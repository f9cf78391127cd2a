"""Training runs: what one is, what a finished one says, and the files that keep it."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import segjax
from experiments import command, folder, settings
from segjax import checkpoints, metrics

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


def path(options: settings.Training, run: Run, ending: str = "safetensors") -> Path:
    """Where a finished run is kept; one under way has another ending."""
    label = run.label.replace(" ", "-").replace(":", ".")
    return options.out / folder.RUNS / f"{label}-seed{run.seed}.{ending}"


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
    counts = result.history.counts
    return {
        "loss": np.asarray(result.history.loss),
        "agreement": np.asarray(metrics.agreement(counts)),
        "iou": np.asarray(metrics.iou(counts)),
    }


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
    arrays, metadata = _load(path, run, texture)
    history = segjax.History(arrays["loss"], metrics.Counts(**arrays["history"]))
    counts, running = metrics.Counts(**arrays["counts"]), metrics.Counts(**arrays["running_counts"])
    return Result(run, history, arrays["variables"], counts, running, metadata["losses"], metadata["seconds"])


class Begun(NamedTuple):
    """A run under way: its state and history so far, and the seconds that they took."""

    state: segjax.TrainState
    history: segjax.History
    seconds: float


def write_begun(path: Path, run: Run, begun: Begun, texture: dict[str, Any]) -> None:
    """Keeps a run under way."""
    arrays = {"state": begun.state, "history": begun.history}
    checkpoints.save(path, arrays, {"run": run._asdict(), "texture": texture, "seconds": begun.seconds})


def read_begun(path: Path, run: Run, texture: dict[str, Any], template: segjax.TrainState) -> Begun:
    """A run under way from its file; a UsageError where the file holds another one."""
    arrays, metadata = _load(path, run, texture)
    try:
        state = checkpoints.restore(template, arrays["state"])
    except ValueError as error:
        raise command.UsageError(f"{path}: {error}; delete it, or pass --overwrite") from error
    history = arrays["history"]
    return Begun(state, segjax.History(history["loss"], metrics.Counts(**history["counts"])), metadata["seconds"])


def _load(path: Path, run: Run, texture: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
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
    return arrays, metadata
