"""Several processes, on one machine or on many, that train the runs of one command together through jax.distributed.

Nothing passes between them inside a run. But each waits for all at a run's end, and would wait for a dead one for ever:
so each holds a connection to the first process, and what ends without a good-bye ends them all.
"""

import atexit
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments import settings
from experiments.command import Finished, UsageError
from experiments.interruption import Interrupted
from segjax.checks import check_count

# To find one another at the start, and to say good-bye at the end.
PATIENCE_S = 60
# A machine that vanishes closes no connection; jax then ends the others, with a message of its own.
HEARTBEAT_TIMEOUT_S = 30
_GOOD_BYE = b"."
# The options of a process on its own.
SINGLE = {"coordinator": "", "num_processes": 1, "process_id": 0}


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


@contextlib.contextmanager
def joined(options: settings.Processes) -> Iterator[None]:
    """Inside, jax sees the devices of all processes. To be entered before jax is used; does nothing for one process.

    Raises:
        UsageError: if the options name no group of processes, or if the others do not come.
    """
    if not _wanted(options):
        yield
        return
    # Gloo is what joins the CPUs of several processes; other devices have means of their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    by_flags = options.coordinator != "auto"
    # jax itself would say it in fifty lines, and later.
    patience = threading.Timer(PATIENCE_S, _give_up, args=(options,))
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(
            options.coordinator if by_flags else None,
            options.num_processes if by_flags else None,
            options.process_id if by_flags else None,
            initialization_timeout=2 * PATIENCE_S,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
        )
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"the processes did not come together: {error}") from error
    finally:
        patience.cancel()
    connections = _connect(options.coordinator.rpartition(":")[0] if by_flags else "")
    left = threading.Event()
    for number, connection in connections.items():
        threading.Thread(target=_watch, args=(number, connection, connections, left, options), daemon=True).start()
    try:
        yield
    except BaseException as error:
        left.set()
        for connection in connections.values():
            connection.shutdown(socket.SHUT_RDWR)
        # jax would wait for the others before the interpreter ends.
        atexit.register(_exit_at_once, error)
        raise
    left.set()
    for connection in connections.values():
        connection.sendall(_GOOD_BYE)
    jax.distributed.shutdown()


def _wanted(options: settings.Processes) -> bool:
    """Checks the three options, and says whether they ask for more than this process."""
    try:
        check_count("--num-processes", options.num_processes, 1)
        check_count("--process-id", options.process_id, 0)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    if options.process_id >= options.num_processes:
        raise UsageError(f"--process-id must be < --num-processes, {options.num_processes}, got {options.process_id}")
    host, _, port = options.coordinator.rpartition(":")
    if options.coordinator not in ("", "auto") and not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise UsageError(f"--coordinator must be HOST:PORT or auto, got {options.coordinator!r}")
    if not options.coordinator and options.num_processes > 1:
        raise UsageError("--num-processes needs --coordinator HOST:PORT")
    return bool(options.coordinator)


def _give_up(options: settings.Processes) -> NoReturn:
    waited = f"the {options.num_processes} processes did not come together at {options.coordinator} in {PATIENCE_S} s"
    print(f"error: {waited}; were all of them started?", file=sys.stderr, flush=True)
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


def _watch(
    number: int,
    connection: socket.socket,
    connections: dict[int, socket.socket],
    left: threading.Event,
    options: settings.Processes,
) -> None:
    """Waits for a good-bye, and ends this process where another word comes, or none before the end."""
    try:
        words = connection.recv(1024)
    except OSError:
        words = b""
    if words == _GOOD_BYE or left.is_set():
        return
    _end(words.decode() or f"process {number} of {jax.process_count()} has ended", number, connections, options)


def _exit_at_once(error: BaseException) -> None:
    """What is left when all has been said: the exit code that `command.run` gives to this error."""
    sys.stdout.flush()
    sys.stderr.flush()
    codes = {UsageError: 2, Finished: 0}
    os._exit(128 + error.number if isinstance(error, Interrupted) else codes.get(type(error), 1))


def _end(reason: str, dead: int, connections: dict[int, socket.socket], options: settings.Processes) -> NoReturn:
    for number, connection in connections.items():
        if number != dead:
            with contextlib.suppress(OSError):
                connection.sendall(reason.encode())
    kept = f"the runs that were finished are kept in {options.out}, and the same commands go on from there"
    sys.stderr.flush()
    # jax's own threads find the other gone as well, and would say so in many lines after this one.
    said_to = os.dup(sys.stderr.fileno())
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    os.write(said_to, f"\nerror: {reason}; {kept}\n".encode())
    # The main thread waits inside of jax, where no exception reaches it.
    os._exit(1)
