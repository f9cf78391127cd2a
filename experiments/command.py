"""The skeleton's outside: command line -> options -> main, and every mistake as one line and exit code 2."""

import contextlib
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro

from experiments import interruption
from experiments.interruption import Interrupted

Options = TypeVar("Options")


class UsageError(Exception):
    """What the user asked for cannot be done; the message is the one line they read."""


class Finished(BaseException):
    """What the user asked for is done already, which is no error; the message is the one line they read."""


def run(main: Callable[[Options], None], options: type[Options], presets: Mapping[str, Options]) -> None:
    """Runs a command: `--preset NAME` chooses the defaults, every other option overrides them."""
    interruption.install()
    try:
        parsed = parse(options, presets, sys.argv[1:])
        if getattr(parsed, "deterministic", False):
            # Read when jax first looks for devices, which nothing has done so far.
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
        try:
            main(parsed)
        except Interrupted as stop:
            _exit(_interrupted(getattr(parsed, "out", Path())), 128 + stop.number)
        except RuntimeError as error:
            # jax's error is one of many layers; only this one is the user's to mend.
            if not (words := re.search(r"out of memory.*?(\d+ bytes)?\.", str(error), re.IGNORECASE)):
                raise
            _exit(f"error: {words[0].rstrip('.')}: choose smaller sizes", 1)
        except OSError as error:
            _exit(f"error: {error.filename or 'a file'}: {error.strerror}; what was kept before is as it was", 1)
    except UsageError as error:
        _exit(f"error: {error}", 2)
    except Finished as word:
        print(word)


def experiment(options: Any) -> str:
    """The name of the experiment that options are of, run as a command or not."""
    spec = getattr(sys.modules[type(options).__module__], "__spec__", None)
    return str(spec.name if spec else type(options).__module__).rpartition(".")[2]


def _interrupted(out: Path) -> str:
    """What is left of a command that was stopped."""
    endings = ("safetensors", "part", "round")
    finished, begun, rounds = (len(list(out.glob(f"runs/*-seed*.{ending}"))) for ending in endings)
    if not finished + begun + rounds:
        return "interrupted; nothing of what was under way is kept"
    kept = f"{finished} finished runs" + (f", {begun + rounds} begun" if begun + rounds else "")
    return f"interrupted; the same command without --overwrite goes on from what is kept in {out}: {kept}"


def parse(options: type[Options], presets: Mapping[str, Options], arguments: Sequence[str]) -> Options:
    """Options from command line arguments; a UsageError where they make none."""
    preset = _last_value(arguments, "--preset")
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            default = presets.get(preset or "", tyro.MISSING_NONPROP)
            return tyro.cli(options, prog=" ".join(program()), args=arguments, default=default)
    except SystemExit as end:
        if not end.code:
            raise
        raise UsageError(f"{_first_paragraph(box.getvalue())}; --help lists the options") from None


def program() -> list[str]:
    """The words that start this command."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["python", "-m", spec.name] if spec else ["python", sys.argv[0]]


def flag(name: str) -> str:
    """How the command line spells an option."""
    return "--" + name.replace("_", "-")


def check_name(name: str, value: str, known: Iterable[str]) -> None:
    """Raises a ValueError that lists the names an option may have, where it has another."""
    if value not in known:
        raise ValueError(f"{flag(name)} must be of: {', '.join(known)}; got {value!r}")


def check_names(name: str, values: Sequence[str], known: Iterable[str]) -> None:
    """The same for an option that takes several names, each once."""
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{flag(name)} must be different names out of: {', '.join(known)}")
    for value in values:
        check_name(name, value, known)


@contextlib.contextmanager
def usage_errors() -> Any:
    """Turns the library's ValueError and TypeError into a UsageError: for the checks that come before the work."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error


def _last_value(arguments: Sequence[str], flag: str) -> str | None:
    """The value of `--flag value` or `--flag=value`, needed before tyro knows the defaults."""
    value = None
    for word, following in itertools.zip_longest(arguments, arguments[1:]):
        if word == flag:
            value = following
        elif word.startswith(f"{flag}="):
            value = word.removeprefix(f"{flag}=")
    return value


def _first_paragraph(box: str) -> str:
    """tyro frames its errors: the text above the first inner rule, on one line."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    rule = next((number for number, line in enumerate(lines) if line.startswith("─")), len(lines))
    return re.sub(r"\s+", " ", " ".join(lines[:rule])).strip().rstrip(".")


def _exit(message: str, code: int) -> NoReturn:
    print(" ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)
