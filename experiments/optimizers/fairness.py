"""Is the comparison fair? What a careful reader would hold against it, in words."""

from collections.abc import Iterable, Mapping

from experiments.lab import import_paths
from experiments.optimizers.tuning import Candidate, Grid
from segjax.optimizers import copies_of_weights, eval_params


def weights_warnings(candidates: Iterable[Candidate]) -> list[str]:
    """Optimizers that are judged by other weights than they train, and those that perhaps should be."""
    words = []
    weights = import_paths.trial_weights()
    for label, name, _ in candidates:
        chosen = import_paths.optimizer(name)
        if eval_params(chosen, chosen(1e-3).init(weights)):
            words.append(f"{label} is judged by weights that follow from its state; its curves are of those it trains.")
        elif copies := copies_of_weights(chosen, weights):
            words.append(
                f"{label} keeps a copy of the weights in its state ({', '.join(copies)}), and is judged by those it "
                "trains: if others should count, give the function an attribute eval_params(opt_state, params)."
            )
    return words


def budget_warnings(spent: Mapping[str, int]) -> list[str]:
    """Unequal budgets of tuning: label -> steps."""
    if len(set(spent.values())) < 2:
        return []
    return [f"The budgets of tuning are unequal (steps): {', '.join(f'{it} {steps}' for it, steps in spent.items())}."]


def reasons_without_rate(grid: Grid, candidates: Iterable[Candidate]) -> dict[str, str]:
    """label -> why an optimizer has no best rate, and what to do."""
    words = {}
    for label, path, _ in candidates:
        if label in grid.lost:
            lower = f"{label}=RATE,RATE" if path == label else f"{label}={path}=RATE,RATE"
            words[label] = f"some seed of {label} diverged at each rate that was tried; give it lower ones, {lower}"
    return words


def tuning_warnings(grid: Grid, tuning_seeds: Iterable[int], seeds: Iterable[int]) -> list[str]:
    """A best rate at an edge, and seeds that both chose and are judged."""
    words = [
        f"The best rate of {name} is the {best.edge} of its grid: a better one may lie beyond it."
        for name, best in grid.best.items()
        if best.edge
    ]
    if common := sorted(set(tuning_seeds) & set(seeds)):
        listed = ", ".join(map(str, common))
        words.append(f"Seeds that chose the rates also judge them, which flatters the choice: {listed}.")
    return words
