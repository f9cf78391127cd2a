"""Training of a group of runs in this process: one loop of compiled chunks, with progress, checkpoints and signals.

Checkpoints are written at intervals and after a signal; the same command resumes from them, bit for bit.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

import segjax
from experiments.lab import provenance, stops
from experiments.lab.programs import CHUNK_SIZE, Program, arguments, program
from experiments.lab.runs import Group, PartialRun, Result, Run

Watch = Callable[[segjax.TrainState], None]
# Called with the current activity, and the number of steps per run since the last call.
Look = Callable[[str, int], None]


class Checkpoints(NamedTuple):
    """Reads and writes the checkpoints of a group of runs.

    Attributes:
        read: the shapes and dtypes of a state -> the runs in progress and notes; None without a checkpoint.
        write: writes a checkpoint.
        seconds: time between two checkpoints.
    """

    read: Callable[[Any], tuple[PartialRun, Any] | None]
    write: Callable[[PartialRun], None]
    seconds: float


def grouped(runs: Sequence[Run], width: int) -> list[Group]:
    """Groups of at most `width` runs with one program, as equal as possible: nine runs at width 8 are five and four."""
    programs: dict[Run, list[Run]] = {}
    for run in runs:
        programs.setdefault(run.program, []).append(run)
    groups: list[Group] = []
    for members in programs.values():
        num_groups = math.ceil(len(members) / width)
        ends = [len(members) * index // num_groups for index in range(num_groups + 1)]
        groups += [members[start:end] for start, end in pairwise(ends)]
    return groups


def train_group(
    runs: Group,
    look: Look,
    checkpoints: Checkpoints | None = None,
    watch: Watch | None = None,
    chunk_size: int = CHUNK_SIZE,
    log: Callable[[segjax.History], None] = lambda _: None,
) -> list[Result]:
    """Trains runs with one program together, from the start or from their checkpoint.

    Args:
        look: called after each chunk.
        checkpoints: without them a signal ends the training at once.
        watch: called with the state after each chunk; for a single run.
        chunk_size: most steps of a chunk.
        log: called after each chunk with the history of all steps, leaves (steps,), or (runs, steps) for several runs.
    """
    look("compiling", 0)
    total, compiled = runs[0].iterations, program(runs[0], len(runs), chunk_size)
    keys, rates = arguments(runs)
    checkpoint = checkpoints.read(jax.eval_shape(compiled.init, keys, rates)) if checkpoints else None
    partial_run = checkpoint[0] if checkpoint else PartialRun(compiled.init(keys, rates), [], 0.0)
    # Zero steps compile the program, before the clock starts.
    state, _ = jax.block_until_ready(compiled.advance(keys, partial_run.state, rates, 0))
    history = partial_run.chunks[0] if checkpoint else None
    done = history.loss.shape[-1] if history else 0
    look("compiling", done)

    def chunk(so_far: PartialRun) -> tuple[segjax.TrainState, segjax.History] | None:
        steps = min(compiled.chunk_size, total - done)
        return compiled.advance(keys, so_far.state, rates, steps) if steps else None

    def after_chunk(so_far: PartialRun) -> None:
        nonlocal done, history
        steps = min(compiled.chunk_size, total - done)
        new = jax.tree.map(lambda leaf: leaf[..., :steps], jax.device_get(so_far.chunks[-1]))
        history = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=-1), history, new) if history else new
        done += steps
        log(history)
        if watch:
            watch(so_far.state)
        # The running mean, as in the notebook's progress bar.
        look(f"loss {np.mean(history.loss, dtype=np.float64):.3g}:", steps)

    write, seconds = (checkpoints.write, checkpoints.seconds) if checkpoints else (None, math.inf)
    end = in_chunks(partial_run._replace(state=state), chunk, after_chunk, write, seconds)
    look("evaluating", 0)
    return _results(runs, compiled, end, history)


def _results(runs: Group, compiled: Program, end: PartialRun, history: Any) -> list[Result]:
    """Evaluates the runs, and splits the results."""
    variables, trained = end.state.variables, None
    if compiled.eval_variables:
        variables, trained = compiled.eval_variables(end.state), variables
    parts = compiled.split((history, variables, compiled.evaluate(variables), trained))
    all_cores = sorted({*end.cores, provenance.cores() or 0})
    cores = all_cores[0] or None if len(all_cores) == 1 else ", ".join(map(str, all_cores))
    return [
        Result(run, run_history, run_variables, held_out, end.seconds, cores, run_trained)
        for run, (run_history, run_variables, held_out, run_trained) in zip(runs, parts, strict=True)
    ]


def in_chunks(
    partial_run: PartialRun,
    chunk: Callable[[PartialRun], tuple[segjax.TrainState, segjax.History] | None],
    look: Callable[[PartialRun], None],
    save: Callable[[PartialRun], None] | None,
    every: float,
    save_end: bool = False,
) -> PartialRun:
    """The loop of all training: one chunk after the other until `chunk` returns None.

    A signal is handled after the chunk in progress: a checkpoint is written, and the loop raises `Interrupted`.

    Args:
        partial_run: the start, or a checkpoint.
        chunk: computes the next chunk; None ends the loop.
        look: called after each chunk.
        save: writes a checkpoint; without it, a signal ends the loop at once.
        every: seconds between checkpoints.
        save_end: write a checkpoint at the end too, for callers whose next step takes long.
    """
    start, saved = time.perf_counter() - partial_run.seconds, partial_run.seconds
    with stops.deferred(save is not None) as signals:
        while result := chunk(partial_run):
            # Waits for the device, so that the clock measures the work and not its dispatch.
            state, history = jax.block_until_ready(result)
            chunks, seconds = [*partial_run.chunks, history], time.perf_counter() - start
            partial_run = partial_run._replace(state=state, chunks=chunks, seconds=seconds)
            look(partial_run)
            if save and (signals or partial_run.seconds - saved >= every):
                save(partial_run)
                saved = time.perf_counter() - start
            if signals:
                raise stops.Interrupted(signals[0])
        if save and save_end:
            save(partial_run)
    return partial_run


def progress_bar(console: Console) -> Progress:
    """A bar with the steps done, the time elapsed and the time left, which long descriptions do not displace."""
    # Long text is cut for the numbers, and leaves the bar a sixth of the line.
    place = Column(ratio=5, no_wrap=True, overflow="ellipsis")
    text = TextColumn("{task.description}", table_column=place, markup=False)
    bar = BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6))
    fixed = partial(Column, no_wrap=True)
    counts = (MofNCompleteColumn(table_column=fixed()), TimeElapsedColumn(table_column=fixed()))
    time_left = (TextColumn("left", table_column=fixed()), TimeRemainingColumn(table_column=fixed()))
    return Progress(text, bar, *counts, *time_left, console=console, expand=True)
