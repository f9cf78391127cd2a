"""Files in and out: what is refused, what is written, and which files of a folder are pictures."""

import io
import os
import random
from pathlib import Path

import numpy as np
import pytest
from picture_files import COLOURS, SHADES, by_pillow, deep_png, png, read
from PIL import Image

from experiments.pictures import photographs


def test_jpeg_is_close_and_a_camera_s_preview_is_no_second_picture(tmp_path):
    smooth = np.broadcast_to(np.linspace(0, 255, 24).astype(np.uint8), (18, 24))
    by_pillow(smooth, path := tmp_path / "a.JPEG", quality=95)
    np.testing.assert_allclose(read(path).grey, smooth / 255, atol=0.03)
    small = Image.fromarray(SHADES[:9, :12])
    Image.fromarray(smooth).save(path, format="MPO", save_all=True, append_images=[small], quality=95)
    np.testing.assert_allclose(read(path).grey, smooth / 255, atol=0.03)


def frames(path, kind):
    others = [Image.fromarray(255 - SHADES)]
    Image.fromarray(SHADES).save(path, format=kind, save_all=True, append_images=others)


def bad_files(folder):
    """name -> the message for it."""
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    by_pillow(SHADES[:1, :1], folder / "dot.png")
    frames(folder / "moving.png", "PNG")
    frames(folder / "stack.tif", "TIFF")
    Image.fromarray(SHADES).save(folder / "cartoon.jpg", format="GIF")
    by_pillow(np.dstack([COLOURS, SHADES]), folder / "holes.png")
    Image.fromarray(SHADES).save(folder / "key.png", transparency=int(SHADES[0, 0]))
    heights = SHADES.astype(np.float32)
    heights[3, 3] = np.nan
    by_pillow(heights, folder / "nan.tif")
    heights[3, 3] = -3.4e38
    by_pillow(heights, folder / "nodata.tif")
    (folder / "bomb.png").write_bytes(png(100_000, 100_000, depth=8, kind=0, rows=b""))
    by_pillow(SHADES, folder / "whole.png")
    (folder / "short.png").write_bytes((folder / "whole.png").read_bytes()[:200])
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    return {
        "absent.png": "cannot be read: No such file",
        "empty.png": "is not a picture in PNG, JPEG or TIFF",
        "text.png": "is not a picture in PNG, JPEG or TIFF",
        "dot.png": "has 1 x 1 pixels; both sides must have at least 16",
        "moving.png": "is animated: it holds 2 pictures, not one",
        "stack.tif": "is a stack: it holds 2 pictures, not one; choose one by --page",
        "cartoon.jpg": "is not a picture in PNG, JPEG or TIFF",
        "holes.png": "is partly transparent",
        "key.png": "is partly transparent",
        "nan.tif": "has pixels that are no finite numbers",
        "nodata.tif": "has pixels as large as 3e+38, which stand for missing data",
        "bomb.png": "has 100000 x 100000 pixels, more than the 1 million of --max-megapixels",
        "short.png": "cannot be read: image file is truncated",
        "folder.png": "cannot be read: it is a folder, a pipe or a device, not a file",
        "pipe.png": "cannot be read: it is a folder, a pipe or a device, not a file",
        "link.png": "cannot be read: No such file",
        "loop.png": "cannot be read: Too many levels of symbolic links",
        "a" * 300: "cannot be read: File name too long",
        "/dev/zero": "cannot be read: it is a folder, a pipe or a device, not a file",
    }


def test_what_cannot_be_read_is_one_line(tmp_path):
    for name, message in bad_files(tmp_path).items():
        with pytest.raises(ValueError, match=r"pixels|picture|read|transparent|stack") as error:
            read(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name} {message}"), name
        assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_a_damaged_file_is_the_picture_or_an_error(ending, tmp_path):
    by_pillow(SHADES, path := tmp_path / f"whole.{ending}")
    content, whole, rng = path.read_bytes(), read(path).grey, random.Random(0)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        # A JPEG has no checksum: its last bytes may be missing and its last squares be grey.
        shades = read_or_none(path)
        assert shades is None or ending == "jpg" or np.array_equal(shades, whole), length
    refused = 0
    for _ in range(300):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        shades = read_or_none(path)
        refused += shades is None
        assert shades is None or ending != "png" or np.array_equal(shades, whole)
    assert refused > 10


def read_or_none(path):
    try:
        return read(path).grey
    except ValueError as error:
        message = str(error)
    assert "\n" not in message
    assert str(path) in message
    return None


def test_what_was_written_is_read_again():
    probability = np.linspace(0, 1, 20 * 30, dtype=np.float32).reshape(20, 30)
    mask = np.asarray(Image.open(io.BytesIO(photographs.mask_png(probability))))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, 255 * (probability > 0.5))
    deep = np.asarray(Image.open(io.BytesIO(photographs.probability_png(probability))))
    assert deep.dtype == np.uint16
    np.testing.assert_allclose(deep / 65535, probability, atol=0.51 / 65535)


def test_the_overlay_tints_by_texture():
    grey = np.linspace(-3, 5, 20 * 30).reshape(20, 30)
    probability = (np.arange(30) < 15) * np.ones((20, 1))
    overlay = np.asarray(Image.open(io.BytesIO(photographs.png(photographs.overlay(grey, probability))))).astype(int)
    assert overlay.shape == (20, 30, 3)
    # Blue where the first texture is, red where the second is; and the picture's light goes through both.
    assert np.all(overlay[:, :15, 2] > overlay[:, :15, 0])
    assert np.all(overlay[:, 15:, 0] > overlay[:, 15:, 2])
    assert np.all(overlay[19] > overlay[0] + 100)


def test_a_small_copy_has_the_colours_of_the_picture(tmp_path):
    colours = np.zeros((40, 64, 3), np.uint8)
    colours[:, :32] = (200, 10, 90)
    Image.fromarray(colours).save(tmp_path / "colour.png")
    np.testing.assert_array_equal(read(tmp_path / "colour.png", side=16).preview, colours[::4, ::4])
    # Deeper colours: from the darkest to the brightest.
    deep_png(tmp_path / "deep.png", 100 + COLOURS.astype(np.uint16))
    np.testing.assert_array_equal(read(tmp_path / "deep.png", side=24).preview, COLOURS)
    assert read(tmp_path / "colour.png", channel=1).preview is None


def test_folders_are_searched_in_order(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", "c.tiff"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "deeper").mkdir()
    pictures = [tmp_path / name for name in ("a.JPG", "b.png", "c.tiff")]
    assert photographs.search([tmp_path])[0] == pictures
    for name in ("d.bmp", "e.GIF"):
        (tmp_path / name).touch()
    assert photographs.search([tmp_path, tmp_path / "d.bmp"])[1] == [tmp_path / "d.bmp", tmp_path / "e.GIF"]
    assert photographs.search([tmp_path])[0] == pictures
    assert photographs.search([tmp_path / "notes.txt", tmp_path, tmp_path / "b.png"])[0] == [
        tmp_path / "notes.txt",
        *pictures,
    ]


def test_a_file_is_taken_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("inside").mkdir()
    Path("a.png").touch()
    Path("inside/link.png").symlink_to("../a.png")
    ways = [Path("a.png"), tmp_path / "a.png", Path("inside/../a.png"), Path("inside")]
    assert photographs.search(ways)[0] == ways[:1]
    assert photographs.search(ways[:0:-1])[0] == [Path("inside/link.png")]


def test_a_name_that_is_too_long_is_no_folder(tmp_path):
    path = tmp_path / ("a" * 300)
    assert photographs.search([path])[0] == [path]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        (b"wall.png", "wall"),
        ("ziegel-\u00fc.png".encode(), "ziegel-\u00fc"),
        (b"caf\xe9.png", r"caf\udce9"),
        (b"two\nlines.png", r"two\nlines"),
        (b"\x1b[31mred.png", r"\x1b[31mred"),
    ],
)
def test_a_label_can_be_shown(name, label):
    assert photographs.label(Path(os.fsdecode(name))) == label


def test_a_figure_s_label_is_short_and_no_formula():
    assert photographs.figure_label("a$x$") == r"a\$x\$"
    assert photographs.figure_label("holiday_" * 9 + "0001") == "holiday_hol...liday_0001"
