"""Which loss should the network be trained with? MSE, cross entropy and Dice, each judged by every metric and loss.

    python -m experiments.compare_losses                    64 x 64 images, 300 iterations, 3 seeds
    python -m experiments.compare_losses --preset quick     32 x 32 images, 60 iterations, 2 seeds

The notebook writes the three down and trains with the first. Runs of one seed are paired: the same initial weights and
images. All use Adam, whose step does not depend on the scale of the loss, at one rate. Each is judged on held-out
images by the metrics and by all three losses.

Expect cross entropy to lead by a little, and each loss to be best or nearly so at itself. 3 minutes on 2 CPU
cores; quick, a minute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.lab import experiment, fairness, scores, views
from experiments.lab.options import Comparison, check_names
from experiments.lab.report import Report
from experiments.lab.runs import Result, Run
from experiments.lab.scores import COLUMNS, Arms
from segjax import LOSSES, plotting

# The columns that judge each training loss, by the two tables that they fill.
METRICS = ("accuracy", "iou", "precision", "recall")
OTHERS = ("f1", "held_out_agreement", "held_out_mse", "held_out_bce", "held_out_dice")
JUDGES = METRICS + OTHERS


@dataclass(frozen=True, kw_only=True)
class Options(Comparison):
    """Trains with several losses, paired over seeds, and judges each by every metric."""

    image_size: int = 64
    sigma: float = 12.8
    iterations: int = 300
    losses: tuple[str, ...] = tuple(LOSSES)  # Any of mse, bce, dice.
    optimizer: str = "adam"  # One of sgd, momentum, rmsprop, adam; the first two depend on the scale of the loss.
    learning_rate: float = 1e-3  # The one rate of all losses.
    architecture: str = "notebook"  # Name of a network, such as notebook, separate_norm or unet.
    out: Path = Path("results/compare_losses")

    def check(self) -> None:
        super().check()
        check_names("--losses", self.losses, LOSSES)


PRESETS = {"full": Options(), "quick": Options(image_size=32, sigma=6.4, iterations=60, learning_rate=1e-2, seeds=2)}


def plan(options: Options) -> list[Run]:
    """Every loss over the seeds."""
    return [options.run(seed, objective=loss) for loss in options.losses for seed in options.all_seeds]


def report(options: Options, results: Sequence[Result]) -> Report:
    arms = scores.arms(results, lambda run: run.objective)
    title = f"{options.optimizer} at {options.learning_rate:g}, {options.iterations} iterations"
    agreement = views.curve_panel(arms, "agreement", "running-mean agreement (share of pixels)")
    figures = {
        "loss_by_metric": matrix(arms, f"{title}; mean over seeds: {options.seeds}"),
        "agreement": plotting.training_curves([agreement], f"{title}, {options.over_seeds}"),
        "predictions": views.predictions(arms, options),
    }
    note = "Held-out images; a row for each training loss. Agreement: pixels that are right, and surer than 0.9."
    tables = [
        views.table(arms, f"{title}, by {name}: {options.over_seeds}", columns, note)
        for name, columns in (("metrics", METRICS), ("the other judges", OTHERS))
    ]
    findings = [views.leader(arms, column) for column in JUDGES]
    document, warnings = scores.document(arms), fairness.of_seeds(options.seeds) + fairness.of_diverged(arms)
    return Report(findings, tables, figures, document, scores.rows(arms), warnings)


def matrix(arms: Arms, title: str) -> Figure:
    """Mean over seeds: training losses down, judges across; colours run from the worst to the best of each column."""
    numbers = np.array([[arm.values(column).mean() for column in JUDGES] for arm in arms.values()])
    signs = np.array([1 if COLUMNS[column].higher_is_better else -1 for column in JUDGES])
    labels = ("trained with", "judged by, on held-out images", "within its column")
    headings = [COLUMNS[column].heading for column in JUDGES]
    return plotting.heatmap(numbers, list(arms), headings, labels, ".4f", title, ranks=numbers * signs)


if __name__ == "__main__":
    experiment.main()
