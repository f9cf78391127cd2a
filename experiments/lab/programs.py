"""The compiled programs of runs: how they begin, train, and are judged on held-out images."""

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
from experiments.lab.runs import HELD_OUT_BATCHES, Group, Held, Run, Texture
from experiments.lab.stops import UsageError
from segjax import LOSSES, SCHEDULES, edges, metrics
from segjax.optimizers import eval_params
from segjax.schedules import scheduled
from segjax.sweeps import map_runs

# Held-out images: the same for every run.
HELD_OUT_KEY = 20240130
# Images for the running statistics of weights that were not trained themselves; the same for every run, too.
CALIBRATION_KEY = 20240131
# Steps between two looks at the progress. Each look waits for the device: 1 % of the time at the notebook's sizes.
CHUNK_SIZE = 10


class Program(NamedTuple):
    """Compiled functions that train one run, or several together.

    Attributes:
        init: (keys, rates) -> state.
        advance: (keys, state, rates, n) -> (state, history) for n <= chunk_size steps. It consumes its state.
        judged: state -> the variables that it is judged by; None where they are those that were trained.
        evaluate: variables -> Held.
        split: a tree of these functions -> one tree of NumPy arrays for each run.
        chunk_size: the most steps of a chunk.
    """

    init: Callable[..., Any]
    advance: Callable[..., Any]
    judged: Callable[[Any], Any] | None
    evaluate: Callable[..., Any]
    split: Callable[[Any], list[Any]]
    chunk_size: int


# A run alone has no axis of runs: a loop over one run would be compiled to other rounding.
def arguments(runs: Group) -> tuple[jax.Array, jax.Array]:
    """The keys and rates that a program takes: of one run alone, or stacked."""
    keys = [jax.random.key(run.seed) for run in runs]
    rates = [jnp.asarray(run.learning_rate, float) for run in runs]
    return (jnp.stack(keys), jnp.stack(rates)) if len(runs) > 1 else (keys[0], rates[0])


def program(run: Run, num_runs: int = 1, chunk_size: int = CHUNK_SIZE) -> Program:
    """The program of a run alone, or of several together: compiled once for all the seeds and rates that use it."""
    return _program(run.program, num_runs, min(chunk_size, run.iterations))


def forget_programs() -> None:
    """For a process whose optimizers have been imported anew."""
    _program.cache_clear()


@cache
def _program(run: Run, num_runs: int, chunk_size: int) -> Program:
    model, chosen = ARCHITECTURES[run.architecture], optimizer(run.optimizer)
    if run.schedule != "constant":
        if isinstance(chosen, Ready):
            raise UsageError(f"--schedule must be constant for {run.optimizer}, which has its learning rate already")
        chosen = scheduled(chosen, SCHEDULES[run.schedule], run.iterations)
    sizes: dict[str, Any] = {"num_steps": run.iterations, "chunk_size": chunk_size, **run.texture._asdict()}
    fit = segjax.make_fit(model, optimizer=chosen, loss=LOSSES[run.objective], **sizes)
    key = jax.random.key(CALIBRATION_KEY)
    judge = partial(segjax.eval_variables, key, model, chosen, **run.texture._asdict())
    others = eval_params(chosen, jax.eval_shape(fit.init, *arguments([run._replace(learning_rate=1.0)])).opt_state)
    if num_runs == 1:
        judged, evaluate = jax.jit(judge) if others else None, evaluation(model, run.texture)
        return Program(fit.init, fit.advance, judged, evaluate, lambda tree: [jax.device_get(tree)], chunk_size)
    # On a CPU, together takes 1.1 times as long as one after the other.
    over_runs = partial(map_runs, width=num_runs)

    def advance(keys: jax.Array, states: Any, rates: jax.Array, num_steps: jax.Array) -> Any:
        return over_runs(lambda key, state, rate: fit.advance(key, state, rate, num_steps), keys, states, rates)

    def split(tree: Any) -> list[Any]:
        whole = jax.device_get(tree)
        return [jax.tree.map(lambda leaf, n=number: np.asarray(leaf)[n], whole) for number in range(num_runs)]

    judged = jax.jit(partial(over_runs, judge)) if others else None
    evaluate = jax.jit(partial(over_runs, partial(held_out, model, run.texture)))
    init = jax.jit(partial(over_runs, fit.init))
    # The state is consumed: to allocate it afresh costs a fifth of a small step in page faults.
    return Program(init, jax.jit(advance, donate_argnums=1), judged, evaluate, split, chunk_size)


@cache
def evaluation(model: nn.Module, texture: Texture) -> Callable[[dict[str, Any]], Held]:
    """`held_out` of a network, compiled once for all that share it: variables -> Held."""
    return jax.jit(partial(held_out, model, texture))


def held_out(model: nn.Module, texture: Texture, variables: dict[str, Any]) -> Held:
    """Scores on the held-out images of these textures; to be jitted."""
    return held_out_of(model, partial(segjax.generate_data, **texture._asdict()), HELD_OUT_BATCHES, variables)


def held_out_of(
    model: nn.Module, generate: Callable[[jax.Array], segjax.Batch], num_batches: int, variables: dict[str, Any]
) -> Held:
    """Scores on as many held-out batches as `generate` makes of keys; to be jitted."""

    def score(index: jax.Array) -> Held:
        batch = generate(jax.random.fold_in(jax.random.key(HELD_OUT_KEY), index))
        logits = segjax.predict(model, variables, batch.image)
        # For the notebook's flaw 7: with one BatchNorm for all layers these are at chance.
        running = cast(jax.Array, model.apply(variables, batch.image, train=False))
        losses = {name: jnp.mean(loss(logits, batch.mask)) for name, loss in LOSSES.items()}
        each, of_running = metrics.count_each(logits, batch.mask), metrics.count(running, batch.mask)
        counts = jax.tree.map(jnp.sum, each)
        return Held(counts, of_running, edges.count(logits, batch.mask), metrics.iou(each), losses)

    # One batch after the other: together they would take 16 times the memory.
    batches = jax.lax.map(score, jnp.arange(num_batches))
    sums = jax.tree.map(lambda leaf: leaf.sum(axis=0), batches._replace(image_iou=None, losses={}))
    return sums._replace(image_iou=batches.image_iou.ravel(), losses=jax.tree.map(jnp.mean, batches.losses))


def held_out_batch(texture: Texture, index: jax.typing.ArrayLike = 0) -> segjax.Batch:
    """One of the held-out batches; pictures show the first."""
    return _held_out_batches(texture)(index)


@cache
def _held_out_batches(texture: Texture) -> Callable[[jax.typing.ArrayLike], segjax.Batch]:
    """index -> batch, compiled as a whole: otherwise XLA would compile each of its operations, which takes longer."""
    key = jax.random.key(HELD_OUT_KEY)
    return jax.jit(lambda index: segjax.generate_data(jax.random.fold_in(key, index), **texture._asdict()))
