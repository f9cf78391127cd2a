"""Which optimizers of optax can train the notebook's network, and what does each of them need?

    python -m experiments.try_optimizers                    every one of optax and optax.contrib
    python -m experiments.try_optimizers quick              four of them, 60 iterations
    python -m experiments.try_optimizers --optimizers optax:lion=1e-4,1e-3 my_module:factory

Optimizers with a default rate are trained at it, all others at three rates, of which the best counts; with one seed.
The loss shows that an optimizer learns, and roughly how fast; compare_optimizers compares them over many seeds. The
table is docs/optimizers.md. About 10 minutes on 2 CPU cores, most of it compilation; quick, a minute.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import FunctionType
from typing import NamedTuple

import jax
import numpy as np
import optax
import optax.contrib

from experiments.lab import import_paths, question
from experiments.lab.names import exact
from experiments.lab.options import Data, Engine, Seed, Trained, Training
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report, Table
from experiments.optimizers import trials, tuning
from experiments.optimizers.fairness import evaluation_weights
from experiments.optimizers.tuning import Candidate, Grid
from segjax import plotting
from segjax.optimizers import muon

# Arguments of optax's functions that take an optimizer.
_INNER = ("optimizer", "base_optimizer")
# Facts that a trial does not show.
_NOTES = {"optax.contrib:galore": "projects matrices alone, of which a convolution has none: it is its Adam here"}


@dataclass(frozen=True, kw_only=True)
class Options(Trained):
    """Trains the notebook's network with every optimizer of optax for a few steps."""

    data: Data = Data(image_size=32)
    training: Training = Training(iterations=200)
    seed: Seed = Seed()
    engine: Engine = Engine()
    #: Names and import paths, as in compare_optimizers; by default all of optax and optax.contrib.
    optimizers: tuple[str, ...] | None = None
    rates: tuple[float, ...] = (1e-3, 1e-2, 0.1)  # Rates of optimizers without a default.
    out: Path = Path("results/try_optimizers")

    free = ("optimizers", "rates")

    def inputs(self) -> list[Path]:
        return list(import_paths.loaded_files(each.optimizer for each in self.catalogue.candidates).values())

    def check(self) -> None:
        super().check()
        tuning.check_rates("--rates", self.rates)
        # An optimizer that cannot train is a mistake if the user named it, otherwise a result.
        if self.optimizers is not None:
            tuning.candidates(self.optimizers, self.rates)

    @cached_property
    def catalogue(self) -> "Catalogue":
        if self.optimizers is not None:
            return Catalogue(tuning.candidates(self.optimizers, self.rates), {})
        candidates, refused = [], {}
        for name, default in functions_of_optax():
            try:
                trials.optimizer(name)
            except import_paths.RefusedError as error:
                refused[name] = error.reason
            else:
                candidates += tuning.candidates([name], self.rates if default is None else [default])
        return Catalogue(candidates, refused)


PRESETS = {
    "full": Options(),
    "quick": Options(
        training=Training(iterations=60),
        optimizers=("adam", "optax.contrib:muon", "optax.contrib:momo=1", "optax.contrib:prodigy=1"),
    ),
}


class Catalogue(NamedTuple):
    """The optimizers to train, and name -> reason for those that are refused."""

    candidates: list[Candidate]
    refused: dict[str, str]


def functions_of_optax() -> Iterator[tuple[str, float | None]]:
    """Import path and default rate of each function of optax and optax.contrib that makes an optimizer."""
    for module in (optax, optax.contrib):
        for name, function in sorted(vars(module).items()):
            # Parts of optimizers are skipped. A few of optax's optimizers are partials of others.
            if name.startswith(("_", "scale_by_")) or not isinstance(function, FunctionType | partial):
                continue
            parameters = inspect.signature(function).parameters
            rates = [parameter for parameter in parameters if parameter.endswith("learning_rate")]
            if rates or (module is optax.contrib and any(parameter in _INNER for parameter in parameters)):
                default = parameters[rates[0]].default if rates else None
                yield f"{module.__name__}:{name}", default if isinstance(default, float) else None


def answer(options: Options, lab: Lab) -> Report:
    candidates, refused = options.catalogue
    grid = Grid(tuning.train(candidates, [options.seed.seed], options, lab))
    ranked = sorted(set(grid.best) - set(grid.without_rate), key=lambda label: grid.best[label].loss or 0.0)
    title = f"{options.training.iterations} iterations, {options.data.size} images, seed {options.seed.seed}"
    findings = [
        f"{len(ranked)} of {len(candidates) + len(refused)} optimizers train without diverging, at one rate or more."
    ]
    if grid.without_rate:
        findings.append(f"Diverged at every rate: {', '.join(grid.without_rate)}.")
    tables = [table(candidates, grid, ranked, title)]
    if refused:
        tables.append(Table("Optimizers that are refused", ("optimizer", "because"), [*map(list, refused.items())]))
    losses = {label: np.array([grid.best[label].loss]) for label in ranked}
    figure = plotting.bars(losses, "mean loss of the last tenth", title, log=False) if ranked else None
    warning = (
        "One seed and a few rates: neighbours in this table are not told apart, and one whose best rate is the lowest "
        "or highest tried may do better beyond it."
    )
    return Report(
        findings,
        tables,
        figures={"losses": Drawing("Loss of each optimizer", figure)} if figure else {},
        arms=grid.arms,
        results={"best_rates": grid.best, "refused": refused},
        warnings=[warning],
        markdown="optimizers.md",
    )


def table(candidates: list[Candidate], grid: Grid, ranked: list[str], title: str) -> Table:
    """One row per optimizer, the best first."""
    by_label = {candidate.label: candidate for candidate in candidates}
    rows = []
    for label in [*ranked, *grid.without_rate]:
        rate, loss, _ = grid.best[label]
        is_ready = isinstance(import_paths.optimizer(by_label[label].optimizer), import_paths.Ready)
        rates = "its own" if is_ready else ", ".join(map(exact, by_label[label].rates))
        result = ["diverged", "-"] if rate is None else [f"{loss:.4f}", rates if is_ready else exact(rate)]
        rows.append([label, *result, rates, "; ".join(needs(by_label[label].optimizer))])
    note = "Loss: mean of the last tenth of the steps, at the best rate of those that were tried."
    headings = ("optimizer", "loss, last tenth", "rate", "rates tried", "what it needs")
    return Table(f"Optimizers that train: {title}", headings, rows, note)


def needs(name: str) -> list[str]:
    """Messages on what an optimizer needs besides a rate and the gradient, and on its evaluation weights."""
    factory, path = import_paths.optimizer(name), name.partition("(")[0]
    messages = [_NOTES[path]] if path in _NOTES else []
    weights = trials.trial_weights()
    if muon in (factory, getattr(factory, "func", None)):
        messages.append("segjax's form: a kernel is one matrix")
    transformation = factory(1e-3)
    try:
        jax.eval_shape(transformation.update, weights, transformation.init(weights), weights)
    except TypeError:
        messages.append("gets the loss's value")
    follow, copies = evaluation_weights(name)
    if follow:
        messages.append("evaluated with the average that it keeps")
    if copies:
        messages.append(f"keeps a copy of the weights ({', '.join(copies)}), and is evaluated with those it trains")
    return messages


if __name__ == "__main__":
    question.main()
