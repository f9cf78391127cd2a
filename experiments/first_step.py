"""How long from a command to its first training step, and how much memory does it take? A process of its own.

    python -m experiments.first_step ours        experiments.train_model up to its first step
    python -m experiments.first_step notebook    the notebook as written, in PyTorch
    python -m experiments.first_step tuned       the same, tuned

`experiments.benchmark` starts it, and reads the one line of JSON that it prints: the moment of the first step, and the
peak of memory after `--steps` more.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAMES = ("ours", "notebook", "tuned")


def measured(name: str, batch_size: int, image_size: int, steps: int) -> dict[str, Any]:
    """Starts the process and waits for it: {"seconds": to the first step, "peak_bytes", "device_peak_bytes"}."""
    sizes = {"batch-size": batch_size, "image-size": image_size, "steps": steps}
    words = [sys.executable, "-m", "experiments.first_step", name]
    start = time.time()
    done = subprocess.run(
        [*words, *(f"--{option}={value}" for option, value in sizes.items())], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": result.pop("moment") - start, **result}


def ours(batch_size: int, image_size: int, steps: int) -> dict[str, Any]:
    # All that the command itself imports.
    import jax

    from experiments import programs, train_model
    from experiments.runs import Run

    options = train_model.Options(batch_size=batch_size, image_size=image_size, sigma=image_size / 5)
    run = Run("", 0, options.optimizer, options.learning_rate, options.iterations)
    fit = programs.program(run, train_model.settings.texture(options))
    key = jax.random.key(0)
    state = fit.init(key, run.learning_rate)
    state, _ = jax.block_until_ready(fit.advance(key, state, run.learning_rate, 1))
    moment = time.time()
    for _ in range(steps):
        state, _ = jax.block_until_ready(fit.advance(key, state, run.learning_rate, 1))
    memory = jax.devices()[0].memory_stats() or {}
    return {"moment": moment, "device_peak_bytes": memory.get("peak_bytes_in_use")}


def pytorch(tuned: bool, batch_size: int, image_size: int, steps: int) -> dict[str, Any]:
    from experiments import peers

    draw = (peers.separable_batch if tuned else peers.dense_batch)(batch_size, image_size)
    training = peers.Training(channels_last=tuned, tuned=tuned)
    peers.iterations(training, draw, 1).run()
    moment = time.time()
    peers.iterations(training, draw, steps).run()
    return {"moment": moment, "device_peak_bytes": peers.peak_device_bytes()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=NAMES)
    for option in ("batch-size", "image-size", "steps"):
        parser.add_argument(f"--{option}", type=int, required=True)
    given = parser.parse_args()
    sizes = (given.batch_size, given.image_size, given.steps)
    result = ours(*sizes) if given.name == "ours" else pytorch(given.name == "tuned", *sizes)
    print(json.dumps({**result, "peak_bytes": peak_bytes()}))


def peak_bytes() -> int:
    """The most memory that this process had so far."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        # macOS, in bytes. Linux would count here what its parent had before it became this process.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (words,) = [line.split() for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(words[1])


if __name__ == "__main__":
    main()
