"""Training of many runs on workers, through Dask's `distributed`.

Runs are independent: if a worker dies, another one trains its runs. This process assigns each group of runs to a worker
itself and does not leave that to Dask's scheduler, for two reasons: a worker gets runs only after its versions and
numerics have been compared with those of this process, and a death counts only against the runs that the worker was
training.
"""

import contextlib
import gc
import hashlib
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.lab import import_paths, names, programs, provenance, stops
from experiments.lab.options import Engine, at_precision, is_address
from experiments.lab.runs import Group, Result, Run

if TYPE_CHECKING:
    from distributed import Client, Future, Worker

# Trains a group; its second argument is called with the current activity and the number of steps so far.
TrainGroup = Callable[[Group, Callable[[str, int], None]], list[Result]]
# Seconds without any worker after which a command fails. A worker takes 5 to 20 s to start.
PATIENCE_S = 60.0
# Deaths of workers during the same run after which a command fails.
MOST_DEATHS = 4
# Longest wait for a finished result, since Dask waits forever for a result that was lost with its worker.
RESULT_S = 10.0
# Seconds between two queries for the list of workers, and between two progress events of a worker.
INTERVAL_S = 0.5
# Environment variable with a local worker's index, and the number of workers that share the cores.
_SHARE = "SEGJAX_WORKER"


class Job(NamedTuple):
    """The data that a worker needs besides the runs.

    Attributes:
        precision: `--precision`.
        train: trains a group.
        optimizers: optimizers of all runs, as `import_paths.optimizer` takes them.
        modules: relative path -> source of the user's own modules, since a worker need not share a disk.
        topic: topic of the events with a worker's number of steps.
    """

    precision: str
    train: TrainGroup
    optimizers: tuple[str, ...]
    modules: Mapping[str, bytes]
    topic: str


class Pool:
    """The workers of a command: local ones, or those of a running cluster. Created by `opened`."""

    def __init__(
        self, client: "Client", precision: str, say: Callable[[str], None], replace: Callable[[], None] | None = None
    ) -> None:
        """`say` prints a line above the progress; `replace` restarts local workers that died."""
        self._client, self._precision, self._say, self._replace = client, precision, say, replace
        # Address -> the task of a worker: training a group, or, without a group, describing itself.
        self._tasks: dict[str, tuple[Future, Group | None]] = {}
        # Workers whose versions and numerics equal ours; address -> difference for the others.
        self._ready: set[str] = set()
        self._refused: dict[str, str] = {}
        self._steps: dict[str, int] = {}
        # Deaths during a run; None counts consecutive deaths during the start.
        self._deaths: Counter[Run | None] = Counter()

    def train(
        self,
        train: TrainGroup,
        groups: Iterable[Group],
        finished: Callable[[list[Result]], None],
        look: Callable[[int, int], None],
    ) -> None:
        """Trains every group on one of the workers.

        Args:
            train: called on a worker.
            finished: called with the results of each group as they arrive.
            look: called twice per second with the total steps of the runs in progress, and the number of workers.

        Raises:
            UsageError: if the versions or numerics of every worker differ from ours.
            EngineError: if the scheduler ends, no worker connects, a run raises, or `MOST_DEATHS` workers die in it.
            Interrupted: after a signal.
        """
        waiting = deque(groups)
        optimizers = tuple(dict.fromkeys(run.optimizer for group in waiting for run in group))
        job = Job(self._precision, train, optimizers, _sources(optimizers), f"segjax-{self._client.id}")
        ours = describe(job)
        self._client.subscribe_topic(job.topic, lambda event: self._steps.update([event[1]]))
        # The workers have described other optimizers before.
        self._ready.clear()
        last_task = time.monotonic()
        with stops.deferred() as signals, _scheduler_errors():
            while waiting or any(group for _, group in self._tasks.values()):
                if signals:
                    raise stops.Interrupted(signals[0])
                if self._replace:
                    self._replace()
                addresses = set(self._client.nthreads())
                waiting.extendleft(self._forget_all_but(addresses))
                self._hand_out(addresses, waiting, job)
                last_task = time.monotonic() if self._tasks else last_task
                self._check_workers(addresses, time.monotonic() - last_task)
                self._wait()
                for results in self._collect(waiting, ours):
                    finished(results)
                look(sum(self._steps.get(address, 0) for address in self._tasks), len(self._ready))

    def _forget_all_but(self, addresses: set[str]) -> list[Group]:
        """Removes workers that have disconnected, and returns the groups that they were training."""
        self._ready &= addresses
        lost = []
        for address in self._tasks.keys() - addresses:
            _, group = self._tasks.pop(address)
            lost += [group] if group else []
            run = group[0] if group else None
            self._deaths[run] += 1
            if self._deaths[run] == MOST_DEATHS:
                work = f"trained {_name(run)}" if run else "started"
                raise stops.EngineError(f"{MOST_DEATHS} workers died while they {work}; out of memory, most likely")
        return lost

    def _hand_out(self, addresses: set[str], waiting: deque[Group], job: Job) -> None:
        """Asks new workers to describe themselves, and assigns groups to idle workers."""
        for address in addresses - self._ready - self._tasks.keys() - self._refused.keys():
            self._tasks[address] = self._submit(address, introduce, job), None
        for address in sorted(self._ready - self._tasks.keys())[: len(waiting)]:
            group = waiting.popleft()
            self._tasks[address], self._steps[address] = (self._submit(address, train_here, group, job), group), 0

    def _submit(self, address: str, function: Callable[..., Any], *arguments: Any) -> "Future":
        """Calls a function on this worker; no other worker calls it if this one dies."""

        # The scheduler unpickles a task. A local function is pickled by value, so the scheduler needs no segjax.
        def call(pickled: bytes) -> Any:
            function, arguments = pickle.loads(pickled)
            return function(*arguments)

        pickled = pickle.dumps((function, arguments))
        return self._client.submit(call, pickled, workers=[address], allow_other_workers=False, pure=False)

    def _check_workers(self, addresses: set[str], idle_seconds: float) -> None:
        if self._refused and not self._tasks and self._refused.keys() >= addresses:
            why = "; ".join(dict.fromkeys(self._refused.values()))
            raise stops.UsageError(f"no worker computes as this process does: {why}")
        if idle_seconds > PATIENCE_S:
            raise stops.EngineError(f"no worker came within {PATIENCE_S:.0f} s")

    def _wait(self) -> None:
        """Waits until a task is done, at most `INTERVAL_S`."""
        done = threading.Event()
        for future, _ in self._tasks.values():
            future.add_done_callback(lambda _: done.set())
        done.wait(INTERVAL_S)

    def _collect(self, waiting: deque[Group], ours: Mapping[str, str]) -> Iterator[list[Result]]:
        """Yields the results of each finished group; workers that have described themselves become ready or refused."""
        errors = []
        for address, (future, group) in [task for task in self._tasks.items() if task[1][0].done()]:
            cancelled = future.cancelled()
            try:
                error = None if cancelled else future.exception(RESULT_S)
                result: Any = None if cancelled or error else future.result(RESULT_S)
            except TimeoutError:
                # The worker died before its result arrived: the next list of workers lacks it.
                continue
            del self._tasks[address]
            if cancelled:
                # The scheduler restarted.
                waiting.extendleft([group] if group else [])
            elif group and error:
                errors.append(_run_error(error, group[0]))
            elif group:
                yield result
            elif difference := _difference(error, result, ours):
                self._refused[address] = difference
                self._say(f"Worker {address} gets no runs: {difference}.")
            else:
                self._ready.add(address)
                self._deaths[None] = 0
        # Last, so that no result is lost.
        if errors:
            raise errors[0]


def _name(run: Run) -> str:
    return f"{run.optimizer} {names.exact(run.learning_rate)}, seed {run.seed}"


def _run_error(error: BaseException, run: Run) -> BaseException:
    """An `EngineError` for the error of a run, except for errors that `cli.run` handles: out of memory, NaN."""
    if isinstance(error, MemoryError | FloatingPointError) or "out of memory" in str(error).lower():
        return error
    message = " ".join(f"{type(error).__name__}: {error}".splitlines()[0].split())
    return stops.EngineError(f"{_name(run)} failed with {message} (without workers the command shows where)")


def _difference(error: BaseException | None, theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """Message on the first difference between a worker's description and ours; empty if there is none."""
    if error:
        return " ".join(f"it fails with {type(error).__name__}: {error}".split())
    pairs = ((name, theirs.get(name), value) for name, value in ours.items())
    return next((f"its {name} is {other}, not {value}" for name, other, value in pairs if other != value), "")


def _sources(optimizers: Iterable[str]) -> dict[str, bytes]:
    """The user's own modules; installed packages must be installed on the workers too."""
    files = import_paths.loaded_files(optimizers)
    return {path: file.read_bytes() for path, file in files.items() if not import_paths.is_installed(file)}


@contextlib.contextmanager
def _scheduler_errors() -> Iterator[None]:
    """Turns errors from a lost scheduler into an `EngineError`."""
    try:
        yield
    except OSError as error:
        # Errors of files have a file name.
        if error.filename is not None:
            raise
        raise stops.EngineError("the scheduler has ended") from error


@contextlib.contextmanager
def opened(engine: Engine, precision: str, say: Callable[[str], None]) -> Iterator[Pool]:
    """Starts or reaches the workers for the options; they stay until the end of the context.

    Raises:
        UsageError: if Dask is not installed, or the cluster cannot be reached.
    """
    if find_spec("distributed") is None:
        raise stops.UsageError("--workers and --cluster need the package distributed: pip install '.[cluster]'")
    from distributed import Client, LocalCluster
    from distributed.utils import silence_logging_cmgr

    local = None
    with contextlib.ExitStack() as stack:
        # This module prints its own messages on workers.
        stack.enter_context(silence_logging_cmgr(logging.CRITICAL))
        # asyncio logs results that were lost with their worker when they are collected as garbage.
        logger = logging.getLogger("asyncio")
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)
        stack.callback(gc.collect)
        stack.enter_context(warnings.catch_warnings())
        # Dask warns of other versions; `_difference` reports those that change numbers.
        warnings.simplefilter("ignore")
        if engine.cluster:
            try:
                client = stack.enter_context(Client(_address(engine.cluster), timeout=10, set_as_default=False))
            except (OSError, ValueError, TypeError, ImportError) as error:
                raise stops.UsageError(f"--cluster {engine.cluster} cannot be reached: {error}") from error
        else:
            # This host only, since anyone who reaches the scheduler's port can run code.
            address = {"protocol": "tcp://", "host": "127.0.0.1", "dashboard_address": None}
            cluster = stack.enter_context(LocalCluster(n_workers=0, silence_logs=logging.CRITICAL, **address))
            local = _LocalWorkers(cluster.scheduler_address, engine.workers)
            stack.callback(local.end)
            client = stack.enter_context(Client(cluster, set_as_default=False))
        yield Pool(client, precision, say, local.replace if local else None)


def _address(cluster: str) -> str:
    """The scheduler's address, also from a scheduler file; raises OSError or ValueError."""
    if is_address(cluster):
        return cluster
    document = json.loads(Path(cluster).read_text())
    if not isinstance(document, dict) or not is_address(address := str(document.get("address"))):
        raise ValueError("it is not a file that a scheduler wrote")
    return address


class _LocalWorkers:
    """Local workers, each with its share of the cores. They end with this process, even if it is killed.

    Not those of a `LocalCluster`, which are not replaced if they die during their start.
    """

    def __init__(self, address: str, number: int) -> None:
        """`address` is the scheduler's."""
        self._address, self._processes = address, [self._start(address, index, number) for index in range(number)]

    def replace(self) -> None:
        """Restarts each worker that has ended."""
        for index, process in enumerate(self._processes):
            if process.poll() is not None:
                self._processes[index] = self._start(self._address, index, len(self._processes))

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    @staticmethod
    def _start(address: str, index: int, number: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", "worker", address, "--no-nanny", "--nthreads", "1", "--no-dashboard"]
        # Anyone who reaches a worker's port can run code, and by default Dask listens on all interfaces.
        command += ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
        # Without a memory limit, since Dask would pause a worker at four fifths of it.
        command += ["--memory-limit", "0", "--preload", __name__]
        environment = {**os.environ, _SHARE: f"{index} {number}", "PYTHONPATH": os.pathsep.join(sys.path)}
        devnull = subprocess.DEVNULL
        # A process group of its own, since a terminal sends Ctrl-C to the whole group of this process.
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=devnull, stderr=devnull, process_group=0
        )


def dask_setup(_: "Worker") -> None:
    """Gives a local worker its share of the cores. All shares are equal: the number of cores changes last digits."""
    # stdin is a pipe that closes when the command ends.
    threading.Thread(target=lambda: sys.stdin.read() or os._exit(0), daemon=True).start()
    index, number = map(int, os.environ[_SHARE].split())
    # Only Linux has affinities, and a sandbox may refuse them: then the workers compete for all cores.
    with contextlib.suppress(AttributeError, OSError):
        cores = sorted(os.sched_getaffinity(0))
        size = len(cores) // number
        # New threads inherit the affinity of existing ones.
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), cores[size * index : size * (index + 1)])


def introduce(job: Job) -> dict[str, str]:
    """On a worker: installs the user's own modules, and returns `describe`."""
    from distributed import get_worker

    digest = hashlib.sha256(repr(sorted(job.modules.items())).encode()).hexdigest()[:16]
    folder = Path(get_worker().local_directory) / f"modules-{digest}"
    if job.modules and sys.path[0] != str(folder):
        for path, source in job.modules.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(source)
        sys.path.insert(0, str(folder))
        # A worker of a cluster may have imported an older version.
        packages = {path.partition("/")[0].removesuffix(".py") for path in job.modules}
        for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
            del sys.modules[name]
        invalidate_caches()
        programs.forget_optimizers()
    with at_precision(job.precision):
        return describe(job)


def describe(job: Job) -> dict[str, str]:
    """name -> value of all that numbers depend on: versions, numerics, digests of source files."""
    description = {**provenance.versions(), **provenance.numerics(), "source code": provenance.code_digest()}
    files = import_paths.loaded_files(job.optimizers)
    description |= {path: provenance.digest(file)[:16] for path, file in files.items()}
    return {name: str(value) for name, value in description.items()}


def train_here(group: Group, job: Job) -> list[Result]:
    """On a worker: trains runs together, and sends the number of steps as events."""
    from distributed import get_worker

    worker = get_worker()
    key, last_event = worker.get_current_task(), 0.0

    def look(_: str, steps: int) -> None:
        nonlocal last_event
        if time.monotonic() - last_event > INTERVAL_S:
            last_event = time.monotonic()
            worker.log_event(job.topic, (worker.address, steps))
            # The command has ended, and another may be waiting for this worker.
            if (task := worker.state.tasks.get(key)) is None or task.state != "executing":
                raise RuntimeError("no command waits for these runs")

    with at_precision(job.precision):
        return job.train(group, look)
