"""The folder of results: what each file in it is called, who may write there, and how runs are kept and found again.

    options.json          which command the folder belongs to, and the names of all files that it may hold
    results.json          options, versions, device and every number; written last: where it is, all else is
    runs/*.safetensors    finished runs, and notes that an experiment goes on from
    runs/*.part           runs under way

No other module knows a name in `runs/`. Every file is written whole or not at all (`segjax.checkpoints`), and its name
is in options.json before: what is in neither list is not ours, and is never deleted or replaced.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

import segjax
from experiments.lab.options import difference, joined
from experiments.lab.runs import Begun, Held, Result, Run
from experiments.lab.stops import Finished, UsageError
from segjax import checkpoints, edges, metrics

RESULTS = "results.json"
# How the names of trainings by the clock begin: their results are not runs, but files of the whole command.
CLOCK = "clock-"
# How the names of notes begin that hold the results of one picture each.
_PICTURE = "picture-"
_OPTIONS = "options.json"
# Their JSON types in results.json and options.json.
_SECTIONS = {**dict.fromkeys(("options", "inputs", "versions", "numerics", "device", "source"), dict), "files": list}
# A list that was tampered with reaches no other folder.
_NAME = re.compile(r"(runs/)?(?!\.{1,2}$)[^/\0]+")


class _Claim(NamedTuple):
    """A folder that is written to.

    Attributes:
        lock: the open folder; the system drops its lock with the process.
        identity: of the command.
        files: names of the files that are ours.
    """

    lock: int
    identity: Mapping[str, Any]
    files: set[str]


_claims: dict[Path, _Claim] = {}


def claim(
    out: Path,
    identity: Mapping[str, Any],
    overwrite: bool = False,
    free: Collection[str] = (),
    additions: Mapping[str, Sequence[Path]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Makes the folder `out` this command's, before any work.

    Args:
        identity: what the results will depend on, as `Command.identity` gives it.
        overwrite: delete what is listed there as ours.
        free: options that may differ from those that made what the folder holds.
        additions: of the command, as `Command.additions` gives them.

    Returns:
        The identity, with the inputs to which this command adds its own: those of which the folder holds results.

    Raises:
        Finished: if the folder holds the results of these very options.
        UsageError: if another process writes there, or the folder holds what other options made, or anything else.
    """
    for path in identity["inputs"]:
        # Unlike `resolve`, this takes links that lead to themselves.
        if overwrite and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(out)):
            raise UsageError(f"--overwrite would delete results beside {path}, which is needed; name another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        _lock(out, identity)
        files = _claims[out].files
        files.update(_files(out, damaged=overwrite))
        # Left by a kill; of the first list of all where there is nothing else.
        first = {_OPTIONS} if list(out.iterdir()) == [checkpoints.temporary(out / _OPTIONS)] else set()
        for name in files | first:
            checkpoints.temporary(out / name).unlink(missing_ok=True)
        if overwrite:
            _clear(out, files)
        else:
            identity = _check(out, identity, free, additions)
            _claims[out] = _claims[out]._replace(identity=identity)
        # A folder that cannot be written is known now, and not after an hour of training.
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror}") from error
    return dict(identity)


def announce(out: Path, names: Iterable[str]) -> None:
    """Writes into options.json that these files are this command's, before they are written.

    A file of such a name that is there and is not ours is kept under another: NAME~.
    """
    files = _claims[out].files
    new = {*names, RESULTS, _OPTIONS} - files
    _check_place(out)
    for path in (path for name in new for path in (out / name, checkpoints.temporary(out / name))):
        aside = path
        while os.path.lexists(aside):
            aside = aside.with_name(f"{aside.name}~")
        if aside != path:
            path.replace(aside)
    files.update(new)
    if new:
        _write_options(out)


def announce_runs(out: Path, names: Iterable[str]) -> None:
    """The same for runs, by the names that `write_runs` and `write_begun` use."""
    announce(out, [_run(name, ending) for name in names for ending in ("safetensors", "part")])


def write(out: Path, name: str, content: bytes) -> None:
    """Writes one file of the results, whole or not at all."""
    announce(out, [name])
    _write(out, name, content)


def finish(out: Path, files: Mapping[str, bytes], document: Mapping[str, Any]) -> None:
    """Writes the files of the results, then results.json, and lets other processes write to the folder.

    What results of an earlier command wrote here, and these do not, goes: a mask of a picture that is no longer there.
    """
    listed = [*document.get("files", []), *files]
    announce(out, files)
    for name, content in files.items():
        _write(out, name, content)
    # Left by a crash between the last step of a run and the end of its saving. Other runs under way are of use still.
    for path in out.glob("runs/*.part"):
        if path.with_suffix(".safetensors").exists():
            path.unlink()
    _write(out, RESULTS, _json({**document, "files": listed}))
    for path in out.glob(f"runs/{CLOCK}*.part"):
        path.unlink()
    stale = {name for name in _claims[out].files - {*listed, RESULTS, _OPTIONS} if not name.startswith("runs/")}
    for name in stale:
        (out / name).unlink(missing_ok=True)
    _claims[out].files.difference_update(stale)
    _write_options(out)
    release(out)


def add(out: Path, name: str, document: Mapping[str, Any]) -> None:
    """Adds a JSON file to finished results."""
    made = read_document(out / _OPTIONS)
    files = set(made.pop("files"))
    _lock(out, made)
    _claims[out].files.update(files)
    write(out, name, _json(document))
    release(out)


def release(out: Path) -> None:
    """Lets other processes write to the folder."""
    if claimed := _claims.pop(out, None):
        os.close(claimed.lock)


def kept(out: Path) -> str:
    """What an interrupted command leaves, in words."""
    finished, parts = ({path.stem for path in out.glob(f"runs/*-seed*.{end}")} for end in ("safetensors", "part"))
    begun, pictures = parts - finished, len(list(out.glob(f"runs/{_PICTURE}*.safetensors")))
    if not finished | begun and not pictures:
        return "nothing of what was under way is kept"
    words = f"{len(finished)} finished runs" + (f", {len(begun)} begun" if begun else "")
    words = f"{pictures} pictures" if pictures else words
    return f"the same command without --overwrite goes on from what is kept in {out}: {words}"


def inputs(out: Path) -> Mapping[str, str]:
    """path -> SHA-256 of the inputs of the command that writes there, and of those to which it adds."""
    return _claims[out].identity["inputs"]


def has_run(out: Path, run: Run) -> bool:
    return (out / _run(run.stem)).exists()


def write_runs(out: Path, results: Sequence[Result]) -> None:
    """Keeps finished runs, which were announced, and drops what was kept of them under way."""
    for result in results:
        arrays = {"history": result.history, "variables": result.variables, "held_out": result.held_out}
        if result.trained:
            arrays["trained"] = result.trained
        metadata = {"run": result.run.as_dict(), "seconds": result.seconds, "cores": result.cores}
        _write(out, _run(result.run.stem), checkpoints.to_bytes(arrays, metadata))
    for result in results:
        (out / _run(result.run.stem, "part")).unlink(missing_ok=True)


def read_run(out: Path, run: Run) -> Result:
    """A finished run from its file; a UsageError where the file is damaged or holds another run."""
    arrays, metadata = _read(path := out / _run(run.stem))
    if metadata.get("run") != run.as_dict():
        raise UsageError(f"{path} holds another run than its name says; delete it, or pass --overwrite")
    history, held = arrays["history"], arrays["held_out"]
    counts, running = (metrics.Counts(**held[name]) for name in ("counts", "running_counts"))
    held_out = Held(counts, running, edges.EdgeCounts(**held["edges"]), held["image_iou"], held["losses"])
    history = segjax.History(history["loss"], metrics.Counts(**history["counts"]))
    seconds, cores = metadata["seconds"], metadata.get("cores")
    return Result(run, history, arrays["variables"], held_out, seconds, cores, arrays.get("trained"))


def write_begun(out: Path, names: Sequence[str], begun: Begun, notes: Any = ()) -> None:
    """Keeps training under way, the runs of all the names in one file, so that they are at one step; it was announced.

    Args:
        notes: a tree of arrays to find again.
    """
    # The last chunk has room for more steps than it made.
    steps, chunks = int(np.max(jax.device_get(begun.state.step))), jax.device_get(list(begun.chunks))
    history = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=-1)[..., :steps], *chunks)
    arrays = {"state": begun.state, "history": history, "notes": notes}
    content = checkpoints.to_bytes(arrays, {"names": list(names), "seconds": begun.seconds})
    _write(out, _run(names[0], "part"), content)


def read_begun(out: Path, names: Sequence[str], template: Any) -> tuple[Begun, dict[str, Any]] | None:
    """Training under way and its notes; None where none was of these runs together.

    Args:
        template: a state, or its shapes and dtypes.

    Raises:
        UsageError: if the file is damaged, or holds the state of another network or optimizer.
    """
    path = out / _run(names[0], "part")
    if not path.exists():
        return None
    arrays, metadata = _read(path)
    # With another width, other runs are trained together: they begin anew.
    if metadata.get("names") != list(names):
        return None
    try:
        state = checkpoints.restore(template, arrays["state"])
    except ValueError as error:
        raise UsageError(f"{path}: {error}; delete it, or pass --overwrite") from error
    history = segjax.History(arrays["history"]["loss"], metrics.Counts(**arrays["history"]["counts"]))
    return Begun(state, [history], metadata["seconds"]), arrays.get("notes", {})


def picture(path: Path) -> str:
    """The name of the note of a picture."""
    return _PICTURE + hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def write_note(out: Path, name: str, arrays: Any, metadata: Mapping[str, Any]) -> None:
    """Keeps what an experiment needs again when it goes on."""
    write(out, _run(name), checkpoints.to_bytes(arrays, metadata))


def read_note(out: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Reads the arrays and the metadata of a note; None where none was kept, a UsageError where it is damaged."""
    path = out / _run(name)
    return _read(path, "pass --overwrite") if path.exists() else None


def read_document(path: Path) -> dict[str, Any]:
    """What results.json or options.json holds.

    Raises:
        OSError, ValueError: if the file cannot be read, or holds anything else.
    """
    # A pipe would never end.
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")
    try:
        document = json.loads(path.read_text())
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    if not isinstance(document, dict) or "options" not in document:
        raise ValueError("it holds no results")
    for section, kind in _SECTIONS.items():
        if not isinstance(document.get(section, kind()), kind):
            raise ValueError(f"its {section} are no {kind.__name__}")
    for name in document.get("files", []):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"its files include {name!r:.60}")
    return document


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def _run(name: str, ending: str = "safetensors") -> str:
    return f"runs/{name}.{ending}"


def _write_options(out: Path) -> None:
    _, identity, files = _claims[out]
    _write(out, _OPTIONS, _json({**identity, "files": sorted(files)}))


def _write(out: Path, name: str, content: bytes) -> None:
    """Every file that is written goes through here."""
    _check_place(out)
    (path := out / name).parent.mkdir(exist_ok=True)
    checkpoints.write(path, content)


def _check_place(out: Path) -> None:
    """Raises an OSError where the folder of this name is not the one that was claimed: another command may have it."""
    ours, there = os.fstat(_claims[out].lock), out.stat()
    if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino):
        raise OSError(errno.ESTALE, "the folder was moved away while this command wrote to it", str(out))


def _read(path: Path, cure: str = "delete it, or pass --overwrite") -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        return checkpoints.load(path)
    except (ValueError, OSError) as error:
        raise UsageError(f"{error}; {cure}") from error


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
    _claims[out] = _Claim(lock, identity, set())


def _made(path: Path) -> dict[str, Any] | None:
    """The document, None where there is no such file."""
    try:
        return read_document(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}; delete it, or pass --overwrite") from error


def _files(out: Path, damaged: bool) -> set[str]:
    """The names of the files that are ours; what a damaged list names is not, where such a list is allowed."""
    found: set[str] = set()
    for name in (RESULTS, _OPTIONS):
        try:
            if document := _made(out / name):
                found.update([name, *document.get("files", [])])
        except UsageError:
            if not damaged:
                raise
    return found


def _clear(out: Path, files: set[str]) -> None:
    """Deletes what is ours."""
    if (out / "runs").is_symlink():
        raise UsageError(f"{out / 'runs'} is a link, through which --overwrite deletes nothing; name another folder")
    # The results go first, and the list last: where the results are, all else is as they say.
    for name in sorted(files, key=lambda name: (name != RESULTS, name == _OPTIONS)):
        # A link itself goes, not what it points to; a folder is not ours.
        if (path := out / name).is_file() or path.is_symlink():
            path.unlink()
    files.clear()


def _check(
    out: Path, identity: Mapping[str, Any], free: Collection[str], additions: Mapping[str, Sequence[Path]]
) -> Mapping[str, Any]:
    """The identity, joined with that of what the folder holds; raises as `claim` does."""
    added = [str(path) for paths in additions.values() for path in paths]
    kinds = ((RESULTS, "the results"), (_OPTIONS, "unfinished results"))
    found = [(made, what) for name, what in kinds if (made := _made(out / name)) is not None]
    # An addition that was interrupted is in options.json alone. Of other commands the results are enough.
    found = found if additions else found[:1]
    for made, what in found:
        if differs := difference(made, identity, (*free, *additions), added):
            raise UsageError(f"--out {out} holds {what} {differs}; name another folder, or pass --overwrite")
    # What was added first comes first.
    for made, _ in reversed(found if additions else []):
        identity = joined(_finished(out, made, additions, added), identity, additions)
    results = _made(out / RESULTS)
    if results is not None and not difference(results, identity):
        lost = [name for name in results.get("files", []) if not (out / name).exists()]
        if lost:
            raise UsageError(f"--out {out} holds these results, but {lost[0]} is gone; pass --overwrite")
        raise Finished(f"{out} holds the results of this very command: nothing is left to do (--overwrite begins anew)")
    if found:
        return identity
    if {path.name for path in out.iterdir()} - {"runs"}:
        raise UsageError(f"--out {out} already holds files; name another folder, or pass --overwrite")
    return identity


def _finished(out: Path, made: Mapping[str, Any], additions: Collection[str], added: Collection[str]) -> dict[str, Any]:
    """The document without the additions that have no results, and that the command does not name again."""
    options, inputs = dict(made["options"]), dict(made.get("inputs", {}))
    for name in additions:
        if isinstance(earlier := options.get(name), list):
            lacking = {path for path in map(str, earlier) if not (out / _run(picture(Path(path)))).exists()}
            options[name] = [path for path in map(str, earlier) if path not in lacking or path in added]
            inputs = {path: digest for path, digest in inputs.items() if path not in lacking}
    return {**made, "options": options, "inputs": inputs}
