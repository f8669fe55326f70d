"""Bytes of a TIFF file -> its first directory. Enough to know size, frames, orientation and completeness.

TIFF 6.0 (Adobe, 1992) and its 64-bit form BigTIFF. EXIF blocks have the same layout and are read here too.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctscan.errors import UnreadableSlice
from ctscan.notices import Notice

DAMAGED = Notice("damaged")

# Tags (TIFF 6.0, section 8 and appendix A).
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, ORIENTATION, SAMPLES, STRIP_BYTES, PLANAR = 273, 274, 277, 279, 284
TILE_OFFSETS, TILE_BYTES, EXTRA_SAMPLES = 324, 325, 338

UNCOMPRESSED, CHUNKY, WHITE_IS_ZERO = 1, 1, 0
JPEG, YCBCR = 7, 6
# What common programs write. The rest of what libtiff knows is rare, and 4.7.1, which OpenCV brings, has open flaws
# there: CVE-2026-12912 in the PixarLog codec, CVE-2026-4775 in YCbCr that no JPEG codec has made RGB.
COMPRESSIONS = (UNCOMPRESSED, 5, JPEG, 8, 32946, 32773)  # LZW, deflate by its two numbers, PackBits
PHOTOMETRICS = (WHITE_IS_ZERO, 1, 2, 3, 5)  # grey, RGB, palette, CMYK
UNASSOCIATED = 2  # extra samples: alpha that is not multiplied into the colours

LISTS = (STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES)  # of which every value is needed
SINGLES = (WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, SAMPLES, PLANAR, EXTRA_SAMPLES)  # the first one

MAX_ENTRIES = 1000  # of a directory; real ones have some tens
MAX_VALUES = 1 << 20  # of an entry; a strip a row of the tallest slice is far fewer

# Field types that hold unsigned whole numbers: byte, short, long, and BigTIFF's long8.
_TYPES = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}


@dataclass(frozen=True)
class Directory:
    """The entries of the first directory that this program asks for."""

    order: str  # "<" or ">", as in struct
    tags: dict[int, tuple[int, ...]]
    places: dict[int, int]  # where in the file the value of a tag of one value stands
    next: int  # offset of the next directory, 0 where there is none

    def first(self, tag: int, default: int) -> int:
        """The first value of a tag."""
        values = self.tags.get(tag, ())
        return values[0] if values else default


def read_directory(data: bytes) -> Directory:
    """The first directory. Raises UnreadableSlice."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise UnreadableSlice(DAMAGED)
    try:
        (version,) = struct.unpack_from(f"{order}H", data, 2)
        if version == 42:
            return _read(data, order, struct.unpack_from(f"{order}I", data, 4)[0], "H", "I", 12)
        if version == 43:
            return _read(data, order, struct.unpack_from(f"{order}Q", data, 8)[0], "Q", "Q", 20)
    except (struct.error, OverflowError):
        raise UnreadableSlice(DAMAGED) from None
    raise UnreadableSlice(DAMAGED)


def _read(data: bytes, order: str, start: int, count_kind: str, offset_kind: str, entry_size: int) -> Directory:
    (count,) = struct.unpack_from(order + count_kind, data, start)
    if count > MAX_ENTRIES:
        raise UnreadableSlice(DAMAGED)
    first = start + struct.calcsize(order + count_kind)
    tags: dict[int, tuple[int, ...]] = {}
    places: dict[int, int] = {}
    for place in range(first, first + count * entry_size, entry_size):
        tag, kind, number = struct.unpack_from(f"{order}HH{offset_kind}", data, place)
        # The first of two entries of one tag counts, as in libtiff: else its size would not be the one checked here.
        if tag not in LISTS + SINGLES or tag in tags:
            continue
        if kind not in _TYPES or number > MAX_VALUES:  # libtiff may take it, so it cannot count as absent
            raise UnreadableSlice(DAMAGED)
        dtype = np.dtype(order + _TYPES[kind])
        value_place = place + 4 + struct.calcsize(order + offset_kind)
        if number * dtype.itemsize > struct.calcsize(order + offset_kind):
            (value_place,) = struct.unpack_from(order + offset_kind, data, value_place)
        if value_place + number * dtype.itemsize > len(data):
            raise UnreadableSlice(DAMAGED)
        wanted = number if tag in LISTS else min(number, 1)
        tags[tag] = tuple(np.frombuffer(data, dtype, wanted, value_place).tolist())
        if number == 1:
            places[tag] = value_place
    (following,) = struct.unpack_from(order + offset_kind, data, first + count * entry_size)
    return Directory(order, tags, places, following)


def is_common(directory: Directory) -> bool:
    """Whether the pixels are stored in a way that common programs write."""
    compression, photometric = directory.first(COMPRESSION, UNCOMPRESSED), directory.first(PHOTOMETRIC, 1)
    becomes_rgb = photometric == YCBCR and compression == JPEG and directory.first(PLANAR, CHUNKY) == CHUNKY
    return compression in COMPRESSIONS and (photometric in PHOTOMETRICS or becomes_rgb)


def is_complete(data: bytes, directory: Directory) -> bool:
    """Whether every strip or tile of the directory lies within the file."""
    offsets = directory.tags.get(STRIP_OFFSETS) or directory.tags.get(TILE_OFFSETS, ())
    sizes = directory.tags.get(STRIP_BYTES) or directory.tags.get(TILE_BYTES, ())
    if not offsets or len(offsets) != len(sizes):
        return False
    return all(o + s <= len(data) for o, s in zip(offsets, sizes, strict=True))


def without_orientation(data: bytes, directory: Directory) -> bytes:
    """The same file with its orientation tag set to 1: OpenCV turns a TIFF by it, and we turn it ourselves."""
    place = directory.places.get(ORIENTATION)
    if place is None:
        return data
    changed = bytearray(data)
    struct.pack_into(f"{directory.order}H", changed, place, 1)
    return bytes(changed)


def read_grey_alpha(data: bytes, directory: Directory) -> NDArray[np.generic] | None:
    """Pixels (H, W, 2) of an uncompressed grey TIFF with alpha, whose alpha OpenCV would drop; None for others."""
    d = directory
    bits = d.first(BITS, 1)
    plain = d.first(COMPRESSION, 1) == UNCOMPRESSED and d.first(PLANAR, 1) == CHUNKY and bits in (8, 16)
    if d.first(SAMPLES, 1) != 2 or not plain or STRIP_OFFSETS not in d.tags or d.first(PHOTOMETRIC, 1) > 1:
        return None
    strips = zip(d.tags[STRIP_OFFSETS], d.tags[STRIP_BYTES], strict=True)
    raw = b"".join(data[offset : offset + size] for offset, size in strips)
    height, width = d.first(HEIGHT, 0), d.first(WIDTH, 0)
    dtype = np.dtype(f"{d.order}u{bits // 8}")
    if len(raw) < height * width * 2 * dtype.itemsize:
        raise UnreadableSlice(DAMAGED)
    pixels = np.frombuffer(raw, dtype, height * width * 2).reshape(height, width, 2)
    return pixels.astype(dtype.newbyteorder("="))
