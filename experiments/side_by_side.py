"""Runs side by side: one on each device of all the processes that are joined."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from rich.progress import Progress

from experiments.programs import held_out, program, result, shared
from experiments.runs import Result, Run
from segjax.models import ARCHITECTURES
from segjax.sweeps import map_runs


def groups(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Runs of one program, as many as there are devices."""
    programs: dict[Run, list[Run]] = {}
    for run in runs:
        programs.setdefault(shared(run), []).append(run)
    for group in programs.values():
        for start in range(0, len(group), jax.device_count()):
            yield group[start : start + jax.device_count()]


def train_side_by_side(runs: Sequence[Run], texture: dict[str, Any], progress: Progress, bar: Any) -> list[Result]:
    """Runs of one program, one on each device of all processes, as `train` makes each but for rounding.

    Their seconds are those of all of them together.
    """
    names = f"{len(runs)} runs of {runs[0].optimizer} on {jax.device_count()} devices"
    progress.update(bar, description=f"{names}: compiling")
    fit, wide = program(runs[0], texture), _wide_program(shared(runs[0]), tuple(texture.items()))
    # A device without a run of its own repeats the last.
    dealt = [runs[min(index, len(runs) - 1)] for index in range(jax.device_count())]
    keys = jnp.stack([jax.random.key(run.seed) for run in dealt])
    rates = jnp.array([run.learning_rate for run in dealt], float)
    state = wide.init(keys, rates)
    state, _ = jax.block_until_ready(wide.advance(keys, state, rates, 0))
    start, total, chunks = time.perf_counter(), 0.0, []
    for step in range(0, fit.num_steps, fit.chunk_size):
        num_steps = min(fit.chunk_size, fit.num_steps - step)
        state, history = wide.advance(keys, state, rates, num_steps)
        chunks.append(history)
        # What other processes hold cannot be read from here.
        own = [np.asarray(shard.data)[:, :num_steps] for shard in history.loss.addressable_shards]
        total += float(np.mean(own)) * num_steps
        words = f"{names}: running loss {total / (step + num_steps):.4e}"
        progress.update(bar, advance=num_steps * len(runs), description=words)
    seconds = time.perf_counter() - start
    progress.update(bar, description=f"{names}: evaluating")
    scores = wide.evaluate(state.variables)
    variables, chunks, scores = jax.device_get(wide.gather((state.variables, chunks, scores)))
    history = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1)[:, : fit.num_steps], *chunks)
    results = []
    for index, run in enumerate(runs):
        own_history, own_variables, own_scores = jax.tree.map(
            lambda leaf, i=index: leaf[i], (history, variables, scores)
        )
        results.append(result(run, own_history, own_variables, own_scores, seconds))
    return results


class _Wide(NamedTuple):
    """The programs of a run for as many runs as there are devices, and the one that brings what they gave together."""

    init: Callable[..., Any]
    advance: Callable[..., Any]
    evaluate: Callable[..., Any]
    gather: Callable[..., Any]


@cache
def _wide_program(run: Run, texture: tuple[tuple[str, Any], ...]) -> _Wide:
    fit = program(run, dict(texture))
    mesh = jax.make_mesh((jax.device_count(),), ("runs",))
    over_runs = partial(map_runs, mesh=mesh)

    def advance(keys: jax.Array, states: Any, rates: jax.Array, num_steps: jax.Array) -> Any:
        return over_runs(lambda key, state, rate: fit.advance(key, state, rate, num_steps), keys, states, rates)

    evaluate = partial(held_out, ARCHITECTURES[run.architecture], dict(texture))
    everywhere = NamedSharding(mesh, PartitionSpec())
    return _Wide(
        jax.jit(partial(over_runs, fit.init)),
        jax.jit(advance, donate_argnums=1),
        jax.jit(partial(over_runs, evaluate)),
        jax.jit(lambda tree: tree, out_shardings=everywhere),
    )
