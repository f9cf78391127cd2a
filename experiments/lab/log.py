"""The file of `--log`, which gets lines of JSON while runs train."""

import os
from collections.abc import Callable
from pathlib import Path

import jax

from experiments.lab.runs import Group
from experiments.lab.stops import UsageError
from segjax import History, tracking


class Log:
    """Appends losses and counts of the runs of a folder to a file; without a file it does nothing."""

    def __init__(self, path: str, folder: Path, overwrite: bool, say: Callable[[str], None]) -> None:
        """`overwrite` drops the lines of this folder. Raises a UsageError if the file is no log or not writable."""
        self._folder, self._say, self._file = folder, say, None
        if path and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            raise UsageError(f"--log {path} must be outside of --out {folder}, which holds the command's files alone")
        try:
            self._file = tracking.Log(path, f"{folder}/" if overwrite else None) if path else None
        except OSError as error:
            raise UsageError(f"--log {path} cannot be written: {error.strerror}") from error
        except ValueError as error:
            raise UsageError(f"--log {error}; name another file") from error

    def add(self, runs: Group, history: History) -> None:
        """Appends the lines that the file lacks; if it cannot be written, training continues without it.

        Args:
            history: from the first step on, leaves (steps,), or (runs, steps) for several runs.
        """
        for index, run in enumerate(runs):
            name, file = f"{self._folder}/{run.stem}", self._file
            if file is None:
                return
            part = jax.tree.map(lambda leaf, index=index: leaf[index], history) if len(runs) > 1 else history
            try:
                file.append(name, tracking.rows(part, run.iterations, after=file.last(name)), **run.as_dict())
            except OSError as error:
                self._say(f"Warning: --log {file.path} gets no more lines: {error.strerror}; resuming adds the rest.")
                self._file = None
