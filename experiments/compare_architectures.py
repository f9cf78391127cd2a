"""Which architecture is worth its cost? Width, kernel, depth, BatchNorm and a U-Net, at equal steps and equal seconds.

    python -m experiments.compare_architectures                    64 x 64 images, 200 steps, 3 seeds
    python -m experiments.compare_architectures --preset quick     32 x 32 images, 3 architectures, 30 steps, 1 seed

Every architecture trains twice a seed: for `--iterations` steps, and for as many as fit into the seconds that the
first architecture needs for those. Seconds a step are measured first, compilation left out. All are judged on held-out
images with their own way of predicting (`segjax.predict`): batch statistics for the notebook's shared BatchNorm,
running statistics for the others. FLOPs are those of one image forward, as XLA counts them.

One learning rate serves all, which is not the best of each. Expect so few steps to favour the small and the residual:
`patch`, then the narrow networks and the small kernels; the wide and the large fall back further at equal seconds.
About 10 minutes on 2 CPU cores; quick, 40 seconds.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import jax
import numpy as np
from rich.console import Console

import segjax
from experiments import command, folder, output, programs, settings, summary, training
from experiments.report import Report, Table, question
from experiments.runs import Result, Run
from segjax import checkpoints, plotting
from segjax.models import ARCHITECTURES

STEPS, SECONDS = "equal steps", "equal seconds"
# Steps that are timed, twice; the faster counts.
TIMED_STEPS = 10


@dataclass(frozen=True)
class Options(settings.Options):
    """Trains architectures at an equal budget of steps and of seconds, paired over seeds."""

    preset: Literal["full", "quick"] = "full"
    """Defaults of all other options: the full comparison, or a small one."""
    image_size: int = 64
    sigma: float = 12.8
    iterations: int = 200
    """The budget of steps; the budget of seconds is what the first architecture needs for them."""
    schedule: str = "cosine"
    architectures: tuple[str, ...] = tuple(ARCHITECTURES)
    """Names of segjax.models.ARCHITECTURES; the first sets the budget of seconds."""
    optimizer: str = "adam"
    """One of sgd, momentum, rmsprop, adam."""
    learning_rate: float = 1e-2
    """Peak learning rate of all architectures."""
    loss: str = "bce"
    """One of mse, bce, dice."""
    out: Path = Path("results/compare_architectures")


PRESETS = {
    "full": Options(),
    "quick": Options(
        preset="quick",
        image_size=32,
        sigma=6.4,
        iterations=30,
        seeds=1,
        architectures=("notebook", "kernel_3", "unet"),
    ),
}


class Cost(NamedTuple):
    """What an architecture takes, whatever it achieves."""

    parameters: int
    receptive_field: int
    flops: float
    step_seconds: float


def main(options: Options) -> None:
    with command.usage_errors():
        settings.check(options)
        command.check_names("architectures", options.architectures, ARCHITECTURES)
    folder.claim(options)
    console = Console()
    costs = measure(options, console)
    results = training.train_all(plan(options, costs), options, console)
    figures = draw(options, results, costs)
    report = Report(question(__doc__), findings(results), [table(options, results, costs)], figures)
    document, rows = summary.document("compare_architectures", results)
    output.finish(options, {**document, "costs": {k: v._asdict() for k, v in costs.items()}}, rows, report, console)


def plan(options: Options, costs: dict[str, Cost]) -> list[Run]:
    """Each architecture and seed twice; steps that fit into the budget of seconds come from the measured cost."""
    budget = options.iterations * costs[options.architectures[0]].step_seconds
    planned = []
    for name in options.architectures:
        fitting = max(1, round(budget / costs[name].step_seconds))
        for label, iterations in ((STEPS, options.iterations), (SECONDS, fitting)):
            for seed in settings.seeds(options):
                run = Run(f"{name} {label}", seed, options.optimizer, options.learning_rate, iterations)
                planned.append(run._replace(schedule=options.schedule, objective=options.loss, architecture=name))
    return planned


def measure(options: Options, console: Console) -> dict[str, Cost]:
    """The cost of each architecture; kept with the runs, so that a command that goes on plans the same steps."""
    path = options.out / folder.RUNS / "step_seconds.safetensors"
    path.parent.mkdir(exist_ok=True)
    timed = {"optimizer": options.optimizer, "loss": options.loss, **settings.texture(options)}
    seconds: dict[str, float] = {}
    if path.exists():
        try:
            values, kept = checkpoints.load(path)
        except ValueError as error:
            raise command.UsageError(f"{error}; delete it, or pass --overwrite") from error
        if kept == timed:
            seconds = {name: float(value) for name, value in values.items()}
    missing = [name for name in options.architectures if name not in seconds]
    if missing:
        with training.progress_bar(console) as progress:
            for name in progress.track(missing, description="timing a step of each"):
                seconds[name] = step_seconds(options, name)
        checkpoints.save(path, {name: np.float64(value) for name, value in seconds.items()}, timed)
    image = jax.numpy.zeros((1, options.image_size, options.image_size, 1))
    return {name: cost(name, image, seconds[name]) for name in options.architectures}


def step_seconds(options: Options, name: str) -> float:
    run = Run("", 0, options.optimizer, options.learning_rate, TIMED_STEPS, "constant", options.loss, name)
    fit, key, seconds = programs.program(run, settings.texture(options)), jax.random.key(0), []
    fit.compile(key, run.learning_rate)
    for _ in range(2):
        start = time.perf_counter()
        jax.block_until_ready(fit(key, run.learning_rate))
        seconds.append(time.perf_counter() - start)
    return min(seconds) / TIMED_STEPS


def cost(name: str, image: jax.Array, seconds: float) -> Cost:
    model = ARCHITECTURES[name]
    variables = cast(dict[str, Any], model.init(jax.random.key(0), image))
    forward = jax.jit(lambda variables: model.apply(variables, image, train=False)).lower(variables)
    flops = cast(dict[str, float], forward.cost_analysis())["flops"]
    return Cost(segjax.count_parameters(variables), model.receptive_field, flops, seconds)


def scores(results: list[Result], column: str, budget: str) -> dict[str, np.ndarray]:
    """architecture -> (seeds,) of a column, for the runs of a budget."""
    chosen = [result for result in results if result.run.label.endswith(budget)]
    return {label.removesuffix(f" {budget}"): numbers for label, numbers in summary.values(chosen, column).items()}


def table(options: Options, results: list[Result], costs: dict[str, Cost]) -> Table:
    steps = {result.run.architecture: result.run.iterations for result in results if SECONDS in result.run.label}
    by_steps, by_seconds = (scores(results, "accuracy", budget) for budget in (STEPS, SECONDS))
    rows = [
        [
            name,
            f"{cost.parameters:,}",
            f"{cost.receptive_field}",
            f"{cost.flops / 1e6:.0f}",
            f"{1e3 * cost.step_seconds:.0f}",
            summary.spread(by_steps[name], ".3f"),
            f"{steps[name]}",
            summary.spread(by_seconds[name], ".3f"),
        ]
        for name, cost in costs.items()
    ]
    headings = ("", "params", "field (px)", "MFLOP", "ms a step", f"accuracy, {options.iterations} steps")
    budget = options.iterations * costs[options.architectures[0]].step_seconds
    return Table(
        f"Architectures: {summary.over_seeds(options)}",
        (*headings, f"steps in {budget:.0f} s", "accuracy then"),
        rows,
        "Accuracy: held-out images. Field: side of the square that one logit sees. MFLOP: one image forward.",
    )


def findings(results: list[Result]) -> list[str]:
    sentences = []
    for budget in (STEPS, SECONDS):
        accuracies = scores(results, "accuracy", budget)
        best, *others = sorted(accuracies, key=lambda name: -accuracies[name].mean())
        sentence = f"Best at {budget}: {best} ({accuracies[best].mean():.4f})"
        if others:
            rival = accuracies[others[0]]
            wins = f"{int(np.sum(accuracies[best] > rival))} of {len(rival)} seeds"
            sentence += f"; ahead of {others[0]} ({rival.mean():.4f}) in {wins}"
        sentences.append(sentence + ".")
    return sentences


def draw(options: Options, results: list[Result], costs: dict[str, Cost]) -> dict[str, Any]:
    by_steps, by_seconds = (scores(results, "accuracy", budget) for budget in (STEPS, SECONDS))
    both = {name: np.stack([by_steps[name], by_seconds[name]]) for name in costs}
    points = {
        f"{name} ({cost.parameters:,} parameters)": (1e3 * cost.step_seconds, float(by_steps[name].mean()))
        for name, cost in costs.items()
    }
    size = f"{options.image_size} x {options.image_size} images, {summary.over_seeds(options)}"
    panels = (f"{STEPS}: {options.iterations}", f"{SECONDS}: those of {options.architectures[0]}")
    labels = ("held-out accuracy", "held-out accuracy")
    return {
        "budgets": plotting.scores(both, panels, labels, size),
        "cost_and_quality": plotting.tradeoff(
            points, "time of a training step (ms)", f"held-out accuracy after {options.iterations} steps", size
        ),
    }


if __name__ == "__main__":
    command.run(main, Options, PRESETS)
