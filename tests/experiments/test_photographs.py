import io
import os
import random
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from experiments.pictures import photographs
from experiments.pictures.photographs import Choice

SHADES = np.random.default_rng(0).integers(0, 256, (18, 24)).astype(np.uint8)
DEEP = SHADES.astype(np.uint16) * 250 + 17
COLOURS = np.random.default_rng(1).integers(0, 256, (18, 24, 3)).astype(np.uint8)
LUMA = np.array([0.299, 0.587, 0.114])
CHOICE = Choice(max_megapixels=1.0, smallest=16)


def read(path, side=1, **choice):
    return photographs.read(path, CHOICE._replace(**choice), side)


def grey(array):
    """What unsigned numbers of up to 16 bits stand for; other numbers stand for themselves."""
    array = np.asarray(array)
    scaled = array / np.iinfo(array.dtype).max if array.dtype in (np.uint8, np.uint16) else array.astype(float)
    return scaled @ LUMA if array.ndim == 3 else scaled


def by_tifffile(array, path, **options):
    tifffile.imwrite(path, array, **options)


def by_pillow(array, path, mode=None, **options):
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)


def numbers(dtype):
    """Numbers of the dtype, with its extremes."""
    if np.issubdtype(dtype, np.floating):
        return (np.linspace(-3, 900, SHADES.size).reshape(SHADES.shape)).astype(dtype)
    info = np.iinfo(dtype)
    return np.linspace(info.min, info.max, SHADES.size).reshape(SHADES.shape).astype(dtype)


TURNS = {
    1: lambda array: array,
    2: lambda array: array[:, ::-1],
    3: lambda array: array[::-1, ::-1],
    4: lambda array: array[::-1],
    5: lambda array: array.swapaxes(0, 1),
    6: lambda array: np.rot90(array, -1),
    7: lambda array: array[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


def layouts_of_tifffile():
    """(name, function that writes a path, right grey levels; None if the file must be refused)."""
    kinds = ["uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64"]
    packings = {"": {}, "zlib": {"compression": "zlib"}, "lzma": {"compression": "lzma"}, "tile": {"tile": (16, 16)}}
    packings |= {"zlib tile": {"compression": "zlib", "tile": (16, 16)}, "big": {"bigtiff": True}}
    packings["one row"] = {"rowsperstrip": 1}
    for order in "<>":
        for kind in kinds:
            array = numbers(kind)
            for packing, options in packings.items():
                write = partial(by_tifffile, array, byteorder=order, **options)
                yield f"{order} {kind} {packing}", write, grey(array)
        for kind in ("uint8", "uint16", "int16"):
            options = {"compression": "zlib", "predictor": True, "byteorder": order}
            yield f"{order} {kind} predictor", partial(by_tifffile, numbers(kind), **options), grey(numbers(kind))
        for kind in ("uint8", "uint16", "float32"):
            options = {"photometric": "miniswhite", "byteorder": order}
            expected = None if kind == "float32" else 1 - grey(numbers(kind))
            yield f"{order} {kind} white is 0", partial(by_tifffile, numbers(kind), **options), expected
        for colours in (COLOURS, COLOURS.astype(np.uint16) * 257, COLOURS.astype(np.float32)):
            for compression in (None, "zlib"):
                options = {"photometric": "rgb", "byteorder": order, "compression": compression}
                write = partial(by_tifffile, colours, **options)
                yield f"{order} {colours.dtype} colours {compression}", write, grey(colours)
                write = partial(by_tifffile, np.moveaxis(colours, -1, 0), planarconfig="separate", **options)
                yield f"{order} {colours.dtype} planes {compression}", write, grey(colours)
    for orientation, turn in TURNS.items():
        for array in (SHADES, DEEP, COLOURS, numbers("float32")):
            options = {"extratags": [(274, 3, 1, orientation, True)], "photometric": "rgb" if array.ndim == 3 else None}
            yield (
                f"{array.dtype} {array.ndim} turned {orientation}",
                partial(by_tifffile, array, **options),
                grey(turn(array)),
            )
    palette = np.random.default_rng(2).integers(0, 65536, (3, 256)).astype(np.uint16)
    expected = grey(np.moveaxis(palette[:, SHADES], 0, -1))
    yield "palette", partial(by_tifffile, SHADES, photometric="palette", colormap=palette), expected
    yield "imagej", partial(by_tifffile, DEEP, imagej=True), grey(DEEP)
    yield "ome", partial(by_tifffile, DEEP, ome=True), grey(DEEP)
    yield "complex", partial(by_tifffile, SHADES.astype(np.complex64)), None


def layouts_of_pillow():
    """The same; what JPEG loses is less than what the test allows it."""
    smooth = np.broadcast_to(np.linspace(0, 255, 24).astype(np.uint8), (18, 24))
    lossless = [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"]
    for compression in lossless:
        for array in (SHADES, DEEP, numbers("int32"), numbers("float32"), COLOURS):
            yield (
                f"{compression} {array.dtype} {array.ndim}",
                partial(by_pillow, array, compression=compression),
                grey(array),
            )
        for mode in ("1", "P", "CMYK", "YCbCr", "LAB"):
            shown = Image.fromarray(COLOURS)
            if mode == "LAB":
                # Pillow converts to it by a profile alone; this is the grey axis, on which both meet.
                picture = Image.merge("LAB", [Image.fromarray(SHADES), *[Image.new("L", (24, 18), 128)] * 2])
            else:
                picture = shown.convert(mode)
            expected = np.asarray(picture.convert("RGB")) @ LUMA / 255
            yield f"{compression} {mode}", partial(picture.save, compression=compression), expected
        opaque = Image.fromarray(COLOURS).convert("RGBA")
        yield f"{compression} RGBA", partial(opaque.save, compression=compression), grey(COLOURS)
        yield f"{compression} big", partial(by_pillow, DEEP, compression=compression, big_tiff=True), grey(DEEP)
        for orientation, turn in TURNS.items():
            options = {"compression": compression, "tiffinfo": {274: orientation}}
            yield f"{compression} turned {orientation}", partial(by_pillow, DEEP, **options), grey(turn(DEEP))
    for name in ("group3", "group4", "tiff_ccitt"):
        lines = np.where(SHADES > 127, np.uint8(255), np.uint8(0))
        yield name, partial(by_pillow, lines, mode="1", compression=name), grey(lines)
    yield "jpeg", partial(by_pillow, smooth, compression="jpeg", quality=95), grey(smooth)
    shaded = np.dstack([smooth] * 3)
    yield "colours in jpeg", partial(by_pillow, shaded, compression="jpeg", quality=95), grey(shaded)


def test_no_layout_of_tiff_is_misread(tmp_path):
    count, path = 0, tmp_path / "layout.tif"
    for name, write, expected in (*layouts_of_tifffile(), *layouts_of_pillow()):
        path.unlink(missing_ok=True)
        write(path)
        count += 1
        if expected is None:
            with pytest.raises(ValueError, match=r"layout.tif holds .* (?:number|white)"):
                read(path)
            continue
        levels, scale = read(path).grey, np.abs(expected).max()
        # Palettes and YCbCr are rounded to 8 bits in other ways.
        allowed = {"jpeg": 0.03, "P": 0.005, "YCbCr": 0.005}.get(name.split()[-1], 1e-6)
        np.testing.assert_allclose(levels / scale, expected / scale, atol=allowed, err_msg=name)
    assert count == 283


STACK = np.stack([np.roll(DEEP, shift, axis=0) for shift in range(5)])
FIVE = "is a stack: it holds 5 pictures, not one; choose one by --page"


@pytest.mark.parametrize(
    ("array", "options", "choice", "expected"),
    [
        (STACK, {"imagej": True, "truncate": True}, {}, FIVE + " or --channel"),
        (STACK, {"imagej": True, "truncate": True}, {"page": 1}, STACK[0]),
        (STACK, {"imagej": True, "truncate": True}, {"page": 4}, STACK[3]),
        (STACK, {"imagej": True, "truncate": True}, {"channel": 4}, STACK[3]),
        (STACK, {"truncate": True}, {"page": 3}, STACK[2]),
        (STACK, {"metadata": None}, {}, FIVE),
        (STACK, {"compression": "zlib"}, {"page": 5}, STACK[4]),
        (STACK, {}, {"page": 6}, "has 5 pages, and no page 6"),
        (DEEP, {}, {"page": 2}, "has 1 page, and no page 2"),
        (np.stack([STACK, STACK[::-1]]), {"imagej": True}, {}, "is a stack: it holds 2 x 5 pictures"),
        (np.stack([STACK, STACK[::-1]]), {"imagej": True, "metadata": {"axes": "ZCYX"}}, {"page": 7}, STACK[3]),
        (
            np.stack([STACK, STACK[::-1]]),
            {"imagej": True, "metadata": {"axes": "ZCYX"}},
            {"page": 2, "channel": 5},
            STACK[0],
        ),
        (
            np.stack([STACK, STACK[::-1]]),
            {"ome": True, "metadata": {"axes": "CZYX"}},
            {"page": 2, "channel": 2},
            STACK[3],
        ),
        (STACK, {"ome": True, "metadata": {"axes": "CYX"}}, {"channel": 6}, "has 5 channels, and no channel 6"),
        (np.stack([COLOURS, 255 - COLOURS]), {"photometric": "rgb"}, {"page": 2}, 255 - COLOURS),
        (
            np.stack([DEEP] * 16),
            {"volumetric": True, "tile": (16, 16, 16)},
            {},
            "has the axes ZYX, which are no picture",
        ),
        # Channels in one page.
        (
            STACK[:2],
            {"planarconfig": "separate", "photometric": "minisblack"},
            {},
            "holds 2 channels; choose one by --ch",
        ),
        (STACK[:2], {"planarconfig": "separate", "photometric": "minisblack"}, {"channel": 2}, STACK[1]),
        (
            np.moveaxis(STACK[:2], 0, -1),
            {"planarconfig": "contig", "photometric": "minisblack"},
            {},
            "holds 2 channels",
        ),
        (np.dstack([COLOURS, SHADES]), {"photometric": "rgb", "extrasamples": ["unspecified"]}, {}, "holds 4 channels"),
        (np.dstack([COLOURS, SHADES]), {"photometric": "rgb", "extrasamples": ["unspecified"]}, {"channel": 4}, SHADES),
        (np.dstack([COLOURS, SHADES]), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, {}, "is partly transp"),
        (COLOURS, {"photometric": "rgb"}, {"channel": 2}, COLOURS[..., 1]),
        (COLOURS, {"photometric": "rgb"}, {"channel": 4}, "has 3 channels, and no channel 4"),
        # What programs with 12 bits and with 8 write into 16.
        (COLOURS.astype(np.uint16), {"photometric": "rgb"}, {}, COLOURS.astype(np.uint16)),
        (SHADES.astype(np.uint16) * 16 + 5, {}, {}, SHADES.astype(np.uint16) * 16 + 5),
    ],
)
def test_a_page_or_a_channel_is_the_right_one_or_refused(array, options, choice, expected, tmp_path):
    tifffile.imwrite(path := tmp_path / "stack.tif", array, **options)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=f"stack.tif {expected}"):
            read(path, **choice)
    else:
        np.testing.assert_allclose(read(path, **choice).grey, grey(expected), atol=1e-6)


def test_a_thumbnail_is_no_second_picture(tmp_path):
    path = tmp_path / "pages.tif"
    for second, options, is_thumbnail in (
        (DEEP[::2, ::2], {"subfiletype": 1}, True),
        (DEEP[::3, ::3], {}, True),
        (DEEP[:9], {}, False),
        (DEEP[::2, ::2] > 0, {"subfiletype": 4}, False),
    ):
        with tifffile.TiffWriter(path) as file:
            file.write(DEEP, metadata=None)
            file.write(second, metadata=None, **options)
        if is_thumbnail:
            np.testing.assert_allclose(read(path).grey, grey(DEEP), atol=1e-7)
        else:
            with pytest.raises(ValueError, match="holds 2 pictures of different sizes or kinds"):
                read(path)


def test_pages_are_counted(tmp_path):
    for name, array in (("one", DEEP), ("five", STACK), ("colours", COLOURS)):
        tifffile.imwrite(tmp_path / f"{name}.tif", array)
    by_pillow(SHADES, tmp_path / "a.png")
    names = ("one.tif", "five.tif", "colours.tif", "a.png", "absent.tif")
    assert [photographs.count_pages(tmp_path / name) for name in names] == [1, 5, 1, 1, 1]


@pytest.mark.parametrize("nodata", [-9999, -3.4028234663852886e38, np.nan])
def test_pixels_that_gdal_says_have_no_data_are_left_out(nodata, tmp_path):
    heights = numbers("float32")
    heights[3:5, 7] = nodata
    path = tmp_path / "heights.tif"
    tifffile.imwrite(path, heights, extratags=[(42113, 2, 0, repr(float(nodata)), True)])
    picture = read(path)
    assert np.argwhere(~picture.valid).tolist() == [[3, 7], [4, 7]]
    np.testing.assert_array_equal(picture.grey[picture.valid], heights[picture.valid])
    assert np.isfinite(picture.grey).all()
    heights[:] = nodata
    tifffile.imwrite(path, heights, extratags=[(42113, 2, 0, repr(float(nodata)), True)])
    with pytest.raises(ValueError, match="has no pixel with data"):
        read(path)


@pytest.mark.parametrize(
    ("options", "area"),
    [
        ({"imagej": True, "resolution": (2, 4), "metadata": {"unit": "um"}}, 0.125),
        ({"imagej": True, "resolution": (2, 4), "metadata": {"unit": "\\u00B5m"}}, 0.125),
        ({"imagej": True, "resolution": (2, 4), "metadata": {"unit": "pixel"}}, None),
        (
            {
                "ome": True,
                "metadata": {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 250, "PhysicalSizeYUnit": "nm"},
            },
            0.125,
        ),
        ({"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 0.5}}, None),
        ({"resolution": (20000, 40000), "resolutionunit": "CENTIMETER"}, 0.125),
        # Of a screen and of a print.
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({"resolution": (300, 300)}, None),
        ({}, None),
    ],
)
def test_the_area_of_a_pixel_is_what_the_file_says(options, area, tmp_path):
    tifffile.imwrite(path := tmp_path / "scaled.tif", DEEP, **options)
    assert read(path).pixel_area == (area if area is None else pytest.approx(area))


def test_three_pictures_that_pass_for_colours_get_a_warning(tmp_path):
    path = tmp_path / "colours.tif"
    tifffile.imwrite(path, COLOURS, photometric="rgb")
    (warning,) = read(path).warnings
    assert f"The colours of {path} hardly correlate" in warning
    assert not read(path, channel=1).warnings
    tifffile.imwrite(path, COLOURS // 4 + SHADES[..., None] // 2, photometric="rgb")
    assert not read(path).warnings


def png(width, height, depth, kind, rows, transparent=()):
    """A PNG made by hand, since no library here writes all of its layouts: big-endian numbers, no filter."""

    def chunk(name, content):
        return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([depth, kind, 0, 0, 0])
    colour = [chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))] if transparent else []
    parts = [chunk(b"IHDR", header), *colour, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep_png(path, array):
    """Writes a PNG of 16 bits."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    path.write_bytes(png(24, 18, 16, {1: 0, 2: 4, 3: 2, 4: 6}[array.shape[-1]], rows))


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


def test_jpeg_is_close_and_a_camera_s_preview_is_no_second_picture(tmp_path):
    smooth = np.broadcast_to(np.linspace(0, 255, 24).astype(np.uint8), (18, 24))
    by_pillow(smooth, path := tmp_path / "a.JPEG", quality=95)
    np.testing.assert_allclose(read(path).grey, smooth / 255, atol=0.03)
    small = Image.fromarray(SHADES[:9, :12])
    Image.fromarray(smooth).save(path, format="MPO", save_all=True, append_images=[small], quality=95)
    np.testing.assert_allclose(read(path).grey, smooth / 255, atol=0.03)


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
    assert photographs.find([tmp_path]) == pictures
    for name in ("d.bmp", "e.GIF"):
        (tmp_path / name).touch()
    assert photographs.left_out([tmp_path, tmp_path / "d.bmp"]) == [tmp_path / "d.bmp", tmp_path / "e.GIF"]
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
