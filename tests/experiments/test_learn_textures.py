import numpy as np
import pytest
from conftest import DATA, photograph
from PIL import Image
from small_runs import SMALL, execute, ticking

from experiments import learn_textures
from experiments.lab.stops import UsageError
from experiments.pictures import saved_models

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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--second", "x.png"], "--first and --second are needed"),
        (["--first", "x.png", "--second", "y.png"], "x.png cannot be read: No such file"),
        (["--first", __file__, "--second", __file__], "is not a picture in PNG, JPEG or TIFF"),
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
        (["--batch-size", "0"], "--batch-size must be an integer >= 1"),
        (["--sigma", "0"], "--sigma must be a finite number > 0"),
        (["--contrast", "nan"], r"--contrast must be a number in \[0, 1\)"),
        (["--contrast", "1"], r"--contrast must be a number in \[0, 1\)"),
    ],
)
def test_refuses(arguments, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        execute(learn_textures, *WORDS, *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
