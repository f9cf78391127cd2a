"""The log of a command has every 10 steps of each run once, and a command outlives it."""

import json
import os
import stat

import numpy as np
import plain
import pytest
from small_runs import execute, told_to_stop

from experiments.lab import stops
from experiments.lab.log import Log
from experiments.lab.runs import Run, Texture
from experiments.lab.stops import UsageError
from segjax import History, metrics, tracking

RUN = Run(3, iterations=25, texture=Texture(image_size=32))
OTHER = RUN._replace(seed=4)


def history(steps, runs=None):
    """Losses 1, 2, 3 ..., and counts of the same numbers."""
    numbers = np.arange(1, steps + 1) * np.ones((runs or 1, 1), int)
    numbers = numbers if runs else numbers[0]
    return History(np.asarray(numbers, np.float32), metrics.Counts(*[numbers] * 5))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_its_run_and_folder(tmp_path):
    path = tmp_path / "log.jsonl"
    Log(str(path), tmp_path / "out", False, print).add([RUN], history(10))
    (row,) = read(path)
    assert (row["run"], row["step"], row["loss"]) == (f"{tmp_path}/out/{RUN.stem}", 10, 5.5)
    assert (row["seed"], row["optimizer"]) == (3, "adam")


def test_runs_that_are_trained_together_have_lines_of_their_own(tmp_path):
    pair, path = history(20, runs=2), tmp_path / "log.jsonl"
    pair.loss[1] *= 2
    Log(str(path), tmp_path / "out", False, print).add([RUN, OTHER], pair)
    lines = [(row["seed"], row["step"], row["loss"]) for row in read(path)]
    assert lines == [(3, 10, 5.5), (3, 20, 15.5), (4, 10, 11.0), (4, 20, 31.0)]


def test_another_file_is_refused_and_stays(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"precious\n")
    with pytest.raises(UsageError, match="exists, and holds something else than a log; name another file"):
        Log(str(path), tmp_path / "out", True, print)
    assert path.read_bytes() == b"precious\n"


def test_overwriting_drops_the_lines_of_its_folder_alone(tmp_path):
    path = tmp_path / "log.jsonl"
    for folder in ("out", "out2"):
        Log(str(path), tmp_path / folder, False, print).add([RUN], history(10))
    Log(str(path), tmp_path / "out", True, print)
    assert [row["run"] for row in read(path)] == [f"{tmp_path}/out2/{RUN.stem}"]


def test_places_that_take_no_log_are_one_line_before_any_training(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "out")
    os.mkfifo(tmp_path / "pipe")
    for path, message in {
        "out/log.jsonl": "must be outside of --out",
        "link/log.jsonl": "must be outside of --out",
        "missing/log.jsonl": "cannot be written: No such file",
        ".": "cannot be written: Is a directory",
        "pipe": "cannot be written: No such device",
    }.items():
        with pytest.raises(UsageError, match=message) as error:
            execute(plain, "--out", tmp_path / "out", "--log", tmp_path / path)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()


def test_a_log_that_cannot_be_written_is_one_line_and_ends_nothing(tmp_path):
    said, path = [], tmp_path / "logs" / "log.jsonl"
    path.parent.mkdir()
    one = Log(str(path), tmp_path / "out", False, said.append)
    path.unlink()
    path.parent.rmdir()
    for steps in (10, 20, 25):
        one.add([RUN], history(steps))
    (line,) = said
    assert line.startswith(f"Warning: --log {path} gets no more lines: No such file or directory;")
    path.parent.mkdir()
    Log(str(path), tmp_path / "out", False, print).add([RUN], history(25))
    assert [row["step"] for row in read(path)] == [10, 20, 25]


def test_without_the_option_nothing_is_computed(monkeypatch, tmp_path):
    monkeypatch.setattr(tracking, "rows", lambda *_: pytest.fail("rows without a file"))
    Log("", tmp_path, False, print).add([RUN], history(25))


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 2])
def test_a_resumed_command_completes_its_log_and_changes_no_number(width, tmp_path):
    words = ["--iterations", "25", "--width", width]
    without = execute(plain, "--out", tmp_path / "without", *words)
    words += ["--out", tmp_path / "out", "--log", path := tmp_path / "log.jsonl"]
    with told_to_stop(), pytest.raises(stops.Interrupted):
        execute(plain, *words)
    assert {row["step"] for row in read(path)} == {10}
    document = execute(plain, *words)
    found = sorted((row["seed"], row["step"]) for row in read(path))
    assert found == [(seed, step) for seed in (0, 1) for step in (10, 20, 25)]
    for row in read(path):
        curve = document["runs"][row["seed"]]["curves"]["loss"][(row["step"] - 1) // 10 * 10 : row["step"]]
        assert row["loss"] == pytest.approx(np.mean(curve), rel=1e-6)
    for run, same in zip(document["runs"], without["runs"], strict=True):
        assert run["curves"] == same["curves"]
    # Begun later, a log has the steps of finished runs too.
    execute(plain, *words[:-1], tmp_path / "later.jsonl", "--seeds", 3)
    assert len(read(tmp_path / "later.jsonl")) == 9
    assert stat.S_ISREG(path.stat().st_mode)
