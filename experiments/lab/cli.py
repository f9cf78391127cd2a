"""The outside of every command: command line -> options -> work, and every mistake as one line on stderr."""

import argparse
import contextlib
import dataclasses
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import tyro

from experiments.lab import stops, store
from experiments.lab.names import printable
from experiments.lab.options import program

Options = TypeVar("Options")


def command(main: Callable[[Options], None], options: type[Options], presets: Mapping[str, Options]) -> NoReturn:
    """`run`, for a process that does nothing else: it hears signals, and ends without the interpreter's orderly end."""
    code: Any = 0
    for stream in (sys.stdout, sys.stderr):
        # A name that is not UTF-8 is shown with escapes; by default it would be an error after all the work.
        cast(io.TextIOWrapper, stream).reconfigure(errors="backslashreplace")
    try:
        run(main, options, presets)
    except SystemExit as end:
        code = end.code if end.code is None or isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):
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
            _exit(last_words(parsed), stops.exit_code(stop))
        except RuntimeError as error:
            # jax's error has many layers; only this one is the user's to mend.
            if not (words := re.search(r"out of memory.*?(\d+ bytes)?\.", str(error), re.IGNORECASE)):
                raise
            _exit(f"error: {words[0].rstrip('.')}: choose smaller sizes", stops.exit_code(error))
        except OSError as error:
            said = f"error: {error.filename or 'a file'}: {error.strerror}; what was kept before is as it was"
            _exit(said, stops.exit_code(error))
    except stops.UsageError as error:
        _exit(f"error: {error}", stops.exit_code(error))
    except stops.Finished as word:
        print(word)


def last_words(options: object) -> str:
    """What an interrupted command says."""
    return f"interrupted; {store.kept(Path(getattr(options, 'out', '.')))}"


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
