"""What of a run is compiled: the program that trains it, and the one that scores it on held-out images."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

import segjax
from experiments.runs import Result, Run
from segjax import metrics
from segjax.losses import LOSSES
from segjax.models import ARCHITECTURES
from segjax.optimizers import by_name
from segjax.schedules import SCHEDULES, scheduled

# Held-out images: the same for every run.
HELD_OUT_KEY, HELD_OUT_BATCHES = 20240130, 16
# Steps between two looks at the progress.
CHUNK_SIZE = 10


def program(run: Run, texture: dict[str, Any], chunk_size: int = CHUNK_SIZE) -> segjax.training.Fit:
    """The training program of a run, compiled once for all the seeds and rates that use it."""
    return _program(shared(run), tuple(texture.items()), min(chunk_size, run.iterations))


def shared(run: Run) -> Run:
    """What the runs of one program have in common."""
    return run._replace(label="", seed=0, learning_rate=0.0)


@cache
def _program(run: Run, texture: tuple[tuple[str, Any], ...], chunk_size: int) -> segjax.training.Fit:
    optimizer = by_name(run.optimizer)
    if run.schedule != "constant":
        optimizer = scheduled(optimizer, SCHEDULES[run.schedule], run.iterations)
    return segjax.make_fit(
        ARCHITECTURES[run.architecture],
        optimizer=optimizer,
        loss=LOSSES[run.objective],
        num_steps=run.iterations,
        chunk_size=chunk_size,
        **dict(texture),
    )


@cache
def evaluation(architecture: str, texture: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    """`held_out` of a network, compiled once: variables -> scores."""
    return jax.jit(partial(held_out, ARCHITECTURES[architecture], dict(texture)))


def held_out(
    model: nn.Module, texture: dict[str, Any], variables: Any
) -> tuple[metrics.Counts, metrics.Counts, dict[str, jax.Array]]:
    """Counts by `predict`, counts by running statistics, and mean losses on the held-out images; to be jitted."""

    def score(index: jax.Array) -> Any:
        batch = segjax.generate_data(jax.random.fold_in(jax.random.key(HELD_OUT_KEY), index), **texture)
        logits = segjax.predict(model, variables, batch.image)
        running = cast(jax.Array, model.apply(variables, batch.image, train=False))
        losses = {name: jnp.mean(loss(logits, batch.mask)) for name, loss in LOSSES.items()}
        return metrics.count(logits, batch.mask), metrics.count(running, batch.mask), losses

    counts, running_counts, losses = jax.lax.map(score, jnp.arange(HELD_OUT_BATCHES))
    total = partial(jax.tree.map, lambda leaf: leaf.sum(axis=0))
    return total(counts), total(running_counts), jax.tree.map(jnp.mean, losses)


def held_out_batch(texture: dict[str, Any]) -> segjax.Batch:
    """The first of the held-out batches, for pictures."""
    return segjax.generate_data(jax.random.fold_in(jax.random.key(HELD_OUT_KEY), 0), **texture)


def result(
    run: Run,
    history: segjax.History,
    variables: dict[str, Any],
    scores: tuple[metrics.Counts, metrics.Counts, dict[str, Any]],
    seconds: float,
) -> Result:
    """What training gave and what `held_out` says of it, as a finished run."""
    counts, running_counts, losses = scores
    return Result(run, history, variables, counts, running_counts, {k: float(v) for k, v in losses.items()}, seconds)
