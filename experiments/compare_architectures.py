"""Which architecture is worth its cost? Width, kernel, depth, BatchNorm and a U-Net, at equal steps and equal seconds.

    python -m experiments.compare_architectures                    64 x 64 images, 200 steps, 3 seeds
    python -m experiments.compare_architectures --preset quick     32 x 32 images, 2 architectures, 100 steps, 2 seeds

Every architecture trains twice a seed: for `--iterations` steps, and for as many as fit into the seconds that the
first architecture needs for those. Seconds a step are measured first, compilation left out. All are judged on held-out
images with their own way of predicting (`segjax.predict`): batch statistics for the notebook's shared BatchNorm,
running statistics for the others. FLOPs are those of one image forward: its convolutions.

One learning rate serves all, which need not be the best of any. Expect so few steps to favour the small and the
residual: `patch`, then the narrow networks and the small kernels; the wide and the large fall back further at equal
seconds.
About 10 minutes on 2 CPU cores; quick, a minute.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

import segjax
from experiments.bench import limits
from experiments.lab import bounds, experiment, fairness, scores, store, views
from experiments.lab.bounds import Bound
from experiments.lab.names import ARCHITECTURES
from experiments.lab.options import Comparison, check_names
from experiments.lab.report import Report, Table
from experiments.lab.runs import Run, arguments, program
from experiments.lab.scores import Arms
from experiments.lab.train import progress_bar, train_all
from segjax import plotting

STEPS, SECONDS = "equal steps", "equal seconds"


@dataclass(frozen=True, kw_only=True)
class Options(Comparison):
    """Trains architectures at an equal budget of steps and of seconds, paired over seeds."""

    image_size: int = 64
    sigma: float = 12.8
    iterations: int = 200
    """The budget of steps; the budget of seconds is what the first architecture needs for them."""
    schedule: str = "cosine"
    architectures: tuple[str, ...] = tuple(ARCHITECTURES)  # Names of networks; the first sets the budget of seconds.
    optimizer: str = "adam"  # One of sgd, momentum, rmsprop, adam.
    learning_rate: float = 1e-2  # Peak learning rate of all architectures.
    loss: str = "bce"  # One of mse, bce, dice.
    out: Path = Path("results/compare_architectures")

    def check(self) -> None:
        super().check()
        check_names("--architectures", self.architectures, ARCHITECTURES)


PRESETS = {
    "full": Options(),
    "quick": Options(image_size=32, sigma=6.4, iterations=100, seeds=2, architectures=("notebook", "patch")),
}


class Cost(NamedTuple):
    """An architecture's price, whatever it achieves: FLOP of one image forward, seconds of a training step."""

    parameters: int
    receptive_field: int
    flops: float
    step_seconds: float


class Found(NamedTuple):
    """The cost of each architecture, budget -> the arms at it, an architecture each, and the best possible."""

    costs: dict[str, Cost]
    budgets: dict[str, Arms]
    bound: Bound | None


def work(options: Options, console: Console) -> Found:
    """Measures the cost of each architecture, then trains all at both budgets."""
    costs = measure(options, console)
    planned = plan_budgets(options, costs)
    # Where both budgets have the same steps, as those of the first architecture, the run is made once.
    results = train_all([run for runs in planned.values() for run in runs], options, console)
    made = {result.run: result for result in results}
    budgets = {
        budget: scores.arms([made[run] for run in runs], lambda run: run.architecture)
        for budget, runs in planned.items()
    }
    return Found(costs, budgets, bounds.measure(options.texture, console))


def plan_budgets(options: Options, costs: dict[str, Cost]) -> dict[str, list[Run]]:
    """budget -> every architecture over the seeds; steps that fit into the seconds come from the measured cost."""
    seconds = options.iterations * costs[options.architectures[0]].step_seconds
    steps = {name: max(1, round(seconds / costs[name].step_seconds)) for name in options.architectures}
    pairs = [(name, seed) for name in options.architectures for seed in options.all_seeds]
    return {
        STEPS: [options.run(seed, architecture=name) for name, seed in pairs],
        SECONDS: [options.run(seed, architecture=name, iterations=steps[name]) for name, seed in pairs],
    }


def measure(options: Options, console: Console) -> dict[str, Cost]:
    """The cost of each architecture; kept with the runs, so that a command that goes on plans the same steps."""
    timed = {"optimizer": options.optimizer, "loss": options.loss, **options.texture._asdict()}
    kept = store.read_note(options.out, "step_seconds")
    seconds = {name: float(value) for name, value in kept[0].items()} if kept and kept[1] == timed else {}
    if missing := [name for name in options.architectures if name not in seconds]:
        with progress_bar(console) as progress:
            for name in progress.track(missing, description="timing a step of each"):
                seconds[name] = step_seconds(options, name)
        store.write_note(options.out, "step_seconds", {n: np.float64(value) for n, value in seconds.items()}, timed)
    image = jnp.zeros((1, options.image_size, options.image_size, 1))
    return {name: cost(name, image, seconds[name]) for name in options.architectures}


def step_seconds(options: Options, name: str) -> float:
    # The program of the runs at equal steps, which is compiled once.
    run = options.run(options.seed, architecture=name)
    compiled, (keys, rates), seconds = program(run), arguments([run]), []
    # A run of its own, not one of those compared: its state is thrown away.
    state = compiled.init(keys, rates)
    # The first time compiles, and does not count; of the others the faster does.
    for _ in range(3):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(compiled.advance(keys, state, rates, compiled.chunk_size))
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]) / compiled.chunk_size


def cost(name: str, image: jax.Array, seconds: float) -> Cost:
    model = ARCHITECTURES[name]
    # Shapes are all that is asked for.
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    flops = limits.prediction(model, 1, image.shape[1]).flops
    return Cost(segjax.count_parameters(variables), model.receptive_field, flops, seconds)


def report(options: Options, found: Found) -> Report:
    # In the files an architecture has an arm for each budget.
    both = {
        f"{name} {budget}": replace(arms[name], label=f"{name} {budget}")
        for name in found.costs
        for budget, arms in found.budgets.items()
    }
    results = {**scores.document(both), "costs": {name: cost._asdict() for name, cost in found.costs.items()}}
    results["best_possible"] = bounds.document(found.bound)
    findings = [views.leader(arms, "accuracy", f" at {budget}") for budget, arms in found.budgets.items()]
    # As `views.leader` has it, no architecture of which a run diverged is the best.
    kept = {name: arm.kept("accuracy") for name, arm in found.budgets[SECONDS].items()}
    means = {name: float(accuracy.mean()) for name, accuracy in kept.items() if np.isfinite(accuracy).all()}
    if found.bound and means:
        best = max(means, key=lambda name: means[name])
        findings.append(bounds.sentence(found.bound, best, 1 - means[best], found.costs[best].receptive_field))
    warnings = fairness.of_seeds(options.seeds) + fairness.of_diverged(both)
    return Report(findings, [table(options, found)], draw(options, found), results, scores.rows(both), warnings)


def table(options: Options, found: Found) -> Table:
    rows = []
    for name, (parameters, field, flops, seconds) in found.costs.items():
        by_steps, by_seconds = (views.spread(arms[name].values("accuracy"), ".3f") for arms in found.budgets.values())
        price = [f"{parameters:,}", f"{field}", f"{flops / 1e6:.0f}", f"{1e3 * seconds:.0f}"]
        rows.append([name, *price, by_steps, f"{found.budgets[SECONDS][name].run.iterations}", by_seconds])
    headings = ["", "params", "field (px)", "MFLOP", "ms a step", f"accuracy, {options.iterations} steps"]
    budget = options.iterations * found.costs[options.architectures[0]].step_seconds
    note = "Accuracy: held-out images. Field: side of the square that one logit sees. MFLOP: one image forward."
    headings += [f"steps in {budget:.0f} s", "accuracy then"]
    return Table(f"Architectures: {options.over_seeds}", headings, rows, note)


def draw(options: Options, found: Found) -> dict[str, Figure]:
    both = {name: np.stack([arms[name].values("accuracy") for arms in found.budgets.values()]) for name in found.costs}
    points = {
        f"{name} ({cost.parameters:,} parameters)": (1e3 * cost.step_seconds, float(both[name][0].mean()))
        for name, cost in found.costs.items()
    }
    size = f"{options.size} images, {options.over_seeds}"
    panels = (f"{STEPS}: {options.iterations}", f"{SECONDS}: those of {options.architectures[0]}")
    ylabel = f"held-out accuracy after {options.iterations} steps"
    lines = {bounds.heading(found.bound): 1 - found.bound.error.expected} if found.bound else {}
    return {
        "budgets": plotting.scores(both, panels, ("held-out accuracy",) * 2, size),
        "cost_and_quality": plotting.tradeoff(
            points, "time of a training step (ms)", ylabel, size, horizontal_lines=lines
        ),
    }


if __name__ == "__main__":
    experiment.main()
