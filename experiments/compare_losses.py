"""Which loss should the network be trained with? MSE, cross entropy and Dice, each scored by every metric and loss.

    python -m experiments.compare_losses           64 x 64 images, 300 iterations, 3 seeds
    python -m experiments.compare_losses quick     32 x 32 images, 60 iterations, 2 seeds

The notebook defines all three and trains with the first. Runs of one seed are paired: the same initial weights and
images. All use Adam, whose step does not depend on the scale of the loss, at one rate.

Expect cross entropy to lead by a little, and each loss to be best or nearly best by itself. 3 minutes on 2 CPU cores;
quick, a minute.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.lab import figures, question, tables
from experiments.lab.arms import COLUMNS, Arms, compare
from experiments.lab.options import Comparison, Data, Seeds, Training, check_names, check_training
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report
from segjax import LOSSES, plotting
from segjax._checks import check_positive
from segjax.plotting import Figure

# The columns that judge each training loss, in two tables.
METRICS = ("accuracy", "iou", "precision", "recall")
OTHERS = ("f1", "held_out_agreement", "held_out_mse", "held_out_bce", "held_out_dice")
JUDGES = METRICS + OTHERS


@dataclass(frozen=True, kw_only=True)
class Options(Comparison):
    """Trains with several losses, paired over seeds, and scores each by every metric."""

    data: Data = Data(image_size=64)
    training: Training = Training(iterations=300)
    losses: tuple[str, ...] = tuple(LOSSES)  # Any of mse, bce, dice.
    optimizer: str = "adam"  # One of sgd, momentum, rmsprop, adam; the first two depend on the scale of the loss.
    learning_rate: float = 1e-3  # Learning rate of all losses.
    architecture: str = "notebook"  # Name of a network, such as notebook, separate_norm or unet.
    out: Path = Path("results/compare_losses")

    free = ("seeds", "losses")

    def check(self) -> None:
        super().check()
        check_names("--losses", self.losses, LOSSES)
        check_training(self.optimizer, architecture=self.architecture)
        check_positive("--learning-rate", self.learning_rate)


PRESETS = {
    "full": Options(),
    "quick": Options(
        data=Data(image_size=32), training=Training(iterations=60), seeds=Seeds(seeds=2), learning_rate=1e-2
    ),
}


def answer(options: Options, lab: Lab) -> Report:
    shared = {name: getattr(options, name) for name in ("optimizer", "learning_rate", "architecture")}
    runs = [options.run(seed, objective=loss, **shared) for loss in options.losses for seed in options.seeds]
    arms = compare(lab.train(runs), by=lambda run: run.objective)
    title = f"{options.optimizer} at {options.learning_rate:g}, {options.training.iterations} iterations"
    agreement = figures.curve_panel(arms, "agreement", "running-mean agreement (share of pixels)")
    note = "Held-out images; one row for each training loss. Agreement: pixels that are right, and surer than 0.9."
    return Report(
        findings=[tables.leader(arms, column) for column in JUDGES],
        tables=[
            tables.table(arms, f"{title}, by {name}: {options.seeds}", columns, note)
            for name, columns in (("metrics", METRICS), ("the other judges", OTHERS))
        ]
        + tables.ties(arms, JUDGES),
        figures={
            "loss_by_metric": Drawing(
                "Each training loss, by each metric", matrix(arms, f"{title}; mean over seeds: {options.seeds.seeds}")
            ),
            "agreement": Drawing(
                "Agreement while training", plotting.training_curves([agreement], f"{title}, {options.seeds}")
            ),
            "predictions": figures.predictions(arms),
        },
        arms=arms,
        warnings=tables.seeds_warning(options.seeds.seeds) + tables.diverged_warning(arms),
    )


def matrix(arms: Arms, title: str) -> Figure:
    """Means over the seeds that did not diverge, losses down, judges across; see `ranks` for the colours."""
    numbers = np.array([[arm.mean(column) for column in JUDGES] for arm in arms.values()])
    labels = ("trained with", "judged by, on held-out images", "within its column, where it is decided")
    headings = [COLUMNS[column].heading for column in JUDGES]
    return plotting.heatmap(numbers, list(arms), headings, labels, ".4f", title, ranks=ranks(arms))


def ranks(arms: Arms) -> np.ndarray:
    """(losses, judges), larger is better; those that the seeds do not tell from the leading one are its equals."""
    columns = []
    for column in JUDGES:
        best, sign = tables.lead(arms, column), 1 if COLUMNS[column].higher_is_better else -1
        equals = dict.fromkeys(best.tied, best.first)
        # NaN for those that do not compete with the leading one, since more of their runs diverged.
        competing = [best.first, *best.differences]
        columns.append(
            [sign * arms[equals.get(name, name)].mean(column) if name in competing else np.nan for name in arms]
        )
    return np.transpose(columns)


if __name__ == "__main__":
    question.main()
