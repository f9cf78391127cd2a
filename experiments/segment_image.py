"""Where in a picture is which of the two textures that a network was trained on? Any size, grey or colour, one or many.

    python -m experiments.segment_image results/learn_textures/model.safetensors wall.jpg
    python -m experiments.segment_image results/train_model/model.safetensors photographs/ more/*.tif

For each picture NAME the folder `--out` gets `NAME-mask.png` (255: the first texture, 0: the second),
`NAME-probability.png` (16 bits, 65535: certainly the first) and `NAME-overlay.png` (the first tinted blue, the second
orange). MODEL is a model.safetensors of these experiments, or a safetensors file of the notebook's weights in PyTorch.
The network is unsure of a pixel if its probability lies between 0.1 and 0.9, or if the square around it is unlike
those of training. Pixels without data, and those in a `--ignore-box`, are left out: 128 in the mask, in no area.

Pictures can be added later: by the same command with other pictures, the same MODEL and the same `--out`. The report,
results.json and runs.csv then cover all pictures in the folder, including those of an interrupted command. A picture
that has changed since is refused with one line. A picture that could not be read is tried again when it is named again.
`experiments.rerun` repeats only the last command. If the pictures are scene.png and scene.jpg, the NAME of the second
is scene.jpg; a third one, scene.jpg from another folder, is called scene.jpg-2. A NAME that is too long for a file
system is cut, and eight digits of its SHA-256 make it unique.

The grey levels of a picture are rescaled to those of the training images. Then the network segments it in overlapping
tiles. A picture that shows something else gets a warning if its squares are unlike those of training (see
`experiments.pictures.novelty`), and so does one with hot pixels, which are replaced by their neighbours, or blank rows.
A picture that cannot be read is reported by one line on the terminal and in the report; the others are still segmented,
and the exit code is 1. Takes half a second per million pixels on 2 CPU cores.
"""

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from tyro.conf import Positional, arg

from experiments.lab import question
from experiments.lab.names import printable
from experiments.lab.options import Command
from experiments.lab.provenance import digest
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report, Table
from experiments.lab.stops import UsageError
from experiments.pictures import album, areas, novelty, photographs, saved_models
from experiments.pictures.album import Segmented
from experiments.pictures.novelty import Reference, Strange
from experiments.pictures.photographs import Box, Picture, Source, Texts
from experiments.pictures.samples import in_8_bits
from experiments.pictures.saved_models import SavedModel
from segjax import plotting, tiling
from segjax._checks import check_count, check_positive
from segjax.plotting import Figure

# A picture with a shorter side shows no texture.
SMALLEST = 16
# Pictures in the report, and their longest side there in pixels.
MAX_PREVIEWS, PREVIEW_SIDE = 12, 400
# A picture with a larger share of outliers gets a warning.
MANY_OUTLIERS = 1e-4
# A value of --probability -> the file's ending, and what encodes it.
PROBABILITY_FILES = {
    "png": {"-probability.png": photographs.probability_png},
    "npy": {"-probability.npy": photographs.npy},
    "none": {},
}


@dataclass(frozen=True, kw_only=True)
class Options(Command):
    """Segments pictures with a trained network."""

    #: A model.safetensors of these experiments, or the notebook's weights from PyTorch.
    model: Annotated[Positional[Path], arg(metavar="MODEL")]
    #: Pictures in PNG, JPEG or TIFF, and folders of them; pictures that `--out` already has stay in it.
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE ...")]
    #: How the probability of the first texture is written: 16-bit PNG, NumPy's float32, or not at all.
    probability: Literal["png", "npy", "none"] = "png"
    tile_size: int = 256  # Side of the tiles in pixels, without their overlap; memory grows with its square.
    max_megapixels: float = 100.0  # Larger pictures, in million pixels, are refused before they are unpacked.
    #: Page of a stack, counted from 1; all makes each page a picture of its own, NAME-page003.
    page: int | Literal["all"] | None = None
    #: Channel of a picture of several, counted from 1, instead of all colours: NAME-channel2.
    channel: int | None = None
    #: Swap dark and bright: the pictures are negatives of the training images.
    invert: bool = False
    #: Boxes in pixels that are left out of masks and areas, such as an information bar.
    ignore_box: Annotated[Texts, arg(metavar="X,Y,WIDTH,HEIGHT ...")] = ()
    out: Path = Path("results/segment_image")

    # Each picture has its own note; a picture that was refused may be read with another limit.
    free = ("images", "max_megapixels", "page", "channel")

    @cached_property
    def paths(self) -> list[Path]:
        """The files that the command names, without duplicates."""
        return photographs.search(self.images)[0]

    @cached_property
    def pictures(self) -> list[Source]:
        """The pictures of these files that are to be segmented."""
        return [
            Source(path, page, self.channel)
            for path in self.paths
            for page in (range(1, 1 + photographs.count_pages(path)) if self.page == "all" else [self.page])
        ]

    @property
    def endings(self) -> list[str]:
        """The ends of the names of a picture's files."""
        return ["-mask.png", "-overlay.png", *PROBABILITY_FILES[self.probability]]

    @cached_property
    def boxes(self) -> list[Box]:
        return [Box.parse("--ignore-box", text) for text in itertools.chain(*self.ignore_box)]

    def inputs(self) -> list[Path]:
        return [self.model, *self.paths]

    def check(self) -> None:
        super().check()
        check_count("--tile-size", self.tile_size, 1)
        check_positive("--max-megapixels", self.max_megapixels)
        for option, number in (("--page", self.page), ("--channel", self.channel)):
            if isinstance(number, int):
                check_count(option, number, 1)
        saved_models.load(self.model)
        # Parsed here, before the work.
        _ = self.boxes
        if not self.paths:
            raise ValueError("IMAGE must name pictures, or folders of them; none was found")


# No presets: MODEL and IMAGE are required, and all other options have defaults.
PRESETS: dict[str, Options] = {}


def answer(options: Options, lab: Lab) -> Report:
    network = saved_models.load(options.model)
    pictures, refused = segment_all(options, lab, network)
    for name in {refusal["image"] for refusal in refused} - {picture.row["image"] for picture in pictures}:
        # No result depends on this file: another file of the same name may replace it.
        lab.folder.identity["inputs"].pop(name)
    failures = [refusal["error"] for refusal in refused]
    if not pictures:
        for failure in failures[:-1]:
            print(f"error: {printable(failure)}", file=sys.stderr)
        raise UsageError(failures[-1])
    rows, drawn = [picture.row for picture in pictures], [picture for picture in pictures if picture.previews]
    tables = [table(rows, network)]
    if refused:
        cells = [[printable(refusal["image"]), printable(refusal["error"])] for refusal in refused]
        tables.append(Table("Pictures without a mask", ("picture", "reason"), cells))
    return Report(
        findings(rows, refused, network),
        tables,
        {"pictures": Drawing("Each picture and its segmentation", figure(drawn, len(rows), network))} if drawn else {},
        results={"textures": network.names, "images": rows, "refused": refused},
        # JSON can hold any path; a table of text cannot.
        rows=[{**row, "image": printable(row["image"])} for row in rows],
        warnings=[
            *warnings(network, rows),
            *copies(pictures),
            *left_out(options),
            *(text for each in pictures for text in each.warnings),
        ],
        written=[picture.name + ending for picture in pictures for ending in options.endings],
        failures=failures,
    )


def segment_all(options: Options, lab: Lab, network: SavedModel) -> tuple[list[Segmented], list[dict[str, str]]]:
    """Segments the new pictures; returns all pictures of the folder, and the path and error of each that is refused."""
    notes, digests = album.read(lab.folder), lab.folder.identity["inputs"]
    segmented, refused = album.complete(lab.folder, notes, options.endings), []
    sources = {album.note_of(source): source for source in options.pictures}
    for note, source in sources.items():
        if note in segmented and segmented[note].digest != digests[str(source.path)]:
            raise UsageError(
                f"--out {options.out} holds the results for other contents of {source.path}; give it another name, "
                "name another folder, or pass --overwrite"
            )
    lost = {picture.name for note, picture in notes.items() if note not in sources}
    for name in sorted(lost - {picture.name for picture in segmented.values()}):
        lab.say(f"{printable(name)} is left out, since a file of it is gone: name its picture again to have it back.")
    new = {note: source for note, source in sources.items() if note not in segmented}
    last = max((picture.number for picture in notes.values()), default=0)
    reference = saved_models.reference(network) if new else None
    with lab.progress() as progress:
        bar = progress.add_task("", total=len(new))
        for number, (note, source) in enumerate(new.items(), start=last + 1):
            task = progress.add_task(printable(source.path.name), total=None)
            count = partial(progress.update, task)
            label = album.label_of(source, {picture.name for picture in segmented.values()})
            try:
                with photographs.machine_errors(source.path):
                    picture, contents = segment(source, label, options, network, reference, count)
                if digest(source.path) != digests[str(source.path)]:
                    raise ValueError(f"{source.path} has changed since it was named")
            except ValueError as error:
                refused.append({"image": str(source.path), "error": str(error)})
            else:
                has_room = sum(bool(other.previews) for other in segmented.values()) < MAX_PREVIEWS
                picture = picture._replace(number=number, digest=digests[str(source.path)])
                segmented[note] = picture if has_room else picture._replace(previews={})
                album.write(lab.folder, note, segmented[note], contents)
            progress.remove_task(task)
            progress.advance(bar)
    return list(segmented.values()), refused


def segment(
    source: Source,
    label: str,
    options: Options,
    network: SavedModel,
    reference: Reference | None,
    count: Callable[..., None],
) -> tuple[Segmented, dict[str, bytes]]:
    """A picture, segmented, without its number and digest; and its files, ending -> content.

    Args:
        reference: of the training images; None if it is unknown.
        count: called after each tile with the number of tiles `completed` and their `total`.

    Raises:
        ValueError: if the picture cannot be read, or the prediction is not finite.
    """
    picture = photographs.read(source, options.max_megapixels, SMALLEST, PREVIEW_SIDE)
    grey = -picture.grey if options.invert else picture.grey
    valid, outside = usable(source, label, picture, options.boxes)
    trained, image_size = (network.model, network.variables), network.image_size
    probability = tiling.segment(
        *trained, grey, image_size, options.tile_size, lambda done, total: count(completed=done, total=total), valid
    )
    if not np.isfinite(probability if valid is None else probability[valid]).all():
        raise ValueError(f"{source.path} gets no mask: the network's numbers for it are not finite")
    scaled = tiling.to_training_scale(grey, image_size, valid)
    strange = None if reference is None else novelty.strange(reference, scaled, image_size, valid)
    row = describe(source.path, label, probability, strange, picture.pixel_area)
    row["outlier_pixels"] = int(tiling.outliers(grey, valid).sum())
    bars = novelty.blank(row["name"], grey, valid)
    row |= {"first_share_low": None, "first_share_high": None}
    # What the errors of known pictures say nothing about gets no interval.
    if network.area and strange is not None and not is_strange(row) and not bars:
        row["first_share_low"], row["first_share_high"] = network.area.interval(probability, image_size)
    rgb, overlay = in_8_bits(scaled).convert("RGB"), photographs.overlay(scaled, probability)
    large = {"picture": rgb, "overlay": overlay, "probability": Image.fromarray(probability)}
    previews = {name: photographs.reduced(image, PREVIEW_SIDE) for name, image in large.items()}
    if picture.preview is not None and not options.invert:
        previews["picture"] = picture.preview
    contents = {"-mask.png": photographs.mask_png(probability), "-overlay.png": photographs.png(overlay)}
    contents |= {ending: encode(probability) for ending, encode in PROBABILITY_FILES[options.probability].items()}
    messages, prefix = [*picture.warnings, *bars, *outside], album.file_prefix(label)
    return Segmented(0, "", prefix, row, previews, messages), contents


def usable(source: Source, label: str, picture: Picture, boxes: Sequence[Box]) -> tuple[np.ndarray | None, list[str]]:
    """The pixels of a picture that have data and lie in no box, (height, width) of bool, None if all do; and warnings.

    Raises:
        ValueError: if there are none.
    """
    (height, width), valid, warnings = picture.grey.shape, picture.valid, []
    if boxes:
        valid = np.ones((height, width), bool) if valid is None else valid.copy()
        for box in boxes:
            inside = valid[box.slices]
            inside[...] = False
            if not inside.size:
                pixels = f"{printable(label)} has {width} x {height} pixels"
                warnings.append(f"{pixels}: the --ignore-box {box} lies outside of them.")
        if not valid.any():
            raise ValueError(f"{source.path}: --ignore-box leaves no pixel")
    return valid, warnings


def describe(
    path: Path, label: str, probability: np.ndarray, strange: Strange | None, pixel_area: float | None = None
) -> dict[str, Any]:
    """The row of a picture: its size, the area of each texture, the area that the network is unsure of."""
    low, high = areas.UNSURE
    unsure = (probability > low) & (probability < high)
    if strange is not None:
        unsure |= strange.pixels & ~np.isnan(probability)
    counts = {"first": (probability > 0.5).sum(), "second": (probability <= 0.5).sum(), "unsure": unsure.sum()}
    height, width = probability.shape
    total = int(counts["first"] + counts["second"])
    row = {"name": printable(label), "image": str(path), "height": height, "width": width}
    row |= {f"{part}_pixels": int(count) for part, count in counts.items()}
    row |= {"left_out_pixels": probability.size - total}
    row |= {f"{part}_share": float(count) / total for part, count in counts.items()}
    row |= {f"{part}_square_um": pixel_area and float(counts[part]) * pixel_area for part in ("first", "second")}
    row |= {"strange_share": strange and strange.share, "distance": strange and strange.distance}
    return {**row, "negative": strange and strange.negative}


def findings(rows: Sequence[Mapping[str, Any]], refused: Sequence[Mapping[str, str]], network: SavedModel) -> list[str]:
    total = sum(row["first_pixels"] + row["second_pixels"] for row in rows)
    first, unsure = (sum(row[f"{part}_pixels"] for row in rows) / total for part in ("first", "unsure"))
    pictures = f"{len(rows)} pictures" if len(rows) > 1 else "one picture"
    first_name, second_name = map(printable, network.names)
    sentences = [
        f"{float(f'{total / 1e6:.2g}'):,g} million pixels in {pictures}: {first:.1%} are {first_name} and "
        f"{1 - first:.1%} {second_name}; the network is unsure of {unsure:.1%}."
    ]
    if (rest := len(rows) - MAX_PREVIEWS) > 0:
        sentences.append(
            f"The figure has the first {MAX_PREVIEWS} pictures and leaves out {rest}, whose files are there."
        )
    if refused:
        sentences.append(f"{len(refused)} more got no mask; the last table says why.")
    return sentences


def warnings(network: SavedModel, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    sentences = []
    if network.diverged:
        sentences.append("The training of this network diverged: its masks may mean nothing. Train it at a lower rate.")
    if network.model.batch_statistics:
        sentences.append(
            "The layers of this network share one BatchNorm, so it predicts each tile by the tile's own statistics: "
            "its answer for a pixel depends on the tile. With a BatchNorm for each layer (separate_norm) it does not."
        )
    for row in rows:
        if is_strange(row):
            sentences.append(
                f"{row['name']} may show something else than {network.names[0]} and {network.names[1]}, or these at "
                "another magnification, blurred or as a negative. Of its squares "
                f"{row['strange_share']:.0%} are unlike those of training, and its means are {row['distance']:.1f} "
                "times as far from training images as any of these is from the others. Its areas may mean nothing."
            )
        if row.get("negative"):
            sentences.append(
                f"{row['name']} looks like a negative of the training images; --invert swaps dark and bright."
            )
        if (number := row["outlier_pixels"]) > MANY_OUTLIERS * (row["first_pixels"] + row["second_pixels"]):
            sentences.append(
                f"{row['name']} has {number:,} pixel{'s' if number > 1 else ''} far from all others, hot or without "
                "data, which got the median of the neighbours."
            )
    return sentences


def is_strange(row: Mapping[str, Any]) -> bool:
    """Whether a picture gets a warning, by the rules of `novelty`."""
    if row["strange_share"] is None:
        return False
    return row["strange_share"] > novelty.MOST_STRANGE or row["distance"] > 1 or bool(row.get("negative"))


def copies(pictures: Sequence[Segmented]) -> list[str]:
    """A warning for each file that was given under several paths."""
    paths: dict[str, dict[str, None]] = {}
    for picture in pictures:
        # A dict, since all pages of a stack have one path.
        paths.setdefault(picture.digest, {})[printable(picture.row["image"])] = None
    return [
        f"{' and '.join(group)} are copies of one file: sums over pictures count it {len(group)} times."
        for group in paths.values()
        if len(group) > 1
    ]


def left_out(options: Options) -> list[str]:
    """Sentences on the folders without pictures, and on the pictures of other formats in the others."""
    empty = [printable(str(path)) for path in options.images if not photographs.search([path])[0]]
    names = [printable(path.name) for path in photographs.search(options.images)[1]]
    sentences = [f"No picture is in {', '.join(empty)}."] if empty else []
    return sentences + ([f"Left out, since only PNG, JPEG and TIFF are read: {', '.join(names)}."] if names else [])


def table(rows: Sequence[Mapping[str, Any]], network: SavedModel) -> Table:
    cells = [
        [row["name"], f"{row['width']} x {row['height']}"]
        + [area(row, part) for part in ("first", "second", "unsure")]
        + ["-" if row["strange_share"] is None else f"{row['strange_share']:.0%}\n{row['distance']:.1f}"]
        for row in rows
    ]
    low, high = areas.UNSURE
    note = f"Unsure: probability between {low} and {high}. Strange: share of squares that are unlike all of "
    note += "training, where nothing is sure; and distance of the picture's means from training images. A picture with "
    note += f"more than {novelty.MOST_STRANGE:.0%}, a distance above 1, or the look of a negative gets a warning."
    if any(row["first_share_low"] is not None for row in rows):
        note += " In brackets: 95% interval of the true area, by the network's errors on pictures of known areas."
    if any(row["strange_share"] is None for row in rows):
        note += " A dash: the picture is too small for that, or the model's file has no squares of this version."
    headings = ("picture", "pixels", *map(printable, network.names), "unsure", "strange")
    return Table("Area of each texture", headings, cells, note)


def area(row: Mapping[str, Any], part: str) -> str:
    """The share of a texture, its pixels, and its area if the file says how large a pixel is."""
    lines = [f"{row[f'{part}_share']:.1%}", f"{row[f'{part}_pixels']:,} pixels"]
    if (size := row.get(f"{part}_square_um")) is not None:
        lines.append(f"{size:,.5g} \u00b5m\u00b2")
    low, high = row["first_share_low"], row["first_share_high"]
    if low is not None and part != "unsure":
        low, high = (low, high) if part == "first" else (1 - high, 1 - low)
        lines.insert(1, f"({100 * low:.1f} to {100 * high:.1f})")
    return "\n".join(lines)


def figure(pictures: Sequence[Segmented], total: int, network: SavedModel) -> Figure:
    """One row for each of the first of `total` pictures: the picture, its textures, and their probability."""
    pictures = pictures[:MAX_PREVIEWS]
    first, second = (photographs.figure_label(printable(name)) for name in network.names)
    kinds: dict[str, plotting.Kind] = {"picture": "image", "overlay": "image", "probability": "probability"}
    grid = [[plotting.Picture("", each.previews[name], kind) for name, kind in kinds.items()] for each in pictures]
    titles = ("picture", f"blue: {first}\norange: {second}", "probability")
    grid[0] = [cell._replace(title=title) for cell, title in zip(grid[0], titles, strict=True)]
    title = "Textures in each picture"
    title += f" (the first {len(pictures)} of {total} pictures)" if len(pictures) < total else ""
    names = [photographs.figure_label(picture.row["name"]) for picture in pictures]
    return plotting.pictures(grid, title, names, bar=f"probability of {first}")


if __name__ == "__main__":
    question.main()
