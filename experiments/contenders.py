"""What the benchmark times: our programs, the naive forms of them in JAX, and PyTorch's where it is installed."""

import shutil
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import segjax
from experiments import timing
from experiments.timing import Call, Program
from segjax import models
from segjax.optimizers import adam
from segjax.training import train_step

RATE = 1e-3
# Steps of a program that is far slower than the others.
FEW = 1


def generation(batch_size: int, image_size: int, torch: bool) -> dict[str, Program]:
    """Programs that draw a batch."""
    draw = partial(segjax.generate_data, batch_size=batch_size, image_size=image_size, sigma=image_size / 5)
    found = {"ours": Program(partial(timing.compiled, draw, jax.random.key(0)))}
    if not torch:
        return found | {"naive JAX: dense convolutions": Program(partial(_dense, batch_size, image_size))}
    from experiments import peers

    return found | {
        "PyTorch, the notebook": Program(lambda: peers.batches(peers.dense_batch(batch_size, image_size))),
        "PyTorch, padded by hand": Program(lambda: peers.batches(peers.dense_batch(batch_size, image_size, True))),
        "PyTorch, separable": Program(lambda: peers.batches(peers.separable_batch(batch_size, image_size))),
    }


def step(batch_size: int, image_size: int, steps: int, torch: bool) -> dict[str, Program]:
    """Programs that train on one batch that is there."""
    found = {"ours": Program(partial(_steps, batch_size, image_size, steps, False), steps)}
    if not torch:
        return found
    from experiments import peers

    draw = partial(peers.separable_batch, batch_size, image_size)

    def peer(**options: Any) -> Program:
        return Program(lambda: peers.steps(peers.Training(**options), draw(), steps), steps)

    found |= {"PyTorch, eager": peer(), "PyTorch, eager, channels_last": peer(channels_last=True)}
    return found | ({"PyTorch, tuned": peer(channels_last=True, tuned=True)} if can_compile() else {})


def iteration(batch_size: int, image_size: int, steps: int, torch: bool) -> dict[str, Program]:
    """Programs that draw a batch for each step and train on it."""
    sizes: dict[str, Any] = {"batch_size": batch_size, "image_size": image_size, "sigma": image_size / 5}
    found = {
        "ours": Program(partial(run, steps, **sizes), steps),
        "ours, step by step": Program(partial(_steps, batch_size, image_size, steps, True), steps),
        "naive JAX: plain convolutions in the loop": Program(partial(_naive, run, FEW, **sizes), FEW),
    }
    if not torch:
        return found
    from experiments import peers

    dense, separable = (partial(draw, batch_size, image_size) for draw in (peers.dense_batch, peers.separable_batch))
    found["PyTorch, the notebook"] = Program(lambda: peers.iterations(peers.Training(), dense(), FEW), FEW)
    if can_compile():
        found["PyTorch, tuned"] = Program(
            lambda: peers.iterations(peers.Training(channels_last=True, tuned=True), separable(), steps), steps
        )
    return found


def sweeps(batch_size: int, image_size: int, steps: int, runs: tuple[int, ...]) -> dict[str, Program]:
    """Programs of many runs; the names of ours are their numbers of runs."""
    sizes: dict[str, Any] = {"batch_size": batch_size, "image_size": image_size, "sigma": image_size / 5}
    found = {str(number): Program(partial(sweep, number, steps, **sizes), number * steps) for number in runs}
    few = min(4, max(runs))
    return found | {
        f"side by side, {few}": Program(partial(sweep, few, steps, few, **sizes), few * steps),
        f"jax.vmap, {few}": Program(partial(vmapped, few, steps, **sizes), few * steps),
        f"naive JAX: jax.vmap of plain convolutions, {few}": Program(
            partial(_naive, vmapped, few, FEW, **sizes), few * FEW
        ),
    }


def growth(batch_size: int, image_size: int, steps: int) -> dict[str, dict[int, Program]]:
    """quantity -> its value -> the iteration, all else as given."""
    base = {"batch_size": batch_size, "image_size": image_size, "num_channels": 16, "num_steps": steps}
    values = {
        "image_size": [max(2, image_size // 4), max(2, image_size // 2), image_size],
        "batch_size": sorted({max(1, batch_size // 4), max(1, batch_size // 2), batch_size, 2 * batch_size}),
        "num_channels": [8, 16, 32],
        "num_steps": [steps, 4 * steps],
    }
    programs: dict[str, dict[int, Program]] = {}
    for quantity, chosen in values.items():
        programs[quantity] = {}
        for value in chosen:
            options = {**base, quantity: value}
            number, channels = options.pop("num_steps"), options.pop("num_channels")
            model = segjax.SegmentationCNN(num_channels=channels)
            sizes: dict[str, Any] = {**options, "sigma": options["image_size"] / 5}
            programs[quantity][value] = Program(partial(run, number, model, **sizes), number)
    return programs


def run(num_steps: int, model: segjax.SegmentationCNN | None = None, **sizes: Any) -> Call:
    """One run of the notebook's network, or of another."""
    train = segjax.make_train(model or segjax.SegmentationCNN(), num_steps=num_steps, **sizes)
    return timing.compiled(train, jax.random.key(0), jnp.float32(RATE))


def sweep(number: int, num_steps: int, width: int = 1, **sizes: Any) -> Call:
    train = segjax.make_train(segjax.SegmentationCNN(), num_steps=num_steps, **sizes)
    many = partial(segjax.sweep, train, batch_size=width)
    return timing.compiled(many, jax.random.split(jax.random.key(0), number), jnp.full(1, RATE))


def vmapped(number: int, num_steps: int, **sizes: Any) -> Call:
    train = segjax.make_train(segjax.SegmentationCNN(), num_steps=num_steps, **sizes)
    keys = jax.random.split(jax.random.key(0), number)
    return timing.compiled(jax.vmap(train, in_axes=(0, None)), keys, jnp.float32(RATE))


def plain_convolution(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """What one writes who does not know XLA's traps; its gradients are JAX's own."""
    return lax.conv_general_dilated(inputs, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _naive(make: Callable[..., Call], *arguments: Any, **sizes: Any) -> Call:
    with mock.patch.object(models, "conv2d", plain_convolution):
        return make(*arguments, **sizes)


def _steps(batch_size: int, image_size: int, steps: int, fresh: bool) -> Call:
    """A jitted step in a Python loop, on one batch or on fresh ones."""
    model, rate = segjax.SegmentationCNN(), jnp.float32(RATE)
    key = jax.random.key(0)
    draw = jax.jit(partial(segjax.generate_data, batch_size=batch_size, image_size=image_size, sigma=image_size / 5))
    batch = draw(key)
    create = jax.jit(partial(segjax.training.create_state, model, adam))
    # The state is consumed, and its memory used again, as in a loop.
    update = jax.jit(partial(train_step, model, adam, segjax.losses.mean_squared_error), donate_argnums=0)

    def call() -> Any:
        state = create(key, batch.image, rate)
        for index in range(steps):
            state, _ = update(state, draw(jax.random.fold_in(key, index)) if fresh else batch, rate)
        return jax.block_until_ready(state)

    return Call(call)


def _dense(batch_size: int, image_size: int) -> Call:
    """The notebook's four n x n convolutions in JAX, for want of PyTorch."""
    kernels = [segjax.gaussian_kernel(image_size, sigma) for sigma in (0.2, 1.2, image_size / 5, 1.0)]
    fields = jnp.asarray(np.random.default_rng(0).normal(size=(batch_size, image_size, image_size)), jnp.float32)
    padding = [((image_size - 1) // 2, image_size // 2)] * 2

    def blur(fields: jax.Array, kernel: jax.Array) -> jax.Array:
        # One image at a time: XLA unfolds an image into size^4 numbers, 1 GB at 128 x 128.
        one = partial(lax.conv_general_dilated, window_strides=(1, 1), padding=padding)
        return lax.map(lambda field: one(field[None, None], kernel[None, None]), fields)

    return timing.compiled(lambda fields, kernels: [blur(fields, kernel) for kernel in kernels], fields, kernels)


def torch_is_installed() -> bool:
    return find_spec("torch") is not None


def can_compile() -> bool:
    """Whether `torch.compile` finds what it needs on a CPU; on a GPU it brings it along."""
    return jax.default_backend() != "cpu" or any(map(shutil.which, ("c++", "g++", "clang++")))
