"""Whose a folder is: finished, unfinished, another's, damaged, or being written by another process; and its runs."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import chex
import numpy as np
import pytest
from small_runs import ROOT, execute, result

from experiments import compare_losses
from experiments.lab import store
from experiments.lab.runs import Begun
from experiments.lab.stops import Finished, UsageError
from segjax import TrainState

OPTIONS = compare_losses.PRESETS["quick"]
SMALL = ["--preset", "quick", "--iterations", "3", "--image-size", "16", "--sigma", "4", "--losses", "mse"]


def claim(options, free=()):
    store.claim(options.out, options.identity("compare_losses"), options.overwrite, free)


def results(options, **changes):
    return json.dumps({**options.identity("compare_losses"), "files": ["a.png"], **changes})


@pytest.fixture
def options(tmp_path):
    return replace(OPTIONS, out=tmp_path / "out")


def test_a_new_folder_is_made(options):
    claim(options)
    assert list(options.out.iterdir()) == []


def test_finished_results_are_left_alone(options):
    claim(options)
    (options.out / "results.json").write_text(results(options))
    for same in (options, replace(options, preset="full", checkpoint_seconds=1.0)):
        with pytest.raises(Finished, match="holds the results of this very command"):
            claim(same)


def test_unfinished_runs_of_the_same_options_go_on(options):
    claim(options)
    store.keep(options.out)
    (options.out / "iteration-000001.png").touch()
    claim(replace(options, checkpoint_seconds=1.0))
    with pytest.raises(UsageError, match="holds unfinished runs with seeds 2, not 3; name another folder"):
        claim(replace(options, seeds=3))


def test_what_may_differ_may_differ(options):
    claim(options)
    (options.out / "results.json").write_text(results(options))
    claim(replace(options, seeds=3), free=("seeds",))
    with pytest.raises(Finished):
        claim(options, free=("seeds",))


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_damaged_results_are_one_line(options, content):
    claim(options)
    (options.out / "results.json").write_text(content)
    with pytest.raises(UsageError, match=r"results.json is damaged: .*; delete it, or pass --overwrite") as error:
        claim(options)
    assert "\n" not in str(error.value)
    claim(replace(options, overwrite=True))
    assert list(options.out.iterdir()) == []


def test_another_experiment_s_results_are_refused(options):
    claim(options)
    (options.out / "results.json").write_text(results(options, experiment="train_model"))
    with pytest.raises(UsageError, match="holds the results of train_model; name another folder"):
        claim(options)


def test_overwriting_leaves_what_is_not_ours(options):
    claim(options)
    store.keep(options.out)
    (options.out / "results.json").write_text(results(options))
    runs = ("runs/adam-0.01-seed0-01234567.part", "runs/adam-0.01-seed0-01234567.safetensors")
    for name in ("a.png", "iteration-000001.png", *runs, "mine.txt"):
        (options.out / name).touch()
    claim(replace(options, overwrite=True))
    assert [path.name for path in options.out.rglob("*") if path.is_file()] == ["mine.txt"]


CLAIM = "import sys, dataclasses, pathlib; from test_store import OPTIONS, claim\n"
CLAIM += "claim(dataclasses.replace(OPTIONS, out=pathlib.Path(sys.argv[1])))\nprint('claimed', flush=True)\n"


def claim_elsewhere(options, *more):
    code = CLAIM + "\n".join(more)
    here = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, "-c", code, str(options.out)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{here}:{here.parent}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_second_process_is_told_and_touches_nothing(options):
    with claim_elsewhere(options, "input()") as other:
        assert other.stdout.readline() == "claimed\n"
        (options.out / "theirs").touch()
        for ours in (options, replace(options, overwrite=True)):
            with pytest.raises(UsageError, match="another process writes to --out"):
                claim(ours)
        other.communicate("\n")
    assert [path.name for path in options.out.iterdir()] == ["theirs"]
    (options.out / "theirs").unlink()
    # It has ended, and its claim with it.
    claim(options)
    store.release(options.out)


def test_a_finished_folder_is_free_for_other_processes(options):
    claim(options)
    store.keep(options.out)
    (options.out / "runs" / "clock-seed0.part").touch()
    other = os.open(options.out, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    store.finish(options.out, {"a.png": b"PNG"}, options.identity("compare_losses"))
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    # A training by the clock is of no more use.
    assert {path.name for path in options.out.rglob("*.*")} == {"a.png", "options.json", "results.json"}
    assert json.loads((options.out / "results.json").read_text())["files"] == ["a.png"]
    with pytest.raises(Finished):
        claim(options)


def test_a_read_only_folder_is_one_line():
    # Not in pytest's folders, which none but their owner may enter.
    with tempfile.TemporaryDirectory() as parent:
        out = Path(parent) / "out"
        out.mkdir()
        out.chmod(0o555)
        Path(parent).chmod(0o755)
        # Root may write anywhere, nobody may not.
        code = "import os, sys; from functools import partial; from experiments import compare_losses as it\n"
        code += "from experiments.lab import cli, experiment; os.getuid() or os.setuid(65534)\n"
        code += f"sys.argv = ['it', '--preset', 'quick', '--out', {str(out)!r}]\n"
        code += "cli.run(partial(experiment.run, it), it.Options, it.PRESETS)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: --out {out} cannot be written: Permission denied\n"


def unfinish(out):
    """Leaves the finished runs alone."""
    for path in out.glob("*.*"):
        path.unlink()


def test_runs_of_other_options_are_refused_or_overwritten(tmp_path):
    given = ("--out", tmp_path)
    first = execute(compare_losses, *SMALL, *given)["runs"][0]["curves"]["loss"]
    unfinish(tmp_path)
    with pytest.raises(UsageError, match="holds unfinished runs with iterations 3, not 4"):
        execute(compare_losses, *SMALL, "--iterations", "4", *given)
    # Runs that lost their options are not taken for those of others: their names tell them apart.
    for option, value in (("--iterations", "4"), ("--sigma1", "0.3")):
        (tmp_path / "runs" / "options.json").unlink()
        loss = execute(compare_losses, *SMALL, option, value, *given)["runs"][0]["curves"]["loss"]
        assert len(loss) == (4 if option == "--iterations" else 3)
        assert loss != first
        unfinish(tmp_path)
    assert len(list(tmp_path.glob("runs/*-seed0-*.safetensors"))) == 3
    again = execute(compare_losses, *SMALL, "--iterations", "4", "--overwrite", *given)
    assert len(again["runs"][0]["curves"]["loss"]) == 4
    assert len(list(tmp_path.glob("runs/*-seed0-*.safetensors"))) == 1


def test_a_broken_run_is_one_line(tmp_path):
    execute(compare_losses, *SMALL, "--out", tmp_path)
    unfinish(tmp_path)
    (file,) = tmp_path.glob("runs/*-seed0-*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"is truncated, or no checkpoint.*; delete it, or pass --overwrite"):
        execute(compare_losses, *SMALL, "--out", tmp_path)


def test_there_and_back_is_identical(tmp_path):
    original = result([0.5, np.nan, 0.25])
    (tmp_path / "runs").mkdir()
    assert not store.has_run(tmp_path, original.run)
    store.write_runs(tmp_path, [original])
    assert store.has_run(tmp_path, original.run)
    again = store.read_run(tmp_path, original.run)
    assert again.run == original.run
    assert again.held_out.losses["bce"] == 0.2
    np.testing.assert_array_equal(again.history.loss, original.history.loss)
    chex.assert_trees_all_equal(again, original)


def test_runs_under_way_are_those_of_one_group(tmp_path):
    """Of four steps that the last chunk has room for three were made; another group of runs begins anew."""
    (tmp_path / "runs").mkdir()
    state = TrainState({"w": np.ones(2, np.float32)}, {"m": np.zeros(2)}, {"v": np.ones(1)}, np.int32(3))
    history = result([0.5, 0.4, 0.3, 0.0]).history
    store.write_begun(tmp_path, ["a-seed0", "a-seed1"], Begun(state, [history], 2.0), {"compiled": np.float64(1.5)})
    begun, notes = store.read_begun(tmp_path, ["a-seed0", "a-seed1"], state)
    chex.assert_trees_all_equal(begun.state, state)
    assert (begun.seconds, notes["compiled"]) == (2.0, 1.5)
    np.testing.assert_array_equal(begun.chunks[0].loss, history.loss[:3])
    for others in (["a-seed0"], ["a-seed0", "a-seed2"], ["a-seed1"]):
        assert store.read_begun(tmp_path, others, state) is None
    assert store.kept(tmp_path).endswith("0 finished runs, 1 begun")
    with pytest.raises(UsageError, match=r"a-seed0\.part: .*; delete it, or pass --overwrite"):
        store.read_begun(tmp_path, ["a-seed0", "a-seed1"], state._replace(params={"w": np.ones(3, np.float32)}))


def test_a_run_under_the_name_of_another_is_refused(tmp_path):
    """Rates that agree to six digits, and a run of the same name but for its digest."""
    first, second = (result([0.5], rate=rate) for rate in (0.1234567, 0.1234568))
    (tmp_path / "runs").mkdir()
    for each in (first, second):
        store.write_runs(tmp_path, [each])
    assert len(list(tmp_path.glob("runs/*"))) == 2
    paths = [tmp_path / "runs" / f"{each.run.stem}.safetensors" for each in (first, second)]
    shutil.copy(*paths)
    with pytest.raises(UsageError, match="holds another run than its name says; delete it, or pass --over") as error:
        store.read_run(tmp_path, second.run)
    assert "\n" not in str(error.value)
    assert store.read_run(tmp_path, first.run).run == first.run


def test_finishing_leaves_other_runs_under_way(options):
    """A report of finished runs must not cost the steps of one that is interrupted."""
    store.claim(options.out, options.identity("compare_losses"))
    store.keep(options.out)
    done, begun = result([0.5]), result([0.5], rate=0.5)
    store.write_runs(options.out, [done])
    state = TrainState({}, {}, {}, np.int32(1))
    for each in (done, begun):
        store.write_begun(options.out, [each.run.stem], Begun(state, [each.history], 1.0))
    store.finish(options.out, {"a.png": b"1"}, {"experiment": "compare_losses", "files": ["b.png"]})
    assert [path.name for path in options.out.glob("runs/*.part")] == [f"{begun.run.stem}.part"]
    document = json.loads((options.out / "results.json").read_text())
    assert document["files"] == ["b.png", "a.png"]
