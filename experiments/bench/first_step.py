"""How long does a command take to its first training step, and how much memory? A process of its own.

    python -m experiments.bench.first_step ours 8 128 5        a command of ours
    python -m experiments.bench.first_step notebook 8 128 5    the notebook as written, in PyTorch
    python -m experiments.bench.first_step tuned 8 128 5       the same, tuned

The numbers are the batch size, the image size, and how many further steps run before the peak memory is read.
`experiments.benchmark` starts this process and reads the line of JSON that it prints.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path


def ours(batch_size: int, image_size: int, steps: int) -> float:
    """The moment of the first step of a command of ours."""
    # The imports of a command count, including `question`.
    import jax

    from experiments.lab import programs, question, runs
    from experiments.lab.options import Data

    assert question
    run = runs.Run(seed=0, texture=Data(batch_size=batch_size, image_size=image_size).texture)
    program, (keys, rates) = programs.program(run), programs.arguments([run])
    state = program.init(keys, rates)
    state, _ = jax.block_until_ready(program.advance(keys, state, rates, 1))
    moment = time.time()
    for _ in range(steps):
        state, _ = jax.block_until_ready(program.advance(keys, state, rates, 1))
    return moment


def pytorch(tuned: bool, batch_size: int, image_size: int, steps: int) -> float:
    """The moment of the first step of the notebook in PyTorch, as written or tuned."""
    # The peers compute a few constants with segjax, for which jax would look for a GPU and take 75 % of its memory.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from experiments.bench import peers

    draw = (peers.separable_batch if tuned else peers.dense_batch)(batch_size, image_size)
    training = peers.Training(channels_last=tuned, tuned=tuned)
    peers.iterations(training, draw, 1).run()
    moment = time.time()
    peers.iterations(training, draw, steps).run()
    return moment


def peak_bytes() -> int:
    """The peak memory of this process."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        # macOS counts in bytes. On Linux this number would include the parent's memory before the exec.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (fields,) = [line.split() for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(fields[1])


def main(name: str, *numbers: str) -> None:
    sizes = [int(number) for number in numbers]
    moment = ours(*sizes) if name == "ours" else pytorch(name == "tuned", *sizes)
    print(json.dumps({"moment": moment, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
