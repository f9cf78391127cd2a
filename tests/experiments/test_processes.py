"""Real processes over loopback: two, each with two devices."""

import json
import math
import signal
import socket
import time

import numpy as np
import pytest
from small_runs import SHORT, SMALL, TWO_DEVICES, Command, execute

from experiments import compare_optimizers
from experiments.lab import processes
from experiments.lab.stops import UsageError

# 3 runs of each optimizer on 4 devices.
OPTIMIZERS = ["--optimizers", "sgd=0.01", "momentum=0.01"]
WORDS = ["--seeds", "3", *OPTIMIZERS]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def by_flags(index, port):
    return ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", "--process-id", index], {}


def by_scheduler(index, port):
    """What Slurm would say to them; jax makes a port from the number of the job."""
    slurm = {"JOB_ID": str(port), "STEP_NODELIST": "localhost", "NTASKS": "2", "PROCID": index, "LOCALID": index}
    return ["--coordinator", "auto"], {f"SLURM_{name}": value for name, value in slurm.items()}


def start(out, cache, *arguments, join=by_flags, second=((), {}), keeps=True):
    """Two processes; `second` are words and settings of jax for the second alone.

    The first finds its programs in a cache, and `keeps` new ones there.
    """
    port, both = free_port(), []
    for index in "01":
        group, environment = join(index, port)
        words, own = second if index == "1" else ((), {})
        settings = {
            "jax_compilation_cache_dir": str(cache),
            "jax_persistent_cache_min_compile_time_secs": 0.0 if keeps else math.inf,
            # jax has the first alone write, and the other would complain of what is half written.
            "jax_enable_compilation_cache": index == "0",
        }
        both.append(
            Command(
                "compare_optimizers",
                *(*SMALL, *WORDS, *arguments, *words, *group, "--out", out),
                environment={"XLA_FLAGS": TWO_DEVICES, **environment},
                settings=settings | own,
            )
        )
    return both


def runs_of(out):
    return json.loads((out / "results.json").read_text())["runs"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The runs of one process."""
    return execute(compare_optimizers, *SHORT, *WORDS, "--out", tmp_path_factory.mktemp("alone"))["runs"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where the first of two processes finds its programs: no other test should."""
    return tmp_path_factory.mktemp("cache")


# The second asks for the first optimizer alone: it is another way to come together, not another comparison.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("join", "optimizers"),
    [(by_flags, OPTIMIZERS), pytest.param(by_scheduler, OPTIMIZERS[:-1], marks=pytest.mark.deep)],
)
def test_two_processes_give_the_numbers_of_one(join, optimizers, alone, cache, tmp_path):
    both = start(tmp_path, cache, "--iterations", "10", *optimizers, join=join)
    (first, _, errors), (other, said, _) = [process.finish() for process in both]
    assert (first, other, errors) == (0, 0, "")
    assert "Wrote" not in said
    together = runs_of(tmp_path)
    assert [run["seed"] for run in together] == [0, 1, 2] * (len(optimizers) - 1)
    for first, second in zip(together, alone[: len(together)], strict=True):
        # Other numbers of devices sum in another order.
        np.testing.assert_allclose(first["curves"]["loss"], second["curves"]["loss"], rtol=1e-4)
        assert first["label"] == second["label"]
        assert first["learning_rate"] == second["learning_rate"] == 0.01
        assert first["iou"] == pytest.approx(second["iou"], abs=1e-2)
    # Only the first sees the folder, but nothing is left to do for either.
    for process in start(tmp_path, cache, "--iterations", "10", *optimizers, join=join):
        code, _, errors = process.finish()
        assert (code, errors) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "how", "code"),
    [
        (0, signal.SIGKILL, -9),
        pytest.param(1, signal.SIGTERM, 143, marks=pytest.mark.deep),
        pytest.param(1, signal.SIGKILL, -9, marks=pytest.mark.deep),
        pytest.param(0, signal.SIGINT, 130, marks=pytest.mark.deep),
    ],
)
def test_a_dead_process_ends_the_other(victim, how, code, cache, tmp_path):
    # When those of sgd are kept, the program for momentum is still to be compiled. A kill could leave half of one.
    both = start(tmp_path, cache, "--iterations", "50", keeps=False)
    kept = tmp_path / "runs"
    both[victim].wait_for(lambda: len(list(kept.glob("sgd-0.01-seed?-*.safetensors"))) == 3)
    both[victim].send(how)
    begin = time.monotonic()
    returned, _, said = both[1 - victim].finish(60)
    assert time.monotonic() - begin < 60
    assert returned == 1
    assert both[victim].finish(60)[0] == code
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


@pytest.mark.slow
@pytest.mark.parametrize("index", ["0", "1"])
def test_a_process_does_not_wait_for_ever_to_be_joined(index, tmp_path):
    words, _ = by_flags(index, port := free_port())
    impatient = "from experiments.lab import processes; processes.PATIENCE_S = 1"
    started = Command("compare_optimizers", *words, "--out", tmp_path / "out", before=impatient)
    code, _, said = started.finish(60)
    assert code == 2, said
    where = f"at 127.0.0.1:{port} in 1 s; were all of them started?"
    assert said.splitlines()[-1] == f"error: the 2 processes did not come together {where}"
    assert not (tmp_path / "out").exists()


def test_one_process_is_its_own_writer(tmp_path):
    with processes.joined(processes.Group(), tmp_path):
        assert processes.is_writer()
        array = np.array([1.0, 2.0])
        assert processes.broadcast(array) is array


@pytest.mark.slow
@pytest.mark.parametrize(
    ("second", "difference"),
    [
        ((("--sigma1", "0.9"), {}), "sigma1 0.9, not 0.2"),
        # Arrays of other seeds have other shapes, and the processes would wait for one another for ever.
        ((("--seeds", "2"), {}), "seeds 2, not 3"),
        (((), {"jax_enable_x64": True}), "enable_x64 True, not False"),
    ],
)
def test_processes_that_were_not_started_alike_end_with_the_difference(second, difference, cache, tmp_path):
    both = start(tmp_path / "out", cache, "--iterations", "10", second=second)
    for process in both:
        code, _, errors = process.finish()
        assert code == 2
        assert errors.splitlines()[-1] == f"error: process 1 was started with {difference} as the first"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("coordinator", "index", "message"),
    [
        ("127.0.0.1:{taken}", 0, "Address already in use"),
        # Not an address of this machine.
        ("192.0.2.1:{free}", 0, "Cannot assign requested address"),
        ("no host:{taken}", 0, "."),
        ("no host:{taken}", 1, "."),
    ],
)
def test_an_address_that_cannot_be_used_is_one_line(coordinator, index, message, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        coordinator = coordinator.format(taken=server.getsockname()[1], free=free_port())
        group = processes.Group(coordinator=coordinator, num_processes=2, process_id=index)
        with (
            pytest.raises(UsageError, match=f"--coordinator {coordinator} cannot be used: .*{message}"),
            processes.joined(group, tmp_path),
        ):
            pytest.fail("nothing can be joined")
