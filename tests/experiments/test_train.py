"""Runs are trained once and in their order, and resume from their checkpoints."""

import contextlib
import io
import re
import signal
from types import SimpleNamespace

import chex
import jax
import numpy as np
import plain
import pytest
from rich.console import Console
from small_runs import count_training, execute, parse, told_to_stop

import segjax
from experiments.lab import programs, provenance, question, stops, train
from experiments.lab.names import ARCHITECTURES
from experiments.lab.runs import PartialRun, Run


@pytest.mark.slow
def test_an_interrupted_command_resumes_from_its_finished_runs(tmp_path, monkeypatch):
    whole = execute(plain, "--out", tmp_path / "whole")
    started = count_training(monkeypatch, interrupted=2)
    out = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        execute(plain, "--out", out)
    assert {path.name for path in out.iterdir()} == {"options.json", "runs"}
    resumed = execute(plain, "--out", out)
    assert [run.seed for run in started] == [0, 1, 1]
    for first, second in zip(whole["runs"], resumed["runs"], strict=True):
        assert {**first, "seconds": 0} == {**second, "seconds": 0}


@contextlib.contextmanager
def opened(out, *words):
    """The options, and a lab for them."""
    options = parse(plain, "--out", out, *words)
    with question.opened(plain, options, Console(quiet=True)) as lab:
        yield options, lab


@pytest.mark.slow
def test_results_are_in_the_order_of_the_runs_and_each_is_trained_once(tmp_path, monkeypatch):
    started = count_training(monkeypatch)
    with opened(tmp_path) as (options, lab):
        runs = [options.run(seed) for seed in (1, 0, 1)]
        results = lab.train(runs)
    assert [result.run for result in results] == runs
    assert results[0] is results[2]
    with opened(tmp_path) as (_, lab):
        (again,) = lab.train(runs[1:2])
    chex.assert_trees_all_equal(again, results[1])
    assert started == runs[:2]


def train_three(out, width, **arguments):
    with opened(out, "--width", width, "--seeds", 3) as (options, lab):
        # Not Adam, which divides a small gradient by itself: the loss would show a single ReLU that rounding turns.
        return lab.train([options.run(seed, optimizer="sgd", learning_rate=0.1) for seed in options.seeds], **arguments)


def without_seconds(results):
    return [result._replace(seconds=0) for result in results]


@pytest.mark.slow
def test_runs_that_one_device_trains_together_are_those_of_each_alone(tmp_path):
    together, halves = train_three(tmp_path / "together", 2, chunk_size=5), tmp_path / "halves"
    for ours, alone in zip(together, train_three(tmp_path / "alone", 1), strict=True):
        assert ours.run == alone.run
        # The number of runs that are trained together changes the rounding.
        chex.assert_trees_all_close(ours.history.loss, alone.history.loss, rtol=1e-4)
        chex.assert_trees_all_close(ours.held_out.losses, alone.held_out.losses, rtol=1e-4)
    with told_to_stop(), pytest.raises(stops.Interrupted):
        train_three(halves, 2, chunk_size=5)
    assert [path.stem for path in halves.glob("runs/*")] == [together[0].run.stem]
    chex.assert_trees_all_equal(without_seconds(train_three(halves, 2, chunk_size=5)), without_seconds(together))
    # A crash can leave any of a group: the others come out as they would have beside it.
    (halves / "runs" / f"{together[1].run.stem}.safetensors").unlink()
    chex.assert_trees_all_equal(without_seconds(train_three(halves, 2, chunk_size=5)), without_seconds(together))


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, pytest.param(2, marks=pytest.mark.deep)])
def test_an_optimizer_with_evaluation_weights_is_judged_by_them(width, tmp_path):
    with opened(tmp_path, "--width", width) as (options, lab):
        name = "optax.contrib:schedule_free_sgd"
        runs = [options.run(seed, optimizer=name, learning_rate=0.5) for seed in options.seeds]
        with told_to_stop(), pytest.raises(stops.Interrupted):
            lab.train(runs, chunk_size=5)
        result = lab.train(runs, chunk_size=5)[0]
        # The variables that training ended with are in the file as well.
        chex.assert_trees_all_equal(lab.folder.read_run(runs[0]), result)
    kernels = [variables["params"]["out"]["kernel"] for variables in (result.variables, result.trained)]
    assert abs(kernels[0] - kernels[1]).max() > 1e-4
    texture, model = runs[0].texture, ARCHITECTURES[runs[0].architecture]
    expected = programs.evaluate_one(model, texture, result.variables)
    chex.assert_trees_all_close(expected.losses, result.held_out.losses, rtol=1e-5)

    # The running statistics are those of the evaluation weights: from the same images they come out the same again.
    @jax.jit
    def recalibrate(variables):
        return segjax.recalibrate(jax.random.key(programs.CALIBRATION_KEY), model, variables, **texture._asdict())

    chex.assert_trees_all_close(recalibrate(result.variables), result.variables, rtol=1e-5)


@pytest.mark.slow
def test_a_run_that_was_resumed_on_other_cores_has_both_numbers(tmp_path, monkeypatch):
    for cores in (2, 1):
        monkeypatch.setattr(provenance, "cores", lambda cores=cores: cores)
        with opened(tmp_path) as (options, lab), told_to_stop(), pytest.raises(stops.Interrupted):
            lab.train([options.run(0)], chunk_size=4)
    with opened(tmp_path) as (options, lab):
        (result,) = lab.train([options.run(0)], chunk_size=4)
        assert result.cores == lab.folder.read_run(result.run).cores == "1, 2"
    assert provenance.warnings([{"cores": "1, 2"}])


@pytest.mark.parametrize(
    ("seeds", "width", "sizes"),
    [(3, 1, [1, 1, 1]), (3, 8, [3]), (9, 8, [4, 5]), (5, 2, [1, 2, 2]), (0, 2, [])],
)
def test_groups_are_as_even_as_can_be_and_of_one_program(seeds, width, sizes):
    runs = [Run(seed, optimizer=name) for seed in range(seeds) for name in ("sgd", "adam")]
    groups = train.grouped(runs, width)
    assert [len(group) for group in groups] == sizes * 2
    assert [run for group in groups for run in group] == sorted(runs, key=lambda run: run.optimizer != "sgd")


def test_a_watched_run_is_alone(tmp_path, monkeypatch):
    started = count_training(monkeypatch, interrupted=1)
    with pytest.raises(KeyboardInterrupt):
        train_three(tmp_path, 2, watch=print)
    assert len(started) == 1


class Loop:
    """A training of one step per chunk, which has room for two; its clock moves by 1 s at each look."""

    def __init__(self, monkeypatch, last=4, stop_at_chunk=None, stop_at_checkpoint=None):
        """The process is told to stop at the chunk of this number, or at its checkpoint."""
        self.last, self.stop_at_chunk, self.stop_at_checkpoint = last, stop_at_chunk, stop_at_checkpoint
        self.looks, self.checkpoints, self.moment = [], [], -1
        monkeypatch.setattr(train, "time", SimpleNamespace(perf_counter=self.tick))

    def tick(self):
        self.moment += 1
        return self.moment

    def chunk(self, partial_run):
        step = partial_run.steps + 1
        if partial_run.steps == self.last:
            return None
        if step == self.stop_at_chunk:
            signal.raise_signal(signal.SIGTERM)
        return SimpleNamespace(step=step), segjax.History(np.array([step, 0.0]), None)

    def look(self, partial_run):
        self.looks.append(partial_run.steps)

    def save(self, partial_run):
        self.checkpoints.append(partial_run.steps)
        if partial_run.steps == self.stop_at_checkpoint:
            signal.raise_signal(signal.SIGINT)

    def run(self, partial_run=None, every=1000, **arguments):
        partial_run = partial_run or PartialRun(None)
        return train.in_chunks(partial_run, self.chunk, self.look, self.save, every, **arguments)


def test_a_loop_resumes_from_a_partial_run_and_ends_where_there_is_no_next_chunk(monkeypatch):
    loop = Loop(monkeypatch)
    ended = loop.run(PartialRun(None, 10.0, segjax.History(np.array([1.0, 2.0]), None)))
    assert (ended.state.step, ended.seconds, ended.history.loss.tolist()) == (4, 12.0, [1, 2, 3, 4])
    assert loop.looks == [3, 4]
    assert loop.checkpoints == []


def test_a_checkpoint_is_written_every_so_many_seconds(monkeypatch):
    loop = Loop(monkeypatch, last=6)
    # Writing a checkpoint takes a second too.
    loop.run(every=2)
    assert loop.checkpoints == [2, 4, 6]
    loop = Loop(monkeypatch)
    loop.run(save_end=True)
    assert loop.checkpoints == [4]


def test_a_signal_is_handled_after_its_chunk_and_a_checkpoint(monkeypatch):
    loop = Loop(monkeypatch, stop_at_chunk=3)
    with pytest.raises(stops.Interrupted) as end:
        loop.run()
    assert end.value.number == signal.SIGTERM
    assert loop.looks == [1, 2, 3]
    assert loop.checkpoints == [3]


def test_a_signal_during_the_last_checkpoint_is_handled(monkeypatch):
    loop = Loop(monkeypatch, stop_at_checkpoint=4)
    with pytest.raises(stops.Interrupted) as end:
        loop.run(save_end=True)
    assert end.value.number == signal.SIGINT
    assert loop.checkpoints == [4]


def test_a_long_name_hides_no_number():
    terminal = io.StringIO()
    with train.progress_bar(Console(width=80, file=terminal, force_terminal=True, color_system=None)) as progress:
        progress.add_task("[a] name :x: that goes on " * 9, total=12_000, completed=4000)
    line = terminal.getvalue()
    assert "4000/12000" in line
    assert "[a] name :x: that" in line
    assert re.search(r"\d:\d\d:\d\d left ", line)
    assert "━" in line
