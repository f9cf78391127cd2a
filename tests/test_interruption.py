"""Nothing is lost: real processes that are killed, told to stop, or run out of room, and what they go on from."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import command, interruption, rerun, train_model
from segjax import checkpoints

ROOT = Path(__file__).parents[1]
# Saved after every chunk, so that a kill can hit a saving too.
SMALL = ["--preset", "quick", "--image-size", "16", "--sigma", "4", "--batch-size", "1", "--architecture", "kernel_3"]
SMALL += ["--iterations", "200", "--show-every", "100", "--checkpoint-seconds", "0.01"]
KILLS, RUN = 20, "runs/adam-0.01-seed0.safetensors"


def start(out, *arguments, cache=None, limit=None):
    """The command; `cache` is a folder of compiled programs, `limit` the most bytes that a file may have."""
    words = [*SMALL, "--out", str(out), *arguments]
    code = f"import resource, runpy, sys; sys.argv = ['it', *{words!r}]\n"
    if limit:
        code += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    code += "runpy.run_module('experiments.train_model', run_name='__main__', alter_sys=True)"
    settings = {"COMPILATION_CACHE_DIR": cache, "PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0} if cache else {}
    environment = {**os.environ, **{f"JAX_{name}": str(value) for name, value in settings.items()}}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, text=True, **pipes)


def finish(process):
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def wait_for_a_checkpoint(out, process, ending="part"):
    while not list(out.glob(f"runs/*.{ending}")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where the processes share what they compile, but for the undisturbed one, against which they are held."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    code, errors = finish(start(out))
    assert code == 0, errors
    return out


@pytest.fixture(scope="module")
def stopped(cache, tmp_path_factory):
    """The folder of a run that was told to stop."""
    out = tmp_path_factory.mktemp("stopped")
    process = start(out, cache=cache)
    wait_for_a_checkpoint(out, process)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143
    return out


def files(out):
    """Everything that a command writes, but for times and dates: weights, curves, pictures, CSV and JSON."""
    timed = ("results.json", "report.html", "runs.csv", "tables.tex")
    paths = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in timed]
    found = {str(path.relative_to(out)): path.read_bytes() for path in paths}
    # The finished run tells its seconds as well.
    arrays, metadata = checkpoints.load(out / RUN)
    found[RUN] = [leaf.tobytes() for leaf in jax.tree.leaves(arrays)] + [{**metadata, "seconds": 0}]
    document = json.loads((out / "results.json").read_text())
    found["results.json"] = json.dumps(list(rerun.leaves(document)))
    header, row = (line.split(",") for line in (out / "runs.csv").read_text().splitlines())
    found["runs.csv"] = [pair for pair in zip(header, row, strict=True) if pair[0] != "seconds"]
    return found


def assert_same(out, whole):
    ours, theirs = files(out), files(whole)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(whole, cache, tmp_path):
    # The second finds its programs compiled, as all that follow do.
    for name in ("first", "second"):
        begin = time.monotonic()
        assert finish(start(tmp_path / name, cache=cache))[0] == 0
    seconds = time.monotonic() - begin
    rng, out = random.Random(0), tmp_path / "killed"
    for _ in range(KILLS):
        process = start(out, cache=cache)
        time.sleep(rng.uniform(0, seconds))
        process.kill()
        code, errors = finish(process)
        assert code in (0, -signal.SIGKILL), errors
        if code == 0:
            # It was done before: what the kills left is the same, and another begins.
            assert_same(out, whole)
            shutil.rmtree(out)
    assert finish(start(out, cache=cache))[0] == 0
    assert_same(out, whole)


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_told_to_stop_it_saves_and_says_how_to_go_on(how, code, whole, cache, tmp_path):
    process = start(tmp_path, cache=cache)
    wait_for_a_checkpoint(tmp_path, process)
    process.send_signal(how)
    returned, said = finish(process)
    assert returned == code
    assert said == (
        "interrupted; the same command without --overwrite goes on from what is kept in "
        f"{tmp_path}: 0 finished runs, 1 begun\n"
    )
    again = start(tmp_path, cache=cache)
    assert finish(again) == (0, "")
    assert_same(tmp_path, whole)
    last = start(tmp_path, cache=cache)
    assert "holds the results of this very command" in last.communicate(timeout=60)[0]
    assert last.returncode == 0


def test_runs_side_by_side_go_on_to_the_same_numbers(cache, tmp_path):
    """Three runs of each optimizer on two devices: the second round has one."""

    def compare(out):
        words = ["--preset", "quick", "--image-size", "16", "--sigma", "4", "--batch-size", "1", "--seeds", "3"]
        words += ["--iterations", "300", "--optimizers", "sgd", "--checkpoint-seconds", "0.01", "--out", str(out)]
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
        environment = {**os.environ, "XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": str(cache)}
        arguments = [sys.executable, "-m", "experiments.compare_optimizers", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(arguments, cwd=ROOT, env=environment, text=True, **pipes)

    assert finish(compare(tmp_path / "whole")) == (0, "")
    process = compare(tmp_path / "part")
    wait_for_a_checkpoint(tmp_path / "part", process, "round")
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code == 143
    assert "goes on from what is kept" in said
    assert finish(compare(tmp_path / "part")) == (0, "")
    whole, part = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "part"))
    assert rerun.differences(whole, part) == []
    assert not list((tmp_path / "part").glob("runs/*.round"))


def test_a_full_disk_leaves_the_last_checkpoint(whole, stopped, cache, tmp_path):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    (part,) = tmp_path.glob("runs/*.part")
    kept = part.read_bytes()

    # One byte too little for another checkpoint.
    code, said = finish(start(tmp_path, cache=cache, limit=len(kept) - 1))
    assert code == 1
    assert said.startswith(f"error: {tmp_path}")
    assert said.count("\n") == 1
    assert "File too large; what was kept before is as it was" in said
    assert part.read_bytes() == kept
    assert not list(tmp_path.rglob("*.tmp"))
    assert finish(start(tmp_path, cache=cache)) == (0, "")
    assert_same(tmp_path, whole)


def test_a_folder_that_vanishes_is_one_line(cache, tmp_path):
    out = tmp_path / "out"
    process = start(out, cache=cache)
    wait_for_a_checkpoint(out, process)
    shutil.rmtree(out, ignore_errors=True)
    code, said = finish(process)
    assert code == 1
    assert "No such file or directory; what was kept before is as it was" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-1], lambda content: content[::-1]])
def test_a_damaged_checkpoint_is_one_line(damage, stopped, tmp_path):
    out = shutil.copytree(stopped, tmp_path / "out")
    (part,) = out.glob("runs/*.part")
    part.write_bytes(damage(part.read_bytes()))
    options = command.parse(train_model.Options, train_model.PRESETS, [*SMALL, "--out", str(out)])
    with pytest.raises(command.UsageError, match=r"\.part is .*; delete it, or pass --overwrite"):
        train_model.main(options)


def test_a_checkpoint_of_another_network_is_one_line(stopped, tmp_path):
    out = shutil.copytree(stopped, tmp_path / "out")
    (part,) = out.glob("runs/*.part")
    arrays, metadata = checkpoints.load(part)
    arrays["state"]["params"]["conv1"]["kernel"] = np.zeros((3, 3, 1, 4), np.float32)
    checkpoints.save(part, arrays, metadata)
    options = command.parse(train_model.Options, train_model.PRESETS, [*SMALL, "--out", str(out)])
    with pytest.raises(
        command.UsageError, match=r"another tree: params/conv1/kernel is float32 of shape \(3, 3, 1, 4\)"
    ):
        train_model.main(options)


def test_a_second_signal_ends_all_at_once():
    code = "import os, signal; from experiments.interruption import deferred\nwith deferred() as signals:\n"
    code += "    os.kill(os.getpid(), signal.SIGINT); print(signals, flush=True); os.kill(os.getpid(), signal.SIGTERM)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (143, "[2]\n")


def test_signals_are_what_they_were_afterwards():
    before = [signal.getsignal(number) for number in interruption.SIGNALS]
    with interruption.deferred() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        os.sched_yield()
    assert signals == [signal.SIGINT]
    assert [signal.getsignal(number) for number in interruption.SIGNALS] == before
