import io
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.pictures import photographs

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
    expected = np.asarray(Image.open(path).convert("RGB")) @ LUMA / 255
    np.testing.assert_allclose(read(path), expected, atol=1e-6)
    if mode in ("RGB", "RGBA"):
        np.testing.assert_allclose(expected, COLOURS @ LUMA / 255)


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


def png(width, height, depth, kind, rows, transparent=()):
    def chunk(name, content):
        return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([depth, kind, 0, 0, 0])
    colour = [chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))] if transparent else []
    parts = [chunk(b"IHDR", header), *colour, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# The numbers of TIFF's tags, and some of their values.
BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR, KIND = 258, 259, 262, 277, 284, 339
WHITE_IS_0, COLOUR, YCBCR, CIELAB, DEFLATE, PLANES, SIGNED, FLOATING = 0, 2, 6, 8, 8, 2, 2, 3


def tiff(content, order="<", **changed):
    """A TIFF of 24 x 18 pixels in one strip, made by hand, since Pillow writes few of the layouts that it reads.

    Args:
        order: "<" for little-endian numbers, ">" for big-endian ones.
        changed: name of a tag -> its values, where they are not those of one number of 8 bits a pixel.
    """
    tags = {256: (24,), 257: (18,), BITS: (8,), COMPRESSION: (1,), PHOTOMETRIC: (1,), SAMPLES: (1,)}
    tags |= {273: (8,), 278: (18,), 279: (len(content),)}
    tags |= {globals()[name.upper()]: values for name, values in changed.items()}
    content += bytes(len(content) % 2)
    directory, far = struct.pack(f"{order}H", len(tags)), b""
    beyond = 8 + len(content) + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}H", *values)
        # Four bytes have room in the directory; what is longer stands behind it.
        if len(packed) > 4:
            packed, far = struct.pack(f"{order}I", beyond + len(far)), far + packed
        directory += struct.pack(f"{order}HHI", tag, 3, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(content))
    return head + content + directory + bytes(4) + far


def test_whole_numbers_of_32_bits_need_no_sign(tmp_path):
    whole = np.linspace(0, 2**32 - 1, 18 * 24).astype("<u4").reshape(18, 24)
    for content, compression in ((whole.tobytes(), 1), (zlib.compress(whole.tobytes()), DEFLATE)):
        path = tmp_path / "long.tif"
        path.write_bytes(tiff(content, bits=(32,), compression=(compression,)))
        np.testing.assert_array_equal(read(path), whole.astype(np.float32))


def test_grey_of_12_bits(tmp_path):
    deep = SHADES.astype(int) * 16 + 5
    bits = "".join(f"{number:012b}" for number in deep.flat)
    path = tmp_path / "deep.tif"
    path.write_bytes(tiff(int(bits, 2).to_bytes(len(bits) // 8, "big"), bits=(12,)))
    np.testing.assert_allclose(read(path), deep / 4095, atol=1e-7)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"kind": (SIGNED,)}, "signed integers of 8 bits"),
        ({"bits": (16,), "photometric": (WHITE_IS_0,)}, "numbers of more than 8 bits with white as 0"),
        (
            {"bits": (32,), "kind": (FLOATING,), "photometric": (WHITE_IS_0,)},
            "numbers of more than 8 bits with white as 0",
        ),
        (
            {"order": ">", "bits": (16,), "kind": (SIGNED,), "compression": (DEFLATE,)},
            "compressed big-endian numbers that are signed or floating",
        ),
        (
            {"order": ">", "bits": (32,), "kind": (FLOATING,), "compression": (DEFLATE,)},
            "compressed big-endian numbers that are signed or floating",
        ),
        (
            {"bits": (16, 16, 16), "samples": (3,), "photometric": (COLOUR,), "planar": (PLANES,)},
            "uncompressed planes of more than 8 bits",
        ),
        (
            {"bits": (8, 8, 8), "samples": (3,), "photometric": (CIELAB,), "planar": (PLANES,)},
            "planes of CIELAB",
        ),
        (
            {"bits": (8, 8, 8), "samples": (3,), "photometric": (YCBCR,)},
            "uncompressed YCbCr with fewer colours than pixels",
        ),
    ],
)
def test_refuses_what_pillow_misreads(layout, message, tmp_path):
    content = bytes(range(256)) * 24
    path = tmp_path / "odd.tif"
    path.write_bytes(tiff(zlib.compress(content) if "compression" in layout else content, **layout))
    with pytest.raises(ValueError, match=f"odd.tif holds {message}, which Pillow misreads; convert it first"):
        read(path)


@pytest.mark.parametrize(("depth", "kind"), [(2, 0), (4, 0), (16, 0), (16, 2)])
def test_refuses_a_transparent_colour_that_pillow_misses(depth, kind, tmp_path):
    samples = 3 if kind == 2 else 1
    path = tmp_path / "key.png"
    rows = (b"\0" + b"\1" * (24 * depth * samples // 8)) * 18
    path.write_bytes(png(24, 18, depth, kind, rows, transparent=(1,) * samples))
    with pytest.raises(ValueError, match=r"key.png holds a transparent colour of other than 8 bits"):
        read(path)


def test_jpeg_is_close(tmp_path):
    smooth = np.broadcast_to(np.linspace(0, 255, 24).astype(np.uint8), (18, 24))
    path = write(tmp_path / "a.JPEG", smooth, quality=95)
    np.testing.assert_allclose(read(path), smooth / 255, atol=0.03)


def test_a_picture_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    path = write(tmp_path / "turned.png", SHADES, exif=exif)
    np.testing.assert_allclose(read(path), np.rot90(SHADES, -1) / 255, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda array: array),
        (3, lambda array: array[::-1, ::-1]),
        (5, lambda array: array.T),
        (6, lambda array: np.rot90(array, -1)),
        (7, lambda array: array[::-1, ::-1].T),
        (8, np.rot90),
    ],
)
def test_an_uncompressed_tiff_is_upright(orientation, turn, dtype, tmp_path):
    shades = SHADES.astype(dtype)
    path = write(tmp_path / "turned.tif", shades, tiffinfo={0x0112: orientation})
    np.testing.assert_allclose(read(path), turn(shades) / np.iinfo(dtype).max, atol=1e-7)


def test_a_camera_s_preview_is_no_second_picture(tmp_path):
    path = tmp_path / "camera.jpg"
    small = Image.fromarray(SHADES[:9, :12])
    Image.fromarray(SHADES).save(path, format="MPO", save_all=True, append_images=[small], quality=95)
    assert read(path).shape == SHADES.shape


def frames(path, kind):
    others = [Image.fromarray(255 - SHADES)]
    Image.fromarray(SHADES).save(path, format=kind, save_all=True, append_images=others)


def bad_files(folder):
    """name -> the message for it."""
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
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
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
        "folder.png": "cannot be read: it is a folder, a pipe or a device, not a file",
        "pipe.png": "cannot be read: it is a folder, a pipe or a device, not a file",
        "link.png": "cannot be read: No such file",
        "loop.png": "cannot be read: Too many levels of symbolic links",
        "a" * 300: "cannot be read: File name too long",
        "/dev/zero": "cannot be read: it is a folder, a pipe or a device, not a file",
    }


def test_what_cannot_be_read_is_one_line(tmp_path):
    for name, message in bad_files(tmp_path).items():
        with pytest.raises(ValueError, match=r"pixels|picture|read|transparent") as error:
            read(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name} {message}"), name
        assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_a_damaged_file_is_the_picture_or_an_error(ending, tmp_path):
    path = write(tmp_path / f"whole.{ending}", SHADES)
    content, whole, rng = path.read_bytes(), read(path), random.Random(0)
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
        return read(path)
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
    grey, small = photographs.read_in_colour(tmp_path / "colour.png", 1.0, 16, side=16)
    np.testing.assert_array_equal(small, colours[::4, ::4])
    np.testing.assert_array_equal(grey, read(tmp_path / "colour.png"))
    # Without colours: from the darkest to the brightest.
    Image.fromarray(100 + colours[..., 0].astype(np.uint16)).save(tmp_path / "deep.png")
    _, small = photographs.read_in_colour(tmp_path / "deep.png", 1.0, 16, side=64)
    np.testing.assert_array_equal(small, np.where(colours[..., :1] > 0, 255, 0) * np.ones(3))


def test_folders_are_searched_in_order(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", "c.tiff"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "deeper").mkdir()
    pictures = [tmp_path / name for name in ("a.JPG", "b.png", "c.tiff")]
    assert photographs.find([tmp_path]) == pictures
    assert photographs.find([tmp_path / "notes.txt", tmp_path, tmp_path / "b.png"]) == [
        tmp_path / "notes.txt",
        *pictures,
    ]


def test_a_file_is_taken_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("inside").mkdir()
    Path("a.png").touch()
    Path("inside/link.png").symlink_to("../a.png")
    ways = [Path("a.png"), tmp_path / "a.png", Path("inside/../a.png"), Path("inside")]
    assert photographs.find(ways) == ways[:1]
    assert photographs.find(ways[:0:-1]) == [Path("inside/link.png")]


def test_a_name_that_is_too_long_is_no_folder(tmp_path):
    path = tmp_path / ("a" * 300)
    assert photographs.find([path]) == [path]


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
