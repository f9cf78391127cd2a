"""The outside of every command: command line -> options -> work, and every mistake as one line on stderr."""

import argparse
import contextlib
import dataclasses
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import matplotlib
import tyro

from experiments.lab import stops, store
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
    """`run`, for a process that does nothing else: it hears signals, and ends without the interpreter's orderly end."""
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
    # XLA may still be compiling in a thread of its own, and jax.distributed would wait for its peers.
    os._exit(code or 0)


def run(main: Callable[[Options], None], options: type[Options], presets: Mapping[str, Options]) -> None:
    """Runs a command: `--preset NAME` chooses the defaults, every other option overrides them."""
    try:
        parsed = parse(options, presets, sys.argv[1:])
        stops.install(partial(last_words, parsed))
        try:
            main(parsed)
        except stops.Interrupted as stop:
            stops.ignore()
            _exit(last_words(parsed), stops.exit_code(stop))
        except MemoryError as error:
            _exit("error: out of memory: choose smaller sizes", stops.exit_code(error))
        except FloatingPointError as error:
            # Where jax is told to look for NaN.
            _exit(f"error: {str(error).partition(chr(10))[0]}", stops.exit_code(error))
        except RuntimeError as error:
            # jax's errors have many layers; only these two are the user's to mend.
            if words := re.search(r"out of memory.*?(\d+ bytes)?\.", str(error), re.IGNORECASE):
                _exit(f"error: {words[0].rstrip('.')}: choose smaller sizes", stops.exit_code(error))
            if words := re.search(r"Unable to initialize backend.*", str(error)):
                raise stops.UsageError(words[0]) from error
            raise
        except OSError as error:
            said = f"error: {error.filename or 'a file'}: {error.strerror}; what was kept before is as it was"
            _exit(said, stops.exit_code(error))
    except stops.UsageError as error:
        _exit(f"error: {error}", stops.exit_code(error))
    except stops.Finished as word:
        print(printable(str(word)))


def last_words(options: object) -> str:
    """What an interrupted command says."""
    return printable(f"interrupted; {store.kept(Path(getattr(options, 'out', '.')))}")


def parse(options: type[Options], presets: Mapping[str, Options], arguments: Sequence[str]) -> Options:
    """Options from command line arguments; a UsageError where they make none."""
    # tyro takes the defaults before it reads the command line, and the preset chooses them; the first is the default.
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument("--preset", nargs="?", default=next(iter(presets), None))
    preset = reader.parse_known_args(arguments)[0].preset
    if presets and preset not in presets:
        raise stops.UsageError(f"--preset must be of: {', '.join(presets)}; got {preset!r}")
    words: dict[str, Any] = {"prog": " ".join(program()), "args": arguments}
    if presets:
        words["default"] = dataclasses.replace(cast(Any, presets[preset]), preset=preset)
        words["description"] = f"{options.__doc__} Presets: {', '.join(presets)}."
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(options, **words)
    except SystemExit as end:
        if not end.code:
            raise
        raise stops.UsageError(f"{_first_paragraph(box.getvalue())}; --help lists the options") from None


def _first_paragraph(box: str) -> str:
    """The text above the first inner rule of tyro's frame, on one line: tyro gives its errors in no other form."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    rule = next((number for number, line in enumerate(lines) if line.startswith("─")), len(lines))
    return re.sub(r"\s+", " ", " ".join(lines[:rule])).strip().rstrip(".")


def _exit(message: str, code: int) -> NoReturn:
    print(printable(" ".join(message.split())), file=sys.stderr)
    raise SystemExit(code)
