"""Wall-clock times of programs: compiled first, then called in turns, so that noise disturbs all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax

from experiments.lab.question import Lab


class Call(NamedTuple):
    """A program that is ready to run.

    Attributes:
        run: returns when the device has done all of it.
        temporary_bytes: memory that XLA sets aside between arguments and results; None for a program of others.
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
    """Seconds per unit in each repeat; seconds of compilation, with the excess of the first call."""

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
    # A backend need not know its memory.
    return Call(partial(_run, program, arguments), analysis.temp_size_in_bytes if analysis else None)


def _run(program: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return jax.block_until_ready(program(*arguments))


def measure(programs: Mapping[str, Program], repeats: int, budget: float, lab: Lab) -> dict[str, Timing]:
    """Times every program: a call that does not count, then `repeats`, or as many as fit into `budget` seconds."""
    calls: dict[str, Call] = {}
    first: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    with lab.progress() as progress:
        for name, program in progress.track(programs.items(), description="compiling"):
            start = time.perf_counter()
            calls[name] = program.make()
            # The first call counts as compilation: it also fills caches and allocates memory.
            calls[name].run()
            first[name] = time.perf_counter() - start
        for _ in progress.track(range(repeats), description="measuring"):
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
