"""How long from a command to its first training step, and how much memory does it take? A process of its own.

    python -m experiments.bench.first_step ours 8 128 5        a command of ours up to its first step
    python -m experiments.bench.first_step notebook 8 128 5    the notebook as written, in PyTorch
    python -m experiments.bench.first_step tuned 8 128 5       the same, tuned

The numbers are the batch size, the image size, and the further steps after which the peak of memory is read.
`experiments.benchmark` starts it, and reads the one line of JSON that it prints.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any


def ours(batch_size: int, image_size: int, steps: int) -> dict[str, Any]:
    # All that a command imports: it counts.
    import jax

    from experiments.lab import experiment, runs

    assert experiment
    run = runs.Run(seed=0, texture=runs.Texture(batch_size, image_size, sigma=image_size / 5))
    program, (keys, rates) = runs.program(run), runs.arguments([run])
    state = program.init(keys, rates)
    state, _ = jax.block_until_ready(program.advance(keys, state, rates, 1))
    moment = time.time()
    for _ in range(steps):
        state, _ = jax.block_until_ready(program.advance(keys, state, rates, 1))
    memory = jax.devices()[0].memory_stats() or {}
    return {
        "moment": moment,
        "platform": jax.default_backend(),
        "device_peak_bytes": memory.get("peak_bytes_in_use"),
    }


def pytorch(tuned: bool, batch_size: int, image_size: int, steps: int) -> dict[str, Any]:
    # The peers compute a few constants by segjax. For these jax would look for a GPU, and take 75 % of its memory.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from experiments.bench import peers

    draw = (peers.separable_batch if tuned else peers.dense_batch)(batch_size, image_size)
    training = peers.Training(channels_last=tuned, tuned=tuned)
    peers.iterations(training, draw, 1).run()
    moment = time.time()
    peers.iterations(training, draw, steps).run()
    return {"moment": moment, "platform": peers.platform(), "device_peak_bytes": peers.peak_device_bytes()}


def peak_bytes() -> int:
    """The most memory that this process had so far."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        # macOS, in bytes. Linux would count here what its parent had before it became this process.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (words,) = [line.split() for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(words[1])


def main(name: str, *numbers: str) -> None:
    sizes = [int(number) for number in numbers]
    result = ours(*sizes) if name == "ours" else pytorch(name == "tuned", *sizes)
    print(json.dumps({**result, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
