"""Whose a folder is: finished, unfinished, another's, damaged, or being written by another process; and its runs."""

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
from small_runs import SMALL, Command, execute, result

from experiments import compare_losses, find_learning_rate
from experiments.lab import store
from experiments.lab.runs import Begun
from experiments.lab.stops import Finished, UsageError
from segjax import TrainState

OPTIONS = compare_losses.PRESETS["quick"]


def claim(options, free=()):
    store.claim(options.out, options.identity("compare_losses"), options.overwrite, free)


def results(options, **changes):
    return json.dumps({**options.identity("compare_losses"), "files": [], **changes})


@pytest.fixture
def options(tmp_path):
    return replace(OPTIONS, out=tmp_path / "out")


def test_a_new_folder_is_made(options):
    claim(options)
    assert list(options.out.iterdir()) == []


def test_finished_results_are_left_alone(options):
    claim(options)
    (options.out / "results.json").write_text(results(options))
    for same in (options, replace(options, preset="full", checkpoint_seconds=1.0)):
        with pytest.raises(Finished, match="holds the results of this very command"):
            claim(same)


def test_unfinished_runs_of_the_same_options_go_on(options):
    claim(options)
    store.write(options.out, "iteration-000001.png", b"PNG")
    claim(replace(options, checkpoint_seconds=1.0))
    with pytest.raises(UsageError, match="holds unfinished results with seeds 2, not 3; name another folder"):
        claim(replace(options, seeds=3))


def test_what_may_differ_may_differ(options):
    claim(options)
    (options.out / "results.json").write_text(results(options))
    claim(replace(options, seeds=3), free=("seeds",))
    with pytest.raises(Finished):
        claim(options, free=("seeds",))


DAMAGED = ["", "{", "[]", "\x00", "{}", "[" * 100_000, '{"options": []}']
ODD = ["null", "[1]", '["../mine"]', '["a/b"]', '[".."]']
DAMAGED += [f'{{"options": {{}}, "files": {files}}}' for files in ODD]
DAMAGED += [f'{{"options": {{}}, "{section}": [1]}}' for section in ("inputs", "numerics")]


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_results_are_one_line(options, content):
    claim(options)
    (options.out / "results.json").write_text(content)
    with pytest.raises(UsageError, match=r"results.json is damaged: .*; delete it, or pass --overwrite") as error:
        claim(options)
    assert "\n" not in str(error.value)
    # Whose it is nobody knows: it stays under another name.
    claim(replace(options, overwrite=True))
    store.announce(options.out, [])
    assert {path.name for path in options.out.iterdir()} == {"options.json", "results.json~"}


@pytest.mark.parametrize("out", [Path("/proc/nowhere"), Path(__file__)])
def test_what_is_no_folder_to_write_to_is_one_line(out, options):
    with pytest.raises(UsageError, match=f"--out {out} cannot be written") as error:
        claim(replace(options, out=out))
    assert "\n" not in str(error.value)


def test_another_experiment_s_results_are_refused(options):
    claim(options)
    (options.out / "results.json").write_text(results(options, experiment="train_model"))
    with pytest.raises(UsageError, match="holds the results of train_model; name another folder"):
        claim(options)


def names(out):
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() or path.is_symlink()}


def test_overwriting_leaves_what_is_not_ours(options):
    claim(options)
    store.announce_runs(options.out, ["adam"])
    for name in ("runs/adam.part", "runs/adam.safetensors", "a.png"):
        store.write(options.out, name, b"ours")
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
    with pytest.raises(UsageError, match="damaged: it holds no results"):
        claim(options)
    claim(replace(options, overwrite=True))
    store.finish(options.out, {"model.safetensors": b"ours"}, options.identity("compare_losses"))
    left = {name: (options.out / name).read_text() for name in names(options.out)}
    assert left.pop("model.safetensors") == "ours"
    del left["results.json"], left["options.json"]
    moved = {"model.safetensors~~": "1", "model.safetensors~": "2", "results.json~": "{}", "options.json~": "[]"}
    assert left == moved


def test_overwriting_goes_through_no_link(options, tmp_path):
    (tmp_path / "mine.safetensors").touch()
    claim(options)
    store.write(options.out, "model.safetensors", b"ours")
    (options.out / "model.safetensors").unlink()
    (options.out / "model.safetensors").symlink_to(tmp_path / "mine.safetensors")
    claim(replace(options, overwrite=True))
    assert names(options.out) == set()
    assert (tmp_path / "mine.safetensors").exists()
    store.write(options.out, "runs/a.safetensors", b"ours")
    (options.out / "runs").rename(tmp_path / "elsewhere")
    (options.out / "runs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="runs is a link, through which --overwrite deletes nothing"):
        claim(replace(options, overwrite=True))
    assert (tmp_path / "elsewhere" / "a.safetensors").exists()


def test_nothing_is_written_through_a_link_with_the_name_of_an_unfinished_file(options, tmp_path):
    (tmp_path / "mine").write_text("mine")
    claim(options)
    store.announce(options.out, ["a.png"])
    (options.out / ".a.png.tmp").symlink_to(tmp_path / "mine")
    store.write(options.out, "a.png", b"ours")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (options.out / "a.png").read_bytes() == b"ours"


def added(options, *paths):
    """The pictures of a folder to which a command adds its own."""
    base, images = options.identity("it"), list(map(str, paths))
    identity = {**base, "options": {**base["options"], "images": images}, "inputs": dict.fromkeys(images, "1" * 64)}
    made = store.claim(options.out, identity, additions={"images": list(map(Path, paths))})
    assert set(made["options"]["images"]) == set(made["inputs"])
    return made


def test_an_addition_that_was_interrupted_is_added_to(options):
    first = added(options, "a", "refused")
    store.write_note(options.out, store.picture(Path("a")), {}, {})
    store.finish(options.out, {}, first)
    with pytest.raises(Finished):
        added(options, "refused", "a")
    # Interrupted after the first.
    added(options, "c", "d")
    store.write_note(options.out, store.picture(Path("c")), {}, {})
    # What has no results is not the next command's work.
    assert added(options, "e")["options"]["images"] == ["a", "c", "e"]
    assert added(options, "a")["options"]["images"] == ["a", "c"]
    assert added(options, "d", "refused")["options"]["images"] == ["a", "refused", "c", "d"]


def test_files_that_a_kill_left_half_written_go(options):
    """Whatever was being written: the first list of files, one of them, or the results."""
    options.out.mkdir()
    (options.out / ".options.json.tmp").touch()
    claim(options)
    store.announce_runs(options.out, ["adam"])
    (options.out / "runs").mkdir()
    (options.out / ".b.png.tmp").touch()
    for name in (".results.json.tmp", "runs/.adam.part.tmp", ".mine.tmp"):
        (options.out / name).touch()
    claim(options)
    assert names(options.out) == {"options.json", ".mine.tmp", ".b.png.tmp"}
    # It is nobody's until the name is ours.
    store.write(options.out, "b.png", b"PNG")
    assert names(options.out) == {"options.json", ".mine.tmp", "b.png", ".b.png.tmp~"}


def test_a_folder_that_was_moved_away_is_written_no_more(options, tmp_path):
    claim(options)
    store.announce(options.out, ["a.png"])
    options.out.rename(tmp_path / "old")
    with pytest.raises(FileNotFoundError):
        store.write(options.out, "a.png", b"ours")
    options.out.mkdir()
    (options.out / "b.png").touch()
    for name in ("a.png", "b.png"):
        with pytest.raises(OSError, match="the folder was moved away while this command wrote to it"):
            store.write(options.out, name, b"ours")
    assert names(options.out) == {"b.png"}


def test_a_full_disk_at_the_last_file_leaves_a_folder_that_goes_on(options, monkeypatch):
    """Also for a command that keeps no runs."""
    claim(options)
    original = store.checkpoints.write

    def full(path, content):
        if path.name == "report.html":
            raise OSError(28, "No space left on device", str(path))
        original(path, content)

    monkeypatch.setattr(store.checkpoints, "write", full)
    files, identity = {"a.png": b"PNG", "report.html": b"HTML"}, options.identity("compare_losses")
    with pytest.raises(OSError, match="No space left"):
        store.finish(options.out, files, identity)
    claim(options)
    monkeypatch.undo()
    store.finish(options.out, files, identity)
    assert names(options.out) == {"a.png", "report.html", "options.json", "results.json"}


def test_what_new_results_do_not_have_goes(options):
    """Masks of a picture that is no longer among them; runs stay."""
    identity = options.identity("compare_losses")
    claim(options)
    store.write(options.out, "runs/adam.safetensors", b"a run")
    store.finish(options.out, {"a-mask.png": b"1", "b-mask.png": b"2"}, identity)
    (options.out / "mine.png").touch()
    claim(replace(options, seeds=3), free=("seeds",))
    store.finish(options.out, {"a-mask.png": b"1"}, identity)
    assert names(options.out) == {"a-mask.png", "mine.png", "options.json", "results.json", "runs/adam.safetensors"}


def test_results_that_lost_a_file_are_not_called_finished(options):
    claim(options)
    store.finish(options.out, {"model.safetensors": b"1"}, options.identity("compare_losses"))
    (options.out / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"holds these results, but model\.safetensors is gone; pass --overwrite"):
        claim(options)


@pytest.mark.parametrize(
    ("section", "name", "value", "words"),
    [
        ("versions", "jax", "0.4", "with jax 0.4, not "),
        ("numerics", "enable_x64", True, "with enable_x64 True, not False"),
        ("numerics", "default_prng_impl", "rbg", "with default_prng_impl rbg, not threefry2x32"),
        ("numerics", "threefry_partitionable", False, "with threefry_partitionable False, not True"),
        ("numerics", "platform", "gpu", "with platform gpu, not cpu"),
    ],
)
def test_what_was_computed_otherwise_is_not_gone_on_with(section, name, value, words, options):
    """Or one table would hold seeds of two kinds."""
    identity = options.identity("compare_losses")
    other = {**identity, section: {**identity[section], name: value}}
    store.claim(options.out, other)
    store.announce(options.out, [])
    with pytest.raises(UsageError, match=f"holds unfinished results {words}"):
        claim(options)
    store.claim(options.out, other)
    store.finish(options.out, {}, other)
    with pytest.raises(UsageError, match=f"holds the results {words}"):
        claim(options)


CLAIM = "from experiments.lab import store; store.claim(out, identity); pipe.send('claimed'); pipe.recv()"


@pytest.mark.slow
def test_a_second_process_is_told_and_touches_nothing(options):
    here, there = Command.SERVER.Pipe()
    given = {"out": options.out, "identity": options.identity("compare_losses"), "pipe": there}
    other = Command.SERVER.Process(target=exec, args=(CLAIM, given), daemon=True)
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
    store.release(options.out)


def test_a_finished_folder_is_free_for_other_processes(options):
    claim(options)
    store.announce_runs(options.out, ["clock-seed0"])
    store.write(options.out, "runs/clock-seed0.part", b"")
    other = os.open(options.out, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    store.finish(options.out, {"a.png": b"PNG"}, options.identity("compare_losses"))
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    # A training by the clock is of no more use.
    assert {path.name for path in options.out.rglob("*.*")} == {"a.png", "options.json", "results.json"}
    assert json.loads((options.out / "results.json").read_text())["files"] == ["a.png"]
    with pytest.raises(Finished):
        claim(options)


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
        ended = Command("compare_losses", "--preset", "quick", "--out", out, before=nobody).finish()
        assert ended == (2, "", f"error: --out {out} cannot be written: Permission denied\n")


def unfinish(out):
    """Leaves the finished runs and the list of them alone."""
    for path in set(out.glob("*.*")) - {out / "options.json"}:
        path.unlink()


@pytest.mark.slow
def test_runs_of_other_options_are_refused_or_overwritten(tmp_path):
    given = (plain, "--out", tmp_path)
    first = execute(*given)["runs"][0]["curves"]["loss"]
    unfinish(tmp_path)
    with pytest.raises(UsageError, match="holds unfinished results with iterations 10, not 11"):
        execute(*given, "--iterations", "11")
    # Runs that lost their options are not taken for those of others: their names tell them apart.
    for option, value in (("--iterations", "11"), ("--sigma1", "0.3")):
        (tmp_path / "options.json").unlink()
        loss = execute(*given, option, value)["runs"][0]["curves"]["loss"]
        assert len(loss) == (11 if option == "--iterations" else 10)
        assert loss != first
        unfinish(tmp_path)
    assert len(list(tmp_path.glob("runs/*-seed0-*.safetensors"))) == 3
    again = execute(*given, "--iterations", "11", "--overwrite")
    assert len(again["runs"][0]["curves"]["loss"]) == 11
    # Of the three before, the one in the list went; one is kept as NAME~, since a new one has its name.
    assert len(list(tmp_path.glob("runs/*-seed0-*.safetensors"))) == 2
    assert len(list(tmp_path.glob("runs/*-seed0-*.safetensors~"))) == 1


@pytest.mark.slow
def test_a_broken_run_is_one_line(tmp_path):
    execute(plain, "--out", tmp_path)
    unfinish(tmp_path)
    (file,) = tmp_path.glob("runs/*-seed0-*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"is truncated, or no checkpoint.*; delete it, or pass --overwrite"):
        execute(plain, "--out", tmp_path)


def test_there_and_back_is_identical(options):
    original, tmp_path = result([0.5, np.nan, 0.25]), options.out
    claim(options)
    assert not store.has_run(tmp_path, original.run)
    store.write_runs(tmp_path, [original])
    assert store.has_run(tmp_path, original.run)
    again = store.read_run(tmp_path, original.run)
    assert again.run == original.run
    assert again.held_out.losses["bce"] == 0.2
    np.testing.assert_array_equal(again.history.loss, original.history.loss)
    chex.assert_trees_all_equal(again, original)


def test_runs_under_way_are_those_of_one_group(options):
    """Of four steps that the last chunk has room for three were made; another group of runs begins anew."""
    tmp_path = options.out
    claim(options)
    state = TrainState({"w": np.ones(2, np.float32)}, {"m": np.zeros(2)}, {"v": np.ones(1)}, np.int32(3))
    history = result([0.5, 0.4, 0.3, 0.0]).history
    store.write_begun(tmp_path, ["a-seed0", "a-seed1"], Begun(state, [history], 2.0), {"compiled": np.float64(1.5)})
    begun, notes = store.read_begun(tmp_path, ["a-seed0", "a-seed1"], state)
    chex.assert_trees_all_equal(begun.state, state)
    assert (begun.seconds, notes["compiled"]) == (2.0, 1.5)
    np.testing.assert_array_equal(begun.chunks[0].loss, history.loss[:3])
    for others in (["a-seed0"], ["a-seed0", "a-seed2"], ["a-seed1"]):
        assert store.read_begun(tmp_path, others, state) is None
    assert store.kept(tmp_path).endswith("0 finished runs, 1 begun")
    words = r"a-seed0\.part: .* another tree: params/w is float32 of shape \(2,\), .*; delete it, or pass --overwrite"
    with pytest.raises(UsageError, match=words):
        store.read_begun(tmp_path, ["a-seed0", "a-seed1"], state._replace(params={"w": np.ones(3, np.float32)}))


def test_a_run_under_the_name_of_another_is_refused(options):
    """Rates that agree to six digits, and a run of the same name but for its digest."""
    first, second = (result([0.5], rate=rate) for rate in (0.1234567, 0.1234568))
    tmp_path = options.out
    claim(options)
    for each in (first, second):
        store.write_runs(tmp_path, [each])
    assert len(list(tmp_path.glob("runs/*"))) == 2
    paths = [tmp_path / "runs" / f"{each.run.stem}.safetensors" for each in (first, second)]
    shutil.copy(*paths)
    with pytest.raises(UsageError, match="holds another run than its name says; delete it, or pass --over") as error:
        store.read_run(tmp_path, second.run)
    assert "\n" not in str(error.value)
    assert store.read_run(tmp_path, first.run).run == first.run


def test_finishing_leaves_other_runs_under_way(options):
    """A report of finished runs must not cost the steps of one that is interrupted."""
    claim(options)
    done, begun = result([0.5]), result([0.5], rate=0.5)
    store.write_runs(options.out, [done])
    state = TrainState({}, {}, {}, np.int32(1))
    for each in (done, begun):
        store.write_begun(options.out, [each.run.stem], Begun(state, [each.history], 1.0))
    store.finish(options.out, {"a.png": b"1"}, {"experiment": "compare_losses", "files": ["b.png"]})
    assert [path.name for path in options.out.glob("runs/*.part")] == [f"{begun.run.stem}.part"]
    document = json.loads((options.out / "results.json").read_text())
    assert document["files"] == ["b.png", "a.png"]


@pytest.mark.slow
def test_overwriting_leaves_nothing_of_what_was_there(tmp_path):
    arguments = (find_learning_rate, *SMALL, "--steps", "30", "--out", tmp_path)
    theirs = {"options": {}, "files": ["old.png"]}
    for name in ("old.png", "iteration-000001.png", "mine.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UsageError, match="already holds files"):
        execute(*arguments)
    (tmp_path / "results.json").write_text(json.dumps({**theirs, "files": ["old.png", "../outside"]}))
    with pytest.raises(UsageError, match=r"results.json is damaged: its files include .*outside.; delete it, or pass"):
        execute(*arguments)
    (tmp_path / "results.json").write_text(json.dumps(theirs))
    with pytest.raises(UsageError, match="holds the results of something else; name another folder, or pass"):
        execute(*arguments)
    execute(*arguments, "--overwrite")
    written = {"range_test.png", "report.html", "results.json", "options.json", "runs.csv", "tables.tex"}
    assert {path.name for path in tmp_path.iterdir()} == {"mine.png", "iteration-000001.png", *written}


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-1], lambda content: content[::-1]])
def test_a_damaged_checkpoint_is_one_line(damage, options):
    claim(options)
    state = TrainState({}, {}, {}, np.int32(1))
    store.write_begun(options.out, ["adam"], Begun(state, [result([0.5]).history], 1.0))
    (part,) = options.out.glob("runs/*.part")
    part.write_bytes(damage(part.read_bytes()))
    with pytest.raises(UsageError, match=r"\.part is .*; delete it, or pass --overwrite") as error:
        store.read_begun(options.out, ["adam"], state)
    assert "\n" not in str(error.value)
