"""How runs are trained: with progress, one after the other, or side by side where there are several devices.

Each run is a file under `runs/` in the folder of results, and one under way is saved from time to time and when it is
interrupted: the same command goes on from there, bit for bit. Runs side by side are saved when they are finished alone.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import segjax
from experiments import folder, interruption, processes, settings
from experiments.interruption import Interrupted
from experiments.runs import Begun, Result, Run, path, read, read_begun, write, write_begun
from segjax import metrics
from segjax.losses import LOSSES
from segjax.models import ARCHITECTURES
from segjax.optimizers import by_name
from segjax.schedules import SCHEDULES, scheduled
from segjax.sweeps import map_runs

# Held-out images: the same for every run.
HELD_OUT_KEY, HELD_OUT_BATCHES = 20240130, 16
# Steps between two looks at the progress.
CHUNK_SIZE = 10

Watch = Callable[[segjax.TrainState, segjax.History], None]


def train_all(
    runs: Sequence[Run],
    options: settings.Training,
    console: Console,
    watch: Watch | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> list[Result]:
    """Every run, in order, with progress; those that `options.out` already holds are read from there.

    With several devices the runs of one program are trained side by side, one a device, unless they are watched:
    `watch` is called after every chunk. Of several processes the first keeps the files and gets the results; the others
    get none.
    """
    texture, writer = settings.texture(options), processes.is_writer()
    if writer:
        folder.keep(options)
    kept = processes.broadcast(np.array([writer and path(options, run).exists() for run in runs]))
    results = {
        run: read(path(options, run), run, texture) for run, there in zip(runs, kept, strict=True) if there and writer
    }
    with progress_bar(console) as progress:
        total, done = sum(run.iterations for run in runs), sum(run.iterations for run in results)
        bar = progress.add_task("", total=total, completed=done)
        for group in _groups([run for run, there in zip(runs, kept, strict=True) if not there]):
            if jax.device_count() > 1 and watch is None:
                trained = train_side_by_side(group, texture, progress, bar)
            else:
                trained = [train(run, options, progress, bar, watch, chunk_size) for run in group]
            for result in trained if writer else []:
                write(path(options, result.run), result, texture)
                path(options, result.run, "part").unlink(missing_ok=True)
                results[result.run] = result
    return [results[run] for run in runs] if writer else []


def _groups(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Runs of one program, as many as there are devices."""
    programs: dict[Run, list[Run]] = {}
    for run in runs:
        programs.setdefault(_shared(run), []).append(run)
    for group in programs.values():
        for start in range(0, len(group), jax.device_count()):
            yield group[start : start + jax.device_count()]


def progress_bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, expand=True)


def train(
    run: Run, options: settings.Training, progress: Progress, bar: Any, watch: Watch | None, chunk_size: int
) -> Result:
    """One run, after compiling it, or the rest of one that was interrupted."""
    texture, file = settings.texture(options), path(options, run, "part")
    key, name = jax.random.key(run.seed), f"{run.label}, seed {run.seed}"
    progress.update(bar, description=f"{name}: compiling")
    fit = program(run, texture, chunk_size)
    fit.compile(key, run.learning_rate)
    begun = None
    if file.exists():
        begun = read_begun(file, run, texture, jax.eval_shape(fit.init, key, run.learning_rate))
        progress.update(bar, advance=len(begun.history.loss))
    before = begun.seconds if begun else 0.0
    chunks = [begun.history] if begun else []
    start = saved = time.perf_counter()
    with interruption.deferred() as signals:

        def report(state: segjax.TrainState, history: segjax.History) -> None:
            nonlocal saved
            chunks.append(history)
            if watch:
                watch(state, history)
            loss = np.mean(np.concatenate([chunk.loss for chunk in chunks]), dtype=np.float64)
            progress.update(bar, advance=len(history.loss), description=f"{name}: running loss {loss:.4e}")
            now = time.perf_counter()
            if signals or now - saved >= options.checkpoint_seconds:
                whole = _joined(chunks)
                chunks[:] = [whole]
                write_begun(file, run, Begun(jax.device_get(state), whole, before + now - start), texture)
                saved = time.perf_counter()
            if signals:
                raise Interrupted(signals[0])

        state, history = jax.block_until_ready(fit(key, run.learning_rate, report, begun[:2] if begun else None))
    seconds = before + time.perf_counter() - start
    progress.update(bar, description=f"{name}: evaluating")
    scores = jax.device_get(_evaluation(run.architecture, tuple(texture.items()))(state.variables))
    return _result(run, history, jax.device_get(state.variables), scores, seconds)


def _joined(chunks: Sequence[segjax.History]) -> segjax.History:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *chunks)


def _result(
    run: Run,
    history: segjax.History,
    variables: dict[str, Any],
    scores: tuple[metrics.Counts, metrics.Counts, dict[str, Any]],
    seconds: float,
) -> Result:
    counts, running_counts, losses = scores
    return Result(run, history, variables, counts, running_counts, {k: float(v) for k, v in losses.items()}, seconds)


def train_side_by_side(runs: Sequence[Run], texture: dict[str, Any], progress: Progress, bar: Any) -> list[Result]:
    """Runs of one program, one on each device of all processes, as `train` makes each but for rounding.

    Their seconds are those of all of them together.
    """
    names = f"{len(runs)} runs of {runs[0].optimizer} on {jax.device_count()} devices"
    progress.update(bar, description=f"{names}: compiling")
    fit, wide = program(runs[0], texture), _wide_program(_shared(runs[0]), tuple(texture.items()))
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
        own_variables, own_history, own_scores = jax.tree.map(
            lambda leaf, i=index: leaf[i], (variables, history, scores)
        )
        losses = {name: float(value) for name, value in own_scores[2].items()}
        results.append(Result(run, own_history, own_variables, own_scores[0], own_scores[1], losses, seconds))
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


def program(run: Run, texture: dict[str, Any], chunk_size: int = CHUNK_SIZE) -> segjax.training.Fit:
    """The training program of a run, compiled once for all the seeds and rates that use it."""
    return _program(_shared(run), tuple(texture.items()), min(chunk_size, run.iterations))


def _shared(run: Run) -> Run:
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
def _evaluation(architecture: str, texture: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
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
