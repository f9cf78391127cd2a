"""The log of a training: rows have the sums of their steps, and a file has each of them once."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import History, metrics
from segjax.tracking import Log, rows


def history(steps):
    """Losses and counts 1, 2, 3 ..."""
    numbers = np.arange(1, steps + 1)
    return History(numbers.astype(np.float32), metrics.Counts(*[numbers] * 5))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_row_has_the_mean_loss_and_the_counts_of_its_steps():
    table = rows(history(25), num_steps=25)
    assert [row["step"] for row in table] == [10, 20, 25]
    assert [row["loss"] for row in table] == [5.5, 15.5, 23.0]
    assert [row["true_positive"] for row in table] == [row["agreeing"] for row in table] == [55, 155, 115]
    assert json.loads(json.dumps(table)) == table


def test_rows_are_of_whole_intervals_and_of_the_end():
    assert [row["step"] for row in rows(history(24), num_steps=25)] == [10, 20]
    assert [row["step"] for row in rows(history(24), num_steps=25, after=13)] == [20]
    assert [row["step"] for row in rows(history(7), num_steps=7, every=3)] == [3, 6, 7]
    assert rows(history(9), num_steps=25) == []
    with pytest.raises(ValueError, match="every must be"):
        rows(history(9), num_steps=25, every=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_no_number_is_null(bad, tmp_path):
    diverged, path = history(10), tmp_path / "log.jsonl"
    diverged.loss[3] = bad
    Log(path).append("mine", rows(diverged, num_steps=10))
    assert '"loss": null' in path.read_text()


def test_a_row_is_in_the_file_once_and_a_torn_line_is_written_again(tmp_path):
    path = tmp_path / "log.jsonl"
    log = Log(path)
    for steps in (10, 10, 15, 20):
        log.append("mine", rows(history(steps), num_steps=25), seed=3)
    log.append("yours", rows(history(10), num_steps=25))
    assert [(row["run"], row["step"]) for row in read(path)] == [("mine", 10), ("mine", 20), ("yours", 10)]
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    Log(path).append("yours", rows(history(10), num_steps=25))
    assert path.read_bytes() == whole
    Log(path, begin_anew="my")
    assert [(row["run"], row["step"]) for row in read(path)] == [("mine", 10), ("mine", 20), ("yours", 10)]
    Log(path, begin_anew="mi")
    assert [row["run"] for row in read(path)] == ["yours"]


@pytest.mark.parametrize(
    "content", [b"precious\n", b"[1]\n", b'{"run": "a"}\n', b"\xff\n", b'{"run": 1, "step": []}\n']
)
def test_another_file_is_refused_and_stays(content, tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="exists, and holds something else than a log"):
        Log(path)
    assert path.read_bytes() == content


# What no line can hold -> arguments of `append`, and the message.
INVALID_ROWS = {
    "a run that is no text": ((5, [{"step": 1}]), {}, "run must be text, got 5"),
    "no rows": (("a", 5), {}, "rows must be dicts with a step and no run, .* got 5"),
    "one row": (("a", {"step": 1}), {}, "rows must be dicts with a step and no run, .* got {'step': 1}"),
    "steps alone": (("a", [3]), {}, "rows must be dicts with a step and no run, .* got 3"),
    "a row without a step": (("a", [{}]), {}, "rows must be dicts with a step and no run, .* got {}"),
    "a row of another run": (("a", [{"step": 1, "run": "b"}]), {}, "rows must be dicts with a step and no run"),
    "a name that is no text": (("a", [{"step": 1, (2,): 3}]), {}, "rows must be dicts with a step and no run"),
    "steps that go back": (("a", [{"step": 3}, {"step": 1}]), {}, r"rows must have ascending steps, got \[3, 1\]"),
    "a step that is text": (("a", [{"step": "x"}]), {}, "step must be an integer >= 1, got 'x'"),
    "a step for all rows": (
        ("a", [{"step": 1}]),
        {"step": 99},
        "step must be none of the names that rows have, got step=99",
    ),
    "NaN": (("a", [{"step": 1}]), {"x": np.nan}, "x must be of JSON's types, got nan: "),
    "an array": (("a", [{"step": 1}]), {"x": np.ones(2)}, r"x must be of JSON's types, got array\(\[1., 1.\]\): "),
    "NaN in a row": (("a", [{"step": 1, "loss": np.inf}]), {}, "loss must be of JSON's types, got inf: "),
}


@pytest.mark.parametrize("name", INVALID_ROWS)
def test_rows_that_no_line_can_hold_are_refused_and_not_written(name, tmp_path):
    arguments, about, message = INVALID_ROWS[name]
    log = Log(tmp_path / "log.jsonl")
    with pytest.raises((TypeError, ValueError), match=message) as error:
        log.append(*arguments, **about)
    assert "\n" not in str(error.value)
    assert read(log.path) == []


def test_begin_anew_must_be_text(tmp_path):
    with pytest.raises(TypeError, match="begin_anew must be text or None, got 5"):
        Log(tmp_path / "log.jsonl", begin_anew=5)


def test_a_history_of_jax_arrays_has_the_rows_of_numpy_arrays():
    assert rows(jax.tree.map(jnp.asarray, history(25)), num_steps=25) == rows(history(25), num_steps=25)


def test_a_pipe_is_refused_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"regular file|No such device"):
        Log(tmp_path / "pipe")
