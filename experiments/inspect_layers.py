"""What does each layer of the network do? Kernels and feature maps of a trained model, and the effect of removing each.

    python -m experiments.inspect_layers --model results/train_model/model.safetensors
    python -m experiments.inspect_layers                    trains a network first: 300 steps on 64 x 64 images
    python -m experiments.inspect_layers --preset quick     the same in 100 steps on 32 x 32 images

- `kernels_*`: the weights of each convolution, a row for each output channel.
- `features_*`: what each layer gives for one held-out image. Channels are numbered from 0, here as in `kernels_*`.
- `removal`: held-out accuracy without a part. Averaged: its mean over the image takes the place of a layer's output,
  or of one channel; this says how much the part is needed. Skipped: the input of a layer takes the place of its output,
  where both have one width; the BatchNorm behind it then gets numbers that it was not trained for, so that accuracy may
  fall further than without any detail. A network that sees nothing gives one answer everywhere: at best it is right on
  the pixels of the commoner texture.

Expect the first layer to be filters of fine detail, without which nothing is left, and most single channels to matter
little. About a minute on 2 CPU cores; half of it to train.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

import segjax
from experiments.lab import experiment, scores
from experiments.lab.experiment import Lab
from experiments.lab.names import ARCHITECTURES
from experiments.lab.options import Training
from experiments.lab.report import Report, Table
from experiments.lab.runs import Texture, held_out_batch
from experiments.lab.train import progress_bar
from experiments.pictures.saved_models import load_with_textures
from segjax import layers, metrics, plotting
from segjax.models import Variables

# Kernels and maps that one picture shows at most, a side.
MOST_SHOWN = 16
# A quarter of those of other commands: each of some 50 changes predicts all of them anew.
HELD_OUT_BATCHES = 4


@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """Shows what each layer of a trained network does."""

    image_size: int = 64
    sigma: float = 12.8
    model: Path | None = None
    """A model.safetensors of experiments.train_model or train_best_model, which brings its own architecture and
    textures; without it a network is trained first."""
    architecture: str = "separate_norm"  # The network to train, such as separate_norm or unet; a --model has its own.
    iterations: int = 300
    """Steps to train it, with Adam at 0.01 on the cross entropy."""
    schedule: str = "cosine"
    """How the learning rate moves as it trains: constant, exponential, cosine, warmup, warmup_cosine or one_cycle."""
    out: Path = Path("results/inspect_layers")

    def inputs(self) -> list[Path]:
        """Files that the results depend on."""
        return [self.model] if self.model else []

    def check(self) -> None:
        super().check()
        if self.model:
            load_with_textures(self.model)


PRESETS = {"full": Options(), "quick": Options(image_size=32, sigma=6.4, iterations=100)}


class Found(NamedTuple):
    """A trained network, what its layers give for a held-out batch, and the accuracy without each part."""

    variables: Variables
    texture: Texture
    diverged: bool
    maps: dict[str, jax.Array]
    rows: list[dict[str, Any]]


def work(options: Options, lab: Lab) -> Found:
    """Loads or trains a network, and takes it apart."""
    if options.model:
        saved, texture = load_with_textures(options.model)
        model, variables, diverged = saved.model, saved.variables, saved.diverged
    else:
        # As compare_architectures does, for as few steps.
        run = options.run(options.seed, optimizer="adam", learning_rate=1e-2, objective="bce")
        (result,) = lab.train([run])
        model, variables, texture = ARCHITECTURES[options.architecture], result.variables, options.texture
        diverged = bool(scores.diverged_at(result.history.loss, variables["params"]))
    maps = layers.feature_maps(model, variables, held_out_batch(texture).image)
    return Found(variables, texture, diverged, maps, removals(model, variables, texture, maps, lab.console))


def report(options: Options, found: Found) -> Report:
    batch, rows = held_out_batch(found.texture), found.rows
    figures = {f"kernels_{layer}": kernels(layer, found.variables) for layer in found.maps}
    figures |= {f"features_{layer}": features(layer, maps, batch) for layer, maps in found.maps.items()}
    figures["removal"] = removal_figure(rows)
    results = {"texture": found.texture._asdict(), "removals": rows}
    said = ["The training of this network diverged: what its layers do is of no use."] if found.diverged else []
    return Report(findings(rows), [table(rows)], figures, results, rows, said)


def removals(
    model: nn.Module, variables: Variables, texture: Texture, maps: dict[str, jax.Array], console: Console
) -> list[dict[str, Any]]:
    """Held-out accuracy whole, and without each layer and each channel."""
    batches = [held_out_batch(texture, index) for index in range(HELD_OUT_BATCHES)]
    images, masks = (jnp.concatenate(parts) for parts in zip(*batches, strict=True))

    def accuracy(logits: jax.Array) -> float:
        return float(metrics.accuracy(metrics.count(logits, masks)))

    changes: list[tuple[str, str, layers.Change]] = []
    for layer, array in maps.items():
        kernel, channels = variables["params"][layer]["kernel"], array.shape[-1]
        # Only where both have one width can the input take the place of the output.
        if kernel.shape[2] == kernel.shape[3]:
            changes.append((layer, "skipped", layers.skip))
        changes.append((layer, "averaged", layers.average))
        if channels > 1:
            changes += [(layer, f"channel {index}", layers.average_channel(index)) for index in range(channels)]
    # All on the same images: a part that matters little would drown in the scatter between batches.
    whole = accuracy(segjax.predict(model, variables, images))
    share = float(masks.mean())
    rows = [
        {"layer": "", "removed": removed, "accuracy": kept, "loss_of_accuracy": whole - kept}
        for removed, kept in (("nothing", whole), ("everything", max(share, 1 - share)))
    ]
    with progress_bar(console) as progress:
        for layer, name, change in progress.track(changes, description="removing each layer and channel"):
            kept = accuracy(layers.predict_changed(model, variables, images, layer, change))
            rows.append({"layer": layer, "removed": name, "accuracy": kept, "loss_of_accuracy": whole - kept})
    return rows


def kernels(layer: str, variables: Variables) -> Figure:
    """A convolution's weights: a row an output, a column an input; those of a single input or output fill rows."""
    kernel = np.asarray(variables["params"][layer]["kernel"])
    height, width, inputs, outputs = kernel.shape
    tiles = [[kernel[:, :, i, o] for i in range(inputs)[:MOST_SHOWN]] for o in range(outputs)[:MOST_SHOWN]]
    shown = f", first {MOST_SHOWN} of them," if max(inputs, outputs) > MOST_SHOWN else ""
    if 1 in (inputs, outputs):
        title = f"Weights of {layer}: the kernel of each channel{shown} answers to what looks like it; white is 0"
        if inputs > 1:
            title = f"Weights of {layer}: the output is the sum of the inputs{shown} through their kernels; white is 0"
        flat = enumerate(tile for row in tiles for tile in row)
        named = [plotting.Picture(f"channel {number}", tile, "signed") for number, tile in flat]
        return plotting.pictures(rows_of(named, 8), title, size=1.0)
    title = f"Weights of {layer}: each output channel{shown} is the sum of all inputs through the kernels of its row; "
    size = 0.5 * max(map(len, tiles))
    figure = plotting.pictures([[plotting.Picture("", mosaic(tiles), "signed")]], title + "white is 0", size=size)
    axes = figure.axes[0]
    axes.set_xticks(
        np.arange(len(tiles[0])) * (width + 1) + (width - 1) / 2, [str(number) for number in range(len(tiles[0]))]
    )
    axes.set_yticks(
        np.arange(len(tiles)) * (height + 1) + (height - 1) / 2, [str(number) for number in range(len(tiles))]
    )
    axes.set(xlabel="channel of the input", ylabel="channel of the output")
    return figure


def mosaic(tiles: list[list[np.ndarray]]) -> np.ndarray:
    """Arrays of one shape in rows, one NaN between them: one picture is drawn 20 times faster than 256."""
    height, width = tiles[0][0].shape
    whole = np.full((len(tiles) * (height + 1) - 1, max(map(len, tiles)) * (width + 1) - 1), np.nan)
    for y, row in enumerate(tiles):
        for x, tile in enumerate(row):
            whole[y * (height + 1) :, x * (width + 1) :][:height, :width] = tile
    return whole


def features(layer: str, maps: jax.Array, batch: segjax.Batch) -> Figure:
    """The channels of a layer for one image; before them the image and its mask."""
    cells = [plotting.Picture("image", batch.image[0, ..., 0]), plotting.Picture("mask", batch.mask[0, ..., 0], "mask")]
    channels = np.moveaxis(np.asarray(maps[0]), -1, 0)
    shown = enumerate(channels[:MOST_SHOWN])
    cells += [
        plotting.Picture("logits" if layer == "out" else f"channel {index}", it, "feature") for index, it in shown
    ]
    first = f", first {MOST_SHOWN} of {len(channels)} channels" if len(channels) > MOST_SHOWN else ""
    title = f"What {layer} gives for one image, before ReLU{first}: a channel that differs inside and outside of the "
    title += "mask tells the textures apart. Each goes from its lowest value, black, to its highest, white"
    if layer == "out":
        title = (
            "What out gives for one image: logits, the larger the surer of the mask; from the lowest, black, to white"
        )
    return plotting.pictures(rows_of(cells, 6), title, size=1.6)


def rows_of(cells: list[Any], columns: int) -> list[list[Any]]:
    return [cells[start : start + columns] for start in range(0, len(cells), columns)]


def by_layer(rows: list[dict[str, Any]]) -> dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """layer -> its rows of the whole layer, and those of its channels; the first layer, "", is the whole network."""
    found: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
    for row in rows:
        found.setdefault(row["layer"], ([], []))[row["removed"].startswith("channel")].append(row)
    return found


def removal_figure(rows: list[dict[str, Any]]) -> Figure:
    """Accuracy without each layer; its channels share one bar, with the range from least to most important."""
    bars: dict[str, list[float]] = {}
    for layer, (whole, channels) in by_layer(rows).items():
        bars |= {
            f"{layer} {row['removed']}" if layer else f"{row['removed']} removed": [row["accuracy"]] for row in whole
        }
        if channels:
            bars[f"{layer}, one channel averaged"] = [row["accuracy"] for row in channels]
    arrays = {name: np.array(values) for name, values in bars.items()}
    return plotting.bars(
        arrays,
        "held-out accuracy, as a share of the pixels (of single channels: median and range)",
        "Accuracy without a part of the network. Averaged: its mean over the image in its place; the lower, the more "
        "it is needed. Skipped: its input in its place, to which the BatchNorm behind it is not fitted",
        log=False,
    )


def table(rows: list[dict[str, Any]]) -> Table:
    """Whole layers, and the channel of each that matters most."""
    lines = []
    for whole, channels in by_layer(rows).values():
        lines += [*whole, *sorted(channels, key=lambda row: row["accuracy"])[:1]]
    cells = [
        [row["layer"] or "all", row["removed"], f"{row['accuracy']:.4f}", f"{row['loss_of_accuracy']:.4f}"]
        for row in lines
    ]
    note = "Averaged: its mean over the image in its place. Skipped: its input in its place. Everything removed: one "
    note += "answer for all pixels. Of a layer's channels the one is shown that costs most; channels count from 0."
    return Table("Held-out accuracy without a part", ("layer", "removed", "accuracy", "lost"), cells, note)


def findings(rows: list[dict[str, Any]]) -> list[str]:
    """What averaging costs, by which parts are compared; what skipping costs is another question, and said apart."""

    def of(removed: str) -> list[dict[str, Any]]:
        chosen = [row for row in rows if row["removed"].startswith(removed) and row["layer"] != "out"]
        return sorted(chosen, key=lambda row: row["accuracy"])

    (whole,), (nothing,), averaged, skipped, channels = map(
        of, ("nothing", "everything", "averaged", "skipped", "channel")
    )
    left = {row["layer"]: f"{row['accuracy']:.3f}" for row in averaged}
    # Several layers may leave nothing but one answer: none of them is the first.
    worst = [layer for layer, accuracy in left.items() if accuracy == min(left.values())]
    others = ", ".join(f"{accuracy} for {layer}" for layer, accuracy in left.items() if layer not in worst)
    said = [
        f"The network is right on {whole['accuracy']:.3f} of the held-out pixels; one answer for all of them would be "
        f"right on {nothing['accuracy']:.3f}.",
        "With the output of a layer averaged over the image, accuracy falls to "
        + f"{min(left.values())} for {' or '.join(worst)}{f'; others: {others}' if others else ''}.",
    ]
    if skipped:
        said.append(
            f"Skipped, {skipped[0]['layer']} leaves {skipped[0]['accuracy']:.3f}. That is no measure of how much it is "
            "needed: the BatchNorm behind it was not trained for what it gets then."
        )
    if channels:
        idle = sum(row["loss_of_accuracy"] < 0.001 for row in channels)
        said.append(
            f"Of single channels averaged, {channels[0]['removed']} of {channels[0]['layer']} costs most and leaves "
            f"{channels[0]['accuracy']:.3f}; {idle} of {len(channels)} cost less than 0.001 each."
        )
    return said


if __name__ == "__main__":
    experiment.main()
