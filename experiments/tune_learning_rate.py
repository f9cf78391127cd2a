"""Which learning rate suits each optimizer? The notebook's eight rates, which it tried for Adam alone, for all four.

    python -m experiments.tune_learning_rate                      64 x 64 images, 2 seeds
    python -m experiments.tune_learning_rate notebook             the notebook's sizes, 3 seeds
    python -m experiments.tune_learning_rate quick                32 x 32 images, 4 rates, 40 iterations
    python -m experiments.tune_learning_rate --extend             more rates where the best is the grid's edge

The best rate has the lowest mean loss over the last tenth of the run, averaged over seeds, among the rates at which no
seed diverged (`segjax.metrics.diverged_at`). The report says if a best rate is an edge of its grid, since the true best
may lie beyond.

Expect Adam and RMSprop to be best between 1e-3 and 1e-1, momentum and SGD at rates hundreds of times the notebook's.
On 2 CPU cores 25 to 45 minutes; 2 to 4 hours with the notebook's sizes; quick, a minute.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from experiments.lab import figures, import_paths, question, tables
from experiments.lab.arms import COLUMNS
from experiments.lab.names import exact
from experiments.lab.options import Comparison, Data, Seeds, Training
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report, Table
from experiments.notebook.published import ADAM_RATES
from experiments.optimizers import tuning
from experiments.optimizers.tuning import Candidate, Grid
from segjax import OPTIMIZERS, plotting

# Columns of the table.
NUMBERS = ("loss", "final_loss", "accuracy")


@dataclass(frozen=True, kw_only=True)
class Options(Comparison):
    """Trains every optimizer at every rate."""

    data: Data = Data(image_size=64)
    seeds: Seeds = Seeds(seeds=2)
    #: Any of sgd, momentum (SGD with momentum 0.9), rmsprop, adam, and import paths such as optax:lion, which run the
    #: code of their module. Rates of its own: optax:lion=1e-5,1e-4; another name: lion=optax:lion.
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS)
    rates: tuple[float, ...] = ADAM_RATES  # Learning rates, each tried for every optimizer; the notebook's eight.
    extend: bool = False  # While an optimizer's best rate is the lowest or highest, try another beyond it, up to three.
    out: Path = Path("results/tune_learning_rate")

    free = ("seeds", "optimizers", "rates", "extend")

    def inputs(self) -> list[Path]:
        return list(import_paths.loaded_files(optimizer for _, optimizer, _ in self.candidates).values())

    def check(self) -> None:
        super().check()
        tuning.candidates(self.optimizers, self.rates)

    @cached_property
    def candidates(self) -> list[Candidate]:
        return tuning.candidates(self.optimizers, self.rates)


PRESETS = {
    "full": Options(),
    "notebook": Options(data=Data(), seeds=Seeds()),
    "quick": Options(data=Data(image_size=32), training=Training(iterations=40), rates=(1e-3, 1e-2, 0.1, 1.0)),
}


def answer(options: Options, lab: Lab) -> Report:
    grid = tuning.search(options.candidates, options.seeds, options, lab, options.extend)
    title = f"{options.training.iterations} iterations, {options.data.size} images, {options.seeds}"
    drawings = {"rate_sensitivity": tuning.drawing(grid, title)}
    for label, arms in grid.trials.items():
        by_rate = {exact(arm.run.learning_rate): arm for arm in arms.values()}
        panel = figures.curve_panel(by_rate, "loss", "running-mean loss (mean squared error)")._replace(ordered=True)
        curves = plotting.training_curves([panel], f"{label}: {options.seeds} at each rate")
        drawings[f"curves_{label}"] = Drawing(f"Training curves of {label}", curves)
    return Report(
        findings=findings(grid),
        tables=[table(grid, str(options.seeds))],
        figures=drawings,
        arms=grid.arms,
        results={"best_rates": grid.best},
        warnings=tables.seeds_warning(options.seeds.seeds),
    )


def findings(grid: Grid) -> list[str]:
    sentences = []
    for name, (rate, loss, edge) in grid.best.items():
        if rate is None:
            sentences.append(f"{name}: some seed diverged at every rate.")
            continue
        at_edge = (
            f", at the {edge} edge of its grid: a better one may lie beyond it (--extend tries up to three more)"
            if edge
            else ""
        )
        diverging = ", ".join(f"{rate:g}" for rate in grid.rates[grid.diverged[name].any(axis=0)])
        ending = f"some seed diverged at {diverging}." if diverging else "no rate diverged."
        sentences.append(f"{name}: best rate {rate:g} (loss {loss:.4f}){at_edge}; {ending}")
    return sentences


def table(grid: Grid, seeds: str) -> Table:
    rows = []
    for label, arms in grid.trials.items():
        for name, arm in arms.items():
            num_diverged = int(arm.diverged.sum())
            mark = "best" if grid.best[label].rate == arm.run.learning_rate else ""
            if num_diverged:
                mark = f"{num_diverged} of {len(arm.results)} diverged"
            numbers = [tables.spread(arm.converged(column), COLUMNS[column].form) for column in NUMBERS]
            rows.append([name, *numbers, mark])
    headings = ("", "running-mean loss", "last tenth", "accuracy", "")
    return Table(f"Every optimizer at every rate: {seeds}", headings, rows, "Accuracy: held-out images.")


if __name__ == "__main__":
    question.main()
