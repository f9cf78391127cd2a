"""Wall-clock times of programs, which are compiled first and then called in turns: noise disturbs all of them alike."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax

from experiments.lab.question import Lab

_Name = TypeVar("_Name", bound=Hashable)


class Call(NamedTuple):
    """A program that is ready to run.

    Attributes:
        run: returns when the device has finished.
        temporary_bytes: memory that XLA reserves besides arguments and results; None if it is not XLA's program.
    """

    run: Callable[[], Any]
    temporary_bytes: int | None = None


class Program(NamedTuple):
    """A program to be timed.

    Attributes:
        make: compiles it.
        units: batches, steps, or runs x steps in one call.
        flops: operations of a unit, if they are counted.
    """

    make: Callable[[], Call]
    units: int = 1
    flops: float | None = None


class Timing(NamedTuple):
    """Seconds per unit in each repeat; seconds of compilation, including the excess of the first call."""

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
    # Some backends report no memory.
    temporary_bytes = analysis.temp_size_in_bytes if analysis else None
    return Call(lambda: jax.block_until_ready(program(*arguments)), temporary_bytes)


def measure(programs: Mapping[_Name, Program], repeats: int, budget: float, lab: Lab) -> dict[_Name, Timing]:
    """Times each program: a first call that does not count, then `repeats`, or as many as fit into `budget` seconds."""
    calls: dict[_Name, Call] = {}
    first_seconds: dict[_Name, float] = {}
    seconds: dict[_Name, list[float]] = {name: [] for name in programs}
    with lab.progress() as progress:
        for name, program in progress.track(programs.items(), description="compiling"):
            start = time.perf_counter()
            calls[name] = program.make()
            # The first call counts as compilation: it also fills caches and allocates memory.
            calls[name].run()
            first_seconds[name] = time.perf_counter() - start
        for _ in progress.track(range(repeats), description="measuring"):
            # In turns: a machine that slows down for a minute slows all programs alike, and their ratios hold.
            for name, call in calls.items():
                if not seconds[name] or sum(seconds[name]) + seconds[name][-1] < budget:
                    start = time.perf_counter()
                    call.run()
                    seconds[name].append(time.perf_counter() - start)
    return {
        name: Timing(
            [value / programs[name].units for value in values],
            max(0.0, first_seconds[name] - statistics.median(values)),
            calls[name].temporary_bytes,
        )
        for name, values in seconds.items()
    }
