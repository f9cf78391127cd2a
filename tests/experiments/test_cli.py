"""The outside of every command: what it reads, and its one line and exit code when it ends early."""

import os
import signal
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import pytest
from small_runs import parse

from experiments import compare_losses
from experiments.lab import cli, experiment, stops, store
from experiments.lab.stops import Finished, Interrupted, UsageError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Does nothing."""

    preset: str = ""
    """A name."""
    number: int = 1
    """A number."""
    out: Path = Path("nowhere")
    """A folder."""


PRESETS = {"small": Options(), "large": Options(number=10)}


@pytest.fixture
def command(monkeypatch):
    """Runs a function as a command with these words."""
    # The signals are pytest's.
    monkeypatch.setattr(stops, "install", lambda last_words: None)
    monkeypatch.setattr(stops, "ignore", lambda: None)

    def started(main, *words, options=Options, presets=PRESETS):
        monkeypatch.setattr("sys.argv", ["it", *map(str, words)])
        cli.run(main, options, presets)

    return started


def test_a_preset_chooses_the_defaults_and_options_override_it():
    for words, wanted in (
        ([], Options(preset="small")),
        (["--preset", "large"], Options(preset="large", number=10)),
        (["--preset=large", "--number", "3"], Options(preset="large", number=3)),
        (["--number", "3", "--preset", "large"], Options(preset="large", number=3)),
    ):
        assert cli.parse(Options, PRESETS, words) == wanted


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "medium"], "--preset must be of: small, large; got 'medium'"),
        (["--preset"], "--preset must be of: small, large; got None"),
        (["--number", "many"], "--number.*; --help lists the options"),
        (["--what"], "--what.*; --help lists the options"),
        (["what"], "what.*; --help lists the options"),
    ],
)
def test_a_bad_command_line_is_one_line(words, message):
    with pytest.raises(UsageError, match=message) as error:
        cli.parse(Options, PRESETS, words)
    assert "\n" not in str(error.value)


FULL = OSError(28, "No space left on device", "a.png")
MEMORY = RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12 bytes.\nMore\nlayers")
ENDS = {
    "a mistake": (UsageError("--number must be\n  odd"), 2, "", "error: --number must be odd\n"),
    "nothing left to do": (Finished("all is done"), None, "all is done\n", ""),
    "a signal": (Interrupted(signal.SIGTERM), 143, "", "interrupted; nothing of what was under way is kept\n"),
    "a full disk": (FULL, 1, "", "error: a.png: No space left on device; what was kept before is as it was\n"),
    "too little memory": (
        MEMORY,
        1,
        "",
        "error: Out of memory while trying to allocate 12 bytes: choose smaller sizes\n",
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
        assert end.value.code == code == stops.exit_code(raised)
    assert capsys.readouterr() == (out, err)


@pytest.mark.parametrize("error", [RuntimeError("of another kind"), ValueError("a bug"), KeyError("a bug")])
def test_a_bug_is_not_hidden(error, command):
    def main(options):
        raise error

    with pytest.raises(type(error), match=str(error)):
        command(main)


@pytest.mark.parametrize("words", [("--batch-size", "100000000"), ("--image-size", "2000000000")])
def test_images_that_no_memory_holds_are_one_line(words, command, tmp_path, capsys):
    script = compare_losses
    with pytest.raises(SystemExit) as end:
        command(partial(experiment.run, script), *words, "--out", tmp_path, options=script.Options, presets={})
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the held-out images, 16 * --batch-size * --image-size^2, must be at most 2^31 - 1 p")
    assert said.count("\n") == 1


def test_deterministic_is_told_to_xla_before_it_starts(monkeypatch, tmp_path):
    # It reads the flags once, and would not know these.
    jax.devices()
    seen = []
    monkeypatch.setattr(store, "claim", lambda *_: seen.append(os.environ["XLA_FLAGS"]) or 1 / 0)
    monkeypatch.setenv("XLA_FLAGS", "--given")
    for flag in ("--no-deterministic", "--deterministic"):
        options = parse(compare_losses, flag, "--out", tmp_path)
        with pytest.raises(ZeroDivisionError):
            experiment.run(compare_losses, options)
        # The option goes into results.json.
        assert options.identity("it")["options"]["deterministic"] == (flag == "--deterministic")
    assert seen == ["--given", "--given --xla_gpu_deterministic_ops=true"]


def test_checks_come_before_the_folder(tmp_path):
    options = replace(compare_losses.PRESETS["quick"], iterations=0, out=tmp_path / "out")
    with pytest.raises(UsageError, match="--iterations must be an integer >= 1"):
        experiment.run(compare_losses, options)
    assert not options.out.exists()
