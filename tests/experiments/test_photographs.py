import io
import random
import zlib

import numpy as np
import pytest
from PIL import Image

from experiments.lab import photographs

SHADES = np.random.default_rng(0).integers(0, 256, (18, 24)).astype(np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (18, 24, 3)).astype(np.uint8)
LUMA = np.array([0.299, 0.587, 0.114])


def read(path):
    return photographs.read(path, max_megapixels=1.0, smallest=16)


def write(path, array, mode=None, **options):
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


@pytest.mark.parametrize("ending", ["png", "tif", "TIFF"])
def test_grey_of_8_and_16_bits(ending, tmp_path):
    path = tmp_path / f"grey.{ending}"
    np.testing.assert_allclose(read(write(path, SHADES)), SHADES / 255, atol=1e-7)
    deep = SHADES.astype(np.uint16) * 256 + 17
    np.testing.assert_allclose(read(write(path, deep)), deep / 65535, atol=1e-7)


def test_floating_point_keeps_its_numbers(tmp_path):
    numbers = SHADES.astype(np.float32) * 3 - 100
    np.testing.assert_array_equal(read(write(tmp_path / "float.tif", numbers)), numbers)
    whole = SHADES.astype(np.int32) * 1000
    np.testing.assert_array_equal(read(write(tmp_path / "int.tif", whole)), whole)


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "RGBA", "P"])
def test_colours_become_grey(mode, tmp_path):
    path = write(tmp_path / ("colour.tif" if mode == "CMYK" else "colour.png"), COLOURS, mode)
    wanted = np.asarray(Image.open(path).convert("RGB")) @ LUMA / 255
    np.testing.assert_allclose(read(path), wanted, atol=1e-6)
    if mode in ("RGB", "RGBA"):
        np.testing.assert_allclose(wanted, COLOURS @ LUMA / 255)


def test_colours_of_16_bits_keep_8(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "deep.tif"
    tifffile.imwrite(path, COLOURS.astype(np.uint16) * 256 + 99, photometric="rgb")
    np.testing.assert_allclose(read(path), COLOURS @ LUMA / 255, atol=1e-6)
    # PNG in a file made by hand, since no library here writes it: rows of big-endian numbers, no filter.
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in COLOURS.astype(np.uint16) * 256 + 99)
    path = tmp_path / "deep.png"
    path.write_bytes(png(24, 18, depth=16, kind=2, rows=rows))
    np.testing.assert_allclose(read(path), COLOURS @ LUMA / 255, atol=1e-6)


def png(width, height, depth, kind, rows):
    def chunk(name, content):
        return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([depth, kind, 0, 0, 0])
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_jpeg_is_close(tmp_path):
    smooth = np.broadcast_to(np.linspace(0, 255, 24).astype(np.uint8), (18, 24))
    path = write(tmp_path / "a.JPEG", smooth, quality=95)
    np.testing.assert_allclose(read(path), smooth / 255, atol=0.03)


def test_a_picture_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    path = write(tmp_path / "turned.png", SHADES, exif=exif)
    np.testing.assert_allclose(read(path), np.rot90(SHADES, -1) / 255, atol=1e-7)


def test_a_camera_s_preview_is_no_second_picture(tmp_path):
    path = tmp_path / "camera.jpg"
    small = Image.fromarray(SHADES[:9, :12])
    Image.fromarray(SHADES).save(path, format="MPO", save_all=True, append_images=[small], quality=95)
    assert read(path).shape == SHADES.shape


def frames(path, kind):
    others = [Image.fromarray(255 - SHADES)]
    Image.fromarray(SHADES).save(path, format=kind, save_all=True, append_images=others)


def bad_files(folder):
    """name -> what is said of it."""
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    write(folder / "dot.png", SHADES[:1, :1])
    frames(folder / "moving.png", "PNG")
    frames(folder / "stack.tif", "TIFF")
    Image.fromarray(SHADES).save(folder / "cartoon.jpg", format="GIF")
    holes = np.dstack([COLOURS, SHADES])
    write(folder / "holes.png", holes)
    colour_key = Image.fromarray(SHADES)
    colour_key.save(folder / "key.png", transparency=int(SHADES[0, 0]))
    numbers = SHADES.astype(np.float32)
    numbers[3, 3] = np.nan
    write(folder / "nan.tif", numbers)
    numbers[3, 3] = -3.4e38
    write(folder / "nodata.tif", numbers)
    (folder / "bomb.png").write_bytes(png(100_000, 100_000, depth=8, kind=0, rows=b""))
    (folder / "short.png").write_bytes(write(folder / "whole.png", SHADES).read_bytes()[:200])
    (folder / "folder.png").mkdir()
    return {
        "absent.png": "cannot be read: No such file",
        "empty.png": "is not a picture in PNG, JPEG or TIFF",
        "text.png": "is not a picture in PNG, JPEG or TIFF",
        "dot.png": "has 1 x 1 pixels; both sides must have at least 16",
        "moving.png": "is animated, or a stack: it holds 2 pictures, not one",
        "stack.tif": "is animated, or a stack: it holds 2 pictures, not one",
        "cartoon.jpg": "is not a picture in PNG, JPEG or TIFF",
        "holes.png": "is partly transparent",
        "key.png": "is partly transparent",
        "nan.tif": "has pixels that are no finite numbers",
        "nodata.tif": "has pixels as large as 3e+38, which stand for missing data",
        "bomb.png": "has 100000 x 100000 pixels, more than the 1 million of --max-megapixels",
        "short.png": "cannot be read: image file is truncated",
        "folder.png": "cannot be read: Is a directory",
    }


def test_what_cannot_be_read_is_one_line(tmp_path):
    for name, message in bad_files(tmp_path).items():
        with pytest.raises(ValueError, match=r"pixels|picture|read|transparent") as error:
            read(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name} {message}"), name
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_a_damaged_file_is_the_picture_or_an_error(ending, tmp_path):
    path = write(tmp_path / f"whole.{ending}", SHADES)
    content, whole, rng = path.read_bytes(), read(path), random.Random(0)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        # A JPEG has no checksum: its last bytes may be missing and its last squares be grey.
        lost = read_or_none(path)
        assert lost is None or ending == "jpg" or np.array_equal(lost, whole), length
    refused = 0
    for _ in range(300):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        seen = read_or_none(path)
        refused += seen is None
        assert seen is None or ending != "png" or np.array_equal(seen, whole)
    assert refused > 10


def read_or_none(path):
    try:
        return read(path)
    except ValueError as error:
        said = str(error)
    assert "\n" not in said
    assert str(path) in said
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
    overlay = np.asarray(Image.open(io.BytesIO(photographs.overlay_png(grey, probability)))).astype(int)
    assert overlay.shape == (20, 30, 3)
    # Blue where the first texture is, red where the second is; and the picture's light goes through both.
    assert np.all(overlay[:, :15, 2] > overlay[:, :15, 0])
    assert np.all(overlay[:, 15:, 0] > overlay[:, 15:, 2])
    assert np.all(overlay[19] > overlay[0] + 100)


def test_folders_are_searched_in_order(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", "c.tiff"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "deeper").mkdir()
    wanted = [tmp_path / name for name in ("a.JPG", "b.png", "c.tiff")]
    assert photographs.find([tmp_path]) == wanted
    assert photographs.find([tmp_path / "notes.txt", tmp_path, tmp_path / "b.png"]) == [tmp_path / "notes.txt", *wanted]
