"""Which of its two textures does a trained network see where in a picture? Of any size, grey or colour, one or many.

    python -m experiments.segment_image results/learn_textures/model.safetensors wall.jpg
    python -m experiments.segment_image results/train_model/model.safetensors photographs/ more/*.tif

For each picture NAME the folder `--out` gets `NAME-mask.png` (255: the first texture, 0: the second),
`NAME-probability.png` (16 bits, 65535: certainly the first) and `NAME-overlay.png` (the first tinted blue, the second
orange). MODEL is a model.safetensors of these experiments, or a safetensors file of the notebook's weights in PyTorch.

The picture goes through the network in overlapping tiles, and its shades of grey are first brought to the scale of the
training images. A picture that cannot be read is one line on the screen, and the others go on; the exit code is 1 then.
Half a second for a million pixels on 2 CPU cores.
"""

import io
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from tyro.conf import Positional, arg

from experiments import command, folder, interruption, networks, output, photographs, training
from experiments.interruption import Interrupted
from experiments.networks import Network
from experiments.report import Report, Table, question
from segjax import checkpoints, plotting, tiling
from segjax.checks import check_count, check_positive

# Shorter than this no texture can be seen.
SMALLEST = 16
# Pictures in the report, and their longest side in pixels there.
MOST_SHOWN, SHOWN_SIDE = 4, 400


@dataclass(frozen=True)
class Options:
    """Segments pictures by a trained network."""

    model: Annotated[Positional[Path], arg(metavar="MODEL")]
    """A model.safetensors of these experiments, or the notebook's weights from PyTorch."""
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE ...")]
    """Pictures in PNG, JPEG or TIFF, and folders of them."""
    probability: Literal["png", "npy", "none"] = "png"
    """How the probability of the first texture is written: 16-bit PNG, NumPy's float32, or not at all."""
    tile_size: int = 256
    """Side of the tiles in pixels, their overlap left out; memory grows with its square."""
    max_megapixels: float = 100.0
    """Pictures of more million pixels than these are refused before they are unpacked."""
    out: Path = Path("results/segment_image")
    """Folder for the masks, probabilities and overlays, report.html, results.json and runs.csv."""
    overwrite: bool = False
    """Begin anew in a folder that already holds files: deletes the results that it holds."""

    def inputs(self) -> list[Path]:
        """Files that the results depend on."""
        return [self.model, *photographs.find(list(self.images))]


# Every option has a default but the two that must be given.
PRESETS: dict[str, Options] = {}


def main(options: Options) -> None:
    with command.usage_errors():
        check_count("--tile-size", options.tile_size, 1)
        check_positive("--max-megapixels", options.max_megapixels)
        network = networks.load(options.model)
        paths = photographs.find(list(options.images))
        if not paths:
            raise ValueError("IMAGE must name pictures, or folders of them; none was found")
    folder.claim(options)
    console = Console()
    rows: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    shown: list[list[plotting.Picture]] = []
    with training.progress_bar(console) as progress:
        bar = progress.add_task("", total=len(paths))
        for path in paths:
            tiles = progress.add_task(escape(path.name), total=None)
            try:
                if any(Path(row["image"]).stem == path.stem for row in rows):
                    raise ValueError(f"{path} has the name of an earlier picture, whose results it would replace")
                grey = photographs.read(path, options.max_megapixels, SMALLEST)
                probability = tiling.segment(
                    network.model,
                    network.variables,
                    grey,
                    network.image_size,
                    options.tile_size,
                    partial(count, progress, tiles),
                )
                if not rows:
                    folder.keep(options)
                write(options, path.stem, grey, probability)
                rows.append(describe(path, probability))
                shown += [thumbnails(grey, probability, network)] if len(shown) < MOST_SHOWN else []
            except ValueError as error:
                refused.append({"image": str(path), "error": str(error)})
            progress.remove_task(tiles)
            progress.advance(bar)
    # The progress bar would take the lines in between for its own.
    for line in refused[: -1 if not rows else None]:
        print(f"error: {line['error']}", file=sys.stderr)
    if not rows:
        raise command.UsageError(refused[-1]["error"])
    names = [photographs.figure_label(row["name"]) for row in rows]
    figures = {"pictures": plotting.pictures(shown, "Pictures, masks and probabilities", names)}
    report = Report(question(__doc__), sentences(rows, refused), [table(rows, network)], figures, warnings(network))
    results = {"experiment": "segment_image", "textures": network.names, "images": rows, "refused": refused}
    output.finish(options, results, rows, report, console)
    if refused:
        sys.exit(1)


def count(progress: Progress, task: Any, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total)


def write(options: Options, name: str, grey: np.ndarray, probability: np.ndarray) -> None:
    """The files of one picture: all of them made before the first is written, and all written once one is."""
    files = {"mask.png": photographs.mask_png(probability), "overlay.png": photographs.overlay_png(grey, probability)}
    if options.probability == "png":
        files["probability.png"] = photographs.probability_png(probability)
    elif options.probability == "npy":
        buffer = io.BytesIO()
        np.save(buffer, probability)
        files["probability.npy"] = buffer.getvalue()
    with interruption.deferred() as signals:
        for ending, content in files.items():
            checkpoints.write(options.out / f"{name}-{ending}", content)
    if signals:
        raise Interrupted(signals[0])


def describe(path: Path, probability: np.ndarray) -> dict[str, Any]:
    """A picture as a row: its size and the area of each texture."""
    first = int((probability > 0.5).sum())
    return {
        "name": photographs.label(path),
        "image": str(path),
        "height": probability.shape[0],
        "width": probability.shape[1],
        "first_pixels": first,
        "second_pixels": probability.size - first,
        "first_share": first / probability.size,
        "second_share": 1 - first / probability.size,
    }


def sentences(rows: list[dict[str, Any]], refused: list[dict[str, Any]]) -> list[str]:
    total = sum(row["height"] * row["width"] for row in rows)
    share = sum(row["first_pixels"] for row in rows) / total
    pictures = f"{len(rows)} pictures" if len(rows) > 1 else "one picture"
    said = [f"The first texture covers {share:.1%} of {total / 1e6:.2g} million pixels in {pictures}."]
    return said + ([f"{len(refused)} more could not be read."] if refused else [])


def warnings(network: Network) -> list[str]:
    if not getattr(network.model, "shared_norm", False):
        return []
    return [
        "The layers of this network share one BatchNorm, so that it judges each tile by the tile's own statistics: "
        "what it says of a pixel hangs on the tile. With a BatchNorm for each layer (separate_norm) that is not so."
    ]


def table(rows: list[dict[str, Any]], network: Network) -> Table:
    first, second = network.names
    cells = [
        [row["name"], f"{row['width']} x {row['height']}"]
        + [f"{row[f'{which}_share']:.1%}\n{row[f'{which}_pixels']:,} pixels" for which in ("first", "second")]
        for row in rows
    ]
    return Table("Area of each texture", ("picture", "pixels", f"first: {first}", f"second: {second}"), cells)


def thumbnails(grey: np.ndarray, probability: np.ndarray, network: Network) -> list[plotting.Picture]:
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
    command.run(main, Options, PRESETS)
