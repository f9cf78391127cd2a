"""Groups of options that questions compose, each with its defaults and its check.

A question's `Options` is a `Command` with groups as fields: `data: Data = Data(image_size=64)`. The command line
(`--image-size`) and results.json have the options of all groups in one flat list.
"""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

import jax

from experiments.lab import provenance
from experiments.lab.names import ARCHITECTURES
from experiments.lab.runs import HELD_OUT_BATCHES, Run, Texture
from segjax import LOSSES, OPTIMIZERS, SCHEDULES
from segjax._checks import check_count, check_pixels, check_positive, check_sigma

# Options that change no result. `width` is none of them, since it changes rounding.
CHANGE_NO_RESULT = ("out", "overwrite", "pdf", "checkpoint_seconds", "log", "workers", "cluster")
# The values of `--precision` that are passed to jax; "default" is not.
PRECISIONS = ("high", "highest")
_Group = TypeVar("_Group", bound="Group")


def flag(name: str) -> str:
    """The name of an option on the command line."""
    return "--" + name.replace("_", "-")


def program() -> list[str]:
    """The command line that starts this command, without its arguments."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["python", "-m", spec.name] if spec else ["python", sys.argv[0]]


def check_name(option: str, value: str, known: Iterable[str]) -> None:
    """Raises a ValueError that lists the known names, unless the value is one of them."""
    if value not in known:
        raise ValueError(f"{option} must be one of: {', '.join(known)}; got {value!r}")


def check_names(option: str, values: Sequence[str], known: Iterable[str]) -> None:
    """`check_name` for an option with several different names."""
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{option} must be different names out of: {', '.join(known)}")
    for value in values:
        check_name(option, value, known)


def check_training(optimizer: str = "adam", loss: str = "mse", architecture: str = "notebook") -> None:
    """Raises a ValueError for an unknown name; import paths of optimizers are unknown too."""
    check_name("--optimizer", optimizer, OPTIMIZERS)
    check_name("--loss", loss, LOSSES)
    check_name("--architecture", architecture, ARCHITECTURES)


def check_runs(runs: Sequence[Run]) -> None:
    """Raises ValueError or TypeError for no runs or an invalid run, since questions may change the options of runs."""
    if not runs:
        raise ValueError("the options leave nothing to train")
    for run in runs:
        Data(**run.texture._asdict()).check()
        Training(iterations=run.iterations, schedule=run.schedule).check()
        check_training(loss=run.objective, architecture=run.architecture)
        check_positive("--learning-rate", run.learning_rate)
        check_seeds("--seed", run.seed)


def check_seeds(option: str, first: int, number: str = "--seeds", seeds: int = 1) -> None:
    """Raises a ValueError for seeds beyond 2^32 - 1, which `jax.random.key` takes modulo 2^32."""
    # Limited, since all runs are listed before the first is trained.
    check_count(number, seeds, 1, maximum=10**5)
    check_count(option, first, 0, maximum=2**32 - seeds)


def is_address(text: str) -> bool:
    """Whether this is tcp://HOST:PORT or tls://HOST:PORT."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        return parts.scheme in ("tcp", "tls") and bool(parts.hostname and parts.port)
    return False


def at_precision(precision: str) -> contextlib.AbstractContextManager[None]:
    """A context in which jax has the precision of `--precision`; values not in `PRECISIONS` change nothing."""
    return jax.default_matmul_precision(precision) if precision in PRECISIONS else contextlib.nullcontext()


# Keyword-only, so that a question can add options without defaults.
@dataclass(frozen=True, kw_only=True)
class Group:
    """Options that belong together."""

    def check(self) -> None:
        """Raises ValueError or TypeError, naming the first invalid option and what is allowed."""

    @property
    def flat(self) -> dict[str, Any]:
        """Name -> value of every option, as on the command line and in results.json."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclass(frozen=True, kw_only=True)
class Data(Group):
    """The images: the options of `segjax.generate_data`."""

    batch_size: int = 8  # Images per batch.
    image_size: int = 128  # Height and width of the images, in pixels.
    sigma1: float = 0.2  # Sigma of the texture inside the mask, in pixels.
    sigma2: float = 1.2  # Sigma of the texture outside the mask, in pixels.
    sigma: float | None = None  # Sigma of the mask's smooth field, in pixels; by default a fifth of the image size.

    def check(self) -> None:
        check_count("--batch-size", self.batch_size, 1)
        check_count("--image-size", self.image_size, 2)
        for name in ("sigma1", "sigma2", "sigma"):
            check_sigma(flag(name), self.texture._asdict()[name])
        pixels = HELD_OUT_BATCHES * self.batch_size * self.image_size**2
        check_pixels(f"the held-out images, {HELD_OUT_BATCHES} * --batch-size * --image-size^2,", pixels)

    @property
    def texture(self) -> Texture:
        """The options of `segjax.generate_data`."""
        sigma = self.image_size / 5 if self.sigma is None else self.sigma
        return Texture(self.batch_size, self.image_size, self.sigma1, self.sigma2, sigma)

    @property
    def flat(self) -> dict[str, Any]:
        return {**super().flat, "sigma": self.texture.sigma}

    @property
    def size(self) -> str:
        """The size of the images, for titles."""
        return f"{self.image_size} x {self.image_size}"


@dataclass(frozen=True, kw_only=True)
class Seed(Group):
    """One seed."""

    seed: int = 0  # Seed of the initial weights and of the images.

    def check(self) -> None:
        check_seeds("--seed", self.seed)


@dataclass(frozen=True, kw_only=True)
class Seeds(Group):
    """Seeds over which every run is repeated."""

    seed: int = 0  # The first seed; the others follow it.
    seeds: int = 3  # Number of seeds; everything that is compared has one run per seed.

    def check(self) -> None:
        check_seeds("--seed", self.seed, "--seeds", self.seeds)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.seed, self.seed + self.seeds))

    def __str__(self) -> str:
        """Describes numbers over the seeds, for titles."""
        return f"mean and range of {self.seeds} seeds" if self.seeds > 1 else f"seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Training(Group):
    """How runs are trained."""

    iterations: int = 1000  # Training steps of a run, each on a fresh batch.
    #: Schedule of the learning rate: constant, exponential, cosine, warmup, warmup_cosine or one_cycle.
    schedule: str = "constant"
    checkpoint_seconds: float = 30.0  # Seconds between checkpoints; a crash loses at most this much.
    #: File outside of --out that gets a line of JSON for every 10 steps of each run while it trains: its loss, and
    #: counts of pixels. docs/experiments.md shows how to follow it.
    log: str = ""
    #: default, high or highest. With default and high a GPU rounds the factors in convolutions to TF32 (10 of 23 bits);
    #: highest does not, and is slower. On a CPU nothing changes. JAX_DEFAULT_MATMUL_PRECISION, if set, overrides
    #: default.
    precision: str = "default"
    #: Exclude operations whose results differ from one execution to the next on a GPU; a CPU has none. The next
    #: compilation of a GPU's program may still round differently.
    deterministic: bool = False

    def check(self) -> None:
        check_count("--iterations", self.iterations, 1)
        check_name("--schedule", self.schedule, SCHEDULES)
        check_positive("--checkpoint-seconds", self.checkpoint_seconds)
        check_name("--precision", self.precision, ("default", *PRECISIONS))


@dataclass(frozen=True, kw_only=True)
class Engine(Group):
    """Where several runs are trained."""

    #: Number of local processes that train runs at the same time, each on an equal share of the cores; the last digits
    #: of a run depend on its number of cores. With 0 this process trains one run after the other; only then are there
    #: checkpoints within a run.
    workers: int = 0
    #: Dask scheduler whose workers train the runs: tcp://HOST:8786, tls://HOST:8786 or the path of a scheduler file.
    #: docs/cluster.md says how to start one.
    cluster: str = ""
    #: Most runs that one device trains together. Memory is proportional to it, numbers change by rounding, and the
    #: seconds of a run are those of the whole group. On a CPU 1 is the fastest.
    width: int = 1

    def check(self) -> None:
        check_count("--width", self.width, 1)
        available = provenance.cores() or 1
        if check_count("--workers", self.workers, 0) > available:
            raise ValueError(f"--workers must be at most the number of cores, {available}, got {self.workers}")
        if self.workers and self.cluster:
            raise ValueError("--workers starts local processes and --cluster takes those of a scheduler: give one")
        if self.workers and jax.default_backend() != "cpu":
            raise ValueError("--workers shares out the cores of a CPU; for GPUs start a worker for each: --cluster")
        if self.cluster and not is_address(self.cluster) and not Path(self.cluster).is_file():
            raise ValueError(f"--cluster must be tcp://HOST:PORT, tls://HOST:PORT or a file, got {self.cluster!r}")


@dataclass(frozen=True, kw_only=True)
class Command(Group):
    """The options of every question; a question adds options and groups."""

    # A docstring, since questions with another default inherit it; tyro joins the lines only of comments with `#:`.
    out: Path = Path("results")
    """Folder for the figures, report.html, results.json and runs.csv."""
    overwrite: bool = False  # Start anew in a folder that already holds files: deletes its results and finished runs.
    #: Also write each figure as NAME.pdf, so many inches wide, 2 to 40: 3.3 fits a column of a paper, 6.8 a page.
    pdf: float | None = None

    # Options that select what is reported and do not change a run: the folder may hold results of other values.
    free: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        for group in self.groups:
            group.check()
        if self.pdf is not None and not 2 <= self.pdf <= 40:
            raise ValueError(f"--pdf must be 2 to 40 inches, got {self.pdf:g}")

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """A context in which jax is configured by the options; enter it before jax first looks for devices."""
        training = self.group(Training)
        if training.deterministic:
            # Not xla_gpu_deterministic_ops, which also turns off autotuning.
            flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_exclude_nondeterministic_ops=true"
            os.environ["XLA_FLAGS"] = flags.strip()
        if self.group(Engine).cluster:
            # Otherwise this process reserves three quarters of a GPU's memory, which a worker on the GPU needs.
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        # Restored at the end, since a process may run several commands. `check` comes later and refuses other names.
        with at_precision(training.precision):
            yield

    @property
    def groups(self) -> list[Group]:
        return [value for value in super().flat.values() if isinstance(value, Group)]

    def group(self, kind: type[_Group]) -> _Group:
        """The group of this kind, or its defaults for a question without one."""
        return next((group for group in self.groups if isinstance(group, kind)), kind())

    @property
    def flat(self) -> dict[str, Any]:
        parts = [value.flat if isinstance(value, Group) else {name: value} for name, value in super().flat.items()]
        return {name: value for part in parts for name, value in part.items()}

    def inputs(self) -> list[Path]:
        """Input files that the results depend on."""
        return []


def identity_of(options: Command, experiment: str) -> dict[str, Any]:
    """All that the results depend on: the experiment, its options, SHA-256 of input files, versions and numerics.

    In JSON's types, with lists for tuples, so that it equals an identity that is read from a file.
    """
    flat = {name: value for name, value in options.flat.items() if name not in CHANGE_NO_RESULT}
    # Finished results without these figures are not those of this command.
    flat |= {"pdf": options.pdf} if options.pdf else {}
    identity = {"options": flat, "inputs": {str(path): provenance.digest(path) for path in options.inputs()}}
    identity |= {"versions": provenance.versions(), "numerics": provenance.numerics()}
    return {"experiment": experiment, **json.loads(json.dumps(identity, default=str))}


@dataclass(frozen=True, kw_only=True)
class Trained(Command):
    """For a question that trains runs."""

    data: Data = Data()
    training: Training = Training()

    def run(self, seed: int, **changes: Any) -> Run:
        """A run with these options, except for `changes`: fields of `Run`."""
        training = self.training
        run = Run(seed, iterations=training.iterations, schedule=training.schedule, texture=self.data.texture)
        return run._replace(**changes)


@dataclass(frozen=True, kw_only=True)
class Comparison(Trained):
    """For a question that compares several candidates, each trained over the same seeds."""

    seeds: Seeds = Seeds()
    engine: Engine = Engine()

    free: ClassVar[tuple[str, ...]] = ("seeds",)
