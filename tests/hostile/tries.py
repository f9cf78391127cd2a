"""What the hostile tries share: a command as someone outside types it, and what an end by mistake looks like."""

import contextlib
import importlib
import io
import os
import signal
from functools import cache, partial
from typing import NamedTuple

import pytest
from conftest import drawn

from experiments.lab import cli, experiment, stops
from experiments.lab.names import ARCHITECTURES
from experiments.lab.runs import Texture
from experiments.pictures import saved_models
from segjax import checkpoints

TEXTURE = Texture(batch_size=1, image_size=16, sigma=4.0)._asdict()
# No honest try takes as long.
SECONDS = 60
# Once for all: one parses every script, the other traces a network.
questions, untrained = cache(experiment.questions), cache(drawn)


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def type_in(name, *words):
    """Runs a command in this process; whatever leaves it but an exit is raised, and so is a hang."""
    script = importlib.import_module(f"experiments.{name}")
    asks = hasattr(script, "report")
    main, presets = (partial(experiment.run, script), script.PRESETS) if asks else (script.main, {})
    code, out, err = 0, io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        # The signals are pytest's.
        patch.setattr(stops, "install", lambda last_words: None)
        patch.setattr(stops, "ignore", lambda: None)
        patch.setattr(experiment, "questions", questions)
        patch.setattr("sys.argv", [name, *map(str, words)])
        before = signal.signal(signal.SIGALRM, _hangs)
        signal.alarm(SECONDS)
        try:
            cli.run(main, script.Options, presets)
        except SystemExit as end:
            code = end.code or 0
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
    return Ended(code, out.getvalue(), err.getvalue())


def check_one_line(ended, code, says):
    """It ended with this code, and with one line that has these words."""
    assert ended.code == code, ended
    assert ended.err.startswith("error: ")
    assert ended.err.endswith("\n")
    # An escape character is not printable, and neither is a line break within.
    assert ended.err[:-1].isprintable()
    assert says in ended.err


def write_model(path, diverged=False, **changes):
    """A network that was never trained; `changes` go into its metadata."""
    variables = untrained(ARCHITECTURES["shallow"])
    path.write_bytes(saved_models.files("shallow", variables, {"texture": TEXTURE}, False, diverged)[path.name])
    if changes:
        arrays, metadata = checkpoints.load(path)
        checkpoints.save(path, arrays, metadata | changes)


def seen(folder):
    """All that is in a folder, by its path: the content of a file, where a link leads to, or what else it is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        what = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else path.stat().st_mode
        found[str(path.relative_to(folder))] = what
    return found


def _hangs(*_):
    raise TimeoutError(f"no end within {SECONDS} s")
