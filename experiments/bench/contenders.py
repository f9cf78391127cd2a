"""The programs of ours that the benchmark times, and naive ones in JAX: part -> name -> program.

The first program of a part is the one that the others are compared with.
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import segjax
from experiments.bench import timing
from experiments.bench.timing import Call, Program
from experiments.lab.options import Data
from segjax.convolution import conv2d, cpu_backend
from segjax.optimizers import adam
from segjax.training import train_step

Parts = dict[str, dict[str, Program]]

RATE = 1e-3
# Channels in and out of the convolutions in the notebook's network.
LAYERS = ((1, 16), (16, 16), (16, 1))
# Steps of programs that are 20 to 100 times slower than the others.
FEW_STEPS = 1


def one_run(batch_size: int, image_size: int, steps: int) -> Parts:
    """The generation of a batch, training steps on one batch, and iterations: each draws a batch and trains on it."""
    texture = _texture(batch_size, image_size)
    draw = partial(segjax.generate_data, **texture)
    iteration = {
        **_with_xla_too(Program(partial(run, steps, **texture), steps)),
        "ours, step by step": Program(partial(_steps, steps, fresh=True, **texture), steps),
        "naive JAX: plain convolutions in the loop": Program(partial(run, FEW_STEPS, NaiveCNN(), **texture), FEW_STEPS),
    }
    return {
        "generation": {"ours": Program(partial(timing.compiled, draw, jax.random.key(0)))},
        "step": _with_xla_too(Program(partial(_steps, steps, fresh=False, **texture), steps)),
        "iteration": iteration,
    }


def many_runs(batch_size: int, image_size: int, steps: int, runs: Sequence[int]) -> Parts:
    """Iterations of many runs in one program: sweeps of one run after the other, and a few runs side by side."""
    texture, few = _texture(batch_size, image_size), min(4, max(runs))
    programs = {
        f"sweep of {number}": Program(partial(sweep, number, steps, **texture), number * steps) for number in runs
    }
    programs[f"sweep of {few}, width {few}"] = Program(partial(sweep, few, steps, few, **texture), few * steps)
    programs[f"jax.vmap of {few}"] = Program(partial(vmapped, few, steps, **texture), few * steps)
    naive = Program(partial(vmapped, few, FEW_STEPS, NaiveCNN(), **texture), few * FEW_STEPS)
    return {"runs": {**programs, f"naive JAX: jax.vmap of {few}, plain convolutions": naive}}


def layers(batch_size: int, image_size: int) -> Parts:
    """Each convolution of the notebook's network: its outputs, and the gradients with respect to inputs and kernel."""
    rng, parts = np.random.default_rng(0), {}
    for channels_in, channels_out in LAYERS:
        images = (batch_size, image_size, image_size)
        arrays = [
            jnp.asarray(rng.normal(size=shape), jnp.float32)
            for shape in ((*images, channels_in), (5, 5, channels_in, channels_out), (*images, channels_out))
        ]
        flops = 2.0 * batch_size * image_size**2 * 25 * channels_in * channels_out
        for index, name in enumerate(("outputs", "input gradient", "kernel gradient")):
            program = Program(partial(_convolution, index, *arrays), flops=flops)
            parts[f"{channels_in} to {channels_out}, {name}"] = _with_xla_too(program)
    return parts


def _convolution(index: int, inputs: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> Call:
    # A new function for each program: jax would reuse the trace, and with it the convolution.
    def part(inputs: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
        outputs, pullback = jax.vjp(conv2d, inputs, kernel)
        parts: tuple[jax.Array, ...] = (outputs, *pullback(cotangent))
        return parts[index]

    return timing.compiled(part, inputs, kernel, cotangent)


def growth(batch_size: int, image_size: int, steps: int) -> Parts:
    """Iterations at several values of one quantity, with all else fixed."""
    base = {"image_size": image_size, "batch_size": batch_size, "num_channels": 16, "num_steps": steps}
    values = {
        "image_size": [max(2, image_size // 4), max(2, image_size // 2), image_size],
        "batch_size": sorted({max(1, batch_size // 4), max(1, batch_size // 2), batch_size, 2 * batch_size}),
        "num_channels": [8, 16, 32],
        "num_steps": [steps, 4 * steps],
    }

    def programs(image_size: int, batch_size: int, num_channels: int, num_steps: int) -> dict[str, Program]:
        model, texture = segjax.SegmentationCNN(num_channels=num_channels), _texture(batch_size, image_size)
        return _with_xla_too(Program(partial(run, num_steps, model, **texture), num_steps))

    return {
        f"{quantity} {value}": programs(**{**base, quantity: value})
        for quantity, quantity_values in values.items()
        for value in quantity_values
    }


def has_two_convolutions() -> bool:
    """Whether our convolution is that of `segjax-native` and not XLA's."""
    return jax.default_backend() == "cpu" and cpu_backend() == "native"


def _with_xla_too(program: Program) -> dict[str, Program]:
    """The program, and the same with XLA's convolution if ours is another."""

    def make() -> Call:
        # Read when the program is traced.
        with mock.patch.dict(os.environ, SEGJAX_NATIVE="0"):
            return program.make()

    by_xla = {"ours, XLA's convolution": program._replace(make=make)} if has_two_convolutions() else {}
    return {"ours": program, **by_xla}


def _texture(batch_size: int, image_size: int) -> dict[str, Any]:
    return Data(batch_size=batch_size, image_size=image_size).texture._asdict()


class NaiveCNN(nn.Module):
    """The notebook's network in plain Flax, with the gradients of JAX, some of which XLA runs slowly.

    Its variables are those of `segjax.SegmentationCNN`; its initial distribution is that of Flax.
    """

    num_channels: int = 16
    kernel_size: int = 5

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        norm, kernel = nn.BatchNorm(not train, momentum=0.9, name="norm"), (self.kernel_size, self.kernel_size)
        x = image
        for layer in (1, 2, 3):
            x = norm(nn.relu(nn.Conv(self.num_channels, kernel, name=f"conv{layer}")(x)))
        return nn.Conv(1, kernel, name="out")(x)


def run(num_steps: int, model: nn.Module | None = None, **texture: Any) -> Call:
    """One run of the notebook's network, or of another model."""
    train = segjax.make_train(model or segjax.SegmentationCNN(), num_steps=num_steps, **texture)
    return timing.compiled(train, jax.random.key(0), jnp.float32(RATE))


def sweep(num_runs: int, num_steps: int, width: int = 1, **texture: Any) -> Call:
    train = segjax.make_train(segjax.SegmentationCNN(), num_steps=num_steps, **texture)
    keys = jax.random.split(jax.random.key(0), num_runs)
    return timing.compiled(partial(segjax.sweep, train, width=width), keys, jnp.full(1, RATE))


def vmapped(num_runs: int, num_steps: int, model: nn.Module | None = None, **texture: Any) -> Call:
    train = segjax.make_train(model or segjax.SegmentationCNN(), num_steps=num_steps, **texture)
    keys = jax.random.split(jax.random.key(0), num_runs)
    return timing.compiled(jax.vmap(train, in_axes=(0, None)), keys, jnp.float32(RATE))


def _steps(steps: int, fresh: bool, **texture: Any) -> Call:
    """A jitted step in a Python loop, on one batch or on fresh ones."""
    model, rate = segjax.SegmentationCNN(), jnp.float32(RATE)
    key = jax.random.key(0)
    draw = jax.jit(partial(segjax.generate_data, **texture))
    batch = draw(key)
    # As in PyTorch, the state exists before the clock starts, and each call continues from the previous one.
    create = partial(segjax.training.create_state, model=model, optimizer=adam)
    state = jax.jit(create)(key, image=batch.image, learning_rate=rate)
    # The memory of the state is reused, as in a loop: fresh memory costs a fifth of a step.
    jitted = jax.jit(partial(train_step, model, adam, segjax.losses.mean_squared_error), donate_argnums=0)
    update = jitted.lower(state, batch, rate).compile()

    def call() -> Any:
        nonlocal state
        for index in range(steps):
            state, _ = update(state, draw(jax.random.fold_in(key, index)) if fresh else batch, rate)
        return jax.block_until_ready(state)

    return Call(call)


def torch_is_installed() -> bool:
    return find_spec("torch") is not None


def can_compile() -> bool:
    """Whether `torch.compile` has what it needs: the C++ compiler that it would call, and Python's headers.

    On a GPU, Triton needs the headers and a C compiler, which comes with a C++ compiler. This does not ask jax for the
    device: `benchmark.answer` calls it before jax may look for one.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    return bool(shutil.which(compiler)) and Path(sysconfig.get_path("include"), "Python.h").exists()
