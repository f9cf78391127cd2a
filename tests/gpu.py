"""What does a GPU do with this project? Tests and times, part by part as they end, in one table and one JSON file.

    python -m tests.gpu            all parts, or --parts training loop: at most 8 minutes (`make gpu`)
    python -m tests.gpu --dry-run  tiny sizes: shows on a CPU that it works

    parity_highest, parity_default   tests against PyTorch and plain convolutions, in float32 and as a GPU rounds
    training   one run and many at once, beside the bounds of `experiments.gpu_program`
    loop       the same with runs one after the other, in place of groups of one convolution
    one_run    a batch, a step and an iteration: ours, naive JAX, and PyTorch's eager and compiled where it is installed
    fair       the fair comparison: 4 optimizers, 8 rates, 16 seeds; one call compiles and one counts, each of 500 steps

Each part is a process of its own: if it fails or is stopped at its limit, its earlier rows and the other parts remain.
The exit code is 1 if a part failed. A device that is no GPU of `experiments.bench.gpus` gets the bounds of an H100.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
from rich.progress import Progress

from experiments import benchmark, gpu_program
from experiments.bench import contenders, gpus, limits, timing
from experiments.lab import provenance
from experiments.lab.options import Data
from segjax import OPTIMIZERS, SegmentationCNN

ROOT, SECONDS = Path(__file__).parents[1], 480.0
LAB = SimpleNamespace(progress=lambda: Progress(disable=True))
NAMES = ("textures", "losses", "metrics", "models", "optimizers", "convolution", "sweeps", "training", "torch_weights")
FILES = [f"tests/test_{name}.py" for name in NAMES]
PARITY = ("-n", "8", "-k", "pytorch or vmap or plain_ones")
HEADINGS = ("part", "program", "runs at once", "us", "least us, TF32", "least us, float32", "share of TF32's")
# Part -> its most seconds, and its environment.
PARTS = {
    "parity_highest": (75, {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}),
    "parity_default": (75, {}),
    "training": (180, {"SEGJAX_RUNS": "groups"}),
    "loop": (75, {"SEGJAX_RUNS": "loop"}),
    "one_run": (120, {}),
    "fair": (SECONDS, {}),
}
FULL = gpu_program.Options(iterations=50, widths=(1, 8, 64, 256))
# The value of a rate costs nothing: 128 runs stand for 8 rates and 16 seeds.
FAIR = gpu_program.Options(iterations=500, widths=(64,), runs=128)
TINY = gpu_program.Options(data=Data(image_size=8, batch_size=1), iterations=1, runs=3, widths=(2,))
# The name of a program, its times, the runs that it trains at once, and the work of each.
Row = tuple[str, timing.Timing, int, limits.Work | None]


def training(options: gpu_program.Options, fewest: int = 1, most: int = 256) -> Iterator[Row]:
    """The programs of `gpu_program` that train `fewest` to `most` runs at once."""
    for name, (function, arguments, runs, work, turns) in gpu_program.programs(options).items():
        if fewest <= runs <= most:
            program = timing.Program(partial(timing.compiled, function, *arguments), turns)
            yield f"{options.optimizer}: {name}", timing.measure({name: program}, 5, 5.0, LAB)[name], runs, work


def one_run(options: gpu_program.Options) -> Iterator[Row]:
    """Our programs of one run, and PyTorch's if it is installed."""
    sizes = {"image_size": options.data.image_size, "batch_size": options.data.batch_size}
    step, chosen = limits.step(SegmentationCNN(), **sizes), benchmark.Options(**sizes, steps=options.iterations)
    parts, _ = benchmark.one_run_parts(chosen, contenders.torch_is_installed(), contenders.can_compile())
    for part, programs in parts.items():
        for name, timed in timing.measure(programs, 5, 2.0, LAB).items():
            yield f"{part}: {name}", timed, 1, None if part == "generation" else step


def fair(options: gpu_program.Options) -> Iterator[Row]:
    """The runs of each optimizer, as many at once as the first width."""
    for name in OPTIMIZERS:
        yield from training(replace(options, optimizer=name), options.widths[0], options.widths[0])


def measure(part: str, tiny: bool) -> None:
    """Prints the device and the rows of a part, each as a line of JSON."""
    gpu = {gpu.name: gpu for gpu in gpus.GPUS.values()}.get(jax.devices()[0].device_kind, gpus.GPUS["h100"])
    print(json.dumps({"bounds": gpu.name, "versions": provenance.versions(), **provenance.circumstances()}), flush=True)
    options = TINY if tiny else {"fair": FAIR}.get(part, FULL)
    # For one run a loop is the same program.
    parts = {"training": training, "loop": partial(training, fewest=2, most=64), "one_run": one_run, "fair": fair}
    for name, timed, runs, work in parts[part](options):
        least = {precision: runs * work.floor(rates) if work else None for precision, rates in gpu.limits.items()}
        row = {"program": name, "runs": runs, "median": timed.median, **timed._asdict(), "least_seconds": least}
        print(json.dumps(row), flush=True)


def run(part: str, command: list[str], limit: float) -> dict[str, Any]:
    """Runs a command for at most `limit` seconds, and returns the part's entry of the JSON file."""
    # XLA compiles as for users, and does not reserve most of the memory for one process.
    environment = {"XLA_FLAGS": "", "XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ, **PARTS[part][1]}
    start = time.monotonic()
    try:
        ended = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, timeout=limit)
        output, status = ended.stdout, f"failed with exit code {ended.returncode}" if ended.returncode else "ended"
    except subprocess.TimeoutExpired as error:
        output, status = error.stdout or b"", "stopped at its limit"
    lines = output.decode().splitlines()
    # The last line of pytest counts the tests.
    words = [status, *[line for line in lines if not line.startswith("{")][-1:]]
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    return {"part": part, "status": ": ".join(words), "seconds": time.monotonic() - start, "rows": rows}


def table(entry: dict[str, Any]) -> Iterator[str]:
    """The lines of a part in the table."""
    for row in entry["rows"]:
        if "program" in row:
            seconds = [row["median"], *row["least_seconds"].values()]
            cells = ["" if value is None else f"{1e6 * value:.0f}" for value in seconds]
            share = f"{seconds[1] / seconds[0]:.2f}" if seconds[1] else ""
            yield " | ".join([entry["part"], row["program"], str(row["runs"]), *cells, share])
    yield f"{entry['part']} | {entry['status']}, {entry['seconds']:.0f} s" + " |" * (len(HEADINGS) - 2)


def main() -> int:
    parser = argparse.ArgumentParser(description="Tests and measures this project on a GPU.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes")
    parser.add_argument("--out", type=Path, default=Path("results/gpu.json"))
    parser.add_argument("--measure", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.dry_run)
        return 0
    end, entries = time.monotonic() + SECONDS, []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}", flush=True)
    for part in options.parts:
        command = ["tests.gpu", "--measure", part, *["--dry-run"] * options.dry_run]
        if part.startswith("parity"):
            command = ["pytest", *FILES, *(["-k", "counts_match_pytorch"] if options.dry_run else PARITY)]
        entries.append(run(part, [sys.executable, "-m", *command], min(PARTS[part][0], end - time.monotonic())))
        options.out.write_text(json.dumps(entries, indent=1))
        print("\n".join(f"| {line} |" for line in table(entries[-1])), flush=True)
    return any(entry["status"].startswith("failed") for entry in entries)


if __name__ == "__main__":
    sys.exit(main())
