import shutil

import numpy as np
import pytest
from conftest import DATA, photograph
from PIL import Image
from small_runs import SMALL, execute, parse, ticking

from experiments import learn_textures
from experiments.lab.stops import UsageError
from experiments.pictures import saved_models
from segjax.plotting import COLOURS

WORDS = [*SMALL, "--batch-size", "4", "--held-out", "32", "--architecture", "kernel_3"]


def run(out, first, second, *arguments):
    return execute(learn_textures, *WORDS, "--first", first, "--second", second, "--out", out, *arguments)


@pytest.mark.deep
def test_learns_from_two_photographs(tmp_path):
    for name in ("brick", "gravel"):
        Image.open(photograph(name)).crop((0, 0, 256, 96)).save(tmp_path / f"{name}.png")
    # 40 chunks of 10 steps, on any machine: half a second each, and the next would end too late.
    with ticking(0.5):
        document = run(tmp_path / "out", tmp_path / "brick.png", tmp_path / "gravel.png", "--seconds", "20.5")
    assert document["snapshots"][-1]["step"] == 400
    assert document["snapshots"][-1]["accuracy"] > 0.75
    network = saved_models.load(tmp_path / "out" / "model.safetensors")
    assert network.names == ("brick", "gravel")
    assert network.image_size == 16
    assert network.texture is None


@pytest.mark.parametrize(("shape", "axis", "kept"), [((64, 200), 1, 50), ((200, 64), 0, 50), ((64, 64), 1, 32)])
def test_the_strip_is_apart(shape, axis, kept):
    exemplar = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    trained, strip = learn_textures.split("a.png", exemplar, image_size=32)
    assert strip.shape[axis] == kept
    np.testing.assert_array_equal(np.concatenate([trained, strip], axis), exemplar)


@pytest.mark.slow
def test_steps_in_place_of_seconds_repeat(tmp_path):
    pictures = (DATA / "grain.png", DATA / "stripes.png")
    models = []
    for name, tick in (("fast", 0.01), ("slow", 3.0)):
        with ticking(tick):
            document = run(tmp_path / name, *pictures, "--steps", "25")
        assert [snapshot["step"] for snapshot in document["snapshots"]] == [10, 20, 25]
        models.append((tmp_path / name / "model.safetensors").read_bytes())
    assert models[0] == models[1]


@pytest.mark.slow
def test_a_training_that_diverges_ends_with_a_warning(tmp_path):
    pictures = (DATA / "grain.png", DATA / "stripes.png")
    words = ["--steps", "20", "--learning-rate", "1e38", "--optimizer", "sgd", "--schedule", "constant"]
    assert run(tmp_path / "out", *pictures, *words)["warnings"] == [saved_models.DIVERGED]


PICTURE = DATA / "stripes.png"
BOXED = ["--picture", PICTURE, "--second", "0,32,64,32"]


@pytest.mark.parametrize(
    ("size", "boxes", "crop"),
    [
        (64, ("0,0,128,64", "130,70,70,140"), 64),
        # Twice a crop along the longer side, once along the shorter; a multiple of 8.
        (64, ("0,0,90,50", "100,0,60,200"), 40),
        (64, ("0,0,200,47", "100,60,60,140"), 40),
    ],
)
def test_crops_come_from_the_boxes_alone_and_fit_them(size, boxes, crop, tmp_path):
    picture = np.random.default_rng(0).uniform(size=(240, 200)).astype(np.float32)
    Image.fromarray(picture).save(tmp_path / "a.tif")
    words = ["quick", "--image-size", size, "--picture", tmp_path / "a.tif"]
    options = parse(learn_textures, *words, "--first-box", boxes[0], "--second-box", boxes[1])
    options.check()
    assert options.fitting.image_size == crop
    assert options.fitting.masks["sigma"] == crop / 5
    for text, ((training,), (strip,)) in zip(boxes, options.parts, strict=True):
        x, y, width, height = map(int, text.split(","))
        axis = int(width >= height)
        assert strip.shape[axis] >= crop
        box = picture[y : y + height, x : x + width]
        np.testing.assert_array_equal(np.concatenate([training, strip], axis), box)


def test_a_material_may_have_photographs_and_boxes_in_several_pictures(tmp_path):
    rng = np.random.default_rng(0)
    # A comma in a name is no box.
    names = tmp_path / "a.tif", tmp_path / "10 kV, left.tif"
    pictures = rng.uniform(size=(2, 120, 200)).astype(np.float32)
    for name, picture in zip(names, pictures, strict=True):
        Image.fromarray(picture).save(name)
    words = ["quick", "--picture", names[0], "--second", "0,0,70,120", f"{names[0]}:70,0,60,120"]
    options = parse(learn_textures, *words, "--first", "130,0,70,120", "--first", names[1])
    options.check()
    assert options.inputs() == list(names)
    assert [len(material) for material in options.parts] == [2, 2]
    regions = [(0, (130, 200)), (1, (0, 200))], [(0, (0, 70)), (0, (70, 130))]
    for material, places in zip(options.parts, regions, strict=True):
        for training, strip, (index, columns) in zip(*material, places, strict=True):
            region = pictures[index][:, slice(*columns)]
            axis = int(region.shape[1] >= region.shape[0])
            np.testing.assert_array_equal(np.concatenate([training, strip], axis), region)


@pytest.mark.slow
def test_boxes_in_two_pictures(tmp_path):
    # Rough on the left and smooth on the right.
    noise = np.random.default_rng(0).normal(size=(64, 256))
    smooth = 2 * (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 3
    wall = np.where(np.arange(256) < 128, noise, smooth).astype(np.float32)
    # Upside down, since the same picture twice is refused.
    for name, picture in {"wall": wall, "other": wall[::-1].copy()}.items():
        Image.fromarray(picture).save(tmp_path / f"{name}.tif")
    words = ["--picture", tmp_path / "wall.tif", "--first", "0,0,120,64", "--second", "136,0,64,64"]
    words += [f"{tmp_path / 'other.tif'}:136,0,120,64", "--seconds", "3", "--out", tmp_path / "out"]
    with ticking(0.5):
        document = execute(learn_textures, *WORDS, *words)
    assert {"boxes.png", "model.safetensors"} <= set(document["files"])
    frames = np.asarray(Image.open(tmp_path / "out" / "boxes.png").convert("RGB"))
    # Both materials are framed in the left picture, the second alone in the right one.
    halves = np.array_split(frames, 2, axis=1)
    colours = [tuple(bytes.fromhex(colour[1:])) for colour in COLOURS[:2]]
    framed = [[(half == colour).all(axis=-1).any() for colour in colours] for half in halves]
    assert framed == [[True, True], [False, True]]
    network = saved_models.load(tmp_path / "out" / "model.safetensors")
    assert network.names == ("wall 0,0,120,64", "wall and 1 more")
    assert network.area.square + network.area.picture > 0
    assert network.reference.number == 4


def test_a_copy_of_a_photograph_is_no_second_material(tmp_path):
    copy = shutil.copy(PICTURE, tmp_path / "copy.png")
    with pytest.raises(UsageError, match=r"stripes\.png and .*copy\.png overlap"):
        run(tmp_path / "out", PICTURE, copy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--second", "x.png"], "--first and --second are needed"),
        (["--picture", PICTURE], "--first and --second are needed"),
        (["--picture", PICTURE, "--first", "y.png", "--second", "x.png"], "--picture .*stripes.png has no box"),
        (["--first", "0,0,9,9", "--second", PICTURE], "the box 0,0,9,9 of --first needs its file, FILE:0,0,9,9, or"),
        ([*BOXED, "--first", "0,0,9"], "--first must be X,Y,WIDTH,HEIGHT in pixels"),
        ([*BOXED, "--first", f"{PICTURE}:0,0,-9,9"], "--first must be X,Y,WIDTH,HEIGHT in pixels.*, got '0,0,-9,9'"),
        (
            [*BOXED, "--first", "0,0,65,32"],
            "the box .*stripes.png:0,0,65,32 reaches beyond its picture, which has 64 x 64 pixels",
        ),
        ([*BOXED, "--first", "0,0,64,31"], "the box .*:0,0,64,31 is too small: each side must have 32"),
        ([*BOXED, "--first", "0,0,30,32"], "is too small: each side must have 32 pixels, and the longer one 64"),
        ([*BOXED, "--first", "0,1,64,32"], "stripes.png:0,1,64,32 and .*stripes.png:0,32,64,32 overlap"),
        ([*BOXED, "--first", PICTURE], "stripes.png and .*stripes.png:0,32,64,32 overlap"),
        (["--first", PICTURE, PICTURE, "--second", DATA / "grain.png"], "stripes.png and .*stripes.png overlap"),
        ([*BOXED, "--first", "0,0,64,32", "--page", "2"], "stripes.png has 1 page, and no page 2"),
        ([*BOXED, "--first", "0,0,64,32", "--channel", "0"], "--channel must be an integer >= 1"),
        (["--first", "x.png", "--second", "y.png"], "x.png cannot be read: No such file"),
        (["--first", __file__, "--second", PICTURE], "is not a picture in PNG, JPEG or TIFF"),
        (
            ["--first", str(DATA / "stripes.png"), "--second", str(DATA / "grain.png"), "--image-size", "48"],
            "stripes.png has 64 x 64 pixels; its longer side must have twice the --image-size, 96",
        ),
        (
            ["--first", str(DATA / "stripes.png"), "--second", str(DATA / "grain.png"), "--image-size", "65"],
            "stripes.png has 64 x 64 pixels; both sides must have at least 65",
        ),
        (["--image-size", "4294967296"], "--image-size must be an integer <= 2147483647"),
        (
            ["--first", str(DATA / "stripes.png"), "--second", str(DATA / "grain.png"), "--image-size", "5000"],
            "stripes.png has 64 x 64 pixels; both sides must have at least 5000",
        ),
        (["--max-megapixels", "inf"], "--max-megapixels must be a finite number > 0"),
        (["--max-megapixels", "nan"], "--max-megapixels must be a finite number > 0"),
        (["--steps", "0"], "--steps must be an integer >= 1"),
        (["--batch-size", "0"], "--batch-size must be an integer >= 1"),
        (["--sigma", "0"], "--sigma must be a finite number > 0"),
        (["--contrast", "nan"], r"--contrast must be a number in \[0, 1\)"),
        (["--contrast", "1"], r"--contrast must be a number in \[0, 1\)"),
        (["--image-size", "7"], "--image-size must be an integer >= 8, got 7"),
    ],
)
def test_refuses(arguments, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        execute(learn_textures, *WORDS, *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
