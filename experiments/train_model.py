"""How does one network learn? The notebook's long SGD run, or any other, with a picture as it goes and a saved model.

    python -m experiments.train_model                    10,000 steps of SGD at 0.001, the notebook's long run
    python -m experiments.train_model --preset quick     200 steps of Adam on 32 x 32 images
    python -m experiments.train_model --optimizer adam --loss bce --architecture separate_norm --schedule cosine \\
        --learning-rate 0.01 --iterations 1000

Every `--show-every` iterations the folder gets a picture `iteration-*.png` of one held-out image, its mask and the
prediction; the notebook showed an image of the batch just trained on. At the end come the curves and
`model.safetensors`, which `experiments.inspect_layers` and `experiments.segment_image` read.

Expect SGD at this rate to be still improving after 10,000 steps. 12 to 25 minutes on 2 CPU cores; quick, a minute.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, cast

import numpy as np
from rich.console import Console

import segjax
from experiments.lab import bounds, experiment, output, saved_models, scores, store, views
from experiments.lab.bounds import Bound
from experiments.lab.names import ARCHITECTURES
from experiments.lab.options import Training
from experiments.lab.report import Report
from experiments.lab.runs import CHUNK_SIZE, Result, held_out_batch
from experiments.lab.stops import UsageError
from experiments.lab.train import train_all
from segjax import plotting
from segjax._checks import check_count

# Rows of the last figure; each picture is a file of its own as well.
MOST_ROWS = 8
# Pictures of a run, each a file.
MOST_PICTURES = 1000


@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """Trains one network and saves it."""

    iterations: int = 10_000
    optimizer: str = "sgd"  # One of sgd, momentum, rmsprop, adam.
    learning_rate: float = 1e-3  # Learning rate: the peak, where the schedule moves it.
    loss: str = "mse"  # One of mse, bce, dice.
    architecture: str = "notebook"  # Name of a network, such as notebook, separate_norm or unet.
    show_every: int = 1000  # Iterations between two pictures.
    export_torch: bool = False
    """Also write the weights by PyTorch's names, model-torch.safetensors, for the notebook's class."""
    out: Path = Path("results/train_model")

    # What is kept can be exported later.
    free: ClassVar[tuple[str, ...]] = ("export_torch",)

    def check(self) -> None:
        super().check()
        check_count("--show-every", self.show_every, 1)
        if self.iterations > MOST_PICTURES * self.show_every:
            raise ValueError(f"--show-every must leave at most {MOST_PICTURES} pictures, got {self.show_every}")
        saved_models.check_export(self.export_torch, self.architecture)

    @property
    def shown_steps(self) -> list[int]:
        """The steps after which a picture is drawn."""
        return sorted({*range(self.show_every, self.iterations, self.show_every), self.iterations})


PRESETS = {
    "notebook": Options(),
    "quick": Options(
        image_size=32,
        sigma=6.4,
        iterations=200,
        optimizer="adam",
        learning_rate=1e-2,
        architecture="separate_norm",
        show_every=50,
    ),
}


class Found(NamedTuple):
    """The run, and the best possible."""

    result: Result
    bound: Bound | None


def work(options: Options, console: Console) -> Found:
    """Trains the network, and draws a picture every so many steps."""
    batch = held_out_batch(options.texture)
    model = ARCHITECTURES[options.architecture]

    def watch(state: segjax.TrainState) -> None:
        if (step := int(state.step)) in due:
            seen = views.probability(model, state.variables, batch)
            # The same image every time: the notebook showed one of the batch just trained on, another each time.
            figure = views.look(batch, {f"iteration {step}": seen}, f"A held-out image, {scores.by_rate(run)}")
            store.write(options.out, f"{note(step)}.png", output.png(figure))
            # For the figure of them all, also where the command is interrupted in between.
            store.write_note(options.out, note(step), {"probability": seen}, {"step": step})

    run, due = options.run(options.seed), set(options.shown_steps)
    # A chunk must end where a picture is due.
    (result,) = train_all([run], options, console, watch, math.gcd(options.show_every, CHUNK_SIZE))
    return Found(result, bounds.measure(options.texture, console))


def note(step: int) -> str:
    return f"iteration-{step:06}"


def shown(out: Path, step: int) -> np.ndarray:
    """The probabilities that were drawn after a step."""
    if (found := store.read_note(out, note(step))) is None:
        raise UsageError(f"what {out} kept for the picture of iteration {step} is gone; pass --overwrite")
    if found[1].get("step") != step:
        raise UsageError(f"what {out} kept for the picture of iteration {step} is of another; pass --overwrite")
    return cast(np.ndarray, found[0]["probability"])


def report(options: Options, found: Found) -> Report:
    result, bound = found
    arms = scores.arms([result], scores.by_rate)
    steps = options.shown_steps
    rows = [steps[index] for index in np.unique(np.linspace(0, len(steps) - 1, MOST_ROWS).astype(int))]
    seen = {f"iteration {step}": shown(options.out, step) for step in rows}
    (label,) = arms
    title = f"{label}, {options.schedule} schedule, {options.loss} loss, {options.architecture}, seed {options.seed}"
    panels = [
        views.curve_panel(arms, "loss", f"running-mean loss ({options.loss})"),
        views.curve_panel(arms, "agreement", "running-mean agreement (share of pixels)"),
    ]
    figures = {
        "curves": plotting.training_curves(panels, title),
        "predictions": views.look(held_out_batch(options.texture), seen, title),
    }
    columns = (*views.SCORES, "accuracy_by_running_statistics")
    table = views.table(arms, f"{options.iterations} iterations: seed {options.seed}", columns)
    trained_on = {"texture": options.texture._asdict()}
    diverged = bool(arms[label].diverged.any())
    # `inspect_layers` refuses one whose numbers are not finite.
    findings = [] if diverged else [saved_models.look_inside(options.out)]
    if bound and not diverged:
        field = ARCHITECTURES[options.architecture].receptive_field
        findings.insert(0, bounds.sentence(bound, "this network", 1 - arms[label].rows[0]["accuracy"], field))
    return Report(
        findings,
        [table, views.distance_table(arms[label].rows[0])],
        figures,
        {**scores.document(arms), "best_possible": bounds.document(bound)},
        scores.rows(arms),
        [saved_models.DIVERGED] if diverged else [],
        written=[name for step in steps if (options.out / (name := f"{note(step)}.png")).exists()],
        files=saved_models.files(options.architecture, result.variables, trained_on, options.export_torch, diverged),
    )


if __name__ == "__main__":
    experiment.main()
