"""Shared by tests of pictures: arrays, files of them, and the numbers that they stand for."""

import struct
import zlib

import numpy as np
import tifffile
from PIL import Image

from experiments.pictures import photographs
from experiments.pictures.photographs import Source

SHADES = np.random.default_rng(0).integers(0, 256, (18, 24)).astype(np.uint8)
DEEP = SHADES.astype(np.uint16) * 250 + 17
COLOURS = np.random.default_rng(1).integers(0, 256, (18, 24, 3)).astype(np.uint8)
LUMA = np.array([0.299, 0.587, 0.114])


def read(path, side=1, **choice):
    return photographs.read(Source(path, **choice), 1.0, 16, side)


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
