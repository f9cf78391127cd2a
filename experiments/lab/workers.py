"""The engine of many runs: Dask's `distributed` starts workers, reaches them, and replaces those that die.

Runs share nothing, so a worker that dies costs the runs that it was training, and another worker trains those. This
process gives each group of runs to one worker and does not leave the choice to Dask's scheduler, for two reasons: a
worker gets runs only after it has shown that it computes as this process does, and a death counts only against the runs
that the worker was training.
"""

import contextlib
import hashlib
import json
import logging
import os
import pickle
import subprocess
import sys
import sysconfig
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.request import urlopen

from experiments.lab import import_paths, names, programs, provenance, stops
from experiments.lab.options import Engine, at_precision, is_address
from experiments.lab.runs import Group, Result, Run

if TYPE_CHECKING:
    from distributed import Client, Future, Worker

# Trains a group, and calls the function that it gets with the present activity and the number of new steps.
TrainGroup = Callable[[Group, Callable[[str, int], None]], list[Result]]
# A command that has no worker for so long ends. A worker takes 5 to 20 s to start.
PATIENCE_S = 60.0
# Workers that may die while they train the same run.
MOST_DEATHS = 4
# Longest wait for a result that a worker says it has; it waits for ever for one that died with its worker.
RESULT_S = 10.0
# How often this process asks the scheduler for its workers, and how often a worker tells how far it is.
INTERVAL_S = 0.5
# Tells a local worker its number, and how many of them share the cores.
_SHARE = "SEGJAX_WORKER"


class Job(NamedTuple):
    """What a worker needs beside the runs.

    Attributes:
        precision: `--precision`.
        train: trains a group.
        optimizers: of all runs, as `import_paths.optimizer` takes them.
        modules: relative path -> source of the user's own modules; a worker need not share a disk.
        topic: of the events by which a worker tells its steps.
    """

    precision: str
    train: TrainGroup
    optimizers: tuple[str, ...]
    modules: Mapping[str, bytes]
    topic: str


class _Task(NamedTuple):
    """What a worker is doing; without a group of runs, it is describing itself."""

    future: "Future"
    group: Group | None = None


class Pool:
    """The workers of a command: local ones, or those of a cluster that somebody started. Made by `opened`."""

    def __init__(
        self, client: "Client", precision: str, say: Callable[[str], None], replace: Callable[[], None] | None = None
    ) -> None:
        """`say` prints a line between those of the progress; `replace` starts others for local workers that died."""
        self._client, self._precision, self._say, self._replace = client, precision, say, replace
        # What each worker is doing, and those that have shown that they compute as this process does.
        self._tasks: dict[str, _Task] = {}
        self._ready: set[str] = set()
        # How the others compute.
        self._refused: dict[str, str] = {}
        self._steps: dict[str, int] = {}
        # Workers that died of a run; None stands for those that died one after the other while they started.
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
            look: called twice a second with the steps of all runs in progress, and the number of workers.

        Raises:
            UsageError: if every worker computes otherwise than this process.
            EngineError: if the scheduler ends, no worker comes, a run raises, or `MOST_DEATHS` workers die of it.
            Interrupted: by a signal.
        """
        waiting = deque(groups)
        optimizers = tuple(dict.fromkeys(run.optimizer for group in waiting for run in group))
        job = Job(self._precision, train, optimizers, _sources(optimizers), f"segjax-{self._client.id}")
        with at_precision(job.precision):
            ours = describe(job)
        self._client.subscribe_topic(job.topic, lambda event: self._steps.update([event[1]]))
        # The optimizers may be others than those that the workers described before.
        self._ready.clear()
        last_task = time.monotonic()
        with stops.deferred() as signals, _scheduler_errors():
            while waiting or any(task.group for task in self._tasks.values()):
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
        # It came with the last results.
        if signals:
            raise stops.Interrupted(signals[0])

    def _forget_all_but(self, addresses: set[str]) -> list[Group]:
        """Forgets workers that are gone, and gives the groups that they were training."""
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
        """Has new workers describe themselves, and gives a group to each that has none."""
        for address in addresses - self._ready - self._tasks.keys() - self._refused.keys():
            self._tasks[address] = _Task(self._submit(address, introduce, job))
        for address in sorted(self._ready - self._tasks.keys())[: len(waiting)]:
            group = waiting.popleft()
            self._tasks[address], self._steps[address] = _Task(self._submit(address, train_here, group, job), group), 0

    def _submit(self, address: str, function: Callable[..., Any], *arguments: Any) -> "Future":
        """Has this worker call a function, and no other, should it die."""

        # The scheduler unpickles what it passes on. A local function travels by value, so that it needs no segjax.
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
        """Until a task is done, but no longer than `INTERVAL_S`."""
        news = threading.Event()
        for task in self._tasks.values():
            task.future.add_done_callback(lambda _: news.set())
        news.wait(INTERVAL_S)

    def _collect(self, waiting: deque[Group], ours: Mapping[str, str]) -> Iterator[list[Result]]:
        """The results of each group that is trained; the workers that have described themselves become ready."""
        errors = []
        for address in [address for address, task in self._tasks.items() if task.future.done()]:
            future, group = self._tasks[address]
            cancelled = future.cancelled()
            try:
                error = None if cancelled else future.exception(RESULT_S)
                result: Any = None if cancelled or error else future.result(RESULT_S)
            except TimeoutError:
                # A worker died before its result was here: the next look at the workers finds it gone.
                continue
            del self._tasks[address]
            if cancelled:
                # The scheduler began anew.
                waiting.extendleft([group] if group else [])
            elif group and error:
                errors.append(_told(error, group[0]))
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


def _told(error: BaseException, run: Run) -> BaseException:
    """An error of a run in one line, unless the command line tells it: a device or a machine without memory, a NaN."""
    if isinstance(error, MemoryError | FloatingPointError) or "out of memory" in str(error).lower():
        return error
    said = " ".join(f"{type(error).__name__}: {error}".splitlines()[0].split())
    return stops.EngineError(f"{_name(run)} failed with {said} (without workers the command shows where)")


def _difference(error: BaseException | None, theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """The first difference between a worker's description of itself and ours, in words; empty if there is none."""
    if error:
        return " ".join(f"it fails with {type(error).__name__}: {error}".split())
    pairs = ((name, theirs.get(name), value) for name, value in ours.items())
    return next((f"its {name} is {other}, not {value}" for name, other, value in pairs if other != value), "")


def _sources(optimizers: Collection[str]) -> dict[str, bytes]:
    """The user's own modules; a package that pip has installed must be installed on the workers too."""
    installed = sysconfig.get_path("purelib")
    files = import_paths.loaded_files(optimizers)
    return {path: file.read_bytes() for path, file in files.items() if not file.is_relative_to(installed)}


@contextlib.contextmanager
def _scheduler_errors() -> Iterator[None]:
    """Turns the errors that Dask raises without its scheduler into an `EngineError`."""
    try:
        yield
    except OSError as error:
        # An error of the disk names a file.
        if error.filename is not None:
            raise
        raise stops.EngineError("the scheduler has ended") from error


@contextlib.contextmanager
def opened(engine: Engine, precision: str, say: Callable[[str], None]) -> Iterator[Pool]:
    """The workers that the options ask for, until the end of the context.

    Raises:
        UsageError: if Dask is not installed, or the cluster cannot be reached.
    """
    if find_spec("distributed") is None:
        raise stops.UsageError("--workers and --cluster need the package distributed: pip install '.[cluster]'")
    from distributed import Client, LocalCluster
    from distributed.utils import silence_logging_cmgr

    local = None
    with contextlib.ExitStack() as stack:
        # What a person should know of the workers this module says, in a line each.
        stack.enter_context(silence_logging_cmgr(logging.CRITICAL))
        # It would tell of a result that died with its worker, at any time from then on.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        stack.enter_context(warnings.catch_warnings())
        # Of other versions than ours; `_difference` names those that change numbers.
        warnings.simplefilter("ignore")
        if engine.cluster:
            try:
                client = stack.enter_context(Client(_address(engine.cluster), timeout=10, set_as_default=False))
            except (OSError, ValueError, TypeError, ImportError) as error:
                raise stops.UsageError(f"--cluster {engine.cluster} cannot be reached: {error}") from error
        else:
            # Whoever reaches the scheduler's port can run code.
            place = {
                "protocol": "tcp://",
                "host": "127.0.0.1",
                "dashboard_address": "127.0.0.1:0" if find_spec("bokeh") else None,
            }
            cluster = stack.enter_context(LocalCluster(n_workers=0, silence_logs=logging.CRITICAL, **place))
            local = _LocalWorkers(cluster.scheduler_address, engine.workers)
            stack.callback(local.end)
            client = stack.enter_context(Client(cluster, set_as_default=False))
        # Without the package bokeh, the scheduler has the address of a dashboard and no page.
        with contextlib.suppress(OSError, ValueError), urlopen(client.dashboard_link, timeout=2):
            say(f"Dask's dashboard: {client.dashboard_link}")
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
    """Local workers, each with its share of the cores. They end with this process, however it ends.

    Dask's own, a `LocalCluster`'s, are not replaced where they die while they start.
    """

    def __init__(self, address: str, number: int) -> None:
        """`address` is the scheduler's."""
        self._address, self._processes = address, [self._start(address, index, number) for index in range(number)]

    def replace(self) -> None:
        """Starts another worker for each that has ended."""
        for index, process in enumerate(self._processes):
            if process.poll() is not None:
                self._processes[index] = self._start(self._address, index, len(self._processes))

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    @staticmethod
    def _start(address: str, index: int, number: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "dask", "worker", address, "--no-nanny", "--nthreads", "1", "--no-dashboard"]
        # Otherwise Dask pauses a worker that uses four fifths of its share.
        words += ["--memory-limit", "0", "--preload", __name__]
        environment = {**os.environ, _SHARE: f"{index} {number}", "PYTHONPATH": os.pathsep.join(sys.path)}
        nowhere = subprocess.DEVNULL
        # A terminal sends Ctrl-C to the group of this process.
        return subprocess.Popen(
            words, env=environment, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, process_group=0
        )


def dask_setup(_: "Worker") -> None:
    """Gives a local worker its share of the cores. All shares are equal: the number of cores changes last digits."""
    # Nothing comes, but the end.
    threading.Thread(target=lambda: sys.stdin.read() or os._exit(0), daemon=True).start()
    if not hasattr(os, "sched_setaffinity"):
        return
    cores, (index, number) = sorted(os.sched_getaffinity(0)), map(int, os.environ[_SHARE].split())
    size = len(cores) // number
    # Later threads inherit it from those that are there.
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cores[size * index : size * (index + 1)])


def introduce(job: Job) -> dict[str, str]:
    """On a worker: installs the user's own modules, and describes what it computes with."""
    from distributed import get_worker

    digest = hashlib.sha256(repr(sorted(job.modules.items())).encode()).hexdigest()[:16]
    folder = Path(get_worker().local_directory) / f"modules-{digest}"
    if job.modules and sys.path[0] != str(folder):
        for path, source in job.modules.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(source)
        sys.path.insert(0, str(folder))
        # A worker of a cluster may have trained with an older version.
        packages = {path.partition("/")[0].removesuffix(".py") for path in job.modules}
        for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
            del sys.modules[name]
        invalidate_caches()
        programs.forget_programs()
    with at_precision(job.precision):
        return describe(job)


def describe(job: Job) -> dict[str, str]:
    """What the numbers depend on, by name: versions, numerics, and digests of the source files."""
    described = {**provenance.versions(), **provenance.numerics(), "source code": provenance.code_digest()}
    described |= {
        path: provenance.digest(file)[:16] for path, file in import_paths.loaded_files(job.optimizers).items()
    }
    return {name: str(value) for name, value in described.items()}


def train_here(group: Group, job: Job) -> list[Result]:
    """On a worker: trains runs together, and tells how many of their steps are done."""
    from distributed import get_worker

    worker = get_worker()
    key, steps, told = worker.get_current_task(), 0, 0.0

    def look(_: str, new_steps: int) -> None:
        nonlocal steps, told
        steps += new_steps
        if time.monotonic() - told > INTERVAL_S:
            told = time.monotonic()
            worker.log_event(job.topic, (worker.address, steps))
            # The command that wanted the runs has ended, and another may wait.
            if (task := worker.state.tasks.get(key)) is None or task.state != "executing":
                raise RuntimeError("no command waits for these runs")

    with at_precision(job.precision):
        return job.train(group, look)
