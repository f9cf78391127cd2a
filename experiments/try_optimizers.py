"""Which optimizers of optax can train the notebook's network, and what does each of them need?

    python -m experiments.try_optimizers                    every one of optax and optax.contrib
    python -m experiments.try_optimizers --preset quick     four of them, 60 iterations
    python -m experiments.try_optimizers --optimizers optax:lion=1e-4,1e-3 my_module:factory

One that has a default rate is tried at it, every other at three rates, of which the best counts; one seed. So the loss
says that it learns, and about how fast: which of two is better, compare_optimizers says, over many seeds. The table is
docs/optimizers.md. About 10 minutes on 2 CPU cores, most of it compilation; quick, a minute.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import FunctionType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from experiments.lab import experiment, names, scores
from experiments.lab.names import exact
from experiments.lab.options import Runs
from experiments.lab.report import Report, Table
from experiments.lab.runs import Result, Run
from experiments.optimizers import tuning
from experiments.optimizers.tuning import Candidate
from segjax import plotting
from segjax.optimizers import copies_of_weights, eval_params, muon

# Arguments of optax's functions that take an optimizer.
_INNER = ("optimizer", "base_optimizer")
# What no trial shows.
_NOTES = {"optax.contrib:galore": "projects matrices alone, of which a convolution has none: it is its Adam here"}


@dataclass(frozen=True, kw_only=True)
class Options(Runs):
    """Trains the notebook's network with every optimizer of optax for a few steps."""

    image_size: int = 32
    sigma: float = 6.4
    iterations: int = 200
    optimizers: tuple[str, ...] = ()
    """Names and import paths, as those of compare_optimizers; all of optax and optax.contrib where none is given."""
    rates: tuple[float, ...] = (1e-3, 1e-2, 0.1)  # Rates that are tried where an optimizer has no default.
    out: Path = Path("results/try_optimizers")

    def inputs(self) -> list[Path]:
        return names.sources(candidate.optimizer for candidate in self.found.candidates)

    def check(self) -> None:
        super().check()
        tuning.check_rates("--rates", self.rates)
        # One that a person named and that cannot train is a mistake; of optax's it is an answer.
        if self.optimizers:
            tuning.candidates(self.optimizers, self.rates)

    @cached_property
    def found(self) -> "Catalogue":
        if self.optimizers:
            return Catalogue(tuning.candidates(self.optimizers, self.rates), {})
        candidates, refused = [], {}
        for name, default in catalogue():
            try:
                candidates += tuning.candidates([name], self.rates if default is None else [default])
            except ValueError as error:
                # What is the same for all of them says nothing.
                refused[name] = str(error).rpartition("a gradient and a loss: ")[2]
        return Catalogue(candidates, refused)


PRESETS = {
    "full": Options(),
    "quick": Options(
        iterations=60,
        optimizers=("adam", "optax.contrib:muon", "optax.contrib:momo=1", "optax.contrib:prodigy=1"),
    ),
}


class Catalogue(NamedTuple):
    """What is tried, and why the others are not: name -> reason."""

    candidates: list[Candidate]
    refused: dict[str, str]


def catalogue() -> Iterator[tuple[str, float | None]]:
    """Import path and default rate of each function of optax and optax.contrib that makes an optimizer."""
    for module in (optax, optax.contrib):
        for name, function in sorted(vars(module).items()):
            # The parts of optimizers are none; optax makes a few optimizers of others by partial.
            if name.startswith(("_", "scale_by_")) or not isinstance(function, FunctionType | partial):
                continue
            parameters = inspect.signature(function).parameters
            rates = [given for given in parameters if given.endswith("learning_rate")]
            if rates or (module is optax.contrib and any(given in _INNER for given in parameters)):
                default = parameters[rates[0]].default if rates else None
                yield f"{module.__name__}:{name}", default if isinstance(default, float) else None


def plan(options: Options) -> list[Run]:
    return tuning.plan(options.found.candidates, [options.seed], options)


def report(options: Options, results: list[Result]) -> Report:
    candidates, refused = options.found
    trials = tuning.trials(candidates, results, 1)
    grid = tuning.grid(trials)
    works = {label: best for label, best in grid.best.items() if best.rate is not None}
    ranked = sorted(works, key=lambda label: works[label].loss or 0.0)
    lost = [label for label in grid.best if label not in works]
    rows = [[label, f"{works[label].loss:.4f}", exact(works[label].rate or 0.0)] for label in ranked]
    rows += [[label, "diverged", "-"] for label in lost]
    by_label = {candidate.label: candidate for candidate in candidates}
    for row in rows:
        _, optimizer, rates = by_label[row[0]]
        row += [", ".join(map(exact, rates)), "; ".join(needs(optimizer))]
    title = f"{options.iterations} iterations, {options.size} images, seed {options.seed}"
    note = "Loss: mean of the last tenth of the steps, at the best rate of those that were tried."
    headings = ("optimizer", "loss, last tenth", "rate", "rates tried", "what it needs")
    tables = [Table(f"Optimizers that train: {title}", headings, rows, note)]
    if refused:
        tables.append(Table("Optimizers that are refused", ("optimizer", "because"), [*map(list, refused.items())]))
    findings = [
        f"{len(works)} of {len(candidates) + len(refused)} optimizers train without diverging, at one rate or more."
    ]
    if lost:
        findings.append(f"Diverged at every rate: {', '.join(lost)}.")
    if ranked:
        losses = {label: np.array([works[label].loss]) for label in ranked}
        figures = {"losses": plotting.bars(losses, "mean loss of the last tenth", title, log=False)}
    else:
        figures = {}
    every = {name: arm for arms in trials.values() for name, arm in arms.items()}
    document = {**scores.document(every), "best_rates": grid.document, "refused": refused}
    warning = (
        "One seed and a few rates: neighbours in this table are not told apart, and one whose best rate is the lowest "
        "or highest tried may do better beyond it."
    )
    return Report(findings, tables, figures, document, scores.rows(every), [warning], markdown="optimizers.md")


def needs(name: str) -> list[str]:
    """What an optimizer takes beside a rate and the gradient, or is judged by, in words."""
    factory, path = names.optimizer(name), name.partition("(")[0]
    words = [_NOTES[path]] if path in _NOTES else []
    weights = {"kernel": jnp.linspace(-1, 1, 6).reshape(1, 1, 2, 3), "bias": jnp.ones(3)}
    if muon in (factory, getattr(factory, "func", None)):
        words.append("segjax's form: a kernel is one matrix")
    transformation = factory(1e-3)
    state = transformation.init(weights)
    try:
        jax.eval_shape(transformation.update, weights, state, weights)
    except TypeError:
        words.append("gets the loss's value")
    if eval_params(factory, state):
        words.append("judged by the average that it keeps")
    elif copies := copies_of_weights(factory, weights):
        words.append(f"keeps a copy of the weights ({', '.join(copies)}), and is judged by those it trains")
    return words


if __name__ == "__main__":
    experiment.main()
