"""Can two photographs teach a network to tell their materials apart? Without a label: random masks make them.

    python -m experiments.learn_textures --first brick.png --second grass.png                   60 seconds
    python -m experiments.learn_textures --first brick.png --second grass.png --preset quick    10 seconds, small

Random crops of the two, flipped, turned and of changed contrast, are mixed by the notebook's smooth random masks. A
quarter of each photograph, a strip at its end, is kept apart: the network is judged on images made of those strips, as
they were photographed.

At the end `model.safetensors` is what `experiments.segment_image` takes. `experiments.train_best_model` says how the
clock works. Expect an accuracy of 0.95 or more for materials that a person tells apart at a glance.
"""

import shlex
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import segjax
from experiments.lab import experiment
from experiments.lab.experiment import Lab
from experiments.lab.report import Report
from experiments.lab.runs import HELD_OUT_KEY
from experiments.pictures import novelty, photographs, saved_models
from experiments.timed import clock
from experiments.timed.clock import Snapshot
from segjax import plotting
from segjax._checks import check_positive, check_share
from segjax.exemplars import generate_crops

# The share of each photograph that training never sees.
HELD_OUT_SHARE = 0.25
# Photographs whose largest numbers differ by a larger factor are not on one scale.
MOST_APART = 10


@dataclass(frozen=True, kw_only=True)
class Options(clock.Options):
    """Trains a network to tell two photographed materials apart."""

    first: Path | None = None  # A photograph of the first material, PNG, JPEG or TIFF: nothing else should be on it.
    second: Path | None = None  # The same of the second, in the same light and at the same scale.
    contrast: float = 0.2  # Each crop's contrast is multiplied by a number from 1 - contrast to 1 + contrast.
    max_megapixels: float = 50.0  # Photographs of more million pixels than these are refused before they are unpacked.
    out: Path = Path("results/learn_textures")

    def inputs(self) -> list[Path]:
        """Files that the results depend on."""
        return [path for path in (self.first, self.second) if path is not None]

    def check(self) -> None:
        super().check()
        check_share("--contrast", self.contrast)
        check_positive("--max-megapixels", self.max_megapixels)
        if len(self.inputs()) < 2:
            raise ValueError("--first and --second are needed: photographs of the two materials")
        # Two scans on different scales would be told apart by their brightness alone.
        low, high = sorted(float(np.abs(np.concatenate(parts, axis=None)).max()) for parts in self.parts)
        if high > MOST_APART * low:
            raise ValueError(
                f"--first and --second are on different scales: the largest numbers are {low:g} and {high:g}"
            )

    @cached_property
    def parts(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each photograph, the part to train on and the strip to be judged on; both are read once."""
        size = self.image_size
        return [split(path, photographs.read(path, self.max_megapixels, size), size) for path in self.inputs()]

    @property
    def law(self) -> dict[str, Any]:
        """The options of `generate_crops` beside the photographs."""
        return {"image_size": self.image_size, "sigma": self.sigma}


PRESETS = {
    "full": Options(),
    # As in train_best_model: compiling would take half of so short a time.
    "quick": Options(seconds=10.0, count_compilation=False, image_size=32, sigma=6.4, held_out=128),
}


def work(options: Options, lab: Lab) -> tuple[list[Snapshot], list[dict[str, Any]]]:
    """Snapshots of the network, and what each is worth on images of the strips."""
    snapshots = clock.train(options, partial(trained_on(options), batch_size=options.batch_size), lab.console)
    return snapshots, clock.judge(options, snapshots, judged_on(options), lab.console)


def trained_on(options: Options) -> clock.Generate:
    (first, _), (second, _) = options.parts
    return partial(generate_crops, first=first, second=second, contrast=options.contrast, **options.law)


def judged_on(options: Options) -> clock.Generate:
    """The strips as they were photographed, their contrast unchanged."""
    (_, first), (_, second) = options.parts
    return partial(generate_crops, first=first, second=second, contrast=0.0, **options.law)


def report(options: Options, found: tuple[list[Snapshot], list[dict[str, Any]]]) -> Report:
    snapshots, rows = found
    first, second = map(photographs.label, options.inputs())
    last, shown = rows[-1], tuple(map(photographs.figure_label, (first, second)))
    title = f"{shown[0]} (first) and {shown[1]} (second)"
    use = shlex.join(["python", "-m", "experiments.segment_image", str(options.out / saved_models.MODEL), "IMAGE"])
    findings = [
        f"After {last['seconds']:.1f} s, {last['step']} steps: accuracy {last['accuracy']:.4f}, IoU of the first "
        f"{last['iou']:.4f}, in evaluation mode, on {options.held_out} images of the held-out strips.",
        f"The model is saved; have it look at a picture with: {use}",
    ]
    held_out, training = judged_on(options)(key=jax.random.key(HELD_OUT_KEY)), trained_on(options)
    figures = {
        **clock.quality_figures(options, rows, title),
        "predictions": clock.predictions(options, snapshots, held_out, title),
        "training_images": examples(training(key=jax.random.key(options.seed)), title),
    }
    alone_first, alone_second = (partial(training, first=part, second=part) for part, _ in options.parts)
    # With five digits: what they are compared with scatters more.
    squares = novelty.training_squares(training, alone_first, alone_second, options.image_size).round(5).tolist()
    exemplars = {"first": first, "second": second, **options.law, "contrast": options.contrast, "squares": squares}
    return clock.report(options, findings, figures, snapshots, rows, {"exemplars": exemplars})


def split(path: Path, exemplar: np.ndarray, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The part to train on and, along the longer side, the strip at its end to be judged on.

    Raises:
        ValueError: if no crop fits into one of them.
    """
    axis = int(exemplar.shape[1] >= exemplar.shape[0])
    strip = max(image_size, round(HELD_OUT_SHARE * exemplar.shape[axis]))
    if exemplar.shape[axis] - strip < image_size:
        height, width = exemplar.shape
        raise ValueError(
            f"{path} has {width} x {height} pixels; its longer side must have twice the --image-size, "
            f"{2 * image_size}, for crops to train on and others to judge by"
        )
    trained, kept = np.split(exemplar, [exemplar.shape[axis] - strip], axis=axis)
    return trained, kept


def examples(batch: segjax.Batch, title: str) -> Figure:
    """Images and masks as training sees them."""
    images, masks = (np.asarray(part)[:4, ..., 0] for part in batch)
    grid = [[plotting.Picture("", image) for image in images], [plotting.Picture("", mask, "mask") for mask in masks]]
    return plotting.pictures(grid, f"What training sees: {title}", ("image", "mask"))


if __name__ == "__main__":
    experiment.main()
