"""The outside of every command: command line -> options -> work, and every mistake as one line on stderr."""

import argparse
import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import tyro

from experiments.lab import stops, store
from experiments.lab.options import program

Options = TypeVar("Options")


def command(main: Callable[[Options], None], options: type[Options], presets: Mapping[str, Options]) -> None:
    """`run`, for a process that does nothing else: after a signal it ends at once."""
    try:
        run(main, options, presets)
    except SystemExit as end:
        if not isinstance(end.code, int) or end.code <= 128:
            raise
        # XLA may be compiling in a thread of its own, which does not survive the interpreter's orderly end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code)


def run(main: Callable[[Options], None], options: type[Options], presets: Mapping[str, Options]) -> None:
    """Runs a command: `--preset NAME` chooses the defaults, every other option overrides them."""
    stops.install()
    try:
        parsed = parse(options, presets, sys.argv[1:])
        try:
            main(parsed)
        except stops.Interrupted as stop:
            _exit(f"interrupted; {store.kept(Path(getattr(parsed, 'out', '.')))}", stops.exit_code(stop))
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
    print(" ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)
