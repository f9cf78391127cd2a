"""Several processes, on one machine or on many, that train the runs of one command together through jax.distributed.

Nothing passes between them inside a run. But each waits for all at a run's end, and would wait for a dead one for ever.
So each holds a connection to the first process, and one that breaks without a good-bye ends them all.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.lab.names import printable
from experiments.lab.options import difference
from experiments.lab.stops import Finished, Interrupted, UsageError, usage_errors
from segjax._checks import check_count

# To find one another at the start, and to say good-bye at the end.
PATIENCE_S = 60
# A machine that vanishes closes no connection; jax then ends the others, with a message of its own.
HEARTBEAT_TIMEOUT_S = 30
_GOOD_BYE, _MISTAKE, _FINISHED = b".", b"!", b"="


@dataclass(frozen=True, kw_only=True)
class Group:
    """For an experiment that several processes can run together, each started with the same options but its id."""

    coordinator: str = ""
    """HOST:PORT at which the first process is reached; auto takes all three from the scheduler (Slurm, Open MPI)."""
    num_processes: int = 1  # Number of processes that train together, each with all its devices.
    process_id: int = 0  # Which of them this is, from 0, the one that writes the results.

    def check_group(self) -> None:
        """Raises ValueError or TypeError where the three options name no group of processes."""
        check_count("--num-processes", self.num_processes, 1)
        check_count("--process-id", self.process_id, 0)
        if self.process_id >= self.num_processes:
            raise ValueError(f"--process-id must be < --num-processes, {self.num_processes}, got {self.process_id}")
        host, _, port = self.coordinator.rpartition(":")
        if self.coordinator not in ("", "auto") and not (host and port.isdecimal() and 0 < int(port) < 2**16):
            raise ValueError(f"--coordinator must be HOST:PORT or auto, got {self.coordinator!r}")
        if not self.coordinator and self.num_processes > 1:
            raise ValueError("--num-processes needs --coordinator HOST:PORT")


def is_writer() -> bool:
    """Whether this process keeps the files: the first of them, or the only one."""
    return jax.process_index() == 0


def broadcast(array: np.ndarray) -> np.ndarray:
    """The first process's array, whatever the others hold, which must be of its shape and dtype."""
    if jax.process_count() == 1:
        return array
    # As bytes: jax would make float32 of float64.
    letters = multihost_utils.broadcast_one_to_all(np.frombuffer(array.tobytes(), np.uint8))
    return np.frombuffer(np.asarray(letters, np.uint8).tobytes(), array.dtype).reshape(array.shape)


def agree(identity: Mapping[str, Any]) -> None:
    """Ends all processes where one was not started as the first: its runs would be mixed with the others'.

    Args:
        identity: as `Command.identity` gives it.

    Raises:
        UsageError: on all of them alike, naming the first difference.
    """
    if jax.process_count() == 1:
        return
    own = json.dumps(identity).encode()
    lengths = np.ravel(multihost_utils.process_allgather(np.array(len(own), np.int32)))
    texts = multihost_utils.process_allgather(np.frombuffer(own.ljust(lengths.max()), np.uint8))
    first, *others = (json.loads(np.asarray(text, np.uint8).tobytes()) for text in texts)
    for index, other in enumerate(others, start=1):
        if words := difference(other, first):
            raise UsageError(f"process {index} was started {words} as the first")


@contextlib.contextmanager
def joined(group: object, out: Path) -> Iterator[None]:
    """Inside, jax sees the devices of all processes. To be entered before jax is used; does nothing for one process.

    Args:
        group: the options of a command; only those of a `Group` can ask for more than this process.
        out: where the finished runs are kept, for the last words of a process whose peer died.

    Raises:
        UsageError: if the options name no group of processes, or if the others do not come.
    """
    if isinstance(group, Group):
        with usage_errors():
            group.check_group()
    if not isinstance(group, Group) or not group.coordinator:
        yield
        return
    by_flags = group.coordinator != "auto"
    if by_flags:
        _check_address(group)
    # Gloo joins the CPUs of several processes; other devices have means of their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM from us, and go on.
    jax.config.update("jax_enable_preemption_service", False)
    # Without the three, jax asks the scheduler.
    who = (group.coordinator, group.num_processes, group.process_id) if by_flags else ()
    timeouts: dict[str, Any] = {
        "initialization_timeout": 2 * PATIENCE_S,
        "heartbeat_timeout_seconds": HEARTBEAT_TIMEOUT_S,
    }
    # jax itself would give up later, and in fifty lines.
    patience = threading.Timer(PATIENCE_S, _give_up, args=(group,))
    patience.daemon = True
    patience.start()
    try:
        # In a thread of its own: signals are heard while this one waits for it.
        with ThreadPoolExecutor(1) as aside:
            aside.submit(jax.distributed.initialize, *who, **timeouts).result()
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"the processes did not come together: {error}") from error
    finally:
        patience.cancel()
    connections = _connect(group.coordinator.rpartition(":")[0] if by_flags else "")
    left = threading.Event()
    # jax's own threads find a dead process too, and abort this one, often before the watching thread has the
    # interpreter. C's sleep as the handler of that signal makes them wait: for 6 s, since SIGABRT is 6.
    libc = ctypes.CDLL(None)
    libc.signal(int(signal.SIGABRT), ctypes.cast(libc.sleep, ctypes.c_void_p))
    watchers = [
        threading.Thread(target=_watch, args=(number, connections, left, out), daemon=True) for number in connections
    ]
    for watcher in watchers:
        watcher.start()
    try:
        yield
    except BaseException as error:
        if not isinstance(error, UsageError | Finished | Interrupted | SystemExit):
            # It may come of a dead process: the watcher will know in a moment, and say so in its line.
            time.sleep(2)
        left.set()
        for connection in connections.values():
            with contextlib.suppress(OSError):
                # The user's mistake is told by all, in the same words.
                if isinstance(error, UsageError):
                    connection.sendall(_MISTAKE + str(error).encode(errors="backslashreplace"))
                # Only the first sees the folder, and what is done there is done for all.
                if isinstance(error, Finished):
                    connection.sendall(_FINISHED)
                connection.shutdown(socket.SHUT_RDWR)
        raise
    for connection in connections.values():
        connection.sendall(_GOOD_BYE)
    # Until all have said good-bye: the first still writes its report, and jax would abort the others if it died then.
    for watcher in watchers:
        watcher.join()
    jax.distributed.shutdown()


def _check_address(group: Group) -> None:
    """What jax would answer with a crash: an address that is none, or a port that is taken."""
    host, _, port = group.coordinator.rpartition(":")
    try:
        socket.getaddrinfo(host, int(port))
        if group.process_id == 0:
            # jax listens at all addresses of the machine, we at this one.
            for place in (("", int(port)), (host, 0)):
                socket.create_server(place).close()
    except OSError as error:
        raise UsageError(f"--coordinator {group.coordinator} cannot be used: {error.strerror}") from error


def _give_up(group: Group) -> NoReturn:
    # Only the scheduler knows how many of its processes there should be.
    ours = f"the {group.num_processes} processes did not come together at {group.coordinator}"
    waited = "the scheduler's processes did not come together" if group.coordinator == "auto" else ours
    print(f"error: {waited} in {PATIENCE_S} s; were all of them started?", file=sys.stderr, flush=True)
    os._exit(2)


def _connect(host: str) -> dict[int, socket.socket]:
    """process -> connection: the first process with every other, each other with the first.

    The first listens at `host`, or, where that is empty, at all addresses of its machine, and says that one's name.
    """
    index, count = jax.process_index(), jax.process_count()
    if index == 0:
        with socket.create_server((host, 0)) as server:
            server.settimeout(PATIENCE_S)
            _tell_address(f"{host or socket.getfqdn()}:{server.getsockname()[1]}")
            connections = [server.accept()[0] for _ in range(count - 1)]
        numbered = {int.from_bytes(_read(connection, 4)): connection for connection in connections}
    else:
        host, _, port = _tell_address("").rpartition(":")
        connection = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        connection.sendall(index.to_bytes(4))
        numbered = {0: connection}
    for connection in numbered.values():
        connection.settimeout(None)
    return numbered


def _tell_address(address: str) -> str:
    """The first process's address, on all of them."""
    letters = np.frombuffer(address.encode().ljust(256), np.uint8)
    return broadcast(letters).tobytes().decode().strip()


def _read(connection: socket.socket, size: int) -> bytes:
    with connection.makefile("rb", buffering=0) as file:
        return file.read(size) or b""


def _watch(number: int, connections: dict[int, socket.socket], left: threading.Event, out: Path) -> None:
    """Waits for a good-bye, and ends this process where another word comes, or none before the end."""
    try:
        words = connections[number].recv(4096)
    except OSError:
        words = b""
    if words == _GOOD_BYE or left.is_set():
        return
    mistake, finished = words.startswith(_MISTAKE), words == _FINISHED
    reason = words or f"process {number} of {jax.process_count()} has ended".encode()
    for other, connection in connections.items():
        if other != number:
            with contextlib.suppress(OSError):
                connection.sendall(reason)
    if finished:
        os._exit(0)
    # A long sentence may have been cut within a letter.
    said = reason.removeprefix(_MISTAKE).decode(errors="replace")
    if not mistake:
        said += f"; the runs that were finished are kept in {out}, and the same commands go on from there"
    sys.stderr.flush()
    # jax's own threads find the other gone as well, and would say so in many lines after this one.
    said_to = os.dup(sys.stderr.fileno())
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    # On a terminal, the line of a progress bar is not at its end.
    start = "\n" if os.isatty(said_to) else ""
    os.write(said_to, f"{start}error: {printable(said)}\n".encode())
    # The main thread waits inside of jax, where no exception reaches it.
    os._exit(2 if mistake else 1)
