'''One short script a question: `python -m experiments` lists them, `python -m experiments.NAME --help` their options.

    NAME.py      a question: its options and presets, its plan of runs (or other work), its report
    rerun.py     repeats an experiment from its results.json, and compares every number
    lab/         the machinery: `lab/experiment.py` is the skeleton that every question goes through
    bench/       the parts of the benchmark and of gpu_program
    notebook/    the notebook's published numbers, and its flaws

Your own experiment is one file, here or anywhere else; `python -m experiments.my_question --preset quick` runs it:

    """Does a larger batch help? One network at several batch sizes, at equal steps."""

    from dataclasses import dataclass
    from pathlib import Path

    from experiments.lab import experiment, scores, views
    from experiments.lab.options import Comparison
    from experiments.lab.report import Report

    @dataclass(frozen=True, kw_only=True)
    class Options(Comparison):
        """Trains at several batch sizes, paired over seeds."""

        batch_sizes: tuple[int, ...] = (2, 8, 32)  # Images a batch.
        optimizer: str = "adam"  # One of sgd, momentum, rmsprop, adam.
        learning_rate: float = 1e-3  # The one rate of all sizes.
        out: Path = Path("results/my_question")

        def check(self) -> None:
            super().check()
            if not self.batch_sizes:
                raise ValueError("--batch-sizes must be numbers of images, at least one")

    PRESETS = {"full": Options(), "quick": Options(image_size=32, sigma=6.4, iterations=60, seeds=2)}

    def plan(options):
        sizes = [options.texture._replace(batch_size=size) for size in options.batch_sizes]
        return [options.run(seed, texture=texture) for texture in sizes for seed in options.all_seeds]

    def report(options, results):
        arms = scores.arms(results, lambda run: f"batch {run.texture.batch_size}")
        tables = [views.table(arms, f"{options.iterations} iterations: {options.over_seeds}")]
        figures = {"predictions": views.predictions(arms, options)}
        return Report([views.leader(arms, "iou")], tables, figures, scores.document(arms), scores.rows(arms))

    if __name__ == "__main__":
        experiment.main()

It has progress with the time left, checkpoints, mistakes told in one line, and results as pictures, HTML, JSON and CSV.
'''

import os
import sys
from importlib.util import find_spec

from experiments.lab import stops

# argv begins with "-m" while Python looks for the module of a command: the imports that follow take seconds.
if sys.argv[:1] == ["-m"] and any(word.startswith("experiments") for word in sys.orig_argv):
    stops.install(lambda: "interrupted before it began")
    # Figures go to files: whatever screen matplotlib is told to draw on, a command needs none.
    os.environ["MPLBACKEND"] = "agg"

if _missing := [name for name in ("tyro", "rich", "PIL") if find_spec(name) is None]:
    # Every command imports this first: one line, where the import of a missing package would be twenty.
    print(f"error: the experiments need {', '.join(_missing)}: pip install '.[experiments]'", file=sys.stderr)
    raise SystemExit(2)
