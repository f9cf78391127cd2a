"""What does each layer of the network do? Kernels and feature maps of a trained model, and the effect of removing each.

    python -m experiments.inspect_layers --model results/train_model/model.safetensors
    python -m experiments.inspect_layers            trains a network first: 300 steps on 64 x 64 images
    python -m experiments.inspect_layers quick      the same in 100 steps on 32 x 32 images

- `kernels_*`: the weights of each convolution, one row per output channel.
- `features_*`: the output of each layer for one held-out image. Channels are numbered from 0, here as in `kernels_*`.
- `removal`: held-out accuracy without a part of the network. Averaged: the output of a layer, or one channel of it, is
  replaced by its mean over the image; this shows how much the part is needed. Skipped: the output of a layer is
  replaced by its input, if both have the same number of channels. The next BatchNorm was not trained for that, so the
  accuracy may fall below that of a network without any information. Such a network gives one answer everywhere: at best
  it is right on the pixels of the more common texture.

Without --model, a network is trained first, with Adam at 0.01 on the cross entropy. Expect the first layer to filter
fine detail, without which the accuracy is at chance, and most single channels to matter little. About a minute on 2 CPU
cores, half of it for the training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import segjax
from experiments.lab import arms, question
from experiments.lab.names import ARCHITECTURES
from experiments.lab.options import Data, Seed, Trained, Training, check_training
from experiments.lab.programs import held_out_batch
from experiments.lab.question import Lab
from experiments.lab.report import Drawing, Report, Table
from experiments.lab.runs import Texture
from experiments.pictures.saved_models import load_with_textures
from segjax import layers, metrics, plotting
from segjax.models import Variables

# Kernels per side of a picture, and feature maps in a picture.
MAX_TILES = 16
# A quarter of the batches of other commands: each of about 50 removals predicts all of them.
HELD_OUT_BATCHES = 4
# A channel is idle if its removal costs less accuracy than this.
IDLE = 0.001


@dataclass(frozen=True, kw_only=True)
class Options(Trained):
    """Shows what each layer of a trained network does."""

    data: Data = Data(image_size=64)
    training: Training = Training(iterations=300, schedule="cosine")
    seed: Seed = Seed()
    model: Path | None = None
    """A model.safetensors of experiments.train_model or train_best_model, which has its own architecture and textures;
    without it a network is trained first."""
    architecture: str = "separate_norm"  # The network to train, such as separate_norm or unet; a --model has its own.
    out: Path = Path("results/inspect_layers")

    def inputs(self) -> list[Path]:
        return [self.model] if self.model else []

    def check(self) -> None:
        super().check()
        check_training(architecture=self.architecture)
        if self.model:
            load_with_textures(self.model)


PRESETS = {
    "full": Options(),
    "quick": Options(data=Data(image_size=32), training=Training(iterations=100, schedule="cosine")),
}


class Removed(StrEnum):
    """How a part of the network is removed; "nothing" and "everything" refer to the whole network."""

    NOTHING = "nothing"
    EVERYTHING = "everything"
    AVERAGED = "averaged"
    SKIPPED = "skipped"


class Removal(NamedTuple):
    """Held-out accuracy without a part of the network: a layer, or one channel of it; the layer of the whole is ""."""

    layer: str
    channel: int | None
    removed: Removed
    accuracy: float
    loss_of_accuracy: float

    @property
    def label(self) -> str:
        return self.removed if self.channel is None else f"channel {self.channel}"


def answer(options: Options, lab: Lab) -> Report:
    if options.model:
        saved, texture = load_with_textures(options.model)
        model, variables, diverged = saved.model, saved.variables, saved.diverged
    else:
        # As in compare_architectures, which also trains for few steps.
        settings = {"optimizer": "adam", "learning_rate": 1e-2, "objective": "bce"}
        run = options.run(options.seed.seed, architecture=options.architecture, **settings)
        (result,) = lab.train([run])
        model, variables, texture = ARCHITECTURES[run.architecture], result.variables, run.texture
        diverged = bool(arms.diverged_at(result.history.loss, variables["params"]))
    batch = held_out_batch(texture)
    maps = layers.feature_maps(model, variables, batch.image)
    removals = remove_each(model, variables, texture, maps, lab)
    figures = {f"kernels_{layer}": Drawing(f"Kernels of {layer}", kernels(layer, variables)) for layer in maps}
    figures |= {
        f"features_{layer}": Drawing(f"Feature maps of {layer}", features(layer, array, batch))
        for layer, array in maps.items()
    }
    figures["removal"] = Drawing("Accuracy without each layer", removal_figure(removals))
    rows = [removal._asdict() for removal in removals]
    return Report(
        findings(removals),
        [table(removals)],
        figures,
        results={"texture": texture._asdict(), "removals": rows},
        rows=rows,
        warnings=["The training of this network diverged: its layers are of no use."] if diverged else [],
    )


def parts_of(variables: Variables, maps: dict[str, jax.Array]) -> list[tuple[str, int | None, Removed]]:
    """The layer and channel of each part, and how it is removed."""
    parts: list[tuple[str, int | None, Removed]] = []
    for layer, array in maps.items():
        kernel, channels = variables["params"][layer]["kernel"], array.shape[-1]
        # Only an input with as many channels can replace the output.
        parts += [(layer, None, Removed.SKIPPED)] if kernel.shape[2] == kernel.shape[3] else []
        parts.append((layer, None, Removed.AVERAGED))
        parts += [(layer, index, Removed.AVERAGED) for index in range(channels)] if channels > 1 else []
    return parts


def remove_each(
    model: nn.Module, variables: Variables, texture: Texture, maps: dict[str, jax.Array], lab: Lab
) -> list[Removal]:
    """Held-out accuracy of the whole network, and without each layer and each channel."""
    batches = [held_out_batch(texture, index) for index in range(HELD_OUT_BATCHES)]
    images, masks = (jnp.concatenate(parts) for parts in zip(*batches, strict=True))

    def accuracy(logits: jax.Array) -> float:
        return float(metrics.accuracy(metrics.count(logits, masks)))

    # All on the same images: noise between batches would hide small differences.
    whole = accuracy(segjax.predict(model, variables, images))
    mask_share = float(masks.mean())
    constant = max(mask_share, 1 - mask_share)
    removals = [
        Removal("", None, Removed.NOTHING, whole, 0.0),
        Removal("", None, Removed.EVERYTHING, constant, whole - constant),
    ]
    parts = parts_of(variables, maps)
    with lab.progress() as progress:
        for layer, channel, removed in progress.track(parts, description="removing each layer and channel"):
            averaged = layers.average if channel is None else layers.average_channel(channel)
            change = layers.skip if removed is Removed.SKIPPED else averaged
            without = accuracy(layers.predict_changed(model, variables, images, layer, change))
            removals.append(Removal(layer, channel, removed, without, whole - without))
    return removals


def kernels(layer: str, variables: Variables) -> Figure:
    """A convolution's weights: one row per output, one column per input; a single row or column is wrapped."""
    kernel = np.asarray(variables["params"][layer]["kernel"])
    height, width, inputs, outputs = kernel.shape
    tiles = [[kernel[:, :, i, o] for i in range(inputs)[:MAX_TILES]] for o in range(outputs)[:MAX_TILES]]
    first = f", first {MAX_TILES} of them," if max(inputs, outputs) > MAX_TILES else ""
    if 1 in (inputs, outputs):
        title = f"Weights of {layer}: the kernel of each channel{first} answers to what looks like it; white is 0"
        if inputs > 1:
            title = f"Weights of {layer}: the output is the sum of the inputs{first} through their kernels; white is 0"
        flat = enumerate(tile for row in tiles for tile in row)
        pictures = [plotting.Picture(f"channel {number}", tile, "signed") for number, tile in flat]
        return plotting.pictures(rows_of(pictures, 8), title, size=1.0)
    title = f"Weights of {layer}: each output channel{first} is the sum of all inputs through the kernels of its row; "
    size = 0.5 * max(map(len, tiles))
    figure = plotting.pictures([[plotting.Picture("", mosaic(tiles), "signed")]], title + "white is 0", size=size)
    axes, columns, rows = figure.axes[0], range(len(tiles[0])), range(len(tiles))
    axes.set_xticks([index * (width + 1) + (width - 1) / 2 for index in columns], list(map(str, columns)))
    axes.set_yticks([index * (height + 1) + (height - 1) / 2 for index in rows], list(map(str, rows)))
    axes.set(xlabel="channel of the input", ylabel="channel of the output")
    return figure


def mosaic(tiles: list[list[np.ndarray]]) -> np.ndarray:
    """Arrays of one shape in rows, with NaN between them: one picture is drawn 20 times faster than 256."""
    height, width = tiles[0][0].shape
    whole = np.full((len(tiles) * (height + 1) - 1, max(map(len, tiles)) * (width + 1) - 1), np.nan)
    for y, row in enumerate(tiles):
        for x, tile in enumerate(row):
            whole[y * (height + 1) :, x * (width + 1) :][:height, :width] = tile
    return whole


def features(layer: str, maps: jax.Array, batch: segjax.Batch) -> Figure:
    """An image, its mask, and the channels of a layer for this image."""
    cells = [plotting.Picture("image", batch.image[0, ..., 0]), plotting.Picture("mask", batch.mask[0, ..., 0], "mask")]
    channels = np.moveaxis(np.asarray(maps[0]), -1, 0)
    for index, channel in enumerate(channels[:MAX_TILES]):
        cells.append(plotting.Picture("logits" if layer == "out" else f"channel {index}", channel, "feature"))
    first = f", first {MAX_TILES} of {len(channels)} channels" if len(channels) > MAX_TILES else ""
    title = f"Output of {layer} for one image, before ReLU{first}: a channel that differs inside and outside of the "
    title += "mask tells the textures apart. Each goes from its lowest value, black, to its highest, white"
    if layer == "out":
        title = (
            "Output of out for one image: logits, the larger the surer of the mask; from the lowest, black, to white"
        )
    return plotting.pictures(rows_of(cells, 6), title, size=1.6)


def rows_of(cells: list[Any], columns: int) -> list[list[Any]]:
    return [cells[start : start + columns] for start in range(0, len(cells), columns)]


def by_layer(removals: Sequence[Removal]) -> dict[str, tuple[list[Removal], list[Removal]]]:
    """layer -> the removals of the whole layer, and those of its channels."""
    groups: dict[str, tuple[list[Removal], list[Removal]]] = {}
    for removal in removals:
        whole, channels = groups.setdefault(removal.layer, ([], []))
        (whole if removal.channel is None else channels).append(removal)
    return groups


def removal_figure(removals: Sequence[Removal]) -> Figure:
    """Accuracy without each layer; the channels of a layer share one bar, with their range."""
    bars: dict[str, list[float]] = {}
    for layer, (whole, channels) in by_layer(removals).items():
        for removal in whole:
            bars[f"{layer} {removal.removed}" if layer else f"{removal.removed} removed"] = [removal.accuracy]
        if channels:
            bars[f"{layer}, one channel averaged"] = [removal.accuracy for removal in channels]
    arrays = {name: np.array(values) for name, values in bars.items()}
    return plotting.bars(
        arrays,
        "held-out accuracy, as a share of the pixels (of single channels: median and range)",
        "Accuracy without a part of the network. Averaged: its mean over the image in its place; the lower, the more "
        "it is needed. Skipped: its input in its place, to which the BatchNorm behind it is not fitted",
        log=False,
    )


def table(removals: Sequence[Removal]) -> Table:
    """Whole layers, and the channel of each that matters most."""
    chosen: list[Removal] = []
    for whole, channels in by_layer(removals).values():
        chosen += [*whole, *sorted(channels, key=lambda removal: removal.accuracy)[:1]]
    cells = [[row.layer or "all", row.label, f"{row.accuracy:.4f}", f"{row.loss_of_accuracy:.4f}"] for row in chosen]
    note = "Averaged: its mean over the image in its place. Skipped: its input in its place. Everything removed: one "
    note += "answer for all pixels. For each layer the table has the channel that costs most; channels count from 0."
    return Table("Held-out accuracy without a part", ("layer", "removed", "accuracy", "lost"), cells, note)


def findings(removals: Sequence[Removal]) -> list[str]:
    """Averaging compares the parts. Skipping answers another question, and so has its own sentence."""

    def ranked(removed: Removed, channels: bool = False) -> list[Removal]:
        chosen = [row for row in removals if row.removed is removed and (row.channel is not None) is channels]
        return sorted((row for row in chosen if row.layer != "out"), key=lambda row: row.accuracy)

    (whole,), (constant,) = ranked(Removed.NOTHING), ranked(Removed.EVERYTHING)
    accuracies = {removal.layer: f"{removal.accuracy:.3f}" for removal in ranked(Removed.AVERAGED)}
    # Without any of several layers the network may give one answer everywhere: these layers are tied.
    lowest = min(accuracies.values())
    worst = [layer for layer, accuracy in accuracies.items() if accuracy == lowest]
    others = ", ".join(f"{accuracy} for {layer}" for layer, accuracy in accuracies.items() if layer not in worst)
    sentences = [
        f"The network is right on {whole.accuracy:.3f} of the held-out pixels; one answer for all of them would be "
        f"right on {constant.accuracy:.3f}.",
        "With the output of a layer averaged over the image, accuracy falls to "
        + f"{lowest} for {' or '.join(worst)}{f'; others: {others}' if others else ''}.",
    ]
    if skipped := ranked(Removed.SKIPPED):
        sentences.append(
            f"Skipped, {skipped[0].layer} leaves {skipped[0].accuracy:.3f}. That does not measure how much it is "
            "needed: the BatchNorm behind it was not trained for what it gets then."
        )
    if channels := ranked(Removed.AVERAGED, channels=True):
        idle = sum(removal.loss_of_accuracy < IDLE for removal in channels)
        sentences.append(
            f"If single channels are averaged, {channels[0].label} of {channels[0].layer} costs most and leaves "
            f"{channels[0].accuracy:.3f}; {idle} of {len(channels)} cost less than {IDLE:g} each."
        )
    return sentences


if __name__ == "__main__":
    question.main()
