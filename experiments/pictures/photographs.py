"""Pictures: files read as grey levels, and masks, probabilities and overlays written as PNG."""

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin

from experiments.lab.names import printable, shortened
from segjax.plotting import COLOURS

# A folder is searched for these endings; a file that the command names may have any ending.
ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "TIFF")
# Weights of red, green and blue in grey (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Pillow's modes of one number per pixel -> the number that is mapped to 1; pictures of other modes are read as RGB.
_GREY = {"L": 255, "I;16": 65535, "I;16L": 65535, "I;16B": 65535, "I": 1, "F": 1}
# Rows that are converted at a time: colours in floating point take 12 bytes per pixel, 1.2 GB for 100 million.
_ROWS = 256
_TINT_SHARE = 0.35
# Characters that fit beside a picture in a figure; a longer name would cover its neighbours' names.
_LONGEST_LABEL = 24
# The square of a larger number does not fit into float32.
_LARGEST = 1e18


def read(path: Path, max_megapixels: float, smallest: int) -> np.ndarray:
    """The grey levels of a picture in PNG, JPEG or TIFF: (height, width) float32, upright as its EXIF says.

    Integers of up to 16 bits are mapped to [0, 1]; longer integers and floating point stay as they are. Pillow reads
    colours with 8 bits each: colours of 16 bits lose the lower 8.

    Raises:
        ValueError: with the reason in one sentence: not such a picture, truncated, animated, partly transparent, not
            finite, stored in a way that Pillow misreads, smaller than `smallest` pixels per side or larger than
            `max_megapixels`.
    """
    return read_in_colour(path, max_megapixels, smallest, side=1)[0]


def read_in_colour(path: Path, max_megapixels: float, smallest: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The same, and a small copy in the picture's colours, made by `reduced`; raises like `read`."""
    with contextlib.ExitStack() as stack:
        with _readable(path):
            # Opening a pipe waits for its writer, and a device has no end.
            if not stat.S_ISREG(path.stat().st_mode):
                raise OSError("it is a folder, a pipe or a device, not a file")
            # Opened here: given a path, Pillow maps an uncompressed TIFF into memory, and swaps its sides if rotated.
            file = stack.enter_context(path.open("rb"))
            picture = stack.enter_context(Image.open(file, formats=_FORMATS))
            encoding = _encoding(picture)
            # The second picture of an MPO, a camera's JPEG, is a small copy of the first.
            num_pictures = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
        # All of this is in the header: a file that would fill the memory is refused before it is unpacked.
        width, height = picture.size
        if num_pictures > 1:
            raise ValueError(f"{path} is animated, or a stack: it holds {num_pictures} pictures, not one")
        if min(picture.size) < smallest:
            raise ValueError(f"{path} has {width} x {height} pixels; both sides must have at least {smallest}")
        if width * height > max_megapixels * 1e6:
            raise ValueError(
                f"{path} has {width} x {height} pixels, more than the {max_megapixels:g} million of --max-megapixels"
            )
        if encoding.misread:
            raise ValueError(f"{path} holds {encoding.misread}, which Pillow misreads; convert it first")
        with _readable(path):
            upright = ImageOps.exif_transpose(picture)
            transparent = (
                upright.has_transparency_data and upright.convert("RGBA").getchannel("A").getextrema()[0] != 255
            )
            grey = _grey(upright, encoding)
            colours = None if upright.mode in _GREY else reduced(upright.convert("RGB"), side)
    if transparent:
        raise ValueError(f"{path} is partly transparent; put it on a background first")
    if not np.isfinite(grey).all():
        raise ValueError(f"{path} has pixels that are no finite numbers")
    if (largest := max(float(grey.max()), -float(grey.min()))) > _LARGEST:
        raise ValueError(f"{path} has pixels as large as {largest:.0e}, which stand for missing data")
    return grey, reduced(_in_8_bits(grey).convert("RGB"), side) if colours is None else colours


def find(paths: list[Path]) -> list[Path]:
    """The files that the paths name, and the pictures in the folders that they name; those of a folder sorted by name.

    A file that several paths or links lead to is listed once, under the first of them.

    Raises:
        ValueError: if a folder cannot be searched.
    """
    files: dict[str, Path] = {}
    for path in paths:
        try:
            # Path.is_dir raises for a name that is too long; such a name must fail alone, not end the command.
            candidates = sorted(path.iterdir()) if os.path.isdir(path) else [path]
        except OSError as error:
            raise ValueError(f"{path} cannot be searched: {error.strerror}") from error
        for file in candidates:
            if file == path or file.suffix.lower() in ENDINGS:
                files.setdefault(os.path.realpath(file), file)
    return list(files.values())


def label(path: Path) -> str:
    """The file's name without its ending, as text that every terminal, figure and page can show."""
    return printable(path.stem)


def figure_label(name: str) -> str:
    """A label for a figure: a long name loses its middle, and dollars, which begin a formula, are escaped."""
    return shortened(name, _LONGEST_LABEL).replace("$", r"\$")


def mask_png(probability: np.ndarray) -> bytes:
    """The mask of probabilities (height, width): 255 above 0.5, which means the first texture, and 0 elsewhere."""
    return png(Image.fromarray(np.where(probability > 0.5, np.uint8(255), np.uint8(0))))


def probability_png(probability: np.ndarray) -> bytes:
    """Probabilities (height, width) in 16 bits: 65535 means certainly the first texture."""
    return png(Image.fromarray(np.round(probability * np.float32(65535)).astype(np.uint16)))


def overlay(grey: np.ndarray, probability: np.ndarray) -> Image.Image:
    """The picture in 8 bits with the first texture tinted blue and the second orange."""
    levels = np.asarray(_in_8_bits(grey))
    tints = np.array([tuple(bytes.fromhex(colour[1:])) for colour in COLOURS[1::-1]], np.float32)
    picture = np.empty((*grey.shape, 3), np.uint8)
    for start in range(0, len(grey), _ROWS):
        rows = slice(start, start + _ROWS)
        tint = tints[(probability[rows] > 0.5).astype(int)]
        picture[rows] = (1 - _TINT_SHARE) * levels[rows, :, None] + _TINT_SHARE * tint
    return Image.fromarray(picture)


def reduced(picture: Image.Image, side: int) -> np.ndarray:
    """A copy of at most `side` pixels per side, each the mean of a square of the picture."""
    return np.asarray(picture.reduce(-(-max(picture.size) // side)))


def _in_8_bits(grey: np.ndarray) -> Image.Image:
    """The picture with its darkest grey level at 0 and its brightest at 255."""
    low, high = float(grey.min()), float(grey.max())
    levels = np.empty(grey.shape, np.uint8)
    for start in range(0, len(grey), _ROWS):
        rows = slice(start, start + _ROWS)
        levels[rows] = (grey[rows].astype(np.float32) - low) * (255 / (high - low) if high > low else 0)
    return Image.fromarray(levels)


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # The lowest compression: the next level takes three times as long and makes the file a tenth smaller.
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class _Encoding(NamedTuple):
    """How the file of a picture encodes its pixels.

    Attributes:
        white: the number that is mapped to 1, in pictures of one number per pixel.
        unsigned: whether Pillow's signed 32 bits stand for a number from 0 to 2^32 - 1.
        misread: the feature of the file that Pillow silently misreads; empty if there is none.
    """

    white: int = 1
    unsigned: bool = False
    misread: str = ""


def _encoding(picture: ImageFile.ImageFile) -> _Encoding:
    """The encoding by the header; to be called before the picture is unpacked, which discards the header."""
    white = _GREY.get(picture.mode, 1)
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        tags = picture.tag_v2
        bits, kind = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))), tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0]
        unsigned = kind == 1 and picture.mode == "I"
        return _Encoding(4095 if bits == 12 else white, unsigned, _misread_tiff(tags, bits, kind))
    other_than_8_bits = any(tile[3] in ("L;2", "L;4", "I;16B", "RGB;16B") for tile in picture.tile)
    # Pillow compares the transparent colour of a PNG with pixels that it has already converted to 8 bits.
    if "transparency" in picture.info and other_than_8_bits:
        return _Encoding(misread="a transparent colour of other than 8 bits")
    return _Encoding(white)


def _misread_tiff(tags: TiffImagePlugin.ImageFileDirectory_v2, bits: int, kind: int) -> str:
    """The layout that Pillow misreads, or ""; the list comes from a test of every layout in Pillow's modes."""
    compressed = tags.get(TiffImagePlugin.COMPRESSION, 1) != 1
    colours = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0)
    planes = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2
    misread = {
        "signed integers of 8 bits": kind == 2 and bits == 8,
        "numbers of more than 8 bits with white as 0": colours == 0 and bits > 8,
        "compressed big-endian numbers that are signed or floating": compressed and kind != 1 and tags.prefix == b"MM",
        "uncompressed planes of more than 8 bits": planes and not compressed and bits > 8,
        "planes of CIELAB": planes and colours == 8,
        "uncompressed YCbCr with fewer colours than pixels": (
            not compressed and colours == 6 and tags.get(TiffImagePlugin.YCBCRSUBSAMPLING, (2, 2)) != (1, 1)
        ),
    }
    return next((layout for layout, present in misread.items() if present), "")


def _grey(picture: Image.Image, encoding: _Encoding) -> np.ndarray:
    if picture.mode in _GREY:
        pixels = np.asarray(picture)
        pixels = pixels.view(np.uint32) if encoding.unsigned else pixels
        return pixels.astype(np.float32) / np.float32(encoding.white)
    colours = np.asarray(picture.convert("RGB"))
    grey = np.empty(colours.shape[:2], np.float32)
    for start in range(0, len(colours), _ROWS):
        grey[start : start + _ROWS] = colours[start : start + _ROWS] @ (_LUMA / 255)
    return grey


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns every error of the reader into a ValueError with one sentence."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            # Pillow warns of damage that it can skip.
            warnings.simplefilter("ignore")
            yield
    except Image.UnidentifiedImageError as error:
        raise ValueError(
            f"{path} is not a picture in PNG, JPEG or TIFF, or of a kind that Pillow does not read"
        ) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise ValueError(f"{path} takes more memory than there is") from error
    except Exception as error:
        # A damaged file makes the decoders raise errors of many kinds.
        raise ValueError(f"{path} is damaged: {error}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit
