"""The folder of results: what it holds, whose it is, and who writes in it."""

import dataclasses
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from experiments.command import Finished, UsageError, experiment
from experiments.plain import plain
from segjax import checkpoints

RESULTS, RUNS, OPTIONS = "results.json", "runs", "options.json"
# Endings of the files of runs under way: of one, and of several that are trained side by side.
PART, ROUND = "part", "round"
# What experiments write before they are finished.
BESIDE = (
    "iteration-*.png",
    "model.safetensors",
    "model-torch.safetensors",
    f"{RUNS}/*.safetensors",
    f"{RUNS}/*.{PART}",
    f"{RUNS}/*.{ROUND}",
    f"{RUNS}/{OPTIONS}",
)
# Options that change no result.
UNCOMPARED = ("preset", "out", "overwrite", "checkpoint_seconds", "coordinator", "num_processes", "process_id")
# folder -> the open folder whose lock this process holds; the system drops it with the process.
_locks: dict[Path, int] = {}


def claim(options: Any, free: Collection[str] = ()) -> None:
    """Makes `options.out` this command's, before any work.

    Args:
        options: of the experiment. With `overwrite` all that experiments write there is deleted.
        free: options that may differ from those that made what is there.

    Raises:
        Finished: if the folder holds the results of these options.
        UsageError: if another process writes there, if it holds what other options made, or anything else.
    """
    out = options.out
    for path in options.inputs() if hasattr(options, "inputs") else ():
        if options.overwrite and path.resolve().is_relative_to(out.resolve()):
            raise UsageError(f"--overwrite would delete results beside {path}, which is needed; name another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        _lock(out)
        if options.overwrite:
            _clear(out)
        _check(options, free)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror}") from error


def keep(options: Any) -> None:
    """Makes the folder of runs, and writes down which options they are of."""
    folder = options.out / RUNS
    folder.mkdir(exist_ok=True)
    checkpoints.write(folder / OPTIONS, (json.dumps(_identity(options), indent=1) + "\n").encode())


def release(out: Path) -> None:
    """Lets other processes write there."""
    if (lock := _locks.pop(out.resolve(), None)) is not None:
        os.close(lock)


def _lock(out: Path) -> None:
    release(out)
    lock = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UsageError(f"another process writes to --out {out}; wait for it, or name another folder") from None
    _locks[out.resolve()] = lock


def _clear(out: Path) -> None:
    # The results first: where they are, all is as they say.
    try:
        files = (_read(out / RESULTS) or {}).get("files", [])
    except UsageError:
        files = []
    for name in (RESULTS, *files):
        (out / Path(name).name).unlink(missing_ok=True)
    for pattern in BESIDE:
        for path in out.glob(pattern):
            path.unlink()


def _check(options: Any, free: Collection[str]) -> None:
    out = options.out
    for file, what in ((out / RESULTS, "the results"), (out / RUNS / OPTIONS, "unfinished runs")):
        made = _read(file)
        if made is None:
            continue
        difference = _difference(made, options, free)
        if difference:
            raise UsageError(f"--out {out} holds {what} {difference}; name another folder, or pass --overwrite")
        if file.name == RESULTS and not _difference(made, options, ()):
            raise Finished(
                f"{out} holds the results of this very command: nothing is left to do (--overwrite begins anew)"
            )
        return
    if not options.overwrite and {path.name for path in out.iterdir()} - {RUNS}:
        raise UsageError(f"--out {out} already holds files; name another folder, or pass --overwrite")


def _difference(made: dict[str, Any], options: Any, free: Collection[str]) -> str:
    """What another command's options had that these have not, in words; nothing where they agree."""
    wanted, had = _identity(options), made.get("options") or {}
    if made.get("experiment") != wanted["experiment"]:
        return f"of {made.get('experiment') or 'something else'}"
    for name, value in wanted["options"].items():
        if name not in free and had.get(name) != value:
            return f"with {name} {had.get(name)}, not {value}"
    for path, digest in wanted["inputs"].items():
        if (made.get("inputs") or {}).get(path) != digest:
            return f"of another {path} than is there now"
    return ""


def digests(options: Any) -> dict[str, str]:
    """path -> SHA-256 of each file that the options name to be read (`options.inputs()`), where they name any."""
    found = {}
    for path in options.inputs() if hasattr(options, "inputs") else ():
        try:
            with path.open("rb") as file:
                found[str(path)] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            found[str(path)] = error.strerror or "cannot be read"
    return found


def _identity(options: Any) -> dict[str, Any]:
    """The experiment and the options that its results depend on."""
    given = plain(dataclasses.asdict(options))
    return {
        "experiment": experiment(options),
        "options": {name: value for name, value in given.items() if name not in UNCOMPARED},
        "inputs": digests(options),
    }


def _read(file: Path) -> dict[str, Any] | None:
    """A document; None where there is none, and a UsageError where it cannot be read."""
    try:
        document = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{file} is damaged: {error}; delete it, or pass --overwrite") from error
    if not isinstance(document, dict):
        raise UsageError(f"{file} is damaged: no results; delete it, or pass --overwrite")
    return document
