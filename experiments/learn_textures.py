"""Can two photographs teach a network to tell their materials apart? Without a label: random masks make them.

    python -m experiments.learn_textures --first brick.png --second grass.png            60 seconds
    python -m experiments.learn_textures quick --first brick.png --second grass.png      10 seconds, small
    python -m experiments.learn_textures --picture wall.tif --first-box 0,0,400,300 --second-box 600,0,400,300

Random crops of the two photographs are flipped, rotated, changed in contrast, and mixed by the notebook's smooth random
masks. A quarter of each photograph, a strip at its end, is held out: the network is judged on images of those strips,
with their original contrast. On pictures composed of the strips the error of an area is measured, from which
`experiments.segment_image` gives its areas intervals.

With `--picture` the photographs are two boxes in one picture, X,Y,WIDTH,HEIGHT in pixels; nothing else of it is used.
If a box is small, the crops are smaller than `--image-size`.

The trained network is `model.safetensors`, a MODEL of `experiments.segment_image`. `experiments.train_best_model` says
how the clock works. Expect an accuracy of 0.95 or more for materials that a person tells apart at a glance.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from PIL import ImageDraw

import segjax
from experiments.lab import figures, question
from experiments.lab.names import ARCHITECTURES
from experiments.lab.options import Command, Group, Seed
from experiments.lab.programs import HELD_OUT_KEY
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report
from experiments.pictures import areas, novelty, photographs, saved_models
from experiments.pictures.photographs import Box, Choice
from experiments.pictures.samples import in_8_bits
from experiments.timed import clock
from experiments.timed.clock import Timed
from segjax import plotting, tiling
from segjax._checks import check_count, check_pixels, check_positive, check_share, check_sigma
from segjax.exemplars import generate_crops

# The share of each photograph that is held out.
HELD_OUT_SHARE = 0.25
# A smaller crop shows no texture.
SMALLEST_CROP = 32
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
    picture: Path | None = None  # Picture that shows both materials, each in a box, instead of two photographs.
    first_box: str = ""  # Box of the first material, X,Y,WIDTH,HEIGHT in pixels.
    second_box: str = ""  # Box of the second material.
    page: int | None = None  # Page of a stack, counted from 1.
    channel: int | None = None  # Channel of a picture of several, counted from 1, instead of all colours.
    max_megapixels: float = 50.0  # Larger photographs, in million pixels, are refused before they are unpacked.
    crops: Crops = Crops()
    seed: Seed = Seed()
    timed: Timed = TIMED
    out: Path = Path("results/learn_textures")

    def inputs(self) -> list[Path]:
        return [path for path in (self.first, self.second, self.picture) if path is not None]

    def check(self) -> None:
        super().check()
        self.timed.check_held_out(self.crops.image_size)
        check_positive("--max-megapixels", self.max_megapixels)
        for option, number in (("--page", self.page), ("--channel", self.channel)):
            if number is not None:
                check_count(option, number, 1)
        photographs_given = (self.first is not None, self.second is not None)
        if (self.picture is None) != all(photographs_given) or (self.picture and any(photographs_given)):
            raise ValueError(
                "--first and --second are needed, photographs of the two materials; or --picture and two boxes in it"
            )
        if bool(self.picture) != bool(self.first_box) or bool(self.picture) != bool(self.second_box):
            raise ValueError("--picture needs --first-box and --second-box, and they need --picture")
        # A network would tell photographs on different scales apart by their brightness alone.
        low, high = sorted(float(np.abs(np.concatenate(parts, axis=None)).max()) for parts in self.parts)
        if high > MAX_SCALE_RATIO * low:
            raise ValueError(
                f"--first and --second are on different scales: the largest numbers are {low:g} and {high:g}"
            )

    @cached_property
    def boxes(self) -> list[Box]:
        """Two boxes in the picture; none if there are two photographs."""
        texts = {"--first-box": self.first_box, "--second-box": self.second_box} if self.picture else {}
        return [Box.parse(option, text) for option, text in texts.items()]

    @cached_property
    def grey(self) -> list[np.ndarray]:
        """The grey levels of each file, which is read once."""
        smallest = SMALLEST_CROP if self.picture else self.crops.image_size
        choice = Choice(self.max_megapixels, smallest, self.page, self.channel)
        pictures = [photographs.read(path, choice) for path in self.inputs()]
        for path, picture in zip(self.inputs(), pictures, strict=True):
            if picture.valid is not None:
                raise ValueError(f"{path} has pixels without data")
        return [picture.grey.astype(np.float32) for picture in pictures]

    @cached_property
    def materials(self) -> list[tuple[str, np.ndarray]]:
        """The name in messages and the grey levels of the first and the second material."""
        if not self.picture:
            return list(zip(map(str, self.inputs()), self.grey, strict=True))
        (grey,) = self.grey
        for box in self.boxes:
            if box.x + box.width > grey.shape[1] or box.y + box.height > grey.shape[0]:
                size = f"{grey.shape[1]} x {grey.shape[0]}"
                raise ValueError(f"the box {box} reaches beyond {self.picture}, which has {size} pixels")
        return [(f"the box {box}", grey[box.rows, box.columns]) for box in self.boxes]

    @cached_property
    def fitting(self) -> Crops:
        """The crops, no larger than boxes have room for: twice along the longer side, once along the shorter."""
        if not self.picture:
            return self.crops
        room = min(min(max(box.width, box.height) // 2, box.width, box.height) for box in self.boxes)
        if room < SMALLEST_CROP:
            raise ValueError(
                f"the boxes {' and '.join(map(str, self.boxes))} are too small: each side must have {SMALLEST_CROP} "
                f"pixels, and the longer one {2 * SMALLEST_CROP}"
            )
        # Multiples of 8: networks halve their images up to three times.
        return replace(self.crops, image_size=min(self.crops.image_size, room // 8 * 8))

    @cached_property
    def parts(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The training part and the held-out strip of each material."""
        size = self.fitting.image_size
        return [split(name, grey, size) for name, grey in self.materials]


PRESETS = {
    "full": Options(),
    # As in train_best_model: compiling would take half of so short a time.
    "quick": Options(
        crops=Crops(image_size=32), timed=replace(TIMED, seconds=10.0, count_compilation=False, held_out=128)
    ),
}


def answer(options: Options, lab: Lab) -> Report:
    crops, timed, seed = options.fitting, options.timed, options.seed.seed
    (first, first_strip), (second, second_strip) = options.parts
    training = partial(generate_crops, first=first, second=second, contrast=crops.contrast, **crops.masks)
    # The strips keep their original contrast.
    held_out = partial(generate_crops, first=first_strip, second=second_strip, contrast=0.0, **crops.masks)
    snapshots = clock.train(timed, seed, partial(training, batch_size=crops.batch_size), lab)
    rows = clock.evaluate(timed, snapshots, held_out, lab)
    last, names = rows[-1], [photographs.label(path) for path in options.inputs()]
    if options.picture:
        names = [f"{names[0]} {box}" for box in options.boxes]
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
    if options.picture:
        drawings["boxes"] = Drawing("The boxes", boxed(options.grey[0], options.boxes, title))
    only_first, only_second = (partial(training, first=part, second=part) for part in (first, second))
    reference = novelty.reference(training, only_first, only_second, crops.image_size)
    # Five digits are enough: the distances between squares are much larger.
    rounded = {"squares": reference.squares.round(5).tolist(), "images": reference.images.round(5).tolist()}
    exemplars = {"contrast": crops.contrast, **crops.masks, "novelty": {**rounded, "number": reference.number}}
    exemplars |= dict(zip(("first", "second"), names, strict=True))
    variables = snapshots[-1].variables
    if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)):
        predict = partial(tiling.segment, ARCHITECTURES[timed.architecture], variables, image_size=crops.image_size)
        sigma = crops.masks["sigma"]
        error = areas.measure(predict, first_strip, second_strip, crops.image_size, sigma, crops.contrast)
        exemplars["area"] = error._asdict()
    return clock.report(timed, findings, drawings, snapshots, rows, {"exemplars": exemplars})


def boxed(grey: np.ndarray, boxes: Sequence[Box], title: str) -> Figure:
    """The picture with a frame around each box, the first blue and the second orange."""
    picture = in_8_bits(grey).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for box, colour in zip(boxes, plotting.COLOURS, strict=False):
        end = (box.x + box.width - 1, box.y + box.height - 1)
        draw.rectangle((box.x, box.y, *end), outline=colour, width=max(2, max(grey.shape) // 200))
    return plotting.pictures([[plotting.Picture("", photographs.reduced(picture, 800), "image")]], title)


def split(name: str, exemplar: np.ndarray, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a photograph along its longer side: the part to train on, and the held-out strip at the end.

    Raises:
        ValueError: if one of the two has no room for a crop.
    """
    axis = int(exemplar.shape[1] >= exemplar.shape[0])
    strip = max(image_size, round(HELD_OUT_SHARE * exemplar.shape[axis]))
    if exemplar.shape[axis] - strip < image_size:
        height, width = exemplar.shape
        raise ValueError(
            f"{name} has {width} x {height} pixels; its longer side must have twice the --image-size, "
            f"{2 * image_size}, for training crops and held-out crops"
        )
    training, held_out = np.split(exemplar, [exemplar.shape[axis] - strip], axis=axis)
    return training, held_out


if __name__ == "__main__":
    question.main()
