"""Training of a group of runs in this process: one loop of compiled chunks, with progress, checkpoints and signals.

Checkpoints are written at intervals and after a signal; the same command resumes from them, bit for bit.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

import segjax
from experiments.lab import provenance, stops
from experiments.lab.folder import Folder
from experiments.lab.programs import CHUNK_SIZE, Program, arguments, program
from experiments.lab.runs import Group, PartialRun, Result, Run

Watch = Callable[[segjax.TrainState], None]
# Called with the current activity, and the number of steps per run so far.
Look = Callable[[str, int], None]


def grouped(runs: Sequence[Run], width: int) -> list[Group]:
    """Groups of at most `width` runs with one program, as equal as possible: nine runs at width 8 are four and five."""
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
    folder: Folder | None = None,
    checkpoint_seconds: float = math.inf,
    watch: Watch | None = None,
    chunk_size: int = CHUNK_SIZE,
    log: Callable[[segjax.History], None] = lambda _: None,
) -> list[Result]:
    """Trains runs with one program together, from the start or from their checkpoint.

    Args:
        look: called after each chunk.
        folder: of the checkpoints, which knows these runs; without it a signal ends the training at once.
        watch: called with the state after each chunk; for a single run.
        chunk_size: most steps of a chunk.
        log: called after each chunk with the history of all steps, leaves (steps,), or (runs, steps) for several runs.
    """
    look("compiling", 0)
    total, compiled = runs[0].iterations, program(runs[0], len(runs), chunk_size)
    (keys, rates), stems = arguments(runs), [run.stem for run in runs]
    checkpoint = folder.read_partial(stems, jax.eval_shape(compiled.init, keys, rates)) if folder else None
    partial_run = checkpoint[0] if checkpoint else PartialRun(compiled.init(keys, rates))
    # Zero steps compile the program, before the clock starts.
    state, _ = jax.block_until_ready(compiled.advance(keys, partial_run.state, rates, 0))
    look("compiling", partial_run.steps)

    def chunk(so_far: PartialRun) -> tuple[segjax.TrainState, segjax.History] | None:
        steps = min(compiled.chunk_size, total - so_far.steps)
        return compiled.advance(keys, so_far.state, rates, steps) if steps else None

    def after_chunk(so_far: PartialRun) -> None:
        log(so_far.history)
        if watch:
            watch(so_far.state)
        # The running mean, as in the notebook's progress bar.
        look(f"loss {np.mean(so_far.history.loss, dtype=np.float64):.3g}:", so_far.steps)

    write = partial(folder.write_partial, stems) if folder else None
    end = in_chunks(partial_run._replace(state=state), chunk, after_chunk, write, checkpoint_seconds)
    look("evaluating", total)
    return _results(runs, compiled, end)


def _results(runs: Group, compiled: Program, end: PartialRun) -> list[Result]:
    """Evaluates the runs, and splits the results."""
    variables, trained = end.state.variables, None
    if compiled.eval_variables:
        variables, trained = compiled.eval_variables(end.state), variables
    parts = compiled.split((end.history, variables, compiled.evaluate(variables), trained))
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
            partial_run = partial_run.after(state, history, time.perf_counter() - start)
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
