"""Wall-clock times of programs: compiled first, then called in turns, so that noise disturbs all of them alike."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.progress import track


class Call(NamedTuple):
    """A program that is ready to run; `run` returns when the device has done all of it.

    `temporary_bytes` is the memory that XLA sets aside between arguments and results; None for a program of others.
    """

    run: Callable[[], Any]
    temporary_bytes: int | None = None


class Program(NamedTuple):
    """A program to be timed.

    Attributes:
        make: compiles it.
        units: the batches, steps, or runs x steps of one call.
    """

    make: Callable[[], Call]
    units: int = 1


class Timing(NamedTuple):
    """Seconds of one unit in each repeat; those of compiling, the first call's excess included."""

    seconds: list[float]
    compile_seconds: float
    temporary_bytes: int | None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def compiled(function: Callable[..., Any], *arguments: Any) -> Call:
    """A pure function, compiled for its arguments and called with them."""
    program = jax.jit(function).lower(*arguments).compile()
    analysis = program.memory_analysis()
    # A backend need not tell.
    return Call(partial(_run, program, arguments), analysis.temp_size_in_bytes if analysis else None)


def _run(program: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return jax.block_until_ready(program(*arguments))


def measure(programs: dict[str, Program], repeats: int, budget: float, console: Console) -> dict[str, Timing]:
    """Times every program: a call that does not count, then `repeats`, or as many as fit into `budget` seconds."""
    calls: dict[str, Call] = {}
    first: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for name, program in track(programs.items(), "compiling", console=console):
        start = time.perf_counter()
        calls[name] = program.make()
        # The first call counts as compiling: it also fills caches and allocates memory.
        calls[name].run()
        first[name] = time.perf_counter() - start
    for _ in track(range(repeats), "measuring", console=console):
        # In turns: a machine that slows down for a minute slows all programs alike, and their ratios hold.
        for name, call in calls.items():
            if not seconds[name] or sum(seconds[name]) + seconds[name][-1] < budget:
                start = time.perf_counter()
                call.run()
                seconds[name].append(time.perf_counter() - start)
    return {
        name: Timing(
            [second / programs[name].units for second in spent],
            max(0.0, first[name] - statistics.median(spent)),
            calls[name].temporary_bytes,
        )
        for name, spent in seconds.items()
    }
