"""The provenance of a result: versions, device, jax's settings, and the commit of the source."""

import contextlib
import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

import segjax
from segjax import checkpoints
from segjax.convolution import _vmap_strategy, cpu_backend

_PACKAGES = ("segjax", "jax", "jaxlib", "flax", "optax", "numpy")
# Flags of jax whose value is always recorded; all other flags are if they are set, by a variable or by the program.
_SETTINGS = (
    "jax_enable_x64",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_random_seed_offset",
    "jax_default_matmul_precision",
)
# Flags that change no number: how many devices share the runs, caches, checks, and what is written for debugging.
_FREE_FLAGS = ("--xla_force_host_platform_device_count", "--xla_dump")
_FREE_JAX_FLAGS = re.compile(
    "jax_(num_cpu_devices|platforms|.*visible_devices|.*cache_.*|raise_persistent.*|enable_compilation_cache|log_.*|"
    "logging_level|debug_.*|explain_.*|dump_.*|.*traceback.*|pprint_.*|check_tracer_leaks|enable_checks|numpy_.*|"
    "transfer_guard.*)"
)
_AT_IMPORT = dict(jax.config.values)
# Variables with flags of the libraries that XLA calls on a TPU or a GPU.
_LIBRARY_FLAGS = ("LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")


def versions() -> dict[str, str | None]:
    """Versions of the packages that can change a number."""
    return {name: _version(name) for name in _PACKAGES}


def numerics() -> dict[str, Any]:
    """All else that can change a number, besides options and versions: the kind of device, precision, random numbers.

    The model of a CPU is not included, although rounding may depend on it; `circumstances` has it.
    """
    device = jax.devices()[0]
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_FREE_FLAGS)]
    flags += [f"{name}={os.environ[name]}" for name in _LIBRARY_FLAGS if name in os.environ]
    settings = {name.removeprefix("jax_"): getattr(jax.config, name) for name in _SETTINGS}
    settings |= {"segjax_runs": _vmap_strategy(), "convolution": _convolution(device.platform)}
    settings |= {"xla_flags": " ".join(sorted(flags)), "jax_flags": " ".join(_jax_flags()) or None}
    return {"platform": device.platform, "device": device.device_kind, **settings}


def _jax_flags() -> list[str]:
    """NAME=VALUE of the flags that are set; jax does not tell their defaults."""
    return [
        f"{name.removeprefix('jax_')}={value}"
        for name, value in sorted(jax.config.values.items())
        if (name.upper() in os.environ or value != _AT_IMPORT.get(name))
        and not (name in _SETTINGS or _FREE_JAX_FLAGS.fullmatch(name))
    ]


def _convolution(platform: str) -> str:
    native = platform == "cpu" and cpu_backend() == "native"
    return f"segjax-native {_version('segjax-native')}" if native else "xla"


def circumstances() -> dict[str, Any]:
    """Facts about a result that may differ from those of other results in the same folder."""
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "cpu": _cpu(),
            "cpu_cores": cores(),
        },
        "source": _source(Path(__file__).parents[2]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def digest(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal, or a message, which is shorter, why it cannot be read."""
    try:
        return hashlib.sha256(checkpoints.read(path)).hexdigest()
    except OSError as error:
        return error.strerror or "cannot be read"


@cache
def code_digest() -> str:
    """A digest of the source files of segjax and the experiments, since two checkouts may have the same version."""
    digest = hashlib.sha256()
    for root in (Path(segjax.__file__).parent, Path(__file__).parents[1]):
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def warnings(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """A warning if runs were trained on different numbers of cores."""
    numbers = {int(number) for row in rows if row.get("cores") for number in str(row["cores"]).split(", ")}
    if len(numbers) < 2:
        return []
    listed = " and ".join(map(str, sorted(numbers)))
    return [f"Runs were trained on {listed} cores: rounding differs between them, which changes single runs."]


def _source(root: Path) -> dict[str, Any]:
    """The git commit of the checkout, and whether its files are unchanged; both None without git."""

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", root, *args], capture_output=True, text=True, check=True).stdout.strip()

    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        # A folder in another project's checkout has no commit of its own.
        if Path(git("rev-parse", "--show-toplevel")) == root.resolve():
            return {"commit": git("rev-parse", "HEAD"), "clean": not git("status", "--porcelain")}
    return {"commit": None, "clean": None}


def cores() -> int | None:
    """Number of cores that this process may use. XLA divides sums among them, so the last digits depend on it."""
    # Under a batch system a process has only some of the machine's cores; only Linux tells which, if it is allowed to.
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count()


def _version(package: str) -> str | None:
    """None if the package is not installed, as segjax itself need not be."""
    with contextlib.suppress(PackageNotFoundError):
        return version(package)
    return None


def _cpu() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):
        if match := re.search(r"^model name\s*: *(.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return match[1].strip()
    return platform.processor() or platform.machine()
