"""Whose a folder is: finished, unfinished, another's, damaged, or being written by another process."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import command, compare_losses, folder

ROOT = Path(__file__).parents[1]
OPTIONS = compare_losses.PRESETS["quick"]


def results(options, **changes):
    identity = folder._identity(options)
    return json.dumps({**identity, "files": ["a.png"], **changes})


@pytest.fixture
def options(tmp_path):
    return replace(OPTIONS, out=tmp_path / "out")


def test_a_new_folder_is_made(options):
    folder.claim(options)
    assert list(options.out.iterdir()) == []


def test_finished_results_are_left_alone(options):
    folder.claim(options)
    (options.out / "results.json").write_text(results(options))
    for same in (options, replace(options, preset="full", checkpoint_seconds=1.0)):
        with pytest.raises(command.Finished, match="holds the results of this very command"):
            folder.claim(same)


def test_unfinished_runs_of_the_same_options_go_on(options):
    folder.claim(options)
    folder.keep(options)
    (options.out / "iteration-000001.png").touch()
    folder.claim(replace(options, checkpoint_seconds=1.0))
    with pytest.raises(command.UsageError, match="holds unfinished runs with seeds 2, not 3; name another folder"):
        folder.claim(replace(options, seeds=3))


def test_what_may_differ_may_differ(options):
    folder.claim(options)
    (options.out / "results.json").write_text(results(options))
    folder.claim(replace(options, seeds=3), free=("seeds",))
    with pytest.raises(command.Finished):
        folder.claim(options, free=("seeds",))


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_damaged_results_are_one_line(options, content):
    folder.claim(options)
    (options.out / "results.json").write_text(content)
    with pytest.raises(
        command.UsageError, match=r"results.json is damaged: .*; delete it, or pass --overwrite"
    ) as error:
        folder.claim(options)
    assert "\n" not in str(error.value)
    folder.claim(replace(options, overwrite=True))
    assert list(options.out.iterdir()) == []


def test_another_experiment_s_results_are_refused(options):
    folder.claim(options)
    (options.out / "results.json").write_text(results(options, experiment="train_model"))
    with pytest.raises(command.UsageError, match="holds the results of train_model; name another folder"):
        folder.claim(options)


def test_overwriting_leaves_what_is_not_ours(options):
    folder.claim(options)
    folder.keep(options)
    (options.out / "results.json").write_text(results(options))
    for name in ("a.png", "iteration-000001.png", "runs/mse-seed0.part", "runs/mse-seed0.safetensors", "mine.txt"):
        (options.out / name).touch()
    folder.claim(replace(options, overwrite=True))
    assert [path.name for path in options.out.rglob("*") if path.is_file()] == ["mine.txt"]


CLAIM = "import sys, dataclasses, pathlib; from test_folder import OPTIONS, folder\n"
CLAIM += "folder.claim(dataclasses.replace(OPTIONS, out=pathlib.Path(sys.argv[1])))\nprint('claimed', flush=True)\n"


def claim_elsewhere(options, *more):
    code = CLAIM + "\n".join(more)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(options.out)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_second_process_is_told_and_touches_nothing(options):
    with claim_elsewhere(options, "input()") as other:
        assert other.stdout.readline() == "claimed\n"
        (options.out / "theirs").touch()
        for ours in (options, replace(options, overwrite=True)):
            with pytest.raises(command.UsageError, match="another process writes to --out"):
                folder.claim(ours)
        other.communicate("\n")
    assert [path.name for path in options.out.iterdir()] == ["theirs"]
    (options.out / "theirs").unlink()
    # It has ended, and its claim with it.
    folder.claim(options)
    folder.release(options.out)


def test_a_read_only_folder_is_one_line():
    # Not in pytest's folders, which none but their owner may enter.
    with tempfile.TemporaryDirectory() as parent:
        out = Path(parent) / "out"
        out.mkdir()
        out.chmod(0o555)
        Path(parent).chmod(0o755)
        # Root may write anywhere, nobody may not.
        code = (
            "import os, sys; from experiments import command, compare_losses as it; os.getuid() or os.setuid(65534)\n"
        )
        code += f"sys.argv = ['it', '--preset', 'quick', '--out', {str(out)!r}]\n"
        code += "command.run(it.main, it.Options, it.PRESETS)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: --out {out} cannot be written: Permission denied\n"
