"""What the hostile tries share: a command as someone outside types it, and the line with which a mistake ends it."""

import contextlib
import importlib
import io
import os
import re
import signal
from functools import cache, partial
from typing import NamedTuple

import pytest
from conftest import random_variables

from experiments.lab import cli, question, stops
from experiments.lab.names import ARCHITECTURES
from experiments.lab.runs import Texture
from experiments.pictures import saved_models
from segjax import checkpoints
from tests.experiments.small_runs import ROOT

TEXTURE = Texture(batch_size=1, image_size=16, sigma=3.2)._asdict()
# No honest try takes as long.
SECONDS = 60
# Once for all: one parses every script, the other traces a network.
questions, untrained = cache(question.questions), cache(random_variables)


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def type_in(name, *words):
    """Runs a command in this process; raises whatever it raises, and a TimeoutError where it hangs."""
    script = importlib.import_module(f"experiments.{name}")
    # rerun.py is no question.
    is_question = name in questions(ROOT / "experiments")
    main, presets = (partial(question.run, script), script.PRESETS) if is_question else (script.main, {})
    code, out, err = 0, io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        # The signals are pytest's.
        patch.setattr(stops, "install", lambda message: None)
        patch.setattr(stops, "ignore", lambda: None)
        patch.setattr(question, "questions", questions)
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


def check_one_line(ended, code, message):
    """It ended with this code, and with one line that has this message."""
    assert ended.code == code, ended
    assert ended.err.startswith("error: ")
    assert ended.err.endswith("\n")
    # An escape character is not printable, and neither is a line break within.
    assert ended.err[:-1].isprintable()
    assert message in ended.err


def check_frame(ended, message):
    """A word that is no option, or no value of one: tyro shows it in a frame, and ends with 2."""
    assert ended.code == 2, ended
    assert "For full helptext, " in ended.err
    assert "Traceback" not in ended.err
    # The frame breaks lines wherever there is a blank.
    assert "".join(message.split()) in re.sub(r"[\s│]", "", ended.err)
    assert "\x1b" not in ended.err


def write_model(path, diverged=False, **changes):
    """A network that was never trained; `changes` go into its metadata."""
    variables = untrained(ARCHITECTURES["shallow"])
    path.write_bytes(saved_models.files("shallow", variables, {"texture": TEXTURE}, False, diverged)[path.name])
    if changes:
        arrays, metadata = checkpoints.load(path)
        checkpoints.save(path, arrays, metadata | changes)


def contents(folder):
    """All that is in a folder, by its path: the content of a file, where a link leads to, or what else it is."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        what = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else path.stat().st_mode
        contents[str(path.relative_to(folder))] = what
    return contents


def _hangs(*_):
    raise TimeoutError(f"no end within {SECONDS} s")
