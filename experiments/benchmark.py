"""What do our choices cost and save here? Every time beside its peers, in one run, so that noise matters less.

    python -m experiments.benchmark                    the notebook's sizes
    python -m experiments.benchmark --preset quick     32 x 32, few repeats: shows that it works

- a batch, a training step on a batch that is there, and a whole iteration: ours, and PyTorch where it is installed
  (`pip install -e ".[torch]"`), as the notebook writes it and tuned; the iteration in naive JAX as well;
- many runs in one program, in training steps a second, its memory, and the naive `jax.vmap`;
- the time from a command to its first step, and the peak of memory, in processes of their own;
- the step against the device's limit: the rates of a matrix product and of a copy, measured here;
- how the cost of a step grows with image size, batch, width and number of steps.

Medians over repeats, taken in turns, with their range; compilation is reported apart. Expect the notebook's iteration
to take 100 times ours, or more. Takes about 6 minutes on 2 CPU cores with PyTorch, 4 without.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from rich.console import Console

import segjax
from experiments import command, contenders, first_step, folder, limits, output, timing
from experiments.limits import Limits, Work
from experiments.report import Report, Table, question
from experiments.timing import Program, Timing
from segjax import plotting
from segjax.checks import check_count, check_positive


@dataclass(frozen=True)
class Options:
    """Measures times, rates and memory, ours beside those of others."""

    preset: Literal["notebook", "quick"] = "notebook"
    """Defaults of all other options: the notebook's sizes, or small ones."""
    image_size: int = 128
    """Height and width of the images, in pixels."""
    batch_size: int = 8
    """Images a batch."""
    steps: int = 5
    """Training steps in each measurement, 2 in those of many runs."""
    runs: tuple[int, ...] = (1, 4, 16, 64)
    """Numbers of runs in one program."""
    repeats: int = 5
    """Measurements of each, taken in turns; the median counts."""
    budget: float = 20.0
    """Seconds that the measurements of one program may take; a slow one gets fewer repeats, at least one."""
    torch: bool = True
    """Measure PyTorch as well, where it is installed."""
    growth: bool = True
    """Measure how the cost grows with the sizes."""
    out: Path = Path("results/benchmark")
    """Folder for the figure, report.html, results.json and runs.csv."""
    overwrite: bool = False
    """Begin anew in a folder that already holds files: deletes the results that it holds."""


PRESETS = {
    "notebook": Options(),
    "quick": Options(
        preset="quick", image_size=32, steps=2, runs=(1, 4), repeats=2, budget=5.0, torch=False, growth=False
    ),
}
SWEEP_STEPS = 2
PARTS = ("generation", "step", "iteration", "sweep")


class Ratio(NamedTuple):
    """A quotient of two medians and what it should be; `above` where it should be at least that."""

    name: str
    over: tuple[str, str]
    under: tuple[str, str]
    goal: float | None
    above: bool
    # The platform that the goal is for; None for all.
    platform: str | None = None


OURS, NOTEBOOK, TUNED = "ours", "PyTorch, the notebook", "PyTorch, tuned"
CHANNELS_LAST, DENSE = "PyTorch, eager, channels_last", "naive JAX: dense convolutions"
NAIVE_LOOP = "naive JAX: plain convolutions in the loop"
RATIOS = (
    Ratio("dense generation / ours", ("generation", NOTEBOOK), ("generation", OURS), 1000, True, "cpu"),
    Ratio("dense generation in JAX / ours", ("generation", DENSE), ("generation", OURS), None, True),
    Ratio(
        "PyTorch's separable generation / ours", ("generation", "PyTorch, separable"), ("generation", OURS), None, True
    ),
    Ratio("the notebook's iteration / ours", ("iteration", NOTEBOOK), ("iteration", OURS), 100, True),
    Ratio("naive iteration in JAX / ours", ("iteration", NAIVE_LOOP), ("iteration", OURS), None, True),
    Ratio("tuned PyTorch's iteration / ours", ("iteration", TUNED), ("iteration", OURS), 2, True, "gpu"),
    Ratio("loop / step by step", ("iteration", OURS), ("iteration", "ours, step by step"), 1.1, False),
    Ratio("step / PyTorch's, channels_last", ("step", OURS), ("step", CHANNELS_LAST), 1, False, "cpu"),
    Ratio("step / tuned PyTorch's", ("step", OURS), ("step", TUNED), None, False),
)


def main(options: Options) -> None:
    with command.usage_errors():
        for name, minimum in (("image_size", 2), ("batch_size", 1), ("steps", 1), ("repeats", 1)):
            check_count(command.flag(name), getattr(options, name), minimum)
        check_positive("--budget", options.budget)
        for number in options.runs:
            check_count("--runs", number, 1)
        if not options.runs or len(set(options.runs)) < len(options.runs):
            raise ValueError(f"--runs must be different numbers, at least one, got {options.runs}")
    folder.claim(options)
    console = Console()
    torch = options.torch and contenders.torch_is_installed()
    device = limits.measured(console, options.repeats)
    # Before this process fills the memory.
    starts = first_steps(options, torch, console)
    times = measure(options, torch, console)
    work = limits.step(segjax.SegmentationCNN(), options.batch_size, options.image_size)
    ratios = quotients(times, options)
    bound = limits.as_dict(device, work, times[("step", OURS)].median)
    tables = [
        times_table(times, title(options)),
        ratio_table(ratios, starts, bound),
        sweep_table(times),
        start_table(starts),
        limit_table(device, work, bound),
    ]
    if options.growth:
        tables.append(growth_table(times))
    milliseconds = {
        f"{part}: {name}": 1e3 * np.array(timed.seconds) for (part, name), timed in times.items() if part in PARTS[:3]
    }
    figure = plotting.bars(milliseconds, "time of a batch or a step (ms)", title(options))
    rows = [
        {"part": part, "program": name, "repeat": repeat, "seconds": value, "compile_seconds": timed.compile_seconds}
        for (part, name), timed in times.items()
        for repeat, value in enumerate(timed.seconds)
    ]
    results = {
        "experiment": "benchmark",
        "programs": [
            {"part": part, "name": name, "median": timed.median, **timed._asdict()}
            for (part, name), timed in times.items()
        ],
        "ratios": {name: value for name, value, _ in ratios},
        "first_steps": starts,
        "limits": bound,
        "pytorch": torch,
    }
    report = Report(question(__doc__), [], tables, {"times": figure}, missing(torch))
    output.finish(options, results, rows, report, console)


def missing(torch: bool) -> list[str]:
    """What was not measured."""
    if not torch:
        return ["PyTorch was not measured."]
    return [] if contenders.can_compile() else ["PyTorch tuned was not measured: it needs a C++ compiler."]


def title(options: Options) -> str:
    size = f"{options.batch_size} images of {options.image_size} x {options.image_size}"
    return f"{size}: median and range of up to {options.repeats} repeats"


Times = dict[tuple[str, str], Timing]


def measure(options: Options, torch: bool, console: Console) -> Times:
    """(part, program) -> its times."""
    sizes = (options.batch_size, options.image_size)
    programs: dict[str, dict[Any, Program]] = {
        "generation": contenders.generation(*sizes, torch),
        "step": contenders.step(*sizes, options.steps, torch),
        "iteration": contenders.iteration(*sizes, options.steps, torch),
        "sweep": contenders.sweeps(*sizes, min(options.steps, SWEEP_STEPS), options.runs),
    }
    if options.growth:
        programs |= {f"by {name}": chosen for name, chosen in contenders.growth(*sizes, options.steps).items()}
    times: Times = {}
    for part, chosen in programs.items():
        console.print(f"{part}:", highlight=False)
        timed = timing.measure({str(name): it for name, it in chosen.items()}, options.repeats, options.budget, console)
        times |= {(part, name): it for name, it in timed.items()}
    return times


def first_steps(options: Options, torch: bool, console: Console) -> dict[str, dict[str, Any]]:
    names = [name for name in first_step.NAMES if name == OURS or torch]
    if not contenders.can_compile():
        names = [name for name in names if name != "tuned"]
    with console.status("the first step of a command"):
        return {
            name: first_step.measured(name, options.batch_size, options.image_size, min(options.steps, SWEEP_STEPS))
            for name in names
        }


def quotients(times: Times, options: Options) -> list[tuple[str, float, str]]:
    """(what, its value, its goal in words) of all that was measured."""
    platform, found = jax.default_backend(), []
    for ratio in RATIOS:
        if ratio.over in times and ratio.under in times:
            wanted = ratio.goal is not None and ratio.platform in (None, platform)
            goal = f"{'at least' if ratio.above else 'at most'} {ratio.goal:g}" if wanted else ""
            found.append((ratio.name, times[ratio.over].median / times[ratio.under].median, goal))
    least, most = str(min(options.runs)), str(max(options.runs))
    single, many = times[("sweep", least)].median, times[("sweep", most)].median
    if platform == "gpu":
        found.append((f"steps a second: {most} runs / {least}", single / many, "at least 5"))
    else:
        found.append((f"cost of a run: one of {most} / of {least}", many / single, "at most 1.05"))
    for name in (name for part, name in times if part == "sweep" and not name.isdecimal()):
        goal = "at most 1.5" if name.startswith("jax.vmap") else ""
        found.append((f"cost of a run: {name} / {least}", times[("sweep", name)].median / single, goal))
    return found


def times_table(times: Times, note: str) -> Table:
    rows = [
        [part, name, spread(timed), f"{timed.compile_seconds:.1f}"]
        for (part, name), timed in times.items()
        if part in PARTS[:3]
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
    rows = [
        [
            name,
            f"{1 / timed.median:.2f}",
            spread(timed),
            megabytes(timed.temporary_bytes),
            f"{timed.compile_seconds:.1f}",
        ]
        for (part, name), timed in times.items()
        if part == "sweep"
    ]
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


def limit_table(device: Limits, work: Work, bound: dict[str, Any]) -> Table:
    rows = [
        ["matrix product, float32, 2048 x 2048", f"{device.flops / 1e9:.0f} GFLOP/s"],
        ["copy of 256 MB, read and written", f"{device.bytes / 1e9:.1f} GB/s"],
        ["operations of a step", f"{work.flops / 1e9:.2f} GFLOP"],
        ["least memory that a step moves", f"{work.bytes / 1e6:.0f} MB"],
        ["least time of a step", f"{1e3 * bound['floor_seconds']:.1f} ms"],
        ["share of the limit that is reached", f"{bound['fraction']:.2f}"],
    ]
    return Table("The device's limit", ("what", "measured"), rows)


def growth_table(times: Times) -> Table:
    rows, first = [], {part: timed.median for (part, _), timed in reversed(times.items()) if part.startswith("by ")}
    for (part, value), timed in times.items():
        if part in first:
            rows.append([part.removeprefix("by "), value, spread(timed), f"{timed.median / first[part]:.2f}"])
    return Table("How the cost of an iteration grows", ("quantity", "value", "ms a step", "x its first"), rows)


def spread(timed: Timing) -> str:
    low, high = 1e3 * min(timed.seconds), 1e3 * max(timed.seconds)
    return f"{1e3 * timed.median:.1f}\n{low:.1f}-{high:.1f}"


def megabytes(number: int | None) -> str:
    return "" if number is None else f"{number / 1e6:.0f}"


if __name__ == "__main__":
    command.run(main, Options, PRESETS)
