"""Which optimizer trains the notebook's network best? SGD, SGD with momentum, RMSprop and Adam at one learning rate.

    python -m experiments.compare_optimizers                    the notebook's protocol, over 3 seeds
    python -m experiments.compare_optimizers --preset quick     64 x 64, 60 iterations

Runs of one seed are paired: the same initial weights and the same images for every optimizer. The notebook made one
run each and called a second momentum run "SGD". Expect Adam and RMSprop to be equal at its rate of 0.001, momentum
well behind and plain SGD far behind: that is a statement about this one rate, which was tuned for Adam.

On 2 CPU cores, an iteration takes 0.07 to 0.17 s: 15 to 35 minutes for the whole, under a minute for the quick preset.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

import segjax
from experiments import command, output, runs, settings, summary
from experiments.report import Report, question
from experiments.runs import Run
from segjax import plotting


@dataclass(frozen=True)
class Options(settings.Options):
    """Trains the notebook's network with several optimizers, paired over seeds, and compares them."""

    preset: Literal["notebook", "quick"] = "notebook"
    """Defaults of all other options: the notebook's protocol, or a small one."""
    optimizers: tuple[str, ...] = tuple(segjax.OPTIMIZERS)
    """Any of sgd, momentum (SGD with momentum 0.9), rmsprop, adam."""
    learning_rate: float = 1e-3
    """The one rate of all optimizers."""
    out: Path = Path("results/compare_optimizers")


PRESETS = {
    "notebook": Options(),
    "quick": Options(preset="quick", iterations=60, image_size=64, sigma=12.8),
}


def main(options: Options) -> None:
    with command.usage_errors():
        settings.check(options)
        command.check_names("optimizers", options.optimizers, segjax.OPTIMIZERS)
    output.claim(options.out, options.overwrite)
    console = Console()
    planned = [
        Run(name, seed, name, options.learning_rate, options.iterations, options.schedule)
        for name in options.optimizers
        for seed in settings.seeds(options)
    ]
    results = runs.train_all(planned, options, console)
    rate = f"learning rate {options.learning_rate:g}"
    panels = [
        plotting.Panel("running-mean loss (mean squared error)", summary.running(results, "loss"), log=True),
        plotting.Panel("running-mean agreement (share of pixels)", summary.running(results, "agreement")),
    ]
    figures = {
        "curves": plotting.training_curves(panels, f"{rate.capitalize()}, {summary.over_seeds(options)}"),
        "predictions": summary.predictions(results, options),
    }
    table = summary.table(results, options, f"{options.iterations} iterations at {rate}")
    findings = [
        summary.leader(summary.values(results, column), *summary.SCORES[column], better=column != "loss")
        for column in ("loss", "agreement", "accuracy", "iou")
    ]
    report = Report(question(__doc__), findings, [table], figures)
    output.finish(options, *summary.document("compare_optimizers", results), report, console)


if __name__ == "__main__":
    command.run(main, Options, PRESETS)
