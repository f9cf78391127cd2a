"""Is the comparison fair? Warnings on what could favour one optimizer."""

from collections.abc import Iterable, Mapping

from experiments.lab import import_paths
from experiments.optimizers.trials import trial_weights
from experiments.optimizers.tuning import Candidate, Grid
from segjax.optimizers import copies_of_weights, eval_params

# Shorter runs have not left the first steep part of their curves (docs/images/fair-comparison/curves.png).
ENOUGH_STEPS = 300


def evaluation_weights(name: str) -> tuple[bool, list[str]]:
    """Whether an optimizer is evaluated with weights from its state, and otherwise where it keeps copies of them."""
    factory, weights = import_paths.optimizer(name), trial_weights()
    follow = bool(eval_params(factory, factory(1e-3).init(weights)))
    return follow, [] if follow else list(copies_of_weights(factory, weights))


def weights_warnings(candidates: Iterable[Candidate]) -> list[str]:
    """Optimizers that are evaluated with other weights than the trained ones, and those that perhaps should be."""
    messages = []
    for label, name, _ in candidates:
        follow, copies = evaluation_weights(name)
        if follow:
            messages.append(
                f"{label} is evaluated with weights that its state determines; its curves show the trained weights."
            )
        if copies:
            messages.append(
                f"{label} keeps a copy of the weights in its state ({', '.join(copies)}), and is evaluated with the "
                "trained ones: for others, give the function an attribute eval_params(opt_state, params)."
            )
    return messages


def budget_warnings(tuning_steps: Mapping[str, int]) -> list[str]:
    """A warning if tuning took more steps for some labels than for others."""
    if len(set(tuning_steps.values())) < 2:
        return []
    listed = ", ".join(f"{label} {steps}" for label, steps in tuning_steps.items())
    return [f"The budgets of tuning are unequal (steps): {listed}."]


def steps_warning(iterations: int) -> list[str]:
    """A warning if the runs are too short to compare optimizers."""
    if iterations >= ENOUGH_STEPS:
        return []
    return [
        f"{iterations} iterations tell a rate that is much too small from one that is not. They do not tell which "
        "optimizer ends lower: the preset fair trains each for 1000 iterations at a rate of its own."
    ]


def reasons_without_rate(grid: Grid, candidates: Iterable[Candidate]) -> dict[str, str]:
    """label -> why an optimizer has no best rate, and a remedy."""
    reasons = {}
    for label, path, _ in candidates:
        if label in grid.without_rate:
            lower = f"{label}=RATE,RATE" if path == label else f"{label}={path}=RATE,RATE"
            reasons[label] = f"some seed of {label} diverged at each rate that was tried; give it lower ones, {lower}"
    return reasons


def tuning_warnings(grid: Grid, tuning_seeds: Iterable[int], seeds: Iterable[int]) -> list[str]:
    """Best rates at an edge of their grid, and seeds that both chose the rates and judge them."""
    messages = [
        f"The best rate of {name} is the {best.edge} of its grid: a better one may lie beyond it (--extend tries up to "
        "three more)."
        for name, best in grid.best.items()
        if best.edge
    ]
    if common := sorted(set(tuning_seeds) & set(seeds)):
        listed = ", ".join(map(str, common))
        messages.append(f"Seeds that chose the rates also judge them, which flatters the choice: {listed}.")
    return messages
