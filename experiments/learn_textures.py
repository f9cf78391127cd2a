"""Can two photographs teach a network to tell their materials apart? Without a label: random masks make them.

    python -m experiments.learn_textures --first brick.png --second grass.png            60 seconds
    python -m experiments.learn_textures quick --first brick.png --second grass.png      10 seconds, small

Random crops of the two photographs are flipped, rotated, changed in contrast, and mixed by the notebook's smooth random
masks. A quarter of each photograph, a strip at its end, is held out: the network is judged on images of those strips,
with their original contrast.

The trained network is `model.safetensors`, a MODEL of `experiments.segment_image`. `experiments.train_best_model` says
how the clock works. Expect an accuracy of 0.95 or more for materials that a person tells apart at a glance.
"""

import shlex
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import segjax
from experiments.lab import figures, question
from experiments.lab.options import Command, Group, Seed
from experiments.lab.programs import HELD_OUT_KEY
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report
from experiments.pictures import novelty, photographs, saved_models
from experiments.pictures.photographs import Choice
from experiments.timed import clock
from experiments.timed.clock import Timed
from segjax._checks import check_count, check_pixels, check_positive, check_share, check_sigma
from segjax.exemplars import generate_crops

# The share of each photograph that is held out.
HELD_OUT_SHARE = 0.25
# Photographs whose largest numbers differ by a larger factor are on different scales.
MAX_SCALE_RATIO = 10
TIMED = Timed()


@dataclass(frozen=True, kw_only=True)
class Crops(Group):
    """The training images: crops of the photographs, mixed by masks."""

    batch_size: int = 4
    """Images per batch."""
    image_size: int = 128
    """Height and width of the images, in pixels."""
    sigma: float | None = None
    """Sigma of the mask's smooth field, in pixels; by default a fifth of the image size."""
    contrast: float = 0.2
    """The contrast of each crop is multiplied by a number from 1 - contrast to 1 + contrast."""

    def check(self) -> None:
        check_count("--batch-size", self.batch_size, 1)
        check_count("--image-size", self.image_size, 2)
        check_sigma("--sigma", self.masks["sigma"])
        check_share("--contrast", self.contrast)
        check_pixels("the images of a batch, --batch-size * --image-size^2,", self.batch_size * self.image_size**2)

    @property
    def masks(self) -> dict[str, Any]:
        """The options of `generate_crops` for the masks."""
        return {"image_size": self.image_size, "sigma": self.image_size / 5 if self.sigma is None else self.sigma}


@dataclass(frozen=True, kw_only=True)
class Options(Command):
    """Trains a network to tell two photographed materials apart."""

    first: Path | None = None  # Photograph of the first material in PNG, JPEG or TIFF, which shows nothing else.
    second: Path | None = None  # Photograph of the second material, in the same light and at the same scale.
    max_megapixels: float = 50.0  # Larger photographs, in million pixels, are refused before they are unpacked.
    crops: Crops = Crops()
    seed: Seed = Seed()
    timed: Timed = TIMED
    out: Path = Path("results/learn_textures")

    def inputs(self) -> list[Path]:
        return [path for path in (self.first, self.second) if path is not None]

    def check(self) -> None:
        super().check()
        self.timed.check_held_out(self.crops.image_size)
        check_positive("--max-megapixels", self.max_megapixels)
        if len(self.inputs()) < 2:
            raise ValueError("--first and --second are needed: photographs of the two materials")
        # A network would tell photographs on different scales apart by their brightness alone.
        low, high = sorted(float(np.abs(np.concatenate(parts, axis=None)).max()) for parts in self.parts)
        if high > MAX_SCALE_RATIO * low:
            raise ValueError(
                f"--first and --second are on different scales: the largest numbers are {low:g} and {high:g}"
            )

    @cached_property
    def parts(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The training part and the held-out strip of each photograph; both photographs are read once."""
        size = self.crops.image_size
        return [
            split(path, photographs.read(path, Choice(self.max_megapixels, size)).grey.astype(np.float32), size)
            for path in self.inputs()
        ]


PRESETS = {
    "full": Options(),
    # As in train_best_model: compiling would take half of so short a time.
    "quick": Options(
        crops=Crops(image_size=32), timed=replace(TIMED, seconds=10.0, count_compilation=False, held_out=128)
    ),
}


def answer(options: Options, lab: Lab) -> Report:
    crops, timed, seed = options.crops, options.timed, options.seed.seed
    (first, first_strip), (second, second_strip) = options.parts
    training = partial(generate_crops, first=first, second=second, contrast=crops.contrast, **crops.masks)
    # The strips keep their original contrast.
    held_out = partial(generate_crops, first=first_strip, second=second_strip, contrast=0.0, **crops.masks)
    snapshots = clock.train(timed, seed, partial(training, batch_size=crops.batch_size), lab)
    rows = clock.evaluate(timed, snapshots, held_out, lab)
    last, names = rows[-1], [photographs.label(path) for path in options.inputs()]
    command = shlex.join(["python", "-m", "experiments.segment_image", str(options.out / saved_models.MODEL), "IMAGE"])
    findings = [
        f"After {last['seconds']:.1f} s, {last['step']} steps: accuracy {last['accuracy']:.4f}, IoU of the first "
        f"{last['iou']:.4f}, in evaluation mode, on {timed.held_out} images of the held-out strips.",
        f"The model is saved; segment a picture by it with: {command}",
    ]
    title = "{} (first) and {} (second)".format(*map(photographs.figure_label, names))
    held_out_batch = held_out(key=jax.random.key(HELD_OUT_KEY))
    examples = segjax.Batch(*(part[:4] for part in training(key=jax.random.key(seed))))
    drawings = {
        **clock.quality_drawings(timed, rows, title),
        "predictions": clock.predictions(timed, snapshots, held_out_batch, title),
        "training_images": Drawing("Training images", figures.above_masks(examples, f"Training images: {title}")),
    }
    only_first, only_second = (partial(training, first=part, second=part) for part in (first, second))
    reference = novelty.reference(training, only_first, only_second, crops.image_size)
    # Five digits are enough: the distances between squares are much larger.
    rounded = {"squares": reference.squares.round(5).tolist(), "images": reference.images.round(5).tolist()}
    exemplars = {"contrast": crops.contrast, **crops.masks, "novelty": {**rounded, "number": reference.number}}
    exemplars |= dict(zip(("first", "second"), names, strict=True))
    return clock.report(timed, findings, drawings, snapshots, rows, {"exemplars": exemplars})


def split(path: Path, exemplar: np.ndarray, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a photograph along its longer side: the part to train on, and the held-out strip at the end.

    Raises:
        ValueError: if one of the two has no room for a crop.
    """
    axis = int(exemplar.shape[1] >= exemplar.shape[0])
    strip = max(image_size, round(HELD_OUT_SHARE * exemplar.shape[axis]))
    if exemplar.shape[axis] - strip < image_size:
        height, width = exemplar.shape
        raise ValueError(
            f"{path} has {width} x {height} pixels; its longer side must have twice the --image-size, "
            f"{2 * image_size}, for training crops and held-out crops"
        )
    training, held_out = np.split(exemplar, [exemplar.shape[axis] - strip], axis=axis)
    return training, held_out


if __name__ == "__main__":
    question.main()
