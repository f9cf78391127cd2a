"""Pictures: files read as grey levels, and masks, probabilities and overlays written as PNG."""

import contextlib
import errno
import io
import logging
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, BinaryIO, NamedTuple, TypeAlias

import jax
import numpy as np
from PIL import Image, UnidentifiedImageError
from tyro.conf import UseAppendAction

from experiments.lab.names import printable, shortened
from experiments.pictures import tiff
from experiments.pictures.samples import UnreadableError, by_pillow, in_8_bits
from experiments.pictures.tiff import Page
from segjax.plotting import COLOURS

# A folder is searched for these endings; a file that the command names may have any ending.
ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
# Pictures that are not read; those in a folder are named.
_OTHER_ENDINGS = (".avif", ".bmp", ".czi", ".gif", ".heic", ".jp2", ".lif", ".nd2", ".webp")
# How TIFF and BigTIFF begin, in either order of bytes.
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Rows that are tinted at a time.
_ROWS = 256
_TINT_SHARE = 0.35
# Characters that fit beside a picture in a figure; a longer name would cover its neighbours' names.
_LONGEST_LABEL = 24
# The square of a larger number does not fit into float32.
_LARGEST = 1e18
# Three colours of one scene are correlated: 0.6 and more in photographs.
_LEAST_CORRELATION = 0.3
_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# An option of `--box A B` or `--box A --box B`; of a plain tuple the second would replace the first.
Texts: TypeAlias = Annotated[tuple[tuple[str, ...], ...], UseAppendAction]


class Source(NamedTuple):
    """A picture of a file: the only one, or a page of a stack or a channel of several, both counted from 1."""

    path: Path
    page: int | None = None
    channel: int | None = None


class Picture(NamedTuple):
    """A picture in grey.

    Attributes:
        grey: (height, width), upright. Unsigned integers of up to 16 bits are mapped to [0, 1]; other numbers stay as
            they are. float32, or float64 for what float32 does not hold.
        valid: (height, width) of bool, the pixels with data; None if all have.
        preview: (at most `side`, at most `side`, 3) in 8 bits, in colour; None for a picture in grey.
        pixel_area: in square micrometres; None if the file does not say.
        warnings: sentences.
    """

    grey: np.ndarray
    valid: np.ndarray | None
    preview: np.ndarray | None
    pixel_area: float | None
    warnings: Sequence[str]


class Box(NamedTuple):
    """A part of a picture, in pixels from its upper left corner; it may reach beyond the picture."""

    x: int
    y: int
    width: int
    height: int

    @classmethod
    def parse(cls, option: str, text: str) -> "Box":
        """The box of X,Y,WIDTH,HEIGHT; raises a ValueError that names the option."""
        numbers = text.split(",")
        are_counts = len(numbers) == 4 and all(number.strip().isdecimal() for number in numbers)
        box = cls(*map(int, numbers)) if are_counts else cls(0, 0, 0, 0)
        if not box.width or not box.height:
            raise ValueError(f"{option} must be X,Y,WIDTH,HEIGHT in pixels, such as 0,472,512,40, got {text!r:.60}")
        return box

    def __str__(self) -> str:
        return ",".join(map(str, self))

    def overlaps(self, other: "Box") -> bool:
        ends = (self.x + self.width, self.y + self.height), (other.x + other.width, other.y + other.height)
        return all(max(self[axis], other[axis]) < min(end[axis] for end in ends) for axis in (0, 1))

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rows and columns of a picture."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


def read(source: Source, max_megapixels: float, smallest: int, side: int = 1) -> Picture:
    """Reads a picture in PNG, JPEG or TIFF.

    Args:
        max_megapixels: more are refused before they are unpacked, in millions.
        smallest: fewest pixels per side.
        side: longest side of the preview, in pixels.

    Raises:
        ValueError: with the reason in one sentence: not such a picture, truncated, a stack of which no page is chosen,
            partly transparent, not finite, of a layout that no library here reads right, too small or too large.
    """
    with _readable(source.path) as file:
        page = _opened(file, source)
        # This is in the header: a file that would fill the memory is refused before it is unpacked.
        _check_size(page, max_megapixels, smallest)
        samples, channel = page.load(), page.channel
        grey, valid = samples.grey(channel), samples.valid(channel)
        _check_numbers(grey if valid is None else grey[valid])
        is_colour, messages = samples.colours and channel is None, []
        if is_colour and samples.correlation() < _LEAST_CORRELATION:
            doubt = "hardly correlate: it may be three pictures, of which --channel chooses one."
            messages.append(f"The colours of {source.path} {doubt}")
        if valid is not None:
            grey[~valid] = np.median(grey[valid])
        preview = reduced(samples.in_colour(), side) if is_colour else None
        return Picture(grey, valid, preview, samples.pixel_area, messages)


def count_pages(path: Path) -> int:
    """The number of pages that `Source.page` counts; 1 for a file that cannot be read."""
    try:
        with _readable(path) as file:
            return tiff.count_pages(file) if _is_tiff(file) else 1
    except ValueError:
        return 1


@contextlib.contextmanager
def machine_errors(path: Path) -> Iterator[None]:
    """Turns exhausted memory, also of jax's device, and exhausted file handles into a ValueError of one sentence."""
    again = "; the same command tries it again"
    try:
        yield
    except MemoryError as error:
        raise ValueError(f"{path} takes more memory than there is{again}") from error
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        raise ValueError(f"{path} cannot be read: {error.strerror}{again}") from error
    except jax.errors.JaxRuntimeError as error:
        # jax gives the code of XLA's status as the beginning of the message alone.
        if not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        raise ValueError(f"{path} takes more memory than the device has; try a smaller --tile-size{again}") from error


def search(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The files that the paths name and the pictures in their folders; and the pictures of other formats there.

    Those of a folder are sorted by name. A file that several paths or links lead to is listed once, under the first.

    Raises:
        ValueError: if a folder cannot be searched.
    """
    files, others = dict[str, Path](), []
    for path in paths:
        try:
            # Path.is_dir raises for a name that is too long; such a name must fail alone, not end the command.
            inside = sorted(path.iterdir()) if os.path.isdir(path) else [path]
        except OSError as error:
            raise ValueError(f"{path} cannot be searched: {error.strerror}") from error
        for file in inside:
            if file == path or file.suffix.lower() in ENDINGS:
                files.setdefault(os.path.realpath(file), file)
            elif file.suffix.lower() in _OTHER_ENDINGS:
                others.append(file)
    return list(files.values()), others


def label(path: Path) -> str:
    """The file's name without its ending, as text that every terminal, figure and page can show."""
    return printable(path.stem)


def figure_label(name: str) -> str:
    """A label for a figure: a long name loses its middle, and dollars, which begin a formula, are escaped."""
    return shortened(name, _LONGEST_LABEL).replace("$", r"\$")


def mask_png(probability: np.ndarray) -> bytes:
    """The mask of probabilities (height, width): 255 above 0.5, which means the first texture, and 0 elsewhere.

    Pixels whose probability is NaN are left out; they are 128.
    """
    mask = np.where(probability > 0.5, np.uint8(255), np.uint8(0))
    mask[np.isnan(probability)] = 128
    return png(Image.fromarray(mask))


def probability_png(probability: np.ndarray) -> bytes:
    """Probabilities (height, width) in 16 bits: 65535 means certainly the first texture; NaN is 32768."""
    known = np.nan_to_num(probability, nan=0.5)
    return png(Image.fromarray(np.round(known * np.float32(65535)).astype(np.uint16)))


def npy(probability: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, probability)
    return buffer.getvalue()


def overlay(grey: np.ndarray, probability: np.ndarray) -> Image.Image:
    """The picture in 8 bits with the first texture tinted blue and the second orange; pixels left out have no tint."""
    levels = np.asarray(in_8_bits(grey))
    tints = np.array([tuple(bytes.fromhex(colour[1:])) for colour in COLOURS[1::-1]], np.float32)
    picture = np.empty((*grey.shape, 3), np.uint8)
    for start in range(0, len(grey), _ROWS):
        rows = slice(start, start + _ROWS)
        tint = tints[(probability[rows] > 0.5).astype(int)]
        share = np.where(np.isnan(probability[rows]), 0, np.float32(_TINT_SHARE))[..., None]
        picture[rows] = (1 - share) * levels[rows, :, None] + share * tint
    return Image.fromarray(picture)


def reduced(picture: Image.Image, side: int) -> np.ndarray:
    """A copy of at most `side` pixels per side, each the mean of a square of the picture."""
    return np.asarray(picture.reduce(-(-max(picture.size) // side)))


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # The lowest compression: the next level takes three times as long and makes the file a tenth smaller.
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _opened(file: BinaryIO, source: Source) -> Page:
    """The picture of a file, not yet unpacked."""
    if _is_tiff(file):
        return tiff.open_page(file, *source)
    picture = Image.open(file, formats=("PNG", "JPEG"))
    # The second picture of an MPO, a camera's JPEG, is a small copy of the first.
    number = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
    if number > 1:
        raise UnreadableError(f"is animated: it holds {number} pictures, not one")
    if source.page not in (None, 1):
        raise UnreadableError(f"has 1 page, and no page {source.page}")
    return Page(*picture.size, lambda: by_pillow(file), source.channel)


def _is_tiff(file: BinaryIO) -> bool:
    begin = file.read(4)
    file.seek(0)
    return begin in _TIFF


def _check_size(page: Page, max_megapixels: float, smallest: int) -> None:
    pixels = f"has {page.width} x {page.height} pixels"
    if min(page.width, page.height) < smallest:
        raise UnreadableError(f"{pixels}; both sides must have at least {smallest}")
    if page.width * page.height > max_megapixels * 1e6:
        raise UnreadableError(f"{pixels}, more than the {max_megapixels:g} million of --max-megapixels")


def _check_numbers(grey: np.ndarray) -> None:
    if not grey.size:
        raise UnreadableError("has no pixel with data")
    if not np.isfinite(grey).all():
        raise UnreadableError("has pixels that are no finite numbers")
    if (largest := max(float(grey.max()), -float(grey.min()))) > _LARGEST:
        raise UnreadableError(f"has pixels as large as {largest:.0e}, which stand for missing data")


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[BinaryIO]:
    """Opens a file; turns every error of the reader, except those of the machine, into a ValueError of one sentence."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    logger = logging.getLogger("tifffile")
    level = logger.level
    try:
        # Opening a pipe waits for its writer, and a device has no end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError("it is a folder, a pipe or a device, not a file")
        # Pillow warns of damage that it can skip, and tifffile logs it.
        logger.setLevel(logging.CRITICAL)
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield file
    except UnreadableError as error:
        raise ValueError(f"{path} {error}") from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{path} is not a picture in PNG, JPEG or TIFF, or of a kind that Pillow does not read"
        ) from error
    except OSError as error:
        if error.errno in _OF_THE_MACHINE:
            raise
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except MemoryError:
        raise
    except ImportError as error:
        raise ValueError(f"{path} is packed in a way that needs the package imagecodecs") from error
    except Exception as error:
        # A damaged file makes the decoders raise errors of many kinds.
        raise ValueError(f"{path} is damaged: {error}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit
        logger.setLevel(level)
