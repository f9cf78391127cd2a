"""How runs are trained: with progress, one after the other, or side by side where there are several devices.

Each run is a file under `runs/` in the folder of results, and one under way is saved from time to time and when it is
interrupted: the same command goes on from there, bit for bit.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import segjax
from experiments import folder, interruption, processes, settings
from experiments.interruption import Interrupted
from experiments.programs import CHUNK_SIZE, evaluation, program, result
from experiments.runs import Begun, Result, Run, path, read, read_begun, write, write_begun
from experiments.side_by_side import groups, train_side_by_side

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
        for group in groups([run for run, there in zip(runs, kept, strict=True) if not there]):
            if jax.device_count() > 1 and watch is None:
                trained = train_side_by_side(group, options, progress, bar)
            else:
                trained = [train(run, options, progress, bar, watch, chunk_size) for run in group]
            for finished in trained if writer else []:
                write(path(options, finished.run), finished, texture)
                results[finished.run] = finished
    # Only now is what was begun of no more use.
    for run in runs if writer else []:
        for ending in (folder.PART, folder.ROUND):
            path(options, run, ending).unlink(missing_ok=True)
    return [results[run] for run in runs] if writer else []


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
    texture, file = settings.texture(options), path(options, run, folder.PART)
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
    scores = jax.device_get(evaluation(run.architecture, tuple(texture.items()))(state.variables))
    return result(run, history, jax.device_get(state.variables), scores, seconds)


def _joined(chunks: Sequence[segjax.History]) -> segjax.History:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *chunks)
