"""The shell of every command: command line -> options -> main, and each error as one line on stderr."""

import contextlib
import io
import os
import re
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar

import matplotlib
import tyro

from experiments.lab import stops
from experiments.lab.folder import resume_hint
from experiments.lab.names import printable
from experiments.lab.options import program
from segjax import checkpoints

Options = TypeVar("Options")


class _Lossy(io.FileIO):
    """A file that drops what it fails to write: its reader may close it, as `| head` does, or its disk may be full."""

    def write(self, content: Any) -> int:
        with contextlib.suppress(OSError):
            return super().write(content) or len(content)
        return len(content)


def safe_stream(stream: TextIO | None) -> TextIO:
    """stdout or stderr, which a process may lack, as a stream that never stops a command."""
    file = _Lossy(stream.fileno() if stream else os.open(os.devnull, os.O_WRONLY), "w", closefd=False)
    # Text from before the command, which nothing else would write.
    with contextlib.suppress(OSError):
        print(end="", file=stream, flush=True)
    encoding = stream.encoding if stream else "utf-8"
    # File names that are not UTF-8 are printed with escapes.
    return io.TextIOWrapper(io.BufferedWriter(file), encoding, errors="backslashreplace", line_buffering=True)


def command(main: Callable[[Options], None], options: type[Options], presets: Mapping[str, Options]) -> NoReturn:
    """`run`, then exits: for a process of its own, with safe streams and without the interpreter's orderly shutdown."""
    code: Any = 0
    sys.stdout, sys.stderr = safe_stream(sys.stdout), safe_stream(sys.stderr)
    # A user's matplotlibrc must not change figures.
    matplotlib.rcdefaults()
    try:
        run(main, options, presets)
    except SystemExit as end:
        code = end.code if end.code is None or isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    # An orderly shutdown would wait for XLA, which may be compiling in another thread.
    os._exit(code or 0)


def run(main: Callable[[Options], None], options: type[Options], presets: Mapping[str, Options]) -> None:
    """Parses the command line, runs `main`, and turns its errors into messages and exit codes."""
    try:
        parsed = parse(options, presets, sys.argv[1:])
        stops.install(partial(interruption_message, parsed))
        main(parsed)
    except stops.UsageError as error:
        _exit(f"error: {error}", 2)
    except stops.Finished as finished:
        print(printable(str(finished)))
    except stops.Interrupted as stop:
        stops.ignore()
        # The shell's convention for a process that a signal ended.
        _exit(interruption_message(parsed), 128 + stop.number)
    except stops.EngineError as error:
        _exit(f"error: {error}; {resume_hint(_out(parsed))}")
    except MemoryError:
        _exit("error: out of memory: choose smaller sizes")
    except FloatingPointError as error:
        # From jax's option jax_debug_nans.
        _exit(f"error: {str(error).partition(chr(10))[0]}")
    except RuntimeError as error:
        # Of jax's many errors, the user can mend only these three.
        if match := re.search(r"out of memory.*?(?:\.(?!\d)|$)", str(error), re.IGNORECASE | re.MULTILINE):
            _exit(f"error: {match[0].rstrip('.')}: choose smaller sizes")
        if match := re.search(r"Unable to initialize backend.*|Disallowed \S+ transfer", str(error)):
            _exit(f"error: {match[0]}", 2)
        raise
    except OSError as error:
        ending = "files written before are unchanged"
        if isinstance(error, checkpoints.UnsyncedError):
            ending = "it is written, but may not survive a power failure"
        _exit(f"error: {error.filename or 'a file'}: {error.strerror or error}; {ending}")


def interruption_message(options: object) -> str:
    """The message printed when a signal ends the command."""
    return printable(f"interrupted; {resume_hint(_out(options))}")


def _out(options: object) -> Path:
    return Path(getattr(options, "out", "."))


def parse(options: type[Options], presets: Mapping[str, Options], arguments: Sequence[str]) -> Options:
    """Options from command line arguments. The first argument may name a preset; the first preset is the default.

    Raises:
        UsageError: if the first argument is neither a preset nor an option.
        SystemExit: with 2 after tyro has printed any other mistake, with 0 after `--help`.
    """
    arguments, default = list(arguments), next(iter(presets.values()), tyro.MISSING_NONPROP)
    if presets and arguments and not arguments[0].startswith("-"):
        if arguments[0] not in presets:
            known = ", ".join(presets)
            raise stops.UsageError(f"the first word must be an option or one of: {known}; got {arguments[0]!r}")
        default = presets[arguments.pop(0)]
    if {"-h", "--help"} & {*arguments}:
        docstring = (sys.modules[options.__module__].__doc__ or options.__doc__ or "").strip()
        docstring += f"\n\nPresets, as the first word: {', '.join(presets)}." if presets else ""
        # tyro wraps only the help of options.
        print(wrap_docstring(docstring, shutil.get_terminal_size().columns), end="\n\n")
    config = (tyro.conf.OmitArgPrefixes,)
    return tyro.cli(options, prog=" ".join(program()), description="", args=arguments, default=default, config=config)


def wrap_docstring(docstring: str, width: int) -> str:
    """A docstring with its paragraphs, the items of its lists, and its commands wrapped at a width."""
    if max(map(len, docstring.splitlines())) > width:
        # Comments beside commands move below them.
        docstring = re.sub(r"(?<=\S) {2,}", f"\n{8 * ' '}", docstring)
    lines = []
    for text in re.split(r"\n(?=\n|- |    )|(?<=\n)\n", re.sub(r"\n  (?=\S)", " ", docstring)):
        indent = " " * (8 if text.startswith("    ") else 2 * text.startswith("- "))
        lines.append(textwrap.fill(text, width, subsequent_indent=indent, break_on_hyphens=False))
    return "\n".join(lines)


def _exit(message: str, code: int = 1) -> NoReturn:
    print(printable(" ".join(message.split())), file=sys.stderr)
    raise SystemExit(code)
