"""How a command ends early: a mistake of the user, results that exist already, or a signal."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Returns the message printed when a signal ends the command; None before `install`.
_message: Callable[[], str] | None = None


class UsageError(Exception):
    """The user asked for something impossible; the message is the one line that they read."""


class EngineError(Exception):
    """The workers or their scheduler fail; the message is the one line that the user reads."""


class Finished(BaseException):
    """The results exist already, which is no error; the message is the one line that the user reads."""


class Interrupted(BaseException):
    """A signal asked the command to stop, and a checkpoint is written. No Exception, as KeyboardInterrupt is none."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by signal {number}")
        self.number = number


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turns the library's ValueError and TypeError into a UsageError: for the checks before the work."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error


def install(message: Callable[[], str]) -> None:
    """Lets either signal end the process at once, with one line; signals that were ignored stay ignored.

    Nothing is raised: Python swallows exceptions in a garbage collector's callback, such as jax's, and XLA's threads
    may not survive an orderly shutdown. Files are written whole or not at all, so the process may end at any moment.

    Args:
        message: returns the line.
    """
    global _message
    _message = message
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def ignore() -> None:
    """Ignores further signals: the message is being printed."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end(number: int, _: FrameType | None = None) -> None:
    if _message:
        # Shows the cursor again, which a progress bar hides.
        cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
        # Not `print`, which fails if the signal came during another print.
        os.write(2, f"{cursor}{_message()}\n".encode(errors="backslashreplace"))
    os._exit(128 + number)


@contextlib.contextmanager
def deferred(enabled: bool = True) -> Iterator[list[int]]:
    """Inside, the first signal is only added to the list that this yields; a second one ends the process.

    Raises:
        Interrupted: at the end, if a signal has come and no other error is raised.
    """
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if received:
            _end(number)
        received.append(number)

    # Only the main thread can set signal handlers.
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield received
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        raise Interrupted(received[0])
