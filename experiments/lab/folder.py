"""The folder of results: the names of its files, the lock on it, and how runs are written and read.

    options.json          the identity of the command, and the names of all files that the folder may hold
    results.json          options, versions, device and every number; written last, when all other files exist
    runs/*.safetensors    finished runs, and notes from which a question resumes
    runs/*.part           runs in progress

No other module knows a name in `runs/`. Every file is written whole or not at all (`segjax.checkpoints`), after its
name is in options.json. Files that neither list names are not ours, and are never deleted or replaced.
"""

import contextlib
import errno
import fcntl
import json
import os
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

import segjax
from experiments.lab import provenance
from experiments.lab.runs import HeldOut, PartialRun, Result, Run
from experiments.lab.stops import Finished, UsageError
from segjax import checkpoints, edges, metrics

RESULTS, OPTIONS = "results.json", "options.json"
# Prefix of the names of trainings by the clock, whose results are files of the whole command and not runs.
CLOCK = "clock-"
# What the user can do about a file that cannot be read.
_CURE = "delete it, or pass --overwrite"
# Names of files in this folder, so that a manipulated list reaches no other.
_Name = Annotated[str, msgspec.Meta(pattern=r"^(runs/)?(?!\.{1,2}\Z)[^/\0]+\Z")]


class _Document(msgspec.Struct):
    """The sections of results.json and options.json that commands rely on; all but the options may be missing."""

    options: dict[str, Any]
    inputs: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    numerics: dict[str, Any] = {}
    device: dict[str, Any] = {}
    source: dict[str, Any] = {}
    files: list[_Name] = []


def difference(other: Mapping[str, Any], ours: Mapping[str, Any], free: Collection[str] = ()) -> str:
    """Message on the first difference between two identities; empty if they agree. A file may be in another folder.

    Args:
        other: as read from a file; any part may be missing.
        free: options that may differ; input files that only one of the two names may then differ too.
    """
    if other.get("experiment") != ours["experiment"]:
        return f"of {other.get('experiment') or 'something else'}"
    digests, our_digests = other.get("inputs", {}), ours["inputs"]
    for section in ("options", "versions", "numerics"):
        values = other.get(section, {})
        for name, value in ours[section].items():
            # One path with other contents is named below, by the file.
            is_same = values.get(name) == value or _contents(values.get(name), digests) == _contents(value, our_digests)
            if not is_same and not (section == "options" and name in free):
                theirs, our_value = (text or "none" for text in (f"{values.get(name)}", f"{value}"))
                return f"with {name} {theirs}, not {our_value}"
    for path, sha in our_digests.items():
        may_be_new = path not in digests and (free or sha in digests.values())
        if digests.get(path) != sha and not may_be_new:
            return f"for other contents of {path}"
    return ""


def _contents(value: Any, digests: Mapping[str, Any]) -> Any:
    """The value of an option with the digests of input files in place of their paths."""
    if isinstance(value, list):
        return [_contents(item, digests) for item in value]
    return digests.get(value, value) if isinstance(value, str) else value


def read_document(path: Path) -> dict[str, Any]:
    """The content of results.json or options.json.

    Raises:
        OSError, ValueError: if the file cannot be read, or holds anything else.
    """
    try:
        # Not msgspec's JSON, which refuses names that are not UTF-8.
        document: dict[str, Any] = json.loads(checkpoints.read(path), object_pairs_hook=_unique)
        msgspec.convert(document, _Document)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises a ValueError for a name that it has twice, of which Python would take the last."""
    names = Counter(name for name, _ in pairs)
    if len(names) < len(pairs):
        raise ValueError(f"it has {names.most_common(1)[0][0]} twice")
    return dict(pairs)


def resume_hint(path: Path) -> str:
    """Message on the runs that an interrupted command has left in a folder."""
    finished, parts = ({file.stem for file in path.glob(f"runs/*-seed*.{end}")} for end in ("safetensors", "part"))
    notes = len(list(path.glob("runs/*.safetensors"))) - len(finished)
    if not finished | parts and not notes:
        return "nothing of the work in progress is kept"
    counts = {"finished runs": len(finished), "in progress": len(parts - finished), "other results": notes}
    listed = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    return f"the same command without --overwrite resumes from {path}: {listed}"


class Folder:
    """A folder to which this process alone writes; opened by `claimed`.

    Attributes:
        path: of the folder.
        identity: of the command, as `options.identity_of` gives it.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], lock: int) -> None:
        self.path, self.identity = path, identity
        # The lock is an open file descriptor, which the system closes with the process; `_files` are our files' names.
        self._lock, self._files = lock, set[str]()

    @classmethod
    @contextlib.contextmanager
    def claimed(
        cls, path: Path, identity: Mapping[str, Any], overwrite: bool = False, free: Collection[str] = ()
    ) -> Iterator["Folder"]:
        """Locks and checks the folder before any work; the lock lasts until the end of the context.

        Args:
            identity: as `options.identity_of` gives it.
            overwrite: delete the files that its lists name.
            free: options in which results that the folder holds may differ.

        Raises:
            Finished: if the folder holds the results of these very options.
            UsageError: if another process writes there, or the folder holds results of other options, or other files.
        """
        for name in identity["inputs"]:
            # `Path.resolve` raises for a link to itself.
            if overwrite and Path(os.path.realpath(name)).is_relative_to(os.path.realpath(path)):
                raise UsageError(f"--overwrite would delete results beside {name}, which is needed; name another --out")
        is_new = not os.path.lexists(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = _lock(path)
        except OSError as error:
            raise UsageError(f"--out {path} cannot be written: {error.strerror}") from error
        try:
            folder = cls(path, identity, lock)
            folder._take_over(overwrite, free)
            try:
                yield folder
            except BaseException:
                folder._leave(is_new)
                raise
        finally:
            os.close(lock)

    def _take_over(self, overwrite: bool, free: Collection[str]) -> None:
        try:
            documents = {name: self._document(name, allow_damaged=overwrite) for name in (RESULTS, OPTIONS)}
            for name, document in documents.items():
                self._files.update([name, *document.get("files", [])] if document else [])
            # Temporary files remain after a kill. A lone one of options.json is ours, although no list names it yet.
            first = {OPTIONS} if list(self.path.iterdir()) == [checkpoints.temporary(self.path / OPTIONS)] else set()
            for name in self._files | first:
                checkpoints.temporary(self.path / name).unlink(missing_ok=True)
            if overwrite:
                self._clear()
            else:
                self._check(documents[RESULTS], documents[OPTIONS], free)
            # Fails now, and not after an hour of training, if the folder cannot be written.
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise UsageError(f"--out {self.path} cannot be written: {error.strerror}") from error

    def _document(self, name: str, allow_damaged: bool) -> dict[str, Any] | None:
        """The document, or None if there is no such file, or if it cannot be read and that is allowed."""
        try:
            return read_document(self.path / name)
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            if allow_damaged:
                return None
            fault = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else f"is damaged: {error}"
            raise UsageError(f"{self.path / name} {fault}; {_CURE}") from error

    def _clear(self) -> None:
        """Deletes our files."""
        if (runs := self.path / "runs").is_symlink():
            raise UsageError(f"{runs} is a link, through which --overwrite deletes nothing; name another folder")
        # results.json first, so that it never names missing files; options.json, which names the others, last.
        for name in sorted(self._files, key=lambda name: (name != RESULTS, name == OPTIONS)):
            # A link is deleted, not its target; a folder is not ours.
            if (path := self.path / name).is_file() or path.is_symlink():
                path.unlink()
        self._files.clear()

    def _check(self, results: dict[str, Any] | None, unfinished: dict[str, Any] | None, free: Collection[str]) -> None:
        """Raises as `claimed` does, for the content of both documents."""
        if results is not None and not difference(results, self.identity):
            if missing := [name for name in results.get("files", []) if not (self.path / name).exists()]:
                raise UsageError(f"--out {self.path} holds these results, but {missing[0]} is gone; pass --overwrite")
            raise Finished(
                f"{self.path} holds the results of this very command: nothing is left to do (--overwrite begins anew)"
            )
        document, kind = (unfinished, "unfinished results") if results is None else (results, "the results")
        if document is None:
            if {path.name for path in self.path.iterdir()} - {"runs"}:
                raise UsageError(f"--out {self.path} already holds files; name another folder, or pass --overwrite")
        elif message := difference(document, self.identity, free):
            raise UsageError(f"--out {self.path} holds {kind} {message}; name another folder, or pass --overwrite")

    def _leave(self, is_new: bool) -> None:
        """Deletes the list of names, and a new folder, if the command fails before it has written anything else."""
        with contextlib.suppress(OSError):
            self._check_place()
            if not any(os.path.lexists(self.path / name) for name in self._files - {OPTIONS}):
                (self.path / OPTIONS).unlink(missing_ok=True)
            if is_new:
                with contextlib.suppress(FileNotFoundError):
                    (self.path / "runs").rmdir()
                self.path.rmdir()

    def announce(self, names: Iterable[str]) -> None:
        """Adds names to options.json, before the files are written.

        A file that has such a name and is not ours is renamed to NAME~.
        """
        new = {*names, RESULTS, OPTIONS} - self._files
        self._check_place()
        for path in map(self.path.joinpath, new):
            for foreign in (path, checkpoints.temporary(path)):
                aside = foreign
                while os.path.lexists(aside):
                    aside = aside.with_name(f"{aside.name}~")
                if aside != foreign:
                    foreign.replace(aside)
        self._files.update(new)
        if new:
            self._write_list()

    def announce_runs(self, names: Iterable[str]) -> None:
        """Announces the files of runs: `names` are their stems."""
        self.announce([_run(name, ending) for name in names for ending in ("safetensors", "part")])

    def write(self, name: str, content: bytes) -> None:
        """Writes one file of the results, whole or not at all."""
        self.announce([name])
        self._write(name, content)

    def finish(self, files: Mapping[str, bytes], document: Mapping[str, Any]) -> None:
        """Writes the files of the results, then results.json, and deletes files of earlier results that these lack.

        Args:
            document: the content of results.json; the files that its "files" names are written already.
        """
        listed = [*document.get("files", []), *files]
        self.announce(files)
        # Otherwise, after a crash between two files, an older results.json would describe newer files.
        (self.path / RESULTS).unlink(missing_ok=True)
        for name, content in files.items():
            self._write(name, content)
        # Checkpoints of finished runs, which a crash may leave. Other runs in progress may still be resumed.
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

    def write_runs(self, results: Sequence[Result]) -> None:
        """Writes finished runs, which were announced, and deletes their checkpoints."""
        for result in results:
            arrays = {"history": result.history, "variables": result.variables, "held_out": result.held_out}
            if result.trained:
                arrays["trained"] = result.trained
            metadata = {"run": result.run.as_dict(), "seconds": result.seconds, "cores": result.cores}
            self._write(_run(result.run.stem), checkpoints.to_bytes(arrays, metadata))
        for result in results:
            (self.path / _run(result.run.stem, "part")).unlink(missing_ok=True)

    def read_run(self, run: Run) -> Result | None:
        """Reads a run, None if it is not finished; raises a UsageError for a file damaged, or of another version."""
        path = self.path / _run(run.stem)
        if (content := _read(path)) is None:
            return None
        arrays, metadata = content
        if metadata.get("run") != run.as_dict():
            raise UsageError(f"{path} holds another run than its name says; {_CURE}")
        try:
            scores = arrays["held_out"]
            counts, running = (metrics.Counts(**scores[name]) for name in ("counts", "running_counts"))
            edge_counts = edges.EdgeCounts(**scores["edges"])
            held_out = HeldOut(counts, running, edge_counts, scores["image_iou"], scores["losses"])
            history, seconds, cores = _history(arrays["history"]), metadata["seconds"], metadata.get("cores")
            return Result(run, history, arrays["variables"], held_out, seconds, cores, arrays.get("trained"))
        except (KeyError, TypeError) as error:
            raise UsageError(f"{path} is of another version of segjax: {error}; pass --overwrite") from error

    def write_partial(self, names: Sequence[str], partial: PartialRun, notes: Any = ()) -> None:
        """Writes runs in progress, which were announced, to one file, so that all are at the same step.

        Args:
            notes: a tree of arrays that `read_partial` returns.
        """
        arrays = {"state": partial.state, "history": partial.history, "notes": notes}
        cores = [*partial.cores, provenance.cores() or 0]
        metadata = {"names": list(names), "seconds": partial.seconds, "cores": cores}
        self._write(_run(names[0], "part"), checkpoints.to_bytes(arrays, metadata))

    def read_partial(self, names: Sequence[str], template: Any) -> tuple[PartialRun, dict[str, Any]] | None:
        """Reads runs in progress and their notes; None if there is no checkpoint of exactly this group of runs.

        Args:
            template: a state, or its shapes and dtypes.

        Raises:
            UsageError: if the file is damaged, or holds the state of another network or optimizer.
        """
        content = _read(path := self.path / _run(names[0], "part"))
        # More seeds may group the runs of one --width differently; they start anew.
        if content is None or content[1].get("names") != list(names):
            return None
        arrays, metadata = content
        try:
            state = checkpoints.restore(template, arrays["state"])
        except ValueError as error:
            raise UsageError(f"{path}: {error}; {_CURE}") from error
        history, cores = _history(arrays["history"]), tuple(metadata.get("cores", ()))
        return PartialRun(state, metadata["seconds"], history, cores), arrays.get("notes", {})

    def write_note(self, name: str, arrays: Any, metadata: Mapping[str, Any]) -> None:
        """Writes arrays and JSON that a question needs when it resumes."""
        self.write(_run(name), checkpoints.to_bytes(arrays, metadata))

    def read_note(self, name: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The arrays and the metadata of a note; None if there is none; raises a UsageError if it is damaged."""
        return _read(self.path / _run(name), "pass --overwrite")

    def notes(self, prefix: str) -> list[str]:
        """The names of the notes that begin with `prefix`."""
        return sorted(path.stem for path in self.path.glob(f"runs/{prefix}*.safetensors"))

    def _write_list(self) -> None:
        self._write(OPTIONS, _json({**self.identity, "files": sorted(self._files)}))

    def _write(self, name: str, content: bytes) -> None:
        """Writes a file; every write goes through here."""
        self._check_place()
        (path := self.path / name).parent.mkdir(exist_ok=True)
        checkpoints.write(path, content)

    def _check_place(self) -> None:
        """Raises an OSError if the path no longer leads to the claimed folder: another command may own the new one."""
        if not os.path.samestat(os.fstat(self._lock), self.path.stat()):
            raise OSError(errno.ESTALE, "the folder was moved away while this command wrote to it", str(self.path))


def _lock(path: Path) -> int:
    # The folder itself is locked: a lock file would be left behind.
    lock = os.open(path, os.O_RDONLY)
    try:
        # Exclusive and without waiting, so that a second command fails at once.
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


def _read(path: Path, cure: str = _CURE) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The arrays and the metadata of a file; None if there is none."""
    try:
        return checkpoints.load(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; {cure}") from error
    except ValueError as error:
        raise UsageError(f"{error}; {cure}") from error
