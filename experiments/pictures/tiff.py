"""TIFF files by tifffile, whose axes tell what a page is; Pillow unpacks the compressions that tifffile does not."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from xml.etree import ElementTree

import numpy as np
import tifffile
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG

from experiments.pictures.samples import Samples, UnreadableError, by_pillow

# Tags that tifffile's pages have no attribute for.
_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT, _GDAL_NODATA = 274, 282, 283, 296, 42113
# Micrometres in the units of ImageJ, OME and TIFF.
_MICROMETRES = {"nm": 1e-3, "micron": 1.0, "um": 1.0, "\u00b5m": 1.0, "\u03bcm": 1.0, "mm": 1e3, "cm": 1e4}
_MICROMETRES |= {"\\u00B5m": 1.0, "m": 1e6, "inch": 25400.0}
_TIFF_UNITS = {2: "inch", 3: "cm"}
# A resolution of TIFF alone that is coarser, 2540 dots per inch, is that of a print or a screen.
_COARSEST_PIXEL = 10.0
# Colours that Pillow converts; they are read as red, green and blue of 8 bits.
_CONVERTED = (PHOTOMETRIC.SEPARATED, PHOTOMETRIC.YCBCR, PHOTOMETRIC.CIELAB)
_COLOURS = (PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE, *_CONVERTED)
# libtiff ignores a predictor in all other compressions.
_PREDICTED = (COMPRESSION.LZW, COMPRESSION.DEFLATE, COMPRESSION.ADOBE_DEFLATE)
# A second page of the same picture has at most half as many rows, and the same shape within some pixels.
_THUMBNAIL_SHARE, _THUMBNAIL_PIXELS = 0.5, 2


class Page(NamedTuple):
    """One picture of a file, before it is unpacked.

    Attributes:
        width, height: in pixels, before it is turned upright.
        load: returns its numbers.
        channel: of these, counted from 1; None for the only one, or all colours.
    """

    width: int
    height: int
    load: Callable[[], Samples]
    channel: int | None


def count_pages(file: BinaryIO) -> int:
    """The number of planes that `--page` counts."""
    series = tifffile.TiffFile(file).series[0]
    return math.prod(series.shape[: series.ndim - series.keyframe.ndim])


def open_page(file: BinaryIO, path: Path, page: int | None, channel: int | None) -> Page:
    """A page of a TIFF: the only one, or the one that is chosen.

    Args:
        path: of the file.
        page: counted from 1 over all planes of the file.
        channel: counted from 1; if the channels are pages, of these.

    Raises:
        UnreadableError: there are several pages and none is chosen,
            or the layout is none that this function reads right.
    """
    tiff = tifffile.TiffFile(file)
    series, others = tiff.series[0], tiff.series[1:]
    keyframe: Any = series.keyframe
    if keyframe.axes not in ("YX", "YXS", "SYX") or not series.axes.endswith(keyframe.axes):
        raise UnreadableError(f"has the axes {series.axes}, which are no picture or stack of pictures")
    if any(not _is_thumbnail(keyframe, other.keyframe) for other in others):
        raise UnreadableError(f"holds {1 + len(others)} pictures of different sizes or kinds, not one")
    index, channel = _chosen(series, page, channel)
    _check(keyframe)
    area = _pixel_area(tiff, keyframe)

    def load() -> Samples:
        if _reads(keyframe):
            samples = _samples(keyframe, _plane(path, series, index))
        else:
            samples = by_pillow(file, getattr(series.pages[index], "index", 0))
            # Pillow gives 12 bits as 16.
            samples = samples._replace(white=4095.0) if keyframe.bitspersample == 12 else samples
        nodata = keyframe.tags.valueof(_GDAL_NODATA)
        return samples._replace(pixel_area=area, nodata=None if nodata is None else float(nodata))

    return Page(keyframe.imagewidth, keyframe.imagelength, load, channel)


def _chosen(series: Any, page: int | None, channel: int | None) -> tuple[int, int | None]:
    """The index of a plane among those of a series, and the channel to choose in it; raises like `open_page`."""
    axes = series.axes.removesuffix(series.keyframe.axes)
    shape = series.shape[: len(axes)]
    indices = np.arange(math.prod(shape)).reshape(shape)
    if "C" in axes and channel is not None:
        if channel > (number := shape[axes.index("C")]):
            raise UnreadableError(f"has {number} channels, and no channel {channel}")
        indices, channel = indices.take([channel - 1], axes.index("C")), None
    if page is None and indices.size > 1:
        sizes = " x ".join(map(str, shape))
        options = "--page or --channel" if axes == "C" else "--page"
        raise UnreadableError(f"is a stack: it holds {sizes} pictures, not one; choose one by {options}")
    if (page or 1) > indices.size:
        raise UnreadableError(f"has {indices.size} page{'s' * (indices.size > 1)}, and no page {page}")
    return int(indices.flat[(page or 1) - 1]), channel


def _is_thumbnail(page: Any, other: Any) -> bool:
    """Whether another page is a smaller copy of a page."""
    if other.is_mask:
        return False
    scale = other.imagelength / page.imagelength
    is_alike = abs(scale * page.imagewidth - other.imagewidth) <= _THUMBNAIL_PIXELS
    return bool(other.is_reduced or (scale <= _THUMBNAIL_SHARE and is_alike))


def _check(page: Any) -> None:
    """Raises UnreadableError for a layout that neither library reads right."""
    if page.dtype is None or page.dtype.kind not in "buif":
        raise UnreadableError("holds numbers that are neither integers nor real, or of an unusual number of bits")
    if page.photometric not in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, *_COLOURS):
        raise UnreadableError(
            f"holds {getattr(page.photometric, 'name', page.photometric)}, which is neither grey nor RGB"
        )
    if page.photometric == PHOTOMETRIC.MINISWHITE and page.dtype.kind not in "bu":
        raise UnreadableError("holds signed numbers with white as 0; convert it first")
    if any(count == 0 for count in page.databytecounts):
        raise UnreadableError("lacks some of its tiles")
    if not _reads(page) and not _reads_by_pillow(page):
        kind = f"{page.dtype} in {page.photometric.name}, packed by {page.compression.name}"
        raise UnreadableError(f"holds {kind}, which Pillow misreads; convert it first, or install imagecodecs")


def _reads(page: Any) -> bool:
    """Whether tifffile alone unpacks a page."""
    # JPEG has colours of its own.
    if page.photometric in _CONVERTED or page.compression in (COMPRESSION.JPEG, COMPRESSION.OJPEG):
        return False
    packings = tifffile.TIFF.DECOMPRESSORS, tifffile.TIFF.UNPREDICTORS
    return page.compression in packings[0] and page.predictor in packings[1] and page.bitspersample != 12


def _reads_by_pillow(page: Any) -> bool:
    """Whether Pillow unpacks a page and reads it right; a test of 283 layouts holds this to account."""
    if page.predictor != 1 and page.compression not in _PREDICTED:
        return False
    if page.samplesperpixel > 1:
        is_opacity = [extra != EXTRASAMPLE.UNSPECIFIED for extra in page.extrasamples]
        subsampled = page.photometric == PHOTOMETRIC.YCBCR and page.subsampling != (1, 1)
        planes = page.planarconfig == PLANARCONFIG.SEPARATE
        unpacked = page.compression == COMPRESSION.NONE
        return bool(
            page.dtype == np.uint8 and is_opacity in ([], [True]) and not planes and not (subsampled and unpacked)
        )
    if page.dtype in (bool, np.uint8, np.uint16):
        return bool(page.bitspersample <= 8 or page.photometric != PHOTOMETRIC.MINISWHITE)
    # Compressed big-endian numbers with a sign lose their order.
    return page.dtype in (np.int16, np.int32, np.float32) and page.parent.byteorder == "<"


def _plane(path: Path, series: Any, index: int) -> np.ndarray:
    """A plane of a series, (height, width, samples)."""
    keyframe = series.keyframe
    if len(series.pages) > index:
        if series.pages[index] is None:
            raise UnreadableError("lacks this page")
        array = series.pages[index].asarray()
    else:
        # A file of one page that says how many planes follow it.
        array = np.array(tifffile.memmap(path, series=0, mode="r").reshape(-1, *keyframe.shape)[index])
    if keyframe.axes == "YX":
        return array[..., None]
    return np.moveaxis(array, 0, -1) if keyframe.axes == "SYX" else array


def _samples(page: Any, array: np.ndarray) -> Samples:
    white, colours = 1.0, page.photometric in _COLOURS
    if page.photometric == PHOTOMETRIC.PALETTE:
        array = np.moveaxis(page.colormap[:, array[..., 0]], 0, -1)
        # TIFF's palettes have 16 bits; some programs write 8.
        white = 65535.0 if array.max() > 255 else 255.0
    elif array.dtype.kind == "u" and page.bitspersample <= 16:
        white = 2.0**page.bitspersample - 1
    opacity = bool(page.extrasamples) and page.extrasamples[-1] != EXTRASAMPLE.UNSPECIFIED
    inverted = page.photometric == PHOTOMETRIC.MINISWHITE
    return Samples(_upright(array, page.tags.valueof(_ORIENTATION)), white, inverted, colours, opacity)


def _upright(array: np.ndarray, orientation: int | None) -> np.ndarray:
    """The array, transposed and mirrored as EXIF's orientation says."""
    array = array.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else array
    return array[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]


def _pixel_area(tiff: tifffile.TiffFile, page: Any) -> float | None:
    """The area of a pixel in square micrometres, by OME, ImageJ or TIFF's resolution; None if none of them tells."""
    if tiff.ome_metadata:
        pixels = ElementTree.fromstring(tiff.ome_metadata).find(".//{*}Pixels")
        sizes = {} if pixels is None else pixels.attrib
        if not {"PhysicalSizeX", "PhysicalSizeY"} <= sizes.keys():
            return None
        units = [_MICROMETRES.get(sizes.get(f"PhysicalSize{axis}Unit", "um"), math.nan) for axis in "XY"]
        area = float(sizes["PhysicalSizeX"]) * units[0] * float(sizes["PhysicalSizeY"]) * units[1]
        return area if area > 0 else None
    resolutions = [page.tags.valueof(tag) for tag in (_X_RESOLUTION, _Y_RESOLUTION)]
    if None in resolutions or not all(numerator and denominator for numerator, denominator in resolutions):
        return None
    imagej = tiff.imagej_metadata
    unit = imagej.get("unit") if imagej else _TIFF_UNITS.get(page.tags.valueof(_RESOLUTION_UNIT, 2))
    if unit not in _MICROMETRES:
        return None
    width, height = (_MICROMETRES[unit] * denominator / numerator for numerator, denominator in resolutions)
    return width * height if imagej or max(width, height) < _COARSEST_PIXEL else None
