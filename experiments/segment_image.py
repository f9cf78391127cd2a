"""Which of its two textures does a trained network see where in a picture? Of any size, grey or colour, one or many.

    python -m experiments.segment_image results/learn_textures/model.safetensors wall.jpg
    python -m experiments.segment_image results/train_model/model.safetensors photographs/ more/*.tif

For each picture NAME the folder `--out` gets `NAME-mask.png` (255: the first texture, 0: the second),
`NAME-probability.png` (16 bits, 65535: certainly the first) and `NAME-overlay.png` (the first tinted blue, the second
orange). MODEL is a model.safetensors of these experiments, or a safetensors file of the notebook's weights in PyTorch.
The network is unsure of a pixel where its probability lies between 0.1 and 0.9.

More pictures can come later: the same command with others, of the same MODEL and `--out`, adds them, and the report,
results.json and runs.csv are of all pictures in the folder, those of an interrupted command too. A picture that has
changed since is refused with one line, and what could not be read is tried again where it is named again.
Of scene.png and scene.jpg the second has the NAME scene.jpg; a third scene.jpg, of another folder, scene.jpg-2.

The picture goes through the network in overlapping tiles, and its shades of grey are first brought to the scale of the
training images. A picture of something else gets a warning where its squares are unlike those of training
(`experiments.pictures.novelty` says how that is told). A picture that cannot be read is one line on the screen, and the
others go on; the exit code is 1 then. A NAME that is too long for a file system is cut, and made unique by eight digits
of its SHA-256. Half a second for a million pixels on 2 CPU cores.
"""

import hashlib
import io
import itertools
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from rich.markup import escape
from tyro.conf import Positional, Suppress, arg

from experiments.lab import experiment, stops, store
from experiments.lab.experiment import Lab
from experiments.lab.names import printable
from experiments.lab.options import Command, digest
from experiments.lab.report import Report, Table
from experiments.lab.stops import UsageError
from experiments.lab.train import progress_bar
from experiments.pictures import novelty, photographs, saved_models
from experiments.pictures.saved_models import SavedModel
from segjax import plotting, tiling
from segjax._checks import check_count, check_positive

# Shorter than this no texture can be seen.
SMALLEST = 16
# Pictures in the report, and their longest side in pixels there.
MOST_SHOWN, SHOWN_SIDE = 12, 400
# A probability between these is no decision.
UNSURE = (0.1, 0.9)
# Bytes that file systems allow a name, without what is put around a picture's while its longest file is written.
LONGEST = 255 - len("..tmp") - len("-probability.png")


@dataclass(frozen=True, kw_only=True)
class Options(Command):
    """Segments pictures by a trained network."""

    preset: Suppress[str] = ""

    model: Annotated[Positional[Path], arg(metavar="MODEL")]
    """A model.safetensors of these experiments, or the notebook's weights from PyTorch."""
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE ...")]
    """Pictures in PNG, JPEG or TIFF, and folders of them; those that `--out` has already stay in it."""
    probability: Literal["png", "npy", "none"] = "png"
    """How the probability of the first texture is written: 16-bit PNG, NumPy's float32, or not at all."""
    tile_size: int = 256  # Side of the tiles in pixels, their overlap left out; memory grows with its square.
    max_megapixels: float = 100.0  # Pictures of more million pixels than these are refused before they are unpacked.
    out: Path = Path("results/segment_image")

    # What was refused before may be read with another.
    free: ClassVar[tuple[str, ...]] = ("max_megapixels",)

    def inputs(self) -> list[Path]:
        """Files that the results depend on."""
        return [self.model, *photographs.find(list(self.images))]

    def additions(self) -> dict[str, list[Path]]:
        """The pictures, each of which has results of its own."""
        return {"images": self.inputs()[1:]}

    def check(self) -> None:
        super().check()
        check_count("--tile-size", self.tile_size, 1)
        check_positive("--max-megapixels", self.max_megapixels)
        saved_models.load(self.model)
        if len(self.inputs()) < 2:
            raise ValueError("IMAGE must name pictures, or folders of them; none was found")


# Every option has a default but the two that must be given.
PRESETS: dict[str, Options] = {}


class Seen(NamedTuple):
    """What one picture gives.

    Attributes:
        name: how the names of its files begin.
        row: of the table, of runs.csv and of results.json.
        shown: for the report, at most SHOWN_SIDE pixels a side: `picture` and `overlay` (height, width, 3) in 8 bits,
            `probability` (height, width). Empty where the report has no room.
    """

    name: str
    row: dict[str, Any]
    shown: dict[str, np.ndarray]


class Found(NamedTuple):
    """The network, the pictures of the folder, and those that could not be read."""

    network: SavedModel
    seen: list[Seen]
    refused: list[dict[str, str]]


def work(options: Options, lab: Lab) -> Found:
    """Segments every picture that has no results yet and can be read, and writes its files."""
    digests = store.inputs(options.out)
    kept: dict[Path, Seen] = {}
    for path in options.images:
        seen = read_note(options, path, digests[str(path)])
        # Of two pictures of one name, the files can be those of one alone.
        if seen and seen.name not in {it.name for it in kept.values()}:
            kept[path] = seen
    found = Found(saved_models.load(options.model), list(kept.values()), [])
    to_do = [path for path in options.images if path not in kept]
    squares = saved_models.training_squares(found.network) if to_do else None
    with progress_bar(lab.console) as progress:
        bar = progress.add_task("", total=len(to_do))
        for path in to_do:
            tiles = progress.add_task(escape(printable(path.name)), total=None)

            def count(done: int, total: int, task: Any = tiles) -> None:
                progress.update(task, completed=done, total=total)

            try:
                segment(path, options, found, squares, digests[str(path)], count)
            except ValueError as error:
                found.refused.append({"image": str(path), "error": str(error)})
            progress.remove_task(tiles)
            progress.advance(bar)
    if not found.seen:
        for line in found.refused[:-1]:
            print(f"error: {printable(line['error'])}", file=sys.stderr)
        raise UsageError(found.refused[-1]["error"])
    return found


def segment(
    path: Path,
    options: Options,
    found: Found,
    squares: np.ndarray | None,
    named: str,
    report: Callable[[int, int], None],
) -> None:
    """One picture: its files, its row, and what the report shows of it while there is room."""
    network, tile_size = found.network, options.tile_size
    grey, picture = photographs.read_in_colour(path, options.max_megapixels, SMALLEST, SHOWN_SIDE)
    # One that this command does not name, but some of whose files are gone, may have changed since it was named.
    if digest(path) != named:
        raise ValueError(f"{path} has changed since it was named")
    probability = tiling.segment(network.model, network.variables, grey, network.image_size, tile_size, report)
    if not np.isfinite(probability).all():
        raise ValueError(f"{path} gets no mask: the network's numbers for it are not finite")
    strange = None if squares is None else novelty.strange_share(squares, grey, network.image_size)
    called = free_name(path, {seen.name for seen in found.seen})
    name, row = file_name(called), describe(path, called, probability, strange)
    overlay = photographs.overlay(grey, probability)
    shown = {}
    if sum(bool(it.shown) for it in found.seen) < MOST_SHOWN:
        small = photographs.reduced(Image.fromarray(probability), SHOWN_SIDE)
        shown = {"picture": picture, "overlay": photographs.reduced(overlay, SHOWN_SIDE), "probability": small}
    seen = Seen(name, row, shown)
    content = {"mask": photographs.mask_png(probability), "overlay": photographs.png(overlay)}
    if options.probability == "png":
        content["probability"] = photographs.probability_png(probability)
    elif options.probability == "npy":
        buffer = io.BytesIO()
        np.save(buffer, probability)
        content["probability"] = buffer.getvalue()
    # All of a picture's files are made before the first is written, and all are written once one is. The file sorts the
    # keys of its metadata, but not a list.
    with stops.deferred() as signals:
        for file, written in zip(files(options, name), content.values(), strict=True):
            store.write(options.out, file, written)
        store.write_note(
            options.out, store.picture(path), shown, {"digest": named, "name": name, "row": list(row.items())}
        )
    if signals:
        raise stops.Interrupted(signals[0])
    found.seen.append(seen)


def report(options: Options, found: Found) -> Report:
    network, seen, refused = found
    rows = [it.row for it in seen]
    # results.json keeps the paths as they are, which JSON can; a table of text cannot.
    csv = [{**row, "image": printable(row["image"])} for row in rows]
    results = {"textures": network.names, "images": rows, "refused": refused}
    written = [file for it in seen for file in files(options, it.name)]
    return Report(
        sentences(rows, refused, network),
        [table(rows, network)],
        {"pictures": figure(seen, network)},
        results,
        csv,
        warnings(network, rows),
        written=written,
        failures=[line["error"] for line in refused],
    )


def read_note(options: Options, path: Path, named: str) -> Seen | None:
    """What the folder holds of a picture, None where that is not all; a UsageError where it is another picture's."""
    if (found := store.read_note(options.out, store.picture(path))) is None:
        return None
    shown, metadata = found
    if metadata["digest"] != named:
        raise UsageError(
            f"--out {options.out} holds the results of another {path} than is there now; give it another name, name "
            "another folder, or pass --overwrite"
        )
    whole = all((options.out / file).exists() for file in files(options, metadata["name"]))
    return Seen(metadata["name"], dict(metadata["row"]), shown) if whole else None


def free_name(path: Path, taken: Collection[str]) -> str:
    """What a picture is called: as its file without the ending, with it where that is taken, and then with a number."""
    names = itertools.chain([path.stem, path.name], (f"{path.name}-{number}" for number in itertools.count(2)))
    return next(name for name in names if file_name(name) not in taken)


def file_name(name: str) -> str:
    """How the names of a picture's files begin: as it is called, cut where they would be too long."""
    encoded = os.fsencode(name)
    if len(encoded) <= LONGEST:
        return name
    # Half a letter at the cut is left out; the digest keeps names apart that differ behind it.
    return f"{encoded[: LONGEST - 9].decode(errors='ignore')}-{hashlib.sha256(encoded).hexdigest()[:8]}"


def files(options: Options, name: str) -> list[str]:
    """The files of a picture whose files begin with this name."""
    endings = ["mask.png", "overlay.png"] + [f"probability.{options.probability}"] * (options.probability != "none")
    return [f"{name}-{ending}" for ending in endings]


def describe(path: Path, name: str, probability: np.ndarray, strange: float | None) -> dict[str, Any]:
    """A picture as a row: its size, the area of each texture, and what is doubtful of it."""
    low, high = UNSURE
    counts = {"first": (probability > 0.5).sum(), "second": (probability <= 0.5).sum()}
    counts["unsure"] = ((probability > low) & (probability < high)).sum()
    height, width = probability.shape
    row = {"name": printable(name), "image": str(path), "height": height, "width": width}
    row |= {f"{what}_pixels": int(count) for what, count in counts.items()}
    row |= {f"{what}_share": float(count) / probability.size for what, count in counts.items()}
    return {**row, "strange_share": strange}


def sentences(rows: list[dict[str, Any]], refused: list[dict[str, Any]], network: SavedModel) -> list[str]:
    total = sum(row["height"] * row["width"] for row in rows)
    first, unsure = (sum(row[f"{what}_pixels"] for row in rows) / total for what in ("first", "unsure"))
    pictures = f"{len(rows)} pictures" if len(rows) > 1 else "one picture"
    names = map(printable, network.names)
    said = [
        "Of {} million pixels in {}, {:.1%} are {} and {:.1%} {}; of {:.1%} the network is unsure.".format(
            f"{float(f'{total / 1e6:.2g}'):,g}", pictures, first, next(names), 1 - first, next(names), unsure
        )
    ]
    if (left_out := len(rows) - MOST_SHOWN) > 0:
        said.append(f"The figure has the first {MOST_SHOWN} pictures and leaves out {left_out}, whose files are there.")
    return said + ([f"{len(refused)} more got no mask; results.json says why, under refused."] if refused else [])


def warnings(network: SavedModel, rows: list[dict[str, Any]]) -> list[str]:
    said = []
    if network.diverged:
        said.append("The training of this network diverged: what it sees may mean nothing. Train it at a lower rate.")
    if network.model.batch_statistics:
        said.append(
            "The layers of this network share one BatchNorm, so it judges each tile by the tile's own statistics: its "
            "answer for a pixel depends on the tile. With a BatchNorm for each layer (separate_norm) it does not."
        )
    for row in rows:
        if (share := row["strange_share"]) is not None and share > novelty.MOST_STRANGE:
            said.append(
                f"{row['name']} may show something else than {network.names[0]} and {network.names[1]}: {share:.0%} of "
                "it is unlike all training images in brightness, contrast or fineness. Its areas may mean nothing."
            )
    return said


def table(rows: list[dict[str, Any]], network: SavedModel) -> Table:
    cells = [
        [row["name"], f"{row['width']} x {row['height']}"]
        + [f"{row[f'{what}_share']:.1%}\n{row[f'{what}_pixels']:,} pixels" for what in ("first", "second", "unsure")]
        + ["-" if row["strange_share"] is None else f"{row['strange_share']:.0%}"]
        for row in rows
    ]
    note = f"Unsure: probability between {UNSURE[0]} and {UNSURE[1]}. Strange: share of squares that are unlike all of "
    note += f"training; a picture with more than {novelty.MOST_STRANGE:.0%} gets a warning."
    if any(row["strange_share"] is None for row in rows):
        note += " A dash: the picture is too small for that, or the model's file of a version without training squares."
    return Table(
        "Area of each texture", ("picture", "pixels", *map(printable, network.names), "unsure", "strange"), cells, note
    )


def figure(seen: list[Seen], network: SavedModel) -> Figure:
    """A row for each of the first pictures: itself, where the network sees which texture, and how sure it is."""
    drawn = [it for it in seen if it.shown][:MOST_SHOWN]
    first, second = (photographs.figure_label(printable(name)) for name in network.names)
    grid = [
        [
            plotting.Picture("", it.shown["picture"]),
            plotting.Picture("", it.shown["overlay"]),
            plotting.Picture("", it.shown["probability"], "probability"),
        ]
        for it in drawn
    ]
    titles = ("picture", f"blue: {first}\norange: {second}", "probability")
    grid[0] = [picture._replace(title=title) for picture, title in zip(grid[0], titles, strict=True)]
    title = "Where the network sees which texture"
    title += f" (the first {len(drawn)} of {len(seen)} pictures)" if len(drawn) < len(seen) else ""
    names = [photographs.figure_label(it.row["name"]) for it in drawn]
    return plotting.pictures(grid, title, names, bar=f"probability of {first}")


if __name__ == "__main__":
    experiment.main()
