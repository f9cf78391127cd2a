"""The script of random signals tells broken promises from kept ones, and lists none in half a minute."""

import signal
import subprocess
import sys

import pytest

from tests.experiments.small_runs import ROOT
from tests.hostile.signals import Ended, broken

INTERRUPTED = "interrupted; the same command resumes\n"


@pytest.mark.parametrize(
    ("number", "ended", "promise"),
    [
        (signal.SIGINT, Ended(130, INTERRUPTED, 0.5), ""),
        (signal.SIGTERM, Ended(143, INTERRUPTED, 0.5), ""),
        (signal.SIGKILL, Ended(-9, "", 0.5), ""),
        (signal.SIGTERM, Ended(-11, "", 0.5), "exit code -11"),
        (signal.SIGINT, Ended(139, INTERRUPTED, 0.5), "exit code 139"),
        (signal.SIGINT, Ended(143, INTERRUPTED, 0.5), "exit code 143"),
        # The command ignored the signal.
        (signal.SIGINT, Ended(0, "", 5.0), "exit code 0"),
        (signal.SIGINT, Ended(130, INTERRUPTED, 40.0), "ended 40 s later"),
        (signal.SIGINT, Ended(130, "Exception ignored in: _xla_gc_callback\n" + INTERRUPTED, 0.5), "printed"),
        (signal.SIGINT, Ended(-2, "Traceback:\n experiments/train_model.py\n", 0.5), "exit code -2"),
    ],
)
def test_a_broken_promise_is_named(number, ended, promise):
    text = broken(number, ended, was_alive=True)
    assert text.startswith(promise)
    assert bool(text) == bool(promise)


@pytest.mark.deep(150)
def test_half_a_minute_of_signals():
    words = [sys.executable, "-m", "tests.hostile.signals", "--minutes", "0.5", "--kinds", "one process", "two workers"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 promises broken" in done.stdout
