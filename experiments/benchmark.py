"""What do our choices cost and save here? Every time beside its peers, in one run, so that noise matters less.

    python -m experiments.benchmark                    the notebook's sizes
    python -m experiments.benchmark --preset quick     32 x 32, few repeats: shows that it works

- a batch, a training step on a given batch, and a whole iteration of both: ours, and PyTorch where it is installed
  (`pip install -e ".[torch]"`), as the notebook writes it and tuned; the iteration in naive JAX as well;
- many runs in one program, in training steps a second, its memory, and the naive `jax.vmap`;
- the time from a command to its first step, and the peak of memory, in processes of their own;
- the step against the device's limit: the rates of a matrix product and of a copy, measured here;
- each convolution of the network alone;
- how the cost of a step grows with image size, batch, width and number of steps.

Where segjax-native is installed, all this is measured with XLA's convolution as well.

Medians over repeats, taken in turns, with their range; compilation is reported apart. Expect the notebook's iteration
to take 100 times ours, or more. Takes about 6 minutes on 2 CPU cores with PyTorch, 4 without.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

import segjax
from experiments.bench import contenders, limits, timing
from experiments.bench.limits import Limits, Work
from experiments.bench.timing import Program, Timing
from experiments.lab import experiment
from experiments.lab.experiment import Lab
from experiments.lab.options import Command
from experiments.lab.report import Report, Table
from segjax import plotting
from segjax._checks import check_count, check_positive


@dataclass(frozen=True, kw_only=True)
class Options(Command):
    """Measures times, rates and memory, ours beside those of others."""

    image_size: int = 128
    """Height and width of the images, in pixels."""
    batch_size: int = 8
    """Images a batch."""
    steps: int = 5  # Training steps in each measurement, 2 in those of many runs.
    runs: tuple[int, ...] = (1, 4, 16, 64)  # Numbers of runs in one program.
    repeats: int = 5  # Measurements of each, taken in turns; the median counts.
    budget: float = 20.0
    """Seconds that the measurements of one program may take; a slow one gets fewer repeats, at least one."""
    torch: bool = True  # Measure PyTorch as well, where it is installed.
    growth: bool = True  # Measure how the cost grows with the sizes.
    out: Path = Path("results/benchmark")

    def check(self) -> None:
        super().check()
        check_count("--steps", self.steps, 1)
        check_count("--repeats", self.repeats, 1)
        check_positive("--budget", self.budget)
        for number in self.runs:
            check_count("--runs", number, 1)
        if not self.runs or len(set(self.runs)) < len(self.runs):
            raise ValueError(f"--runs must be different numbers, at least one, got {self.runs}")

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        # Else jax would take 75 % of a GPU's memory when it first computes. PyTorch, timed in this process as well,
        # would have a quarter, and cuDNN's fastest algorithms want memory. And `first_step`'s processes must find the
        # device free: jax is asked what it is before `work` begins, which so takes a CUDA context (some hundred MB) and
        # no more. The price: jax gets its memory piece by piece. It keeps what it has, and the first call of each
        # program, which does not count, gets what is missing; should a later one need more, the median passes over it.
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        with super().prepared():
            yield


PRESETS = {
    "notebook": Options(),
    "quick": Options(image_size=32, steps=2, runs=(1, 4), repeats=2, budget=5.0, torch=False, growth=False),
}
# The environment of a command as it was typed, for processes that are timed as commands.
TYPED = dict(os.environ)
# Steps of a measurement of many runs: 64 of them take long enough.
SWEEP_STEPS = 2
# The parts of one run; a fourth is the sweep of many.
PARTS = ("generation", "step", "iteration")
LAYERS = "layer"
Times = dict[tuple[str, str], Timing]


class Ratio(NamedTuple):
    """A quotient of two medians of one part, its goal, whether it should be above it, and where the goal holds."""

    name: str
    part: str
    over: str
    under: str
    goal: float | None = None
    above: bool = True
    platform: str | None = None


OURS, XLA = "ours", f"ours{contenders.XLA}"
NOTEBOOK, TUNED, SEPARABLE = "PyTorch, the notebook", "PyTorch, tuned", "PyTorch, separable"
CHANNELS_LAST, DENSE = "PyTorch, eager, channels_last", "naive JAX: dense convolutions"
NAIVE_LOOP, STEP_BY_STEP = "naive JAX: plain convolutions in the loop", "ours, step by step"
RATIOS = (
    Ratio("dense generation / ours", "generation", NOTEBOOK, OURS, 1000, platform="cpu"),
    Ratio("dense generation in JAX / ours", "generation", DENSE, OURS),
    Ratio("PyTorch's separable generation / ours", "generation", SEPARABLE, OURS),
    Ratio("the notebook's iteration / ours", "iteration", NOTEBOOK, OURS, 100),
    Ratio("naive iteration in JAX / ours", "iteration", NAIVE_LOOP, OURS),
    Ratio("tuned PyTorch's iteration / ours", "iteration", TUNED, OURS, 2, platform="gpu"),
    Ratio("loop / step by step", "iteration", OURS, STEP_BY_STEP, 1.1, above=False),
    Ratio("iteration / tuned PyTorch's", "iteration", OURS, TUNED, 0.55, above=False, platform="cpu"),
    Ratio("iteration / with XLA's convolution", "iteration", OURS, XLA, 0.5, above=False, platform="cpu"),
    Ratio("step / PyTorch's, channels_last", "step", OURS, CHANNELS_LAST, 1, above=False, platform="cpu"),
    Ratio("step / tuned PyTorch's", "step", OURS, TUNED),
)


class Found(NamedTuple):
    """Everything that was measured: whether PyTorch was, first steps, times, the device's rates, a step's work."""

    torch: bool
    starts: dict[str, dict[str, Any]]
    times: Times
    device: Limits
    step: Work


def work(options: Options, lab: Lab) -> Found:
    torch = options.torch and contenders.torch_is_installed()
    # In processes of their own, before this one computes anything: it would hold memory of the device.
    tuned = ["tuned"] if contenders.can_compile() else []
    with lab.console.status("the first step of a command"):
        names = ["ours", "notebook", *tuned] if torch else ["ours"]
        starts = {name: first_step(name, options) for name in names}
    # Each finds its GPU by itself. Times of two kinds of device are no comparison.
    torch = torch and starts["notebook"]["platform"] == starts["ours"]["platform"]
    device = limits.measured(lab.console, options.repeats, options.budget)
    step = limits.step(segjax.SegmentationCNN(), options.batch_size, options.image_size)
    return Found(torch, starts, measure(options, torch, lab.console), device, step)


def first_step(name: str, options: Options) -> dict[str, Any]:
    """Starts a process and waits for it: {"seconds" to its first step, "platform", and the peaks of memory}."""
    numbers = (options.batch_size, options.image_size, min(options.steps, SWEEP_STEPS))
    words = [sys.executable, "-m", "experiments.bench.first_step", name, *map(str, numbers)]
    start = time.time()
    done = subprocess.run(words, capture_output=True, text=True, env=TYPED)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": result.pop("moment") - start, **result}


def measure(options: Options, torch: bool, console: Console) -> Times:
    """(part, program) -> its times."""
    sizes = (options.batch_size, options.image_size)
    programs: dict[str, dict[str, Program]] = {
        "generation": contenders.generation(*sizes, torch),
        "step": contenders.step(*sizes, options.steps, torch),
        "iteration": contenders.iteration(*sizes, options.steps, torch),
        LAYERS: contenders.layers(*sizes),
        "sweep": contenders.sweeps(*sizes, min(options.steps, SWEEP_STEPS), options.runs),
    }
    if options.growth:
        programs |= {f"by {name}": chosen for name, chosen in contenders.growth(*sizes, options.steps).items()}
    times: Times = {}
    for part, chosen in programs.items():
        console.print(f"{part}:", highlight=False)
        timed = timing.measure(chosen, options.repeats, options.budget, console)
        times |= {(part, name): it for name, it in timed.items()}
    return times


def report(options: Options, found: Found) -> Report:
    times, bound = found.times, limits.as_dict(found.device, found.step, found.times["step", OURS].median)
    size = f"{options.batch_size} images of {options.image_size} x {options.image_size}"
    title = f"{size}: median and range of up to {options.repeats} repeats"
    ratios = quotients(times, options)
    tables = [
        times_table(times, title),
        ratio_table(ratios, found.starts, bound),
        sweep_table(times),
        start_table(found.starts),
        limit_table(found, bound),
        layer_table(found, options),
    ]
    if options.growth:
        tables.append(growth_table(times))
    shown = {f"{part}: {name}": 1e3 * np.array(it.seconds) for (part, name), it in times.items() if part in PARTS}
    figures = {"times": plotting.bars(shown, "time of a batch or a step (ms)", title)}
    rows = [
        {"part": part, "program": name, "repeat": repeat, "seconds": value, "compile_seconds": timed.compile_seconds}
        for (part, name), timed in times.items()
        for repeat, value in enumerate(timed.seconds)
    ]
    results = {
        "programs": [
            {"part": part, "name": name, "median": timed.median, **timed._asdict()}
            for (part, name), timed in times.items()
        ],
        "ratios": {name: value for name, value, _ in ratios},
        "first_steps": found.starts,
        "limits": bound,
        "pytorch": found.torch,
    }
    return Report([], tables, figures, results, rows, missing(found))


def missing(found: Found) -> list[str]:
    """Says which programs were not measured."""
    if not found.torch and "notebook" in found.starts:
        other, own = (found.starts[name]["platform"] for name in ("notebook", "ours"))
        return [f"PyTorch was measured up to its first step alone: it runs on a {other}, and jax on a {own}."]
    if not found.torch:
        return ["PyTorch was not measured."]
    sentence = "PyTorch tuned was not measured: it needs a C++ compiler and Python's headers."
    return [] if contenders.can_compile() else [sentence]


def quotients(times: Times, options: Options) -> list[tuple[str, float, str]]:
    """(name, value, goal in words) of every ratio whose two programs were measured."""
    platform, found = jax.default_backend(), []
    for name, part, over, under, number, above, where in RATIOS:
        if (part, over) in times and (part, under) in times:
            wanted = number is not None and where in (None, platform)
            goal = f"{'at least' if above else 'at most'} {number:g}" if wanted else ""
            found.append((name, times[part, over].median / times[part, under].median, goal))
    least, most = str(min(options.runs)), str(max(options.runs))
    single, many = times["sweep", least].median, times["sweep", most].median
    if platform == "gpu":
        many = times["sweep", f"side by side, {most}"].median
        found.append((f"steps a second: {most} runs side by side / {least}", single / many, "at least 5"))
    else:
        found.append((f"cost of a run: one of {most} / of {least}", many / single, "at most 1.05"))
    for name in (name for part, name in times if part == "sweep" and not name.isdecimal()):
        goal = "at most 1.5" if name.startswith("jax.vmap") else ""
        found.append((f"cost of a run: {name} / {least}", times["sweep", name].median / single, goal))
    return found


def times_table(times: Times, note: str) -> Table:
    rows = [
        [part, name, spread(timed), f"{timed.compile_seconds:.1f}"]
        for (part, name), timed in times.items()
        if part in PARTS
    ]
    headings = ("what", "program", "ms", "compiling (s)")
    return Table("Times of a batch or a step", headings, rows, f"{note}. Compiling: with the first call's excess.")


def ratio_table(
    ratios: list[tuple[str, float, str]], starts: dict[str, dict[str, Any]], bound: dict[str, Any]
) -> Table:
    rows = [[name, f"{value:.3g}", goal] for name, value, goal in ratios]
    rows.append(["seconds to the first step", f"{starts[OURS]['seconds']:.1f}", "at most 5"])
    goal = "at least 0.5" if jax.default_backend() == "gpu" else ""
    rows.append(["step: share of the device's limit", f"{bound['fraction']:.2f}", goal])
    return Table("Ratios", ("what", "measured", "goal, 128 x 128"), rows)


def sweep_table(times: Times) -> Table:
    rows = []
    for (part, name), timed in times.items():
        if part == "sweep":
            rows.append([name, f"{1 / timed.median:.2f}", spread(timed), megabytes(timed.temporary_bytes)])
            rows[-1].append(f"{timed.compile_seconds:.1f}")
    headings = ("runs", "steps a second", "ms a step", "temporary MB", "compiling (s)")
    note = "Numbers alone: segjax.sweep, one run after the other. Steps of all runs together."
    return Table("Many runs in one program", headings, rows, note)


def start_table(starts: dict[str, dict[str, Any]]) -> Table:
    rows = [
        [name, f"{start['seconds']:.1f}", megabytes(start["peak_bytes"]), megabytes(start["device_peak_bytes"])]
        for name, start in starts.items()
    ]
    headings = ("process", "s to the first step", "peak memory MB", "on the device MB")
    return Table("From a command to its first step", headings, rows, "Notebook and tuned are PyTorch's.")


def limit_table(found: Found, bound: dict[str, Any]) -> Table:
    rows = [
        ["matrix product, float32, 2048 x 2048", f"{found.device.flops / 1e9:.0f} GFLOP/s"],
        ["copy of 256 MB, read and written", f"{found.device.bytes / 1e9:.1f} GB/s"],
        ["operations of a step", f"{found.step.flops / 1e9:.2f} GFLOP"],
        ["least memory that a step moves", f"{found.step.bytes / 1e6:.0f} MB"],
        ["least time of a step", f"{milliseconds(bound['floor_seconds'])} ms"],
        ["share of the limit that is reached", f"{bound['fraction']:.2f}"],
    ]
    rounded = "The product is in TF32 where the GPU has it, unless JAX_DEFAULT_MATMUL_PRECISION says otherwise."
    note = rounded if jax.default_backend() == "gpu" else ""
    return Table("The device's limit", ("what", "measured"), rows, note)


def layer_table(found: Found, options: Options) -> Table:
    rows = []
    for widths in contenders.LAYERS:
        for suffix in ("", contenders.XLA):
            for way in contenders.WAYS:
                name = f"{contenders.layer(*widths, way)}{suffix}"
                if timed := found.times.get((LAYERS, name)):
                    flops = 2.0 * options.batch_size * options.image_size**2 * 25 * math.prod(widths)
                    rate = flops / timed.median
                    rows.append([name, spread(timed), f"{rate / 1e9:.0f}", f"{rate / found.device.flops:.2f}"])
    headings = ("channels, what", "ms", "GFLOP/s", "of the product's")
    note = "By inputs, by kernel: the gradients. FLOP: a product and a sum for each tap, however many are computed."
    return Table("Each convolution alone", headings, rows, note)


def growth_table(times: Times) -> Table:
    rows, first = [], {part: timed.median for (part, _), timed in reversed(times.items()) if part.startswith("by ")}
    for (part, value), timed in times.items():
        if part in first and not value.endswith(contenders.XLA):
            rows.append([part.removeprefix("by "), value, spread(timed), f"{timed.median / first[part]:.2f}"])
            if other := times.get((part, f"{value}{contenders.XLA}")):
                rows[-1].append(f"{timed.median / other.median:.2f}")
    headings = ("quantity", "value", "ms a step", "x its first", "x XLA's convolution")
    return Table("How the cost of an iteration grows", headings[: len(rows[0])], rows)


def spread(timed: Timing) -> str:
    low, high = milliseconds(min(timed.seconds)), milliseconds(max(timed.seconds))
    return f"{milliseconds(timed.median)}\n{low}-{high}"


def milliseconds(seconds: float) -> str:
    # A GPU draws a batch in a twentieth of one.
    return f"{1e3 * seconds:.1f}" if seconds >= 1e-2 else f"{1e3 * seconds:#.3g}"


def megabytes(number: int | None) -> str:
    return "" if number is None else f"{number / 1e6:.0f}"


if __name__ == "__main__":
    experiment.main()
