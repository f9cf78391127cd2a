"""Who may write to a folder: finished, unfinished, another's, damaged, or in use by another process; and its runs."""

import fcntl
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import chex
import numpy as np
import plain
import pytest
from small_runs import Command, execute, result

from experiments import compare_losses
from experiments.lab import folder
from experiments.lab.folder import Folder, difference, resume_hint
from experiments.lab.options import Seeds, identity_of
from experiments.lab.runs import PartialRun
from experiments.lab.stops import Finished, UsageError
from segjax import TrainState, checkpoints

OPTIONS = compare_losses.PRESETS["quick"]
THREE_SEEDS = {"seeds": Seeds(seeds=3)}


def identity(options, **changes):
    return {**identity_of(options, "compare_losses"), **changes}


def claimed(options, free=()):
    return Folder.claimed(options.out, identity(options), options.overwrite, free)


def claim(options, free=()):
    """Claims the folder, and gives it back at once."""
    with claimed(options, free):
        pass


def results(options, **changes):
    return json.dumps({**identity(options), "files": [], **changes})


@pytest.fixture
def options(tmp_path):
    return replace(OPTIONS, out=tmp_path / "out")


def test_a_new_folder_is_made(options):
    claim(options)
    assert list(options.out.iterdir()) == []


def test_options_that_only_decide_what_is_reported_may_differ(options):
    claim(options)
    (options.out / "results.json").write_text(results(options))
    claim(replace(options, **THREE_SEEDS), free=("seeds",))
    with pytest.raises(Finished):
        claim(options, free=("seeds",))


def names(out):
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() or path.is_symlink()}


def test_overwriting_leaves_what_is_not_ours(options):
    with claimed(options) as ours:
        ours.announce_runs(["adam"])
        for name in ("runs/adam.part", "runs/adam.safetensors", "a.png"):
            ours.write(name, b"ours")
    foreign = {"mine.txt", "model.safetensors", "iteration-000001.png", "runs/theirs.safetensors", "runs/theirs.part"}
    for name in foreign:
        (options.out / name).touch()
    claim(replace(options, overwrite=True))
    assert names(options.out) == foreign


def test_a_foreign_file_of_a_name_that_is_ours_is_kept_under_another(options):
    options.out.mkdir()
    theirs = {"model.safetensors": "1", "model.safetensors~": "2", "results.json": "{}", "options.json": "[]"}
    for name, content in theirs.items():
        (options.out / name).write_text(content)
    with pytest.raises(
        UsageError, match="damaged: Object missing required field `options`; delete it, or pass --overwrite"
    ):
        claim(options)
    with claimed(replace(options, overwrite=True)) as ours:
        ours.finish({"model.safetensors": b"ours"}, identity(options))
    contents = {name: (options.out / name).read_text() for name in names(options.out)}
    assert contents.pop("model.safetensors") == "ours"
    del contents["results.json"], contents["options.json"]
    moved = {"model.safetensors~~": "1", "model.safetensors~": "2", "results.json~": "{}", "options.json~": "[]"}
    assert contents == moved


def test_nothing_is_written_through_a_link_with_the_name_of_an_unfinished_file(options, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with claimed(options) as ours:
        ours.announce(["a.png"])
        (options.out / ".a.png.tmp").symlink_to(tmp_path / "mine")
        ours.write("a.png", b"ours")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (options.out / "a.png").read_bytes() == b"ours"


def test_files_that_a_kill_left_half_written_go(options):
    """Whatever was being written: the first list of files, one of them, or the results."""
    options.out.mkdir()
    (options.out / ".options.json.tmp").touch()
    with claimed(options) as ours:
        ours.announce_runs(["adam"])
    (options.out / "runs").mkdir()
    (options.out / ".b.png.tmp").touch()
    for name in (".results.json.tmp", "runs/.adam.part.tmp", ".mine.tmp"):
        (options.out / name).touch()
    with claimed(options) as ours:
        assert names(options.out) == {"options.json", ".mine.tmp", ".b.png.tmp"}
        # It is nobody's until the name is ours.
        ours.write("b.png", b"PNG")
    assert names(options.out) == {"options.json", ".mine.tmp", "b.png", ".b.png.tmp~"}


def test_files_of_two_commands_are_no_results_of_either(options, monkeypatch):
    """A crash between the files of a report that adds seeds to another one."""
    three = replace(options, **THREE_SEEDS)
    with claimed(options) as ours:
        ours.finish({"a.png": b"2 seeds", "report.html": b"2 seeds"}, identity(options))
    with claimed(three, free=("seeds",)) as ours:
        files = {"a.png": b"3 seeds", "report.html": b"3 seeds"}
        write = checkpoints.write

        def full(path, content):
            if path.name == "report.html":
                raise OSError(28, "No space left on device", str(path))
            write(path, content)

        monkeypatch.setattr(folder.checkpoints, "write", full)
        with pytest.raises(OSError, match="No space left"):
            ours.finish(files, identity(three))
        monkeypatch.undo()
    # It would be called finished here.
    claim(options, free=("seeds",))


def test_files_that_new_results_do_not_have_go(options):
    """Of masks of a picture that is no longer among them; runs stay."""
    with claimed(options) as ours:
        ours.write("runs/adam.safetensors", b"a run")
        ours.finish({"a-mask.png": b"1", "b-mask.png": b"2"}, identity(options))
    (options.out / "mine.png").touch()
    with claimed(replace(options, **THREE_SEEDS), free=("seeds",)) as ours:
        ours.finish({"a-mask.png": b"1"}, identity(options))
    assert names(options.out) == {"a-mask.png", "mine.png", "options.json", "results.json", "runs/adam.safetensors"}


CLAIM = """
from experiments.lab.options import identity_of
from experiments.lab.folder import Folder
with Folder.claimed(out, identity):
    pipe.send("claimed")
    pipe.recv()
"""


@pytest.mark.slow
def test_a_second_process_is_told_and_touches_nothing(options):
    here, there = Command.SERVER.Pipe()
    names = {"out": options.out, "identity": identity(options), "pipe": there}
    other = Command.SERVER.Process(target=exec, args=(CLAIM, names), daemon=True)
    other.start()
    assert here.recv() == "claimed"
    (options.out / "theirs").touch()
    for ours in (options, replace(options, overwrite=True)):
        with pytest.raises(UsageError, match="another process writes to --out"):
            claim(ours)
    here.send("end")
    other.join(timeout=60)
    assert other.exitcode == 0
    assert [path.name for path in options.out.iterdir()] == ["theirs"]
    (options.out / "theirs").unlink()
    # It has ended, and its claim with it.
    claim(options)


def test_a_folder_is_free_for_other_processes_when_its_command_ends(options):
    with claimed(options) as ours:
        ours.announce_runs(["clock-seed0"])
        ours.write("runs/clock-seed0.part", b"")
        other = os.open(options.out, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours.finish({"a.png": b"PNG"}, identity(options))
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    # A training by the clock is of no more use.
    assert {path.name for path in options.out.rglob("*.*")} == {"a.png", "options.json", "results.json"}
    assert json.loads((options.out / "results.json").read_text())["files"] == ["a.png"]
    with pytest.raises(Finished):
        claim(options)


def fail(options, work):
    """A command that fails after some work in its folder."""

    def command():
        with claimed(options) as ours:
            work(ours)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command()


def test_a_command_that_fails_leaves_nothing_unless_it_has_kept_some_work(options):
    # The last is a disk that is full when the first run is written.
    for work in (
        lambda ours: None,
        lambda ours: ours.announce_runs(["adam"]),
        lambda ours: (ours.announce_runs(["adam"]), (options.out / "runs").mkdir()),
    ):
        fail(options, work)
        assert not options.out.exists()
    fail(options, lambda ours: ours.write("runs/adam.part", b"10 steps"))
    # Another that resumes it and fails too leaves that as it is.
    fail(options, lambda ours: ours.announce_runs(["sgd"]))
    assert names(options.out) == {"options.json", "runs/adam.part"}
    # A folder of the user's own stays, and so does one that was put in its place.
    shutil.rmtree(options.out)
    options.out.mkdir()
    fail(options, lambda ours: ours.announce_runs(["adam"]))
    assert list(options.out.iterdir()) == []
    fail(options, lambda ours: (options.out.rename(f"{options.out}.old"), options.out.mkdir()))
    assert options.out.exists()


@pytest.mark.slow
def test_a_read_only_folder_is_one_line():
    # Not in pytest's folders, which none but their owner may enter.
    with tempfile.TemporaryDirectory() as parent:
        out = Path(parent) / "out"
        out.mkdir()
        out.chmod(0o555)
        Path(parent).chmod(0o755)
        # Root may write anywhere, nobody may not.
        nobody = "os.getuid() or os.setuid(65534)"
        ended = Command("compare_losses", "quick", "--out", out, before=nobody).finish()
        assert ended == (2, "", f"error: --out {out} cannot be written: Permission denied\n")


def unfinish(out):
    """Leaves the finished runs and the list of them alone."""
    for path in set(out.glob("*.*")) - {out / "options.json"}:
        path.unlink()


@pytest.mark.slow
def test_runs_of_other_options_are_refused_or_overwritten(tmp_path):
    words = (plain, "--out", tmp_path)
    first = execute(*words)["runs"][0]["curves"]["loss"]
    unfinish(tmp_path)
    with pytest.raises(UsageError, match="holds unfinished results with iterations 10, not 11"):
        execute(*words, "--iterations", "11")
    # Runs whose options are lost are not taken for those of others: their names tell them apart.
    for option, value in (("--iterations", "11"), ("--sigma1", "0.3")):
        (tmp_path / "options.json").unlink()
        loss = execute(*words, option, value)["runs"][0]["curves"]["loss"]
        assert len(loss) == (11 if option == "--iterations" else 10)
        assert loss != first
        unfinish(tmp_path)
    assert len(list(tmp_path.glob("runs/*-seed0-*.safetensors"))) == 3
    again = execute(*words, "--iterations", "11", "--overwrite")
    assert len(again["runs"][0]["curves"]["loss"]) == 11
    # One of the three was in the list, and is gone; another is kept as NAME~, since a new one has its name.
    assert len(list(tmp_path.glob("runs/*-seed0-*.safetensors"))) == 2
    assert len(list(tmp_path.glob("runs/*-seed0-*.safetensors~"))) == 1


def test_a_run_that_is_written_is_read_as_it_was(options):
    original = result([0.5, np.nan, 0.25])
    with claimed(options) as ours:
        assert ours.read_run(original.run) is None
        ours.write_runs([original])
        again = ours.read_run(original.run)
    assert again.run == original.run
    assert again.held_out.losses["bce"] == 0.2
    np.testing.assert_array_equal(again.history.loss, original.history.loss)
    chex.assert_trees_all_equal(again._replace(cores=0), original._replace(cores=0))
    assert again.cores is original.cores is None


def test_runs_in_progress_are_those_of_one_group(options):
    """Another group of runs begins anew."""
    state = TrainState({"w": np.ones(2, np.float32)}, {"m": np.zeros(2)}, {"v": np.ones(1)}, np.int32(3))
    history, group = result([0.5, 0.4, 0.3]).history, ["a-seed0", "a-seed1"]
    with claimed(options) as ours:
        ours.announce_runs(group)
        ours.write_partial(group, PartialRun(state, 2.0, history), {"compiled": np.float64(1.5)})
        partial_run, notes = ours.read_partial(group, state)
        chex.assert_trees_all_equal(partial_run.state, state)
        assert (partial_run.seconds, notes["compiled"]) == (2.0, 1.5)
        np.testing.assert_array_equal(partial_run.history.loss, history.loss)
        for others in (["a-seed0"], ["a-seed0", "a-seed2"], ["a-seed1"]):
            assert ours.read_partial(others, state) is None
        resumes = f"the same command without --overwrite resumes from {options.out}: 1 in progress"
        assert resume_hint(options.out) == resumes
        words = r"a-seed0\.part: .* another tree: params/w is float32 of shape \(2,\), .*; delete it, or pass --over"
        with pytest.raises(UsageError, match=words):
            ours.read_partial(group, state._replace(params={"w": np.ones(3, np.float32)}))


def test_a_folder_tells_what_it_keeps(options):
    with claimed(options) as ours:
        assert resume_hint(options.out) == "nothing of the work in progress is kept"
        runs = [result([0.5], seed) for seed in range(3)]
        ours.write_note("before", {}, {})
        assert resume_hint(options.out).endswith(f"resumes from {options.out}: 1 other results")
        ours.write_runs(runs[:2])
        ours.write_partial([runs[2].run.stem], PartialRun(TrainState({}, {}, {}, np.int32(1)), 1.0, runs[2].history))
        assert resume_hint(options.out).endswith(": 2 finished runs, 1 in progress, 1 other results")


def test_a_note_is_read_as_it_was_written(options):
    with claimed(options) as ours:
        assert ours.read_note("iteration-000010") is None
        for name in ("iteration-000020", "iteration-000010", "other"):
            ours.write_note(name, {"image": np.arange(3)}, {"name": name})
        arrays, metadata = ours.read_note("iteration-000010")
        np.testing.assert_array_equal(arrays["image"], np.arange(3))
        assert metadata == {"name": "iteration-000010"}
        assert ours.notes("iteration-") == ["iteration-000010", "iteration-000020"]
        (options.out / "runs" / "other.safetensors").write_bytes(b"")
        with pytest.raises(UsageError, match=r"other\.safetensors is empty; pass --overwrite"):
            ours.read_note("other")


def test_a_run_under_the_name_of_another_is_refused(options):
    """Rates that agree to six digits, and a run of the same name but for its digest."""
    first, second = (result([0.5], rate=rate) for rate in (0.1234567, 0.1234568))
    with claimed(options) as ours:
        ours.write_runs([first, second])
        assert len(list(options.out.glob("runs/*"))) == 2
        paths = [options.out / "runs" / f"{each.run.stem}.safetensors" for each in (first, second)]
        shutil.copy(*paths)
        with pytest.raises(UsageError, match="holds another run than its name says; delete it, or pass --") as error:
            ours.read_run(second.run)
        assert "\n" not in str(error.value)
        assert ours.read_run(first.run).run == first.run


def test_a_run_of_another_version_is_refused(options):
    run = result([0.5])
    with claimed(options) as ours:
        ours.write_runs([run])
        path = options.out / "runs" / f"{run.run.stem}.safetensors"
        arrays, metadata = checkpoints.load(path)
        arrays["held_out"]["edges"]["edge"] = arrays["held_out"]["edges"].pop("true_edge")
        checkpoints.save(path, arrays, metadata)
        with pytest.raises(UsageError, match=r"is of another version of segjax: .*edge.*; pass --overwrite"):
            ours.read_run(run.run)


def test_finishing_leaves_other_runs_in_progress(options):
    """A report of finished runs must not cost the steps of one that is interrupted."""
    done, in_progress = result([0.5]), result([0.5], rate=0.5)
    state = TrainState({}, {}, {}, np.int32(1))
    with claimed(options) as ours:
        ours.write_runs([done])
        for each in (done, in_progress):
            ours.write_partial([each.run.stem], PartialRun(state, 1.0, each.history))
        ours.finish({"a.png": b"1"}, {"experiment": "compare_losses", "files": ["b.png"]})
    assert [path.name for path in options.out.glob("runs/*.part")] == [f"{in_progress.run.stem}.part"]
    document = json.loads((options.out / "results.json").read_text())
    assert document["files"] == ["b.png", "a.png"]


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-1], lambda content: content[::-1]])
def test_a_damaged_run_is_one_line(damage, options):
    state, run = TrainState({}, {}, {}, np.int32(1)), result([0.5])
    with claimed(options) as ours:
        ours.write_runs([run])
        ours.write_partial(["adam"], PartialRun(state, 1.0, run.history))
        for path in options.out.glob("runs/*"):
            path.write_bytes(damage(path.read_bytes()))
        for read in (lambda: ours.read_run(run.run), lambda: ours.read_partial(["adam"], state)):
            with pytest.raises(UsageError, match=r"runs/adam.* is .*; delete it, or pass --overwrite") as error:
                read()
            assert "\n" not in str(error.value)


def test_options_that_change_no_result_are_not_in_the_identity(tmp_path):
    comparison = plain.PRESETS["quick"]
    training, engine = comparison.training, replace(comparison.engine, workers=1)
    same = replace(comparison, out=tmp_path, overwrite=True, engine=engine)
    training = replace(training, checkpoint_seconds=1.0)
    assert identity(replace(same, training=training)) == identity(comparison)
    for change in ({"deterministic": True}, {"precision": "high"}, {"iterations": 11}):
        assert identity(replace(comparison, training=replace(training, **change))) != identity(comparison)
    # Runs of two roundings would be in one table.
    assert identity(replace(comparison, engine=replace(engine, width=2))) != identity(comparison)
    assert identity_of(comparison, "other") != identity(comparison)


def test_a_file_counts_by_its_content_and_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in ("a", "b", "absent", "pipe")]
    paths[0].write_bytes(b"abc")
    paths[1].write_bytes(b"abc")
    # It would never end.
    os.mkfifo(paths[3])
    monkeypatch.setattr(compare_losses.Options, "inputs", lambda self: paths)
    assert list(identity(OPTIONS)["inputs"].items()) == [
        # As the standard of SHA-256 has it.
        (str(paths[0]), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (str(paths[1]), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (str(paths[2]), "No such file or directory"),
        (str(paths[3]), "no regular file"),
    ]


OURS = {
    "experiment": "it",
    "options": {"seeds": 3, "rates": [0.1]},
    "inputs": {"a.png": "1"},
    "versions": {"jax": "1"},
    "numerics": {"enable_x64": False},
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"experiment": "other"}, "of other"),
        ({"experiment": None}, "of something else"),
        ({"options": {"rates": [0.1]}}, "with seeds None, not 3"),
        # An option that this version does not know is no difference.
        ({"options": {**OURS["options"], "more": 1}}, ""),
        ({"options": {"seeds": 3, "rates": [0.1, 0.2]}}, "with rates [0.1, 0.2], not [0.1]"),
        ({"inputs": {"a.png": "2"}}, "for other contents of a.png"),
        ({"inputs": {}}, "for other contents of a.png"),
        ({"versions": {"jax": "0"}, "numerics": {}}, "with jax 0, not 1"),
        ({"numerics": {}}, "with enable_x64 None, not False"),
        ({"numerics": {"enable_x64": ""}}, "with enable_x64 none, not False"),
    ],
)
def test_the_first_difference_is_told(changes, words):
    assert difference({**OURS, **changes}, OURS) == words


@pytest.mark.parametrize(
    ("sha", "words"), [("1", ""), ("2", "with model ['home/a.png', 'b'], not ['a.png', 'b']"), (None, "with model")]
)
def test_a_file_is_the_same_in_another_folder(sha, words):
    ours = {**OURS, "options": {"model": ["a.png", "b"]}}
    other = {**ours, "options": {"model": ["home/a.png", "b"]}, "inputs": {"home/a.png": sha} if sha else {}}
    assert difference(other, ours).startswith(words)
    assert bool(difference(other, ours)) == bool(words)
    # A module of an optimizer is an input file, and no option.
    moved = {**OURS, "inputs": {"home/a.png": "1"}}
    assert difference(moved, OURS) == ""
    # Two files of which each has the content of the other are not the same.
    swapped = {**OURS, "inputs": {"a.png": "2", "b.png": "1"}}
    assert difference(swapped, OURS) == "for other contents of a.png"


def test_only_options_and_the_files_that_they_name_may_be_free():
    other = {**OURS, "options": {"seeds": 5, "rates": [0.1]}}
    assert difference(other, OURS) == "with seeds 5, not 3"
    assert difference(other, OURS, free=("seeds",)) == ""
    assert difference({**OURS, "versions": {"jax": "0"}}, OURS, free=("jax",)) == "with jax 0, not 1"
    # A file that only one of the two names came or went with an option; the same file must be the same.
    for inputs in ({}, {"b.png": "1"}, {"a.png": "1", "b.png": "1"}):
        assert difference({**OURS, "inputs": inputs}, OURS, free=("seeds",)) == ""
    assert difference({**OURS, "inputs": {"a.png": "2"}}, OURS, free=("seeds",)) == "for other contents of a.png"
