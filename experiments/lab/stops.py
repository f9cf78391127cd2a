"""How a command ends early: the user's mistake, nothing left to do, or a signal; and the exit code of each."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Gives the line of a command that a signal ends; None before `install`.
_last_words: Callable[[], str] | None = None


class UsageError(Exception):
    """The user asked for something that cannot be done; the message is the one line that they read."""


class EngineError(Exception):
    """The workers or their scheduler fail; the message is the one line that the user reads."""


class Finished(BaseException):
    """The user asked for something that is done already, which is no error; the message is the one line they read."""


class Interrupted(BaseException):
    """A signal asked the command to stop, and all is saved. Like KeyboardInterrupt it is no Exception."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by signal {number}")
        self.number = number


def exit_code(error: BaseException) -> int:
    """The exit code of a command that ends with this error."""
    if isinstance(error, Interrupted):
        # The shell's convention for a process that a signal ended.
        return 128 + error.number
    return {UsageError: 2, Finished: 0}.get(type(error), 1)


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turns the library's ValueError and TypeError into a UsageError: for the checks before the work."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error


def install(last_words: Callable[[], str]) -> None:
    """From now on either signal ends the process at once, with one line; an ignored signal stays ignored.

    Nothing is raised: Python swallows an exception within a garbage collector's callback, such as jax's, and XLA's
    threads may not survive an orderly end. Files are written whole or not at all, so that any moment will do.

    Args:
        last_words: gives the line.
    """
    global _last_words
    _last_words = last_words
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def ignore() -> None:
    """From now on no signal is heard: the line is said."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end(number: int, _: FrameType | None = None) -> None:
    if _last_words:
        # A progress bar hides the cursor.
        cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
        # `print` fails where the signal came within another print.
        os.write(2, f"{cursor}{_last_words()}\n".encode(errors="backslashreplace"))
    os._exit(128 + number)


@contextlib.contextmanager
def deferred(wanted: bool = True) -> Iterator[list[int]]:
    """Inside, the first signal only enters the list that this yields, for the work to look at; a second ends all."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if received:
            _end(number)
        received.append(number)

    # Python handles signals in its main thread alone.
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
