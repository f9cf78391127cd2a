"""Which loss should the network be trained with? Squared error, cross entropy and Dice, each judged by every metric.

    python -m experiments.compare_losses                    64 x 64 images, 300 iterations, 3 seeds
    python -m experiments.compare_losses --preset quick     32 x 32 images, 60 iterations, 2 seeds

The notebook writes the three down and trains with the first. Runs of one seed are paired: the same initial weights and
images. All use Adam, whose step does not depend on the scale of the loss, at one rate. Each is judged on held-out
images by the metrics and by all three losses.

Expect cross entropy to lead by a little, and each loss to be best or nearly so at itself. 2 to 3 minutes on 2 CPU
cores; quick, 20 seconds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from experiments import command, folder, output, settings, summary, training
from experiments.report import Report, question
from experiments.runs import Result, Run
from segjax import plotting
from segjax.losses import LOSSES

# column of a row -> (heading, form, whether more is better)
JUDGES = {
    "accuracy": ("accuracy", ".3f", True),
    "iou": ("IoU", ".3f", True),
    "precision": ("precision", ".3f", True),
    "recall": ("recall", ".3f", True),
    "f1": ("F1", ".3f", True),
    "held_out_agreement": ("agreement", ".3f", True),
    "held_out_mse": ("MSE", ".3f", False),
    "held_out_bce": ("BCE (nats)", ".3f", False),
    "held_out_dice": ("Dice", ".3f", False),
}


@dataclass(frozen=True)
class Options(settings.Options):
    """Trains with several losses, paired over seeds, and judges each by every metric."""

    preset: Literal["full", "quick"] = "full"
    """Defaults of all other options: the full comparison, or a small one."""
    image_size: int = 64
    sigma: float = 12.8
    iterations: int = 300
    losses: tuple[str, ...] = tuple(LOSSES)
    """Any of mse, bce, dice."""
    optimizer: str = "adam"
    """One of sgd, momentum, rmsprop, adam; the first two depend on the scale of the loss."""
    learning_rate: float = 1e-3
    """The one rate of all losses."""
    architecture: str = "notebook"
    """A name of segjax.models.ARCHITECTURES, such as notebook, separate_norm or unet."""
    out: Path = Path("results/compare_losses")


PRESETS = {
    "full": Options(),
    "quick": Options(preset="quick", image_size=32, sigma=6.4, iterations=60, learning_rate=1e-2, seeds=2),
}


def main(options: Options) -> None:
    with command.usage_errors():
        settings.check(options)
        command.check_names("losses", options.losses, LOSSES)
    folder.claim(options)
    console = Console()
    planned = [
        Run(
            loss,
            seed,
            options.optimizer,
            options.learning_rate,
            options.iterations,
            options.schedule,
            loss,
            options.architecture,
        )
        for loss in options.losses
        for seed in settings.seeds(options)
    ]
    results = training.train_all(planned, options, console)
    title = f"{options.optimizer} at {options.learning_rate:g}, {options.iterations} iterations"
    figures = {
        "loss_by_metric": matrix(results, f"{title}; mean over seeds: {options.seeds}"),
        "agreement": plotting.training_curves(
            [plotting.Panel("running-mean agreement (share of pixels)", summary.running(results, "agreement"))],
            f"{title}, {summary.over_seeds(options)}",
        ),
        "predictions": summary.predictions(results, options),
    }
    columns = {column: (heading, form) for column, (heading, form, _) in JUDGES.items()}
    parts = [dict(list(columns.items())[:4]), dict(list(columns.items())[4:])]
    tables = [
        summary.table(results, options, f"{title}, by {name}", part, "Held-out images; a row for each training loss.")
        for name, part in zip(("metrics", "the other judges"), parts, strict=True)
    ]
    report = Report(question(__doc__), findings(results), tables, figures)
    output.finish(options, *summary.document("compare_losses", results), report, console)


def matrix(results: list[Result], title: str) -> Figure:
    """Mean over seeds: training losses down, judges across; colours run from the worst to the best of each column."""
    means = {column: summary.values(results, column) for column in JUDGES}
    labels = list(summary.by_label(results))
    numbers = np.array([[means[column][label].mean() for column in JUDGES] for label in labels])
    signs = np.array([1 if better else -1 for _, _, better in JUDGES.values()])
    return plotting.heatmap(
        numbers,
        labels,
        [heading for heading, _, _ in JUDGES.values()],
        ("trained with", "judged by, on held-out images", "rank in its column"),
        ".4f",
        title,
        ranks=numbers * signs,
    )


def findings(results: list[Result]) -> list[str]:
    """The best of each judge, and whether it was so for every seed."""
    sentences = []
    for column, (heading, form, better) in JUDGES.items():
        sentences.append(summary.leader(summary.values(results, column), heading, form, better))
    return sentences


if __name__ == "__main__":
    command.run(main, Options, PRESETS)
