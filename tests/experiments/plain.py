"""Does it train?

A question without figures, which are most of the time of a small run: for tests that look at none.
"""

from dataclasses import dataclass

from experiments.lab import experiment, scores
from experiments.lab.options import Comparison
from experiments.lab.report import Report


@dataclass(frozen=True, kw_only=True)
class Options(Comparison):
    """Trains one optimizer over seeds."""

    method: str = "adam"
    """Its name or import path."""
    learning_rate: float = 1e-3
    """Its rate."""


PRESETS = {"quick": Options(image_size=16, sigma=4.0, batch_size=1, iterations=10, seeds=2)}


def plan(options):
    return [options.run(seed, optimizer=options.method) for seed in options.all_seeds]


def report(options, results):
    arms = scores.arms(results, scores.by_rate)
    return Report([], [], {}, scores.document(arms), scores.rows(arms))


if __name__ == "__main__":
    experiment.main()
