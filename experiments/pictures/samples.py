"""What a decoder gives: the numbers of a picture as its file holds them, and what they mean; the decoder by Pillow."""

from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

# Pillow's modes of one number per pixel -> the number that is mapped to 1.
_WHITE = {"L": 255.0, "I;16": 65535.0, "I;16L": 65535.0, "I;16B": 65535.0, "I": 1.0, "F": 1.0}
# Weights of red, green and blue in grey (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Rows that are converted at a time: colours in floating point take 12 bytes per pixel, 1.2 GB for 100 million.
_ROWS = 256
# Pixels of a picture whose colours are correlated, at most.
_MAX_CORRELATED = 2**18


class UnreadableError(ValueError):
    """Why a picture is refused; the message goes on after the name of its file."""


class Samples(NamedTuple):
    """The numbers of one picture.

    Attributes:
        array: (height, width, samples), upright, of the file's dtype.
        white: the number that is mapped to 1; 1 for signed numbers, floating point and more than 16 bits.
        inverted: whether `white` is black.
        colours: whether the first three samples are red, green and blue.
        opacity: whether the last sample is opacity.
        nodata: the number of pixels without data; None if no number stands for that.
        pixel_area: in square micrometres; None if the file does not say.
    """

    array: np.ndarray
    white: float
    inverted: bool = False
    colours: bool = False
    opacity: bool = False
    nodata: float | None = None
    pixel_area: float | None = None

    def grey(self, channel: int | None) -> np.ndarray:
        """Grey levels (height, width): `array / white` of a channel, counted from 1, or of all colours.

        Raises:
            UnreadableError: there is no such channel, there are several and none is chosen, or the picture is partly
                transparent.
        """
        number, dtype = self.array.shape[-1] - self.opacity, np.result_type(self.array, np.float32)
        if self.opacity and (self.array[..., -1] != self.white).any():
            raise UnreadableError("is partly transparent; put it on a background first")
        if channel and channel > number:
            raise UnreadableError(f"has {number} channel{'s' * (number > 1)}, and no channel {channel}")
        if channel or number == 1:
            levels = self.array[..., (channel or 1) - 1].astype(dtype) / dtype.type(self.white)
        elif self.colours and number == 3:
            levels = np.empty(self.array.shape[:2], dtype)
            for start in range(0, len(levels), _ROWS):
                rows = slice(start, start + _ROWS)
                levels[rows] = self.array[rows, :, :3] @ (_LUMA / np.float32(self.white))
        else:
            raise UnreadableError(f"holds {number} channels; choose one by --channel")
        return 1 - levels if self.inverted else levels

    def valid(self, channel: int | None) -> np.ndarray | None:
        """The pixels with data, (height, width) of bool; None if all have."""
        if self.nodata is None:
            return None
        # All colours of a pixel must have the number: black may stand for no data, but a pure blue has no red either.
        array = self.array[..., [channel - 1]] if channel else self.array[..., : self.array.shape[-1] - self.opacity]
        # Compared as a number, since the array's integers may not hold it.
        has_data = ~np.isnan(array) if np.isnan(self.nodata) else array != self.nodata
        valid: np.ndarray = has_data.any(axis=-1)
        return None if valid.all() else valid

    def in_colour(self) -> Image.Image:
        """The first three samples in 8 bits, as red, green and blue."""
        colours = self.array[..., :3]
        return Image.fromarray(np.ascontiguousarray(colours)) if colours.dtype == np.uint8 else in_8_bits(colours)

    def correlation(self) -> float:
        """The largest correlation of two of the three colours: near 0 if they are three pictures and no colours."""
        step = -(-self.array[..., 0].size // _MAX_CORRELATED)
        colours = self.array[..., :3].reshape(-1, 3)[::step].astype(float)
        with np.errstate(invalid="ignore"):
            correlations = np.abs(np.corrcoef(colours, rowvar=False))[np.triu_indices(3, 1)]
        # A constant colour has none.
        return float(np.nan_to_num(correlations, nan=1.0).max())


def in_8_bits(array: np.ndarray) -> Image.Image:
    """A picture in grey or colours, with its smallest number at 0 and its largest at 255."""
    low, high = float(array.min()), float(array.max())
    levels = np.empty(array.shape, np.uint8)
    for start in range(0, len(array), _ROWS):
        rows = slice(start, start + _ROWS)
        levels[rows] = (array[rows].astype(np.float32) - low) * (255 / (high - low) if high > low else 0)
    return Image.fromarray(levels)


def by_pillow(file: BinaryIO, page: int = 0) -> Samples:
    """The numbers of a picture, upright as its EXIF says.

    Args:
        page: index in a TIFF.

    Raises:
        UnreadableError: a PNG that Pillow misreads.
    """
    with Image.open(file, formats=("PNG", "JPEG", "TIFF")) as picture:
        if page:
            picture.seek(page)
        raw_mode = str(picture.tile[0].args) if picture.format == "PNG" else ""
        # Pillow compares the transparent colour of a PNG with pixels that it has already converted to 8 bits.
        if "transparency" in picture.info and raw_mode in ("L;2", "L;4", "I;16B", "RGB;16B"):
            raise UnreadableError(
                "has a transparent colour of other than 8 bits, which Pillow misreads; convert it first"
            )
        if raw_mode == "LA;16B":
            raise UnreadableError("has grey and opacity of 16 bits, which Pillow reads with 8; convert it first")
        upright = ImageOps.exif_transpose(picture)
    opacity = upright.has_transparency_data
    upright = upright.convert("L") if upright.mode == "1" else upright
    if upright.mode in _WHITE and not opacity:
        return Samples(np.asarray(upright)[..., None], _WHITE[upright.mode])
    array = np.asarray(upright.convert("RGBA" if opacity else "RGB"))
    if raw_mode in ("RGB;16B", "RGBA;16B"):
        array = array.astype(np.uint16) << 8 | _low_bytes(file)
    return Samples(array, float(np.iinfo(array.dtype).max), colours=True, opacity=opacity)


def _low_bytes(file: BinaryIO) -> np.ndarray:
    """The lower bytes of a PNG with colours of 16 bits, of which Pillow reads the upper ones."""
    file.seek(0)
    with Image.open(file, formats=["PNG"]) as picture:
        # In little-endian numbers, as which they are read now, the upper byte comes second.
        picture.tile = [picture.tile[0]._replace(args=f"{picture.mode};16L")]
        return np.asarray(ImageOps.exif_transpose(picture))
