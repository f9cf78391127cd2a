"""Nothing is lost: real processes that are killed, told to stop, or run out of room, and are started again."""

import json
import random
import shutil
import signal
import time

import jax
import pytest
from small_runs import SMALL, Command

from experiments import rerun
from segjax import checkpoints

pytestmark = pytest.mark.slow

# A checkpoint after every chunk, so that a kill can hit the writing of one too.
SAVED = ["--checkpoint-seconds", "0.01"]
WORDS = [*SMALL, "--architecture", "notebook", "--iterations", "200", "--show-every", "100", *SAVED]
KILLS, PART = 20, "runs/*.part"


def train(out, cache, limit=None):
    return Command("train_model", *WORDS, "--out", out, settings={"jax_compilation_cache_dir": str(cache)}, limit=limit)


def in_progress(out):
    return lambda: list(out.glob(PART))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The processes share their programs there: a kill can leave half of one, which no other test should read."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):
    """The folder of a run that nothing disturbed: the first, which compiles its programs."""
    out = tmp_path_factory.mktemp("whole")
    code, _, errors = train(out, cache).finish()
    assert code == 0, errors
    return out


@pytest.fixture(scope="module")
def stopped(cache, tmp_path_factory):
    """The folder of a run that was told to stop."""
    out = tmp_path_factory.mktemp("stopped")
    started = train(out, cache)
    started.wait_for(in_progress(out))
    started.send(signal.SIGTERM)
    assert started.finish()[0] == 143
    return out


def files(out):
    """Everything that a command writes, but for times and dates: weights, curves, pictures, CSV and JSON."""
    timed = ("results.json", "report.html", "runs.csv", "tables.tex")
    paths = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in timed]
    contents = {str(path.relative_to(out)): path.read_bytes() for path in paths}
    # The finished run has its seconds as well.
    (run,) = out.glob("runs/*-seed0-*.safetensors")
    arrays, metadata = checkpoints.load(run)
    contents[f"runs/{run.name}"] = [leaf.tobytes() for leaf in jax.tree.leaves(arrays)] + [{**metadata, "seconds": 0}]
    document = json.loads((out / "results.json").read_text())
    contents["results.json"] = json.dumps(list(rerun.leaves(document)))
    header, row = (line.split(",") for line in (out / "runs.csv").read_text().splitlines())
    contents["runs.csv"] = [pair for pair in zip(header, row, strict=True) if pair[0] != "seconds"]
    return contents


def assert_same(out, whole):
    ours, theirs = files(out), files(whole)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


@pytest.mark.deep(115)
def test_killed_at_any_moment_it_resumes_to_the_same_bytes(whole, cache, tmp_path):
    # Its programs are compiled by now, as are those of all that follow.
    begin = time.monotonic()
    assert train(tmp_path / "again", cache).finish()[0] == 0
    seconds = time.monotonic() - begin
    rng, out = random.Random(0), tmp_path / "killed"
    for _ in range(KILLS):
        started = train(out, cache)
        time.sleep(rng.uniform(0, seconds))
        started.process.kill()
        code, _, errors = started.finish()
        assert code in (0, -signal.SIGKILL), errors
        if code == 0:
            # It was done before the kill: the folder is the same as one without kills, and another begins.
            assert_same(out, whole)
            shutil.rmtree(out)
    assert train(out, cache).finish()[0] == 0
    assert_same(out, whole)


# With SIGINT, and with several devices: tests/hostile/signals.py.
def test_told_to_stop_it_writes_a_checkpoint_and_says_how_to_resume(whole, cache, tmp_path):
    started = train(tmp_path, cache)
    started.wait_for(in_progress(tmp_path))
    started.send(signal.SIGTERM)
    code, _, err = started.finish()
    assert code == 143
    assert err == f"interrupted; the same command without --overwrite resumes from {tmp_path}: 1 in progress\n"
    code, _, err = train(tmp_path, cache).finish()
    assert (code, err) == (0, "")
    assert_same(tmp_path, whole)
    code, out, _ = train(tmp_path, cache).finish()
    assert code == 0
    assert "holds the results of this very command" in out


def test_a_full_disk_leaves_the_last_checkpoint(whole, stopped, cache, tmp_path):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    (part,) = tmp_path.glob(PART)
    checkpoint = part.read_bytes()

    # One byte too little for another checkpoint.
    code, _, err = train(tmp_path, cache, limit=len(checkpoint) - 1).finish()
    assert code == 1
    assert err.startswith(f"error: {tmp_path}")
    assert err.count("\n") == 1
    assert "File too large; files written before are unchanged" in err
    assert part.read_bytes() == checkpoint
    assert not list(tmp_path.rglob("*.tmp"))
    code, _, err = train(tmp_path, cache).finish()
    assert (code, err) == (0, "")
    assert_same(tmp_path, whole)


def test_a_folder_that_vanishes_is_one_line(cache, tmp_path):
    out = tmp_path / "out"
    started = train(out, cache)
    started.wait_for(in_progress(out))
    # In one step: while rmtree empties the folder, the command may write into it again.
    out.rename(tmp_path / "gone")
    code, _, err = started.finish()
    assert code == 1
    assert "No such file or directory; files written before are unchanged" in err
    assert err.count("\n") == 1
