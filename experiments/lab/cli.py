"""The outside of every command: command line -> options -> work, and every mistake as one line on stderr."""

import argparse
import contextlib
import dataclasses
import difflib
import inspect
import io
import os
import re
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import matplotlib
import tyro

from experiments.lab import stops, store
from experiments.lab.names import printable
from experiments.lab.options import flag, program

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
    # XLA may still be compiling in a thread of its own.
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
        except stops.EngineError as error:
            _exit(f"error: {error}; {store.kept(Path(getattr(parsed, 'out', '.')))}", stops.exit_code(error))
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
    """What an interrupted command says."""
    return printable(f"interrupted; {store.kept(Path(getattr(options, 'out', '.')))}")


def parse(options: type[Options], presets: Mapping[str, Options], arguments: Sequence[str]) -> Options:
    """Options from command line arguments; a UsageError where they make none."""
    # tyro takes the defaults before it reads the command line, and the preset chooses them; the first is the default.
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument("--preset", nargs="?", default=next(iter(presets), None))
    preset = reader.parse_known_args(arguments)[0].preset
    if presets and preset not in presets:
        raise stops.UsageError(f"--preset must be one of: {', '.join(presets)}; got {preset!r}")
    words: dict[str, Any] = {"prog": " ".join(program()), "description": "", "args": arguments}
    if presets:
        words["default"] = dataclasses.replace(cast(Any, presets[preset]), preset=preset)
    if {"-h", "--help"} & set(arguments):
        # tyro would join the lines of the commands.
        docstring = sys.modules[options.__module__].__doc__ or options.__doc__ or ""
        print(described(docstring, shutil.get_terminal_size().columns), end="\n\n")
        print(f"Presets: {', '.join(presets)}.\n" if presets else "")
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box), _own_first(options):
            return tyro.cli(options, **words)
    except SystemExit as end:
        if not end.code:
            raise
        said = _misspelled(options, arguments) or _first_paragraph(box.getvalue())
        raise stops.UsageError(f"{said}; --help lists the options") from None


def _misspelled(options: Any, arguments: Sequence[str]) -> str:
    """The first option of a command line that there is not, and which one it could be meant for; empty if all are."""
    names = [flag(field.name) for field in dataclasses.fields(options)]
    # tyro takes underscores as well, and gives every switch its contrary.
    switches = [flag(it.name) for it in dataclasses.fields(options) if isinstance(it.default, bool)]
    known = {"-h", "--help", *names, *(name.replace("--", "--no-", 1) for name in switches)}
    given = [word.partition("=")[0].replace("_", "-") for word in arguments if word.startswith("--")]
    unknown = next((word for word in given if word not in known), None)
    if unknown is None:
        return ""
    close = difflib.get_close_matches(unknown, known, 1)
    return f"there is no option {unknown}" + (f"; did you mean {close[0]}?" if close else "")


def described(docstring: str, width: int) -> str:
    """A script's docstring as help shows it: paragraphs as wide as the screen, each command whole on a line.

    >>> print(described("A question?\\n\\n    python -m a      what it does\\n\\n- one\\n- two", 20))
    A question?
    <BLANKLINE>
        python -m a
            what it does
    <BLANKLINE>
    - one
    - two
    """
    paragraphs, width = [], max(width, 20)
    for paragraph in inspect.cleandoc(docstring).split("\n\n"):
        if not paragraph.startswith(" "):
            # An item of a list begins a line of its own.
            items = (" ".join(it.split()) for it in re.split(r"\n(?=- )", paragraph))
            paragraphs.append("\n".join(textwrap.fill(it, width) for it in items))
            continue
        lines = []
        # A command that a docstring continues on a further line can be copied from here as one.
        for line in re.sub(r" \\\n +", " ", paragraph).splitlines():
            command, *does = re.split(r" {3,}", line.strip(), maxsplit=1)
            if len(line) <= width:
                lines.append(line)
            else:
                lines += [f"    {command}", *(textwrap.indent(textwrap.fill(it, width - 8), " " * 8) for it in does)]
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs)


@contextlib.contextmanager
def _own_first(options: Any) -> Iterator[None]:
    """Inside, a script's own options come before those that others share: in the order of help."""
    home = {name: depth for depth, it in enumerate(options.__mro__) for name in inspect.get_annotations(it)}
    fields = options.__dataclass_fields__
    # tyro takes the order of the dataclass, its bases first, which is also that of results.json. It reads the comments
    # beside the options in their source, which another class would not have.
    options.__dataclass_fields__ = dict(sorted(fields.items(), key=lambda it: (it[0] != "preset", home[it[0]])))
    try:
        yield
    finally:
        options.__dataclass_fields__ = fields


def _first_paragraph(box: str) -> str:
    """The text above the first inner rule of tyro's frame, on one line: tyro gives its errors in no other form."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    rule = next((number for number, line in enumerate(lines) if line.startswith("─")), len(lines))
    return re.sub(r"\s+", " ", " ".join(lines[:rule])).strip().rstrip(".")


def _exit(message: str, code: int) -> NoReturn:
    print(printable(" ".join(message.split())), file=sys.stderr)
    raise SystemExit(code)
