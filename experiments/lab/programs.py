"""The compiled programs that initialize and train runs, and evaluate them on held-out images."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import segjax
from experiments.lab.import_paths import Ready, optimizer
from experiments.lab.names import ARCHITECTURES
from experiments.lab.runs import HELD_OUT_BATCHES, Group, HeldOut, Run, Texture
from experiments.lab.stops import UsageError
from segjax import LOSSES, SCHEDULES, edges, metrics
from segjax.optimizers import eval_params
from segjax.schedules import scheduled
from segjax.sweeps import map_runs

# Held-out images: the same for every run.
HELD_OUT_KEY = 20240130
# Images for the running statistics of evaluation weights other than the trained ones; the same for every run.
CALIBRATION_KEY = 20240131
# Steps per update of the progress. Each update waits for the device, which costs 1 % at the notebook's sizes.
CHUNK_SIZE = 10


class Program(NamedTuple):
    """Compiled functions that train one run, or several together.

    Attributes:
        init: (keys, rates) -> state.
        advance: (keys, state, rates, n) -> (state, history) for n <= chunk_size steps. The state is donated.
        eval_variables: state -> the variables that are evaluated; None if they are the trained ones.
        evaluate: variables -> HeldOut.
        split: a tree that these functions return -> one tree of NumPy arrays per run.
        chunk_size: most steps of a chunk.
    """

    init: Callable[..., Any]
    advance: Callable[..., Any]
    eval_variables: Callable[[Any], Any] | None
    evaluate: Callable[..., Any]
    split: Callable[[Any], list[Any]]
    chunk_size: int


def arguments(runs: Group) -> tuple[jax.Array, jax.Array]:
    """The keys and rates for a program, stacked for several runs."""
    keys = [jax.random.key(run.seed) for run in runs]
    rates = [jnp.asarray(run.learning_rate, float) for run in runs]
    # A single run has no axis of runs, since a loop over one run rounds differently.
    return (jnp.stack(keys), jnp.stack(rates)) if len(runs) > 1 else (keys[0], rates[0])


def program(run: Run, num_runs: int = 1, chunk_size: int = CHUNK_SIZE) -> Program:
    """The program for one run or several together, compiled once for all seeds and rates."""
    return _program(run.program, num_runs, min(chunk_size, run.iterations))


def forget_optimizers() -> None:
    """Clears the caches of optimizers and of their programs, for a process that imports its optimizers again."""
    optimizer.cache_clear()
    _program.cache_clear()


@cache
def _program(run: Run, num_runs: int, chunk_size: int) -> Program:
    model, factory = ARCHITECTURES[run.architecture], optimizer(run.optimizer)
    if run.schedule != "constant":
        if isinstance(factory, Ready):
            raise UsageError(f"--schedule must be constant for {run.optimizer}, which has its learning rate already")
        factory = scheduled(factory, SCHEDULES[run.schedule], run.iterations)
    sizes: dict[str, Any] = {"num_steps": run.iterations, "chunk_size": chunk_size, **run.texture._asdict()}
    fit = segjax.make_fit(model, optimizer=factory, loss=LOSSES[run.objective], **sizes)
    key = jax.random.key(CALIBRATION_KEY)
    judge = partial(segjax.eval_variables, key, model, factory, **run.texture._asdict())
    state = jax.eval_shape(fit.init, *arguments([run._replace(learning_rate=1.0)]))
    has_eval_params = eval_params(factory, state.opt_state)
    if num_runs == 1:
        evaluate: Callable[..., Any] = partial(evaluate_one, model, run.texture)
        eval_variables = jax.jit(judge) if has_eval_params else None
        return Program(fit.init, fit.advance, eval_variables, evaluate, lambda tree: [jax.device_get(tree)], chunk_size)
    # On a CPU, runs together take 1.1 times as long as one after the other.
    over_runs = partial(map_runs, width=num_runs)

    def advance(keys: jax.Array, states: Any, rates: jax.Array, num_steps: jax.Array) -> Any:
        return over_runs(lambda key, state, rate: fit.advance(key, state, rate, num_steps), keys, states, rates)

    def split(tree: Any) -> list[Any]:
        host_tree = jax.device_get(tree)
        return [jax.tree.map(lambda leaf, n=index: np.asarray(leaf)[n], host_tree) for index in range(num_runs)]

    eval_variables = jax.jit(partial(over_runs, judge)) if has_eval_params else None
    evaluate = jax.jit(partial(over_runs, partial(held_out, model, run.texture)))
    init = jax.jit(partial(over_runs, fit.init))
    # Without donation, the page faults of a new state take a fifth of a small step.
    return Program(init, jax.jit(advance, donate_argnums=1), eval_variables, evaluate, split, chunk_size)


def held_out(model: nn.Module, texture: Texture, variables: dict[str, Any]) -> HeldOut:
    """Scores on the held-out images of these textures; to be jitted."""
    return held_out_of(model, partial(segjax.generate_data, **texture._asdict()), HELD_OUT_BATCHES, variables)


evaluate_one = jax.jit(held_out, static_argnums=(0, 1))


def held_out_of(
    model: nn.Module, generate: Callable[[jax.Array], segjax.Batch], num_batches: int, variables: dict[str, Any]
) -> HeldOut:
    """Scores on held-out batches; `generate` returns the batch of a key. To be jitted."""

    def score(index: jax.Array) -> HeldOut:
        batch = generate(jax.random.fold_in(jax.random.key(HELD_OUT_KEY), index))
        logits = segjax.predict(model, variables, batch.image)
        # For the notebook's flaw 7: with one BatchNorm for all layers, these predictions are at chance.
        running = cast(jax.Array, model.apply(variables, batch.image, train=False))
        losses = {name: jnp.mean(loss(logits, batch.mask)) for name, loss in LOSSES.items()}
        image_counts, running_counts = metrics.count_each(logits, batch.mask), metrics.count(running, batch.mask)
        counts = jax.tree.map(jnp.sum, image_counts)
        return HeldOut(counts, running_counts, edges.count(logits, batch.mask), metrics.iou(image_counts), losses)

    # One batch after the other, since all together take 16 times the memory.
    batches = jax.lax.map(score, jnp.arange(num_batches))
    sums = jax.tree.map(lambda leaf: leaf.sum(axis=0), batches._replace(image_iou=None, losses={}))
    return sums._replace(image_iou=batches.image_iou.ravel(), losses=jax.tree.map(jnp.mean, batches.losses))


# Compiled as a whole, since XLA takes longer to compile the operations one by one.
@partial(jax.jit, static_argnums=0)
def held_out_batch(texture: Texture, index: jax.typing.ArrayLike = 0) -> segjax.Batch:
    """A held-out batch; figures show the first."""
    return segjax.generate_data(jax.random.fold_in(jax.random.key(HELD_OUT_KEY), index), **texture._asdict())
