"""Many runs on workers: the numbers of one process, whatever dies, joins, leaves or asks to stop on the way."""

import contextlib
import csv
import json
import os
import pickle
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import plain
import pytest
from distributed import Client
from small_runs import ROOT, SHORT, execute, members, result

from experiments import rerun
from experiments.lab import provenance, stops, workers
from experiments.lab.runs import Run
from experiments.lab.train import train_group
from experiments.lab.workers import describe, introduce
from segjax import checkpoints

if not hasattr(os, "sched_setaffinity"):
    pytest.skip("only Linux keeps a process to some cores", allow_module_level=True)

PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
WORDS = ["--seeds", "6", "--iterations", "100"]
SLOW, DEEP = pytest.mark.slow, pytest.mark.deep


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where processes start; it keeps programs that are compiled for one core, which jax's cache does not tell."""
    return tmp_path_factory.mktemp("home")


def spawn(home, *words, one_core=False, environment=(), **streams):
    """A process in a session of its own, with its streams as they are named or thrown away."""
    environment = {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(home / "cache"), **dict(environment)}
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "text": True, **streams}
    command, all_cores = [sys.executable, *map(str, words)], os.sched_getaffinity(0)
    # It inherits them from this thread.
    os.sched_setaffinity(0, {min(all_cores)} if one_core else all_cores)
    try:
        return subprocess.Popen(command, cwd=home, env=os.environ | environment, start_new_session=True, **streams)
    finally:
        os.sched_setaffinity(0, all_cores)


def start(home, out, *words, **options):
    return spawn(home, plain.__file__, *WORDS, "--out", out, *words, **PIPES, **options)


def finish(process, seconds=120):
    """Its exit code, and what it wrote to stdout and stderr. It leaves no process behind."""
    try:
        said = process.communicate(timeout=seconds)
    finally:
        process.kill()
    end = time.monotonic() + 20
    while left := members(process.pid):
        assert time.monotonic() < end, left
        time.sleep(0.05)
    return process.returncode, *said


def wait_for(process, condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < end
        time.sleep(0.005)


def finished_runs(out):
    return list((out / "runs").glob("*.safetensors"))


def assert_same(out, other):
    """Every number of the results and of the table, and the number of cores, but for times."""
    assert rerun.differences(*(json.loads((it / "results.json").read_text()) for it in (out, other))) == []
    tables = [list(csv.DictReader((it / "runs.csv").read_text().splitlines())) for it in (out, other)]
    assert [{**row, "seconds": ""} for row in tables[0]] == [{**row, "seconds": ""} for row in tables[1]]


@pytest.fixture(scope="module")
def alone(home):
    """The folder of one process with one core."""
    assert finish(start(home, home / "alone", one_core=True))[::2] == (0, "")
    return home / "alone"


@pytest.mark.slow(20)
def test_two_local_workers_give_the_bytes_of_one_process_on_one_core(home, alone, tmp_path):
    code, said, errors = finish(start(home, tmp_path, "--workers", "2"))
    assert (code, errors) == (0, ""), errors
    assert "6 of 6 runs, 2 workers" in said or "6 of 6 runs, 1 worker" in said
    assert_same(tmp_path, alone)
    rows = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert {row["cores"] for row in rows} == {checkpoints.load(finished_runs(tmp_path)[0])[1]["cores"]} == {1}


@pytest.mark.deep(30)
def test_several_runs_of_one_worker_are_trained_together(home, tmp_path):
    for name, words in (("together", ["--workers", "2"]), ("alone", [])):
        process = start(home, tmp_path / name, "--width", "3", *words, one_core=not words)
        assert finish(process)[::2] == (0, "")
    assert_same(tmp_path / "together", tmp_path / "alone")


def workers_of(process):
    return [pid for pid in members(process.pid) if pid != process.pid]


@pytest.mark.deep(240)
def test_workers_killed_at_any_moment_cost_no_bytes(home, tmp_path):
    rng, out, seeds = random.Random(0), tmp_path / "killed", ["--seeds", "200", "--iterations", "20"]
    process = start(home, out, *seeds, "--workers", "2")
    for kill in range(20):
        wait_for(process, lambda kill=kill: len(finished_runs(out)) >= 10 * kill)
        time.sleep(rng.uniform(0, 0.5))
        wait_for(process, lambda: workers_of(process))
        os.kill(rng.choice(workers_of(process)), signal.SIGKILL)
    assert finish(process, 300)[::2] == (0, "")
    assert finish(start(home, tmp_path / "alone", *seeds, one_core=True))[::2] == (0, "")
    assert_same(out, tmp_path / "alone")


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        pytest.param(moment, number, marks=mark(20))
        for number, *marks in ((signal.SIGINT, SLOW, DEEP, SLOW), (signal.SIGTERM, DEEP, SLOW, DEEP))
        for moment, mark in zip(("starting", "training", "reporting"), marks, strict=True)
    ],
)
def test_a_signal_at_any_moment_is_one_line_and_the_command_resumes(moment, number, home, alone, tmp_path):
    process = start(home, tmp_path, "--workers", "2")
    runs = {"starting": 0, "training": 1, "reporting": 6}[moment]
    wait_for(process, lambda: (tmp_path / "options.json").exists() and len(finished_runs(tmp_path)) >= runs)
    # Ctrl-C reaches all processes of a terminal.
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    code, _, errors = finish(process, 30)
    assert code == 128 + number
    assert (errors.count("\n"), errors.startswith("interrupted; the same command ")) == (1, moment != "starting"), (
        errors
    )
    assert len(finished_runs(tmp_path)) >= runs
    assert finish(start(home, tmp_path, one_core=True))[::2] == (0, "")
    assert_same(tmp_path, alone)


@pytest.mark.slow(20)
def test_what_one_process_began_workers_finish(home, alone, tmp_path):
    process = start(home, tmp_path, "--checkpoint-seconds", "0.001", one_core=True)
    wait_for(process, lambda: finished_runs(tmp_path))
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143
    assert finish(start(home, tmp_path, "--workers", "2"))[::2] == (0, "")
    assert_same(tmp_path, alone)


class Cluster:
    """A scheduler and workers of one core, as processes of their own."""

    def __init__(self, home, stack):
        self.home, self.stack, self.file = home, stack, home / f"scheduler-{time.monotonic_ns()}.json"
        words = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", self.file]
        self.scheduler = self._dask(*words)
        wait_for(self.scheduler, self.file.exists)

    def _dask(self, *words, **options):
        return self.stack.enter_context(_ended(spawn(self.home, "-m", "dask", *words, "--no-dashboard", **options)))

    def worker(self, **options):
        words = ["--scheduler-file", self.file, "--nthreads", "1", "--no-nanny"]
        return self._dask("worker", *words, one_core=True, **options)


@contextlib.contextmanager
def _ended(process):
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def cluster(home):
    with contextlib.ExitStack() as stack:
        yield Cluster(home, stack)


@pytest.fixture(scope="module")
def shared(home):
    """A cluster of two workers that no test ends."""
    with contextlib.ExitStack() as stack:
        cluster = Cluster(home, stack)
        cluster.worker()
        cluster.worker()
        yield cluster


@pytest.mark.slow(20)
def test_the_workers_of_a_cluster_give_the_numbers_of_one_process(shared, alone, tmp_path):
    execute(plain, *WORDS, "--cluster", shared.file, "--out", tmp_path)
    assert_same(tmp_path, alone)


@pytest.mark.slow
def test_a_run_that_diverges_on_a_worker_is_a_result(shared, tmp_path):
    words = ["--learning-rate", "1e30", "--seeds", "2", "--out", tmp_path]
    rows = execute(plain, *words, "--cluster", shared.file)["runs"]
    assert all(row["diverged_at"] for row in rows)


@pytest.mark.slow
def test_where_no_worker_computes_alike_there_is_nothing_to_do(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "versions", lambda: {"jax": "0.1"})
    with pytest.raises(stops.UsageError, match=r"^no worker computes as this process does: its jax is .*, not 0\.1$"):
        execute(plain, *WORDS, "--cluster", shared.file, "--out", tmp_path)


@pytest.mark.slow(20)
def test_an_unlike_worker_gets_no_runs_and_its_difference_is_named(cluster, alone, tmp_path, capfd):
    # The last has no experiments on its path.
    for environment in ({}, {"JAX_ENABLE_X64": "1"}, {"PYTHONPATH": ""}):
        cluster.worker(environment=environment)
    with Client(scheduler_file=str(cluster.file), set_as_default=False) as client:
        client.wait_for_workers(3)
    execute(plain, *WORDS, "--cluster", cluster.file, "--out", tmp_path)
    said = capfd.readouterr().out
    assert said.count("gets no runs") == 2
    assert "gets no runs: its enable_x64 is True, not False." in said
    assert "gets no runs: it fails with ModuleNotFoundError: No module named 'experiments'." in said
    assert_same(tmp_path, alone)


@pytest.mark.slow(20)
def test_a_worker_that_joins_late_trains(cluster, alone, tmp_path):
    # It takes seconds to start.
    cluster.worker()
    execute(plain, *WORDS, "--cluster", cluster.file, "--out", tmp_path)
    assert_same(tmp_path, alone)


@pytest.mark.slow(20)
def test_a_worker_that_leaves_costs_nothing(cluster, home, alone, tmp_path):
    both = [cluster.worker(), cluster.worker()]
    process = start(home, tmp_path, "--cluster", cluster.file)
    wait_for(process, lambda: finished_runs(tmp_path))
    both[0].terminate()
    assert finish(process)[::2] == (0, "")
    assert_same(tmp_path, alone)


@pytest.mark.slow(20)
def test_without_its_scheduler_a_command_ends_and_resumes(cluster, home, alone, tmp_path):
    cluster.worker()
    process = start(home, tmp_path, "--cluster", cluster.file)
    wait_for(process, lambda: finished_runs(tmp_path))
    cluster.scheduler.kill()
    code, _, errors = finish(process, 60)
    assert (code, errors.count("\n")) == (1, 1), errors
    assert errors.startswith("error: the scheduler has ended; ")
    assert finished_runs(tmp_path)
    assert finish(start(home, tmp_path, one_core=True))[::2] == (0, "")
    assert_same(tmp_path, alone)


@pytest.mark.slow
def test_where_no_worker_comes_a_command_ends(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE_S", 1.0)
    with pytest.raises(stops.EngineError, match=r"^no worker came within 1 s$"):
        execute(plain, *WORDS, "--cluster", cluster.file, "--out", tmp_path)


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


@pytest.mark.slow(20)
def test_modules_of_the_user_s_own_are_sent_and_sent_again(shared, package, tmp_path):
    (package / "own.py").write_text(
        "import optax\nfrom mine.deeper import DECAY\nsgd = lambda rate: optax.sgd(rate, DECAY)"
    )
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
        execute(plain, "--method", "mine.own:sgd", "--seeds", "1", "--cluster", shared.file, "--out", tmp_path / "out")


KILL = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    ("text", "work"),
    [
        pytest.param(ON_A_WORKER.format(KILL), "trained mine.own:sgd 0.001, seed 0", marks=pytest.mark.deep(30)),
        pytest.param(ON_A_WORKER.format("pass") + f"if there(): {KILL}", "started", marks=pytest.mark.deep(30)),
    ],
)
def test_four_deaths_are_one_line(text, work, package, tmp_path):
    (package / "own.py").write_text(text)
    with pytest.raises(stops.EngineError, match=f"^4 workers died while they {work}; out of memory, most likely$"):
        execute(plain, "--method", "mine.own:sgd", "--seeds", "2", "--workers", "1", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "3"], "--workers must be at most the number of cores, 2, got 3"),
        (["--workers", "-1"], "--workers must be an integer >= 0"),
        (["--workers", "1", "--cluster", "tcp://localhost:8786"], "and --cluster takes those of a scheduler: give one"),
        *[(["--cluster", it], "--cluster must be tcp://HOST:PORT") for it in ("nowhere", "tcp://x", "ucx://x:1")],
        (["--cluster", __file__], f"--cluster {__file__} cannot be reached: "),
        (["--cluster", "FILE"], "cannot be reached: it is not a file that a scheduler wrote"),
        (["--cluster", "tls://localhost:1"], "cannot be reached: TLS "),
        pytest.param(["--cluster", "tcp://127.0.0.1:1"], "cannot be reached: Timed out", marks=pytest.mark.slow(10)),
    ],
)
def test_workers_that_cannot_be_had_are_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "cores", lambda: 2)
    (tmp_path / "file.json").write_text('{"address": 5}')
    words = [word.replace("FILE", str(tmp_path / "file.json")) for word in words]
    with pytest.raises(stops.UsageError, match=message) as error:
        execute(plain, *words, "--out", tmp_path / "out")
    assert "\n" not in str(error.value)


def test_without_dask_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "find_spec", lambda _: None)
    with pytest.raises(stops.UsageError, match=r"need the package distributed: pip install '\.\[cluster\]'"):
        execute(plain, "--workers", "1", "--out", tmp_path / "out")


def page():
    """The commands of docs/cluster.md that run on one machine: local workers, a cluster, one with TLS, a Slurm job."""
    text = (ROOT / "docs" / "cluster.md").read_text()
    local, cluster, tls = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    (slurm,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    over_tls = tls + cluster.partition("\n")[2].replace("tcp://", "tls://")
    return [local, cluster, over_tls, 'srun() { shift; "$@"; }\n' + slurm]


@pytest.mark.parametrize(
    "number", [pytest.param(number, marks=mark(20)) for number, mark in enumerate([SLOW, SLOW, DEEP, SLOW])]
)
def test_the_commands_of_the_page_run(number, home, tmp_path):
    for name in ("experiments", "segjax"):
        (tmp_path / name).symlink_to(ROOT / name)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    # Schedulers and workers have a terminal of their own.
    text = re.sub(r"^((PYTHONPATH=\. )?dask [^#\n]*[^#\n&])(#.*)?$", r"\1 &", page()[number], flags=re.MULTILINE)
    text = re.sub(r"--preset (quick|fair)", " ".join([*SHORT, "--seeds", "2", "--optimizers", "sgd"]), text)
    text = text.replace("HOST", "127.0.0.1").replace("8786", port)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "SLURM_JOB_ID": "1", "SLURM_SUBMIT_DIR": str(tmp_path)}
    with (tmp_path / "said").open("w") as said:
        words = ["bash", "-e", "-c", text]
        process = subprocess.Popen(
            words, cwd=tmp_path, env=os.environ | environment, stdout=said, stderr=said, start_new_session=True
        )
    try:
        assert process.wait(120) == 0, (tmp_path / "said").read_text()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert len(list(tmp_path.glob("results/*/runs/*"))) == 2


class Done:
    """A task that has ended: with a result, an error, or cancelled."""

    def __init__(self, result=None, error=None, cancelled=False):
        self.result, self.exception, self.cancelled = lambda _: result, lambda _: error, lambda: cancelled

    def done(self):
        return True

    def add_done_callback(self, function):
        function(self)


class Never(Done):
    def done(self):
        return False

    def add_done_callback(self, function):
        pass


class FakeClient:
    """Dask's, whose workers describe themselves as this process does."""

    id = "test"

    def __init__(self, *moments):
        """Each moment, whenever it is asked: the workers there are, and what comes of a group given to the last."""
        self.moments, self.trained = list(moments), []

    def nthreads(self):
        self.now = self.moments.pop(0) if len(self.moments) > 1 else self.moments[0]
        return dict.fromkeys(self.now[0], 1)

    def subscribe_topic(self, *_):
        pass

    def submit(self, _, pickled, workers, **__):
        function, arguments = pickle.loads(pickled)
        if function is introduce:
            return Done(describe(*arguments))
        self.trained.append((workers[0], arguments[0][0].seed))
        return self.now[1](arguments[0])


RUNS = [[Run(seed)] for seed in range(2)]


def well(group):
    return Done([result([0.5], run.seed) for run in group])


def train(*moments):
    """The seeds that a pool trains, in the order of their ends, and what the client was asked for."""
    ended, client = [], FakeClient(*moments)
    pool = workers.Pool(client, "default", print)
    pool.train(train_group, RUNS, lambda results: ended.append(results[0].run.seed), lambda *_: 0)
    return ended, client.trained


def test_a_group_that_was_cancelled_or_lost_its_worker_is_trained_again(monkeypatch):
    monkeypatch.setattr(workers, "INTERVAL_S", 0.01)
    assert train(("a", well)) == ([0, 1], [("a", 0), ("a", 1)])
    cancelled = ("a", lambda group: Done(cancelled=True))
    assert train(("a", well), cancelled, ("a", well))[1] == [("a", 0), ("a", 0), ("a", 1)]
    training = ("ab", lambda group: Never())
    # b is what is left; a dies of the run that it was training, and of no other.
    assert sorted(train(training, training, ("b", well), ("c", well))[0]) == [0, 1]


def test_only_deaths_in_training_count_against_a_run(monkeypatch):
    monkeypatch.setattr(workers, "INTERVAL_S", 0.0)
    deadly = [moment for name in "abcd" for moment in [(name, lambda group: Never())] * 2]
    with pytest.raises(stops.EngineError, match=r"4 workers died while they trained adam 0\.001, seed 0;"):
        train(*deadly, ("", well))
    # Three deaths are none.
    assert train(*deadly[:6], ("e", well))[0] == [0, 1]


def test_where_nobody_comes_a_pool_ends(monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE_S", 0.05)
    monkeypatch.setattr(workers, "INTERVAL_S", 0.01)
    with pytest.raises(stops.EngineError, match="no worker came within 0 s"):
        train(("", well))


@pytest.mark.parametrize(
    ("error", "theirs", "words"),
    [
        (None, {"jax": "1", "more": "x"}, ""),
        (None, {"jax": "2"}, "its jax is 2, not 1"),
        (None, {}, "its jax is None, not 1"),
        (ImportError("no\n module"), None, "it fails with ImportError: no module"),
    ],
)
def test_a_difference_is_said_in_words(error, theirs, words):
    assert workers._difference(error, theirs, {"jax": "1"}) == words


def lost(_):
    raise TimeoutError


def test_a_result_that_died_with_its_worker_is_trained_again(monkeypatch):
    done = Done()
    done.result = lost
    assert train(("a", lambda group: done), ("a", lambda group: done), ("b", well)) == (
        [0, 1],
        [("a", 0), ("b", 0), ("b", 1)],
    )
