"""The outside of every command: what it reads, and its message and exit code when it ends early."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from small_runs import ROOT

from experiments.lab import cli, stops
from experiments.lab.stops import EngineError, Finished, Interrupted, UsageError
from segjax import checkpoints


@dataclass(frozen=True, kw_only=True)
class Options:
    """Does nothing."""

    number: int = 1
    """A number."""
    out: Path = Path("nowhere")
    """A folder."""


PRESETS = {"small": Options(), "large": Options(number=10)}


@pytest.fixture
def command(monkeypatch):
    """Runs a function as a command with these words."""
    # The signals are pytest's.
    monkeypatch.setattr(stops, "install", lambda message: None)
    monkeypatch.setattr(stops, "ignore", lambda: None)

    def started(main, *words):
        monkeypatch.setattr("sys.argv", ["it", *map(str, words)])
        cli.run(main, Options, PRESETS)

    return started


def test_a_preset_chooses_the_defaults_and_options_override_it():
    for words, expected in (
        ([], Options()),
        (["small"], Options()),
        (["large"], Options(number=10)),
        (["large", "--number=3"], Options(number=3)),
        (["--number", "3"], Options(number=3)),
    ):
        assert cli.parse(Options, PRESETS, words) == expected


def test_a_command_without_presets_has_its_defaults():
    assert cli.parse(Options, {}, ["--number", "2"]) == Options(number=2)


@pytest.mark.parametrize("word", ["medium", "many words", "", "3"])
def test_a_word_that_is_no_preset_is_one_line(word):
    with pytest.raises(UsageError) as error:
        cli.parse(Options, PRESETS, [word, "--number", "3"])
    assert str(error.value) == f"the first word must be an option or one of: small, large; got {word!r}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--number", "many"], "invalid literal for int"),
        (["--number"], "--number"),
        (["--what"], "--what"),
        (["large", "--no-number"], "--no-number"),
        # The option that may be meant.
        (["--numbr=3"], "--number INT"),
        (["--number", "3", "large"], "large"),
    ],
)
def test_tyro_shows_in_a_frame_what_is_no_option_or_no_value(words, message, capsys):
    """Tyro shows it, with the help that is near, and ends with the same code as all mistakes."""
    with pytest.raises(SystemExit) as end:
        cli.parse(Options, PRESETS, words)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "--help" in err


def test_help_has_the_docstring_the_options_and_the_presets(capsys):
    with pytest.raises(SystemExit) as end:
        cli.parse(Options, PRESETS, ["--help"])
    assert end.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    for text in (__doc__.strip(), "Presets, as the first word: small, large.", "A folder. (default: nowhere)"):
        assert text in out


def test_a_docstring_is_wrapped_at_the_width_of_the_terminal():
    commands = "    python -m it         slowly, and\n    python -m it quick   less"
    docstring = f"Is it?\n\n{commands}\n\nMany\nwords.\n- An item\n  of two lines."
    assert cli.wrap_docstring(docstring, 50) == f"Is it?\n\n{commands}\n\nMany words.\n- An item of two lines."
    assert cli.wrap_docstring(docstring, 20).splitlines() == [
        *("Is it?", ""),
        *("    python -m it", "        slowly, and", "    python -m it", "        quick", "        less", ""),
        *("Many words.", "- An item of two", "  lines."),
    ]


FULL = OSError(28, "No space left on device", "a.png")
MEMORY = RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12 bytes.\nMore\nlayers")
# As XLA says it on a GPU.
GPU_MEMORY = RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 7.36GiB.")
ENDS = {
    "a mistake": (UsageError("--number must be\n  odd"), 2, "", "error: --number must be odd\n"),
    "nothing left to do": (Finished("all is done"), None, "all is done\n", ""),
    "a signal": (Interrupted(signal.SIGTERM), 143, "", "interrupted; nothing of the work in progress is kept\n"),
    "an engine that fails": (
        EngineError("the scheduler has ended"),
        1,
        "",
        "error: the scheduler has ended; nothing of the work in progress is kept\n",
    ),
    "a full disk": (FULL, 1, "", "error: a.png: No space left on device; files written before are unchanged\n"),
    "a disk that fails at the end": (
        checkpoints.UnsyncedError(5, "Input/output error", "a.png"),
        1,
        "",
        "error: a.png: Input/output error; it is written, but may not survive a power failure\n",
    ),
    "too little memory": (
        MEMORY,
        1,
        "",
        "error: Out of memory while trying to allocate 12 bytes: choose smaller sizes\n",
    ),
    "too little memory of a GPU": (
        GPU_MEMORY,
        1,
        "",
        "error: Out of memory while trying to allocate 7.36GiB: choose smaller sizes\n",
    ),
    "an error without a number": (
        TimeoutError("timed out"),
        1,
        "",
        "error: a file: timed out; files written before are unchanged\n",
    ),
}


@pytest.mark.parametrize("name", list(ENDS))
def test_an_early_end_is_one_line(name, command, tmp_path, capsys):
    raised, code, out, err = ENDS[name]

    def main(options):
        raise raised

    if code is None:
        command(main, "--out", tmp_path)
    else:
        with pytest.raises(SystemExit) as end:
            command(main, "--out", tmp_path)
        assert end.value.code == code
    assert capsys.readouterr() == (out, err)


@pytest.mark.parametrize("error", [RuntimeError("of another kind"), ValueError("a bug"), KeyError("a bug")])
def test_a_bug_is_not_hidden(error, command):
    def main(options):
        raise error

    with pytest.raises(type(error), match=str(error)):
        command(main)


def test_a_safe_stream_follows_the_text_before_it_and_drops_what_cannot_be_written(tmp_path):
    path = tmp_path / "out"
    with path.open("w", encoding="ascii") as stream:
        stream.write("before, ")
        print("\u00e9", file=cli.safe_stream(stream))
        assert path.read_text() == "before, \\xe9\n"
    with open("/dev/full", "w") as full:
        print("lost", file=cli.safe_stream(full))
    print("lost", file=cli.safe_stream(None))


QUESTION = '''"""Is anybody there?"""

from experiments.lab import question
from experiments.lab.options import Command
from experiments.lab.report import Report

Options, PRESETS = Command, {"only": Command()}


def answer(options, lab):
    return Report(["Nobody."], [], {})


question.main()
'''


@pytest.mark.slow
def test_a_reader_that_leaves_costs_no_results(tmp_path):
    """As `| true` does: the report has nobody to read it, and all files are written."""
    reader, writer = os.pipe()
    os.close(reader)
    (tmp_path / "question.py").write_text(QUESTION)
    words, environment = [sys.executable, "question.py", "--out", "out"], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "results.json").exists()


@pytest.mark.slow
def test_the_command_exits_with_2():
    arguments = ["-m", "experiments.compare_optimizers", "--sigma", "0"]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --sigma must be a finite number > 0, got 0.0\n"
