"""What does each layer of the network do? Kernels and feature maps of a trained model, and the effect of removing each.

    python -m experiments.inspect_layers --model results/train_model/model.safetensors
    python -m experiments.inspect_layers                    trains a network first: 300 steps on 64 x 64 images
    python -m experiments.inspect_layers --preset quick     the same in 100 steps on 32 x 32 images

- `kernels_*`: the weights of each convolution, a row for each output channel.
- `features_*`: what each layer gives for one held-out image.
- `removal`: held-out accuracy when a layer's convolution is skipped (where its input and output have one width; the
  BatchNorm behind it stays, and fits badly then), when its output is replaced by its mean over the image, and when a
  channel of it is.

Expect the first layer to be filters of fine detail, without which nothing is left, and most
single channels to matter little.
About a minute on 2 CPU cores; half of it to train.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

import segjax
from experiments import command, folder, networks, output, programs, settings, training
from experiments.report import Report, Table, question
from experiments.runs import Run
from segjax import metrics, plotting
from segjax.models import ARCHITECTURES, Conv, Variables

# Kernels and maps that one picture shows at most, a side.
MOST_SHOWN = 16
HELD_OUT_BATCHES = 4


@dataclass(frozen=True)
class Options(settings.Training):
    """Shows what each layer of a trained network does."""

    preset: Literal["full", "quick"] = "full"
    """Defaults of all other options: the full inspection, or a small one."""
    image_size: int = 64
    sigma: float = 12.8
    model: Path | None = None
    """A model.safetensors of experiments.train_model or train_best_model, which brings its own architecture and
    textures; without it a network is trained first."""
    architecture: str = "separate_norm"
    """The network to train, a name of segjax.models.ARCHITECTURES; a --model has its own."""
    iterations: int = 300
    """Steps to train it, with Adam at 0.01 on the cross entropy."""
    schedule: str = "cosine"
    """How the learning rate moves as it trains: constant, exponential, cosine, warmup, warmup_cosine or one_cycle."""
    out: Path = Path("results/inspect_layers")

    def inputs(self) -> list[Path]:
        """Files that the results depend on."""
        return [self.model] if self.model else []


PRESETS = {
    "full": Options(),
    "quick": Options(preset="quick", image_size=32, sigma=6.4, iterations=100),
}


def main(options: Options) -> None:
    with command.usage_errors():
        settings.check(options)
    loaded = networks.load_with_textures(options.model) if options.model else None
    folder.claim(options)
    console = Console()
    model, variables, texture = loaded or train(options, console)
    batch = programs.held_out_batch(texture)
    maps = feature_maps(model, variables, batch.image)
    rows = removals(model, variables, texture, maps, console)
    figures = {f"kernels_{layer}": kernels(layer, variables) for layer in maps}
    figures |= {f"features_{layer}": features(layer, maps[layer][0], batch) for layer in maps}
    figures["removal"] = removal_figure(rows)
    report = Report(question(__doc__), findings(rows), [table(rows)], figures)
    results = {"experiment": "inspect_layers", "texture": texture, "removals": rows}
    output.finish(options, results, rows, report, console)


def train(options: Options, console: Console) -> tuple[nn.Module, Variables, dict[str, Any]]:
    run = Run("training", options.seed, "adam", 1e-2, options.iterations, options.schedule, "bce", options.architecture)
    (result,) = training.train_all([run], options, console)
    return ARCHITECTURES[options.architecture], result.variables, settings.texture(options)


Change = Callable[[jax.Array, jax.Array], jax.Array]


def altered(model: nn.Module, variables: Variables, layer: str, change: Change, image: jax.Array) -> jax.Array:
    """Logits when `change(input, output)` takes the place of a convolution's output."""

    def intercept(call: Any, arguments: Any, options: Any, context: Any) -> Any:
        result = call(*arguments, **options)
        if isinstance(context.module, Conv) and context.module.name == layer:
            return change(arguments[0], result)
        return result

    with nn.intercept_methods(intercept):
        return segjax.predict(model, variables, image)


def feature_maps(model: nn.Module, variables: Variables, image: jax.Array) -> dict[str, np.ndarray]:
    """layer -> the output of its convolution, (batch, height, width, channels), in the order of the network."""
    maps: dict[str, np.ndarray] = {}

    def intercept(call: Any, arguments: Any, options: Any, context: Any) -> Any:
        result = call(*arguments, **options)
        if isinstance(context.module, Conv):
            maps[str(context.module.name)] = np.asarray(result)
        return result

    with nn.intercept_methods(intercept):
        segjax.predict(model, variables, image)
    return maps


def skip(before: jax.Array, after: jax.Array) -> jax.Array:
    return before


def flatten(channel: int | None, before: jax.Array, after: jax.Array) -> jax.Array:
    """The mean over the image in place of a channel, or of all."""
    mean = jnp.broadcast_to(after.mean(axis=(1, 2), keepdims=True), after.shape)
    return mean if channel is None else after.at[..., channel].set(mean[..., channel])


def removals(
    model: nn.Module, variables: Variables, texture: dict[str, Any], maps: dict[str, np.ndarray], console: Console
) -> list[dict[str, Any]]:
    """Held-out accuracy whole, and without each layer and each channel."""
    keys = [jax.random.fold_in(jax.random.key(programs.HELD_OUT_KEY), index) for index in range(HELD_OUT_BATCHES)]
    batches = [segjax.generate_data(key, **texture) for key in keys]
    images, masks = (jnp.concatenate(parts) for parts in zip(*batches, strict=True))

    def accuracy(predict: Callable[[jax.Array], jax.Array]) -> float:
        return float(metrics.accuracy(metrics.count(predict(images), masks)))

    changes: list[tuple[str, str, Change]] = []
    for layer, array in maps.items():
        kernel = variables["params"][layer]["kernel"]
        if kernel.shape[2] == kernel.shape[3]:
            changes.append((layer, "skipped", skip))
        changes.append((layer, "averaged", partial(flatten, None)))
        if array.shape[-1] > 1:
            changes += [(layer, f"channel {index}", partial(flatten, index)) for index in range(array.shape[-1])]
    whole = accuracy(partial(segjax.predict, model, variables))
    rows: list[dict[str, Any]] = [{"layer": "", "removed": "nothing", "accuracy": whole, "loss_of_accuracy": 0.0}]
    with training.progress_bar(console) as progress:
        for layer, name, change in progress.track(changes, description="removing each layer and channel"):
            kept = accuracy(partial(altered, model, variables, layer, change))
            rows.append({"layer": layer, "removed": name, "accuracy": kept, "loss_of_accuracy": whole - kept})
    return rows


def kernels(layer: str, variables: Variables) -> Figure:
    """A convolution's weights: a row an output, a column an input; the outputs of a single input fill rows."""
    kernel = np.asarray(variables["params"][layer]["kernel"])
    inputs, outputs = kernel.shape[2:]
    tiles = [[kernel[:, :, i, o] for i in range(inputs)[:MOST_SHOWN]] for o in range(outputs)[:MOST_SHOWN]]
    if inputs == 1:
        tiles = rows_of([tile for row in tiles for tile in row], 8)
    first = f"first {MOST_SHOWN} of " if max(inputs, outputs) > MOST_SHOWN else ""
    shape = f"outputs {first}{outputs}" + (f" (down), inputs {first}{inputs} (across)" if inputs > 1 else "")
    whole = plotting.Picture("", mosaic(tiles), "signed")
    size = (0.5 if inputs > 1 else 0.8) * max(map(len, tiles))
    return plotting.pictures([[whole]], f"Weights of {layer}: {shape}", size=size)


def mosaic(tiles: list[list[np.ndarray]]) -> np.ndarray:
    """Arrays of one shape in rows, one NaN between them: one picture is drawn 20 times faster than 256."""
    height, width = tiles[0][0].shape
    whole = np.full((len(tiles) * (height + 1) - 1, max(map(len, tiles)) * (width + 1) - 1), np.nan)
    for y, row in enumerate(tiles):
        for x, tile in enumerate(row):
            whole[y * (height + 1) :, x * (width + 1) :][:height, :width] = tile
    return whole


def features(layer: str, maps: np.ndarray, batch: segjax.Batch) -> Figure:
    """The channels of a layer for one image; before them the image and its mask."""
    cells = [plotting.Picture("image", batch.image[0, ..., 0]), plotting.Picture("mask", batch.mask[0, ..., 0], "mask")]
    channels = np.moveaxis(maps, -1, 0)
    cells += [
        plotting.Picture(f"channel {index}", channel, "feature") for index, channel in enumerate(channels[:MOST_SHOWN])
    ]
    first = f", first {MOST_SHOWN} of {len(channels)} channels" if len(channels) > MOST_SHOWN else ""
    what = "the logits" if layer == "out" else "before ReLU"
    return plotting.pictures(rows_of(cells, 6), f"What {layer} gives, {what}{first}; each on its own scale", size=1.6)


def rows_of(cells: list[Any], columns: int) -> list[list[Any]]:
    return [cells[start : start + columns] for start in range(0, len(cells), columns)]


def removal_figure(rows: list[dict[str, Any]]) -> Figure:
    """Accuracy without each layer; its channels share one bar, with the range from least to most important."""
    bars = {"nothing removed": np.array([rows[0]["accuracy"]])}
    for layer in dict.fromkeys(row["layer"] for row in rows[1:]):
        own = [row for row in rows if row["layer"] == layer]
        channels = [row["accuracy"] for row in own if row["removed"].startswith("channel")]
        bars |= {
            f"{layer} {row['removed']}": np.array([row["accuracy"]]) for row in own if "channel" not in row["removed"]
        }
        if channels:
            bars[f"{layer}, one channel averaged"] = np.array(channels)
    return plotting.bars(bars, "held-out accuracy (median and range over channels)", "What is left without", log=False)


def table(rows: list[dict[str, Any]]) -> Table:
    """Whole layers, and the channel of each that matters most."""
    lines = []
    for layer in dict.fromkeys(row["layer"] for row in rows):
        own = [row for row in rows if row["layer"] == layer]
        channels = [row for row in own if row["removed"].startswith("channel")]
        lines += [row for row in own if row not in channels]
        lines += sorted(channels, key=lambda row: row["accuracy"])[:1]
    cells = [
        [row["layer"], row["removed"], f"{row['accuracy']:.4f}", f"{row['loss_of_accuracy']:+.4f}"] for row in lines
    ]
    note = "Averaged: its mean over the image in its place. The channel shown is the one that matters most."
    return Table("Held-out accuracy without a part", ("layer", "removed", "accuracy", "lost"), cells, note)


def findings(rows: list[dict[str, Any]]) -> list[str]:
    layers = [row for row in rows if row["removed"] == "averaged"]
    channels = [row for row in rows if row["removed"].startswith("channel")]
    most, least = (choose(layers, key=lambda row: row["loss_of_accuracy"]) for choose in (max, min))
    idle = sum(row["loss_of_accuracy"] < 0.001 for row in channels)
    return [
        f"Accuracy falls from {rows[0]['accuracy']:.3f} to {most['accuracy']:.3f} without {most['layer']}, "
        f"and to {least['accuracy']:.3f} without {least['layer']}, the layers that matter most and least.",
        f"{idle} of {len(channels)} channels can each be averaged away at a cost below 0.001.",
    ]


if __name__ == "__main__":
    command.run(main, Options, PRESETS)
