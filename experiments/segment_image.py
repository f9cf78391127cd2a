"""Where in a picture is which of the two textures that a network was trained on? Any size, grey or colour, one or many.

    python -m experiments.segment_image results/learn_textures/model.safetensors wall.jpg
    python -m experiments.segment_image results/train_model/model.safetensors photographs/ more/*.tif

For each picture NAME the folder `--out` gets `NAME-mask.png` (255: the first texture, 0: the second),
`NAME-probability.png` (16 bits, 65535: certainly the first) and `NAME-overlay.png` (the first tinted blue, the second
orange). MODEL is a model.safetensors of these experiments, or a safetensors file of the notebook's weights in PyTorch.
The network is unsure of a pixel if its probability lies between 0.1 and 0.9.

Pictures can be added later: by the same command with other pictures, the same MODEL and the same `--out`. The report,
results.json and runs.csv then cover all pictures in the folder, including those of an interrupted command. A picture
that has changed since is refused with one line. A picture that could not be read is tried again when it is named again.
`experiments.rerun` repeats only the last command. If the pictures are scene.png and scene.jpg, the NAME of the second
is scene.jpg; a third one, scene.jpg from another folder, is called scene.jpg-2. A NAME that is too long for a file
system is cut, and eight digits of its SHA-256 make it unique.

The grey levels of a picture are rescaled to those of the training images. Then the network segments it in overlapping
tiles. A picture that shows something else gets a warning if its squares are unlike those of training (see
`experiments.pictures.novelty`). A picture that cannot be read is reported by one line on the terminal; the others are
still segmented, and the exit code is 1. Takes half a second per million pixels on 2 CPU cores.
"""

import hashlib
import io
import itertools
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from rich.progress import TaskID
from tyro.conf import Positional, arg

from experiments.lab import question, stops
from experiments.lab.folder import Folder
from experiments.lab.names import printable
from experiments.lab.options import Command
from experiments.lab.provenance import digest
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report, Table
from experiments.lab.stops import UsageError
from experiments.pictures import novelty, photographs, saved_models
from experiments.pictures.photographs import Choice
from experiments.pictures.saved_models import SavedModel
from segjax import plotting, tiling
from segjax._checks import check_count, check_positive

# A picture with a shorter side shows no texture.
SMALLEST = 16
# Pictures in the report, and their longest side there in pixels.
MAX_PREVIEWS, PREVIEW_SIDE = 12, 400
# The network is unsure at a probability between these.
UNSURE = (0.1, 0.9)
# Bytes that file systems allow for a name, minus what is added to a picture's name while its longest file is written.
MAX_NAME_BYTES = 255 - len("..tmp") - len("-probability.png")
# Prefix of the names of the notes; each picture has one note.
NOTE = "picture-"


@dataclass(frozen=True, kw_only=True)
class Options(Command):
    """Segments pictures with a trained network."""

    model: Annotated[Positional[Path], arg(metavar="MODEL")]
    """A model.safetensors of these experiments, or the notebook's weights from PyTorch."""
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE ...")]
    """Pictures in PNG, JPEG or TIFF, and folders of them; pictures that `--out` already has stay in it."""
    probability: Literal["png", "npy", "none"] = "png"
    """How the probability of the first texture is written: 16-bit PNG, NumPy's float32, or not at all."""
    tile_size: int = 256  # Side of the tiles in pixels, without their overlap; memory grows with its square.
    max_megapixels: float = 100.0  # Larger pictures, in million pixels, are refused before they are unpacked.
    out: Path = Path("results/segment_image")

    # Each picture has its own note; a picture that was refused may be read with another limit.
    free = ("images", "max_megapixels")

    @cached_property
    def pictures(self) -> list[Path]:
        """The pictures that the command names, without duplicates."""
        return photographs.find(list(self.images))

    def inputs(self) -> list[Path]:
        return [self.model, *self.pictures]

    def check(self) -> None:
        super().check()
        check_count("--tile-size", self.tile_size, 1)
        check_positive("--max-megapixels", self.max_megapixels)
        saved_models.load(self.model)
        if not self.pictures:
            raise ValueError("IMAGE must name pictures, or folders of them; none was found")


# No presets: MODEL and IMAGE are required, and all other options have defaults.
PRESETS: dict[str, Options] = {}


class Segmented(NamedTuple):
    """A segmented picture, as its note holds it.

    Attributes:
        number: orders the pictures in time.
        digest: SHA-256 of the picture's file.
        name: prefix of the names of its files.
        row: in the table, runs.csv and results.json.
        previews: for the report, at most PREVIEW_SIDE pixels per side: `picture` and `overlay` (height, width, 3) in 8
            bits, `probability` (height, width). Empty if the report has no room.
    """

    number: int
    digest: str
    name: str
    row: Mapping[str, Any]
    previews: Mapping[str, np.ndarray]


def answer(options: Options, lab: Lab) -> Report:
    network = saved_models.load(options.model)
    pictures, refused = segment_all(options, lab, network)
    for refusal in refused:
        # No result depends on this file: another file of the same name may replace it.
        lab.folder.identity["inputs"].pop(refusal["image"])
    failures = [refusal["error"] for refusal in refused]
    if not pictures:
        for failure in failures[:-1]:
            print(f"error: {printable(failure)}", file=sys.stderr)
        raise UsageError(failures[-1])
    rows, drawn = [picture.row for picture in pictures], [picture for picture in pictures if picture.previews]
    return Report(
        findings(rows, refused, network),
        [table(rows, network)],
        {"pictures": Drawing("Each picture and its segmentation", figure(drawn, len(rows), network))} if drawn else {},
        results={"textures": network.names, "images": rows, "refused": refused},
        # JSON can hold any path; a table of text cannot.
        rows=[{**row, "image": printable(row["image"])} for row in rows],
        warnings=warnings(network, rows),
        written=[name for picture in pictures for name in files(options, picture.name)],
        failures=failures,
    )


def segment_all(options: Options, lab: Lab, network: SavedModel) -> tuple[list[Segmented], list[dict[str, str]]]:
    """Segments the new pictures; returns all pictures of the folder, and the path and error of each that is refused."""
    notes, digests = read_notes(lab.folder), lab.folder.identity["inputs"]
    segmented, refused = complete(options, lab.folder, notes), []
    check_unchanged(options, segmented, digests)
    new = [path for path in options.pictures if note_name(path) not in segmented]
    squares = saved_models.training_squares(network) if new else None
    with lab.progress() as progress:
        bar = progress.add_task("", total=len(new))
        for number, path in enumerate(new, start=1 + max((note.number for note in notes.values()), default=0)):
            tiles = progress.add_task(printable(path.name), total=None)

            def count_tiles(done: int, total: int, task: TaskID = tiles) -> None:
                progress.update(task, completed=done, total=total)

            label = free_label(path, {picture.name for picture in segmented.values()})
            try:
                row, previews, contents = segment(path, label, options, network, squares, count_tiles)
                if digest(path) != digests[str(path)]:
                    raise ValueError(f"{path} has changed since it was named")
            except ValueError as error:
                refused.append({"image": str(path), "error": str(error)})
            else:
                has_room = sum(bool(picture.previews) for picture in segmented.values()) < MAX_PREVIEWS
                previews = previews if has_room else {}
                picture = Segmented(number, digests[str(path)], file_prefix(label), row, previews)
                write(options, lab.folder, note_name(path), picture, contents)
                segmented[note_name(path)] = picture
            progress.remove_task(tiles)
            progress.advance(bar)
    return list(segmented.values()), refused


def note_name(path: Path) -> str:
    """The name of a picture's note: the same for all paths that lead to its file."""
    return NOTE + hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:16]


def read_notes(folder: Folder) -> dict[str, Segmented]:
    """Name of the note -> picture, ordered by number."""
    notes = {}
    for name in folder.notes(NOTE):
        if note := folder.read_note(name):
            arrays, metadata = note
            notes[name] = Segmented(previews=arrays, **{**metadata, "row": dict(metadata["row"])})
    return dict(sorted(notes.items(), key=lambda note: note[1].number))


def complete(options: Options, folder: Folder, notes: Mapping[str, Segmented]) -> dict[str, Segmented]:
    """The notes of pictures whose files all exist. If two pictures have one name, the files are the later one's."""
    last = {picture.name: name for name, picture in notes.items()}
    return {
        name: picture
        for name, picture in notes.items()
        if last[picture.name] == name and all((folder.path / file).exists() for file in files(options, picture.name))
    }


def check_unchanged(options: Options, segmented: Mapping[str, Segmented], digests: Mapping[str, str]) -> None:
    """Raises a UsageError if a picture has changed since the folder got its results."""
    for path in options.pictures:
        picture = segmented.get(note_name(path))
        if picture and picture.digest != digests[str(path)]:
            raise UsageError(
                f"--out {options.out} holds the results for other contents of {path}; give it another name, "
                "name another folder, or pass --overwrite"
            )


def segment(
    path: Path,
    label: str,
    options: Options,
    network: SavedModel,
    squares: np.ndarray | None,
    progress: Callable[[int, int], None],
) -> tuple[dict[str, Any], dict[str, np.ndarray], list[bytes]]:
    """The row of a picture, its previews, and the content of each of its `files`.

    Args:
        squares: of training; None if they are unknown.
        progress: called with the number of tiles done and the number of all tiles.

    Raises:
        ValueError: if the picture cannot be read, or the prediction is not finite.
    """
    picture = photographs.read(path, Choice(options.max_megapixels, SMALLEST), PREVIEW_SIDE)
    grey = picture.grey
    model, variables, image_size = network.model, network.variables, network.image_size
    probability = tiling.segment(model, variables, grey, image_size, options.tile_size, progress)
    if not np.isfinite(probability).all():
        raise ValueError(f"{path} gets no mask: the network's numbers for it are not finite")
    strange_share = None if squares is None else novelty.strange_share(squares, grey, image_size)
    overlay = photographs.overlay(grey, probability)
    contents = [photographs.mask_png(probability), photographs.png(overlay)]
    if options.probability == "png":
        contents.append(photographs.probability_png(probability))
    elif options.probability == "npy":
        buffer = io.BytesIO()
        np.save(buffer, probability)
        contents.append(buffer.getvalue())
    large = {"overlay": overlay, "probability": Image.fromarray(probability)}
    previews = {"picture": picture.preview} | {
        name: photographs.reduced(image, PREVIEW_SIDE) for name, image in large.items()
    }
    return describe(path, label, probability, strange_share), previews, contents


def files(options: Options, name: str) -> list[str]:
    """The names of a picture's files; `name` is their prefix."""
    endings = ["mask.png", "overlay.png"] + [f"probability.{options.probability}"] * (options.probability != "none")
    return [f"{name}-{ending}" for ending in endings]


def write(options: Options, folder: Folder, note: str, picture: Segmented, contents: Sequence[bytes]) -> None:
    """Writes the files of a picture and its note; a signal in between is deferred."""
    metadata = picture._asdict()
    # A file of safetensors sorts the keys of its metadata, but not a list.
    arrays, metadata["row"] = metadata.pop("previews"), list(picture.row.items())
    with stops.deferred():
        for name, content in zip(files(options, picture.name), contents, strict=True):
            folder.write(name, content)
        folder.write_note(note, arrays, metadata)


def free_label(path: Path, taken: Collection[str]) -> str:
    """A picture's label: its file without the ending; if that is taken, with the ending, and then with a number."""
    labels = itertools.chain([path.stem, path.name], (f"{path.name}-{number}" for number in itertools.count(2)))
    return next(label for label in labels if file_prefix(label) not in taken)


def file_prefix(label: str) -> str:
    """The prefix of the names of a picture's files: its label, cut if it is too long."""
    encoded = os.fsencode(label)
    if len(encoded) <= MAX_NAME_BYTES:
        return label
    # Half a character at the cut is dropped; the digest distinguishes labels that differ beyond it.
    return f"{encoded[: MAX_NAME_BYTES - 9].decode(errors='ignore')}-{hashlib.sha256(encoded).hexdigest()[:8]}"


def describe(path: Path, label: str, probability: np.ndarray, strange: float | None) -> dict[str, Any]:
    """The row of a picture: its size, the area of each texture, the area that the network is unsure of."""
    low, high = UNSURE
    counts = {"first": (probability > 0.5).sum(), "second": (probability <= 0.5).sum()}
    counts["unsure"] = ((probability > low) & (probability < high)).sum()
    height, width = probability.shape
    row = {"name": printable(label), "image": str(path), "height": height, "width": width}
    row |= {f"{part}_pixels": int(count) for part, count in counts.items()}
    row |= {f"{part}_share": float(count) / probability.size for part, count in counts.items()}
    return {**row, "strange_share": strange}


def findings(rows: Sequence[Mapping[str, Any]], refused: Sequence[Mapping[str, str]], network: SavedModel) -> list[str]:
    total = sum(row["height"] * row["width"] for row in rows)
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
        sentences.append(f"{len(refused)} more got no mask; results.json says why, under refused.")
    return sentences


def warnings(network: SavedModel, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    sentences = []
    if network.diverged:
        sentences.append("The training of this network diverged: its masks may mean nothing. Train it at a lower rate.")
    if network.model.batch_statistics:
        sentences.append(
            "The layers of this network share one BatchNorm, so it judges each tile by the tile's own statistics: its "
            "answer for a pixel depends on the tile. With a BatchNorm for each layer (separate_norm) it does not."
        )
    for row in rows:
        if (share := row["strange_share"]) is not None and share > novelty.MOST_STRANGE:
            sentences.append(
                f"{row['name']} may show something else than {network.names[0]} and {network.names[1]}: {share:.0%} of "
                "it is unlike all training images in brightness, contrast or fineness. Its areas may mean nothing."
            )
    return sentences


def table(rows: Sequence[Mapping[str, Any]], network: SavedModel) -> Table:
    cells = [
        [row["name"], f"{row['width']} x {row['height']}"]
        + [f"{row[f'{part}_share']:.1%}\n{row[f'{part}_pixels']:,} pixels" for part in ("first", "second", "unsure")]
        + ["-" if row["strange_share"] is None else f"{row['strange_share']:.0%}"]
        for row in rows
    ]
    note = f"Unsure: probability between {UNSURE[0]} and {UNSURE[1]}. Strange: share of squares that are unlike all of "
    note += f"training; a picture with more than {novelty.MOST_STRANGE:.0%} gets a warning."
    if any(row["strange_share"] is None for row in rows):
        note += " A dash: the picture is too small for that, or the model's file of a version without training squares."
    headings = ("picture", "pixels", *map(printable, network.names), "unsure", "strange")
    return Table("Area of each texture", headings, cells, note)


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
