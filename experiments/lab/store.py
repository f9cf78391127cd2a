"""The folder of results: what each file in it is called, who may write there, and how runs are kept and found again.

    results.json          options, versions, device and every number; written last: where it is, all else is
    runs/options.json     which command the files beside it belong to
    runs/*.safetensors    finished runs, and notes that an experiment goes on from
    runs/*.part           runs under way

No other module knows a name in `runs/`. Every file is written whole or not at all (`segjax.checkpoints`).
"""

import fcntl
import json
import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import segjax
from experiments.lab.runs import Begun, Held, Result, Run
from experiments.lab.stops import Finished, UsageError
from segjax import checkpoints, metrics

RESULTS = "results.json"
# How the names of trainings by the clock begin: their results are not runs, but files of the whole command.
CLOCK = "clock-"
_OPTIONS = "options.json"
# What experiments write beside the files that results.json lists: --overwrite deletes these and no others.
_OURS = ("iteration-*.png", "model.safetensors", "model-torch.safetensors", "runs/*.safetensors", "runs/*.part")


# folder -> the open folder, whose lock the system drops with the process; and the identity of the command.
_claims: dict[Path, tuple[int, Mapping[str, Any]]] = {}


def claim(out: Path, identity: Mapping[str, Any], overwrite: bool = False, free: Collection[str] = ()) -> None:
    """Makes the folder `out` this command's, before any work.

    Args:
        identity: {"experiment", "options", "inputs"}: what the results will depend on.
        overwrite: delete all that experiments wrote there.
        free: options that may differ from those that made what the folder holds.

    Raises:
        Finished: if the folder holds the results of these very options.
        UsageError: if another process writes there, or the folder holds what other options made, or anything else.
    """
    for path in identity["inputs"]:
        if overwrite and Path(path).resolve().is_relative_to(out.resolve()):
            raise UsageError(f"--overwrite would delete results beside {path}, which is needed; name another --out")
    # As JSON has it, where tuples are lists: so it compares with what was read.
    identity = json.loads(json.dumps(identity, default=str))
    try:
        out.mkdir(parents=True, exist_ok=True)
        _lock(out, identity)
        if overwrite:
            _clear(out)
        _check(out, identity, overwrite, free)
        # A folder that cannot be written is known now, and not after an hour of training.
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror}") from error


def keep(out: Path) -> None:
    """Makes the folder of runs, and writes down which command they belong to."""
    (out / "runs").mkdir(exist_ok=True)
    _, identity = _claims[out.resolve()]
    checkpoints.write(out / "runs" / _OPTIONS, _json(identity))


def finish(out: Path, files: Mapping[str, bytes], document: Mapping[str, Any]) -> None:
    """Writes the files of the results, then results.json, and lets other processes write to the folder."""
    for name, content in files.items():
        checkpoints.write(out / name, content)
    # Left by a crash between the last step of a run and the end of its saving. Other runs under way are of use still.
    for path in out.glob("runs/*.part"):
        if path.with_suffix(".safetensors").exists():
            path.unlink()
    checkpoints.write(out / RESULTS, _json({**document, "files": [*document.get("files", []), *files]}))
    for path in out.glob(f"runs/{CLOCK}*.part"):
        path.unlink()
    os.close(_claims.pop(out.resolve())[0])


def release(out: Path) -> None:
    """Lets other processes write to the folder."""
    if claimed := _claims.pop(out.resolve(), None):
        os.close(claimed[0])


def kept(out: Path) -> str:
    """What an interrupted command leaves, in words."""
    finished, begun = (len(list(out.glob(f"runs/*-seed*.{ending}"))) for ending in ("safetensors", "part"))
    if not finished + begun:
        return "nothing of what was under way is kept"
    words = f"{finished} finished runs" + (f", {begun} begun" if begun else "")
    return f"the same command without --overwrite goes on from what is kept in {out}: {words}"


def has_run(out: Path, run: Run) -> bool:
    return _path(out, run.stem).exists()


def write_runs(out: Path, results: Sequence[Result]) -> None:
    """Keeps finished runs, and drops what was kept of them under way."""
    for result in results:
        arrays = {"history": result.history, "variables": result.variables, "held_out": result.held_out}
        metadata = {"run": result.run.as_dict(), "seconds": result.seconds}
        checkpoints.save(_path(out, result.run.stem), arrays, metadata)
    for result in results:
        _path(out, result.run.stem, "part").unlink(missing_ok=True)


def read_run(out: Path, run: Run) -> Result:
    """A finished run from its file; a UsageError where the file is damaged or holds another run."""
    arrays, metadata = _read(path := _path(out, run.stem))
    if metadata.get("run") != run.as_dict():
        raise UsageError(f"{path} holds another run than its name says; delete it, or pass --overwrite")
    history, held = arrays["history"], arrays["held_out"]
    counts, running = (metrics.Counts(**held[name]) for name in ("counts", "running_counts"))
    held_out = Held(counts, running, held["losses"])
    history = segjax.History(history["loss"], metrics.Counts(**history["counts"]))
    return Result(run, history, arrays["variables"], held_out, metadata["seconds"])


def write_begun(out: Path, names: Sequence[str], begun: Begun, notes: Any = ()) -> None:
    """Keeps training under way, the runs of all the names in one file, so that they are at one step.

    Args:
        notes: a tree of arrays to find again.
    """
    # The last chunk has room for more steps than it made.
    steps, chunks = int(np.max(jax.device_get(begun.state.step))), jax.device_get(list(begun.chunks))
    history = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=-1)[..., :steps], *chunks)
    arrays = {"state": begun.state, "history": history, "notes": notes}
    checkpoints.save(_path(out, names[0], "part"), arrays, {"names": list(names), "seconds": begun.seconds})


def read_begun(out: Path, names: Sequence[str], template: Any) -> tuple[Begun, dict[str, Any]] | None:
    """Training under way and its notes; None where none was of these runs together.

    Args:
        template: a state, or its shapes and dtypes.

    Raises:
        UsageError: if the file is damaged, or holds the state of another network or optimizer.
    """
    path = _path(out, names[0], "part")
    if not path.exists():
        return None
    arrays, metadata = _read(path)
    # With another number of devices other runs are trained together: they begin anew.
    if metadata.get("names") != list(names):
        return None
    try:
        state = checkpoints.restore(template, arrays["state"])
    except ValueError as error:
        raise UsageError(f"{path}: {error}; delete it, or pass --overwrite") from error
    history = segjax.History(arrays["history"]["loss"], metrics.Counts(**arrays["history"]["counts"]))
    return Begun(state, [history], metadata["seconds"]), arrays.get("notes", {})


def write_note(out: Path, name: str, arrays: Any, metadata: Mapping[str, Any]) -> None:
    """Keeps what an experiment needs again when it goes on."""
    checkpoints.save(_path(out, name), arrays, metadata)


def read_note(out: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Reads the arrays and the metadata of a note; None where none was kept, a UsageError where it is damaged."""
    path = _path(out, name)
    return _read(path) if path.exists() else None


def read_document(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no such file, and a UsageError where it cannot be read."""
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}; delete it, or pass --overwrite") from error
    if not isinstance(document, dict):
        raise UsageError(f"{path} is damaged: no results; delete it, or pass --overwrite")
    return document


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def _path(out: Path, name: str, ending: str = "safetensors") -> Path:
    return out / "runs" / f"{name}.{ending}"


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        return checkpoints.load(path)
    except (ValueError, OSError) as error:
        raise UsageError(f"{error}; delete it, or pass --overwrite") from error


def _lock(out: Path, identity: Mapping[str, Any]) -> None:
    release(out)
    # On the folder itself: a lock file would be one more file to explain, and to leave behind.
    lock = os.open(out, os.O_RDONLY)
    try:
        # Exclusive and without waiting: a second command is told at once.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UsageError(f"another process writes to --out {out}; wait for it, or name another folder") from None
    _claims[out.resolve()] = lock, identity


def _clear(out: Path) -> None:
    # The results go first: where they are, all else is as they say.
    try:
        files = (read_document(out / RESULTS) or {}).get("files", [])
    except UsageError:
        files = []
    for name in (RESULTS, *files):
        # A file list that was tampered with reaches no other folder.
        (out / Path(name).name).unlink(missing_ok=True)
    for pattern in (*_OURS, f"runs/{_OPTIONS}"):
        for path in out.glob(pattern):
            path.unlink()


def _check(out: Path, identity: Mapping[str, Any], overwrite: bool, free: Collection[str]) -> None:
    for file, what in ((out / RESULTS, "the results"), (out / "runs" / _OPTIONS, "unfinished runs")):
        if (made := read_document(file)) is None:
            continue
        if difference := _difference(made, identity, free):
            raise UsageError(f"--out {out} holds {what} {difference}; name another folder, or pass --overwrite")
        if file.name == RESULTS and not _difference(made, identity, ()):
            raise Finished(
                f"{out} holds the results of this very command: nothing is left to do (--overwrite begins anew)"
            )
        return
    if not overwrite and {path.name for path in out.iterdir()} - {"runs"}:
        raise UsageError(f"--out {out} already holds files; name another folder, or pass --overwrite")


def _difference(made: Mapping[str, Any], wanted: Mapping[str, Any], free: Collection[str]) -> str:
    """How another command differed from the one that is wanted, in words; empty where they agree."""
    if made.get("experiment") != wanted["experiment"]:
        return f"of {made.get('experiment') or 'something else'}"
    had = made.get("options") or {}
    for name, value in wanted["options"].items():
        if name not in free and had.get(name) != value:
            return f"with {name} {had.get(name)}, not {value}"
    for path, digest in wanted["inputs"].items():
        if (made.get("inputs") or {}).get(path) != digest:
            return f"of another {path} than is there now"
    return ""
