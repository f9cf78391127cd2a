"""SIGINT and SIGTERM: work that is under way is first brought to a point from which it can go on."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The command was asked to stop, by this signal; not an Exception, like KeyboardInterrupt."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by signal {number}")
        self.number = number


def install() -> None:
    """From now on both raise `Interrupted`, wherever the program is; one that is ignored stays so."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Interrupted(number)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


@contextlib.contextmanager
def deferred() -> Iterator[list[int]]:
    """Inside, the first signal is only put into the list that this gives, to be looked at; a second ends all."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)

    # Python handles signals in its main thread alone.
    if threading.current_thread() is not threading.main_thread():
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
