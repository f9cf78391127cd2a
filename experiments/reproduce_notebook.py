"""Does the notebook hold? Its published numbers against ours over seeds, and its eight flaws in numbers.

    python -m experiments.reproduce_notebook                    the notebook's protocol, 3 seeds
    python -m experiments.reproduce_notebook quick              32 x 32 images, 30 iterations, 2 seeds

Seeds are trained one after the other, each with every run of the notebook. The first seed also trains the long SGD run,
whose first 1000 steps are the short one. If the command is interrupted, the same command resumes it, and one with
fewer seeds reports those that are finished.

The verdict on a number says whether the notebook's single run could be one more of ours: whether it lies in the 95 %
prediction interval of a further run, assuming that our runs are normally distributed. One seed gives no verdict.
Published numbers are compared only with runs of the notebook's sizes and numbers of steps.

It also writes `notebook-revisited.md`. 1 to 2 hours on 2 CPU cores; quick, a minute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.lab import question, tables
from experiments.lab.arms import Arms, by_rate, compare
from experiments.lab.options import Comparison, Data, Seeds, Training
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report, Table
from experiments.lab.runs import Result, Run, Texture
from experiments.notebook import comparison
from experiments.notebook.flaws import Flaw, demonstrate
from experiments.notebook.published import ADAM_RATES, AGREEMENT, LOSS, PUBLISHED, quantity
from segjax import metrics, plotting
from segjax._checks import check_count
from segjax.plotting import Figure


@dataclass(frozen=True, kw_only=True)
class Options(Comparison):
    """Trains every run of the notebook over several seeds, and compares the published numbers with them."""

    long_iterations: int = 10_000  # Steps of the long SGD run.
    long_seeds: int = 1  # Number of seeds of the long SGD run; the other seeds stop it at --iterations.
    out: Path = Path("results/reproduce_notebook")

    free = ("seeds", "long_seeds")

    def check(self) -> None:
        super().check()
        check_count("--long-iterations", self.long_iterations, self.training.iterations)
        check_count("--long-seeds", self.long_seeds, 0)

    @property
    def is_notebook(self) -> bool:
        """Whether our runs have the notebook's protocol, so that its numbers can be compared."""
        training = (self.training.iterations, self.training.schedule)
        return training == (1000, "constant") and self.data.texture == Texture()


PRESETS = {
    "notebook": Options(),
    "quick": Options(
        data=Data(image_size=32), training=Training(iterations=30), seeds=Seeds(seeds=2), long_iterations=300
    ),
}


def answer(options: Options, lab: Lab) -> Report:
    arms, steps = compare(lab.train(planned(options)), by=by_rate), options.training.iterations
    # Published numbers are of these sizes and steps only.
    compared = [comparison.compare(number, arms, steps) for number in PUBLISHED] if options.is_notebook else []
    flaws = demonstrate(arms, steps, options.data.image_size, published=bool(compared))
    return Report(
        findings=comparison.findings(compared),
        tables=[comparison.table(compared) if compared else ours_table(arms, options), flaw_table(flaws)],
        figures=drawings(arms, compared, steps),
        arms=arms,
        results={"published": [row.document for row in compared], "flaws": flaws},
        warnings=tables.seeds_warning(min(len(arm.results) for arm in arms.values())),
        markdown="notebook-revisited.md",
    )


def planned(options: Options) -> list[Run]:
    """All runs, seed by seed, so that an interrupted command has finished whole seeds."""
    runs = []
    for index, seed in enumerate(options.seeds):
        named = [("adam", rate) for rate in ADAM_RATES] + [("rmsprop", 1e-3), ("momentum", 1e-3)]
        # Flaw 3: momentum and SGD at rates of their own.
        own_rates = [("momentum", 0.1), ("sgd", 1.0)]
        steps = options.long_iterations if index < options.long_seeds else options.training.iterations
        runs += [options.run(seed, optimizer=name, learning_rate=rate) for name, rate in named]
        runs.append(options.run(seed, optimizer="sgd", learning_rate=1e-3, iterations=steps))
        runs += [options.run(seed, optimizer=name, learning_rate=rate) for name, rate in own_rates]
    return runs


def ours_table(arms: Arms, options: Options) -> Table:
    """Our runs, the long one included, after the short number of steps."""
    steps = options.training.iterations

    def at_end(results: Sequence[Result], name: str) -> str:
        return tables.spread(np.array([quantity(result, name, steps) for result in results]), ".4f")

    rows = [[label, *(at_end(arm.results, name) for name in (LOSS, AGREEMENT))] for label, arm in arms.items()]
    counts = " or ".join(map(str, sorted({len(arm.results) for arm in arms.values()})))
    title = f"Our runs after {steps} steps on {options.data.size} images: mean and range of {counts} seeds"
    note = "Running means. The notebook's numbers are of other sizes or steps."
    return Table(title, ("run", LOSS, AGREEMENT), rows, note)


def flaw_table(flaws: Sequence[Flaw]) -> Table:
    return Table("The eight flaws", ("flaw", "shown"), flaws, "Mean over seeds (range) where there are several.")


def drawings(arms: Arms, compared: Sequence[comparison.Compared], steps: int) -> dict[str, Drawing]:
    figures = {}
    if compared:
        figures["published_losses"] = Drawing("Published losses beside ours", comparison.figure(compared))
    labels = ["sgd 0.001", "momentum 0.001", "rmsprop 0.001", "adam 0.001", "momentum 0.1", "sgd 1"]
    title = "At the notebook's rate and at rates of their own"
    figures["optimizers"] = Drawing("Training curves of each optimizer", curves(arms, labels, steps, title, False))
    labels = [label for label, arm in arms.items() if arm.run.optimizer == "adam"]
    figure = curves(arms, labels, steps, "Adam at eight rates", True)
    figures["adam_rates"] = Drawing("Training curves of Adam at each rate", figure)
    return figures


def curves(arms: Arms, labels: Sequence[str], steps: int, title: str, ordered: bool) -> Figure:
    losses = {
        label: np.stack([metrics.running_mean(result.history.loss[:steps]) for result in arms[label].results])
        for label in labels
    }
    panel = plotting.Panel("running-mean loss", losses, log=True, ordered=ordered)
    return plotting.training_curves([panel], f"{title}, mean and range over seeds")


if __name__ == "__main__":
    question.main()
