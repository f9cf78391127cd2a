"""The notebook in PyTorch, timed against segjax: as it was written, and as fast as PyTorch allows.

Importing this module needs PyTorch. Everything runs on a GPU if PyTorch has one.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from torch import Tensor, nn

from experiments.bench.contenders import FEW_STEPS, Parts
from experiments.bench.timing import Call, Program
from segjax import gaussian_kernel, textures
from segjax.textures import EDGE_SIGMA

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIGMAS = (0.2, 1.2)
# Convolutions use TF32 where ours do: by default, but not where jax is told to be exact. Matrix products, which only
# the generation has, use full float32, as ours do and as PyTorch does by default: TF32 would move the edge of the mask.
_PRECISION = "jax_default_matmul_precision"
torch.backends.cudnn.allow_tf32 = getattr(jax.config, _PRECISION) not in ("highest", "float32")
# PyTorch warns that padding="same" may copy its input for an even kernel, and that products could use TF32.
warnings.filterwarnings("ignore", message="Using padding='same'|TensorFloat32 tensor cores", category=UserWarning)


class Network(nn.Module):
    """The notebook's network: three times convolution, ReLU and a shared BatchNorm, then a probability per pixel."""

    def __init__(self, num_channels: int = 16, kernel_size: int = 5) -> None:
        super().__init__()
        conv, norm = partial(nn.Conv2d, kernel_size=kernel_size, padding=kernel_size // 2), nn.BatchNorm2d(num_channels)
        hidden = [
            layer
            for inputs in (1, num_channels, num_channels)
            for layer in (conv(inputs, num_channels), nn.ReLU(), norm)
        ]
        self.layers = nn.Sequential(*hidden, conv(num_channels, 1), nn.Sigmoid())

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


def one_run(batch_size: int, image_size: int, steps: int, tuned: bool) -> Parts:
    """PyTorch's programs for the parts of `contenders.one_run`; `tuned` adds what `torch.compile` compiles."""
    dense, separable = partial(dense_batch, batch_size, image_size), partial(separable_batch, batch_size, image_size)

    def generation(draws: Callable[[], Callable[[], Any]]) -> Program:
        return Program(lambda: _repeat(draws(), 1))

    def step(**options: bool) -> Program:
        return Program(lambda: iterations(Training(**options), partial(tuple, separable()()), steps), steps)

    def iteration(draws: Callable[[], Callable[[], Any]], steps: int, **options: bool) -> Program:
        return Program(lambda: iterations(Training(**options), draws(), steps), steps)

    parts = {
        "generation": {
            "PyTorch, the notebook": generation(dense),
            "PyTorch, padded by hand": generation(partial(dense, by_hand=True)),
            "PyTorch, separable": generation(separable),
        },
        "step": {"PyTorch, eager": step(), "PyTorch, eager, channels_last": step(channels_last=True)},
        "iteration": {"PyTorch, the notebook": iteration(dense, FEW_STEPS)},
    }
    if tuned:
        parts["step"]["PyTorch, tuned"] = step(channels_last=True, tuned=True)
        parts["iteration"]["PyTorch, tuned"] = iteration(separable, steps, channels_last=True, tuned=True)
    return parts


def dense_batch(batch_size: int, image_size: int, by_hand: bool = False) -> Callable[[], tuple[Tensor, Tensor]]:
    """The notebook's generation: four n x n convolutions with `padding="same"`, or padded by hand, which is faster."""
    wide, first, second, edge = (
        torch.from_numpy(np.array(gaussian_kernel(image_size, sigma)))[None, None].to(DEVICE)
        for sigma in (image_size / 5, *SIGMAS, EDGE_SIGMA)
    )
    before, after = (image_size - 1) // 2, image_size // 2

    def blur(fields: Tensor, kernel: Tensor) -> Tensor:
        if by_hand:
            return nn.functional.conv2d(nn.functional.pad(fields, (before, after, before, after)), kernel)
        return nn.functional.conv2d(fields, kernel, padding="same")

    def draw() -> tuple[Tensor, Tensor]:
        noise = torch.randn(3, batch_size, 1, image_size, image_size, device=DEVICE)
        mask = blur(noise[0], wide) > 0
        image = blur(torch.where(mask, blur(noise[1], first), blur(noise[2], second)), edge)
        return _rescaled(image), mask.float()

    return draw


def separable_batch(batch_size: int, image_size: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """Our generation in PyTorch: each blur as two products with a banded matrix."""
    wide, first, second, edge = (_band(image_size, sigma) for sigma in (image_size / 5, *SIGMAS, EDGE_SIGMA))

    def draw() -> tuple[Tensor, Tensor]:
        noise = torch.randn(3, batch_size, 1, image_size, image_size, device=DEVICE)
        mask = wide @ noise[0] @ wide.T > 0
        texture = torch.where(mask, first @ noise[1] @ first.T, second @ noise[2] @ second.T)
        return _rescaled(edge @ texture @ edge.T), mask.float()

    return draw


class Training:
    """A network under Adam: `step(image, mask)` is one update.

    Args:
        channels_last: the layout that PyTorch's convolutions prefer.
        tuned: with `torch.compile` around forward and loss, and the fused optimizer; on a GPU with CUDA graphs, which
            PyTorch warms up in the first step and records in the second, and with the fastest of cuDNN's algorithms.
            Otherwise the lines of the notebook, which read the loss after every step.
    """

    def __init__(self, channels_last: bool = False, tuned: bool = False) -> None:
        self.network = Network().to(DEVICE)
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.format)
        # None leaves the choice to PyTorch, as the notebook does; with False a GPU runs one kernel per parameter.
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3, fused=tuned or None)
        self.tuned = tuned
        mode = "reduce-overhead" if DEVICE.type == "cuda" else "default"
        self.loss = torch.compile(self._loss, mode=mode) if tuned else self._loss
        self.running_loss = 0.0

    def _loss(self, image: Tensor, mask: Tensor) -> Tensor:
        return nn.functional.mse_loss(self.network(image), mask)

    def step(self, image: Tensor, mask: Tensor) -> None:
        # Released first: the next replay of a CUDA graph overwrites the memory of the gradients.
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(image.to(memory_format=self.format), mask)
        loss.backward()
        self.optimizer.step()
        if not self.tuned:
            self.running_loss += loss.item()


def iterations(training: Training, draw: Callable[[], tuple[Tensor, Tensor]], num_steps: int) -> Call:
    """A call of training steps, each on the next batch that `draw` returns."""
    return _repeat(lambda: training.step(*draw()), num_steps, training.tuned)


def _repeat(function: Callable[[], Any], times: int, tuned: bool = False) -> Call:
    """A call that runs a function several times and waits for the device."""

    def run() -> None:
        # PyTorch has one switch for the whole process, and programs take turns. Left on, it would make the others try
        # cuDNN's algorithms too, partly while they are timed.
        torch.backends.cudnn.benchmark = tuned
        for _ in range(times):
            function()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return Call(run)


def platform() -> str:
    """The device of PyTorch, named as jax names it."""
    return "gpu" if DEVICE.type == "cuda" else "cpu"


def _band(size: int, sigma: float) -> Tensor:
    return torch.from_numpy(np.array(textures._band(size, sigma, np.dtype(np.float32)))).to(DEVICE)


def _rescaled(images: Tensor) -> Tensor:
    images = images - images.amin(dim=(-2, -1), keepdim=True)
    return images / images.amax(dim=(-2, -1), keepdim=True)
