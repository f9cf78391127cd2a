"""A log of runs in lines of JSON, which `tail -f` and pandas read while the runs train.

>>> import tempfile, segjax
>>> path = f"{tempfile.mkdtemp()}/log.jsonl"
>>> history = segjax.History(np.ones(25), segjax.metrics.Counts(*5 * [np.zeros(25, int)]))
>>> Log(path).append("mine", rows(history, num_steps=25))
>>> [json.loads(line)["step"] for line in checkpoints.read(path).splitlines()]
[10, 20, 25]
"""

import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from segjax import checkpoints, metrics
from segjax._checks import check_count, check_counts, check_real, describe
from segjax.training import History

# What a line says of a run, its name left out.
Row = dict[str, Any]


def rows(history: History, num_steps: int, every: int = 10, after: int = 0) -> list[Row]:
    """A row for each `every` steps of a run, and one for its last step.

    Args:
        history: of the run so far, from its first step on, leaves (steps,), steps <= num_steps; of one run.
        num_steps: of the whole run.
        after: rows up to this step are left out.

    Returns:
        Each row has the step, the mean loss of the steps since the row before, None if it is no finite number, and the
        sums of their counts.

    Raises:
        TypeError, ValueError: naming the argument that is out of range.
    """
    if not isinstance(history, History):
        raise TypeError(f"history must be a segjax.History, got {describe(history)}")
    num_steps, every = check_count("num_steps", num_steps, 1), check_count("every", every, 1)
    after = check_count("after", after, 0)
    check_counts(history.counts, metrics.Counts)
    check_real("history.loss", history.loss)
    # With NumPy: the mean of an array of JAX would be float32.
    history = jax.tree.map(np.asarray, history)
    shapes = [leaf.shape for leaf in jax.tree.leaves(history)]
    if len({*shapes}) > 1 or len(shapes[0]) != 1 or shapes[0][0] > num_steps:
        raise ValueError(f"history must have arrays of one shape (steps,), at most {num_steps}, got {shapes}")
    table = []
    for end in range(after + 1, len(history.loss) + 1):
        if end % every == 0 or end == num_steps:
            loss, counts = jax.tree.map(lambda leaf, end=end: leaf[(end - 1) // every * every : end], history)
            mean = float(np.mean(loss, dtype=np.float64))
            sums = {name: int(np.sum(count)) for name, count in counts._asdict().items()}
            table.append({"step": end, "loss": mean if math.isfinite(mean) else None, **sums})
    return table


class Log:
    """A file of rows, which has each row of a run once, however often the run is resumed."""

    def __init__(self, path: str | os.PathLike[str], begin_anew: str | None = None) -> None:
        """Reads the rows that the file has, and drops a line that a crash cut off.

        Args:
            begin_anew: drops the rows of all runs whose names begin with this text.

        Raises:
            OSError: if the file cannot be read or written.
            TypeError: if `begin_anew` is not text.
            ValueError: if the file holds anything but rows.
        """
        if not isinstance(begin_anew, str | None):
            raise TypeError(f"begin_anew must be text or None, got {describe(begin_anew)}")
        self.path = path
        with open(path, "ab", opener=_without_waiting):
            content = checkpoints.read(path)
        try:
            lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
            runs = [(row["run"], int(row["step"])) for row in map(json.loads, lines)]
            is_kept = [begin_anew is None or not run.startswith(begin_anew) for run, _ in runs]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{os.fspath(path)!r} exists, and holds something else than a log") from error
        # Run -> its last step in the file.
        self._last = dict(itertools.compress(runs, is_kept))
        rest = b"".join(itertools.compress(lines, is_kept))
        if rest != content:
            checkpoints.write(path, rest)

    def last(self, run: str) -> int:
        """The last step of a run in the file; 0 without any."""
        return self._last.get(run, 0)

    def append(self, run: str, rows: Iterable[Row], **about: Any) -> None:
        """Appends the rows of a run that the file lacks.

        Args:
            run: its name.
            rows: of `rows`, or others in JSON's types with ascending steps.
            about: what else each line says, in JSON's types, by names that rows do not have.

        Raises:
            TypeError, ValueError: naming the argument that is out of range.
            OSError: if the file cannot be written; a new `Log` of it drops the line that was cut off.
        """
        if not isinstance(run, str):
            raise TypeError(f"run must be text, got {describe(run)}")
        new = [row for row in _check_rows(rows) if row["step"] > self.last(run)]
        lines = [_line({"run": run, **row}, about) for row in new]
        if new:
            # Closed each time, so that a reader has whole lines.
            with open(self.path, "a") as file:
                file.write("".join(lines))
            self._last[run] = new[-1]["step"]


def _check_rows(rows: Any) -> list[Row]:
    """Returns `rows`, dicts with ascending steps, as a list; raises TypeError or ValueError otherwise."""
    must = "rows must be dicts with a step and no run, as tracking.rows returns"
    if isinstance(rows, Mapping | str) or not isinstance(rows, Iterable):
        raise TypeError(f"{must}, got {describe(rows)}")
    rows = list(rows)
    for row in rows:
        names = {*row} if isinstance(row, Mapping) else set()
        if "step" not in names or "run" in names or not all(isinstance(name, str) for name in names):
            raise TypeError(f"{must}, got {describe(row)}")
    steps = [check_count("step", row["step"], 1) for row in rows]
    if steps != sorted({*steps}):
        raise ValueError(f"rows must have ascending steps, got {describe(steps)}")
    return rows


def _line(row: Row, about: Row) -> str:
    """A line of JSON; raises TypeError or ValueError naming what JSON does not have, or both have."""
    if both := row.keys() & about.keys():
        name = min(both)
        raise ValueError(f"{name} must be none of the names that rows have, got {name}={describe(about[name])}")
    for name, value in {**row, **about}.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(f"{name} must be of JSON's types, got {describe(value)}: {error}") from None
    return json.dumps({**row, **about}) + "\n"


def _without_waiting(name: str, flags: int) -> int:
    # Otherwise opening a pipe waits for somebody who reads it.
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
