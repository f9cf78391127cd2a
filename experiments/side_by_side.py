"""Runs side by side: one on each device of all the processes that are joined."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from rich.progress import Progress

import segjax
from experiments import interruption, settings
from experiments.command import UsageError
from experiments.folder import ROUND
from experiments.interruption import Interrupted
from experiments.programs import held_out, program, result, shared
from experiments.runs import Begun, Result, Run, path
from segjax import checkpoints, metrics
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


def train_side_by_side(runs: Sequence[Run], options: settings.Training, progress: Progress, bar: Any) -> list[Result]:
    """Runs of one program, one on each device of all processes, as `training.train` makes each but for rounding.

    Their seconds are those of all of them together. One process saves them on the way; of several none could save what
    the others hold without waiting for them.
    """
    names = f"{len(runs)} runs of {runs[0].optimizer} on {jax.device_count()} devices"
    progress.update(bar, description=f"{names}: compiling")
    texture, alone = settings.texture(options), jax.process_count() == 1
    fit, wide = program(runs[0], texture), _wide_program(shared(runs[0]), tuple(texture.items()))
    # A device without a run of its own repeats the last.
    dealt = [runs[min(index, len(runs) - 1)] for index in range(jax.device_count())]
    keys = jnp.stack([jax.random.key(run.seed) for run in dealt])
    rates = jnp.array([run.learning_rate for run in dealt], float)
    state, _ = jax.block_until_ready(wide.advance(keys, wide.init(keys, rates), rates, 0))
    chunks, done, before = [], 0, 0.0
    if alone and (begun := _read_begun(dealt, options, jax.eval_shape(wide.init, keys, rates))):
        state, chunks, done, before = begun.state, [begun.history], begun.history.loss.shape[1], begun.seconds
        progress.update(bar, advance=done * len(runs))
    start = saved = time.perf_counter()
    with interruption.deferred() if alone else _no_signals() as signals:
        for step in range(done, fit.num_steps, fit.chunk_size):
            num_steps = min(fit.chunk_size, fit.num_steps - step)
            state, history = wide.advance(keys, state, rates, num_steps)
            chunks.append(history)
            # What other processes hold cannot be read from here.
            own = [np.asarray(shard.data)[:, :num_steps] for shard in history.loss.addressable_shards]
            words = f"{names}: loss {np.mean(own):.4e}"
            progress.update(bar, advance=num_steps * len(runs), description=words)
            now = time.perf_counter()
            if alone and (signals or now - saved >= options.checkpoint_seconds):
                _write_begun(dealt, options, Begun(state, _joined(chunks, step + num_steps), before + now - start))
                saved = time.perf_counter()
            if signals:
                raise Interrupted(signals[0])
    seconds = before + time.perf_counter() - start
    progress.update(bar, description=f"{names}: evaluating")
    scores = wide.evaluate(state.variables)
    variables, chunks, scores = jax.device_get(wide.gather((state.variables, chunks, scores)))
    history = _joined(chunks, fit.num_steps)
    results = []
    for index, run in enumerate(runs):
        own_history, own_variables, own_scores = _take((history, variables, scores), index)
        results.append(result(run, own_history, own_variables, own_scores, seconds))
    return results


@contextlib.contextmanager
def _no_signals() -> Iterator[list[int]]:
    """Where nothing could be saved, a signal ends the process at once."""
    yield []


def _joined(chunks: Sequence[segjax.History], num_steps: int) -> segjax.History:
    """Leaves (runs, num_steps); the last chunk has room for more steps than were made."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1)[:, :num_steps], *jax.device_get(chunks))


def _take(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


def _write_begun(dealt: Sequence[Run], options: settings.Training, begun: Begun) -> None:
    """All of them in one file, so that they are at one step."""
    arrays = {"state": begun.state, "history": begun.history}
    checkpoints.save(_file(dealt, options), arrays, {**_identity(dealt, options), "seconds": begun.seconds})


def _read_begun(dealt: Sequence[Run], options: settings.Training, template: segjax.TrainState) -> Begun | None:
    """The same again; None where there are none, or of others, as with another number of devices."""
    file = _file(dealt, options)
    if not file.exists():
        return None
    try:
        arrays, metadata = checkpoints.load(file)
        if metadata != {**_identity(dealt, options), "seconds": metadata.get("seconds")}:
            return None
        state = checkpoints.restore(template, arrays["state"])
    except (ValueError, OSError) as error:
        raise UsageError(f"{error}; delete it, or pass --overwrite") from error
    history = arrays["history"]
    return Begun(state, segjax.History(history["loss"], metrics.Counts(**history["counts"])), metadata["seconds"])


def _file(dealt: Sequence[Run], options: settings.Training) -> Path:
    return path(options, dealt[0], ROUND)


def _identity(dealt: Sequence[Run], options: settings.Training) -> dict[str, Any]:
    return {"runs": [run._asdict() for run in dealt], "texture": settings.texture(options)}


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
