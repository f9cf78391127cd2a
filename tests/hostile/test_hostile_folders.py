"""Folders as no command of ours leaves them: each is refused in one line with nothing touched, or resumed."""

import errno
import importlib
import json
import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest
from tries import check_one_line, contents, type_in

from experiments.lab import folder, programs
from segjax import checkpoints
from tests.experiments.small_runs import SHORT

pytestmark = pytest.mark.slow

WORDS = [*SHORT, "--architecture", "notebook", "--show-every", "10"]
DEEP = "[" * 200_000
# Curves that no time and no date is in.
CURVES = ("loss", "agreement")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of results, which every try gets a copy of."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert train(out).code == 0
    return out


@pytest.fixture
def out(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "out")


def train(out, *words):
    return type_in("train_model", *WORDS, "--out", out, *words)


def curves(out):
    (run,) = json.loads((out / "results.json").read_text())["runs"]
    return {name: run["curves"][name] for name in CURVES}


def change(name, *path, value):
    """Changes one entry of a JSON file: `path` leads to it."""

    def make(out):
        entry = document = json.loads((out / name).read_text())
        for step in path[:-1]:
            entry = entry[step]
        entry[path[-1]] = value
        (out / name).write_text(json.dumps(document))

    return make


def hold(name, content):
    def make(out):
        file = out / name
        file.write_bytes(content) if isinstance(content, bytes) else file.write_text(content)

    return make


def lose(*patterns):
    def make(out):
        for path in {path for pattern in patterns for path in out.glob(pattern)}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return make


def lead(name, target):
    """Puts a link in place of a file."""

    def make(out):
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to(target)

    return make


def be(place):
    """Puts something else in place of the folder, made by place(path)."""

    def make(out):
        shutil.rmtree(out)
        place(out)

    return make


def both(*makes):
    def make(out):
        for one in makes:
            one(out)

    return make


def foreign(out):
    """A folder of a stranger who gives files the same names."""
    (out / "runs").mkdir(parents=True)
    for name in ("model.safetensors", "report.html", "runs/mine.safetensors"):
        (out / name).write_text("mine")


UNFINISHED = lose("results.json", "report.html")
# name -> how the folder is made, words added to the command, the message. The code is 2, and all is as it was.
REFUSED = {
    "foreign": (be(foreign), [], "already holds files; name another folder, or pass --overwrite"),
    "one foreign file": (be(lambda out: (out.mkdir(), (out / "notes").touch())), [], "already holds files"),
    "another experiment's": (change("results.json", "experiment", value="benchmark"), [], "the results of benchmark"),
    "of no experiment": (change("results.json", "experiment", value=None), [], "the results of something else"),
    "of an experiment with an escape": (change("results.json", "experiment", value="\x1b[31m"), [], r"\x1b[31m"),
    "other options": (lambda out: None, ["--seed", "1"], "holds the results with seed 0, not 1"),
    "unfinished, other options": (UNFINISHED, ["--sigma1", "0.3"], "unfinished results with sigma1 0.2, not 0.3"),
    "another jax": (change("results.json", "versions", "jax", value="0.4.1"), [], "with jax 0.4.1, not"),
    "unfinished, another jax": (
        both(UNFINISHED, change("options.json", "versions", "jax", value="0.4.1")),
        [],
        "unfinished results with jax 0.4.1, not",
    ),
    "of before versions were kept": (change("results.json", "versions", value={}), [], "with segjax None, not"),
    "another device": (change("results.json", "numerics", "platform", value="gpu"), [], "with platform gpu, not cpu"),
    "a lost model": (lose("model.safetensors"), [], "holds these results, but model.safetensors is gone"),
    "a lost picture": (lose("iteration-000010.png"), [], "but iteration-000010.png is gone"),
    "a lost name with an escape": (change("results.json", "files", value=["a\x1b[31m"]), [], r"a\x1b[31m is gone"),
    "a model that leads nowhere": (lead("model.safetensors", "nowhere"), [], "model.safetensors is gone"),
    "an empty results.json": (hold("results.json", ""), [], "results.json is damaged"),
    "a cut results.json": (lambda out: os.truncate(out / "results.json", 300), [], "results.json is damaged"),
    "a results.json of a list": (
        hold("results.json", "[]"),
        [],
        "results.json is damaged: Expected `object`, got `array`",
    ),
    "a deep results.json": (hold("results.json", DEEP), [], "results.json is damaged: its JSON is nested too deeply"),
    "a results.json of no text": (hold("results.json", b"\xff\xfe\x00"), [], "results.json is damaged"),
    "a deep options.json": (both(UNFINISHED, hold("options.json", DEEP)), [], "options.json is damaged: its JSON is"),
    "options as a list": (
        both(UNFINISHED, change("options.json", "options", value=[])),
        [],
        "Expected `object`, got `array` - at `$.options`",
    ),
    "versions as a list": (
        change("results.json", "versions", value=[]),
        [],
        "Expected `object`, got `array` - at `$.versions`",
    ),
    "numerics as a list": (change("results.json", "numerics", value=[]), [], "got `array` - at `$.numerics`"),
    "inputs as a text": (
        change("results.json", "inputs", value="x"),
        [],
        "Expected `object`, got `str` - at `$.inputs`",
    ),
    "files as null": (change("results.json", "files", value=None), [], "Expected `array`, got `null` - at `$.files`"),
    "a zero byte": (hold("results.json", "\0"), [], "results.json is damaged"),
    **{
        f"a file named {name!r}": (change("options.json", "files", value=[name]), [], "at `$.files[0]`; delete it")
        for name in ("../victim", "/victim", "a/b", "runs/../../victim", "..", "runs/..", "", "a\0", 5, None, ["a"])
    },
    "an empty note": (
        both(UNFINISHED, hold("runs/iteration-000010.safetensors", b"")),
        [],
        "runs/iteration-000010.safetensors is empty; pass --overwrite",
    ),
    "a file": (be(lambda out: out.write_text("mine")), [], "cannot be written: File exists"),
    "below a file": (be(lambda out: out.write_text("mine")), ["--out", "OUT/deeper"], "written: Not a directory"),
    "a link to itself": (be(lambda out: out.symlink_to(out)), [], "cannot be written: File exists"),
    "a link to nowhere": (be(lambda out: out.symlink_to("nowhere")), [], "cannot be written: File exists"),
    "a pipe": (be(lambda out: os.mkfifo(out)), [], "cannot be written: File exists"),
    "a name too long": (lambda out: None, ["--out", f"OUT{'x' * 300}"], "cannot be written: File name too long"),
    "a device": (lambda out: None, ["--out", "/dev/full"], "cannot be written: File exists"),
    "a system's": (lambda out: None, ["--out", "/proc/nowhere"], "cannot be written: No such file or directory"),
    "all there is": (lambda out: None, ["--out", "/"], "already holds files"),
    "runs through a link": (
        lambda out: ((out / "runs").rename(out.parent / "elsewhere"), (out / "runs").symlink_to("../elsewhere")),
        ["--overwrite"],
        "runs is a link, through which --overwrite deletes nothing",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_it_is_refused_and_nothing_is_touched(name, out, tmp_path):
    make, words, message = REFUSED[name]
    make(out)
    before = contents(tmp_path)
    ended = train(out, *(word.replace("OUT", str(out)) for word in words))
    check_one_line(ended, 2, message)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("jax_enable_x64", True, "enable_x64 False, not True"),
        ("jax_threefry_partitionable", False, "threefry_partitionable True, not False"),
        ("jax_default_prng_impl", "rbg", "default_prng_impl threefry2x32, not rbg"),
        ("jax_default_matmul_precision", "bfloat16", "default_matmul_precision None, not bfloat16"),
    ],
)
@pytest.mark.parametrize("make", [lambda out: None, UNFINISHED], ids=["finished", "unfinished"])
def test_other_numbers_are_not_added(make, setting, value, message, out):
    make(out)
    before, was = contents(out), getattr(jax.config, setting)
    jax.config.update(setting, value)
    try:
        check_one_line(train(out), 2, message)
    finally:
        jax.config.update(setting, was)
    assert contents(out) == before


# name -> how the folder is made, words added to the command. The code is 0, and all is as it was.
DONE: dict[str, Any] = {
    "the same again": (lambda out: None, []),
    "with other checkpoints": (lambda out: None, ["--checkpoint-seconds", "1"]),
    "with a stranger's file": (hold("notes.txt", "mine"), []),
    "of an older options.json": (lose("options.json"), []),
    "without its runs": (lose("runs/*"), []),
    "moved, and a link left": (lambda out: (out.rename(f"{out}.old"), out.symlink_to("out.old")), []),
    "by another way": (lambda out: None, ["--out", "OUT/../out/."]),
}


@pytest.mark.parametrize("name", list(DONE))
def test_what_is_done_says_so(name, out, tmp_path):
    make, words = DONE[name]
    make(out)
    before = contents(tmp_path)
    ended = train(out, *(word.replace("OUT", str(out)) for word in words))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count("\n") == 1
    assert "holds the results of this very command: nothing is left to do" in ended.out
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["e\x1b[31mred", "two\nlines"])
def test_what_is_done_says_so_in_one_line(name, out, tmp_path):
    ended = train(out.rename(tmp_path / name))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out[:-1].isprintable()


# name -> how the folder is made. The same command resumes, and ends with the same numbers and all files.
RESUMES = {
    "without results.json": lose("results.json"),
    "moved": lambda out: (UNFINISHED(out), out.rename(f"{out}.old"), out.symlink_to("out.old")),
    "with what a kill left": both(
        UNFINISHED, lambda out: [(out / f".{name}.tmp").touch() for name in ("report.html", "results.json")]
    ),
}


@pytest.mark.deep
@pytest.mark.parametrize("name", list(RESUMES))
def test_it_resumes(name, out, finished):
    RESUMES[name](out)
    ended = train(out)
    assert (ended.code, ended.err) == (0, "")
    check_whole(out, finished)


def check_whole(out, finished):
    """The same files with the same numbers, and nothing half written."""
    assert curves(out) == curves(finished)
    assert contents(out).keys() == contents(finished).keys()
    for name in ("model.safetensors", "runs.csv", "curves.png", "predictions.png", "iteration-000010.png"):
        mine, whole = ((folder / name).read_bytes() for folder in (out, finished))
        # The table has the seconds of the run, which are kept with it.
        assert mine == whole, name


@pytest.mark.parametrize("lost", ["runs/iteration-*", "runs/iteration-000010*"])
def test_lost_notes_are_told(lost, out):
    """Without them the figure would lack a row."""
    both(UNFINISHED, lose(lost))(out)
    before = contents(out)
    check_one_line(train(out), 2, " is gone; pass --overwrite")
    assert contents(out) == before


def test_a_full_disk_at_the_last_file(out, finished):
    """A limit on the size of files stands for the disk: the report, the largest of them, does not fit."""
    UNFINISHED(out)
    largest = max(path.stat().st_size for path in out.rglob("*.*"))
    assert largest < (finished / "report.html").stat().st_size - 1
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        ended = train(out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    check_one_line(ended, 1, f"report.html: {os.strerror(errno.EFBIG)}; files written before are unchanged")
    assert not list(out.rglob(".*"))
    assert train(out).code == 0
    check_whole(out, finished)


class Overwritten(NamedTuple):
    """How the folder is made, and the files that must be there afterwards, with their content."""

    make: Any
    files: dict[str, str]


# Files of ours go, whatever their list says; others stay, if need be under another name.
OVERWRITE = {
    "of a stranger": Overwritten(
        be(foreign),
        {
            "model.safetensors~": "mine",
            "report.html~": "mine",
            "runs/mine.safetensors": "mine",
        },
    ),
    "with links to a stranger's": Overwritten(
        both(
            lambda out: (out.parent / "theirs").write_text("theirs"),
            lead("model.safetensors", "../theirs"),
            lead("results.json", "../theirs"),
            lead("options.json", "../theirs"),
            lead(".report.html.tmp", "../theirs"),
        ),
        {"../theirs": "theirs"},
    ),
    "with lists that name others": Overwritten(
        both(
            lambda out: (out.parent / "theirs").write_text("theirs"),
            change("results.json", "files", value=["../theirs", "runs/../../theirs"]),
            change("options.json", "files", value=["../theirs"]),
        ),
        {"../theirs": "theirs"},
    ),
    "with deep lists": Overwritten(both(hold("results.json", DEEP), hold("options.json", DEEP)), {}),
    "with options as a list": Overwritten(change("options.json", "options", value=[]), {}),
    "with files as null": Overwritten(
        both(change("results.json", "files", value=None), change("options.json", "files", value=None)), {}
    ),
    "with an empty note": Overwritten(hold("runs/iteration-000010.safetensors", ""), {}),
    "with a folder of notes": Overwritten(
        lambda out: ((out / "notes").mkdir(), (out / "notes" / "a").write_text("mine")), {"notes/a": "mine"}
    ),
}


@pytest.mark.parametrize(
    "name", ["of a stranger", *(pytest.param(name, marks=pytest.mark.deep) for name in list(OVERWRITE)[1:])]
)
def test_overwriting_works_and_leaves_files_that_are_not_ours(name, out, finished):
    make, files = OVERWRITE[name]
    make(out)
    ended = train(out, "--overwrite")
    assert (ended.code, ended.err) == (0, "")
    assert curves(out) == curves(finished)
    for file, content in files.items():
        assert (out / file).read_text() == content
    assert not (out / "model.safetensors").is_symlink()


def test_overwriting_with_a_mistake_deletes_nothing(out):
    before = contents(out)
    check_one_line(train(out, "--overwrite", "--learning-rate", "nan"), 2, "--learning-rate must be")
    assert contents(out) == before


# name -> what stands where a list of ours should be, and the message.
NO_FILES = {
    "a pipe": (os.mkfifo, "cannot be read: no regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "cannot be read: no regular file"),
    "a folder": (lambda path: path.mkdir(), "cannot be read: Is a directory"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
}


@pytest.mark.parametrize("file", ["results.json", "options.json"])
@pytest.mark.parametrize(("make", "message"), NO_FILES.values(), ids=NO_FILES)
def test_a_list_that_is_no_file(make, message, file, out):
    lose("results.json", file)(out)
    make(out / file)
    before = contents(out)
    check_one_line(train(out), 2, message)
    assert contents(out) == before


@pytest.mark.parametrize(
    "file", ["runs/*-seed0-*.safetensors", "runs/*-seed0-*.part", "runs/iteration-000010.safetensors"]
)
@pytest.mark.parametrize(("make", "message"), NO_FILES.values(), ids=NO_FILES)
def test_a_run_that_is_no_file(make, message, file, out):
    """It is refused, whatever it is, and no command waits for somebody who writes to it."""
    UNFINISHED(out)
    (run,) = out.glob("runs/*-seed0-*.safetensors")
    path = run.with_suffix(".part") if file.endswith(".part") else next(out.glob(file))
    for old in {run, path} if "seed0" in file else {path}:
        old.unlink(missing_ok=True)
    make(path)
    before = contents(out)
    check_one_line(train(out), 2, message)
    assert contents(out) == before
    # Ours are the files alone: anything else stays.
    ended = train(out, "--overwrite")
    assert (ended.code, ended.err) == (0, "")


# The file whose folder is synchronized, the error, the exit code, and the message.
SYNCED = {
    "a network disk that cannot": (errno.EINVAL, 0, ""),
    "another": (errno.ENOTSUP, 0, ""),
    "a disk that fails": (
        errno.EIO,
        1,
        "results.json: Input/output error; it is written, but may not survive a power f",
    ),
}


@pytest.mark.parametrize("name", list(SYNCED))
def test_a_folder_that_cannot_be_synchronized(name, out, finished, monkeypatch):
    UNFINISHED(out)
    number, code, message = SYNCED[name]
    fsync = os.fsync

    def refused(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}") and (code == 0 or (out / "results.json").exists()):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refused)
    ended = train(out)
    assert ended.code == code
    if code:
        check_one_line(ended, code, message)
        monkeypatch.undo()
        assert "nothing is left to do" in train(out).out
    check_whole(out, finished)


def test_an_optimizer_of_which_another_module_changed_is_refused(tmp_path, monkeypatch):
    """Otherwise one table would have seeds of two optimizers."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "factories.py").write_text(
        "import optax, decays\nsgd = lambda rate: optax.sgd(rate, decays.MOMENTUM)\n"
    )
    words = [*SHORT, "--optimizers", "factories:sgd", "--rates", "0.01", "0.1", "--out", tmp_path / "out"]
    ends = []
    for momentum, seeds in (("0.9", "1"), ("0.5", "2"), ("0.9", "2")):
        (tmp_path / "decays.py").write_text(f"MOMENTUM = {momentum}\n")
        for name in ("factories", "decays"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        programs.forget_optimizers()
        ends.append(type_in("tune_learning_rate", *words, "--seeds", seeds))
    check_one_line(ends[1], 2, f"holds the results for other contents of {tmp_path / 'decays.py'}; name another folder")
    assert [ended.code for ended in ends] == [0, 2, 0]


@pytest.mark.deep
@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines", b"\x1b[31mred", b"$x$ & <b>", b" ", b"-x"])
def test_a_folder_of_an_odd_name(name, tmp_path, finished):
    out = tmp_path / os.fsdecode(name)
    ended = type_in("train_model", *WORDS, f"--out={out}")
    assert (ended.code, ended.err) == (0, "")
    assert "\x1b" not in ended.out.splitlines()[-1]
    assert curves(out) == curves(finished)
    assert "nothing is left to do" in type_in("train_model", *WORDS, f"--out={out}").out


def test_a_folder_that_is_moved_while_it_is_written_to(out, tmp_path, monkeypatch):
    """Another folder of its name is another command's."""
    UNFINISHED(out)
    write = checkpoints.write

    def moving(path, content):
        write(path, content)
        if Path(path).name == "tables.tex":
            out.rename(tmp_path / "old")
            out.mkdir()
            (out / "theirs").touch()

    monkeypatch.setattr(folder.checkpoints, "write", moving)
    check_one_line(train(out), 1, "the folder was moved away while this command wrote to it")
    assert contents(out) == {"theirs": b""}
