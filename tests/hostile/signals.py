"""Random signals at random moments, to real commands; says which promise was broken, if any.

    python -m tests.hostile.signals --minutes 10

Three kinds of command are told to stop, or killed: one process, two workers, and one that trains by the clock. SIGINT
goes to the whole group, as from a terminal. Promised are, each time: the exit code of the signal, and with SIGINT and
SIGTERM one line; an end within 30 seconds, with no process left behind. The same command then goes on until it is
done, and has the numbers of one that nothing disturbed (by the clock: results at all). Exit code 1 where a promise was
broken.
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
# What Python itself gives where a signal comes before its first line of ours.
EARLY = {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: -signal.SIGTERM}
SECONDS = 30
MODEL = ["train_model", *SMALL, "--architecture", "kernel_3", "--iterations", "300", "--show-every", "100"]
PAIRED = ["compare_optimizers", *SMALL, "--iterations", "300", "--seeds", "3", "--optimizers", "sgd"]
CLOCK = ["train_best_model", *SMALL, "--seconds", "5", "--held-out", "16"]
SAVED = ["--checkpoint-seconds", "0.01"]


KINDS = {
    "one process": [*MODEL, *SAVED],
    "two workers": [*PAIRED, "--workers", "2"],
    "by the clock": [*CLOCK, *SAVED],
}


class Ended(NamedTuple):
    """How a process ended: exit code, stderr, and the seconds since the signal."""

    code: int
    said: str
    seconds: float


def start(words: list[str], out: Path, cache: Path) -> subprocess.Popen[str]:
    shared = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, "-m", f"experiments.{words[0]}", *words[1:], "--out", str(out)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | shared, text=True, start_new_session=True, **pipes)


def finish(process: subprocess.Popen[str], begin: float, limit: float) -> Ended:
    try:
        _, said = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        return Ended(process.wait(), "did not end", time.monotonic() - begin)
    return Ended(process.returncode, said, time.monotonic() - begin)


def behind(process: subprocess.Popen[str]) -> str:
    """What a command leaves behind: its workers may end a little later."""
    end = time.monotonic() + SECONDS
    while (left := members(process.pid)) and time.monotonic() < end:
        time.sleep(0.1)
    return f"left {len(left)} processes behind" if left else ""


def whole(words: list[str], out: Path, cache: Path) -> float:
    """Runs the command undisturbed; the seconds that it took."""
    begin = time.monotonic()
    ended = finish(start(words, out, cache), begin, 600)
    if ended.code:
        raise SystemExit(f"the command fails undisturbed: {ended.said}")
    return time.monotonic() - begin


def broken(number: int, ended: Ended, seen: bool) -> str:
    """The promise that was broken; `seen` says that the process was alive when it got the signal."""
    if ended.code == 0 and not seen:
        return ""
    if ended.seconds > SECONDS:
        return f"ended {ended.seconds:.0f} s later"
    if number == signal.SIGKILL and ended.code in (-number, 0):
        return ""
    if ended.code == EARLY.get(number) and "experiments" not in ended.said:
        return ""
    if ended.code == 0 and ended.seconds < 1:
        # It was about to end: Python hears no signal in its last line.
        return ""
    if ended.code != SIGNALS[number]:
        return f"exit code {ended.code}"
    lines = ended.said.strip().splitlines()
    return "" if len(lines) == 1 and lines[0].startswith("interrupted") else f"said {ended.said!r}"


def differs(words: list[str], out: Path, reference: Path) -> str:
    """How the results differ from those of the undisturbed command."""
    first, second = (json.loads((folder / "results.json").read_text()) for folder in (reference, out))
    if words[0] == CLOCK[0]:
        return "" if second["snapshots"] else "no snapshots"
    found = rerun.differences(first, second)
    return f"{len(found)} numbers differ, the first {found[0]}" if found else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args()
    # A shell that starts this in the background has it ignore SIGINT, and so would all processes that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng = random.Random(options.seed)
    tries: collections.Counter[tuple[str, int]] = collections.Counter()
    failed, finished = [], 0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        seconds = {}
        for name in options.kinds:
            whole(KINDS[name], home / f"{name}, first", home / "cache")
            # The second finds its programs compiled, as all that follow do.
            seconds[name] = whole(KINDS[name], home / f"{name}, whole", home / "cache")
            print(f"{name}: {seconds[name]:.1f} s undisturbed", flush=True)
        end = time.monotonic() + 60 * options.minutes
        for name in itertools.cycle(options.kinds):
            if time.monotonic() > end:
                break
            words, out, number = KINDS[name], home / name, rng.choice(list(SIGNALS))
            running, wait = start(words, out, home / "cache"), rng.uniform(0, seconds[name])
            time.sleep(wait)
            begin, seen = time.monotonic(), running.poll() is None
            if number == signal.SIGINT and seen:
                os.killpg(running.pid, number)
            else:
                running.send_signal(number)
            tries[name, number] += 1
            ended = finish(running, begin, SECONDS)
            said = [broken(number, ended, seen), behind(running)]
            if ended.code == 0:
                finished += 1
                said.append(differs(words, out, home / f"{name}, whole"))
                shutil.rmtree(out)
            failed += [f"{name}, {signal.Signals(number).name} after {wait:.2f} s: {word}" for word in said if word]
        for name in options.kinds:
            # What the last signals left goes on as well.
            try:
                whole(KINDS[name], home / name, home / "cache")
                word = differs(KINDS[name], home / name, home / f"{name}, whole")
            except SystemExit as failure:
                word = str(failure)
            failed += [f"{name}, at the end: {word}"] if word else []
    for (name, number), count in sorted(tries.items()):
        print(f"{name}: {count} times {signal.Signals(number).name}")
    print(f"{tries.total()} signals, {finished} finished in between, {len(failed)} promises broken")
    for line in failed:
        print(f"  {line}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
