"""The outside of every command: command line -> options -> work, and every mistake as one line on stderr."""

import contextlib
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import matplotlib
import tyro

from experiments.lab import stops
from experiments.lab.folder import kept_in
from experiments.lab.names import printable
from experiments.lab.options import program

Options = TypeVar("Options")


class Stream(io.TextIOWrapper):
    """The screen as a command needs it: what cannot be written there stops no work, and any file's name can be.

    Its reader may leave, as that of `| head` does, its disk may be full, and it may not be there at all.
    """

    def __init__(self, stream: Any) -> None:
        buffer = stream.detach() if stream else open(os.devnull, "wb")  # noqa: SIM115, open until the end
        # A name that is not UTF-8 is shown with escapes.
        super().__init__(buffer, getattr(stream, "encoding", "utf-8"), errors="backslashreplace", line_buffering=True)

    def write(self, text: str) -> int:
        with self._unless_lost():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._unless_lost():
            super().flush()

    @contextlib.contextmanager
    def _unless_lost(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            # What is still in the buffer would fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


def command(main: Callable[[Options], None], options: type[Options], presets: Mapping[str, Options]) -> NoReturn:
    """`run`, for a process that does nothing else: it handles signals, and skips the interpreter's orderly end."""
    code: Any = 0
    sys.stdout, sys.stderr = Stream(sys.stdout), Stream(sys.stderr)
    # Figures are the same for everybody, whatever a matplotlibrc says.
    matplotlib.rcdefaults()
    try:
        run(main, options, presets)
    except SystemExit as end:
        code = end.code if end.code is None or isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    # XLA may still be compiling in a thread of its own.
    os._exit(code or 0)


def run(main: Callable[[Options], None], options: type[Options], presets: Mapping[str, Options]) -> None:
    """Runs a command: the first argument may choose the defaults, and options override them."""
    try:
        parsed = parse(options, presets, sys.argv[1:])
        stops.install(partial(last_words, parsed))
        try:
            main(parsed)
        except stops.Interrupted as stop:
            stops.ignore()
            _exit(last_words(parsed), stops.exit_code(stop))
        except stops.EngineError as error:
            _exit(f"error: {error}; {kept_in(_out(parsed))}", stops.exit_code(error))
        except MemoryError as error:
            _exit("error: out of memory: choose smaller sizes", stops.exit_code(error))
        except FloatingPointError as error:
            # Where jax is told to look for NaN.
            _exit(f"error: {str(error).partition(chr(10))[0]}", stops.exit_code(error))
        except RuntimeError as error:
            # jax's errors have many layers; only these two are the user's to mend.
            if words := re.search(r"out of memory.*?(?:\.(?!\d)|$)", str(error), re.IGNORECASE | re.MULTILINE):
                _exit(f"error: {words[0].rstrip('.')}: choose smaller sizes", stops.exit_code(error))
            if words := re.search(r"Unable to initialize backend.*", str(error)):
                raise stops.UsageError(words[0]) from error
            raise
        except OSError as error:
            said = f"error: {error.filename or 'a file'}: {error.strerror or error}; what was kept before is as it was"
            _exit(said, stops.exit_code(error))
    except stops.UsageError as error:
        _exit(f"error: {error}", stops.exit_code(error))
    except stops.Finished as word:
        print(printable(str(word)))


def last_words(options: object) -> str:
    """The message printed when a signal ends the command."""
    return printable(f"interrupted; {kept_in(_out(options))}")


def _out(options: object) -> Path:
    return Path(getattr(options, "out", "."))


def parse(options: type[Options], presets: Mapping[str, Options], arguments: Sequence[str]) -> Options:
    """Options from command line arguments, of which the first may name a preset; the first preset is the default.

    Raises:
        UsageError: if the first argument is neither a preset nor an option.
        SystemExit: with 2 after tyro has shown another mistake in a frame, and with 0 after `--help`.
    """
    arguments, default = list(arguments), next(iter(presets.values()), None)
    if presets and arguments and not arguments[0].startswith("-"):
        if arguments[0] not in presets:
            known = ", ".join(presets)
            raise stops.UsageError(f"the first word must be an option or one of: {known}; got {arguments[0]!r}")
        default = presets[arguments.pop(0)]
    docstring = sys.modules[options.__module__].__doc__ or options.__doc__ or ""
    words: dict[str, Any] = {"prog": " ".join(program()), "description": docstring, "args": arguments}
    if presets:
        words |= {"default": default, "description": f"{docstring}\nPresets, as the first word: {', '.join(presets)}."}
    return tyro.cli(options, config=(tyro.conf.OmitArgPrefixes,), **words)


def _exit(message: str, code: int) -> NoReturn:
    print(printable(" ".join(message.split())), file=sys.stderr)
    raise SystemExit(code)
