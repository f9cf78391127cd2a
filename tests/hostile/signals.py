"""Sends random signals at random moments to real commands, and lists the promises that they break.

    python -m tests.hostile.signals --minutes 10

Three kinds of command get signals: one process, two workers, and training by the clock. SIGINT goes to the whole group,
as from a terminal. Each time, a command promises the exit code of the signal, one line after SIGINT and SIGTERM, and to
end within 30 seconds with all of its processes. The same command then resumes until it is done, and has the numbers of
an undisturbed one (by the clock: any results). Exit code 1 means a broken promise.
"""

import argparse
import collections
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from experiments import rerun
from tests.experiments.small_runs import ROOT, SMALL, members

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
# The exit code of Python itself, if a signal comes before the first line of ours.
EARLY = {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: -signal.SIGTERM}
SECONDS = 30
CHECKPOINTS = ["--checkpoint-seconds", "0.01"]
MODEL = ["train_model", *SMALL, "--architecture", "kernel_3", "--iterations", "300", "--show-every", "100"]
COMPARISON = ["compare_optimizers", *SMALL, "--iterations", "300", "--seeds", "3", "--optimizers", "sgd"]
KINDS = {
    "one process": [*MODEL, *CHECKPOINTS],
    "two workers": [*COMPARISON, "--workers", "2"],
    "by the clock": ["train_best_model", *SMALL, "--seconds", "5", "--held-out", "16", *CHECKPOINTS],
}


class Ended(NamedTuple):
    """How a process ended: exit code, stderr, and the seconds since the signal."""

    code: int
    errors: str
    seconds: float


def start(words: list[str], out: Path, cache: Path) -> subprocess.Popen[str]:
    shared = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, "-m", f"experiments.{words[0]}", *words[1:], "--out", str(out)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | shared, text=True, start_new_session=True, **pipes)


def finish(process: subprocess.Popen[str], begin: float, limit: float) -> Ended:
    try:
        _, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        return Ended(process.wait(), "did not end", time.monotonic() - begin)
    return Ended(process.returncode, errors, time.monotonic() - begin)


def behind(process: subprocess.Popen[str]) -> str:
    """The broken promise of processes that outlive their command; workers may end a little later."""
    end = time.monotonic() + SECONDS
    while (remaining := members(process.pid)) and time.monotonic() < end:
        time.sleep(0.1)
    return f"left {len(remaining)} processes behind" if remaining else ""


def whole(words: list[str], out: Path, cache: Path) -> float:
    """Runs the command undisturbed, and returns its seconds."""
    begin = time.monotonic()
    ended = finish(start(words, out, cache), begin, 600)
    if ended.code:
        raise SystemExit(f"the command fails undisturbed: {ended.errors}")
    return time.monotonic() - begin


def broken(number: int, ended: Ended, was_alive: bool) -> str:
    """The broken promise, or nothing; `was_alive` when the process got the signal."""
    if ended.code == 0 and not was_alive:
        return ""
    if ended.seconds > SECONDS:
        return f"ended {ended.seconds:.0f} s later"
    if number == signal.SIGKILL and ended.code in (-number, 0):
        return ""
    if ended.code == EARLY.get(number) and "experiments" not in ended.errors:
        return ""
    if ended.code == 0 and ended.seconds < 1:
        # It was about to end: Python handles no signal in its last line.
        return ""
    if ended.code != SIGNALS[number]:
        return f"exit code {ended.code}"
    lines = ended.errors.strip().splitlines()
    return "" if len(lines) == 1 and lines[0].startswith("interrupted") else f"printed {ended.errors!r}"


def differs(name: str, home: Path) -> str:
    """How the results of a command differ from those of the undisturbed one."""
    folders = (home / f"{name}, whole", home / name)
    first, second = (json.loads((folder / "results.json").read_text()) for folder in folders)
    if name == "by the clock":
        return "" if second["snapshots"] else "no snapshots"
    differences = rerun.differences(first, second)
    return f"{len(differences)} numbers differ, the first {differences[0]}" if differences else ""


def disturb(name: str, home: Path, number: int, wait: float) -> tuple[bool, list[str]]:
    """Sends a command a signal after `wait` seconds; returns whether the command finished, and broken promises."""
    process = start(KINDS[name], home / name, home / "cache")
    time.sleep(wait)
    begin, was_alive = time.monotonic(), process.poll() is None
    if number == signal.SIGINT and was_alive:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    ended = finish(process, begin, SECONDS)
    promises = [broken(number, ended, was_alive), behind(process)]
    if ended.code == 0:
        promises.append(differs(name, home))
        shutil.rmtree(home / name)
    return ended.code == 0, [promise for promise in promises if promise]


def resume(name: str, home: Path) -> list[str]:
    """Runs a command to its end, and returns broken promises."""
    try:
        whole(KINDS[name], home / name, home / "cache")
        promise = differs(name, home)
    except SystemExit as failure:
        promise = str(failure)
    return [promise] if promise else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args()
    # A shell that starts this in the background has it ignore SIGINT, and so would all processes that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng, failures, num_finished = random.Random(options.seed), [], 0
    signals: collections.Counter[tuple[str, int]] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        home, seconds = Path(folder), {}
        for name in options.kinds:
            whole(KINDS[name], home / f"{name}, first", home / "cache")
            # The second run has its programs compiled, as all that follow do.
            seconds[name] = whole(KINDS[name], home / f"{name}, whole", home / "cache")
            print(f"{name}: {seconds[name]:.1f} s undisturbed", flush=True)
        end, names = time.monotonic() + 60 * options.minutes, itertools.cycle(options.kinds)
        while time.monotonic() < end:
            name, number = next(names), rng.choice(list(SIGNALS))
            wait = rng.uniform(0, seconds[name])
            finished, promises = disturb(name, home, number, wait)
            signals[name, number] += 1
            num_finished += finished
            when = f"{name}, {signal.Signals(number).name} after {wait:.2f} s"
            failures += [f"{when}: {promise}" for promise in promises]
        for name in options.kinds:
            failures += [f"{name}, at the end: {promise}" for promise in resume(name, home)]
    for (name, number), count in sorted(signals.items()):
        print(f"{name}: {count} times {signal.Signals(number).name}")
    print(f"{signals.total()} signals, {num_finished} finished in between, {len(failures)} promises broken")
    for line in failures:
        print(f"  {line}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
