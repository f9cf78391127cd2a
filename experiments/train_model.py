"""How does one network learn? The notebook's long SGD run, or any other, with a picture as it goes and a saved model.

    python -m experiments.train_model                    10,000 steps of SGD at 0.001, the notebook's long run
    python -m experiments.train_model --preset quick     200 steps of Adam on 32 x 32 images
    python -m experiments.train_model --optimizer adam --loss bce --architecture separate_norm --schedule cosine \\
        --learning-rate 0.01 --iterations 1000

Every `--show-every` iterations the folder gets a picture `iteration-*.png` of one held-out image, its mask and the
prediction; the notebook showed an image of the batch just trained on. At the end come the curves and
`model.safetensors`, which `experiments.inspect_layers`, `experiments.segment_image` and `experiments.networks.load`
read.

Expect SGD at this rate to be still improving after 10,000 steps. 12 to 25 minutes on 2 CPU cores; quick, 20 seconds.
"""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from rich.console import Console

import segjax
from experiments import command, folder, networks, output, programs, settings, summary, training
from experiments.report import Report, question
from experiments.runs import Run
from segjax import checkpoints, plotting
from segjax.checks import check_count
from segjax.models import ARCHITECTURES, predict

# Rows of the last figure; each picture is a file of its own as well.
MOST_ROWS = 8


@dataclass(frozen=True)
class Options(settings.Training):
    """Trains one network and saves it."""

    preset: Literal["notebook", "quick"] = "notebook"
    """Defaults of all other options: the notebook's long run, or a small one."""
    iterations: int = 10_000
    optimizer: str = "sgd"
    """One of sgd, momentum, rmsprop, adam."""
    learning_rate: float = 1e-3
    """Learning rate: the peak, where the schedule moves it."""
    loss: str = "mse"
    """One of mse, bce, dice."""
    architecture: str = "notebook"
    """A name of segjax.models.ARCHITECTURES, such as notebook, separate_norm or unet."""
    show_every: int = 1000
    """Iterations between two pictures."""
    export_torch: bool = False
    """Also write the weights by PyTorch's names, model-torch.safetensors, for the notebook's class."""
    out: Path = Path("results/train_model")


PRESETS = {
    "notebook": Options(),
    "quick": Options(
        preset="quick",
        image_size=32,
        sigma=6.4,
        iterations=200,
        optimizer="adam",
        learning_rate=1e-2,
        architecture="separate_norm",
        show_every=50,
    ),
}


def main(options: Options) -> None:
    with command.usage_errors():
        settings.check(options)
        check_count("--show-every", options.show_every, 1)
        networks.check(options)
    # What is kept can be exported later.
    folder.claim(options, free=["export_torch"])
    console = Console()
    label = f"{options.optimizer} {options.learning_rate:g}"
    run = Run(
        label,
        options.seed,
        options.optimizer,
        options.learning_rate,
        options.iterations,
        options.schedule,
        options.loss,
        options.architecture,
    )
    # A chunk must end where a picture is due.
    texture, chunk_size = settings.texture(options), math.gcd(options.show_every, programs.CHUNK_SIZE)
    batch = programs.held_out_batch(texture)
    image, mask = np.asarray(batch.image[0, ..., 0]), np.asarray(batch.mask[0, ..., 0])
    look = jax.jit(
        lambda variables: jax.nn.sigmoid(predict(ARCHITECTURES[run.architecture], variables, batch.image))[0, ..., 0]
    )

    def watch(state: segjax.TrainState, _: segjax.History) -> None:
        step = int(state.step)
        if step % options.show_every == 0 or step == options.iterations:
            seen, name = np.asarray(look(state.variables)), f"iteration {step}"
            figure = plotting.predictions(image, mask, {name: seen}, f"A held-out image, {label}")
            checkpoints.write(options.out / f"iteration-{step:06}.png", output.png(figure))
            # For the figure of them all, also where the command was interrupted in between.
            checkpoints.save(shown(step), {"probability": seen}, {"step": step})

    def shown(step: int) -> Path:
        return options.out / folder.RUNS / f"iteration-{step:06}.safetensors"

    (result,) = training.train_all([run], options, console, watch, chunk_size)
    steps = sorted({*range(options.show_every, options.iterations, options.show_every), options.iterations})
    saved = networks.save(options, result.variables, {"texture": texture})

    rows = [steps[index] for index in np.unique(np.linspace(0, len(steps) - 1, MOST_ROWS).astype(int))]
    seen = {f"iteration {step}": checkpoints.load(shown(step))[0]["probability"] for step in rows}
    title = f"{label}, {options.schedule} schedule, {options.loss} loss, {options.architecture}, seed {options.seed}"
    panels = [
        plotting.Panel(f"running-mean loss ({options.loss})", summary.running([result], "loss"), log=True),
        plotting.Panel("running-mean agreement (share of pixels)", summary.running([result], "agreement")),
    ]
    figures = {
        "curves": plotting.training_curves(panels, title),
        "predictions": plotting.predictions(image, mask, seen, title),
    }
    columns = {**summary.SCORES, "accuracy_by_running_statistics": ("accuracy, running statistics", ".3f")}
    one_seed = settings.Options(seed=options.seed, seeds=1)
    table = summary.table([result], one_seed, f"{options.iterations} iterations", columns)
    use = shlex.join(["python", "-m", "experiments.inspect_layers", "--model", str(saved)])
    report = Report(question(__doc__), [f"The model is saved; look inside it with: {use}"], [table], figures)
    output.finish(options, *summary.document("train_model", [result]), report, console)


if __name__ == "__main__":
    command.run(main, Options, PRESETS)
