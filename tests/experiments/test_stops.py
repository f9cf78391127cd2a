"""The ways in which a command ends early."""

import signal
import subprocess
import sys
import threading

import pytest
from small_runs import ROOT

from experiments.lab import stops


def test_a_signal_within_a_callback_of_the_garbage_collector_is_not_swallowed():
    """Python would print an exception that is raised there, and continue; jax has such a callback."""
    code = "import gc, os, signal; from experiments.lab import stops\nstops.install(lambda: 'interrupted')\n"
    code += "gc.callbacks.append(lambda *_: os.kill(os.getpid(), signal.SIGTERM))\ngc.collect(); print('went on')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "interrupted\n")


def test_a_second_signal_ends_all_at_once():
    code = "import os, signal; from experiments.lab.stops import deferred\nwith deferred() as signals:\n"
    code += "    os.kill(os.getpid(), signal.SIGINT); print(signals, flush=True); os.kill(os.getpid(), signal.SIGTERM)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (143, "[2]\n")


def test_a_signal_is_raised_at_the_end_and_handlers_are_what_they_were():
    before = [signal.getsignal(number) for number in stops.SIGNALS]

    def work():
        with stops.deferred() as signals:
            signal.raise_signal(signal.SIGINT)
            assert signals == [signal.SIGINT]

    with pytest.raises(stops.Interrupted) as end:
        work()
    assert end.value.number == signal.SIGINT
    assert [signal.getsignal(number) for number in stops.SIGNALS] == before


def test_work_without_checkpoints_is_stopped_at_once():
    with stops.deferred(False) as signals, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signals == []


def test_another_thread_gets_no_signal_and_changes_no_handler():
    handlers, before = [], [signal.getsignal(number) for number in stops.SIGNALS]

    def work():
        with stops.deferred() as signals:
            handlers.append((signals, [signal.getsignal(number) for number in stops.SIGNALS]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [([], before)]


@pytest.mark.parametrize("error", [ValueError("too small"), TypeError("no number")])
def test_a_value_that_the_library_refuses_is_the_user_s_mistake(error):
    with pytest.raises(stops.UsageError, match=str(error)) as end, stops.usage_errors():
        raise error
    assert end.value.__cause__ is error


def test_no_other_error_is_the_user_s_mistake():
    with pytest.raises(KeyError), stops.usage_errors():
        raise KeyError
