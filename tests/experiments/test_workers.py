"""Many runs on workers: the numbers of one process, whatever dies, joins, leaves or asks to stop on the way."""

import contextlib
import csv
import json
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import Future

import dask
import numpy as np
import plain
import psutil
import pytest
from distributed import Client
from small_runs import ROOT, Command, execute, members, result

from experiments import rerun
from experiments.lab import programs, provenance, stops, workers
from experiments.lab.folder import Folder
from experiments.lab.runs import Run
from experiments.lab.train import train_group
from experiments.lab.workers import describe, introduce
from segjax import checkpoints

if not hasattr(os, "sched_setaffinity"):
    pytest.skip("only Linux keeps a process to some cores", allow_module_level=True)

WORDS = ["--seeds", "6", "--iterations", "100"]
SLOW, DEEP = pytest.mark.slow, pytest.mark.deep
ALL_CORES = os.sched_getaffinity(0)
ONE_CORE = {min(ALL_CORES)}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of programs that no other test reads: a worker that is killed may leave half of a program."""
    return str(tmp_path_factory.mktemp("cache"))


def start(cache, out, *words, cores=ALL_CORES):
    """A command in a session of its own."""
    before = f"os.setsid(); os.sched_setaffinity(0, {cores})"
    caches = {"environment": {"JAX_COMPILATION_CACHE_DIR": cache}, "settings": {"jax_compilation_cache_dir": cache}}
    return Command("plain", *WORDS, "--out", out, *words, before=before, **caches)


def start_alone(cache, out, *words):
    return start(cache, out, *words, cores=ONE_CORE)


def finish(command, seconds=120):
    """Its exit code, stdout and stderr. It leaves no process behind."""
    ended, end = command.finish(seconds), time.monotonic() + 20
    while remaining := members(command.process.pid):
        assert time.monotonic() < end, remaining
        time.sleep(0.05)
    return ended


def assert_succeeds(command, seconds=120):
    code, output, errors = finish(command, seconds)
    assert (code, errors) == (0, "")
    return output


def finished_runs(out):
    return list((out / "runs").glob("*.safetensors"))


def start_and_wait(cache, out, *words, cores=ALL_CORES):
    """A command that has just finished its first run."""
    command = start(cache, out, *words, cores=cores)
    command.wait_for(lambda: finished_runs(out))
    return command


def assert_same(out, other):
    """Every number of the results and of the table, and the number of cores, but for times."""
    assert rerun.differences(*(json.loads((path / "results.json").read_text()) for path in (out, other))) == []
    tables = [list(csv.DictReader((path / "runs.csv").read_text().splitlines())) for path in (out, other)]
    assert [{**row, "seconds": ""} for row in tables[0]] == [{**row, "seconds": ""} for row in tables[1]]


@pytest.fixture(scope="module")
def alone(cache, tmp_path_factory):
    """The folder of one process with one core."""
    out = tmp_path_factory.mktemp("alone")
    assert_succeeds(start_alone(cache, out))
    return out


@pytest.mark.slow(20)
def test_two_local_workers_give_the_bytes_of_one_process_on_one_core(cache, alone, tmp_path):
    command = start_and_wait(cache, tmp_path, "--workers", "2")
    # Whoever reaches one of their ports can run code.
    connections = [each for pid in members(command.process.pid) for each in psutil.Process(pid).net_connections()]
    listening = {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    output = assert_succeeds(command)
    assert "6 of 6 runs, 2 workers" in output or "6 of 6 runs, 1 worker" in output
    assert_same(tmp_path, alone)
    rows = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert {row["cores"] for row in rows} == {checkpoints.load(finished_runs(tmp_path)[0])[1]["cores"]} == {1}


@pytest.mark.deep(25)
def test_several_runs_of_one_worker_are_trained_together(cache, tmp_path):
    assert_succeeds(start(cache, tmp_path / "together", "--width", "3", "--workers", "2"))
    assert_succeeds(start_alone(cache, tmp_path / "alone", "--width", "3"))
    assert_same(tmp_path / "together", tmp_path / "alone")


def workers_of(command):
    return [pid for pid in members(command.process.pid) if pid != command.process.pid]


@pytest.mark.deep(95)
def test_workers_killed_at_any_moment_cost_no_bytes(cache, tmp_path):
    rng, out, seeds = random.Random(0), tmp_path / "killed", ["--seeds", "200", "--iterations", "20"]
    command = start(cache, out, *seeds, "--workers", "2")
    for kill in range(20):
        command.wait_for(lambda kill=kill: len(finished_runs(out)) >= 10 * kill)
        time.sleep(rng.uniform(0, 0.5))
        command.wait_for(lambda: workers_of(command))
        os.kill(rng.choice(workers_of(command)), signal.SIGKILL)
    assert_succeeds(command, 300)
    assert_succeeds(start_alone(cache, tmp_path / "alone", *seeds))
    assert_same(out, tmp_path / "alone")


@pytest.mark.slow(25)
def test_a_worker_that_is_stopped_ends_neither_the_others_nor_the_command(alone, tmp_path, monkeypatch):
    """Its process lives, and does nothing: the scheduler gives it up after a while, by default 5 minutes."""
    processes, write_runs = [], Folder.write_runs

    def start(*arguments):
        processes.append(start_worker(*arguments))
        return processes[-1]

    def write_and_stop(folder, results):
        write_runs(folder, results)
        processes[0].send_signal(signal.SIGSTOP)

    start_worker = workers._LocalWorkers._start
    monkeypatch.setattr(workers._LocalWorkers, "_start", staticmethod(start))
    monkeypatch.setattr(Folder, "write_runs", write_and_stop)
    with dask.config.set({"distributed.scheduler.worker-ttl": "5s"}):
        execute(plain, *WORDS, "--workers", "2", "--out", tmp_path)
    assert_same(tmp_path, alone)
    assert [process.poll() for process in processes] == [-signal.SIGKILL] * 2


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        pytest.param(moment, number, marks=mark(10))
        for number, *marks in ((signal.SIGINT, SLOW, DEEP, SLOW), (signal.SIGTERM, DEEP, SLOW, DEEP))
        for moment, mark in zip(("starting", "training", "reporting"), marks, strict=True)
    ],
)
def test_a_signal_at_any_moment_is_one_line_and_the_command_resumes(moment, number, cache, alone, tmp_path):
    command = start(cache, tmp_path, "--workers", "2")
    runs = {"starting": 0, "training": 1, "reporting": 6}[moment]
    command.wait_for(lambda: (tmp_path / "options.json").exists() and len(finished_runs(tmp_path)) >= runs)
    # Ctrl-C reaches all processes of a terminal.
    (os.killpg if number == signal.SIGINT else os.kill)(command.process.pid, number)
    code, _, errors = finish(command, 30)
    assert code == 128 + number
    one_line = errors.count("\n") == 1
    assert (one_line, errors.startswith("interrupted; the same command ")) == (True, moment != "starting"), errors
    assert len(finished_runs(tmp_path)) >= runs
    assert_succeeds(start_alone(cache, tmp_path))
    assert_same(tmp_path, alone)


@pytest.mark.slow(20)
def test_workers_finish_the_runs_of_one_process(cache, alone, tmp_path):
    command = start_and_wait(cache, tmp_path, "--checkpoint-seconds", "0.001", cores=ONE_CORE)
    command.send(signal.SIGTERM)
    assert finish(command)[0] == 143
    assert_succeeds(start(cache, tmp_path, "--workers", "2"))
    assert_same(tmp_path, alone)


class Cluster:
    """A scheduler and workers of one core, each a process.

    Attributes:
        file: by which they find each other.
    """

    def __init__(self, folder, cache, stack):
        self.cache, self.stack, self.file = cache, stack, folder / "scheduler.json"
        self.scheduler = self._dask("scheduler", "--host", "127.0.0.1", "--port", "0")
        while not self.file.exists():
            assert self.scheduler.poll() is None
            time.sleep(0.01)

    def _dask(self, *words, environment=()):
        command = [sys.executable, "-m", "dask", *words, "--scheduler-file", str(self.file), "--no-dashboard"]
        ours = {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": self.cache, **dict(environment)}
        streams = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
        # Elsewhere than in the checkout, whose modules it should find by its path alone.
        process = subprocess.Popen(command, cwd=self.file.parent, env=os.environ | ours, **streams)
        os.sched_setaffinity(process.pid, ONE_CORE)
        self.stack.enter_context(process)
        # It comes first, and then the stack waits for the process.
        self.stack.callback(process.kill)
        return process

    def worker(self, **environment):
        return self._dask("worker", "--nthreads", "1", "--no-nanny", environment=environment)

    def train(self, out, *words):
        """The results of a command in this process."""
        return execute(plain, *WORDS, "--cluster", self.file, "--out", out, *words)


@pytest.fixture
def cluster(cache, tmp_path_factory):
    with contextlib.ExitStack() as stack:
        yield Cluster(tmp_path_factory.mktemp("cluster"), cache, stack)


@pytest.fixture(scope="module")
def shared(cache, tmp_path_factory):
    """A cluster of two workers that no test ends."""
    with contextlib.ExitStack() as stack:
        cluster = Cluster(tmp_path_factory.mktemp("shared"), cache, stack)
        cluster.worker()
        cluster.worker()
        yield cluster


@pytest.mark.slow(12)
def test_the_workers_of_a_cluster_give_the_numbers_of_one_process(shared, alone, tmp_path):
    shared.train(tmp_path)
    assert_same(tmp_path, alone)


@pytest.mark.slow
def test_where_no_worker_computes_alike_there_is_nothing_to_do(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "versions", lambda: {"jax": "0.1"})
    with pytest.raises(stops.UsageError, match=r"^no worker computes as this process does: its jax is .*, not 0\.1$"):
        shared.train(tmp_path)


@pytest.mark.slow(9)
def test_an_unlike_worker_gets_no_runs_and_its_difference_is_named(cluster, alone, tmp_path, capfd):
    # The last has no experiments on its path.
    for environment in ({}, {"JAX_ENABLE_X64": "1"}, {"PYTHONPATH": ""}):
        cluster.worker(**environment)
    with Client(scheduler_file=str(cluster.file), set_as_default=False) as client:
        client.wait_for_workers(3)
    cluster.train(tmp_path)
    output = capfd.readouterr().out
    assert output.count("gets no runs") == 2
    assert "gets no runs: its enable_x64 is True, not False." in output
    assert "gets no runs: it fails with ModuleNotFoundError: No module named 'experiments'." in output
    assert_same(tmp_path, alone)


@pytest.mark.slow(5)
def test_a_worker_that_joins_late_trains(cluster, alone, tmp_path):
    # It takes seconds to start.
    cluster.worker()
    cluster.train(tmp_path)
    assert_same(tmp_path, alone)


@pytest.mark.slow(12)
def test_a_worker_that_leaves_costs_nothing(cluster, cache, alone, tmp_path):
    first, _ = cluster.worker(), cluster.worker()
    command = start_and_wait(cache, tmp_path, "--cluster", cluster.file)
    first.terminate()
    assert_succeeds(command)
    assert_same(tmp_path, alone)


@pytest.mark.slow(8)
def test_without_its_scheduler_a_command_ends_and_resumes(cluster, cache, alone, tmp_path):
    cluster.worker()
    command = start_and_wait(cache, tmp_path, "--cluster", cluster.file)
    cluster.scheduler.kill()
    code, _, errors = finish(command, 60)
    assert (code, errors.count("\n")) == (1, 1), errors
    assert errors.startswith("error: the scheduler has ended; ")
    assert finished_runs(tmp_path)
    assert_succeeds(start_alone(cache, tmp_path))
    assert_same(tmp_path, alone)


@pytest.mark.slow
def test_where_no_worker_comes_a_command_ends(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE_S", 1.0)
    with pytest.raises(stops.EngineError, match=r"^no worker came within 1 s$"):
        cluster.train(tmp_path)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the user's own, which no worker has."""
    (folder := tmp_path / "path" / "mine").mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder.parent)
    yield folder
    forget_package()


def forget_package():
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]
    programs.forget_optimizers()


@pytest.mark.slow(8)
def test_modules_of_the_user_s_own_are_sent_and_sent_again(shared, package, tmp_path):
    source = "import optax\nfrom mine.deeper import DECAY\nsgd = lambda rate: optax.sgd(rate, DECAY)"
    (package / "own.py").write_text(source)
    for decay in ("0.9", "0.55"):
        (package / "deeper.py").write_text(f"DECAY = {decay}\n")
        forget_package()
        losses = []
        for name, words in (("mine.own:sgd", ["--cluster", shared.file]), (f"optax:sgd(momentum={decay})", [])):
            words += ["--method", name, "--seeds", "1", "--out", tmp_path / decay / name]
            losses.append(execute(plain, *words)["runs"][0]["curves"]["loss"])
        np.testing.assert_allclose(*losses, rtol=1e-3)


ON_A_WORKER = """import os, signal, threading
import optax

def there():
    return "Dask" in threading.current_thread().name

def sgd(rate):
    inner = optax.sgd(rate)
    def init(params):
        if there() and len(params) > 2:
            {}
        return inner.init(params)
    return optax.GradientTransformation(init, inner.update)

"""


@pytest.mark.slow
def test_a_run_that_raises_on_a_worker_is_one_line(shared, package, tmp_path):
    (package / "own.py").write_text(ON_A_WORKER.format('raise ArithmeticError("no such\\n thing")'))
    message = r"^mine.own:sgd 0.001, seed 0 failed with ArithmeticError: no such \(without workers"
    with pytest.raises(stops.EngineError, match=message):
        shared.train(tmp_path / "out", "--method", "mine.own:sgd", "--seeds", "1")


KILL = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.deep(13)
@pytest.mark.parametrize(
    ("text", "work"),
    [
        (ON_A_WORKER.format(KILL), "trained mine.own:sgd 0.001, seed 0"),
        (ON_A_WORKER.format("pass") + f"if there(): {KILL}", "started"),
    ],
)
def test_four_deaths_are_one_line(text, work, package, tmp_path):
    (package / "own.py").write_text(text)
    with pytest.raises(stops.EngineError, match=f"^4 workers died while they {work}; out of memory, most likely$"):
        execute(plain, "--method", "mine.own:sgd", "--seeds", "2", "--workers", "1", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (__file__, f"--cluster {__file__} cannot be reached: "),
        ("FILE", "cannot be reached: it is not a file that a scheduler wrote"),
        ("tls://localhost:1", "cannot be reached: TLS "),
        pytest.param("tcp://127.0.0.1:1", "cannot be reached: Timed out", marks=pytest.mark.slow(10)),
    ],
)
def test_a_cluster_that_cannot_be_reached_is_one_line(place, message, tmp_path):
    (file := tmp_path / "file.json").write_text('{"address": 5}')
    level = logging.getLogger("asyncio").level
    with pytest.raises(stops.UsageError, match=message) as error:
        execute(plain, "--cluster", place.replace("FILE", str(file)), "--out", tmp_path / "out")
    assert "\n" not in str(error.value)
    # It leaves nothing.
    assert not (tmp_path / "out").exists()
    assert logging.getLogger("asyncio").level == level


def test_without_dask_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "find_spec", lambda _: None)
    with pytest.raises(stops.UsageError, match=r"need the package distributed: pip install '\.\[cluster\]'"):
        execute(plain, "--workers", "1", "--out", tmp_path / "out")


def ended(value):
    future = Future()
    future.set_result(value)
    return future


def in_progress(group):
    return Future()


def well(group):
    return ended([result([0.5], run.seed) for run in group])


def cancelled(group):
    (future := Future()).cancel()
    return future


def lost(group):
    """Its worker died with the result."""
    (future := Future()).done = lambda: True
    return future


class FakeClient:
    """Dask's, whose workers describe themselves as this process does."""

    id = "test"

    def __init__(self, *moments):
        """Each moment, whenever it is asked: the workers there are, and what comes of a group given to the last."""
        self.moments, self.tasks = list(moments), []

    def nthreads(self):
        names, self.train = self.moments.pop(0) if len(self.moments) > 1 else self.moments[0]
        return dict.fromkeys(names, 1)

    def subscribe_topic(self, *_):
        pass

    def submit(self, _, pickled, workers, **__):
        function, arguments = pickle.loads(pickled)
        if function is introduce:
            return ended(describe(*arguments))
        self.tasks.append((workers[0], arguments[0][0].seed))
        return self.train(arguments[0])


def train(*moments):
    """The seeds that a pool trains, in the order of their ends, and what the client was asked for."""
    seeds, client = [], FakeClient(*moments)
    groups, pool = [[Run(seed)] for seed in range(2)], workers.Pool(client, "default", print)
    pool.train(train_group, groups, lambda results: seeds.append(results[0].run.seed), lambda *_: 0)
    return seeds, client.tasks


@pytest.fixture
def soon(monkeypatch):
    """A pool waits for nothing."""
    monkeypatch.setattr(workers, "INTERVAL_S", 0.01)
    monkeypatch.setattr(workers, "RESULT_S", 0.01)


@pytest.mark.usefixtures("soon")
def test_a_group_that_was_cancelled_or_lost_its_worker_is_trained_again():
    assert train(("a", well)) == ([0, 1], [("a", 0), ("a", 1)])
    assert train(("a", well), ("a", cancelled), ("a", well))[1] == [("a", 0), ("a", 0), ("a", 1)]
    # b remains; a dies of the run that it was training, and of no other.
    assert sorted(train(("ab", in_progress), ("ab", in_progress), ("b", well), ("c", well))[0]) == [0, 1]
    assert train(("a", lost), ("a", lost), ("b", well)) == ([0, 1], [("a", 0), ("b", 0), ("b", 1)])


@pytest.mark.usefixtures("soon")
def test_only_deaths_in_training_count_against_a_run():
    deadly = [(name, in_progress) for name in "aabbccdd"]
    with pytest.raises(stops.EngineError, match=r"4 workers died while they trained adam 0\.001, seed 0;"):
        train(*deadly, ("", well))
    # After three deaths it goes on.
    assert train(*deadly[:6], ("e", well))[0] == [0, 1]
