"""The limits of the device: its measured rates, and the least operations and bytes of a training step."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from experiments.bench import timing
from experiments.bench.timing import Program
from experiments.lab.question import Lab
from segjax import OPTIMIZERS, Batch, predict
from segjax.losses import mean_squared_error
from segjax.training import create_state, train_step

# Sides of the matrices: 17 GFLOP, 0.2 s on 2 CPU cores. Length of the copy: 256 MB of float32, above most caches.
_MATRIX, _COPY = 2048, 2**26


class Limits(NamedTuple):
    """Rates of the device: FLOP per second of a float32 matrix product, bytes per second of a copy (read and write)."""

    flops: float
    bytes: float


class Work(NamedTuple):
    """Operations and bytes."""

    flops: float
    bytes: float

    def floor(self, limits: Limits) -> float:
        """The least seconds, on a device that computes and moves memory at the same time."""
        return max(self.flops / limits.flops, self.bytes / limits.bytes)

    def plus(self, other: "Work", times: int = 1) -> "Work":
        return Work(self.flops + times * other.flops, self.bytes + times * other.bytes)


def measure(lab: Lab, repeats: int, budget: float) -> Limits:
    """The rates of jax's device, from a 2048 x 2048 product and a copy of 256 MB; at most `budget` seconds for each."""
    matrix = jnp.ones((_MATRIX, _MATRIX)) * 0.5
    array = jnp.arange(_COPY, dtype=jnp.float32)
    programs = {
        "product": Program(partial(timing.compiled, jnp.matmul, matrix, matrix)),
        # Plus 1: a function that returns its argument need not copy it.
        "copy": Program(partial(timing.compiled, lambda array: array + 1, array)),
    }
    times = {name: timed.median for name, timed in timing.measure(programs, repeats, budget, lab).items()}
    return Limits(2.0 * _MATRIX**3 / times["product"], 2.0 * 4 * _COPY / times["copy"])


def step(model: nn.Module, batch_size: int, image_size: int) -> Work:
    """The work of a training step on a given batch, without that of the optimizer, which is small."""
    batch = _images(batch_size, image_size)
    sgd, loss = OPTIMIZERS["sgd"], mean_squared_error
    create = partial(create_state, model=model, optimizer=sgd, learning_rate=0.1)
    state = jax.eval_shape(create, jax.random.key(0), image=batch.image)
    return work(lambda state, batch: train_step(model, sgd, loss, state, batch, 0.1), state, batch)


def prediction(model: nn.Module, batch_size: int, image_size: int) -> Work:
    """The work of predicting a batch."""
    image = _images(batch_size, image_size).image
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    return work(partial(predict, model), variables, image)


def work(function: Callable[..., Any], *arguments: Any) -> Work:
    """The work of the convolutions and products of a function on a device other than a CPU.

    Operations: one product and one sum per tap, including taps on padding. Bytes: each operand is read once and each
    result is written once. Everything else is ignored: at best, a program fuses it into these.

    Args:
        arguments: only their shapes matter.
    """
    traced, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    # Dead code is dropped, such as the gradient with respect to the images.
    live, _ = dce_jaxpr(traced.jaxpr, [True] * len(jax.tree.leaves(shape)))
    return _work(live)


def _work(jaxpr: Jaxpr) -> Work:
    total = Work(0.0, 0.0)
    for equation in jaxpr.eqns:
        operands: list[Any] = [variable.aval for variable in equation.invars]
        results: list[Any] = [variable.aval for variable in equation.outvars]
        parameters = equation.params
        if equation.primitive.name == "conv_general_dilated":
            _, channels_in, *taps = parameters["dimension_numbers"].rhs_spec
            terms = math.prod(operands[1].shape[axis] for axis in (channels_in, *taps))
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            terms = math.prod(operands[0].shape[axis] for axis in contracted)
        else:
            inner = [leaf for leaf in jax.tree.leaves(list(parameters.values()), is_leaf=_is_jaxpr) if _is_jaxpr(leaf)]
            if platforms := parameters.get("branches_platforms"):
                inner = [
                    branch for branch, names in zip(inner, platforms, strict=True) if not names or "cpu" not in names
                ]
            # A scan runs its body `length` times. A while loop counts once: shapes do not say how often it runs.
            for body in inner:
                body_work = _work(body.jaxpr if isinstance(body, ClosedJaxpr) else body)
                total = total.plus(body_work, parameters.get("length", 1))
            continue
        moved = sum(math.prod(array.shape) * array.dtype.itemsize for array in operands + results)
        total = total.plus(Work(2.0 * math.prod(results[0].shape) * terms, moved))
    return total


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, Jaxpr | ClosedJaxpr)


def _images(batch_size: int, image_size: int) -> Batch:
    image: Any = jax.ShapeDtypeStruct((batch_size, image_size, image_size, 1), jnp.float32)
    return Batch(image, image)
