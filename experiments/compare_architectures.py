"""Which architecture is worth its cost? Channels, kernels, depth, BatchNorm, a U-Net, at equal steps and equal seconds.

    python -m experiments.compare_architectures           64 x 64 images, 200 steps, 3 seeds
    python -m experiments.compare_architectures quick     32 x 32 images, 2 architectures, 100 steps, 2 seeds

Every architecture trains twice per seed: for `--iterations` steps, and for as many steps as fit into the time that the
first architecture needs for `--iterations`. The seconds per step are measured first, without compilation. Held-out
predictions (`segjax.predict`) use batch statistics for the notebook's shared BatchNorm, and running statistics for the
others. FLOPs count the convolutions of one image, forward.

All have the same learning rate, which need not be the best for any. Expect so few steps to favour small and residual
networks: `patch`, then few channels and small kernels. Many channels and large kernels fall further back at equal
seconds. About 10 minutes on 2 CPU cores; quick, a minute.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import segjax
from experiments.bench import bounds, limits
from experiments.bench.bounds import Bound
from experiments.lab import question, tables
from experiments.lab.arms import Arms, compare
from experiments.lab.names import ARCHITECTURES
from experiments.lab.options import Comparison, Data, Seeds, Training, check_names, check_training
from experiments.lab.programs import arguments, program
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report, Table
from experiments.lab.runs import Run
from segjax import plotting
from segjax._checks import check_positive

STEPS, SECONDS = "equal steps", "equal seconds"


@dataclass(frozen=True, kw_only=True)
class Options(Comparison):
    """Trains architectures at an equal budget of steps and of seconds, paired over seeds."""

    data: Data = Data(image_size=64)
    # The budget of steps; the budget of seconds is the time that the first architecture needs for them.
    training: Training = Training(iterations=200, schedule="cosine")
    architectures: tuple[str, ...] = tuple(ARCHITECTURES)  # Names of networks; the first sets the budget of seconds.
    optimizer: str = "adam"  # One of sgd, momentum, rmsprop, adam.
    learning_rate: float = 1e-2  # Peak learning rate of all architectures.
    loss: str = "bce"  # One of mse, bce, dice.
    out: Path = Path("results/compare_architectures")

    free = ("seeds", "architectures")

    def check(self) -> None:
        super().check()
        check_names("--architectures", self.architectures, ARCHITECTURES)
        check_training(self.optimizer, self.loss)
        check_positive("--learning-rate", self.learning_rate)

    def run_of(self, architecture: str, seed: int, iterations: int) -> Run:
        fixed = {"optimizer": self.optimizer, "learning_rate": self.learning_rate, "objective": self.loss}
        return self.run(seed, architecture=architecture, iterations=iterations, **fixed)


PRESETS = {
    "full": Options(),
    "quick": Options(
        data=Data(image_size=32),
        training=Training(iterations=100, schedule="cosine"),
        seeds=Seeds(seeds=2),
        architectures=("notebook", "patch"),
    ),
}


class Cost(NamedTuple):
    """The cost of an architecture: FLOP for one image, forward, and seconds per training step."""

    parameters: int
    receptive_field: int
    flops: float
    step_seconds: float


def answer(options: Options, lab: Lab) -> Report:
    costs = {name: cost(options, name, seconds) for name, seconds in measure(options, lab).items()}
    runs = plan(options, costs)
    # Runs that both budgets contain, such as those of the first architecture, are trained once.
    results = {result.run: result for result in lab.train([run for budget in runs.values() for run in budget])}
    budgets = {
        name: compare([results[run] for run in budget], by=lambda run: run.architecture)
        for name, budget in runs.items()
    }
    bound = bounds.measure(options.data.texture, lab)
    # The files have one arm for each architecture and budget.
    both = {
        f"{name} {budget}": replace(arms[name], label=f"{name} {budget}")
        for name in costs
        for budget, arms in budgets.items()
    }
    return Report(
        findings(costs, budgets, bound),
        [table(options, costs, budgets), *ties(budgets)],
        drawings(options, costs, budgets, bound),
        both,
        {"costs": costs, "best_possible": bounds.document(bound)},
        warnings=tables.seeds_warning(options.seeds.seeds) + tables.diverged_warning(both),
    )


def measure(options: Options, lab: Lab) -> dict[str, float]:
    """Architecture -> seconds per step, which a note stores, so that a resumed command plans the same steps."""
    note = lab.folder.read_note("step_seconds")
    seconds = {name: float(value) for name, value in note[0].items()} if note else {}
    if missing := [name for name in options.architectures if name not in seconds]:
        with lab.progress() as progress:
            for name in progress.track(missing, description="timing a step of each"):
                seconds[name] = step_seconds(options, name)
        lab.folder.write_note("step_seconds", {name: np.float64(value) for name, value in seconds.items()}, {})
    return {name: seconds[name] for name in options.architectures}


def step_seconds(options: Options, name: str) -> float:
    # The same program as for equal steps, so that it is compiled once.
    run = options.run_of(name, options.seeds.seed, options.training.iterations)
    compiled, (keys, rates), seconds = program(run), arguments([run]), []
    state = compiled.init(keys, rates)
    # The first call compiles; the faster of the other two counts.
    for _ in range(3):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(compiled.advance(keys, state, rates, compiled.chunk_size))
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]) / compiled.chunk_size


def cost(options: Options, name: str, seconds: float) -> Cost:
    model, size = ARCHITECTURES[name], options.data.image_size
    # Only shapes are needed.
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 1)))
    flops = limits.prediction(model, 1, size).flops
    return Cost(segjax.count_parameters(variables), model.receptive_field, flops, seconds)


def plan(options: Options, costs: Mapping[str, Cost]) -> dict[str, list[Run]]:
    """Budget -> the runs of every architecture over the seeds; the costs determine the steps at equal seconds."""
    seconds = budget_seconds(options, costs)
    affordable = {name: max(1, round(seconds / costs[name].step_seconds)) for name in options.architectures}
    equal = dict.fromkeys(options.architectures, options.training.iterations)
    return {
        budget: [options.run_of(name, seed, number) for name, number in iterations.items() for seed in options.seeds]
        for budget, iterations in {STEPS: equal, SECONDS: affordable}.items()
    }


def budget_seconds(options: Options, costs: Mapping[str, Cost]) -> float:
    return options.training.iterations * costs[options.architectures[0]].step_seconds


def findings(costs: Mapping[str, Cost], budgets: Mapping[str, Arms], bound: Bound | None) -> list[str]:
    sentences = [tables.leader(arms, "accuracy", f" at {budget}") for budget, arms in budgets.items()]
    # An architecture with a run that diverged cannot be the best.
    means = {name: arm.mean("accuracy") for name, arm in budgets[SECONDS].items() if not any(arm.diverged)}
    if bound and means:
        best = max(means, key=lambda name: means[name])
        sentences.append(bounds.finding(bound, best, 1 - means[best], costs[best].receptive_field))
    return sentences


def table(options: Options, costs: Mapping[str, Cost], budgets: Mapping[str, Arms]) -> Table:
    """One row per architecture: its cost, and its accuracy at both budgets."""
    rows = []
    for name, (parameters, field, flops, seconds) in costs.items():
        at_steps, at_seconds = (
            tables.spread(budgets[budget][name].converged("accuracy"), ".3f") for budget in (STEPS, SECONDS)
        )
        cost = [f"{parameters:,}", f"{field}", f"{flops / 1e6:.0f}", _short_number(1e3 * seconds)]
        rows.append([name, *cost, at_steps, f"{budgets[SECONDS][name].run.iterations}", at_seconds])
    headings = ["", "parameters", "field (px)", "MFLOP", "ms per step"]
    headings += [f"accuracy, {options.training.iterations} steps"]
    headings += [f"steps in {_short_number(budget_seconds(options, costs))} s", "accuracy then"]
    note = "Accuracy: held-out images. Field: side of the receptive field. MFLOP: one image forward."
    return Table(f"Architectures: {options.seeds}", headings, rows, note)


def _short_number(number: float) -> str:
    """A number without decimals, or with two digits if it is below 1."""
    return f"{number:.0f}" if number >= 1 else f"{number:.2g}"


def ties(budgets: Mapping[str, Arms]) -> list[Table]:
    """The paired differences that decide nothing, at both budgets."""
    return [each for budget, arms in budgets.items() for each in tables.ties(arms, ("accuracy",), f" at {budget}")]


def drawings(
    options: Options, costs: Mapping[str, Cost], budgets: Mapping[str, Arms], bound: Bound | None
) -> dict[str, Drawing]:
    both = {name: np.stack([arms[name].masked("accuracy") for arms in budgets.values()]) for name in costs}
    points = {
        f"{name} ({cost.parameters:,} parameters)": (1e3 * cost.step_seconds, budgets[STEPS][name].mean("accuracy"))
        for name, cost in costs.items()
    }
    setting, iterations = f"{options.data.size} images, {options.seeds}", options.training.iterations
    panels = (f"{STEPS}: {iterations}", f"{SECONDS}: those of {options.architectures[0]}")
    labels = ("time of a training step (ms)", f"held-out accuracy after {iterations} steps")
    lines = {bounds.heading(bound): 1 - bound.error.expected} if bound else {}
    return {
        "budgets": Drawing(
            "Accuracy at equal steps and at equal seconds",
            plotting.scores(both, panels, ("held-out accuracy",) * 2, setting),
        ),
        "cost_and_quality": Drawing(
            "Accuracy against the time of a step", plotting.tradeoff(points, *labels, setting, horizontal_lines=lines)
        ),
    }


if __name__ == "__main__":
    question.main()
