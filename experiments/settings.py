"""The options that experiments share, and their checks: images, training, seeds."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import command
from segjax.checks import check_count, check_positive
from segjax.losses import LOSSES
from segjax.models import ARCHITECTURES
from segjax.optimizers import OPTIMIZERS
from segjax.schedules import SCHEDULES


@dataclass(frozen=True)
class Images:
    """What every experiment that draws images lets its user choose."""

    preset: str = "full"
    """Defaults of all other options: the full experiment, or a small one."""
    batch_size: int = 8
    """Images a batch."""
    image_size: int = 128
    """Height and width of the images, in pixels."""
    sigma: float = 25.6
    """Width of the mask's smooth field, in pixels."""
    seed: int = 0
    """The first seed; others follow it."""
    out: Path = Path("results")
    """Folder for the figures, report.html, results.json and runs.csv."""
    overwrite: bool = False
    """Begin anew in a folder that already holds files: deletes the results and the finished runs that it holds."""


@dataclass(frozen=True)
class Data(Images):
    """The same for one whose textures are the notebook's."""

    sigma1: float = 0.2
    """Width of the texture inside the mask, in pixels."""
    sigma2: float = 1.2
    """Width of the texture outside the mask, in pixels."""


@dataclass(frozen=True)
class Training(Data):
    """The same for one that trains for a number of steps."""

    iterations: int = 1000
    """Training steps of a run, each on a fresh batch."""
    schedule: str = "constant"
    """How the learning rate moves in a run: constant, exponential, cosine, warmup, warmup_cosine or one_cycle."""
    checkpoint_seconds: float = 30.0
    """Time between two savings of a run that is under way: what a crash can cost."""
    deterministic: bool = False
    """Have a GPU choose operations that give the same bits every time; a CPU does so anyway."""


@dataclass(frozen=True)
class Options(Training):
    """The same for one that compares over seeds."""

    seeds: int = 3
    """Number of seeds, each a run of everything that is compared."""


@dataclass(frozen=True)
class Processes(Options):
    """The same for one that several processes can run together, each started with the same options but its id."""

    coordinator: str = ""
    """HOST:PORT at which the first process is reached; auto takes all three from the scheduler (Slurm, Open MPI)."""
    num_processes: int = 1
    """Number of processes that train together, each with all its devices."""
    process_id: int = 0
    """Which of them this is, from 0, the one that writes the results."""


# What an option that names one thing may name.
NAMES: dict[str, Iterable[str]] = {
    "schedule": SCHEDULES,
    "optimizer": OPTIMIZERS,
    "loss": LOSSES,
    "architecture": ARCHITECTURES,
}


def check(options: Any) -> None:
    """Raises ValueError or TypeError for what is wrong with the options that experiments share."""
    present = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    for name in ("sigma1", "sigma2", "sigma", "learning_rate", "checkpoint_seconds"):
        if name in present:
            check_positive(command.flag(name), present[name])
    for name, minimum in (("batch_size", 1), ("image_size", 2), ("iterations", 1)):
        if name in present:
            check_count(command.flag(name), present[name], minimum)
    check_seeds("seed", options.seed, "seeds", present.get("seeds", 1))
    for name, known in NAMES.items():
        if name in present:
            command.check_name(name, present[name], known)


def check_seeds(name: str, first: int, count_name: str, count: int) -> None:
    """Says that seeds must be from 0 to 2^32 - 1, as those of `jax.random.key` are told apart."""
    check_count(command.flag(count_name), count, 1)
    check_count(command.flag(name), first, 0, maximum=2**32 - count)


def texture(options: Data) -> dict[str, Any]:
    """The options of `generate_data`."""
    names = ("batch_size", "image_size", "sigma1", "sigma2", "sigma")
    return {name: getattr(options, name) for name in names}


def seeds(options: Any) -> range:
    return range(options.seed, options.seed + options.seeds)
