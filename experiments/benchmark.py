"""What do our choices cost and save here? Our times and those of peers, taken in turns so that noise matters less.

    python -m experiments.benchmark             the notebook's sizes
    python -m experiments.benchmark quick       32 x 32, few repeats: shows that it works

- a batch, a training step on a given batch, and an iteration, which is both: ours, and PyTorch if it is installed
  (`pip install -e ".[torch]"`), as in the notebook and tuned; the iteration also in naive JAX;
- many runs in one program: time of a step and memory; also the naive `jax.vmap`;
- the time from a command to its first step, and the peak memory, in separate processes;
- the step compared with the device's limit: the rates of a matrix product and of a copy, measured here;
- each convolution of the network alone;
- how the cost of a step grows with image size, batch size, channels and number of steps.

If segjax-native is installed, all this is also measured with XLA's convolution.

The report has medians and ranges over repeats, and each program's time as a multiple of that of the first in its group;
compilation has its own column. Expect the notebook's iteration to take 100 times as long as ours, or longer. Takes
about 6 minutes on 2 CPU cores with PyTorch, 4 without.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import segjax
from experiments.bench import contenders, limits, timing
from experiments.bench.contenders import Parts
from experiments.bench.limits import Limits, Work
from experiments.bench.timing import Timing
from experiments.lab import question
from experiments.lab.options import Command
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report, Table
from experiments.lab.runs import Texture
from segjax import plotting
from segjax._checks import check_count, check_positive


@dataclass(frozen=True, kw_only=True)
class Options(Command):
    """Measures times, rates and memory of our programs and of others."""

    image_size: int = Texture().image_size  # Height and width of the images, in pixels.
    batch_size: int = Texture().batch_size  # Images per batch.
    steps: int = 5  # Training steps in each measurement; at most 2 if it has many runs.
    runs: tuple[int, ...] = (1, 4, 16, 64)  # Numbers of runs in one program.
    repeats: int = 5  # Measurements of each program, taken in turns; the median counts.
    #: Seconds that the measurements of one program may take; a slow program gets fewer repeats, at least one.
    budget: float = 20.0
    torch: bool = True  # Also measure PyTorch, if it is installed.
    growth: bool = True  # Also measure how the cost grows with the sizes.
    out: Path = Path("results/benchmark")

    def check(self) -> None:
        super().check()
        check_count("--image-size", self.image_size, 2)
        check_count("--batch-size", self.batch_size, 1)
        check_count("--steps", self.steps, 1)
        check_count("--repeats", self.repeats, 1)
        check_positive("--budget", self.budget)
        for number in self.runs:
            check_count("--runs", number, 1)
        if not self.runs or len(set(self.runs)) < len(self.runs):
            raise ValueError(f"--runs must be different numbers, at least one, got {self.runs}")

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        # By default jax takes 75 % of a GPU's memory when it first computes. That leaves too little for PyTorch, which
        # is timed in this process as well, and for the processes of `first_step`. The price: jax allocates piece by
        # piece. It keeps what it has, so that programs allocate in their first call, which does not count.
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        with super().prepared():
            yield

    @property
    def many_steps(self) -> int:
        """Training steps in measurements of many runs: 64 runs take long enough."""
        return min(self.steps, 2)


PRESETS = {
    "notebook": Options(),
    "quick": Options(image_size=32, steps=2, runs=(1, 4), repeats=2, budget=5.0, torch=False, growth=False),
}
# The environment before `prepared` changes it: the processes of `first_step` are timed like commands of a user.
ENVIRONMENT = dict(os.environ)
# (part, program) -> its times.
Times = Mapping[tuple[str, str], Timing]
# Process -> its seconds to the first step and its peak memory.
Starts = Mapping[str, Mapping[str, Any]]


def answer(options: Options, lab: Lab) -> Report:
    torch, tuned = options.torch and contenders.torch_is_installed(), contenders.can_compile()
    # Before this process computes anything: otherwise it would hold memory of the device.
    with lab.progress() as progress:
        names = ["ours", *(["notebook"] if torch else []), *(["tuned"] if torch and tuned else [])]
        tracked = progress.track(names, description="the first step of a command")
        starts = {name: first_step(name, options) for name in tracked}
    device = limits.measure(lab, options.repeats, options.budget)
    one_run, warnings = one_run_parts(options, torch, tuned)
    groups = {"Times of a batch or a step": one_run, **other_parts(options)}
    programs = {
        (part, name): program
        for parts in groups.values()
        for part, by_name in parts.items()
        for name, program in by_name.items()
    }
    times = timing.measure(programs, options.repeats, options.budget, lab)
    step = limits.step(segjax.SegmentationCNN(), options.batch_size, options.image_size)
    floor = step.floor(device)
    bound = {**device._asdict(), "step": step._asdict(), "floor_seconds": floor}
    bound["fraction"] = floor / times["step", "ours"].median
    images = f"{options.batch_size} images of {options.image_size} x {options.image_size}"
    title = f"{images}: median and range of up to {options.repeats} repeats"
    note = f"{title}. A step is that of one run. FLOP: a product and a sum for each tap of a convolution."
    tables = [times_table(name, parts, times, note) for name, parts in groups.items()]
    documents = [
        {"part": part, "name": name, "median": timed.median, **timed._asdict()} for (part, name), timed in times.items()
    ]
    return Report(
        [],
        [*tables, start_table(starts), limit_table(device, step, bound)],
        {"times": times_drawing({key: timed for key, timed in times.items() if key[0] in one_run}, title)},
        results={"programs": documents, "first_steps": starts, "limits": bound},
        # The single repeats are in results.json alone.
        rows=[{name: value for name, value in document.items() if name != "seconds"} for document in documents],
        warnings=warnings,
    )


def one_run_parts(options: Options, torch: bool, tuned: bool) -> tuple[Parts, list[str]]:
    """The parts of one run, with PyTorch's programs if they can run; and warnings about those that are missing."""
    sizes = (options.batch_size, options.image_size, options.steps)
    parts = contenders.one_run(*sizes)
    if not torch:
        return parts, ["PyTorch was not measured."]
    from experiments.bench import peers

    ours = jax.default_backend()
    # jax and PyTorch look for a GPU independently, and times on different devices do not compare.
    if peers.platform() != ours:
        other = peers.platform()
        return parts, [f"PyTorch was measured up to its first step alone: it runs on a {other}, and jax on a {ours}."]
    for part, by_name in peers.one_run(*sizes, tuned).items():
        parts[part] |= by_name
    return parts, [] if tuned else ["PyTorch tuned was not measured: it needs a C++ compiler and Python's headers."]


def other_parts(options: Options) -> dict[str, Parts]:
    """Table -> its parts."""
    sizes = (options.batch_size, options.image_size)
    parts = {
        "Many runs in one program": contenders.many_runs(*sizes, options.many_steps, options.runs),
        "Each convolution alone": contenders.layers(*sizes),
    }
    if options.growth:
        parts["How the cost of an iteration grows"] = contenders.growth(*sizes, options.steps)
    return parts


def first_step(name: str, options: Options) -> dict[str, Any]:
    """Starts a process and waits for it: {"seconds" to its first step, and "peak_bytes", its peak memory}."""
    sizes = (options.batch_size, options.image_size, options.many_steps)
    command = [sys.executable, "-m", "experiments.bench.first_step", name, *map(str, sizes)]
    start = time.time()
    process = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{process.stderr}")
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return {"seconds": result.pop("moment") - start, **result}


def times_drawing(times: Times, title: str) -> Drawing:
    bars = {f"{part}: {name}": 1e3 * np.array(timed.seconds) for (part, name), timed in times.items()}
    return Drawing("Time of each program", plotting.bars(bars, "time of a batch or a step (ms)", title))


def times_table(title: str, parts: Parts, times: Times, note: str) -> Table:
    """The programs of some parts; each is compared with the first of its part."""
    rows = []
    for part, programs in parts.items():
        first = times[part, next(iter(programs))]
        for name, program in programs.items():
            timed = times[part, name]
            row = [part, name, spread(timed), f"{timed.median / first.median:.3g}"]
            row.append(f"{program.flops / timed.median / 1e9:.0f}" if program.flops else "")
            rows.append([*row, f"{timed.compile_seconds:.1f}", megabytes(timed.temporary_bytes)])
    headings = ("what", "program", "ms", "x the first", "GFLOP/s", "compiling (s)", "temporary MB")
    return Table(title, headings, rows, note)


def start_table(starts: Starts) -> Table:
    rows = [[name, f"{start['seconds']:.1f}", megabytes(start["peak_bytes"])] for name, start in starts.items()]
    headings = ("process", "s to the first step", "peak memory MB")
    return Table("From a command to its first step", headings, rows, "Notebook and tuned are PyTorch's.")


def limit_table(device: Limits, step: Work, bound: Mapping[str, Any]) -> Table:
    rows = [
        ["matrix product, float32, 2048 x 2048", f"{device.flops / 1e9:.0f} GFLOP/s"],
        ["copy of 256 MB, read and written", f"{device.bytes / 1e9:.1f} GB/s"],
        ["operations of a step", f"{step.flops / 1e9:.2f} GFLOP"],
        ["least memory that a step moves", f"{step.bytes / 1e6:.0f} MB"],
        ["least time of a step", f"{milliseconds(bound['floor_seconds'])} ms"],
        ["share of the limit that is reached", f"{bound['fraction']:.2f}"],
    ]
    note = "On a GPU the product is in TF32, unless JAX_DEFAULT_MATMUL_PRECISION says otherwise."
    return Table("The device's limit", ("what", "measured"), rows, note)


def spread(timed: Timing) -> str:
    low, high = milliseconds(min(timed.seconds)), milliseconds(max(timed.seconds))
    return f"{milliseconds(timed.median)}\n{low}-{high}"


def milliseconds(seconds: float) -> str:
    # Three digits of short times: a GPU draws a batch in 0.05 ms.
    return f"{1e3 * seconds:.1f}" if seconds >= 1e-2 else f"{1e3 * seconds:#.3g}"


def megabytes(number: int | None) -> str:
    return "" if number is None else f"{number / 1e6:.0f}"


if __name__ == "__main__":
    question.main()
