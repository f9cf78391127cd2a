import time
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments.bench import timing
from experiments.bench.timing import Call, Program
from experiments.lab.train import progress_bar


@pytest.mark.slow
def test_compilation_is_timed_apart_and_slow_programs_get_fewer_repeats():
    calls = {"slow": 0, "fast": 0}

    def make(name, seconds):
        def call():
            calls[name] += 1
            time.sleep(seconds)

        time.sleep(0.2)
        return Call(call)

    programs = {"slow": Program(lambda: make("slow", 0.2), 2), "fast": Program(lambda: make("fast", 0.001))}
    lab = SimpleNamespace(progress=lambda: progress_bar(Console(quiet=True)))
    times = timing.measure(programs, 4, 0.59, lab)
    assert {name: len(timed.seconds) for name, timed in times.items()} == {"slow": 2, "fast": 4}
    assert calls == {"slow": 3, "fast": 5}
    # A unit is half a call.
    assert 0.1 <= times["slow"].median < 0.2
    assert times["slow"].compile_seconds >= 0.1


def test_a_compiled_program_tells_its_memory():
    call = timing.compiled(lambda x: jnp.sort(x)[::2] @ jnp.sort(x)[1::2], jnp.arange(1000.0))
    # Both halves, sorted.
    assert call.temporary_bytes >= 4000
    np.testing.assert_allclose(call.run(), np.arange(0.0, 1000, 2) @ np.arange(1.0, 1000, 2), rtol=1e-5)
