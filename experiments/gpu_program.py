"""What would a GPU run? The compiled programs of training, read without a GPU at hand.

    python -m experiments.gpu_program                      the notebook's network under Adam, for an H100
    python -m experiments.gpu_program --gpu a100 --hlo     for another GPU, and the programs themselves
    python -m experiments.gpu_program --preset quick       32 x 32 images, fewer programs

XLA compiles for a GPU that is not there. Of `train`, `jax.vmap(train)`, `sweep` at several widths and `evaluate` this
tells the launches in one turn of the loop, every convolution, whether the compiler knows the loop's length, and the
memory of temporaries. No time comes out of it. The least time is a bound from shapes and data sheets: the operations
at the GPU's peak, or the bytes at its full bandwidth, whichever takes longer. It assumes that every tap is multiplied
and that each array goes through the GPU's memory once.

It needs jax's CUDA plugin (`pip install ".[experiments,gpu-program]"` in an environment of its own, 5.6 GB), but no
GPU; without the plugin it shows the convolutions as they are lowered, before XLA chooses how to run them. On 2 CPU
cores each program takes 10 to 20 s.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import segjax
from experiments.bench import compiled, gpus, limits
from experiments.bench.compiled import Compiled, Convolution
from experiments.bench.limits import Work
from experiments.lab import experiment
from experiments.lab.experiment import Lab
from experiments.lab.names import ARCHITECTURES
from experiments.lab.options import Images
from experiments.lab.report import Report, Table
from segjax import OPTIMIZERS, plotting
from segjax._checks import check_count

KINDS = ("fusions", "cuDNN", "products", "copies", "others")
INSTALL = "pip install '.[experiments,gpu-program]' in an environment of its own"


@dataclass(frozen=True, kw_only=True)
class Options(Images):
    """Compiles training for a GPU that need not be there, and tells what it would run."""

    gpu: str = "h100"
    """h100, h200, a100, or a JSON file with the facts of another, named as in experiments/bench/gpus.py."""
    architecture: str = "notebook"  # Name of a network, such as notebook, separate_norm or unet.
    optimizer: str = "adam"  # One of sgd, momentum, rmsprop, adam.
    iterations: int = 1000  # Training steps of a run.
    runs: int = 4  # Runs of jax.vmap.
    widths: tuple[int, ...] = (1, 8, 64)  # Runs side by side in a sweep; each width is a program.
    hlo: bool = False  # Write the compiled programs as well.
    out: Path = Path("results/gpu_program")

    def inputs(self) -> list[Path]:
        return [] if self.gpu in gpus.GPUS else [Path(self.gpu)]

    def check(self) -> None:
        super().check()
        gpus.find(self.gpu)
        check_count("--runs", self.runs, 1)
        for width in self.widths:
            check_count("--widths", width, 1)
        if len(set(self.widths)) < len(self.widths):
            raise ValueError(f"--widths must be different numbers, got {self.widths}")

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        # What follows in this process may want the GPU that is hidden here.
        before = dict(os.environ)
        os.environ.update(compiled.ENVIRONMENT)
        # A jaxlib without CUDA does not know the flag, and would end the process.
        if compiled.plugin_is_installed():
            os.environ["XLA_FLAGS"] = f"{before.get('XLA_FLAGS', '')} {compiled.FLAGS}".strip()
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


PRESETS = {"notebook": Options(), "quick": Options(image_size=32, sigma=6.4, runs=2, widths=(1, 2))}


class Program(NamedTuple):
    """A function to compile, the runs that it trains at once, and what one turn of its loop asks for in each."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    runs: int
    work: Work

    @property
    def total(self) -> Work:
        """What one turn asks for in all runs."""
        return Work(0, 0).plus(self.work, self.runs)


class Read(NamedTuple):
    """What was read of a program; `compiled` is None without the plugin."""

    program: Program
    convolutions: Counter[Convolution]
    compiled: Compiled | None


def programs(options: Options) -> dict[str, Program]:
    model, optimizer = ARCHITECTURES[options.architecture], OPTIMIZERS[options.optimizer]
    sizes: dict[str, Any] = {"batch_size": options.batch_size, "image_size": options.image_size, "sigma": options.sigma}
    train = segjax.make_train(model, optimizer=optimizer, num_steps=options.iterations, **sizes)
    key, rate = jax.random.key(options.seed), jnp.float32(1e-3)
    step = limits.step(model, options.batch_size, options.image_size)
    keys = jax.random.split(key, max((*options.widths, options.runs)))
    found = {"train": Program(train, (key, rate), 1, step)}
    found[f"vmap, {options.runs} run{'s' * (options.runs > 1)}"] = Program(
        jax.vmap(train, (0, None)), (keys[: options.runs], rate), options.runs, step
    )
    for width in options.widths:
        sweep = partial(segjax.sweep, train, width=width)
        found[f"sweep, width {width}"] = Program(sweep, (keys, jnp.full(1, rate)), width, step)
    image = jnp.zeros((options.batch_size, options.image_size, options.image_size, 1))
    variables = jax.eval_shape(model.init, key, image)
    prediction = limits.prediction(model, options.batch_size, options.image_size)

    def evaluate(variables: Any, key: jax.Array) -> segjax.metrics.Counts:
        return segjax.evaluate(key, model, variables, **sizes)

    found["evaluate"] = Program(evaluate, (variables, key), 1, prediction)
    return found


def work(options: Options, lab: Lab) -> dict[str, Read]:
    found, chosen = {}, programs(options)
    target = gpus.target(gpus.find(options.gpu)) if compiled.plugin_is_installed() else None
    for number, (name, program) in enumerate(chosen.items(), 1):
        with lab.console.status(f"{name} ({number} of {len(chosen)})"):
            if target:
                made = compiled.compile_for(target, program.function, *program.arguments)
                found[name] = Read(program, made.loop.convolutions, made)
            else:
                lowered = compiled.lowered_convolutions(program.function, *program.arguments)
                found[name] = Read(program, lowered, None)
    return found


def report(options: Options, found: dict[str, Read]) -> Report:
    gpu = gpus.find(options.gpu)
    least = {name: least_seconds(gpu, read.program) for name, read in found.items()}
    results = {
        "gpu": gpu._asdict(),
        "plugin": compiled.plugin_is_installed(),
        "programs": [_document(name, read, least[name]) for name, read in found.items()],
    }
    rows = [_row(name, read, least[name]) for name, read in found.items()]
    tables = [least_table(gpu, found, least), convolution_table(found)]
    warnings = ["No GPU was measured: the least times are bounds from shapes and data sheets."]
    figures = {"least_times": least_figure(options, gpu, least)}
    if compiled.plugin_is_installed():
        tables.insert(0, launch_table(found))
        figures["launches"] = launch_figure(options, gpu, found)
    else:
        warnings.insert(0, f"jax's CUDA plugin is missing, so nothing was compiled: {INSTALL}.")
    files = {f"{_file(name)}.hlo": read.compiled.text.encode() for name, read in found.items() if read.compiled}
    return Report(findings(found), tables, figures, results, rows, warnings, files if options.hlo else {})


def least_seconds(gpu: gpus.Gpu, program: Program) -> dict[str, float]:
    """precision -> the least seconds of one turn of the loop, of all its runs."""
    return {precision: program.total.floor(rates) for precision, rates in gpu.limits.items()}


def findings(found: dict[str, Read]) -> list[str]:
    sentences = []
    for name, read in found.items():
        if read.compiled:
            loop = read.compiled.loop
            length = "of known length" if loop.trips else "whose length is not known: each turn waits for the host"
            sentences.append(f"{name}: {loop.launches.total()} launches a turn, in a loop {length}.")
    return sentences


def launch_table(found: dict[str, Read]) -> Table:
    rows = []
    for name, read in found.items():
        if read.compiled:
            loop, memory = read.compiled.loop, read.compiled.temporary_bytes / read.program.runs
            numbers = [str(loop.launches[kind]) for kind in KINDS]
            turns = str(loop.trips) if loop.trips else "not known"
            rows.append([name, str(loop.launches.total()), *numbers, turns, f"{memory / 1e6:.0f}"])
    headings = ("program", "launches", *KINDS, "turns", "temporary MB a run")
    return Table("One turn of the loop, as it is compiled", headings, rows, "A turn is a step of all runs at once.")


def least_table(gpu: gpus.Gpu, found: dict[str, Read], least: dict[str, dict[str, float]]) -> Table:
    rows = []
    for name, read in found.items():
        total = read.program.total
        bounds = [f"{1e6 * seconds:.0f}" for seconds in least[name].values()]
        rows.append([name, f"{total.flops / 1e9:.2f}", f"{total.bytes / 1e6:.0f}", *bounds, "not measured"])
    headings = ("program", "GFLOP", "least MB", *(f"least us, {name}" for name in gpu.limits), "measured us")
    note = f"{gpu.name}: peak rates and full bandwidth; convolutions and products alone, without the drawing of images."
    return Table("The least that one turn could take: a bound, no measurement", headings, rows, note)


def convolution_table(found: dict[str, Read]) -> Table:
    rows = [
        [name, str(number), call, window, str(groups)]
        for name, read in found.items()
        for (call, window, groups), number in sorted(read.convolutions.items())
    ]
    lowered = any(not read.compiled for read in found.values())
    note = "As lowered: a window as large as the image is a gradient by a kernel." if lowered else ""
    return Table("Convolutions", ("program", "number", "call", "window", "groups"), rows, note)


def least_figure(options: Options, gpu: gpus.Gpu, least: dict[str, dict[str, float]]) -> Any:
    bars = {f"{name}: {precision}": [1e6 * it] for name, own in least.items() for precision, it in own.items()}
    title = f"Bounds for {gpu.name}: {options.architecture}, {options.size}"
    return plotting.bars(
        {name: np.array(it) for name, it in bars.items()}, "least time of a turn (us): a bound, no measurement", title
    )


def launch_figure(options: Options, gpu: gpus.Gpu, found: dict[str, Read]) -> Any:
    totals = {name: read.compiled.loop.launches.total() for name, read in found.items() if read.compiled}
    title = f"Compiled for {gpu.name}: {options.architecture}, {options.optimizer}, {options.size}"
    bars = {name: np.array([number]) for name, number in totals.items()}
    return plotting.bars(bars, "launches in one turn of the loop", title, log=False)


def _document(name: str, read: Read, least: dict[str, float]) -> dict[str, Any]:
    convolutions = [{**convolution._asdict(), "number": it} for convolution, it in sorted(read.convolutions.items())]
    made: dict[str, Any] = {"launches": None, "turns": None, "temporary_bytes": None}
    if read.compiled:
        loop = read.compiled.loop
        made = {"launches": dict(loop.launches), "turns": loop.trips, "temporary_bytes": read.compiled.temporary_bytes}
    return {
        "name": name,
        "runs": read.program.runs,
        **made,
        "convolutions": convolutions,
        **read.program.total._asdict(),
        "least_seconds": least,
    }


def _row(name: str, read: Read, least: dict[str, float]) -> dict[str, Any]:
    loop = read.compiled.loop if read.compiled else None
    return {
        "program": name,
        "runs": read.program.runs,
        "launches": loop.launches.total() if loop else None,
        **{kind: loop.launches[kind] if loop else None for kind in KINDS},
        "turns": loop.trips if loop else None,
        "temporary_bytes": read.compiled.temporary_bytes if read.compiled else None,
        **read.program.total._asdict(),
        **{f"least_seconds_{precision}": seconds for precision, seconds in least.items()},
    }


def _file(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")


if __name__ == "__main__":
    experiment.main()
