"""Runs are trained once and in their order, saved on the way, and gone on with."""

import io
import re
import signal
from types import SimpleNamespace

import chex
import jax
import plain
import pytest
from rich.console import Console
from small_runs import count_training, execute, lab, parse, told_to_stop

import segjax
from experiments.lab import programs, stops, store, train
from experiments.lab.names import ARCHITECTURES
from experiments.lab.runs import Begun, Run


@pytest.mark.slow
def test_an_interrupted_command_goes_on_from_its_finished_runs(tmp_path, monkeypatch):
    whole = execute(plain, "--out", tmp_path / "whole")
    begun = count_training(monkeypatch, interrupted=2)
    out = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        execute(plain, "--out", out)
    assert {path.name for path in out.iterdir()} == {"options.json", "runs"}
    resumed = execute(plain, "--out", out)
    assert [run.seed for run in begun] == [0, 1, 1]
    for first, second in zip(whole["runs"], resumed["runs"], strict=True):
        assert {**first, "seconds": 0} == {**second, "seconds": 0}


@pytest.mark.slow
def test_results_are_in_the_order_of_the_runs_and_each_is_trained_once(tmp_path, monkeypatch):
    chosen = parse(plain, "--out", tmp_path)
    store.claim(chosen.out, chosen.identity("plain"))
    one, other = (chosen.run(seed) for seed in (0, 1))
    begun = count_training(monkeypatch)
    found = lab(chosen).train([other, one, other])
    assert [result.run for result in found] == [other, one, other]
    assert found[0] is found[2]
    (kept,) = lab(chosen).train([one])
    chex.assert_trees_all_equal(kept, found[1])
    assert begun == [other, one]


def train_side_by_side(out, width, runs=3, **options):
    chosen = parse(plain, "--out", out, "--width", width, "--seeds", runs)
    store.claim(out, chosen.identity("plain"))
    # Not Adam, which divides a small gradient by itself: the loss would show a single ReLU that rounding turns.
    planned = [chosen.run(seed, optimizer="sgd", learning_rate=0.1) for seed in chosen.all_seeds]
    return lab(chosen).train(planned, **options)


def numbers(results):
    return [result._replace(seconds=0) for result in results]


@pytest.mark.slow
def test_runs_side_by_side_on_one_device_are_those_of_each_alone(tmp_path):
    together, halves = train_side_by_side(tmp_path / "together", 2, chunk_size=5), tmp_path / "halves"
    for ours, alone in zip(together, train_side_by_side(tmp_path / "alone", 1), strict=True):
        assert ours.run == alone.run
        # The number of runs side by side changes the rounding.
        chex.assert_trees_all_close(ours.history.loss, alone.history.loss, rtol=1e-4)
        chex.assert_trees_all_close(ours.held_out.losses, alone.held_out.losses, rtol=1e-4)
    with told_to_stop(), pytest.raises(stops.Interrupted):
        train_side_by_side(halves, 2, chunk_size=5)
    assert [path.stem for path in halves.glob("runs/*")] == [together[0].run.stem]
    chex.assert_trees_all_equal(numbers(train_side_by_side(halves, 2, chunk_size=5)), numbers(together))
    # A crash can leave any of a group: the others come out as they would have beside it.
    (halves / "runs" / f"{together[1].run.stem}.safetensors").unlink()
    chex.assert_trees_all_equal(numbers(train_side_by_side(halves, 2, chunk_size=5)), numbers(together))


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, pytest.param(2, marks=pytest.mark.deep)])
def test_an_optimizer_with_weights_of_its_own_is_judged_by_them(width, tmp_path):
    chosen = parse(plain, "--out", tmp_path, "--width", width)
    store.claim(tmp_path, chosen.identity("plain"))
    name = "optax.contrib:schedule_free_sgd"
    planned = [chosen.run(seed, optimizer=name, learning_rate=0.5) for seed in chosen.all_seeds]
    with told_to_stop(), pytest.raises(stops.Interrupted):
        lab(chosen).train(planned, chunk_size=5)
    found = lab(chosen).train(planned, chunk_size=5)[0]
    # What training ended with is kept as well, and both come back from the file.
    chex.assert_trees_all_equal(store.read_run(tmp_path, planned[0]), found)
    kernels = [variables["params"]["out"]["kernel"] for variables in (found.variables, found.trained)]
    assert abs(kernels[0] - kernels[1]).max() > 1e-4
    assert found.ended is found.trained
    texture, model = planned[0].texture, ARCHITECTURES[planned[0].architecture]
    expected = programs.evaluation(model, texture)(found.variables)
    chex.assert_trees_all_close(expected.losses, found.held_out.losses, rtol=1e-5)
    # The running statistics are of the weights that are judged: of the same images, they are the same again.
    sizes = texture._asdict()
    recalibrate = jax.jit(
        lambda variables: segjax.recalibrate(jax.random.key(programs.CALIBRATION_KEY), model, variables, **sizes)
    )
    chex.assert_trees_all_close(recalibrate(found.variables), found.variables, rtol=1e-5)


@pytest.mark.parametrize(
    ("seeds", "width", "sizes"),
    [(3, 1, [1, 1, 1]), (3, 8, [3]), (9, 8, [4, 5]), (5, 2, [1, 2, 2]), (0, 2, [])],
)
def test_groups_are_as_even_as_can_be_and_of_one_program(seeds, width, sizes):
    planned = [Run(seed, optimizer=name) for seed in range(seeds) for name in ("sgd", "adam")]
    groups = train.grouped(planned, width)
    assert [len(group) for group in groups] == sizes * 2
    assert [run for group in groups for run in group] == sorted(planned, key=lambda run: run.optimizer != "sgd")


def test_a_watched_run_is_alone(tmp_path, monkeypatch):
    begun = count_training(monkeypatch, interrupted=1)
    with pytest.raises(KeyboardInterrupt):
        train_side_by_side(tmp_path, 2, watch=print)
    assert len(begun) == 1


NOTHING = Begun(0, [], 0.0)


class Loop:
    """A training whose state is the number of its steps, one a chunk, and whose clock moves by 1 s at each look."""

    def __init__(self, monkeypatch, last=4, at_chunk=None, at_saving=None):
        """At the chunk of one number, or the saving of one, the process is told to stop."""
        self.last, self.at_chunk, self.at_saving = last, at_chunk, at_saving
        self.looked, self.saved, self.moment = [], [], -1
        monkeypatch.setattr(train, "time", SimpleNamespace(perf_counter=self.tick))

    def tick(self):
        self.moment += 1
        return self.moment

    def chunk(self, begun):
        if begun.state == self.last:
            return None
        if begun.state + 1 == self.at_chunk:
            signal.raise_signal(signal.SIGTERM)
        return begun.state + 1, f"step {begun.state + 1}"

    def look(self, begun):
        self.looked.append(begun.state)

    def save(self, begun):
        self.saved.append(begun.state)
        if begun.state == self.at_saving:
            signal.raise_signal(signal.SIGINT)

    def run(self, begun=NOTHING, every=1000, **options):
        return train.in_chunks(begun, self.chunk, self.look, self.save, every, **options)


def test_a_loop_goes_on_from_where_it_was_until_there_is_no_next_chunk(monkeypatch):
    loop = Loop(monkeypatch)
    assert loop.run(Begun(2, ["steps 1 and 2"], 10.0)) == Begun(4, ["steps 1 and 2", "step 3", "step 4"], 12.0)
    assert loop.looked == [3, 4]
    assert loop.saved == []


def test_what_there_is_is_saved_every_so_many_seconds(monkeypatch):
    loop = Loop(monkeypatch, last=6)
    # A saving takes a second too.
    loop.run(every=2)
    assert loop.saved == [2, 4, 6]
    loop = Loop(monkeypatch)
    loop.run(save_end=True)
    assert loop.saved == [4]


def test_a_signal_is_heard_after_its_chunk_when_all_is_saved(monkeypatch):
    loop = Loop(monkeypatch, at_chunk=3)
    with pytest.raises(stops.Interrupted) as end:
        loop.run()
    assert end.value.number == signal.SIGTERM
    assert loop.looked == [1, 2, 3]
    assert loop.saved == [3]


def test_a_signal_while_the_end_is_saved_is_heard(monkeypatch):
    loop = Loop(monkeypatch, at_saving=4)
    with pytest.raises(stops.Interrupted) as end:
        loop.run(save_end=True)
    assert end.value.number == signal.SIGINT
    assert loop.saved == [4]


def test_a_long_name_hides_no_number():
    screen = io.StringIO()
    with train.progress_bar(Console(width=80, file=screen, force_terminal=True, color_system=None)) as progress:
        progress.add_task("a name that goes on " * 9, total=12_000, completed=4000)
    line = screen.getvalue()
    assert "4000/12000" in line
    assert re.search(r"\d:\d\d:\d\d left ", line)
    assert "━" in line
