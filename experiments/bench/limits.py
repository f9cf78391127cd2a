"""The best that the device could do: its measured rates, and the least that a training step asks of them."""

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from rich.console import Console

from experiments.bench import timing
from experiments.bench.timing import Program
from segjax import SegmentationCNN

_MATRIX, _COPIED = 2048, 2**26


class Limits(NamedTuple):
    """Rates of the device: FLOP a second of a float32 matrix product, bytes a second of a copy, read and written."""

    flops: float
    bytes: float


class Work(NamedTuple):
    """The operations and the bytes of a training step."""

    flops: float
    bytes: float

    def floor(self, limits: Limits) -> float:
        """Seconds that it takes at least, where the device computes and moves memory at the same time."""
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
    """A training step of a `SegmentationCNN` in float32, from its shapes.

    Operations: for each tap of each convolution one product and one sum, forward and in both gradients; no gradient by
    the images. Bytes: each hidden layer's output and its gradient are written once and read twice, by the next pass
    and by the kernel's gradient; everything else is small beside them.
    """
    pixels, taps, width = batch_size * image_size**2, model.kernel_size**2, model.num_channels
    pairs = 2 * width + (model.depth - 1) * width**2
    flops = 2.0 * pixels * taps * (3 * pairs - width)
    return Work(flops, 6.0 * model.depth * pixels * width * 4)


def as_dict(limits: Limits, work: Work, seconds: float) -> dict[str, Any]:
    """The numbers of a report: rates, work, the least time, and its share of the time that a step takes."""
    floor = work.floor(limits)
    return {**limits._asdict(), "step": work._asdict(), "floor_seconds": floor, "fraction": floor / seconds}
