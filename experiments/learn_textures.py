"""Can two photographs teach a network to tell their materials apart? Without a label: random masks make them.

    python -m experiments.learn_textures --first brick.png --second grass.png            60 seconds
    python -m experiments.learn_textures quick --first brick.png --second grass.png      10 seconds, small
    python -m experiments.learn_textures --picture wall.tif --first 0,0,400,300 --second 600,0,400,300 600,400,400,300
    python -m experiments.learn_textures --first a.tif:0,0,400,300 b.tif --second a.tif:600,0,400,300

A material may have several photographs, FILE, and boxes in pictures, FILE:X,Y,WIDTH,HEIGHT in pixels. With `--picture`
a box needs no FILE. Nothing else of a picture is used. `boxes.png` shows the boxes on their pictures. If a box is
small, the crops are smaller than `--image-size`.

Random crops of the photographs are flipped, rotated, changed in contrast, and mixed by the notebook's smooth random
masks. Every position of a crop is as likely, so that a larger photograph or box gives more crops. A quarter of each, a
strip at its end, is held out: the network is judged on images of those strips, with their original contrast. On
pictures composed of the strips the error of an area is measured, from which `experiments.segment_image` gives its areas
intervals.

The trained network is `model.safetensors`, a MODEL of `experiments.segment_image`. `experiments.train_best_model` says
how the clock works. Expect an accuracy of 0.95 or more for materials that a person tells apart at a glance.
"""

import itertools
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from PIL import ImageDraw
from tyro.conf import arg

import segjax
from experiments.lab import provenance, question
from experiments.lab.names import ARCHITECTURES
from experiments.lab.options import Command, Group, Seed
from experiments.lab.programs import HELD_OUT_KEY
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report
from experiments.pictures import areas, novelty, photographs, saved_models, views
from experiments.pictures.photographs import Box, Picture, Source, Texts
from experiments.pictures.samples import in_8_bits
from experiments.timed import clock
from experiments.timed.clock import Timed
from segjax import plotting, tiling
from segjax._checks import check_count, check_pixels, check_positive, check_share, check_sigma
from segjax.exemplars import generate_crops
from segjax.plotting import Figure

# The share of each photograph that is held out.
HELD_OUT_SHARE = 0.25
# A smaller crop shows no texture.
SMALLEST_CROP = 32
# Pictures whose largest numbers differ by a larger factor are on different scales.
MAX_SCALE_RATIO = 10
PICTURES_PER_ROW = 3
TIMED = Timed()
REGIONS = "FILE[:X,Y,WIDTH,HEIGHT] ..."


@dataclass(frozen=True, kw_only=True)
class Crops(Group):
    """The training images: crops of the photographs, mixed by masks."""

    #: Images per batch.
    batch_size: int = 4
    #: Height and width of the images, in pixels.
    image_size: int = 128
    #: Sigma of the mask's smooth field, in pixels; by default a fifth of the image size.
    sigma: float | None = None
    #: The contrast of each crop is multiplied by a number from 1 - contrast to 1 + contrast.
    contrast: float = 0.2

    def check(self) -> None:
        check_count("--batch-size", self.batch_size, 1)
        check_count("--image-size", self.image_size, novelty.MIN_SIDE)
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

    #: Photographs of the first material in PNG, JPEG or TIFF, which show nothing else, and boxes of it in pictures:
    #: FILE, FILE:X,Y,WIDTH,HEIGHT, or with --picture X,Y,WIDTH,HEIGHT.
    first: Annotated[Texts, arg(aliases=["--first-box"], metavar=REGIONS)] = ()
    #: The same of the second material, in the same light and at the same scale.
    second: Annotated[Texts, arg(aliases=["--second-box"], metavar=REGIONS)] = ()
    picture: Path | None = None  # Picture of the boxes that name no file.
    page: int | None = None  # Page of a stack, counted from 1.
    channel: int | None = None  # Channel of a picture of several, counted from 1, instead of all colours.
    max_megapixels: float = 50.0  # Larger photographs, in million pixels, are refused before they are unpacked.
    crops: Crops = Crops()
    seed: Seed = Seed()
    timed: Timed = TIMED
    out: Path = Path("results/learn_textures")

    def inputs(self) -> list[Path]:
        return list(dict.fromkeys(region.path for region in self.all_regions))

    def check(self) -> None:
        super().check()
        self.timed.check_held_out(self.crops.image_size)
        check_positive("--max-megapixels", self.max_megapixels)
        for option, number in (("--page", self.page), ("--channel", self.channel)):
            if number is not None:
                check_count(option, number, 1)
        if not all(self.regions):
            raise ValueError(
                "--first and --second are needed, a photograph of each material, or boxes of it in pictures"
            )
        if self.picture and self.picture not in self.inputs():
            raise ValueError(f"--picture {self.picture} has no box X,Y,WIDTH,HEIGHT in --first or --second")
        # A network would tell pictures on different scales apart by their brightness alone.
        levels = {path: float(np.abs(picture.grey).max()) for path, picture in self.pictures.items()}
        for one, other in itertools.combinations(self.all_regions, 2):
            if one.overlaps(other):
                raise ValueError(
                    f"{one} and {other} overlap: each material, and each held-out strip, needs pixels of its own"
                )
        low, high = min(levels, key=levels.__getitem__), max(levels, key=levels.__getitem__)
        if levels[high] > MAX_SCALE_RATIO * levels[low]:
            numbers = f"{levels[low]:g} and {levels[high]:g}"
            raise ValueError(f"{low} and {high} are on different scales: their largest numbers are {numbers}")
        _ = self.parts

    @cached_property
    def regions(self) -> list[list["Region"]]:
        """The photographs and boxes of the first and of the second material."""
        return [
            [Region.parse(option, text, self.picture) for text in itertools.chain(*texts)]
            for option, texts in (("--first", self.first), ("--second", self.second))
        ]

    @property
    def all_regions(self) -> list["Region"]:
        return [region for material in self.regions for region in material]

    @cached_property
    def pictures(self) -> dict[Path, Picture]:
        """Each file, which is read once."""
        whole = {region.path for region in self.all_regions if region.box is None}
        smallest = {path: self.crops.image_size if path in whole else SMALLEST_CROP for path in self.inputs()}
        return {
            path: photographs.read(Source(path, self.page, self.channel), self.max_megapixels, size)
            for path, size in smallest.items()
        }

    @cached_property
    def fitting(self) -> Crops:
        """The crops, no larger than boxes have room for: twice along the longer side, once along the shorter."""
        size = self.crops.image_size
        for region in self.all_regions:
            if region.box:
                short, long = sorted((region.box.width, region.box.height))
                if (room := min(long // 2, short)) < SMALLEST_CROP:
                    raise ValueError(
                        f"the box {region} is too small: each side must have {SMALLEST_CROP} pixels, and the "
                        f"longer one {2 * SMALLEST_CROP}"
                    )
                # Multiples of 8: networks halve their images up to three times.
                size = min(size, room // 8 * 8)
        return replace(self.crops, image_size=size)

    @cached_property
    def parts(self) -> list[tuple[list[np.ndarray], list[np.ndarray]]]:
        """The training parts and the held-out strips of each material, grey levels (height, width)."""
        size = self.fitting.image_size
        cuts = [[split(str(each), each.grey(self.pictures[each.path]), size) for each in part] for part in self.regions]
        return [([part for part, _ in pairs], [strip for _, strip in pairs]) for pairs in cuts]


class Region(NamedTuple):
    """A whole photograph, or a box in a picture."""

    path: Path
    box: Box | None

    @classmethod
    def parse(cls, option: str, text: str, picture: Path | None) -> "Region":
        """The region of FILE, FILE:X,Y,WIDTH,HEIGHT, or X,Y,WIDTH,HEIGHT in `picture`.

        Raises:
            ValueError: if the box is none, or has no file.
        """
        file, colon, box = text.rpartition(":")
        if not re.fullmatch(r"[-+.\d\s]*,[-+.,\d\s]*", box):
            return cls(Path(text), None)
        path = Path(file) if colon else picture
        if path is None:
            raise ValueError(f"the box {text} of {option} needs its file, FILE:{text}, or --picture FILE")
        return cls(path, Box.parse(option, box))

    def __str__(self) -> str:
        return f"{self.path}:{self.box}" if self.box else str(self.path)

    def overlaps(self, other: "Region") -> bool:
        """Whether both have a pixel of one file, or of two copies of a file."""
        same = self.path == other.path or provenance.digest(self.path) == provenance.digest(other.path)
        return same and (self.box is None or other.box is None or self.box.overlaps(other.box))

    def grey(self, picture: Picture) -> np.ndarray:
        """Its grey levels in its picture, float32; raises a ValueError if it is not all there."""
        height, width = picture.grey.shape
        box = self.box or Box(0, 0, width, height)
        if box.x + box.width > width or box.y + box.height > height:
            raise ValueError(f"the box {self} reaches beyond its picture, which has {width} x {height} pixels")
        if picture.valid is not None and not picture.valid[box.slices].all():
            raise ValueError(f"{self} has pixels without data")
        return picture.grey[box.slices].astype(np.float32)


PRESETS = {
    "full": Options(),
    # As in train_best_model: compiling would take half of so short a time.
    "quick": Options(
        crops=Crops(image_size=32), timed=replace(TIMED, seconds=10.0, count_compilation=False, held_out=128)
    ),
}


def answer(options: Options, lab: Lab) -> Report:
    crops, timed, seed = options.fitting, options.timed, options.seed.seed
    (first, first_strips), (second, second_strips) = options.parts
    draw = partial(generate_crops, contrast=crops.contrast, **crops.masks)
    training = partial(draw, first=first, second=second)
    # The strips keep their original contrast.
    held_out = partial(draw, first=first_strips, second=second_strips, contrast=0.0)
    snapshots = clock.train(timed, seed, partial(training, batch_size=crops.batch_size), lab)
    rows = clock.evaluate(timed, snapshots, held_out, lab)
    last, names = rows[-1], [name(regions) for regions in options.regions]
    command = shlex.join(["python", "-m", "experiments.segment_image", str(options.out / saved_models.MODEL), "IMAGE"])
    findings = [
        f"After {last['seconds']:.1f} s, {last['step']} steps: accuracy {last['accuracy']:.4f}, IoU of the first "
        f"{last['iou']:.4f}, in evaluation mode, on {timed.held_out} images of the held-out strips.",
        f"The model is saved; segment a picture by it with: {command}",
    ]
    if crops.image_size < options.crops.image_size:
        findings.append(
            f"Crops have {crops.image_size} x {crops.image_size} pixels: the smallest box has room for no more."
        )
    title = "{} (first) and {} (second)".format(*map(photographs.figure_label, names))
    held_out_batch = held_out(key=jax.random.key(HELD_OUT_KEY))
    examples = segjax.Batch(*(part[:4] for part in training(key=jax.random.key(seed))))
    drawings = {
        **clock.quality_drawings(timed, rows, title),
        "predictions": clock.predictions(timed, snapshots, held_out_batch, title),
        "training_images": Drawing("Training images", views.above_masks(examples, f"Training images: {title}")),
    }
    if any(region.box for region in options.all_regions):
        drawings["boxes"] = Drawing("The boxes on their pictures", boxed(options))
    only_first, only_second = (partial(draw, first=material, second=material) for material in (first, second))
    reference = novelty.reference(training, only_first, only_second, crops.image_size)
    # Five digits are enough: the distances between squares are much larger.
    rounded = {"squares": reference.squares.round(5).tolist(), "images": reference.images.round(5).tolist()}
    exemplars = {"contrast": crops.contrast, **crops.masks, "novelty": {**rounded, "number": reference.number}}
    exemplars |= dict(zip(("first", "second"), names, strict=True))
    variables = snapshots[-1].variables
    if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)):
        predict = partial(tiling.segment, ARCHITECTURES[timed.architecture], variables, image_size=crops.image_size)
        sigma = crops.masks["sigma"]
        error = areas.measure(predict, first_strips, second_strips, crops.image_size, sigma, crops.contrast)
        exemplars["area"] = error._asdict()
    return clock.report(timed, findings, drawings, snapshots, rows, {"exemplars": exemplars})


def name(regions: Sequence[Region]) -> str:
    """The name of a material: its file without the ending, and its box or the number of its other regions."""
    (path, box), *more = regions
    ending = f" and {len(more)} more" if more else f" {box}" if box else ""
    return photographs.label(path) + ending


def boxed(options: Options) -> Figure:
    """The pictures with a frame around each box and whole photograph, the first material blue, the second orange."""
    cells = []
    for path, picture in options.pictures.items():
        image, (height, width) = in_8_bits(picture.grey).convert("RGB"), picture.grey.shape
        draw = ImageDraw.Draw(image)
        for regions, colour in zip(options.regions, plotting.COLOURS, strict=False):
            for box in [region.box or Box(0, 0, width, height) for region in regions if region.path == path]:
                end = (box.x + box.width - 1, box.y + box.height - 1)
                draw.rectangle((box.x, box.y, *end), outline=colour, width=max(3, max(width, height) // 100))
        label = photographs.figure_label(photographs.label(path))
        cells.append(plotting.Picture(label, photographs.reduced(image, 800), "image"))
    rows = [cells[start : start + PICTURES_PER_ROW] for start in range(0, len(cells), PICTURES_PER_ROW)]
    return plotting.pictures(rows, "Blue: the first material, orange: the second", size=max(2.5, 5.0 / len(cells)))


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
