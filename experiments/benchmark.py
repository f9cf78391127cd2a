"""What do our choices cost and save here? Our times and those of peers, taken in turns so that noise matters less.

    python -m experiments.benchmark             the notebook's sizes
    python -m experiments.benchmark quick       32 x 32, few repeats: shows that it works

- a batch, a training step on a given batch, and an iteration, which is both: ours, and PyTorch if it is installed
  (`pip install -e ".[torch]"`), as in the notebook and tuned; the iteration also in naive JAX;
- many runs in one program: training steps per second and memory; also the naive `jax.vmap`;
- the time from a command to its first step, and the peak memory, in separate processes;
- the step compared with the device's limit: the rates of a matrix product and of a copy, measured here;
- each convolution of the network alone;
- how the cost of a step grows with image size, batch size, channels and number of steps.

If segjax-native is installed, all this is also measured with XLA's convolution.

The report has medians and ranges over repeats; compilation has its own column. Expect the notebook's iteration to take
100 times as long as ours, or longer. Takes about 6 minutes on 2 CPU cores with PyTorch, 4 without.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import segjax
from experiments.bench import contenders, limits, timing
from experiments.bench.limits import Limits, Work
from experiments.bench.timing import Program, Timing
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
    budget: float = 20.0
    """Seconds that the measurements of one program may take; a slow program gets fewer repeats, at least one."""
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
        # is timed in this process as well and whose fastest cuDNN algorithms need memory. The processes of `first_step`
        # need the device, too: jax is asked for it before they start, and now takes only a CUDA context of some hundred
        # MB. The price: jax allocates piece by piece. It keeps what it has, so that programs allocate in their first
        # call, which does not count; the median ignores the exceptions.
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        with super().prepared():
            yield


PRESETS = {
    "notebook": Options(),
    "quick": Options(image_size=32, steps=2, runs=(1, 4), repeats=2, budget=5.0, torch=False, growth=False),
}
# The environment before `prepared` changes it: the processes of `first_step` are timed like commands of a user.
ENVIRONMENT = dict(os.environ)
# Steps in measurements of many runs: 64 runs take long enough.
SWEEP_STEPS = 2
# The parts of one run; the other parts are its convolutions and sweeps of many runs.
PARTS, LAYER, SWEEP = ("generation", "step", "iteration"), "layer", "sweep"
# Part -> program -> its times.
Times = Mapping[str, Mapping[str, Timing]]
# Process -> its seconds to the first step, its platform and its peak memory.
Starts = Mapping[str, Mapping[str, Any]]


class Ratio(NamedTuple):
    """A ratio of two programs' medians in one part. The goal is a minimum if `above`, and holds only on `platform`."""

    name: str
    part: str
    over: str
    under: str
    goal: float | None = None
    above: bool = True
    platform: str | None = None


class Quotient(NamedTuple):
    """The value of a ratio, and its goal as text."""

    name: str
    value: float
    goal: str = ""


OURS, XLA = "ours", contenders.with_xla("ours")
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


def answer(options: Options, lab: Lab) -> Report:
    torch = options.torch and contenders.torch_is_installed()
    tuned = ["tuned"] if contenders.can_compile() else []
    # Before this process computes anything: otherwise it would hold memory of the device.
    with lab.progress() as progress:
        names = ["ours", "notebook", *tuned] if torch else ["ours"]
        tracked = progress.track(names, description="the first step of a command")
        starts = {name: first_step(name, options) for name in tracked}
    # jax and PyTorch look for a GPU independently, and times on different devices do not compare.
    torch = torch and starts["notebook"]["platform"] == starts["ours"]["platform"]
    device = limits.measure(lab, options.repeats, options.budget)
    step = limits.step(segjax.SegmentationCNN(), options.batch_size, options.image_size)
    times = measure(parts(options, torch), options, lab)
    programs = contenders.growth(options.batch_size, options.image_size, options.steps) if options.growth else {}
    growth = measure(programs, options, lab)
    bound = limits.as_dict(device, step, times["step"][OURS].median)
    ratios = quotients(times, options)
    images = f"{options.batch_size} images of {options.image_size} x {options.image_size}"
    title = f"{images}: median and range of up to {options.repeats} repeats"
    tables = [
        times_table(times, title),
        ratio_table(ratios, starts, bound),
        sweep_table(times[SWEEP]),
        start_table(starts),
        limit_table(device, step, bound),
        layer_table(times[LAYER], device, options),
    ]
    all_times = {**times, **{f"by {quantity}": by_value for quantity, by_value in growth.items()}}
    return Report(
        [],
        tables + ([growth_table(growth)] if growth else []),
        {"times": times_drawing(times, title)},
        results={
            "programs": program_documents(all_times),
            "ratios": {ratio.name: ratio.value for ratio in ratios},
            "first_steps": starts,
            "limits": bound,
            "pytorch": torch,
        },
        rows=repeat_rows(all_times),
        warnings=missing(torch, starts),
    )


def first_step(name: str, options: Options) -> dict[str, Any]:
    """Starts a process and waits for it: {"seconds" to its first step, "platform", and peak memory}."""
    sizes = (options.batch_size, options.image_size, min(options.steps, SWEEP_STEPS))
    command = [sys.executable, "-m", "experiments.bench.first_step", name, *map(str, sizes)]
    start = time.time()
    process = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{process.stderr}")
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return {"seconds": result.pop("moment") - start, **result}


def parts(options: Options, torch: bool) -> dict[str, dict[str, Program]]:
    sizes = (options.batch_size, options.image_size)
    return {
        "generation": contenders.generation(*sizes, torch),
        "step": contenders.step(*sizes, options.steps, torch),
        "iteration": contenders.iteration(*sizes, options.steps, torch),
        LAYER: contenders.layers(*sizes),
        SWEEP: contenders.sweeps(*sizes, min(options.steps, SWEEP_STEPS), options.runs),
    }


def measure(programs: Mapping[str, Mapping[str, Program]], options: Options, lab: Lab) -> Times:
    times = {}
    for part, by_name in programs.items():
        lab.say(f"{part}:")
        times[part] = timing.measure(by_name, options.repeats, options.budget, lab)
    return times


def missing(torch: bool, starts: Starts) -> list[str]:
    """Warnings about programs that were not measured."""
    if not torch and "notebook" in starts:
        other, ours = (starts[name]["platform"] for name in ("notebook", "ours"))
        return [f"PyTorch was measured up to its first step alone: it runs on a {other}, and jax on a {ours}."]
    if not torch:
        return ["PyTorch was not measured."]
    sentence = "PyTorch tuned was not measured: it needs a C++ compiler and Python's headers."
    return [] if contenders.can_compile() else [sentence]


def quotients(times: Times, options: Options) -> list[Quotient]:
    """Every ratio whose two programs were measured."""
    platform, ratios = jax.default_backend(), []
    for ratio in RATIOS:
        over, under = times[ratio.part].get(ratio.over), times[ratio.part].get(ratio.under)
        if over and under:
            applies = ratio.goal is not None and ratio.platform in (None, platform)
            goal = f"{'at least' if ratio.above else 'at most'} {ratio.goal:g}" if applies else ""
            ratios.append(Quotient(ratio.name, over.median / under.median, goal))
    fewest, most = min(options.runs), max(options.runs)
    medians = {name: timed.median for name, timed in times[SWEEP].items()}
    base = medians[str(fewest)]
    if platform == "gpu":
        speedup = base / medians[contenders.wide_name(most)]
        ratios.append(Quotient(f"steps per second: {most} runs side by side / {fewest}", speedup, "at least 5"))
    else:
        cost = medians[str(most)] / base
        ratios.append(Quotient(f"cost of a run: one of {most} / of {fewest}", cost, "at most 1.05"))
    goals = {contenders.vmap_name(contenders.few_runs(options.runs)): "at most 1.5"}
    return ratios + [
        Quotient(f"cost of a run: {name} / {fewest}", median / base, goals.get(name, ""))
        for name, median in medians.items()
        if name not in map(str, options.runs)
    ]


def program_documents(times: Times) -> list[dict[str, Any]]:
    """The entry of each program in results.json."""
    return [
        {"part": part, "name": name, "median": timed.median, **timed._asdict()}
        for part, by_name in times.items()
        for name, timed in by_name.items()
    ]


def repeat_rows(times: Times) -> list[dict[str, Any]]:
    """The rows of runs.csv: one per program and repeat."""
    return [
        {"part": part, "program": name, "repeat": repeat, "seconds": value, "compile_seconds": timed.compile_seconds}
        for part, by_name in times.items()
        for name, timed in by_name.items()
        for repeat, value in enumerate(timed.seconds)
    ]


def times_drawing(times: Times, title: str) -> Drawing:
    bars = {f"{part}: {name}": 1e3 * np.array(timed.seconds) for part in PARTS for name, timed in times[part].items()}
    return Drawing("Time of each program", plotting.bars(bars, "time of a batch or a step (ms)", title))


def times_table(times: Times, note: str) -> Table:
    rows = [
        [part, name, spread(timed), f"{timed.compile_seconds:.1f}"]
        for part in PARTS
        for name, timed in times[part].items()
    ]
    headings = ("what", "program", "ms", "compiling (s)")
    return Table("Times of a batch or a step", headings, rows, f"{note}. Compiling: with the first call's excess.")


def ratio_table(ratios: Sequence[Quotient], starts: Starts, bound: Mapping[str, Any]) -> Table:
    rows = [[name, f"{value:.3g}", goal] for name, value, goal in ratios]
    rows.append(["seconds to the first step", f"{starts[OURS]['seconds']:.1f}", "at most 5"])
    goal = "at least 0.5" if jax.default_backend() == "gpu" else ""
    rows.append(["step: share of the device's limit", f"{bound['fraction']:.2f}", goal])
    return Table("Ratios", ("what", "measured", "goal, 128 x 128"), rows)


def sweep_table(times: Mapping[str, Timing]) -> Table:
    rows = [
        [
            name,
            f"{1 / timed.median:.2f}",
            spread(timed),
            megabytes(timed.temporary_bytes),
            f"{timed.compile_seconds:.1f}",
        ]
        for name, timed in times.items()
    ]
    headings = ("runs", "steps per second", "ms per step", "temporary MB", "compiling (s)")
    note = "Numbers alone: segjax.sweep, one run after the other. Steps of all runs together."
    return Table("Many runs in one program", headings, rows, note)


def start_table(starts: Starts) -> Table:
    rows = [
        [name, f"{start['seconds']:.1f}", megabytes(start["peak_bytes"]), megabytes(start["device_peak_bytes"])]
        for name, start in starts.items()
    ]
    headings = ("process", "s to the first step", "peak memory MB", "on the device MB")
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
    rounded = "The product is in TF32 where the GPU has it, unless JAX_DEFAULT_MATMUL_PRECISION says otherwise."
    note = rounded if jax.default_backend() == "gpu" else ""
    return Table("The device's limit", ("what", "measured"), rows, note)


def layer_table(times: Mapping[str, Timing], device: Limits, options: Options) -> Table:
    rows = []
    for channels in contenders.LAYERS:
        flops = 2.0 * options.batch_size * options.image_size**2 * 25 * math.prod(channels)
        names = [contenders.layer(*channels, part) for part in contenders.PARTS]
        for name in names + [contenders.with_xla(name) for name in names]:
            if timed := times.get(name):
                rate = flops / timed.median
                rows.append([name, spread(timed), f"{rate / 1e9:.0f}", f"{rate / device.flops:.2f}"])
    headings = ("channels, what", "ms", "GFLOP/s", "share of the product's")
    note = (
        "Gradients with respect to the inputs and to the kernel. FLOP: a product and a sum for each tap, however many "
        "are computed."
    )
    return Table("Each convolution alone", headings, rows, note)


def growth_table(growth: Times) -> Table:
    rows = []
    for quantity, times in growth.items():
        xla_names = {name: contenders.with_xla(name) for name in times}
        values = [name for name in times if name not in xla_names.values()]
        for value in values:
            factor = times[value].median / times[values[0]].median
            rows.append([quantity, value, spread(times[value]), f"{factor:.2f}"])
            if by_xla := times.get(xla_names[value]):
                rows[-1].append(f"{times[value].median / by_xla.median:.2f}")
    headings = ("quantity", "value", "ms per step", "x its first", "x XLA's convolution")
    return Table("How the cost of an iteration grows", headings[: len(rows[0])], rows)


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
