"""What the device could do at best: its measured rates, and the least that a training step asks of them."""

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from rich.console import Console

from experiments import timing
from experiments.timing import Program
from segjax import SegmentationCNN

_MATRIX, _COPIED = 2048, 2**26


class Limits(NamedTuple):
    """Rates of the device: FLOP a second of a float32 matrix product, bytes a second of a copy, read and written."""

    flops: float
    bytes: float


class Work(NamedTuple):
    """What a training step has to do."""

    flops: float
    bytes: float

    def floor(self, limits: Limits) -> float:
        """Seconds that it takes at least: it computes and moves memory at once."""
        return max(self.flops / limits.flops, self.bytes / limits.bytes)


def measured(console: Console, repeats: int) -> Limits:
    """The rates of the device that jax uses, by a 2048 x 2048 product and a copy of 256 MB."""
    matrix = jnp.ones((_MATRIX, _MATRIX)) * 0.5
    numbers = jnp.arange(_COPIED, dtype=jnp.float32)
    programs = {
        "product": Program(partial(timing.compiled, jnp.matmul, matrix, matrix)),
        "copy": Program(partial(timing.compiled, lambda numbers: numbers + 1, numbers)),
    }
    times = {name: timed.median for name, timed in timing.measure(programs, repeats, 20.0, console).items()}
    return Limits(2.0 * _MATRIX**3 / times["product"], 2.0 * 4 * _COPIED / times["copy"])


def step(model: SegmentationCNN, batch_size: int, image_size: int) -> Work:
    """A training step of a `SegmentationCNN` in float32, by its shapes.

    Operations: of each convolution a product and a sum for every tap, forward and for both gradients; the images need
    none. Bytes: every hidden layer's output, and the gradient by it, is written once and read twice, by the next pass
    and for the weights' gradient; all else is small beside them.
    """
    pixels, taps, width = batch_size * image_size**2, model.kernel_size**2, model.num_channels
    pairs = 2 * width + (model.depth - 1) * width**2
    flops = 2.0 * pixels * taps * (3 * pairs - width)
    return Work(flops, 6.0 * model.depth * pixels * width * 4)


def as_dict(limits: Limits, work: Work, seconds: float) -> dict[str, Any]:
    """The numbers of a report: rates, work, the floor and the share of it that is reached."""
    floor = work.floor(limits)
    return {**limits._asdict(), "step": work._asdict(), "floor_seconds": floor, "fraction": floor / seconds}
