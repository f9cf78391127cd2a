"""TIFF: every layout is read right or refused, and which page and channel of a file is read."""

from functools import partial

import numpy as np
import pytest
import tifffile
from picture_files import COLOURS, DEEP, LUMA, SHADES, TURNS, by_pillow, by_tifffile, grey, numbers, read
from PIL import Image

from experiments.pictures import photographs


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
    ("array", "nodata", "left_out"),
    [
        # A number that the file's integers do not hold stands for no pixel.
        (SHADES, "-9999", None),
        (SHADES, "0.5", None),
        (DEEP, "-32768", None),
        (SHADES, "7", SHADES == 7),
        (np.where(SHADES < 9, -9999, DEEP).astype(np.int16), "-9999", SHADES < 9),
        # A pure blue has data, black has none.
        (np.where(SHADES[..., None] < 99, [0, 0, 255], COLOURS // 2 + 1).astype(np.uint8), "0", None),
        (np.where(SHADES[..., None] < 99, 0, COLOURS // 2 + 1).astype(np.uint8), "0", SHADES < 99),
    ],
)
def test_nodata_of_integers_and_colours_is_compared_as_a_number(array, nodata, left_out, tmp_path):
    path = tmp_path / "a.tif"
    options = {"photometric": "rgb"} if array.ndim == 3 else {}
    tifffile.imwrite(path, array, extratags=[(42113, 2, 0, nodata, True)], **options)
    valid = read(path).valid
    if left_out is None:
        assert valid is None
    else:
        np.testing.assert_array_equal(~valid, left_out)


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
