"""Does it train?

A question without figures, which are most of the time of a small run: for tests that look at none.
"""

from dataclasses import dataclass

from experiments.lab import question
from experiments.lab.arms import by_rate, compare
from experiments.lab.options import Comparison, Data, Seeds, Training
from experiments.lab.report import Report


@dataclass(frozen=True, kw_only=True)
class Options(Comparison):
    """Trains one optimizer over seeds."""

    method: str = "adam"
    """Its name or import path."""
    learning_rate: float = 1e-3
    """Its rate."""


PRESETS = {
    "quick": Options(data=Data(image_size=16, batch_size=1), training=Training(iterations=10), seeds=Seeds(seeds=2))
}


def answer(options, lab):
    runs = [options.run(seed, optimizer=options.method, learning_rate=options.learning_rate) for seed in options.seeds]
    return Report([], [], {}, compare(lab.train(runs), by=by_rate))


if __name__ == "__main__":
    question.main()
