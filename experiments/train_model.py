"""How does one network learn? The notebook's long SGD run, or any other, with pictures on the way and a saved model.

    python -m experiments.train_model            10,000 steps of SGD at 0.001, the notebook's long run
    python -m experiments.train_model quick      200 steps of Adam on 32 x 32 images
    python -m experiments.train_model --optimizer adam --loss bce --architecture separate_norm --schedule cosine \\
        --learning-rate 0.01 --iterations 1000

Every `--show-every` iterations the folder gets a picture `iteration-*.png` of one held-out image, its mask and the
prediction; the notebook showed an image of the last training batch. At the end the folder gets the curves, and the
network as `model.safetensors` for `experiments.inspect_layers` and `experiments.segment_image`.

Expect SGD at this rate to be still improving after 10,000 steps. 12 to 25 minutes on 2 CPU cores; quick, a minute.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

import segjax
from experiments.bench import bounds
from experiments.lab import figures, question, report, tables
from experiments.lab.arms import Arms, by_rate, compare
from experiments.lab.folder import Folder
from experiments.lab.names import ARCHITECTURES
from experiments.lab.options import Data, Seed, Trained, Training, check_training
from experiments.lab.programs import CHUNK_SIZE, held_out_batch
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report
from experiments.lab.runs import Run
from experiments.lab.stops import UsageError
from experiments.lab.train import Watch
from experiments.pictures import saved_models, views
from segjax import plotting
from segjax._checks import check_count, check_positive

# Predictions in the last figure; each prediction is also a picture in a file of its own.
MAX_ROWS = 8
# Pictures of a run; each is a file.
MAX_PICTURES = 1000


@dataclass(frozen=True, kw_only=True)
class Options(Trained):
    """Trains one network and saves it."""

    training: Training = Training(iterations=10_000)
    seed: Seed = Seed()
    optimizer: str = "sgd"  # One of sgd, momentum, rmsprop, adam.
    learning_rate: float = 1e-3  # Learning rate: the peak, where the schedule moves it.
    loss: str = "mse"  # One of mse, bce, dice.
    architecture: str = "notebook"  # Name of a network, such as notebook, separate_norm or unet.
    show_every: int = 1000  # Iterations between two pictures.
    #: Also write the weights under PyTorch's names, model-torch.safetensors, for the notebook's class.
    export_torch: bool = False
    out: Path = Path("results/train_model")

    # A finished run can still be exported.
    free = ("export_torch",)

    def check(self) -> None:
        super().check()
        check_training(self.optimizer, self.loss, self.architecture)
        check_positive("--learning-rate", self.learning_rate)
        check_count("--show-every", self.show_every, 1)
        if self.training.iterations > MAX_PICTURES * self.show_every:
            raise ValueError(f"--show-every must leave at most {MAX_PICTURES} pictures, got {self.show_every}")
        saved_models.check_export(self.export_torch, self.architecture)

    @property
    def picture_steps(self) -> list[int]:
        """The steps after which a picture is drawn."""
        iterations = self.training.iterations
        return sorted({*range(self.show_every, iterations, self.show_every), iterations})


PRESETS = {
    "notebook": Options(),
    "quick": Options(
        data=Data(image_size=32),
        training=Training(iterations=200),
        optimizer="adam",
        learning_rate=1e-2,
        architecture="separate_norm",
        show_every=50,
    ),
}


def answer(options: Options, lab: Lab) -> Report:
    steps, texture = options.picture_steps, options.data.texture
    settings = {name: getattr(options, name) for name in ("optimizer", "learning_rate", "architecture")}
    run = options.run(options.seed.seed, objective=options.loss, **settings)
    # The chunk size must divide --show-every: pictures are drawn at the end of a chunk.
    results = lab.train([run], picture_writer(lab.folder, run, steps), math.gcd(options.show_every, CHUNK_SIZE))
    bound = bounds.measure(texture, lab)
    arms = compare(results, by=by_rate)
    ((label, arm),) = arms.items()
    diverged = bool(arm.diverged.any())
    # `inspect_layers` refuses a network whose numbers are not finite.
    findings = [] if diverged else [saved_models.look_inside(options.out)]
    if bound and not diverged:
        error, field = 1 - arm.rows[0]["accuracy"], ARCHITECTURES[run.architecture].receptive_field
        findings.insert(0, bounds.finding(bound, "this network", error, field))
    title = f"{label}, {run.schedule} schedule, {run.objective} loss, {run.architecture}, seed {run.seed}"
    columns, trained_on = (*tables.SCORES, "accuracy_by_running_statistics"), {"texture": texture._asdict()}
    scores = tables.table(arms, f"{run.iterations} iterations: seed {run.seed}", columns)
    return Report(
        findings,
        [scores] if diverged else [scores, views.distance_table(arm.rows[0])],
        {"curves": curves(arms, title), "predictions": predictions(lab.folder, run, steps, title)},
        arms,
        results={"best_possible": bounds.document(bound)},
        warnings=[saved_models.DIVERGED] if diverged else [],
        written=[name for step in steps if (lab.folder.path / (name := f"{note(step)}.png")).exists()],
        files=saved_models.files(run.architecture, results[0].variables, trained_on, options.export_torch, diverged),
    )


def picture_writer(folder: Folder, run: Run, steps: Sequence[int]) -> Watch:
    """A function of the state that writes a picture of a held-out image after each of these steps."""
    batch, model = held_out_batch(run.texture), ARCHITECTURES[run.architecture]

    def write(state: segjax.TrainState) -> None:
        if (step := int(state.step)) in steps:
            probability = figures.probability(model, state.variables, batch)
            figure = views.beside_mask(batch, {f"iteration {step}": probability}, f"A held-out image, {by_rate(run)}")
            folder.write(f"{note(step)}.png", report.picture(figure))
            # The last figure reads the notes, also after an interruption.
            folder.write_note(note(step), {"probability": probability}, {"step": step})

    return write


def curves(arms: Arms, title: str) -> Drawing:
    (arm,) = arms.values()
    panels = [
        figures.curve_panel(arms, "loss", f"running-mean loss ({arm.run.objective})"),
        figures.curve_panel(arms, "agreement", "running-mean agreement (share of pixels)"),
    ]
    return Drawing("Training curves", plotting.training_curves(panels, title))


def predictions(folder: Folder, run: Run, steps: Sequence[int], title: str) -> Drawing:
    """Predictions at evenly spaced steps, from the first picture to the last."""
    indices = np.unique(np.linspace(0, len(steps) - 1, MAX_ROWS).astype(int))
    arrays = {f"iteration {steps[index]}": read_prediction(folder, steps[index]) for index in indices}
    figure = views.beside_mask(held_out_batch(run.texture), arrays, title)
    return Drawing("A held-out image and its predictions", figure)


def note(step: int) -> str:
    return f"iteration-{step:06}"


def read_prediction(folder: Folder, step: int) -> np.ndarray:
    """The predicted probabilities after a step, from its note."""
    if (stored := folder.read_note(note(step))) is None:
        raise UsageError(f"the note of iteration {step} in {folder.path} is gone; pass --overwrite")
    return cast(np.ndarray, stored[0]["probability"])


if __name__ == "__main__":
    question.main()
