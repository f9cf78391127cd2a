"""How runs are trained: one loop, for one run or for some on each device, with progress, savings and signals.

Finished runs are files, and so is one under way, from time to time and when a signal asks to stop: the same command
goes on from there, bit for bit.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence, Set
from functools import partial
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

import segjax
from experiments.lab import processes, stops, store
from experiments.lab.names import exact, shortened
from experiments.lab.options import Comparison, Training
from experiments.lab.runs import CHUNK_SIZE, Begun, Result, Run, arguments, program

# Letters of an optimizer's name in a line of progress.
_LONGEST_NAME = 20
Watch = Callable[[segjax.TrainState], None]


def train_all(
    runs: Sequence[Run], options: Training, console: Console, watch: Watch | None = None, chunk_size: int = CHUNK_SIZE
) -> list[Result]:
    """Trains every run, or reads it where `options.out` already holds it; the results are in the order of the runs.

    Several devices train runs of one program side by side, and each as many as its `options.width` allows, unless they
    are watched. Of several processes the first keeps the files and gets the results; the others get none.

    Args:
        watch: called after every chunk.
        chunk_size: steps between two looks.
    """
    out, writer = options.out, processes.is_writer()
    # A run may be asked for twice, and is trained once.
    runs_once = list(dict.fromkeys(runs))
    if writer:
        store.announce_runs(out, [run.stem for run in runs_once])
    # All processes must train the same runs, and only the first sees the folder.
    kept = processes.broadcast(np.array([writer and store.has_run(out, run) for run in runs_once]))
    missing = [run for run, there in zip(runs_once, kept, strict=True) if not there]
    results = {run: store.read_run(out, run) for run in runs_once if writer and run not in missing}
    # A picture is drawn of one state: what is watched is trained alone.
    devices = 1 if watch else jax.device_count()
    width = options.width if isinstance(options, Comparison) and not watch else 1
    # All processes must train the same groups: the width of the first counts.
    width = int(processes.broadcast(np.array(min(width, len(runs_once)))))
    total, done = (sum(run.iterations for run in some) for some in (runs_once, results))
    with progress_bar(console) as progress:
        bar = progress.add_task("", total=total, completed=done)
        for group, places in _groups(runs_once, set(missing), devices, width):
            trained = _train(group, places, options, progress, bar, watch, chunk_size)
            if writer:
                store.write_runs(out, trained)
                results |= {result.run: result for result in trained}
    return [results[run] for run in runs] if writer else []


def in_chunks(
    begun: Begun,
    chunk: Callable[[Begun], tuple[segjax.TrainState, segjax.History] | None],
    look: Callable[[Begun], None],
    save: Callable[[Begun], None] | None,
    every: float,
    save_end: bool = False,
) -> Begun:
    """The loop of all training: one chunk after the other until `chunk` gives none.

    A signal is heard after the chunk that is under way; it is then saved, and the loop raises `Interrupted`.

    Args:
        begun: where to start.
        chunk: makes the next chunk; None ends the loop.
        look: called after each chunk.
        save: keeps what there is; without it, a signal ends the loop at once.
        every: seconds between two savings.
        save_end: save at the end too, where what follows takes long.
    """
    start, saved = time.perf_counter() - begun.seconds, begun.seconds
    with stops.deferred(save is not None) as signals:
        while made := chunk(begun):
            # The clock stops when the device has done the work, not when it has been given it.
            state, history = jax.block_until_ready(made)
            begun = Begun(state, [*begun.chunks, history], time.perf_counter() - start)
            look(begun)
            if save and (signals or begun.seconds - saved >= every):
                save(begun)
                saved = time.perf_counter() - start
            if signals:
                raise stops.Interrupted(signals[0])
        if save and save_end:
            save(begun)
    if signals:
        raise stops.Interrupted(signals[0])
    return begun


def progress_bar(console: Console) -> Progress:
    """A bar with the number done, the time spent and the time left, whatever the length of the text before it."""
    # The text gives way to the numbers, and leaves the bar a sixth of the line.
    text = TextColumn("{task.description}", table_column=Column(ratio=5, no_wrap=True, overflow="ellipsis"))
    bar = BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6))
    fixed = partial(Column, no_wrap=True)
    counts = (MofNCompleteColumn(table_column=fixed()), TimeElapsedColumn(table_column=fixed()))
    left = (TextColumn("left", table_column=fixed()), TimeRemainingColumn(table_column=fixed()))
    return Progress(text, bar, *counts, *left, console=console, expand=True)


def _groups(runs: Sequence[Run], missing: Set[Run], devices: int, width: int) -> Iterator[tuple[list[Run], int]]:
    """Missing runs of one program, as many as are trained side by side, and how many places their program has."""
    # By program, each of which takes about 5 s to compile.
    programs: dict[Run, list[Run]] = {}
    for run in runs:
        programs.setdefault(run.program, []).append(run)
    for group in programs.values():
        # As narrow as the rounds allow: of nine runs at width 8, five and four, and not eight and one in eight places.
        # The finished ones count too: a command that goes on has the program, and so the bits, of one that ran through.
        rounds = math.ceil(len(group) / (devices * width))
        places = devices * math.ceil(len(group) / (devices * rounds))
        left = [run for run in group if run in missing]
        for start in range(0, len(left), places):
            yield left[start : start + places], places


def _train(
    runs: Sequence[Run],
    places: int,
    options: Training,
    progress: Progress,
    bar: Any,
    watch: Watch | None,
    chunk_size: int,
) -> list[Result]:
    """Trains runs of one program side by side, from the start or from where they were interrupted."""
    name, total = _name(runs, options.called(runs[0].optimizer)), runs[0].iterations
    progress.update(bar, description=f"compiling {name}")
    # A place without a run of its own repeats the last.
    dealt = [runs[min(index, len(runs) - 1)] for index in range(places)]
    compiled, (keys, rates), stems = program(runs[0], places, chunk_size), arguments(dealt), [run.stem for run in dealt]
    # One process saves what it holds; of several, none could without waiting for the others.
    alone = jax.process_count() == 1
    template = jax.eval_shape(compiled.init, keys, rates)
    found = store.read_begun(options.out, stems, template) if alone else None
    begun = found[0] if found else Begun(compiled.init(keys, rates), [], 0.0)
    # No step at all compiles the program, outside of the time that is measured.
    begun = begun._replace(state=jax.block_until_ready(compiled.advance(keys, begun.state, rates, 0))[0])
    losses = [np.asarray(chunk.loss) for chunk in begun.chunks]
    done = sum(loss.shape[-1] for loss in losses)
    progress.update(bar, advance=done * len(runs))

    def chunk(begun: Begun) -> tuple[segjax.TrainState, segjax.History] | None:
        steps = min(compiled.chunk_size, total - done)
        return compiled.advance(keys, begun.state, rates, steps) if steps else None

    def look(begun: Begun) -> None:
        nonlocal done
        steps = min(compiled.chunk_size, total - done)
        # A process sees the losses of its own devices alone.
        losses.extend(np.asarray(shard.data)[..., :steps] for shard in begun.chunks[-1].loss.addressable_shards)
        done += steps
        if watch:
            watch(begun.state)
        loss = np.mean(np.concatenate(losses, axis=None), dtype=np.float64)
        # The running mean, as the notebook's progress bar has it.
        progress.update(bar, advance=steps * len(runs), description=f"loss {loss:.3g}: {name}")

    save = partial(store.write_begun, options.out, stems) if alone else None
    begun = in_chunks(begun, chunk, look, save, options.checkpoint_seconds)
    progress.update(bar, description=f"evaluating {name}")
    trained = begun.state.variables if compiled.judged else None
    variables = compiled.judged(begun.state) if compiled.judged else begun.state.variables
    parts = compiled.split((variables, list(begun.chunks), compiled.evaluate(variables), trained))
    results = []
    for run, (own_variables, chunks, held_out, own_trained) in zip(runs, parts, strict=False):
        history = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:total], *chunks)
        results.append(Result(run, history, own_variables, held_out, begun.seconds, own_trained))
    return results


def _name(runs: Sequence[Run], optimizer: str) -> str:
    first, devices, optimizer = runs[0], jax.device_count(), shortened(optimizer, _LONGEST_NAME)
    if len(runs) > 1:
        return f"{len(runs)} runs of {optimizer} " + (f"on {devices} devices" if devices > 1 else "side by side")
    return f"{optimizer} {exact(first.learning_rate)}, seed {first.seed}, {first.architecture}, {first.objective}"
