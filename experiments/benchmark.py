"""What do our choices cost and save here? Ratios, each measured in one run, so that a noisy machine matters less.

    python -m experiments.benchmark                    the notebook's sizes
    python -m experiments.benchmark --preset quick     32 x 32, few repeats: shows that it works

- a batch by banded matrix products against the notebook's dense convolutions (PyTorch's where it is installed);
- an iteration inside the compiled loop against a jitted step with the generation outside;
- a sweep of 4 runs, by `segjax.sweep` and by a plain `jax.vmap`, against 4 single runs.

Expect at least 1000, at most 1.1, at most 1.1 and at most 1.5. Takes about 4 minutes on 2 CPU cores.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from rich.console import Console
from rich.progress import track

import segjax
from experiments import command, folder, output
from experiments.report import Report, Table, question
from segjax import plotting
from segjax.checks import check_count
from segjax.optimizers import adam
from segjax.training import train_step

RUNS, RATE, SIGMAS = 4, 1e-3, (0.2, 1.2)
DENSE = "dense generation"


@dataclass(frozen=True)
class Options:
    """Measures speed as ratios, medians over repeats, compilation left out."""

    preset: Literal["notebook", "quick"] = "notebook"
    """Defaults of all other options: the notebook's sizes, or small ones."""
    image_size: int = 128
    """Height and width of the images, in pixels."""
    batch_size: int = 8
    """Images a batch."""
    steps: int = 5
    """Training steps in each measurement."""
    repeats: int = 5
    """Measurements of each, taken in turns; the median counts."""
    out: Path = Path("results/benchmark")
    """Folder for the figure, report.html, results.json and runs.csv."""
    overwrite: bool = False
    """Begin anew in a folder that already holds files: deletes the results that it holds."""


PRESETS = {"notebook": Options(), "quick": Options(preset="quick", image_size=32, steps=2, repeats=2)}

# name -> (numerator, denominator, goal)
RATIOS = {
    "dense generation / ours": (DENSE, "generation", "at least 1000"),
    "loop / step + generation": ("iteration in the loop", "step + generation", "at most 1.1"),
    "sweep of 4 / 4 single runs": ("sweep of 4 runs", "4 single runs", "at most 1.05"),
    "sweep of 4, side by side / 4 single runs": ("sweep of 4 runs, side by side", "4 single runs", "none"),
    "vmap of 4 / 4 single runs": ("vmap of 4 runs", "4 single runs", "at most 1.5"),
}


def main(options: Options) -> None:
    with command.usage_errors():
        for name, minimum in (("image_size", 2), ("batch_size", 1), ("steps", 1), ("repeats", 1)):
            check_count(command.flag(name), getattr(options, name), minimum)
    folder.claim(options)
    console = Console()
    seconds = measure(programs(options), options.repeats, console)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {name: medians[over] / medians[under] for name, (over, under, _) in RATIOS.items()}
    rows = [
        {"program": name, "repeat": repeat, "seconds": value}
        for name, values in seconds.items()
        for repeat, value in enumerate(values)
    ]
    results = {"experiment": "benchmark", "seconds": seconds, "medians": medians, "ratios": ratios}
    milliseconds = {name: 1e3 * np.array(values) for name, values in seconds.items()}
    figure = plotting.bars(milliseconds, "time (ms)", title(options))
    report = Report(question(__doc__), [], [table(seconds, ratios, title(options))], {"times": figure})
    output.finish(options, results, rows, report, console)


def title(options: Options) -> str:
    size = f"{options.batch_size} images of {options.image_size} x {options.image_size}"
    return f"Median and range of {options.repeats} repeats, {size}; runs of {options.steps} steps"


def programs(options: Options) -> dict[str, Callable[[], Any]]:
    """What is timed: functions without arguments, to be called again and again."""
    sizes: dict[str, Any] = {
        "batch_size": options.batch_size,
        "image_size": options.image_size,
        "sigma": options.image_size / 5,
    }
    model, key, rate = segjax.SegmentationCNN(), jax.random.key(0), jnp.float32(RATE)
    keys = jax.random.split(key, RUNS)
    generate = jax.jit(partial(segjax.generate_data, **sizes))
    step = jax.jit(partial(train_step, model, adam, segjax.losses.mean_squared_error))
    fit = segjax.make_fit(model, num_steps=options.steps, chunk_size=options.steps, **sizes)
    train = segjax.make_train(model, num_steps=options.steps, **sizes)
    single = jax.jit(train)
    sweep = jax.jit(lambda keys, rate: segjax.sweep(train, keys, rate[None]))
    wide = jax.jit(lambda keys, rate: segjax.sweep(train, keys, rate[None], batch_size=RUNS))
    vmapped = jax.jit(jax.vmap(train, in_axes=(0, None)))
    initial = fit.init(key, rate)

    def step_by_step() -> Any:
        state = initial
        for index in range(options.steps):
            state, _ = step(state, generate(jax.random.fold_in(key, index)), rate)
        return state

    return {
        **dense_generation(options),
        "generation": lambda: generate(key),
        "step + generation": step_by_step,
        "iteration in the loop": lambda: fit.advance(key, fit.init(key, rate), rate, options.steps),
        "4 single runs": lambda: [single(key, rate) for key in keys],
        "sweep of 4 runs": lambda: sweep(keys, rate),
        "sweep of 4 runs, side by side": lambda: wide(keys, rate),
        "vmap of 4 runs": lambda: vmapped(keys, rate),
    }


def dense_generation(options: Options) -> dict[str, Callable[[], Any]]:
    """The notebook's four n x n convolutions of a batch: PyTorch's where it is installed, else XLA's.

    PyTorch's padding="same", as the notebook writes it, leaves the fast path: padding by hand is several times faster.
    """
    size, sigmas = options.image_size, (*SIGMAS, options.image_size / 5, 1.0)
    kernels = [np.array(segjax.gaussian_kernel(size, sigma)) for sigma in sigmas]
    fields = np.random.default_rng(0).normal(size=(options.batch_size, size, size)).astype(np.float32)
    if find_spec("torch") is None:
        padding = [((size - 1) // 2, size // 2)] * 2
        correlate = partial(lax.conv_general_dilated, window_strides=(1, 1), padding=padding)

        @jax.jit
        def convolve(fields: jax.Array, kernel: jax.Array) -> jax.Array:
            # One image at a time: XLA unfolds an image into size^4 numbers, 1 GB at 128 x 128.
            return lax.map(lambda field: correlate(field[None, None], kernel[None, None]), fields)

        return {DENSE: lambda: [convolve(fields, kernel) for kernel in kernels]}

    import torch

    # PyTorch warns that padding="same" may copy its input for an even kernel.
    warnings.filterwarnings("ignore", message="Using padding='same'", category=UserWarning)
    images = torch.from_numpy(fields)[:, None]
    weights = [torch.from_numpy(kernel)[None, None] for kernel in kernels]
    left, right = (size - 1) // 2, size // 2
    pad = partial(torch.nn.functional.pad, pad=(left, right, left, right))
    return {
        DENSE: lambda: [torch.nn.functional.conv2d(images, weight, padding="same") for weight in weights],
        "dense, padded by hand": lambda: [torch.nn.functional.conv2d(pad(images), weight) for weight in weights],
    }


def measure(programs: dict[str, Callable[[], Any]], repeats: int, console: Console) -> dict[str, list[float]]:
    """Seconds of each program, in turns, after one call that compiles."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for repeat in track(range(-1, repeats), "measuring", console=console):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program())
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def table(seconds: dict[str, list[float]], ratios: dict[str, float], caption: str) -> Table:
    rows = []
    for name, values in seconds.items():
        milliseconds = [1e3 * value for value in (statistics.median(values), min(values), max(values))]
        rows.append([name, "{:.1f} ms\n{:.1f}-{:.1f}".format(*milliseconds), ""])
    rows += [[name, f"{ratio:.4g}", RATIOS[name][2]] for name, ratio in ratios.items()]
    return Table("Times and ratios", ("what", "measured", "goal, 128 x 128"), rows, caption)


if __name__ == "__main__":
    command.run(main, Options, PRESETS)
