"""What would a GPU run? The compiled programs of training, read without a GPU.

    python -m experiments.gpu_program                      the notebook's network under Adam, for an H100
    python -m experiments.gpu_program --gpu a100           for another GPU
    python -m experiments.gpu_program quick                32 x 32 images, fewer programs

XLA compiles for a GPU that is not present. For `train`, `jax.vmap(train)`, `sweep` at several widths and `evaluate` the
report lists the launches in one turn of the loop, every convolution, whether the compiler knows the loop's length, and
the memory of temporaries. It has no measured time. The least time is a bound from shapes and data sheets: the
operations at the GPU's peak, or the bytes at its full bandwidth, whichever takes longer. It assumes that every tap is
multiplied and that each array moves through the GPU's memory once.

This needs jax's CUDA plugin (`pip install ".[experiments,gpu-program]"` in a separate environment, 5.6 GB), but no GPU.
Without the plugin the report has the least times alone. On 2 CPU cores each program takes 10 to 20 s. With
XLA_FLAGS=--xla_dump_to=FOLDER XLA writes the programs themselves.
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import segjax
from experiments.bench import compiled, gpus, limits
from experiments.bench.compiled import Compiled
from experiments.bench.gpus import Gpu
from experiments.bench.limits import Work
from experiments.lab import question
from experiments.lab.names import ARCHITECTURES
from experiments.lab.options import Command, Data, Seed, check_name, check_training
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report, Table
from experiments.lab.runs import HELD_OUT_BATCHES
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
    gpu: str = "h100"  # One of h100, h200, a100.
    architecture: str = "notebook"  # Name of a network, such as notebook, separate_norm or unet.
    optimizer: str = "adam"  # One of sgd, momentum, rmsprop, adam.
    iterations: int = 1000  # Training steps of a run.
    runs: int = 4  # Runs of jax.vmap.
    widths: tuple[int, ...] = (1, 8, 64)  # Runs that a sweep trains together; each width is a program.
    out: Path = Path("results/gpu_program")

    def check(self) -> None:
        super().check()
        check_name("--gpu", self.gpu, gpus.GPUS)
        check_training(self.optimizer, architecture=self.architecture)
        check_count("--iterations", self.iterations, 1)
        check_count("--runs", self.runs, 1)
        for width in self.widths:
            check_count("--widths", width, 1)
        if len(set(self.widths)) < len(self.widths):
            raise ValueError(f"--widths must be different numbers, got {self.widths}")

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        # Restored at the end: this process may need the GPU later. A jaxlib without CUDA ends the process at an unknown
        # flag.
        flags = compiled.FLAGS if compiled.plugin_is_installed() else ""
        flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
        with mock.patch.dict(os.environ, {**compiled.ENVIRONMENT, "XLA_FLAGS": flags}), super().prepared():
            yield


PRESETS = {"notebook": Options(), "quick": Options(data=Data(image_size=32), runs=2, widths=(1, 2))}


class Program(NamedTuple):
    """A function to compile, and what it does.

    Attributes:
        runs: number of runs that it trains at once.
        work: of one turn of its loop, for each run.
        turns: number of turns in one call.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    runs: int
    work: Work
    turns: int

    @property
    def total(self) -> Work:
        """The work of one turn for all runs."""
        return Work(0, 0).plus(self.work, self.runs)

    def least_seconds(self, gpu: Gpu) -> dict[str, float]:
        """Precision -> the least seconds of one turn for all runs."""
        return {precision: self.total.floor(rates) for precision, rates in gpu.limits.items()}


Programs = Mapping[str, Program]
# Only with the plugin.
Binaries = Mapping[str, Compiled]


def answer(options: Options, lab: Lab) -> Report:
    gpu, trainings = gpus.GPUS[options.gpu], programs(options)
    binaries = compile_all(trainings, gpu, lab)
    tables, figures = [least_table(gpu, trainings)], {}
    warnings = ["No GPU was measured: the least times are bounds from shapes and data sheets."]
    if binaries:
        tables = [launch_table(trainings, binaries), *tables, convolution_table(binaries)]
        figures["launches"] = launch_drawing(options, gpu, binaries)
    else:
        warnings.insert(0, NO_PLUGIN)
    documents = [_document(name, program, binaries.get(name), gpu) for name, program in trainings.items()]
    return Report(
        [],
        tables,
        figures,
        results={"gpu": gpu.name, "plugin": bool(binaries), "programs": documents},
        rows=[
            {name: value for name, value in document.items() if not isinstance(value, dict | list)}
            for document in documents
        ],
        warnings=warnings,
    )


def programs(options: Options) -> dict[str, Program]:
    model, optimizer = ARCHITECTURES[options.architecture], OPTIMIZERS[options.optimizer]
    texture, sizes = options.data.texture._asdict(), (options.data.batch_size, options.data.image_size)
    train = segjax.make_train(model, optimizer=optimizer, num_steps=options.iterations, **texture)
    key, rate = jax.random.key(options.seed.seed), jnp.float32(1e-3)
    step = limits.step(model, *sizes)
    keys = jax.random.split(key, max((*options.widths, options.runs)))
    vmapped = Program(jax.vmap(train, (0, None)), (keys[: options.runs], rate), options.runs, step, options.iterations)
    # Their values cost no time, and their shapes do not depend on the size of the images.
    shapes = jax.eval_shape(model.init, key, jnp.zeros((1, 16, 16, 1)))
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def swept(width: int) -> Program:
        turns = options.iterations * math.ceil(len(keys) / width)
        return Program(partial(segjax.sweep, train, width=width), (keys, jnp.full(1, rate)), width, step, turns)

    def evaluate(variables: Any, key: jax.Array) -> segjax.metrics.Counts:
        return segjax.evaluate(key, model, variables, HELD_OUT_BATCHES, **texture)

    return {
        "train": Program(train, (key, rate), 1, step, options.iterations),
        f"vmap, {options.runs} run{'s' * (options.runs > 1)}": vmapped,
        **{f"sweep, width {width}": swept(width) for width in options.widths},
        "evaluate": Program(evaluate, (variables, key), 1, limits.prediction(model, *sizes), HELD_OUT_BATCHES),
    }


def compile_all(programs: Programs, gpu: Gpu, lab: Lab) -> dict[str, Compiled]:
    """Compiles every program for the GPU; without the plugin, none."""
    if not compiled.plugin_is_installed():
        return {}
    target = gpus.target(gpu)
    with lab.progress() as progress:
        tracked = progress.track(programs.items(), description="compiling")
        return {name: compiled.compile_for(target, program.function, *program.arguments) for name, program in tracked}


def launch_table(programs: Programs, binaries: Binaries) -> Table:
    rows = []
    for name, binary in binaries.items():
        launches = [str(binary.launches[kind]) for kind in KINDS]
        memory = f"{binary.temporary_bytes / programs[name].runs / 1e6:.0f}"
        rows.append([name, str(binary.launches.total()), *launches, str(binary.turns or "not known"), memory])
    headings = ("program", "launches", *KINDS, "turns", "temporary MB per run")
    note = "A turn is a step of all runs at once. Where their number is not known, each turn waits for the host."
    return Table("One turn of the loop, as it is compiled", headings, rows, note)


def least_table(gpu: Gpu, programs: Programs) -> Table:
    rows = []
    for name, program in programs.items():
        bounds = [f"{1e6 * seconds:.0f}" for seconds in program.least_seconds(gpu).values()]
        rows.append([name, f"{program.total.flops / 1e9:.2f}", f"{program.total.bytes / 1e6:.0f}", *bounds])
    headings = ("program", "GFLOP", "least MB", *(f"least us, {precision}" for precision in gpu.limits))
    note = f"{gpu.name}: peak rates and full bandwidth; convolutions and products alone, without drawing the images."
    return Table("The least time of one turn: a bound, no measurement", headings, rows, note)


def convolution_table(binaries: Binaries) -> Table:
    rows = [
        [name, str(number), call, window, str(groups)]
        for name, binary in binaries.items()
        for (call, window, groups), number in sorted(binary.convolutions.items())
    ]
    return Table("Convolutions", ("program", "number", "call", "window", "groups"), rows)


def launch_drawing(options: Options, gpu: Gpu, binaries: Binaries) -> Drawing:
    bars = {name: np.array([binary.launches.total()]) for name, binary in binaries.items()}
    title = f"Compiled for {gpu.name}: {options.architecture}, {options.optimizer}, {options.data.size}"
    figure = plotting.bars(bars, "launches in one turn of the loop", title, log=False)
    return Drawing("Launches of each program", figure)


def _document(name: str, program: Program, binary: Compiled | None, gpu: Gpu) -> dict[str, Any]:
    """The entry of a program in results.json."""
    return {
        "name": name,
        "runs": program.runs,
        "launches": dict(binary.launches) if binary else None,
        "turns": binary.turns if binary else None,
        "temporary_bytes": binary.temporary_bytes if binary else None,
        "convolutions": [{**call._asdict(), "number": number} for call, number in sorted(binary.convolutions.items())]
        if binary
        else None,
        **program.total._asdict(),
        "least_seconds": program.least_seconds(gpu),
    }


if __name__ == "__main__":
    question.main()
