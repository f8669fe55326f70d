"""Bytes of a picture file -> Header: container, size, frames, orientation, and that the file is whole.

Read before any pixel is decoded, so that a picture too large costs nothing, and because decoders turn a file that is
cut off into grey without a word. Nothing here trusts a length that the file states.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ctscan.errors import UnreadableSlice
from ctscan.io import tiff
from ctscan.notices import Notice

Container = Literal["png", "jpeg", "webp", "bmp", "tiff"]

MIN_SIDE = 32  # px: less than one cell of the map
MAX_PIXELS = 20_000_000  # in 8 bits of any colours or 16 bits of grey they fit into the memory that `decoder` gives
MAX_PARTS = 100_000  # chunks or segments; a PNG at the limit of pixels, in chunks of 8 KiB, has half as many
_SVG = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<[?!][^>]*>\s*)*<svg\b")  # behind a declaration, comments, a document type
MAX_SCANS = 64  # of a JPEG; each costs a pass over all pixels, however few bytes it has. Encoders write about ten

DAMAGED, TRUNCATED, UNUSUAL = Notice("damaged"), Notice("truncated"), Notice("undecodable")


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels are decoded."""

    container: Container
    width: int
    height: int
    frames: int = 1  # 2 stands for any number above 1
    orientation: int = 1  # EXIF tag 274, 1 to 8


def read_header(data: bytes) -> Header:
    """Container by its first bytes, size within limits, nothing missing. Raises UnreadableSlice and nothing else."""
    try:
        container = sniff(data)
        width, height = _SIZES[container](data)
        check_size(width, height)
        frames, orientation = _WALKS[container](data)
    except (struct.error, IndexError):
        raise UnreadableSlice(DAMAGED) from None
    return Header(container, width, height, frames, orientation if 1 <= orientation <= 8 else 1)


def sniff(data: bytes) -> Container:
    """The container by magic bytes; a file's name is never asked. Raises UnreadableSlice."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if data[:2] == b"BM" and data[14:18] in _BMP_HEADERS:  # two letters alone may begin a text
        return "bmp"
    raise UnreadableSlice(Notice(name_foreign(data)))


def name_foreign(data: bytes) -> str:
    """The code of the notice that says what a file is that holds no picture ctscan reads."""
    if not data:
        return "empty"
    if data[128:132] == b"DICM":
        return "dicom"
    if data[:2] == b"\x1f\x8b" or data[344:347] in (b"n+1", b"ni1"):
        return "nifti"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if b"%PDF-" in data[:1024]:  # readers allow for bytes before it
        return "pdf"
    return "svg" if _SVG.match(data[:4096]) else "unknown_format"


def check_size(width: int, height: int) -> None:
    """Raises UnreadableSlice for pictures too small to mean anything or too large to decode."""
    if width < 1 or height < 1:
        raise UnreadableSlice(DAMAGED)
    if width * height > MAX_PIXELS:
        raise UnreadableSlice(Notice("too_large", {"width": width, "height": height, "millions": MAX_PIXELS // 10**6}))
    if min(width, height) < MIN_SIDE:
        raise UnreadableSlice(Notice("too_small", {"width": width, "height": height, "least": MIN_SIDE}))


# --- PNG (W3C Recommendation, third edition)


def _png_size(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        raise UnreadableSlice(DAMAGED)
    return struct.unpack_from(">II", data, 16)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of the content of each chunk up to IEND (section 5.3).

    Raises UnreadableSlice where one is missing or broken.
    """
    position = 8
    for _ in range(MAX_PARTS):
        if position + 12 > len(data):
            raise UnreadableSlice(TRUNCATED)
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise UnreadableSlice(TRUNCATED)
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if kind[:1].isupper() and zlib.crc32(memoryview(data)[position + 4 : end - 4]) != checksum:  # critical
            raise UnreadableSlice(DAMAGED)
        yield kind, position + 8, end - 4
        if kind == b"IEND":
            return
        position = end
    raise UnreadableSlice(UNUSUAL)


def _png_walk(data: bytes) -> tuple[int, int]:
    frames, exif = 1, b""
    for kind, start, end in png_chunks(data):
        if kind == b"acTL" and struct.unpack_from(">I", data, start)[0] > 1:
            frames = 2
        if kind == b"eXIf":
            exif = exif or data[start:end]
    return frames, _exif_orientation(exif)


def png_transparent_grey(data: bytes) -> int | None:
    """The one grey that a grey PNG without alpha calls transparent (tRNS, section 11.3.1.1), in its own depth."""
    if data[25] != 0:  # colour type: greyscale
        return None
    for kind, start, _ in png_chunks(data):
        if kind == b"tRNS":
            return int(struct.unpack_from(">H", data, start)[0]) & (1 << data[24]) - 1
        if kind == b"IDAT":  # tRNS stands before it
            break
    return None


def png_pixels(data: bytes) -> bytes:
    """The same PNG with the chunks that make its pixels and no others: libpng prints the name of a broken profile."""
    wanted = (
        data[start - 8 : end + 4] for kind, start, end in png_chunks(data) if kind[:1].isupper() or kind == b"tRNS"
    )
    return data[:8] + b"".join(wanted)


# --- JPEG (ITU-T T.81, annex B)

_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # entropy-coded data ends at a marker that is no restart


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment up to the end of the image. Raises UnreadableSlice where that is missing."""
    position = 2
    for _ in range(MAX_PARTS):
        while position + 1 < len(data) and data[position] == data[position + 1] == 0xFF:
            position += 1  # fill bytes
        if position + 2 > len(data):
            raise UnreadableSlice(TRUNCATED)
        if data[position] != 0xFF:
            raise UnreadableSlice(DAMAGED)
        marker = data[position + 1]
        position += 2
        if marker == 0xD9:
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        if position + 2 > len(data):
            raise UnreadableSlice(TRUNCATED)
        (length,) = struct.unpack_from(">H", data, position)
        if length < 2:
            raise UnreadableSlice(DAMAGED)
        yield marker, data[position + 2 : position + length]
        position += length
        if marker == 0xDA:
            found = _AFTER_SCAN.search(data, position)
            if not found:
                raise UnreadableSlice(TRUNCATED)
            position = found.start()
    raise UnreadableSlice(UNUSUAL)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    for marker, content in _jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = struct.unpack_from(">HH", content, 1)
            return width, height
        if marker == 0xDA:
            break
    raise UnreadableSlice(DAMAGED)


def _jpeg_walk(data: bytes) -> tuple[int, int]:
    exif, scans = b"", 0
    for marker, content in _jpeg_segments(data):
        if marker == 0xE1 and content.startswith(b"Exif\0\0"):
            exif = exif or content
        scans += marker == 0xDA
    if not scans:
        raise UnreadableSlice(DAMAGED)
    if scans > MAX_SCANS:
        raise UnreadableSlice(UNUSUAL)
    return 1, _exif_orientation(exif)


# --- WebP (RFC 9649)


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":  # section 2.7: 24 bits each, less one
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L" and data[20] == 0x2F:  # section 3.4: 14 bits each, less one
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":  # RFC 6386, section 9.1
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise UnreadableSlice(DAMAGED)


def _webp_walk(data: bytes) -> tuple[int, int]:
    (size,) = struct.unpack_from("<I", data, 4)
    end, position = 8 + size, 12
    if end > len(data):
        raise UnreadableSlice(TRUNCATED)
    frames, exif = 0, b""
    for _ in range(MAX_PARTS):
        if position + 8 > end:
            return (2 if frames > 1 else 1), _exif_orientation(exif)
        kind, length = struct.unpack_from("<4sI", data, position)
        if position + 8 + length > end:
            raise UnreadableSlice(DAMAGED)
        frames += kind == b"ANMF"
        if kind == b"EXIF":
            exif = exif or data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
    raise UnreadableSlice(UNUSUAL)


# --- BMP (BITMAPCOREHEADER, OS/2 2 and BITMAPINFOHEADER up to BITMAPV5HEADER, told apart by their sizes)

_BMP_HEADERS = tuple(struct.pack("<I", size) for size in (12, 16, 40, 52, 56, 64, 108, 124))
_BMP_WITH_ALPHA_MASK = 56  # bytes of the smallest header that has one
_BIT_FIELDS = (3, 6)  # BI_BITFIELDS, BI_ALPHABITFIELDS
_BGR_MASKS = (0xFF0000, 0xFF00, 0xFF)  # red, green, blue


def _bmp_size(data: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return width, abs(height)  # negative: rows from top to bottom


def _bmp_walk(data: bytes) -> tuple[int, int]:
    (offset, header) = struct.unpack_from("<II", data, 10)
    (bits,) = struct.unpack_from("<H", data, 24 if header == 12 else 28)
    compression, stated = (0, 0) if header == 12 else struct.unpack_from("<II", data, 30)
    width, height = _bmp_size(data)
    run_length_coded = compression in (1, 2)
    needed = stated if run_length_coded else (width * bits + 31) // 32 * 4 * height
    if offset + needed > len(data) or (run_length_coded and not stated):
        raise UnreadableSlice(TRUNCATED)
    return 1, 1


def bmp_has_alpha(data: bytes) -> bool:
    """Whether the fourth byte of a 32-bit BMP is alpha, which takes a mask that says so; it is padding otherwise."""
    header, compression = struct.unpack_from("<I12xI", data, 14)
    if header < _BMP_WITH_ALPHA_MASK or compression not in _BIT_FIELDS:
        return False
    return bool(struct.unpack_from("<I", data, 66)[0])


def bmp_hides_its_colours(data: bytes) -> bool:
    """Whether a 32-bit BMP orders its channels by masks that stand behind a short header, where OpenCV misses them."""
    header, bits, compression = struct.unpack_from("<I10xHI", data, 14)
    if header >= _BMP_WITH_ALPHA_MASK or bits != 32 or compression not in _BIT_FIELDS:
        return False
    return struct.unpack_from("<III", data, 54) != _BGR_MASKS


# --- TIFF


def _tiff_size(data: bytes) -> tuple[int, int]:
    directory = tiff.read_directory(data)
    return directory.first(tiff.WIDTH, 0), directory.first(tiff.HEIGHT, 0)


def _tiff_walk(data: bytes) -> tuple[int, int]:
    directory = tiff.read_directory(data)
    if not tiff.is_common(directory):
        raise UnreadableSlice(UNUSUAL)
    if not tiff.is_complete(data, directory):
        raise UnreadableSlice(TRUNCATED)
    return (2 if directory.next else 1), directory.first(tiff.ORIENTATION, 1)


def _exif_orientation(block: bytes) -> int:
    """The orientation in an EXIF block, 1 where there is none or the block is broken: it is no part of the pixels."""
    try:
        return tiff.read_directory(block.removeprefix(b"Exif\0\0")).first(tiff.ORIENTATION, 1)
    except UnreadableSlice:
        return 1


_SIZES = {"png": _png_size, "jpeg": _jpeg_size, "webp": _webp_size, "bmp": _bmp_size, "tiff": _tiff_size}
_WALKS = {"png": _png_walk, "jpeg": _jpeg_walk, "webp": _webp_walk, "bmp": _bmp_walk, "tiff": _tiff_walk}
