"""The folder of results: what each file in it is called, who may write there, and how runs are kept and found again.

    options.json          which command the folder belongs to, and the names of all files that it may hold
    results.json          options, versions, device and every number; written last: where it is, all else is
    runs/*.safetensors    finished runs, and notes from which a question resumes
    runs/*.part           runs in progress

No other module knows a name in `runs/`. Every file is written whole or not at all (`segjax.checkpoints`), and its name
is in options.json before: a file that neither list names is not ours, and is never deleted or replaced.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import segjax
from experiments.lab.runs import Held, PartialRun, Result, Run
from experiments.lab.stops import Finished, UsageError
from segjax import checkpoints, edges, metrics

RESULTS, OPTIONS = "results.json", "options.json"
# How the names of trainings by the clock begin: their results are not runs, but files of the whole command.
CLOCK = "clock-"
# Their JSON types in results.json and options.json.
_SECTIONS = {**dict.fromkeys(("options", "inputs", "versions", "numerics", "device", "source"), dict), "files": list}
# A list that was tampered with reaches no other folder.
_NAME = re.compile(r"(runs/)?(?!\.{1,2}$)[^/\0]+")


def difference(other: Mapping[str, Any], ours: Mapping[str, Any], free: Collection[str] = ()) -> str:
    """The first difference between two identities, in words; empty where they agree.

    Args:
        other: as read from a file, of which any part may be missing.
        free: options that may differ; input files that only one of the two names are theirs.
    """
    if other.get("experiment") != ours["experiment"]:
        return f"of {other.get('experiment') or 'something else'}"
    for section in ("options", "versions", "numerics"):
        values = other.get(section, {})
        for name, value in ours[section].items():
            if values.get(name) != value and not (section == "options" and name in free):
                return f"with {name} {values.get(name)}, not {value}"
    digests = other.get("inputs", {})
    for path, sha in ours["inputs"].items():
        if digests.get(path) != sha and not (free and path not in digests):
            return f"of another {path} than is there now"
    return ""


def read_document(path: Path) -> dict[str, Any]:
    """The content of results.json or options.json.

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


def kept_in(path: Path) -> str:
    """What an interrupted command leaves in a folder, in words."""
    finished, parts = ({file.stem for file in path.glob(f"runs/*-seed*.{end}")} for end in ("safetensors", "part"))
    notes = len(list(path.glob("runs/*.safetensors"))) - len(finished)
    if not finished | parts and not notes:
        return "nothing of the work in progress is kept"
    counts = {"finished runs": len(finished), "in progress": len(parts - finished), "other results": notes}
    listed = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"the same command without --overwrite resumes from {path}: {listed}"


class Folder:
    """A folder to which this process alone writes; made by `claimed`.

    Attributes:
        path: of the folder.
        identity: of the command, as `options.identity_of` gives it.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], lock: int) -> None:
        self.path, self.identity = path, identity
        # The system drops the lock on the open folder with the process; `_files` are the names that are ours.
        self._lock, self._files = lock, set[str]()

    @classmethod
    @contextlib.contextmanager
    def claimed(
        cls, path: Path, identity: Mapping[str, Any], overwrite: bool = False, free: Collection[str] = ()
    ) -> Iterator["Folder"]:
        """Makes the folder this command's before any work, until the end of the context.

        Args:
            identity: as `options.identity_of` gives it.
            overwrite: delete the files that are listed there as ours.
            free: options that may differ from those of the results that the folder holds.

        Raises:
            Finished: if the folder holds the results of these very options.
            UsageError: if another process writes there, or the folder holds what other options made, or anything else.
        """
        for name in identity["inputs"]:
            # Unlike `resolve`, this takes links that lead to themselves.
            if overwrite and Path(os.path.realpath(name)).is_relative_to(os.path.realpath(path)):
                raise UsageError(f"--overwrite would delete results beside {name}, which is needed; name another --out")
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = _lock(path)
        except OSError as error:
            raise UsageError(f"--out {path} cannot be written: {error.strerror}") from error
        try:
            folder = cls(path, identity, lock)
            folder._take_over(overwrite, free)
            yield folder
        finally:
            os.close(lock)

    def _take_over(self, overwrite: bool, free: Collection[str]) -> None:
        try:
            self._files.update(self._listed(damaged=overwrite))
            # Left by a kill; of the first list of all where there is nothing else.
            first = {OPTIONS} if list(self.path.iterdir()) == [checkpoints.temporary(self.path / OPTIONS)] else set()
            for name in self._files | first:
                checkpoints.temporary(self.path / name).unlink(missing_ok=True)
            if overwrite:
                self._clear()
            else:
                self._check(free)
            # A folder that cannot be written is known now, and not after an hour of training.
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise UsageError(f"--out {self.path} cannot be written: {error.strerror}") from error

    def _listed(self, damaged: bool) -> set[str]:
        """The names of the files that are ours; a damaged list has none, where such a list is allowed."""
        listed: set[str] = set()
        for name in (RESULTS, OPTIONS):
            try:
                if document := self._document(name):
                    listed.update([name, *document.get("files", [])])
            except UsageError:
                if not damaged:
                    raise
        return listed

    def _document(self, name: str) -> dict[str, Any] | None:
        """The document, None where there is no such file."""
        try:
            return read_document(self.path / name)
        except FileNotFoundError:
            return None
        except ValueError as error:
            message = f"{self.path / name} is damaged: {error}; delete it, or pass --overwrite"
            raise UsageError(message) from error

    def _clear(self) -> None:
        """Deletes what is ours."""
        if (runs := self.path / "runs").is_symlink():
            raise UsageError(f"{runs} is a link, through which --overwrite deletes nothing; name another folder")
        # The results go first, and the list last: where the results are, all else is as they say.
        for name in sorted(self._files, key=lambda name: (name != RESULTS, name == OPTIONS)):
            # A link itself goes, not what it points to; a folder is not ours.
            if (path := self.path / name).is_file() or path.is_symlink():
                path.unlink()
        self._files.clear()

    def _check(self, free: Collection[str]) -> None:
        """Raises as `claimed` does."""
        results, unfinished = self._document(RESULTS), self._document(OPTIONS)
        if results is not None and not difference(results, self.identity):
            if lost := [name for name in results.get("files", []) if not (self.path / name).exists()]:
                raise UsageError(f"--out {self.path} holds these results, but {lost[0]} is gone; pass --overwrite")
            raise Finished(
                f"{self.path} holds the results of this very command: nothing is left to do (--overwrite begins anew)"
            )
        holding = results if results is not None else unfinished
        what = "the results" if results is not None else "unfinished results"
        if holding is None:
            if {path.name for path in self.path.iterdir()} - {"runs"}:
                raise UsageError(f"--out {self.path} already holds files; name another folder, or pass --overwrite")
        elif differs := difference(holding, self.identity, free):
            raise UsageError(f"--out {self.path} holds {what} {differs}; name another folder, or pass --overwrite")

    def announce(self, names: Iterable[str]) -> None:
        """Writes into options.json that these files are this command's, before they are written.

        A file of such a name that is there and is not ours is kept under another: NAME~.
        """
        new = {*names, RESULTS, OPTIONS} - self._files
        self._check_place()
        for path in (path for name in new for path in (self.path / name, checkpoints.temporary(self.path / name))):
            aside = path
            while os.path.lexists(aside):
                aside = aside.with_name(f"{aside.name}~")
            if aside != path:
                path.replace(aside)
        self._files.update(new)
        if new:
            self._write_list()

    def announce_runs(self, names: Iterable[str]) -> None:
        """The same for runs, by the names that `write_runs` and `write_partial` use."""
        self.announce([_run(name, ending) for name in names for ending in ("safetensors", "part")])

    def write(self, name: str, content: bytes) -> None:
        """Writes one file of the results, whole or not at all."""
        self.announce([name])
        self._write(name, content)

    def finish(self, files: Mapping[str, bytes], document: Mapping[str, Any]) -> None:
        """Writes the files of the results, then results.json.

        Files that results of an earlier command wrote here, and that these do not have, are deleted.

        Args:
            document: of results.json; its "files" are written already.
        """
        listed = [*document.get("files", []), *files]
        self.announce(files)
        # After a crash between two files, results of fewer seeds would pass for whole.
        (self.path / RESULTS).unlink(missing_ok=True)
        for name, content in files.items():
            self._write(name, content)
        # Left by a crash between the last step of a run and its result. Other runs in progress are of use still.
        for path in self.path.glob("runs/*.part"):
            if path.with_suffix(".safetensors").exists():
                path.unlink()
        self._write(RESULTS, _json({**document, "files": listed}))
        for path in self.path.glob(f"runs/{CLOCK}*.part"):
            path.unlink()
        stale = {name for name in self._files - {*listed, RESULTS, OPTIONS} if not name.startswith("runs/")}
        for name in stale:
            (self.path / name).unlink(missing_ok=True)
        self._files.difference_update(stale)
        self._write_list()

    def has_run(self, run: Run) -> bool:
        return (self.path / _run(run.stem)).exists()

    def write_runs(self, results: Sequence[Result]) -> None:
        """Keeps finished runs, which were announced, and drops their checkpoints."""
        for result in results:
            arrays = {"history": result.history, "variables": result.variables, "held_out": result.held_out}
            if result.trained:
                arrays["trained"] = result.trained
            metadata = {"run": result.run.as_dict(), "seconds": result.seconds, "cores": result.cores}
            self._write(_run(result.run.stem), checkpoints.to_bytes(arrays, metadata))
        self.drop_partial([result.run.stem for result in results])

    def read_run(self, run: Run) -> Result:
        """A finished run from its file; a UsageError where the file is damaged or holds another run."""
        arrays, metadata = _read(path := self.path / _run(run.stem))
        if metadata.get("run") != run.as_dict():
            raise UsageError(f"{path} holds another run than its name says; delete it, or pass --overwrite")
        held = arrays["held_out"]
        counts, running = (metrics.Counts(**held[name]) for name in ("counts", "running_counts"))
        held_out = Held(counts, running, edges.EdgeCounts(**held["edges"]), held["image_iou"], held["losses"])
        history, seconds, cores = _history(arrays["history"]), metadata["seconds"], metadata.get("cores")
        return Result(run, history, arrays["variables"], held_out, seconds, cores, arrays.get("trained"))

    def write_partial(self, names: Sequence[str], partial: PartialRun, notes: Any = ()) -> None:
        """Keeps runs in progress, all of the names in one file, so that they are at one step; they were announced.

        Args:
            notes: a tree of arrays to find again.
        """
        # The last chunk has room for more steps than it made.
        steps = int(np.max(jax.device_get(partial.state.step)))
        chunks = jax.device_get(list(partial.chunks))
        history = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=-1)[..., :steps], *chunks)
        arrays = {"state": partial.state, "history": history, "notes": notes}
        content = checkpoints.to_bytes(arrays, {"names": list(names), "seconds": partial.seconds})
        self._write(_run(names[0], "part"), content)

    def read_partial(self, names: Sequence[str], template: Any) -> tuple[PartialRun, dict[str, Any]] | None:
        """Runs in progress and their notes; None where none of these runs together are kept.

        Args:
            template: a state, or its shapes and dtypes.

        Raises:
            UsageError: if the file is damaged, or holds the state of another network or optimizer.
        """
        path = self.path / _run(names[0], "part")
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
        return PartialRun(state, [_history(arrays["history"])], metadata["seconds"]), arrays.get("notes", {})

    def drop_partial(self, names: Iterable[str]) -> None:
        for name in names:
            (self.path / _run(name, "part")).unlink(missing_ok=True)

    def write_note(self, name: str, arrays: Any, metadata: Mapping[str, Any]) -> None:
        """Keeps what a question needs again when it resumes."""
        self.write(_run(name), checkpoints.to_bytes(arrays, metadata))

    def read_note(self, name: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The arrays and the metadata of a note; None where none was kept, a UsageError where it is damaged."""
        path = self.path / _run(name)
        return _read(path, "pass --overwrite") if path.exists() else None

    def notes(self, prefix: str) -> list[str]:
        """The names of the notes that begin with `prefix`."""
        return sorted(path.stem for path in self.path.glob(f"runs/{prefix}*.safetensors"))

    def _write_list(self) -> None:
        self._write(OPTIONS, _json({**self.identity, "files": sorted(self._files)}))

    def _write(self, name: str, content: bytes) -> None:
        """Every file that is written goes through here."""
        self._check_place()
        (path := self.path / name).parent.mkdir(exist_ok=True)
        checkpoints.write(path, content)

    def _check_place(self) -> None:
        """Raises an OSError where the folder of this name is not the one that was claimed: another may have it."""
        ours, there = os.fstat(self._lock), self.path.stat()
        if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino):
            raise OSError(errno.ESTALE, "the folder was moved away while this command wrote to it", str(self.path))


def _lock(path: Path) -> int:
    # On the folder itself: a lock file would be one more file to explain, and to leave behind.
    lock = os.open(path, os.O_RDONLY)
    try:
        # Exclusive and without waiting: a second command is told at once.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UsageError(f"another process writes to --out {path}; wait for it, or name another folder") from None
    return lock


def _run(name: str, ending: str = "safetensors") -> str:
    return f"runs/{name}.{ending}"


def _history(arrays: Mapping[str, Any]) -> segjax.History:
    return segjax.History(arrays["loss"], metrics.Counts(**arrays["counts"]))


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def _read(path: Path, cure: str = "delete it, or pass --overwrite") -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        return checkpoints.load(path)
    except (ValueError, OSError) as error:
        raise UsageError(f"{error}; {cure}") from error
