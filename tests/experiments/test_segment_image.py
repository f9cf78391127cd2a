import csv
import errno
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tifffile
from conftest import DATA, random_variables
from PIL import Image
from safetensors.numpy import save_file
from small_runs import execute, told_to_stop

from experiments import rerun, segment_image
from experiments.lab import cli
from experiments.lab.folder import resume_hint
from experiments.lab.names import ARCHITECTURES
from experiments.lab.stops import Finished, Interrupted, UsageError
from experiments.pictures import novelty, saved_models
from experiments.pictures.areas import AreaError
from experiments.pictures.novelty import Strange
from segjax import tiling, torch_weights

EXEMPLARS = {"first": "brick", "second": "grass", "image_size": 32}


def run(out, *arguments):
    return execute(segment_image, *arguments, "--out", out)


def read(path):
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The file of a network that was never trained: what it says of textures is noise, but always the same."""
    variables = random_variables(ARCHITECTURES["shallow"])
    path = tmp_path_factory.mktemp("network") / saved_models.MODEL
    path.write_bytes(saved_models.files("shallow", variables, {"exemplars": EXEMPLARS}, False)[path.name])
    return path


@pytest.fixture
def pictures(tmp_path):
    """A folder with three pictures, a broken one and a text."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    shades = np.random.default_rng(0).integers(0, 256, (40, 70, 3)).astype(np.uint8)
    Image.fromarray(shades).save(folder / "colour.jpg")
    Image.fromarray(shades[..., 0]).save(folder / "grey.png")
    Image.fromarray(shades[..., 0].astype(np.uint16) * 257).save(folder / "deep.tif")
    (folder / "broken.png").write_bytes((folder / "grey.png").read_bytes()[:100])
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.mark.slow
def test_writes_what_the_network_sees(network, pictures, tmp_path):
    document = run(tmp_path / "out", network, pictures / "grey.png", "--probability", "npy", "--tile-size", "16")
    probability = np.load(tmp_path / "out" / "grey-probability.npy")
    loaded = saved_models.load(network)
    image = read(pictures / "grey.png") / np.float32(255)
    expected = tiling.segment(loaded.model, loaded.variables, image, image_size=32)
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    mask = read(tmp_path / "out" / "grey-mask.png")
    np.testing.assert_array_equal(mask, np.where(probability > 0.5, 255, 0))
    assert read(tmp_path / "out" / "grey-overlay.png").shape == (40, 70, 3)
    (row,) = document["images"]
    assert (row["first_pixels"], row["first_pixels"] + row["second_pixels"]) == ((mask == 255).sum(), 40 * 70)
    assert document["textures"] == ["brick", "grass"]
    assert 0 < row["first_share"] < 1


@pytest.mark.slow
def test_one_bad_file_does_not_stop_the_others(network, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    (pictures / "scan.bmp").touch()
    with pytest.raises(SystemExit) as end:
        run(out, network, pictures)
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert f"error: {pictures / 'broken.png'} cannot be read: image file is truncated" in said
    names = {path.name for path in out.iterdir()}
    files = {f"{name}-{kind}.png" for name in ("colour", "grey", "deep") for kind in ("mask", "probability", "overlay")}
    page = {"options.json", "pictures.png", "runs.csv", "tables.tex", "report.html", "results.json"}
    assert names == files | page | {"runs"}
    with (out / "runs.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["colour", "deep", "grey"]
    # 16 bits of the same shades are the same picture.
    np.testing.assert_array_equal(read(out / "deep-mask.png"), read(out / "grey-mask.png"))
    document = json.loads((out / "results.json").read_text())
    assert [refused["image"] for refused in document["refused"]] == [str(pictures / "broken.png")]
    assert "Left out, since only PNG, JPEG and TIFF are read: scan.bmp." in document["warnings"]
    report = (out / "report.html").read_text()
    assert "Pictures without a mask" in report
    assert "broken.png cannot be read: image file is truncated" in report


@pytest.mark.slow
def test_what_has_changed_since_is_noticed(network, pictures, tmp_path):
    grey = pictures / "grey.png"
    run(tmp_path / "out", network, grey)
    shutil.copy(DATA / "grain.png", grey)
    before = (tmp_path / "out" / "results.json").read_bytes()
    for more in ((), (pictures / "deep.tif",)):
        with pytest.raises(UsageError, match=f"for other contents of {grey}"):
            run(tmp_path / "out", network, grey, *more)
    assert (tmp_path / "out" / "results.json").read_bytes() == before


@pytest.mark.slow
def test_interrupted_it_goes_on(network, pictures, tmp_path):
    words = (tmp_path / "out", network, pictures / "grey.png", pictures / "deep.tif")
    with told_to_stop(), pytest.raises(Interrupted):
        run(*words)
    # What one picture gets is there whole, and of the next nothing.
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"grey-mask.png", "grey-probability.png", "grey-overlay.png", "options.json", "runs"}
    first = mask_time(tmp_path / "out", "grey")
    assert resume_hint(tmp_path / "out").endswith(": 1 other results")
    assert [row["name"] for row in run(*words)["images"]] == ["grey", "deep"]
    assert mask_time(tmp_path / "out", "grey") == first


@pytest.mark.slow
def test_more_pictures_come_into_the_same_folder(network, pictures, tmp_path, capsys):
    out, grey, deep = tmp_path / "out", pictures / "grey.png", pictures / "deep.tif"
    run(out, network, grey)
    (out / "mine.png").touch()
    # The first need not be there any more.
    grey.rename(tmp_path / "moved.png")
    document = run(out, network, deep)
    assert [row["name"] for row in document["images"]] == ["grey", "deep"]
    assert list(document["inputs"]) == list(map(str, (network, deep)))
    assert {"grey-mask.png", "deep-mask.png"} <= set(document["files"])
    assert all((out / name).exists() for name in [*document["files"], "mine.png"])
    with (out / "runs.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["grey", "deep"]
    assert "grey" in (out / "report.html").read_text()
    # What is there is not segmented again, and with other options nothing is added.
    with pytest.raises(Finished):
        run(out, network, deep)
    with pytest.raises(UsageError, match="with tile_size 256, not 64"):
        run(out, network, pictures / "colour.jpg", "--tile-size", "64")
    # As one command would have made it.
    (tmp_path / "moved.png").rename(grey)
    whole = run(tmp_path / "whole", network, grey, deep)
    assert whole["images"] == document["images"]
    for name in ("pictures.png", "runs.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (out / name).read_bytes()


def mask_time(out, name):
    return (out / f"{name}-mask.png").stat().st_mtime_ns


def interrupted(*words):
    """A command that is told to stop when its first new picture is done."""
    with told_to_stop(), pytest.raises(Interrupted):
        run(*words)


@pytest.mark.slow
def test_pictures_of_an_interrupted_addition_stay(network, pictures, tmp_path):
    out = tmp_path / "out"
    run(out, network, pictures / "grey.png")
    interrupted(out, network, pictures / "colour.jpg", pictures / "deep.tif")
    other = shutil.copy(DATA / "grain.png", tmp_path / "colour.jpg")
    document = run(out, network, other)
    assert [row["name"] for row in document["images"]] == ["grey", "colour", "colour.jpg"]
    assert read(out / "colour-mask.png").shape == (40, 70)
    assert read(out / "colour.jpg-mask.png").shape == read(other).shape[:2]
    assert str(pictures / "deep.tif") not in document["inputs"]
    before = mask_time(out, "colour")
    assert run(out, network, pictures / "colour.jpg")["images"] == document["images"]
    assert mask_time(out, "colour") == before


@pytest.mark.slow
def test_a_picture_whose_files_are_gone_leaves_its_name_to_others(network, pictures, tmp_path, capsys):
    out, other = tmp_path / "out", shutil.copy(DATA / "grain.png", tmp_path / "grey.png")
    run(out, network, other)
    (out / "grey-mask.png").unlink()
    document = run(out, network, pictures / "grey.png")
    assert "grey is left out, since a file of it is gone: name its picture again" in capsys.readouterr().out
    assert [row["image"] for row in document["images"]] == [str(pictures / "grey.png")]
    # The files of this name are those of the later picture now.
    document = run(out, network, other)
    assert [(row["name"], row["image"]) for row in document["images"]] == [
        ("grey", str(pictures / "grey.png")),
        ("grey.png", str(other)),
    ]
    assert read(out / "grey-mask.png").shape == (40, 70)
    assert read(out / "grey.png-mask.png").shape == read(other).shape[:2]


@pytest.mark.slow
def test_what_was_refused_is_tried_again_when_it_is_named(network, pictures, tmp_path):
    out, broken = tmp_path / "out", pictures / "broken.png"
    with pytest.raises(SystemExit):
        run(out, network, pictures / "grey.png", broken)
    shutil.copy(DATA / "grain.png", broken)
    document = run(out, network, pictures / "deep.tif")
    assert [row["name"] for row in document["images"]] == ["grey", "deep"]
    assert str(broken) not in document["inputs"]
    assert [row["name"] for row in run(out, network, broken)["images"]] == ["grey", "deep", "broken"]
    with pytest.raises(Finished):
        run(out, network, broken)
    # What one bound refused another may take.
    with pytest.raises(SystemExit):
        run(out, network, pictures / "colour.jpg", "--max-megapixels", "0.001")
    assert len(run(out, network, pictures / "colour.jpg")["images"]) == 4


@pytest.mark.slow
def test_what_is_refused_is_no_input_and_the_same_command_tries_it_again(network, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    errors = []
    for _ in range(2):
        with pytest.raises(SystemExit):
            run(out, network, pictures)
        errors.append(capsys.readouterr().err)
        times = [mask_time(out, name) for name in ("colour", "deep", "grey")]
    assert errors[0] == errors[1]
    assert times == [mask_time(out, name) for name in ("colour", "deep", "grey")]
    document = json.loads((out / "results.json").read_text())
    assert [row["name"] for row in document["images"]] == ["colour", "deep", "grey"]
    assert str(pictures / "broken.png") not in document["inputs"]


@pytest.mark.slow
def test_a_picture_that_is_gone_keeps_its_results(network, pictures, tmp_path):
    out, grey, deep = tmp_path / "out", pictures / "grey.png", pictures / "deep.tif"
    run(out, network, grey)
    grey.rename(tmp_path / "moved.png")
    document = run(out, network, deep)
    assert [row["name"] for row in document["images"]] == ["grey", "deep"]
    # Named again, it is another picture than the folder has.
    with pytest.raises(UsageError, match=f"holds the results for other contents of {grey}"):
        run(out, network, grey, deep)
    # Its results cannot be repeated, neither without it nor from another, so one of another content replaces them.
    (out / "grey-mask.png").unlink()
    document = run(out, network, pictures / "colour.jpg")
    assert [row["name"] for row in document["images"]] == ["deep", "colour"]
    assert not (out / "grey-overlay.png").exists()
    shutil.copy(DATA / "grain.png", grey)
    assert [row["name"] for row in run(out, network, grey)["images"]] == ["deep", "colour", "grey"]
    assert read(out / "grey-mask.png").shape == read(grey).shape[:2]


@pytest.mark.slow
def test_a_picture_that_changes_while_the_command_runs_is_refused(network, pictures, tmp_path, monkeypatch, capsys):
    right, deep = tiling.segment, pictures / "deep.tif"

    def segment(*arguments):
        shutil.copy(DATA / "grain.png", deep)
        return right(*arguments)

    monkeypatch.setattr(tiling, "segment", segment)
    with pytest.raises(SystemExit):
        run(tmp_path / "out", network, pictures / "grey.png", deep)
    assert f"{deep} has changed since it was named" in capsys.readouterr().err
    assert not (tmp_path / "out" / "deep-mask.png").exists()


@pytest.mark.slow
def test_a_picture_is_taken_once_in_whatever_way_it_is_named(network, pictures, tmp_path, monkeypatch):
    out, grey = tmp_path / "out", pictures / "grey.png"
    monkeypatch.chdir(tmp_path)
    ways = ["pictures/grey.png", grey, "pictures/../pictures/grey.png"]
    document = run(out, network, *ways)
    assert [row["image"] for row in document["images"]] == ways[:1]
    assert run(out, network, grey)["images"] == document["images"]
    shutil.copy(DATA / "grain.png", grey)
    with pytest.raises(UsageError, match=f"for other contents of {ways[2]}"):
        run(out, network, ways[2])


@pytest.mark.slow
def test_copies_are_pictures_of_their_own_with_a_warning(network, pictures, tmp_path):
    copy = shutil.copy(pictures / "grey.png", tmp_path / "copy.png")
    document = run(tmp_path / "out", network, pictures / "grey.png", copy)
    assert [row["name"] for row in document["images"]] == ["grey", "copy"]
    warning = f"{pictures / 'grey.png'} and {copy} are copies of one file: sums over pictures count it 2 times."
    assert warning in document["warnings"]


def test_its_own_model_is_not_deleted(network, pictures):
    with pytest.raises(UsageError, match="--overwrite would delete results beside"):
        run(network.parent, network, pictures / "grey.png", "--overwrite")
    assert network.exists()


@pytest.mark.slow
def test_rerun_finds_the_same_areas(network, tmp_path):
    run(tmp_path / "out", network, DATA / "grain.png", DATA / "stripes.png")
    words = [str(tmp_path / "out" / "results.json"), "--out", str(tmp_path / "again")]
    rerun.main(cli.parse(rerun.Options, {}, words))
    assert json.loads((tmp_path / "again" / "rerun.json").read_text())["differences"] == []


@pytest.mark.slow
def test_a_name_that_looks_like_a_formula_is_a_name(network, tmp_path):
    path = shutil.copy(DATA / "grain.png", tmp_path / r"a$\x$.png")
    assert run(tmp_path / "out", network, path)["images"][0]["name"] == r"a$\x$"
    assert (tmp_path / "out" / r"a$\x$-mask.png").exists()


@pytest.mark.slow
def test_pictures_of_one_name_are_told_apart(network, pictures, tmp_path):
    shutil.copy(pictures / "grey.png", pictures / "deep.png")
    (tmp_path / "more").mkdir()
    paths = [pictures / "deep.png", pictures / "deep.tif"]
    paths += [shutil.copy(path, tmp_path / "more") for path in paths]
    run(tmp_path / "out", network, *paths[:1])
    document = run(tmp_path / "out", network, *paths)
    names = ["deep", "deep.tif", "deep.png", "deep.tif-2"]
    assert [row["name"] for row in document["images"]] == names
    assert [row["image"] for row in document["images"]] == list(map(str, paths))
    assert all((tmp_path / "out" / f"{name}-mask.png").exists() for name in names)


@pytest.mark.slow
def test_a_long_name_is_cut_to_fit(network, tmp_path):
    # The third is cut within a letter of two bytes.
    stems = ["a" * 240, "a" * 239 + "b", "ab" + "\u00e9" * 119]
    for stem in stems:
        shutil.copy(DATA / "grain.png", tmp_path / f"{stem}.png")
    document = run(tmp_path / "out", network, *(tmp_path / f"{stem}.png" for stem in stems))
    assert [row["name"] for row in document["images"]] == stems
    written = {name for name in document["files"] if name.endswith("-probability.png")}
    assert len(written) == 3
    assert all((tmp_path / "out" / name).exists() and name.isprintable() for name in document["files"])
    # While it is written a file has another name, which is 5 bytes longer.
    assert max(len(os.fsencode(name)) for name in document["files"]) == 250


@pytest.mark.slow
@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines", b"\x1b[31mred"])
def test_a_name_that_no_page_can_show(name, network, tmp_path, capsys):
    path = shutil.copy(DATA / "grain.png", tmp_path / f"{os.fsdecode(name)}.png")
    document = run(tmp_path / "out", network, path)
    (row,) = document["images"]
    # The files keep the name, and the results where it came from.
    assert (tmp_path / "out" / f"{os.fsdecode(name)}-mask.png").exists()
    assert row["image"] == str(path)
    assert row["name"].isprintable()
    pages = [(tmp_path / "out" / page).read_text() for page in ("report.html", "tables.tex", "runs.csv")]
    shown = "".join([*pages, *capsys.readouterr()])
    assert os.fsdecode(name) not in shown
    assert row["name"] in shown


def test_a_network_that_diverged_is_no_secret(network):
    loaded = saved_models.load(network)
    assert segment_image.warnings(loaded, []) == []
    (said,) = segment_image.warnings(loaded._replace(diverged=True), [])
    assert "The training of this network diverged" in said


@pytest.mark.slow
def test_numbers_that_are_not_finite_are_no_mask(network, pictures, tmp_path, monkeypatch, capsys):
    right = tiling.segment

    def segment(model, variables, grey, *arguments):
        probability = right(model, variables, grey, *arguments)
        return (
            probability * np.nan if np.array_equal(grey, read(pictures / "grey.png") / np.float32(255)) else probability
        )

    monkeypatch.setattr(tiling, "segment", segment)
    with pytest.raises(SystemExit):
        run(tmp_path / "out", network, pictures / "grey.png", pictures / "colour.jpg")
    sentence = f"{pictures / 'grey.png'} gets no mask: the network's numbers for it are not finite"
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out" / "grey-mask.png").exists()
    assert (tmp_path / "out" / "colour-mask.png").exists()


@pytest.mark.slow
def test_pages_and_channels_are_pictures_of_their_own(network, tmp_path, capsys):
    grain, stripes = read(DATA / "grain.png"), read(DATA / "stripes.png")
    stack, out = tmp_path / "stack.tif", tmp_path / "out"
    tifffile.imwrite(stack, np.stack([grain, stripes, grain]), photometric="minisblack")
    with pytest.raises(UsageError, match=r"stack.tif is a stack: it holds 3 pictures, not one; choose one by --page"):
        run(out, network, stack)
    assert [row["name"] for row in run(out, network, stack, "--page", "2")["images"]] == ["stack-page002"]
    document = run(out, network, stack, "--page", "all")
    assert [row["name"] for row in document["images"]] == ["stack-page002", "stack-page001", "stack-page003"]
    assert read(out / "stack-page001-mask.png").shape == grain.shape
    plain = run(tmp_path / "plain", network, DATA / "stripes.png")["images"][0]
    assert document["images"][0]["first_pixels"] == plain["first_pixels"]
    colours = tmp_path / "colours.png"
    Image.fromarray(np.dstack([grain, stripes, grain])).save(colours)
    document = run(out, network, colours, "--channel", "2")
    assert document["images"][-1]["name"] == "colours-channel2"
    assert document["images"][-1]["first_pixels"] == plain["first_pixels"]


def test_a_box_outside_of_a_picture_and_a_folder_without_any_get_a_warning(network, tmp_path):
    (empty := tmp_path / "empty").mkdir()
    document = run(tmp_path / "out", network, DATA / "grain.png", empty, "--ignore-box", "0,0,9,9", "64,0,9,9")
    assert "grain has 64 x 64 pixels: the --ignore-box 64,0,9,9 lies outside of them." in document["warnings"]
    assert f"No picture is in {empty}." in document["warnings"]
    assert not any("0,0,9,9" in warning.replace("64,0,9,9", "") for warning in document["warnings"])


@pytest.mark.slow
def test_what_has_no_data_or_lies_in_a_box_is_left_out(network, tmp_path):
    heights = read(DATA / "grain.png").astype(np.float32)
    heights[10:20, 10:30] = -9999
    path = tmp_path / "heights.tif"
    tifffile.imwrite(path, heights, extratags=[(42113, 2, 0, "-9999", True)], resolution=(1e4, 1e4), resolutionunit=3)
    # Both ways of giving several boxes.
    words = ["--probability", "npy", "--ignore-box", "0,60,999,2", "0,62,999,2", "--ignore-box", "0,0,2,3"]
    document = run(tmp_path / "out", network, path, *words)
    (row,) = document["images"]
    left_out = np.zeros(heights.shape, bool)
    left_out[10:20, 10:30] = left_out[60:] = left_out[:3, :2] = True
    assert row["left_out_pixels"] == left_out.sum()
    assert row["first_pixels"] + row["second_pixels"] == (~left_out).sum()
    assert row["first_square_um"] == row["first_pixels"]
    np.testing.assert_array_equal(read(tmp_path / "out" / "heights-mask.png") == 128, left_out)
    np.testing.assert_array_equal(np.isnan(np.load(tmp_path / "out" / "heights-probability.npy")), left_out)


@pytest.mark.slow
def test_an_area_has_an_interval_if_the_picture_is_like_training(tmp_path, monkeypatch):
    path = tmp_path / saved_models.MODEL
    area = {"slope": 0.1, "tilt": 0.0, "picture": 1e-4, "square": 1e-3, "reach": 2.0}
    exemplars = EXEMPLARS | {
        "area": area,
        "novelty": {"squares": [[0.5] * 8] * 2, "images": [[0.5] * 8] * 2, "number": 16},
    }
    files = saved_models.files("shallow", random_variables(ARCHITECTURES["shallow"]), {"exemplars": exemplars}, False)
    path.write_bytes(files[path.name])
    (row,) = run(tmp_path / "strange", path, DATA / "grain.png")["images"]
    assert row["strange_share"] == 1
    assert row["first_share_low"] is None
    monkeypatch.setattr(
        novelty, "strange", lambda reference, image, *_: Strange(0.0, np.zeros(image.shape, bool), 0.5, False)
    )
    (row,) = run(tmp_path / "out", path, DATA / "grain.png", "--probability", "npy")["images"]
    interval = AreaError(**area).interval(np.load(tmp_path / "out" / "grain-probability.npy"), 32)
    assert (row["first_share_low"], row["first_share_high"]) == pytest.approx(interval)
    assert "95% interval of the true area" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
def test_a_negative_is_inverted(network, tmp_path):
    Image.fromarray(255 - read(DATA / "grain.png")).save(tmp_path / "negative.png")
    plain = run(tmp_path / "plain", network, DATA / "grain.png")["images"][0]
    negative = run(tmp_path / "out", network, tmp_path / "negative.png", "--invert")["images"][0]
    assert negative["first_pixels"] == pytest.approx(plain["first_pixels"], abs=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "takes more memory than there is"),
        (OSError(errno.EMFILE, "Too many open files"), "cannot be read: Too many open files"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "takes more memory than the device has"),
    ],
)
def test_a_picture_that_the_machine_failed_is_tried_again(error, message, network, tmp_path, monkeypatch, capsys):
    words = (tmp_path / "out", network, DATA / "grain.png", DATA / "stripes.png")
    right = tiling.segment

    def segment(model, variables, image, *arguments):
        if np.array_equal(image, read(DATA / "stripes.png") / np.float32(255)):
            raise error
        return right(model, variables, image, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tiling, "segment", segment)
        with pytest.raises(SystemExit):
            run(*words)
    error = capsys.readouterr().err
    assert f"{DATA / 'stripes.png'} {message}" in error
    assert "the same command tries it again" in error
    document = run(*words)
    assert [row["name"] for row in document["images"]] == ["grain", "stripes"]
    assert document["refused"] == []


@pytest.mark.slow
def test_an_error_of_the_program_is_no_picture_s(network, tmp_path, monkeypatch):
    def segment(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    monkeypatch.setattr(tiling, "segment", segment)
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        run(tmp_path / "out", network, DATA / "grain.png")


@pytest.mark.slow
def test_the_notebook_s_weights_from_pytorch(pictures, tmp_path):
    variables = random_variables(ARCHITECTURES["notebook"])
    save_file(torch_weights.to_state_dict(variables), tmp_path / "theirs.safetensors")
    document = run(tmp_path / "out", tmp_path / "theirs.safetensors", pictures / "grey.png")
    assert "share one BatchNorm" in document["warnings"][0]


@pytest.mark.slow
def test_the_same_command_again_has_nothing_to_do(network, tmp_path):
    words = (tmp_path / "out", network, DATA / "grain.png")
    run(*words)
    with pytest.raises(Finished):
        run(*words)
    assert len(run(tmp_path / "out", network, DATA / "stripes.png", "--overwrite")["images"]) == 1
    assert not (tmp_path / "out" / "grain-mask.png").exists()


def test_what_the_network_is_unsure_of():
    probability = np.array([[0.05, 0.1, 0.2, 0.5], [0.6, 0.9, 0.95, 1.0]])
    row = segment_image.describe(Path("a.png"), "a", probability, None)
    assert (row["first_pixels"], row["second_pixels"], row["unsure_pixels"]) == (4, 4, 3)
    assert (row["first_share"], row["unsure_share"]) == (0.5, 3 / 8)
    assert row["first_square_um"] is None
    # Where a square is strange nothing is sure; what is left out counts nowhere.
    probability[0, 0] = np.nan
    strange = Strange(0.5, np.array([[True] * 4, [False] * 4]), 2.0, False)
    row = segment_image.describe(Path("a.png"), "a", probability, strange, pixel_area=0.25)
    assert (row["first_pixels"], row["second_pixels"], row["unsure_pixels"], row["left_out_pixels"]) == (4, 3, 4, 1)
    assert (row["first_share"], row["first_square_um"], row["second_square_um"]) == (4 / 7, 1.0, 0.75)
    row |= {"first_share_low": 0.5, "first_share_high": 0.625}
    assert segment_image.area(row, "second") == "42.9%\n(37.5 to 50.0)\n3 pixels\n0.75 \u00b5m\u00b2"
    assert segment_image.area(row, "unsure") == "57.1%\n4 pixels"


def row(name="a", strange=0.0, distance=0.0, negative=False, outliers=0):
    strange = None if strange is None else Strange(strange, np.zeros((16, 16), bool), distance, negative)
    described = segment_image.describe(Path(f"{name}.png"), name, np.eye(16), strange)
    return {**described, "outlier_pixels": outliers, "first_share_low": None, "first_share_high": None}


def test_a_picture_of_something_else_gets_a_warning(network):
    loaded = saved_models.load(network)
    rows = [row("like", 0.25, 1.0), row("unlike", 0.9), row("far", 0.0, 1.3), row("unknown", None)]
    unlike, far = segment_image.warnings(loaded, rows)
    assert unlike.startswith("unlike may show something else than brick and grass, or these at another magnification")
    assert "Of its squares 90% are unlike" in unlike
    assert "its means are 1.3 times as far" in far
    strange, negative = segment_image.warnings(loaded, [row("dark", negative=True)])
    assert strange.startswith("dark may show something else than brick and grass")
    assert negative == "dark looks like a negative of the training images; --invert swaps dark and bright."
    (dotted,) = segment_image.warnings(loaded, [row("dotted", outliers=2), row("clean")])
    assert dotted.startswith("dotted has 2 pixels far from all others")
    (dotted,) = segment_image.warnings(loaded, [row("dotted", outliers=1)])
    assert dotted.startswith("dotted has 1 pixel far from all others, hot or without data")
    assert "A dash" in segment_image.table(rows, loaded).note
    assert "A dash" not in segment_image.table(rows[:3], loaded).note


def test_the_report_says_how_many_pictures_it_leaves_out(network):
    small = np.zeros((4, 5, 3), np.uint8)
    previews = {"picture": small, "overlay": small, "probability": np.zeros((4, 5))}
    pictures = [segment_image.Segmented(0, "", name, row(name), previews) for name in "abcdefghijklm"]
    loaded = saved_models.load(network)
    figure = segment_image.figure(pictures, 14, loaded)
    assert figure.get_suptitle().replace("\n", " ").endswith("(the first 12 of 14 pictures)")
    assert len([axes for axes in figure.axes if axes.images]) == 3 * 12
    assert "leaves out 1" in segment_image.findings([picture.row for picture in pictures], [], loaded)[1]


@pytest.mark.slow
def test_pictures_beyond_the_room_of_the_figure_make_none(network, tmp_path, monkeypatch):
    monkeypatch.setattr(segment_image, "MAX_PREVIEWS", 1)
    run(tmp_path, network, DATA / "grain.png", DATA / "stripes.png")
    assert (tmp_path / "pictures.png").exists()
    (tmp_path / "grain-mask.png").unlink()
    assert [row["name"] for row in run(tmp_path, network, DATA / "stripes.png")["images"]] == ["stripes"]
    assert not (tmp_path / "pictures.png").exists()


def test_many_pixels_are_counted_without_a_power_of_ten(network):
    large = [row("a") | {"first_pixels": 5_000_000, "second_pixels": 7_000_000} for _ in range(10)]
    first, second = segment_image.findings(large, [{"image": "b.png"}], saved_models.load(network))
    assert first.startswith("120 million pixels in 10 pictures: ")
    assert second == "1 more got no mask; the last table says why."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([__file__, DATA / "grain.png"], "is not a model of these experiments"),
        (["absent", DATA / "grain.png"], "absent cannot be read: No such file"),
        (["MODEL", "absent.png"], "^absent.png cannot be read: No such file"),
        (["MODEL", DATA / "README.md"], "README.md is not a picture in PNG, JPEG or TIFF"),
        (
            ["MODEL", DATA.parents[1] / "docs" / "images" / ".."],
            "IMAGE must name pictures, or folders of them; none was found",
        ),
        (["MODEL", DATA / "grain.png", "--tile-size", "0"], "--tile-size must be an integer >= 1"),
        (["MODEL", DATA / "grain.png", "--tile-size", "4294967296"], "--tile-size must be an integer <= 2147483647"),
        (["MODEL", DATA / "grain.png", "--max-megapixels", "nan"], "--max-megapixels must be a finite number > 0"),
        (["MODEL", DATA / "grain.png", "--max-megapixels", "inf"], "--max-megapixels must be a finite number > 0"),
        (["MODEL", DATA / "grain.png", "--max-megapixels", "0.001"], "more than the 0.001 million of --max-megapixels"),
        (["MODEL"], "IMAGE must name pictures"),
        (["MODEL", DATA / "grain.png", "--page", "0"], "--page must be an integer >= 1"),
        (["MODEL", DATA / "grain.png", "--page", "2"], "grain.png has 1 page, and no page 2"),
        (["MODEL", DATA / "grain.png", "--channel", "-1"], "--channel must be an integer >= 1"),
        (["MODEL", DATA / "grain.png", "--channel", "2"], "grain.png has 1 channel, and no channel 2"),
        (["MODEL", DATA / "grain.png", "--ignore-box", "1,2,3"], "--ignore-box must be X,Y,WIDTH,HEIGHT in pixels"),
        (["MODEL", DATA / "grain.png", "--ignore-box", "1,2,3,0"], "--ignore-box must be X,Y,WIDTH,HEIGHT in pixels"),
        (["MODEL", DATA / "grain.png", "--ignore-box", "1,2,00,3"], "--ignore-box must be X,Y,WIDTH,HEIGHT in pixels"),
        (["MODEL", DATA / "grain.png", "--ignore-box", "0,0,999,999"], "grain.png: --ignore-box leaves no pixel"),
    ],
)
def test_refuses(arguments, message, network, tmp_path):
    words = [network if word == "MODEL" else word for word in arguments]
    with pytest.raises(UsageError, match=message) as error:
        run(tmp_path / "out", *words)
    assert "\n" not in str(error.value)
    out = tmp_path / "out"
    assert not out.exists() or not any(out.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MODEL", DATA / "grain.png", "--probability", "tiff"], "invalid choice"),
        ([], "MODEL"),
    ],
)
def test_a_command_line_without_sense_is_refused(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        run(tmp_path / "out", *words)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
