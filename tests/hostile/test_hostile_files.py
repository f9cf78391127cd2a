"""Files from elsewhere: networks, pictures and results that are damaged, odd, or want something of us."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from conftest import DATA
from PIL import Image
from tries import TEXTURE, check_one_line, contents, type_in, write_model

from experiments import compare_optimizers, find_learning_rate
from experiments.lab.runs import Texture
from tests.experiments.small_runs import SMALL

GRAIN = DATA / "grain.png"
DEEP = "[" * 200_000


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "model.safetensors"
    write_model(path)
    return path


CONFIG = {"network": "SegmentationCNN", "depth": 1, "shared_norm": False}
UNET = {"network": "UNet"}
NO_FILE = "cannot be read: no regular file"
# name -> how MODEL is made at a path, what the line says.
MODELS = {
    "nothing": (lambda path: None, "cannot be read: No such file or directory"),
    "empty": (lambda path: path.touch(), "is empty"),
    "a text": (lambda path: path.write_text("no network\n" * 9), "is not a checkpoint: its header cannot be read"),
    "a picture": (lambda path: shutil.copy(GRAIN, path), "is not a checkpoint: its header cannot be read"),
    "a folder": (lambda path: path.mkdir(), "cannot be read: Is a directory"),
    "a pipe": (lambda path: os.mkfifo(path), NO_FILE),
    "a device": (lambda path: path.symlink_to("/dev/zero"), NO_FILE),
    "a link to itself": (lambda path: path.symlink_to(path.name), "cannot be read: "),
    "cut": (lambda path: (write_model(path), os.truncate(path, 3000)), "is truncated"),
    "one bit": (lambda path: _flip(path), "is damaged: its checksum does not match its content"),
    "a deep header": (lambda path: _header(path, DEEP), "is not a checkpoint: its header cannot be read"),
    "a header of null": (lambda path: _header(path, "null"), "is not a checkpoint: its header cannot be read"),
    "metadata of null": (lambda path: _header(path, '{"__metadata__": {"segjax": "null"}}'), "is damaged"),
    "deep metadata": (lambda path: _header(path, json.dumps({"__metadata__": {"segjax": DEEP}})), "is damaged"),
    "another program's": (lambda path: _header(path, '{"__metadata__": {}}'), "must be the notebook's state_dict"),
    "more levels than pixels": (
        lambda path: write_model(path, model=UNET | {"num_halvings": 26}),
        "num_halvings must be",
    ),
    "an escape": (lambda path: write_model(path, model={"network": "\x1b[31m\n"}), "config must name one of"),
    "hardly a width": (lambda path: write_model(path, texture=TEXTURE | {"sigma1": 1e-30}), "whose square is 0"),
}


def _flip(path):
    write_model(path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def _header(path, header):
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())


@pytest.mark.parametrize("command", ["segment_image", "inspect_layers"])
@pytest.mark.parametrize("name", list(MODELS))
def test_what_is_no_network(name, command, tmp_path):
    make, says = MODELS[name]
    make(path := tmp_path / "model.safetensors")
    words = [path, GRAIN] if command == "segment_image" else [*SMALL, "--model", path]
    ended = type_in(command, *words, "--out", tmp_path / "out")
    check_one_line(ended, 2, says)
    assert str(path) in ended.err
    assert not (tmp_path / "out").exists()


NO_PICTURE = "cannot be read: it is a folder, a pipe or a device, not a file"
# name of the file -> how it is made, what the line says. A FOLDER of the same picture is among them, beside good ones.
PICTURES = {
    "pipe.png": (lambda path: os.mkfifo(path), NO_PICTURE),
    "zero.png": (lambda path: path.symlink_to("/dev/zero"), NO_PICTURE),
    "folder.png": (lambda path: path.mkdir(), NO_PICTURE),
    "loop.png": (lambda path: path.symlink_to(path.name), "cannot be read: Too many levels of symbolic links"),
    "nowhere.png": (lambda path: path.symlink_to("nothing"), "cannot be read: No such file or directory"),
    "empty.png": (lambda path: path.touch(), "is not a picture in PNG, JPEG or TIFF"),
    "cut.png": (lambda path: path.write_bytes(GRAIN.read_bytes()[:900]), "cannot be read: image file is truncated"),
    "small.png": (lambda path: Image.new("L", (9, 99)).save(path), "has 9 x 99 pixels; both sides must have at least"),
    "clear.png": (lambda path: Image.new("RGBA", (64, 64), (1, 2, 3, 4)).save(path), "is partly transparent"),
    "bright.tif": (lambda path: _tiff(path, np.inf), "has pixels that are no finite numbers"),
    "missing.tif": (lambda path: _tiff(path, -3e38), "which stand for missing data"),
    "two\nlines.png": (lambda path: path.touch(), r"two\nlines.png is not a picture"),
    "\x1b[31mred.png": (lambda path: path.touch(), r"\x1b[31mred.png is not a picture"),
    os.fsdecode(b"caf\xe9.png"): (lambda path: path.touch(), r"caf\udce9.png is not a picture"),
    f"{'a' * 240}.png": (lambda path: path.touch(), "aaa.png is not a picture"),
}


def _tiff(path, number):
    pixels = np.zeros((64, 64), np.float32)
    pixels[5, 5] = number
    Image.fromarray(pixels).save(path)


# A folder that is named is searched.
@pytest.mark.parametrize("name", sorted(PICTURES.keys() - {"folder.png"}))
def test_what_is_no_picture(name, network, tmp_path):
    make, says = PICTURES[name]
    make(path := tmp_path / name)
    # All that is known by now is made one line of: a line break is a space.
    says = says.replace(r"\n", " ")
    check_one_line(type_in("segment_image", network, path, "--out", tmp_path / "out"), 2, says)
    assert not list(tmp_path.rglob("results.json"))


@pytest.mark.parametrize("name", ["pipe.png", "zero.png", "empty.png", "\x1b[31mred.png", "bright.tif", "small.png"])
def test_what_is_no_photograph_to_learn_from(name, tmp_path):
    make, says = PICTURES[name]
    make(path := tmp_path / name)
    words = ["quick", "--image-size", "16", "--first", path, "--second", GRAIN]
    check_one_line(type_in("learn_textures", *words, "--out", tmp_path / "out"), 2, says)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_no_bad_picture_stops_the_good_ones(network, tmp_path):
    folder, out = tmp_path / "pictures", tmp_path / "out"
    folder.mkdir()
    for name, (make, _) in PICTURES.items():
        make(folder / name)
    good = ["first.png", f"{'b' * 240}.png", os.fsdecode(b"th\xe9.png"), "f\x1b[31m.png", "last.png"]
    for name in good:
        shutil.copy(GRAIN, folder / name)
    ended = type_in("segment_image", network, folder, "--out", out)
    assert ended.code == 1
    lines = ended.err.splitlines()
    assert len(lines) == len(PICTURES)
    assert all(line.startswith("error: ") and line.isprintable() for line in lines)
    assert all(any(says in line for line in lines) for _, says in PICTURES.values())
    assert "\x1b" not in ended.out
    document = json.loads((out / "results.json").read_text())
    assert [row["image"] for row in document["images"]] == sorted(str(folder / name) for name in good)
    assert all((out / name).is_file() for name in document["files"])
    for file in out.glob("*-mask.png"):
        assert file.read_bytes() == (out / "first-mask.png").read_bytes()
    # The same command tries them again, and the good ones stay as they are.
    before = (out / "first-mask.png").stat().st_mtime_ns
    again = type_in("segment_image", network, folder, "--out", out)
    assert (again.code, again.err) == (1, ended.err)
    assert (out / "first-mask.png").stat().st_mtime_ns == before
    assert json.loads((out / "results.json").read_text())["images"] == document["images"]


@pytest.mark.deep
def test_pictures_of_a_run_without_them_go(network, tmp_path):
    out = tmp_path / "out"
    assert type_in("segment_image", network, GRAIN, DATA / "stripes.png", "--out", out).code == 0
    (out / "mine-probability.png").touch()
    assert type_in("segment_image", network, GRAIN, "--probability", "none", "--overwrite", "--out", out).code == 0
    assert {path.name for path in out.glob("*-*.png")} == {
        "grain-mask.png",
        "grain-overlay.png",
        "mine-probability.png",
    }


def test_pictures_beside_the_results_are_not_deleted(network, tmp_path):
    shutil.copy(GRAIN, tmp_path / "grain.png")
    before = contents(tmp_path)
    for folder in (tmp_path, tmp_path / ".." / tmp_path.name):
        ended = type_in("segment_image", network, tmp_path / "grain.png", "--overwrite", "--out", folder)
        check_one_line(ended, 2, "--overwrite would delete results beside")
        assert contents(tmp_path) == before


def results(script, **options):
    """The document of a question that was never answered, with these options."""
    name, known = script.__name__.rpartition(".")[2], script.PRESETS["quick"].flat
    sections = {"versions": {}, "numerics": {}, "device": {}, "source": {}}
    return json.dumps({"experiment": name, "options": {**known, **options}, **sections}, default=str)


NO_RESULTS = "is not the results.json of an experiment"
RESULTS = {
    "nothing": (lambda path: None, "cannot be read: No such file or directory"),
    "a folder": (lambda path: path.mkdir(), "cannot be read: Is a directory"),
    "empty": (lambda path: path.touch(), NO_RESULTS),
    "a picture": (lambda path: shutil.copy(GRAIN, path), NO_RESULTS),
    "deep": (lambda path: path.write_text(DEEP), f"{NO_RESULTS}: its JSON is nested too deeply"),
    "a number": (lambda path: path.write_text("5"), NO_RESULTS),
    "a name twice": (
        lambda path: path.write_text('{"options": {"seed": 0, "seed": 1}}'),
        f"{NO_RESULTS}: it has seed twice",
    ),
    "nothing in it": (lambda path: path.write_text("{}"), NO_RESULTS),
    "options alone": (lambda path: path.write_text('{"options": {}}'), NO_RESULTS),
    "options as a list": (
        lambda path: path.write_text('{"options": []}'),
        f"{NO_RESULTS}: Expected `object`, got `array` - at `$.options`",
    ),
}


@pytest.mark.parametrize("name", list(RESULTS))
def test_what_are_no_results(name, tmp_path):
    make, says = RESULTS[name]
    make(path := tmp_path / "results.json")
    before = contents(tmp_path)
    check_one_line(type_in("rerun", path, "--out", tmp_path / "out"), 2, says)
    assert contents(tmp_path) == before
    ended = type_in("find_learning_rate", *SMALL, "--sweep", path, "--out", tmp_path / "out")
    check_one_line(ended, 2, f"--sweep {path}")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("command", ["rerun", "find_learning_rate"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_results_that_never_end(make, command, tmp_path):
    make(path := tmp_path / "results.json")
    words = [path] if command == "rerun" else [*SMALL, "--sweep", path]
    check_one_line(type_in(command, *words, "--out", tmp_path / "out"), 2, "no regular file")


# Options of a range test that a stranger wrote -> what the line says.
TAMPERED = {
    "steps": {0: "--steps must be", **dict.fromkeys(("many", 10.5, True, None), "Expected `int`, got ")},
    "sigma1": {float("inf"): "--sigma1 must be", float("nan"): "--sigma1 must be", 10**400: "at `$.data.sigma1`"},
    "seed": {-1: "--seed must be", 2**32: "--seed must be", "0": "Expected `int`, got `str` - at `$.seeds.seed`"},
    "image_size": {2 * 10**9: "at most 2^31 - 1 pixels"},
    "architecture": {"x\x1b[31m": r"x\x1b[31m", None: "Expected `str`, got `null` - at `$.architecture`"},
    "optimizer": {"os:abort": "os", "optax:nothing": "--optimizer must be one of"},
    "loss": {5: "Expected `str`, got `int` - at `$.loss`"},
    "sweep": {"nowhere.json": "--sweep nowhere.json cannot be read"},
    "speed": {1: "its options differ by speed"},
}


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [(name, value, says) for name, them in TAMPERED.items() for value, says in them.items()],
)
def test_options_that_a_stranger_wrote(option, value, says, tmp_path):
    (path := tmp_path / "results.json").write_text(results(find_learning_rate, **{option: value}))
    before = contents(tmp_path)
    check_one_line(type_in("rerun", path, "--out", tmp_path / "out"), 2, says)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("optimizers", [[1], [["adam"]], [None]])
def test_optimizers_that_a_stranger_wrote(optimizers, tmp_path):
    (path := tmp_path / "results.json").write_text(results(compare_optimizers, optimizers=optimizers))
    check_one_line(type_in("rerun", path, "--out", tmp_path / "out"), 2, "at `$.optimizers[0]`")


@pytest.mark.parametrize("experiment", ["nothing", "rerun", "lab", "lab.cli", "../evil", None, 5, "\x1b[31m"])
def test_an_experiment_that_a_stranger_wrote(experiment, tmp_path):
    document = json.loads(results(find_learning_rate)) | {"experiment": experiment}
    (path := tmp_path / "results.json").write_text(json.dumps(document))
    ended = type_in("rerun", path, "--out", tmp_path / "out")
    check_one_line(ended, 2, "there is no experiment ")
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("name", ["evil_module", "\u00e9vil_module"])
@pytest.mark.parametrize("place", ["{}:factory", "{}:factory=1e-3", "{}:deeper.factory"])
def test_a_stranger_s_code_is_not_run(place, name, tmp_path, monkeypatch):
    (code := tmp_path / "code").mkdir()
    (code / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    monkeypatch.syspath_prepend(code)
    (folder := tmp_path / "theirs").mkdir()
    path = folder / "results.json"
    path.write_text(results(compare_optimizers, optimizers=["sgd", place.format(name)]))
    ended = type_in("rerun", path, "--out", tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    check_one_line(ended, 2, f"would run code of the module {name}: to let it, --allow-import {name}")
    assert not (tmp_path / "out").exists()
    # By name it may: the module has no such factory.
    ended = type_in("rerun", path, "--out", tmp_path / "out", "--allow-import", name)
    sys.modules.pop(name, None)
    check_one_line(ended, 2, "cannot be imported")
    assert (tmp_path / "ran").exists()


def write_sweep(path, loss):
    """Results of a sweep of which a range test needs no more."""
    options = Texture(batch_size=1, image_size=16, sigma=3.2)._asdict()
    run = {"optimizer": "adam", "objective": "mse", "architecture": "notebook", "diverged_at": None, "final_loss": loss}
    runs = [{**run, "learning_rate": rate} for rate in (1e-9, 1e9)]
    document = {"experiment": "tune_learning_rate", "options": options, "runs": runs, "files": [path.name, "mine.png"]}
    path.write_text(json.dumps(document))
    (path.parent / "mine.png").touch()


@pytest.mark.deep
def test_a_sweep_beside_the_results_is_not_deleted(tmp_path):
    write_sweep(path := tmp_path / "results.json", 0.1)
    before = contents(tmp_path)
    ended = type_in("find_learning_rate", *SMALL, "--steps", "10", "--sweep", path, "--overwrite", "--out", tmp_path)
    assert contents(tmp_path) == before
    check_one_line(ended, 2, "--overwrite would delete results beside")


@pytest.mark.deep
def test_a_sweep_that_has_changed_is_noticed(tmp_path):
    write_sweep(path := tmp_path / "results.json", 0.1)
    words = [*SMALL, "--steps", "10", "--seeds", "1", "--sweep", path, "--out", tmp_path / "out"]
    assert type_in("find_learning_rate", *words).code == 0
    write_sweep(path, 0.2)
    check_one_line(type_in("find_learning_rate", *words), 2, f"for other contents of {path}")
