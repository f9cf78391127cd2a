"""The programs that the benchmark times: ours, naive ones in JAX, and those of PyTorch if it is installed."""

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import segjax
from experiments.bench import timing
from experiments.bench.timing import Call, Program
from experiments.lab.options import Data
from segjax.convolution import conv2d, cpu_backend
from segjax.optimizers import adam
from segjax.training import train_step

RATE = 1e-3
# Channels in and out of the convolutions in the notebook's network, and the parts that are timed of each: its outputs,
# and the gradients with respect to its inputs and its kernel.
LAYERS, PARTS = ((1, 16), (16, 16), (16, 1)), ("outputs", "input gradient", "kernel gradient")
# Steps of programs that are 20 to 100 times slower than the others.
FEW_STEPS = 1


def generation(batch_size: int, image_size: int, torch: bool) -> dict[str, Program]:
    """Programs that draw a batch."""
    draw = partial(segjax.generate_data, **_texture(batch_size, image_size))
    programs = {"ours": Program(partial(timing.compiled, draw, jax.random.key(0)))}
    if not torch:
        return programs | {"naive JAX: dense convolutions": Program(partial(_dense, batch_size, image_size))}
    from experiments.bench import peers

    return programs | {
        "PyTorch, the notebook": Program(lambda: peers.batches(peers.dense_batch(batch_size, image_size))),
        "PyTorch, padded by hand": Program(lambda: peers.batches(peers.dense_batch(batch_size, image_size, True))),
        "PyTorch, separable": Program(lambda: peers.batches(peers.separable_batch(batch_size, image_size))),
    }


def step(batch_size: int, image_size: int, steps: int, torch: bool) -> dict[str, Program]:
    """Programs that train repeatedly on one batch."""
    programs = _with_xla_too({"ours": Program(partial(_steps, batch_size, image_size, steps, fresh=False), steps)})
    if not torch:
        return programs
    from experiments.bench import peers

    def peer(**options: Any) -> Program:
        draw = partial(peers.separable_batch, batch_size, image_size)
        return Program(lambda: peers.steps(peers.Training(**options), draw(), steps), steps)

    programs |= {"PyTorch, eager": peer(), "PyTorch, eager, channels_last": peer(channels_last=True)}
    return programs | ({"PyTorch, tuned": peer(channels_last=True, tuned=True)} if can_compile() else {})


def iteration(batch_size: int, image_size: int, steps: int, torch: bool) -> dict[str, Program]:
    """Programs that draw a batch for each step and train on it."""
    texture = _texture(batch_size, image_size)
    programs = {
        **_with_xla_too({"ours": Program(partial(run, steps, **texture), steps)}),
        "ours, step by step": Program(partial(_steps, batch_size, image_size, steps, fresh=True), steps),
        "naive JAX: plain convolutions in the loop": Program(partial(run, FEW_STEPS, NaiveCNN(), **texture), FEW_STEPS),
    }
    if not torch:
        return programs
    from experiments.bench import peers

    def peer(draw: Callable[..., Any], steps: int, **options: Any) -> Program:
        return Program(lambda: peers.iterations(peers.Training(**options), draw(batch_size, image_size), steps), steps)

    programs["PyTorch, the notebook"] = peer(peers.dense_batch, FEW_STEPS)
    if can_compile():
        programs["PyTorch, tuned"] = peer(peers.separable_batch, steps, channels_last=True, tuned=True)
    return programs


def sweeps(batch_size: int, image_size: int, steps: int, runs: Sequence[int]) -> dict[str, Program]:
    """Programs of many runs; those of ours that train one run after the other are named by their number of runs."""
    texture, few = _texture(batch_size, image_size), few_runs(runs)
    # On a CPU, runs side by side cost more than one after the other: a few of them show it. A GPU needs all at once.
    widths = [few, *(number for number in runs if number > few and jax.default_backend() == "gpu")]
    naive = Program(partial(vmapped, few, FEW_STEPS, NaiveCNN(), **texture), few * FEW_STEPS)
    return {
        **{str(number): Program(partial(sweep, number, steps, **texture), number * steps) for number in runs},
        **{
            wide_name(width): Program(partial(sweep, width, steps, width, **texture), width * steps) for width in widths
        },
        vmap_name(few): Program(partial(vmapped, few, steps, **texture), few * steps),
        f"naive JAX: jax.vmap of plain convolutions, {few}": naive,
    }


def few_runs(runs: Sequence[int]) -> int:
    """The number of runs in slow programs."""
    return min(4, max(runs))


def wide_name(width: int) -> str:
    """The name of our sweep that trains `width` runs at once."""
    return f"side by side, {width}"


def vmap_name(num_runs: int) -> str:
    return f"jax.vmap, {num_runs}"


def layers(batch_size: int, image_size: int) -> dict[str, Program]:
    """Programs of single convolutions of the notebook's network: the outputs, or a gradient."""
    rng, programs = np.random.default_rng(0), {}
    for channels_in, channels_out in LAYERS:
        images = (batch_size, image_size, image_size)
        inputs, kernel, cotangent = (
            jnp.asarray(rng.normal(size=shape), jnp.float32)
            for shape in ((*images, channels_in), (5, 5, channels_in, channels_out), (*images, channels_out))
        )
        for index, part in enumerate(PARTS):
            name = layer(channels_in, channels_out, part)
            programs[name] = Program(partial(_part, index, inputs, kernel, cotangent))
    return _with_xla_too(programs)


def layer(channels_in: int, channels_out: int, part: str) -> str:
    return f"{channels_in} to {channels_out}, {part}"


def _part(index: int, inputs: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> Call:
    # A new function for each program: jax would reuse the trace, and with it the convolution.
    def part(inputs: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
        outputs, pullback = jax.vjp(conv2d, inputs, kernel)
        parts: tuple[jax.Array, ...] = (outputs, *pullback(cotangent))
        return parts[index]

    return timing.compiled(part, inputs, kernel, cotangent)


def growth(batch_size: int, image_size: int, steps: int) -> dict[str, dict[str, Program]]:
    """Quantity -> value -> the program of an iteration, with all else fixed."""
    base = {"image_size": image_size, "batch_size": batch_size, "num_channels": 16, "num_steps": steps}
    values = {
        "image_size": [max(2, image_size // 4), max(2, image_size // 2), image_size],
        "batch_size": sorted({max(1, batch_size // 4), max(1, batch_size // 2), batch_size, 2 * batch_size}),
        "num_channels": [8, 16, 32],
        "num_steps": [steps, 4 * steps],
    }

    def program(image_size: int, batch_size: int, num_channels: int, num_steps: int) -> Program:
        model, texture = segjax.SegmentationCNN(num_channels=num_channels), _texture(batch_size, image_size)
        return Program(partial(run, num_steps, model, **texture), num_steps)

    return {
        quantity: _with_xla_too({str(size): program(**{**base, quantity: size}) for size in sizes})
        for quantity, sizes in values.items()
    }


def has_two_convolutions() -> bool:
    """Whether our convolution is that of `segjax-native` and not XLA's."""
    return jax.default_backend() == "cpu" and cpu_backend() == "native"


def with_xla(name: str) -> str:
    """The name of a program of ours that runs with XLA's convolution."""
    return f"{name}, XLA's convolution"


def _with_xla_too(programs: dict[str, Program]) -> dict[str, Program]:
    """The programs, and each of them with XLA's convolution if ours is another."""
    if not has_two_convolutions():
        return programs
    return programs | {with_xla(name): _using_xla(program) for name, program in programs.items()}


def _using_xla(program: Program) -> Program:
    def make() -> Call:
        before = os.environ.get("SEGJAX_NATIVE")
        os.environ["SEGJAX_NATIVE"] = "0"
        try:
            return program.make()
        finally:
            os.environ.pop("SEGJAX_NATIVE")
            if before is not None:
                os.environ["SEGJAX_NATIVE"] = before

    return program._replace(make=make)


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


def _steps(batch_size: int, image_size: int, steps: int, fresh: bool) -> Call:
    """A jitted step in a Python loop, on one batch or on fresh ones."""
    model, rate = segjax.SegmentationCNN(), jnp.float32(RATE)
    key = jax.random.key(0)
    draw = jax.jit(partial(segjax.generate_data, **_texture(batch_size, image_size)))
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


def _dense(batch_size: int, image_size: int) -> Call:
    """The notebook's four n x n convolutions in JAX, where PyTorch is not installed."""
    kernels = [segjax.gaussian_kernel(image_size, sigma) for sigma in (0.2, 1.2, image_size / 5, 1.0)]
    fields = jnp.asarray(np.random.default_rng(0).normal(size=(batch_size, image_size, image_size)), jnp.float32)
    padding = [((image_size - 1) // 2, image_size // 2)] * 2

    def blur(fields: jax.Array, kernel: jax.Array) -> jax.Array:
        # One image at a time: XLA unfolds an image into size^4 numbers, 1 GB at 128 x 128.
        convolve = partial(lax.conv_general_dilated, window_strides=(1, 1), padding=padding)
        return lax.map(lambda field: convolve(field[None, None], kernel[None, None]), fields)

    return timing.compiled(lambda fields, kernels: [blur(fields, kernel) for kernel in kernels], fields, kernels)


def torch_is_installed() -> bool:
    return find_spec("torch") is not None


def can_compile() -> bool:
    """Whether `torch.compile` has what it needs: the C++ compiler that it would call, and Python's headers.

    On a GPU, Triton needs the headers and a C compiler, which comes with a C++ compiler. This does not ask jax for the
    device: `benchmark.answer` calls it before jax may look for one.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    return bool(shutil.which(compiler)) and Path(sysconfig.get_path("include"), "Python.h").exists()
