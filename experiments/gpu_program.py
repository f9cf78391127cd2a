"""What would a GPU run? The compiled programs of training, read without a GPU.

    python -m experiments.gpu_program                      the notebook's network under Adam, for an H100
    python -m experiments.gpu_program --gpu a100 --hlo     for another GPU, with the programs themselves
    python -m experiments.gpu_program quick                32 x 32 images, fewer programs

XLA compiles for a GPU that is not present. For `train`, `jax.vmap(train)`, `sweep` at several widths and `evaluate` the
report lists the launches in one turn of the loop, every convolution, whether the compiler knows the loop's length, and
the memory of temporaries. It has no measured time. The least time is a bound from shapes and data sheets: the
operations at the GPU's peak, or the bytes at its full bandwidth, whichever takes longer. It assumes that every tap is
multiplied and that each array moves through the GPU's memory once.

This needs jax's CUDA plugin (`pip install ".[experiments,gpu-program]"` in a separate environment, 5.6 GB), but no GPU.
Without the plugin the report lists the convolutions as they are lowered, before XLA chooses how to run them. On 2 CPU
cores each program takes 10 to 20 s.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

import segjax
from experiments.bench import compiled, gpus, limits
from experiments.bench.compiled import Compiled, Convolution
from experiments.bench.gpus import Gpu
from experiments.bench.limits import Work
from experiments.lab import question
from experiments.lab.names import ARCHITECTURES
from experiments.lab.options import Command, Data, Seed, check_training
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report, Table
from segjax import OPTIMIZERS, plotting
from segjax._checks import check_count

KINDS = ("fusions", "cuDNN", "products", "copies", "others")
NO_PLUGIN = (
    "jax's CUDA plugin is missing, so nothing was compiled: pip install '.[experiments,gpu-program]' in an environment "
    "of its own."
)


@dataclass(frozen=True, kw_only=True)
class Options(Command):
    """Compiles training for a GPU that need not be present, and lists what it would run."""

    data: Data = Data()
    seed: Seed = Seed()
    gpu: str = "h100"
    """h100, h200, a100, or a JSON file with the facts of another GPU, named as in experiments/bench/gpus.py."""
    architecture: str = "notebook"  # Name of a network, such as notebook, separate_norm or unet.
    optimizer: str = "adam"  # One of sgd, momentum, rmsprop, adam.
    iterations: int = 1000  # Training steps of a run.
    runs: int = 4  # Runs of jax.vmap.
    widths: tuple[int, ...] = (1, 8, 64)  # Runs that a sweep trains together; each width is a program.
    hlo: bool = False  # Also write the compiled programs.
    out: Path = Path("results/gpu_program")

    def inputs(self) -> list[Path]:
        return [] if self.gpu in gpus.GPUS else [Path(self.gpu)]

    def check(self) -> None:
        super().check()
        gpus.find(self.gpu)
        check_training(self.optimizer, architecture=self.architecture)
        check_count("--iterations", self.iterations, 1)
        check_count("--runs", self.runs, 1)
        for width in self.widths:
            check_count("--widths", width, 1)
        if len(set(self.widths)) < len(self.widths):
            raise ValueError(f"--widths must be different numbers, got {self.widths}")

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        # Restored at the end: this process may need the GPU later.
        before = dict(os.environ)
        os.environ.update(compiled.ENVIRONMENT)
        # A jaxlib without CUDA ends the process at a flag that it does not know.
        if compiled.plugin_is_installed():
            os.environ["XLA_FLAGS"] = f"{before.get('XLA_FLAGS', '')} {compiled.FLAGS}".strip()
        try:
            with super().prepared():
                yield
        finally:
            os.environ.clear()
            os.environ.update(before)


PRESETS = {"notebook": Options(), "quick": Options(data=Data(image_size=32), runs=2, widths=(1, 2))}


class Program(NamedTuple):
    """A function to compile, the runs that it trains at once, and the work of one turn of its loop for each run."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    runs: int
    work: Work

    @property
    def total(self) -> Work:
        """The work of one turn for all runs."""
        return Work(0, 0).plus(self.work, self.runs)

    def least_seconds(self, gpu: Gpu) -> dict[str, float]:
        """Precision -> the least seconds of one turn for all runs."""
        return {precision: self.total.floor(rates) for precision, rates in gpu.limits.items()}


class Reading(NamedTuple):
    """A program and what its text says; `compiled` is None without the plugin."""

    program: Program
    convolutions: Counter[Convolution]
    compiled: Compiled | None


Readings = Mapping[str, Reading]


def answer(options: Options, lab: Lab) -> Report:
    gpu, has_plugin = gpus.find(options.gpu), compiled.plugin_is_installed()
    readings = read(options, gpu, lab)
    tables = [least_table(gpu, readings), convolution_table(readings)]
    figures = {"least_times": least_drawing(options, gpu, readings)}
    warnings = ["No GPU was measured: the least times are bounds from shapes and data sheets."]
    if has_plugin:
        tables.insert(0, launch_table(readings))
        figures["launches"] = launch_drawing(options, gpu, readings)
    else:
        warnings.insert(0, NO_PLUGIN)
    documents = [_document(name, reading, gpu) for name, reading in readings.items()]
    texts = {
        f"{name.replace(',', '').replace(' ', '_')}.hlo": reading.compiled.text.encode()
        for name, reading in readings.items()
        if reading.compiled
    }
    return Report(
        findings(readings),
        tables,
        figures,
        results={"gpu": msgspec.structs.asdict(gpu), "plugin": has_plugin, "programs": documents},
        rows=list(map(_row, documents)),
        warnings=warnings,
        files=texts if options.hlo else {},
    )


def programs(options: Options) -> dict[str, Program]:
    model, optimizer = ARCHITECTURES[options.architecture], OPTIMIZERS[options.optimizer]
    texture, sizes = options.data.texture._asdict(), (options.data.batch_size, options.data.image_size)
    train = segjax.make_train(model, optimizer=optimizer, num_steps=options.iterations, **texture)
    key, rate = jax.random.key(options.seed.seed), jnp.float32(1e-3)
    step = limits.step(model, *sizes)
    keys = jax.random.split(key, max((*options.widths, options.runs)))
    vmapped = Program(jax.vmap(train, (0, None)), (keys[: options.runs], rate), options.runs, step)
    sweeps = {
        f"sweep, width {width}": Program(
            partial(segjax.sweep, train, width=width), (keys, jnp.full(1, rate)), width, step
        )
        for width in options.widths
    }
    # The variables do not depend on the size of the images.
    variables = jax.eval_shape(model.init, key, jnp.zeros((1, 16, 16, 1)))

    def evaluate(variables: Any, key: jax.Array) -> segjax.metrics.Counts:
        return segjax.evaluate(key, model, variables, **texture)

    return {
        "train": Program(train, (key, rate), 1, step),
        f"vmap, {options.runs} run{'s' * (options.runs > 1)}": vmapped,
        **sweeps,
        "evaluate": Program(evaluate, (variables, key), 1, limits.prediction(model, *sizes)),
    }


def read(options: Options, gpu: Gpu, lab: Lab) -> dict[str, Reading]:
    """Compiles every program for the GPU and reads it; without the plugin, reads the lowered program."""
    readings, to_compile = {}, programs(options)
    target = gpus.target(gpu) if compiled.plugin_is_installed() else None
    with lab.progress() as progress:
        bar = progress.add_task("", total=len(to_compile))
        for name, program in to_compile.items():
            progress.update(bar, description=name)
            call = (program.function, *program.arguments)
            binary = compiled.compile_for(target, *call) if target else None
            convolutions = binary.loop.convolutions if binary else compiled.lowered_convolutions(*call)
            readings[name] = Reading(program, convolutions, binary)
            progress.advance(bar)
    return readings


def findings(readings: Readings) -> list[str]:
    sentences = []
    for name, reading in readings.items():
        if reading.compiled:
            loop = reading.compiled.loop
            length = "of known length" if loop.trips else "whose length is not known: each turn waits for the host"
            sentences.append(f"{name}: {loop.launches.total()} launches per turn, in a loop {length}.")
    return sentences


def launch_table(readings: Readings) -> Table:
    rows = []
    for name, reading in readings.items():
        if reading.compiled:
            loop, memory = reading.compiled.loop, reading.compiled.temporary_bytes / reading.program.runs
            launches = [str(loop.launches[kind]) for kind in KINDS]
            turns = str(loop.trips) if loop.trips else "not known"
            rows.append([name, str(loop.launches.total()), *launches, turns, f"{memory / 1e6:.0f}"])
    headings = ("program", "launches", *KINDS, "turns", "temporary MB per run")
    return Table("One turn of the loop, as it is compiled", headings, rows, "A turn is a step of all runs at once.")


def least_table(gpu: Gpu, readings: Readings) -> Table:
    rows = []
    for name, reading in readings.items():
        total = reading.program.total
        bounds = [f"{1e6 * seconds:.0f}" for seconds in reading.program.least_seconds(gpu).values()]
        rows.append([name, f"{total.flops / 1e9:.2f}", f"{total.bytes / 1e6:.0f}", *bounds, "not measured"])
    headings = ("program", "GFLOP", "least MB", *(f"least us, {precision}" for precision in gpu.limits), "measured us")
    note = f"{gpu.name}: peak rates and full bandwidth; convolutions and products alone, without drawing the images."
    return Table("The least time of one turn: a bound, no measurement", headings, rows, note)


def convolution_table(readings: Readings) -> Table:
    rows = [
        [name, str(number), call, window, str(groups)]
        for name, reading in readings.items()
        for (call, window, groups), number in sorted(reading.convolutions.items())
    ]
    lowered = any(not reading.compiled for reading in readings.values())
    note = "As lowered: a window as large as the image is a gradient with respect to a kernel." if lowered else ""
    return Table("Convolutions", ("program", "number", "call", "window", "groups"), rows, note)


def least_drawing(options: Options, gpu: Gpu, readings: Readings) -> Drawing:
    bars = {
        f"{name}: {precision}": np.array([1e6 * seconds])
        for name, reading in readings.items()
        for precision, seconds in reading.program.least_seconds(gpu).items()
    }
    title = f"Bounds for {gpu.name}: {options.architecture}, {options.data.size}"
    figure = plotting.bars(bars, "least time of a turn (us): a bound, no measurement", title)
    return Drawing("Least time of each program on the GPU", figure)


def launch_drawing(options: Options, gpu: Gpu, readings: Readings) -> Drawing:
    bars = {
        name: np.array([reading.compiled.loop.launches.total()])
        for name, reading in readings.items()
        if reading.compiled
    }
    title = f"Compiled for {gpu.name}: {options.architecture}, {options.optimizer}, {options.data.size}"
    figure = plotting.bars(bars, "launches in one turn of the loop", title, log=False)
    return Drawing("Launches of each program", figure)


def _document(name: str, reading: Reading, gpu: Gpu) -> dict[str, Any]:
    """The entry of a program in results.json."""
    binary = reading.compiled
    return {
        "name": name,
        "runs": reading.program.runs,
        "launches": dict(binary.loop.launches) if binary else None,
        "turns": binary.loop.trips if binary else None,
        "temporary_bytes": binary.temporary_bytes if binary else None,
        "convolutions": [
            {**convolution._asdict(), "number": number} for convolution, number in sorted(reading.convolutions.items())
        ],
        **reading.program.total._asdict(),
        "least_seconds": reading.program.least_seconds(gpu),
    }


def _row(document: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a program in runs.csv, which has no convolutions."""
    launches = document["launches"]
    return {
        "program": document["name"],
        "runs": document["runs"],
        "launches": None if launches is None else sum(launches.values()),
        **{kind: None if launches is None else launches.get(kind, 0) for kind in KINDS},
        **{name: document[name] for name in ("turns", "temporary_bytes", "flops", "bytes")},
        **{f"least_seconds_{precision}": seconds for precision, seconds in document["least_seconds"].items()},
    }


if __name__ == "__main__":
    question.main()
