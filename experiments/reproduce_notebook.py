"""Does the notebook hold? Every number it publishes beside ours over seeds, and its eight flaws shown in numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from experiments import command, output, runs
from experiments.runs import Run
from segjax.checks import check_count

ADAM_RATES = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0, 5.0)


@dataclass(frozen=True)
class Options(runs.Options):
    """Trains every run of the notebook over several seeds."""

    preset: Literal["notebook", "quick"] = "notebook"
    """Defaults of all other options: the notebook's protocol, or a small one."""
    long_iterations: int = 10_000
    """Steps of the long SGD run."""
    long_seeds: int = 1
    """Number of seeds of the long SGD run; the other seeds stop it at `--iterations`."""
    out: Path = Path("results/reproduce_notebook")


PRESETS = {
    "notebook": Options(),
    "quick": Options(preset="quick", iterations=30, long_iterations=60, image_size=32, sigma=6.4, seeds=2),
}


def plan(options: Options) -> list[Run]:
    """The runs of each seed in turn: what is cut short has whole seeds."""
    planned = []
    for index, seed in enumerate(runs.seeds(options)):
        named = [("adam", rate) for rate in ADAM_RATES] + [("rmsprop", 1e-3), ("momentum", 1e-3)]
        planned += [Run(f"{name} {rate:g}", seed, name, rate, options.iterations) for name, rate in named]
        steps = options.long_iterations if index < options.long_seeds else options.iterations
        planned.append(Run("sgd 0.001", seed, "sgd", 1e-3, steps))
        own_rates = [("momentum", 0.1), ("sgd", 1.0)]
        planned += [Run(f"{name} {rate:g}", seed, name, rate, options.iterations) for name, rate in own_rates]
    return planned


def main(options: Options) -> None:
    with command.usage_errors():
        runs.check(options)
        check_count("--long-seeds", options.long_seeds, 0)
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    runs.train_all(plan(options), options, console)


if __name__ == "__main__":
    command.run(main, Options, PRESETS)
