"""The options that experiments share, each with its default and its check; an experiment's own `Options` adds to them.

An option whose name is in `CHECKS` is checked wherever it stands; an experiment checks its others in its `check`.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import jax

from experiments.lab import provenance
from experiments.lab.names import ARCHITECTURES
from experiments.lab.runs import HELD_OUT_BATCHES, Run, Texture
from segjax import LOSSES, OPTIMIZERS, SCHEDULES
from segjax.checks import check_count, check_pixels, check_positive, check_sigma

# Options that change no result: an unfinished folder can be resumed under other values of them. The width and the
# workers change rounding alone; so what was too wide for the memory can resume with a smaller one.
CHANGE_NO_RESULT = ("preset", "out", "overwrite", "checkpoint_seconds", "width", "workers", "cluster")
# Letters of a SHA-256 in hexadecimal; a reason in words is shorter.
_DIGITS = 64
# The values of `--precision` that jax is told; default leaves it as it is.
PRECISIONS = ("high", "highest")


def flag(name: str) -> str:
    """How the command line spells an option."""
    return "--" + name.replace("_", "-")


def program() -> list[str]:
    """The words that start this command."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["python", "-m", spec.name] if spec else ["python", sys.argv[0]]


def check_name(option: str, value: str, known: Iterable[str]) -> None:
    """Raises a ValueError that lists the known names, where the option has another."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{option} must be one of: {', '.join(known)}; got {value!r}")


def check_names(option: str, values: Sequence[str], known: Iterable[str]) -> None:
    """The same for an option that takes several names, each once."""
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{option} must be different names out of: {', '.join(known)}")
    for value in values:
        check_name(option, value, known)


def check_seeds(option: str, first: int, number: str = "--seeds", seeds: int = 1) -> None:
    """Raises a ValueError for seeds beyond 2^32 - 1: `jax.random.key` takes them modulo 2^32."""
    # The runs of all of them are listed before the first is trained.
    check_count(number, seeds, 1, maximum=10**5)
    check_count(option, first, 0, maximum=2**32 - seeds)


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("sigma1", "sigma2", "sigma"), check_sigma),
    **dict.fromkeys(("learning_rate", "checkpoint_seconds"), check_positive),
    **dict.fromkeys(("batch_size", "iterations", "width"), partial(check_count, minimum=1)),
    "workers": partial(check_count, minimum=0),
    "image_size": partial(check_count, minimum=2),
    "seed": check_seeds,
    "schedule": partial(check_name, known=SCHEDULES),
    "precision": partial(check_name, known=("default", *PRECISIONS)),
    "optimizer": partial(check_name, known=OPTIMIZERS),
    "loss": partial(check_name, known=LOSSES),
    "architecture": partial(check_name, known=ARCHITECTURES),
}


def is_address(text: str) -> bool:
    """Whether this is tcp://HOST:PORT or tls://HOST:PORT."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("tcp", "tls") and bool(parts.hostname and parts.port)
    except ValueError:
        return False


def at_precision(precision: str) -> contextlib.AbstractContextManager[None]:
    """A context in which jax computes at a value of `--precision`; other values leave jax as it is."""
    return jax.default_matmul_precision(precision) if precision in PRECISIONS else contextlib.nullcontext()


# Keyword-only, so that an experiment can add options without a default, and reorder nothing.
@dataclass(frozen=True, kw_only=True)
class Command:
    """The options of every experiment: its defaults, and where its results go."""

    preset: str = ""
    """Name of the defaults of all other options."""
    out: Path = Path("results")
    """Folder for the figures, report.html, results.json and runs.csv."""
    overwrite: bool = False
    """Begin anew in a folder that already holds files: deletes the results and the finished runs that it holds."""

    # Options that may differ from those that made what the folder holds, since that is still of use.
    free: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        """Raises ValueError or TypeError, naming the first option that is out of range and what is allowed."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in CHECKS:
                CHECKS[field.name](flag(field.name), value)
            # The command line gives no other value; a file may.
            if isinstance(field.default, bool) and not isinstance(value, bool):
                raise TypeError(f"{flag(field.name)} must be true or false, got {value!r:.60}")

    def inputs(self) -> list[Path]:
        """The files that the results depend on."""
        return []

    def additions(self) -> dict[str, list[Path]]:
        """option -> the inputs that it names, where a later command may add its own to those of the same folder."""
        return {}

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """Inside, jax is set as the options say; to be entered before jax first looks for devices."""
        yield

    # Inputs count by their content: another photograph under the same name is another experiment.
    def identity(self, experiment: str) -> dict[str, Any]:
        """What the results depend on: the experiment, its options, the SHA-256 of each input file, and what computes.

        In JSON's types, where tuples are lists: so it compares with what is read from a file.
        """
        kept = {name: value for name, value in dataclasses.asdict(self).items() if name not in CHANGE_NO_RESULT}
        kept |= self.additions()
        made = {"options": kept, "inputs": {str(path): digest(path) for path in self.inputs()}}
        made |= {"versions": provenance.versions(), "numerics": provenance.numerics()}
        return {"experiment": experiment, **json.loads(json.dumps(made, default=str))}


@dataclass(frozen=True, kw_only=True)
class Images(Command):
    """For an experiment that draws images."""

    batch_size: int = 8
    """Images a batch."""
    image_size: int = 128
    """Height and width of the images, in pixels."""
    sigma: float = 25.6
    """Width of the mask's smooth field, in pixels."""
    seed: int = 0
    """Seed of the initial weights and of the images."""

    def check(self) -> None:
        super().check()
        pixels = HELD_OUT_BATCHES * self.batch_size * self.image_size**2
        check_pixels(f"the held-out images, {HELD_OUT_BATCHES} * --batch-size * --image-size^2,", pixels)

    @property
    def size(self) -> str:
        """The size of the images, for titles."""
        return f"{self.image_size} x {self.image_size}"


@dataclass(frozen=True, kw_only=True)
class Data(Images):
    """For an experiment whose textures are the notebook's."""

    sigma1: float = 0.2
    """Width of the texture inside the mask, in pixels."""
    sigma2: float = 1.2
    """Width of the texture outside the mask, in pixels."""

    @property
    def texture(self) -> Texture:
        """The options of `segjax.generate_data`."""
        return Texture(*(getattr(self, name) for name in Texture._fields))


@dataclass(frozen=True, kw_only=True)
class Seeds(Images):
    """For an experiment that repeats everything over seeds."""

    seed: int = 0
    """The first seed; others follow it."""
    seeds: int = 3
    """Number of seeds, each a run of everything that is compared."""

    def check(self) -> None:
        # All seeds before the first alone, whose bound is another.
        check_seeds("--seed", self.seed, "--seeds", self.seeds)
        super().check()

    @property
    def all_seeds(self) -> range:
        return range(self.seed, self.seed + self.seeds)

    @property
    def over_seeds(self) -> str:
        """What a number over the seeds is, for titles."""
        return f"mean and range of {self.seeds} seeds" if self.seeds > 1 else f"seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Training(Data):
    """For an experiment that trains for a number of steps."""

    iterations: int = 1000
    """Training steps of a run, each on a fresh batch."""
    schedule: str = "constant"
    """How the learning rate moves in a run: constant, exponential, cosine, warmup, warmup_cosine or one_cycle."""
    checkpoint_seconds: float = 30.0
    """Time between two savings of a run that is under way: what a crash can cost."""
    precision: str = "default"
    """default, high or highest. A GPU rounds what convolutions multiply to TF32 (10 bits of 23) with default and high,
    and not with highest, which is slower; on a CPU nothing changes. Default leaves it to JAX_DEFAULT_MATMUL_PRECISION,
    where that is set."""
    deterministic: bool = False
    """Have a GPU leave out operations whose bits change from one time to the next; a CPU has none. A GPU's program may
    still be compiled to other rounding the next time."""

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        if self.deterministic:
            # Not xla_gpu_deterministic_ops, which also has XLA choose without trying what is fastest.
            flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_exclude_nondeterministic_ops=true"
            os.environ["XLA_FLAGS"] = flags.strip()
        # Another command in this process has a precision of its own. `check`, which comes later, refuses other names.
        with at_precision(self.precision):
            yield

    def called(self, optimizer: str) -> str:
        """What progress calls an optimizer."""
        return optimizer

    def run(self, seed: int, **changes: Any) -> Run:
        """A run as these options describe it, but for the changes: fields of `Run`."""
        # A run's row has a column "loss", the number; so its loss function is its objective.
        given = {"objective": getattr(self, "loss", "mse")}
        # An experiment offers what it lets people choose; the rest are the defaults of Run, the notebook's.
        given |= {name: getattr(self, name) for name in Run._fields if name != "seed" and hasattr(self, name)}
        run = Run(seed=seed, **{**given, **changes})
        # An experiment's own options end up here: a bad one is known before the first run is trained.
        for name, value in {**run._asdict(), **run.texture._asdict()}.items():
            if name in CHECKS and name != "optimizer":
                CHECKS[name](name, value)
        return run


@dataclass(frozen=True, kw_only=True)
class Runs(Training):
    """For an experiment that trains several runs."""

    workers: int = 0
    """Number of local processes that train runs at the same time, each on an equal share of the cores; the last digits
    of a run depend on its number of cores. With 0 this process trains one run after the other, and alone keeps
    checkpoints within a run."""
    cluster: str = ""
    """Dask scheduler whose workers train the runs: tcp://HOST:8786, tls://HOST:8786 or the path of a scheduler file.
    docs/cluster.md says how to start one."""

    def check(self) -> None:
        super().check()
        available = provenance.cores() or 1
        if self.workers > available:
            raise ValueError(f"--workers must be at most the number of cores, {available}, got {self.workers}")
        if self.workers and self.cluster:
            raise ValueError("--workers starts local processes and --cluster takes those of a scheduler: give one")
        if self.workers and jax.default_backend() != "cpu":
            raise ValueError("--workers shares out the cores of a CPU; for GPUs start a worker for each: --cluster")
        if self.cluster and not is_address(self.cluster) and not Path(self.cluster).is_file():
            raise ValueError(f"--cluster must be tcp://HOST:PORT, tls://HOST:PORT or a file, got {self.cluster!r}")

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        if self.cluster:
            # Otherwise this process takes three quarters of a GPU's memory from the worker on the same GPU.
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        with super().prepared():
            yield


@dataclass(frozen=True, kw_only=True)
class Comparison(Runs, Seeds):
    """For an experiment that trains several things over seeds, and compares them."""

    width: int = 1
    """Most runs that one device trains side by side: memory grows with it alone, numbers change by rounding, and the
    seconds of a run are those of all beside it. On a CPU 1 is the fastest."""


def joined(
    made: Mapping[str, Any], wanted: Mapping[str, Any], additions: Mapping[str, Sequence[Path]]
) -> dict[str, Any]:
    """The identity of a command that adds its inputs to those of an earlier one, which come first.

    A file keeps the path under which it was added first, and its digest where it cannot be read any more.

    Args:
        made: what was read, of which any part may be missing.
        wanted: of the command.
        additions: its `Command.additions`.
    """
    options, inputs = dict(wanted["options"]), dict(made.get("inputs", {}))
    known: dict[str, str] = {}
    for name in additions:
        if isinstance(earlier := made["options"].get(name), list):
            known |= {os.path.realpath(path): path for path in reversed(list(map(str, earlier)))}
            added = [known.get(os.path.realpath(path), path) for path in options[name]]
            options[name] = list(dict.fromkeys([*map(str, earlier), *added]))
    for path, digest in wanted["inputs"].items():
        first = known.get(os.path.realpath(path), path)
        if first not in inputs or len(digest) == _DIGITS:
            inputs[first] = digest
    return {**wanted, "options": options, "inputs": inputs}


def difference(
    made: Mapping[str, Any], wanted: Mapping[str, Any], free: Collection[str] = (), free_inputs: Collection[str] = ()
) -> str:
    """The first difference between two identities, in words; empty where they agree.

    Args:
        made: what was read, of which any part may be missing.
        free: options that may differ.
        free_inputs: paths of inputs that may differ, or be new.
    """
    if made.get("experiment") != wanted["experiment"]:
        return f"of {made.get('experiment') or 'something else'}"
    for section in ("options", "versions", "numerics"):
        had = made.get(section, {})
        for name, value in wanted[section].items():
            if had.get(name) != value and not (section == "options" and name in free):
                return f"with {name} {had.get(name)}, not {value}"
    for path, digest in wanted["inputs"].items():
        if made.get("inputs", {}).get(path) != digest and path not in free_inputs:
            return f"of another {path} than is there now"
    return ""


def digest(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal, or in words, which are shorter, why it cannot be read."""
    try:
        # A pipe or a device would never end.
        if path.exists() and not path.is_file():
            return "no regular file"
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return error.strerror or "cannot be read"
