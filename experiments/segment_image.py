"""Which of its two textures does a trained network see where in a picture? Of any size, grey or colour, one or many.

    python -m experiments.segment_image results/learn_textures/model.safetensors wall.jpg
    python -m experiments.segment_image results/train_model/model.safetensors photographs/ more/*.tif

For each picture NAME the folder `--out` gets `NAME-mask.png` (255: the first texture, 0: the second),
`NAME-probability.png` (16 bits, 65535: certainly the first) and `NAME-overlay.png` (the first tinted blue, the second
orange). MODEL is a model.safetensors of these experiments, or a safetensors file of the notebook's weights in PyTorch.

The picture goes through the network in overlapping tiles, and its shades of grey are first brought to the scale of the
training images. A picture that cannot be read is one line on the screen, and the others go on; the exit code is 1 then.
A NAME that is too long for a file system is cut, and made unique by eight digits of its SHA-256.
Half a second for a million pixels on 2 CPU cores.
"""

import hashlib
import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape
from tyro.conf import Positional, Suppress, arg

from experiments.lab import experiment, photographs, saved_models, stops, store
from experiments.lab.names import printable
from experiments.lab.options import Command
from experiments.lab.report import Report, Table
from experiments.lab.saved_models import SavedModel
from experiments.lab.stops import UsageError
from experiments.lab.train import progress_bar
from segjax import plotting, tiling
from segjax.checks import check_count, check_positive

# Shorter than this no texture can be seen.
SMALLEST = 16
# Pictures in the report, and their longest side in pixels there.
MOST_SHOWN, SHOWN_SIDE = 4, 400
# Bytes that file systems allow a name, without what is put around a picture's while its longest file is written.
LONGEST = 255 - len("..tmp") - len("-probability.png")


@dataclass(frozen=True, kw_only=True)
class Options(Command):
    """Segments pictures by a trained network."""

    preset: Suppress[str] = ""

    model: Annotated[Positional[Path], arg(metavar="MODEL")]
    """A model.safetensors of these experiments, or the notebook's weights from PyTorch."""
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE ...")]
    """Pictures in PNG, JPEG or TIFF, and folders of them."""
    probability: Literal["png", "npy", "none"] = "png"
    """How the probability of the first texture is written: 16-bit PNG, NumPy's float32, or not at all."""
    tile_size: int = 256  # Side of the tiles in pixels, their overlap left out; memory grows with its square.
    max_megapixels: float = 100.0  # Pictures of more million pixels than these are refused before they are unpacked.
    out: Path = Path("results/segment_image")

    def inputs(self) -> list[Path]:
        """Files that the results depend on."""
        return [self.model, *photographs.find(list(self.images))]

    def check(self) -> None:
        super().check()
        check_count("--tile-size", self.tile_size, 1)
        check_positive("--max-megapixels", self.max_megapixels)
        saved_models.load(self.model)
        if len(self.inputs()) < 2:
            raise ValueError("IMAGE must name pictures, or folders of them; none was found")


# Every option has a default but the two that must be given.
PRESETS: dict[str, Options] = {}


class Found(NamedTuple):
    """The network, a row a picture, what could not be read, and the first pictures for the report."""

    network: SavedModel
    rows: list[dict[str, Any]]
    refused: list[dict[str, str]]
    shown: list[list[plotting.Picture]]


def work(options: Options, console: Console) -> Found:
    """Segments every picture that can be read, and writes its files."""
    found = Found(saved_models.load(options.model), [], [], [])
    paths = options.inputs()[1:]
    with progress_bar(console) as progress:
        bar = progress.add_task("", total=len(paths))
        for path in paths:
            tiles = progress.add_task(escape(printable(path.name)), total=None)

            def count(done: int, total: int, task: Any = tiles) -> None:
                progress.update(task, completed=done, total=total)

            try:
                segment(path, options, found, count)
            except ValueError as error:
                found.refused.append({"image": str(path), "error": str(error)})
            progress.remove_task(tiles)
            progress.advance(bar)
    if not found.rows:
        for line in found.refused[:-1]:
            print(f"error: {printable(line['error'])}", file=sys.stderr)
        raise UsageError(found.refused[-1]["error"])
    return found


def segment(path: Path, options: Options, found: Found, report: Callable[[int, int], None]) -> None:
    """One picture: its files, its row, and its thumbnails while there is room."""
    if any(output_name(Path(row["image"])) == output_name(path) for row in found.rows):
        raise ValueError(f"{path} has the name of an earlier picture, whose results it would replace")
    network, grey = found.network, photographs.read(path, options.max_megapixels, SMALLEST)
    size, tile_size = network.image_size, options.tile_size
    probability = tiling.segment(network.model, network.variables, grey, size, tile_size, report)
    if not np.isfinite(probability).all():
        raise ValueError(f"{path} gets no mask: the network's numbers for it are not finite")
    write(options, output_name(path), grey, probability)
    found.rows.append(describe(path, probability))
    if len(found.shown) < MOST_SHOWN:
        found.shown.append(thumbnails(grey, probability, network))


def report(options: Options, found: Found) -> Report:
    network, rows, refused, shown = found
    names = [photographs.figure_label(row["name"]) for row in rows]
    figures = {"pictures": plotting.pictures(shown, "Pictures, masks and probabilities", names)}
    # results.json keeps the paths as they are, which JSON can; a table of text cannot.
    csv = [{**row, "image": printable(row["image"])} for row in rows]
    results = {"textures": network.names, "images": rows, "refused": refused}
    failures = [line["error"] for line in refused]
    findings, tables = sentences(rows, refused), [table(rows, network)]
    endings = ["mask.png", "overlay.png"] + [f"probability.{options.probability}"] * (options.probability != "none")
    written = [f"{output_name(Path(row['image']))}-{ending}" for row in rows for ending in endings]
    said = warnings(network)
    return Report(findings, tables, figures, results, csv, said, written=written, failures=failures)


def output_name(path: Path) -> str:
    """How the names of a picture's files begin: as its own, cut where they would be too long."""
    name = os.fsencode(path.stem)
    if len(name) <= LONGEST:
        return path.stem
    # Half a letter at the cut is left out; the digest keeps names apart that differ behind it.
    return f"{name[: LONGEST - 9].decode(errors='ignore')}-{hashlib.sha256(name).hexdigest()[:8]}"


def write(options: Options, name: str, grey: np.ndarray, probability: np.ndarray) -> None:
    """The files of one picture: all of them made before the first is written, and all written once one is."""
    files = {"mask.png": photographs.mask_png(probability), "overlay.png": photographs.overlay_png(grey, probability)}
    if options.probability == "png":
        files["probability.png"] = photographs.probability_png(probability)
    elif options.probability == "npy":
        buffer = io.BytesIO()
        np.save(buffer, probability)
        files["probability.npy"] = buffer.getvalue()
    with stops.deferred() as signals:
        for ending, content in files.items():
            store.write(options.out, f"{name}-{ending}", content)
    if signals:
        raise stops.Interrupted(signals[0])


def describe(path: Path, probability: np.ndarray) -> dict[str, Any]:
    """A picture as a row: its size and the area of each texture."""
    first = int((probability > 0.5).sum())
    height, width = probability.shape
    size = {"name": photographs.label(path), "image": str(path), "height": height, "width": width}
    pixels = {"first_pixels": first, "second_pixels": probability.size - first}
    share = first / probability.size
    return {**size, **pixels, "first_share": share, "second_share": 1 - share}


def sentences(rows: list[dict[str, Any]], refused: list[dict[str, Any]]) -> list[str]:
    total = sum(row["height"] * row["width"] for row in rows)
    share = sum(row["first_pixels"] for row in rows) / total
    pictures = f"{len(rows)} pictures" if len(rows) > 1 else "one picture"
    said = [f"The first texture covers {share:.1%} of {total / 1e6:.2g} million pixels in {pictures}."]
    return said + ([f"{len(refused)} more could not be read."] if refused else [])


def warnings(network: SavedModel) -> list[str]:
    said = []
    if network.diverged:
        said.append("The training of this network diverged: what it sees may mean nothing. Train it at a lower rate.")
    if network.model.batch_statistics:
        said.append(
            "The layers of this network share one BatchNorm, so it judges each tile by the tile's own statistics: its "
            "answer for a pixel depends on the tile. With a BatchNorm for each layer (separate_norm) it does not."
        )
    return said


def table(rows: list[dict[str, Any]], network: SavedModel) -> Table:
    first, second = map(printable, network.names)
    cells = [
        [row["name"], f"{row['width']} x {row['height']}"]
        + [f"{row[f'{which}_share']:.1%}\n{row[f'{which}_pixels']:,} pixels" for which in ("first", "second")]
        for row in rows
    ]
    return Table("Area of each texture", ("picture", "pixels", f"first: {first}", f"second: {second}"), cells)


def thumbnails(grey: np.ndarray, probability: np.ndarray, network: SavedModel) -> list[plotting.Picture]:
    """A row of the report: the picture, its mask and its probabilities, every n-th pixel of them."""
    step = -(-max(grey.shape) // SHOWN_SIDE)
    small = probability[::step, ::step]
    picture = np.clip(tiling.level(grey[::step, ::step], network.image_size), 0, 1)
    return [
        plotting.Picture("picture", picture),
        plotting.Picture("mask", (small > 0.5).astype(float), "mask"),
        plotting.Picture("prediction", small, "probability"),
    ]


if __name__ == "__main__":
    experiment.main()
