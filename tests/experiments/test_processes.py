"""Real processes over loopback: two, each with two devices."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from small_runs import ROOT, execute

from experiments import compare_optimizers
from experiments.lab import processes
from experiments.lab.stops import UsageError

# 3 runs of each optimizer on 4 devices.
SMALL = ["--preset", "quick", "--image-size", "16", "--sigma", "4", "--batch-size", "2", "--seeds", "3"]
SMALL += ["--optimizers", "sgd=0.01", "momentum=0.01"]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def by_flags(index, port):
    return ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", "--process-id", index], {}


def by_scheduler(index, port):
    """What Slurm would say to them; jax makes a port from the number of the job."""
    slurm = {"JOB_ID": str(port), "STEP_NODELIST": "localhost", "NTASKS": "2", "PROCID": index, "LOCALID": index}
    return ["--coordinator", "auto"], {f"SLURM_{name}": value for name, value in slurm.items()}


def start(out, *arguments, join=by_flags, second=((), {})):
    """Two processes; `second` are words and an environment for the second alone."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    # One would read a program while the other writes it, and complain of half a file.
    shared = {**os.environ, "XLA_FLAGS": flags, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    port, both = free_port(), []
    for index in "01":
        group, environment = join(index, port)
        words, own = second if index == "1" else ((), {})
        command = [sys.executable, "-m", "experiments.compare_optimizers", *SMALL, *arguments, *words, *group]
        both.append(
            subprocess.Popen(
                [*command, "--out", str(out)],
                cwd=ROOT,
                env={**shared, **environment, **own},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return both


def runs_of(out):
    return json.loads((out / "results.json").read_text())["runs"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The runs of one process."""
    return execute(compare_optimizers, *SMALL, "--iterations", "3", "--out", tmp_path_factory.mktemp("alone"))["runs"]


# The second asks for the first optimizer alone: it is another way to come together, not another comparison.
@pytest.mark.parametrize(("join", "optimizers"), [(by_flags, SMALL[-2:]), (by_scheduler, SMALL[-2:-1])])
def test_two_processes_give_the_numbers_of_one(join, optimizers, alone, tmp_path):
    both = start(tmp_path, "--iterations", "3", "--optimizers", *optimizers, join=join)
    (_, errors), (second, _) = [process.communicate(timeout=120) for process in both]
    assert not errors
    assert "Wrote" not in second
    together = runs_of(tmp_path)
    assert [run["seed"] for run in together] == [0, 1, 2] * len(optimizers)
    for first, second in zip(together, alone[: len(together)], strict=True):
        # Other numbers of devices sum in another order.
        np.testing.assert_allclose(first["curves"]["loss"], second["curves"]["loss"], rtol=1e-4)
        assert first["label"] == second["label"]
        assert first["learning_rate"] == second["learning_rate"] == 0.01
        assert first["iou"] == pytest.approx(second["iou"], abs=1e-2)
    # Only the first sees the folder, but nothing is left to do for either.
    for process in start(tmp_path, "--iterations", "3", "--optimizers", *optimizers, join=join):
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("victim", "how", "code"),
    [(1, signal.SIGKILL, -9), (0, signal.SIGKILL, -9), (0, signal.SIGINT, 130), (1, signal.SIGTERM, 143)],
)
def test_a_dead_process_ends_the_other(victim, how, code, tmp_path):
    # When those of sgd are kept, the program for momentum is still to be compiled.
    both = start(tmp_path, "--iterations", "100")
    try:
        kept = tmp_path / "runs"
        wait_for(lambda: len(list(kept.glob("sgd-0.01-seed?-*.safetensors"))) == 3)
        both[victim].send_signal(how)
        begin = time.monotonic()
        _, said = both[1 - victim].communicate(timeout=60)
        assert time.monotonic() - begin < 60
        assert both[1 - victim].returncode == 1
        assert both[victim].wait(timeout=60) == code
    finally:
        for process in both:
            process.kill()
            process.communicate()
    last = said.strip().splitlines()[-1]
    assert last.startswith(
        f"error: process {victim} of 2 has ended; the runs that were finished are kept in {tmp_path}"
    )
    assert len(list(kept.glob("*.safetensors"))) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_processes": 0}, "--num-processes must be an integer >= 1"),
        ({"process_id": -1}, "--process-id must be an integer >= 0"),
        ({"num_processes": 2}, "--num-processes needs --coordinator HOST:PORT"),
        ({"coordinator": "here:1", "process_id": 1}, "--process-id must be < --num-processes"),
        ({"coordinator": "here"}, "--coordinator must be HOST:PORT or auto, got 'here'"),
        ({"coordinator": "here:port"}, "--coordinator must be HOST:PORT or auto"),
        ({"coordinator": "here:70000"}, "--coordinator must be HOST:PORT or auto"),
    ],
)
def test_refuses(options, message, tmp_path):
    with pytest.raises(UsageError, match=message), processes.joined(processes.Group(**options), tmp_path):
        pytest.fail("nothing can be joined")


@pytest.mark.parametrize("index", ["0", "1"])
def test_a_process_does_not_wait_for_ever_to_be_joined(index, tmp_path):
    port = free_port()
    words = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", "--process-id", index]
    words += ["--out", str(tmp_path / "out")]
    code = "import sys; from functools import partial; from experiments import compare_optimizers as it\n"
    code += "from experiments.lab import cli, experiment, processes\nprocesses.PATIENCE_S = 2\n"
    code += f"sys.argv = ['it', *{words!r}]\ncli.run(partial(experiment.run, it), it.Options, it.PRESETS)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    where = f"at 127.0.0.1:{port} in 2 s; were all of them started?"
    assert done.stderr.splitlines()[-1] == f"error: the 2 processes did not come together {where}"
    assert not (tmp_path / "out").exists()


def test_one_process_is_its_own_writer(tmp_path):
    with processes.joined(processes.Group(), tmp_path):
        assert processes.is_writer()
        array = np.array([1.0, 2.0])
        assert processes.broadcast(array) is array


@pytest.mark.parametrize(
    ("second", "difference"),
    [
        ((("--sigma1", "0.9"), {}), "sigma1 0.9, not 0.2"),
        # Arrays of other seeds have other shapes, and the processes would wait for one another for ever.
        ((("--seeds", "2"), {}), "seeds 2, not 3"),
        (((), {"JAX_ENABLE_X64": "1"}), "enable_x64 True, not False"),
    ],
)
def test_processes_that_were_not_started_alike_end_with_the_difference(second, difference, tmp_path):
    both = start(tmp_path / "out", "--iterations", "3", second=second)
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 2
        assert errors.splitlines()[-1] == f"error: process 1 was started with {difference} as the first"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("coordinator", "index", "message"),
    [
        ("127.0.0.1:{taken}", 0, "Address already in use"),
        # Not an address of this machine.
        ("192.0.2.1:{taken}", 0, "."),
        ("no host:{taken}", 0, "."),
        ("no host:{taken}", 1, "."),
    ],
)
def test_an_address_that_cannot_be_used_is_one_line(coordinator, index, message, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        coordinator = coordinator.format(taken=server.getsockname()[1])
        group = processes.Group(coordinator=coordinator, num_processes=2, process_id=index)
        with (
            pytest.raises(UsageError, match=f"--coordinator {coordinator} cannot be used: .*{message}"),
            processes.joined(group, tmp_path),
        ):
            pytest.fail("nothing can be joined")
