"""What does each layer of the network do? Kernels and feature maps of a trained model, and the effect of removing each.

    python -m experiments.inspect_layers --model results/train_model/model.safetensors
    python -m experiments.inspect_layers            trains a network first: 300 steps on 64 x 64 images
    python -m experiments.inspect_layers quick      the same in 100 steps on 32 x 32 images

- `kernels_*`: the weights of each convolution, one row per output channel.
- `features_*`: the output of each layer for one held-out image. Channels are numbered from 0, here as in `kernels_*`.
- `removal`: held-out accuracy without a part of the network: the output of a layer, or one channel of it, is replaced
  by its mean over the image. A network without any information gives one answer everywhere: at best it is right on the
  pixels of the more common texture.

Without --model, a network is trained first, with Adam at 0.01 on the cross entropy. Expect the first layer to filter
fine detail, without which the accuracy is at chance, and most single channels to matter little. About a minute on 2 CPU
cores, half of it for the training.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

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
from segjax.plotting import Figure

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
    #: A model.safetensors of experiments.train_model or train_best_model, which has its own architecture and textures;
    #: without it a network is trained first.
    model: Path | None = None
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


class Removal(NamedTuple):
    """Held-out accuracy after a part was averaged: a layer, or one channel of it.

    The layer is "" for the whole network: `removed` is then "nothing" or "everything", otherwise "averaged".
    """

    layer: str
    channel: int | None
    removed: str
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
    for layer, array in maps.items():
        figures[f"features_{layer}"] = Drawing(f"Feature maps of {layer}", features(layer, array, batch))
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


def remove_each(
    model: nn.Module, variables: Variables, texture: Texture, maps: dict[str, jax.Array], lab: Lab
) -> list[Removal]:
    """Held-out accuracy of the whole network, and without each layer and each channel."""
    batches = [held_out_batch(texture, index) for index in range(HELD_OUT_BATCHES)]
    images, masks = (jnp.concatenate(parts) for parts in zip(*batches, strict=True))

    def accuracy(logits: jax.Array) -> float:
        return float(metrics.accuracy(metrics.count(logits, masks)))

    # All on the same images: noise between batches would hide small differences.
    whole, mask_share = accuracy(segjax.predict(model, variables, images)), float(masks.mean())
    constant = max(mask_share, 1 - mask_share)
    removals = [
        Removal("", None, "nothing", whole, 0.0),
        Removal("", None, "everything", constant, whole - constant),
    ]
    parts: list[tuple[str, int | None]] = []
    for layer, array in maps.items():
        num_channels = array.shape[-1]
        parts += [(layer, None), *((layer, channel) for channel in range(num_channels) if num_channels > 1)]
    with lab.progress() as progress:
        for layer, channel in progress.track(parts, description="removing each layer and channel"):
            change = layers.average if channel is None else layers.average_channel(channel)
            without = accuracy(layers.predict_changed(model, variables, images, layer, change))
            removals.append(Removal(layer, channel, "averaged", without, whole - without))
    return removals


@plotting.resizable
def kernels(layer: str, variables: Variables, *, width: float | None = None) -> Figure:
    """A convolution's weights: one row per output, one column per input; a single row or column is wrapped."""
    kernel = np.asarray(variables["params"][layer]["kernel"])
    down, across, inputs, outputs = kernel.shape
    tiles = kernel.transpose(3, 2, 0, 1)[:MAX_TILES, :MAX_TILES]
    first = f", first {MAX_TILES} of them," if max(inputs, outputs) > MAX_TILES else ""
    if 1 in (inputs, outputs):
        title = f"the kernel of each channel{first} answers to what looks like it"
        if inputs > 1:
            title = f"the output is the sum of the inputs{first} through their kernels"
        flat = enumerate(tiles.reshape(-1, down, across))
        pictures = [plotting.Picture(f"channel {number}", tile, "signed") for number, tile in flat]
        title = f"Weights of {layer}: {title}; white is 0"
        return plotting.pictures(plotting.in_rows(pictures, 8), title, size=1.0, width=width)
    title = f"Weights of {layer}: each output channel{first} is the sum of all inputs through the kernels of its row; "
    rows, columns = tiles.shape[:2]
    picture = plotting.Picture("", mosaic(tiles), "signed")
    figure = plotting.pictures([[picture]], title + "white is 0", size=0.5 * columns, width=width)
    axes = figure.axes[0]
    axes.set_xticks(np.arange(columns) * (across + 1) + (across - 1) / 2, list(map(str, range(columns))))
    axes.set_yticks(np.arange(rows) * (down + 1) + (down - 1) / 2, list(map(str, range(rows))))
    axes.set(xlabel="channel of the input", ylabel="channel of the output")
    return figure


def mosaic(tiles: np.ndarray) -> np.ndarray:
    """Tiles (rows, columns, h, w) as one picture, NaN between them: it is drawn 20 times faster than 256 pictures."""
    rows, columns, height, width = tiles.shape
    framed = np.pad(tiles.astype(float), ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    return framed.swapaxes(1, 2).reshape(rows * (height + 1), columns * (width + 1))[:-1, :-1]


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
    return plotting.pictures(plotting.in_rows(cells, 6), title, size=1.6)


def removal_figure(removals: Sequence[Removal]) -> Figure:
    """Accuracy without each layer; the channels of a layer share one bar, with their range."""
    bars: dict[str, list[float]] = {}
    for removal in removals:
        if removal.channel is not None:
            name = f"{removal.layer}, one channel averaged"
        else:
            name = f"{removal.layer} averaged" if removal.layer else f"{removal.removed} removed"
        bars.setdefault(name, []).append(removal.accuracy)
    return plotting.bars(
        {name: np.array(values) for name, values in bars.items()},
        "held-out accuracy, as a share of the pixels (of single channels: median and range)",
        "Accuracy with the output of a part averaged over the image; the lower, the more the part is needed",
        log=False,
    )


def table(removals: Sequence[Removal]) -> Table:
    """Whole layers, and the channel of each that matters most."""
    chosen: list[Removal] = []
    # The channels of a layer follow it.
    for is_channel, group in itertools.groupby(removals, lambda removal: removal.channel is not None):
        parts = list(group)
        chosen += [min(parts, key=lambda part: part.accuracy)] if is_channel else parts
    cells = [[row.layer or "all", row.label, f"{row.accuracy:.4f}", f"{row.loss_of_accuracy:.4f}"] for row in chosen]
    note = (
        "Averaged: its mean over the image in its place. Everything removed: one answer for all pixels. For each layer "
        "the table has the channel that costs most; channels count from 0."
    )
    return Table("Held-out accuracy without a part", ("layer", "removed", "accuracy", "lost"), cells, note)


def findings(removals: Sequence[Removal]) -> list[str]:
    whole, constant, *parts = removals
    ranked = sorted((part for part in parts if part.layer != "out"), key=lambda part: part.accuracy)
    accuracies = {part.layer: f"{part.accuracy:.3f}" for part in ranked if part.channel is None}
    # Without any of several layers the network may give one answer everywhere: these layers are tied.
    lowest = min(accuracies.values())
    worst = [layer for layer, accuracy in accuracies.items() if accuracy == lowest]
    others = ", ".join(f"{accuracy} for {layer}" for layer, accuracy in accuracies.items() if layer not in worst)
    sentences = [
        f"The network is right on {whole.accuracy:.3f} of the held-out pixels; one answer for all of them would be "
        f"right on {constant.accuracy:.3f}.",
        f"With the output of a layer averaged over the image, accuracy is lowest, {lowest}, for {' or '.join(worst)}"
        f"{f'; others: {others}' if others else ''}.",
    ]
    if channels := [part for part in ranked if part.channel is not None]:
        idle = sum(removal.loss_of_accuracy < IDLE for removal in channels)
        sentences.append(
            f"With a single channel averaged, accuracy is lowest, {channels[0].accuracy:.3f}, for "
            f"{channels[0].label} of {channels[0].layer}; {idle} of {len(channels)} cost less than {IDLE:g} each."
        )
    return sentences


if __name__ == "__main__":
    question.main()
