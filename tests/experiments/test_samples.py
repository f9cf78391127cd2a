"""The numbers of a picture: their bits, their opacity, their orientation and their precision."""

import numpy as np
import pytest
import tifffile
from picture_files import COLOURS, DEEP, LUMA, SHADES, TURNS, by_pillow, deep_png, grey, png, read
from PIL import Image


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA", "P"])
def test_png_in_every_mode(mode, tmp_path):
    picture = Image.fromarray(COLOURS).convert(mode)
    picture.save(path := tmp_path / "a.png")
    np.testing.assert_allclose(read(path).grey, np.asarray(picture.convert("RGB")) @ LUMA / 255, atol=1e-6)


def test_png_keeps_its_16_bits(tmp_path):
    path = tmp_path / "deep.png"
    by_pillow(DEEP, path)
    np.testing.assert_allclose(read(path).grey, grey(DEEP), atol=1e-7)
    # Of 0 to 255 in 16 bits Pillow gives a constant 0.
    for colours in (COLOURS.astype(np.uint16), COLOURS.astype(np.uint16) * 250 + 99):
        deep_png(path, colours)
        np.testing.assert_allclose(read(path).grey, grey(colours), atol=1e-8)
        opaque = np.full_like(colours[..., :1], 65535)
        deep_png(path, np.concatenate([colours, opaque], axis=-1))
        np.testing.assert_allclose(read(path).grey, grey(colours), atol=1e-8)
        deep_png(path, np.concatenate([colours, opaque - 1], axis=-1))
        with pytest.raises(ValueError, match="is partly transparent"):
            read(path)
    deep_png(path, np.concatenate([colours[..., :1], opaque], axis=-1))
    with pytest.raises(ValueError, match="has grey and opacity of 16 bits, which Pillow reads with 8"):
        read(path)


@pytest.mark.parametrize(("depth", "kind"), [(2, 0), (4, 0), (16, 0), (16, 2)])
def test_refuses_a_transparent_colour_that_pillow_misses(depth, kind, tmp_path):
    samples = 3 if kind == 2 else 1
    path = tmp_path / "key.png"
    rows = (b"\0" + b"\1" * (24 * depth * samples // 8)) * 18
    path.write_bytes(png(24, 18, depth, kind, rows, transparent=(1,) * samples))
    with pytest.raises(ValueError, match=r"key.png has a transparent colour of other than 8 bits"):
        read(path)


def test_a_picture_is_upright(tmp_path):
    exif = Image.Exif()
    for orientation, turn in TURNS.items():
        exif[274] = orientation
        by_pillow(SHADES, path := tmp_path / "turned.png", exif=exif)
        np.testing.assert_allclose(read(path).grey, grey(turn(SHADES)), atol=1e-7)


def test_numbers_keep_the_precision_that_they_need(tmp_path):
    path = tmp_path / "offset.tif"
    for kind in ("float64", "uint32", "int32"):
        tifffile.imwrite(path, array := 1_000_000_000 + SHADES.astype(kind))
        np.testing.assert_array_equal(read(path).grey, array)
