"""Bytes of a picture file -> Header: container, size and frames, known before any pixel is decoded.

So a picture too large costs nothing. Whether the rest of the file is whole is for OpenCV to say, which refuses what is
cut off. Nothing here trusts a length that the file states.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ctscan.errors import UnreadableSlice
from ctscan.notices import Notice

Container = Literal["png", "jpeg", "webp", "bmp", "tiff"]
Medical = Literal["dicom", "nifti", "nrrd", "zip"]

MIN_SIDE = 32  # px: less than one cell of the map
MAX_PIXELS = 20_000_000  # in 8 bits of any colours or 16 bits of grey they fit into the memory that `sandbox` gives
MAX_PARTS = 100_000  # chunks or segments; a PNG at the limit of pixels, in chunks of 8 KiB, has half as many
MAX_PAGES = 1000  # of a TIFF that are looked at; no thumbnail stands behind more
MAX_SCANS = 64  # of a JPEG; each costs a pass over all pixels, however few bytes it has. Encoders write about ten

DAMAGED, UNDECODABLE = Notice("damaged"), Notice("undecodable")
BROKEN = (struct.error, LookupError, OverflowError)  # what a length or an offset that lies raises here

# ISO/IEC 23008-12 and AV1's container on top of it: pictures and sequences; films have the same box with other brands
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")
_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SVG = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<[?!][^>]*>\s*)*<svg\b")  # behind a declaration, comments, a document type

# DICOM without a preamble: group 2 or 8, one of its first elements, and a type of value or a short length.
_BARE_DICOM = re.compile(
    rb"[\x02\x08]\0[\0\x01\x05\x08\x10\x12-\x18]\0(?:UL|OB|CS|UI|DA|TM|DT|.\0\0\0)|\0\x08\0[\0-\x18](?:UL|CS|UI|DA|TM|DT)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels are decoded."""

    container: Container
    width: int
    height: int


def read_header(data: bytes) -> Header:
    """The header of a PNG, JPEG, WebP, BMP or TIFF of a size within limits. Raises UnreadableSlice and nothing else."""
    container = sniff(data)
    if container == "dicom" or container == "nifti" or container == "nrrd" or container == "zip":
        raise UnreadableSlice(UNDECODABLE)
    try:
        width, height = _SIZES[container](data)
    except BROKEN:
        raise UnreadableSlice(DAMAGED) from None
    check_size(width, height)
    return Header(container, width, height)


def check_size(width: int, height: int) -> None:
    """Raises UnreadableSlice for a size that is none or not within limits."""
    if width < 1 or height < 1:
        raise UnreadableSlice(DAMAGED)
    if width * height > MAX_PIXELS:
        raise UnreadableSlice(Notice("too_large", {"width": width, "height": height, "millions": MAX_PIXELS // 10**6}))
    if min(width, height) < MIN_SIDE:
        raise UnreadableSlice(Notice("too_small", {"width": width, "height": height, "least": MIN_SIDE}))


def sniff(data: bytes) -> Container | Medical:
    """The container by its first bytes; a file's name is never asked. Raises UnreadableSlice."""
    if data[128:132] == b"DICM" or _BARE_DICOM.match(data):  # first: the 128 bytes before may be a TIFF's header
        return "dicom"
    if data[:2] == b"\x1f\x8b" or data[344:347] in (b"n+1", b"ni1") or data[4:7] in (b"n+2", b"ni2"):
        return "nifti"
    if data[:7] == b"NRRD000":
        return "nrrd"
    if data[:4] in (b"PK\3\4", b"PK\5\6"):  # the latter: with nothing in it
        return "zip"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:4] in _TIFFS:
        return "tiff"
    if data[:2] == b"BM" and data[14:18] in _BMP_HEADERS:  # two letters alone may begin a text
        return "bmp"
    if not data:
        code = "empty"
    elif data[:6] in (b"GIF87a", b"GIF89a"):
        code = "gif"
    elif data[4:8] == b"ftyp" and any(brand in data[8:64] for brand in _HEIF_BRANDS):
        code = "heif"
    elif b"%PDF-" in data[:1024]:  # readers allow for bytes before it
        code = "pdf"
    else:
        code = "svg" if _SVG.match(data[:4096]) else "unknown_format"
    raise UnreadableSlice(Notice(code))


# --- PNG (W3C Recommendation, third edition)


def _png_size(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        raise UnreadableSlice(DAMAGED)
    return struct.unpack_from(">II", data, 16)


_END = struct.pack(">I4sI", 0, b"IEND", 0xAE426082)  # whole, however the file's own ends


def png_pixels(data: bytes) -> tuple[bytes, int | None, bool]:
    """The same PNG with the chunks that make its pixels and no others: libpng prints the name of a broken profile.

    And the one grey that a grey PNG without alpha calls transparent (tRNS, section 11.3.1.1), in its own depth, and
    whether it is animated by several frames. Raises UnreadableSlice or BROKEN.
    """
    depth, colour_type, parts, transparent, has_several_frames = data[24], data[25], [data[:8]], None, False
    position = 8
    for _ in range(MAX_PARTS):  # section 5.3: length, type, content, checksum
        length, kind = struct.unpack_from(">I4s", data, position)
        content, position = position + 8, position + 12 + length
        if kind == b"IEND":
            return b"".join([*parts, _END]), transparent, has_several_frames
        if kind[:1].isupper() or kind in (b"tRNS", b"eXIf"):
            parts.append(data[content - 8 : position])
        if kind == b"tRNS" and colour_type == 0 and transparent is None:
            transparent = struct.unpack_from(">H", data, content)[0] & (1 << depth) - 1
        if kind == b"acTL" and struct.unpack_from(">I", data, content)[0] > 1:
            has_several_frames = True
    raise UnreadableSlice(UNDECODABLE)


# --- JPEG (ITU-T T.81, annex B) and WebP (RFC 9649)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise UnreadableSlice(UNDECODABLE)
    position = 2
    for _ in range(MAX_PARTS):
        marker = data[position + 1]
        if data[position] != 0xFF or marker in (0xD9, 0xDA):  # the end, or pixels of no stated size
            raise UnreadableSlice(DAMAGED)
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers alone
            position += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
        else:
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    raise UnreadableSlice(UNDECODABLE)


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


# --- BMP (BITMAPCOREHEADER, OS/2 2 and BITMAPINFOHEADER up to BITMAPV5HEADER, told apart by their sizes)

_BMP_HEADERS = tuple(struct.pack("<I", size) for size in (12, 16, 40, 52, 56, 64, 108, 124))
_BMP_WITH_ALPHA_MASK = 56  # bytes of the smallest header that has one
_BIT_FIELDS = (3, 6)  # BI_BITFIELDS, BI_ALPHABITFIELDS
_BGR_MASKS = (0xFF0000, 0xFF00, 0xFF)  # red, green, blue


def _bmp_size(data: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return width, abs(height)  # negative: rows from top to bottom


def bmp_has_alpha(data: bytes) -> bool:
    """Whether the fourth byte of a 32-bit BMP is alpha, which takes a mask that says so; it is padding otherwise.

    Raises UnreadableSlice where masks behind a short header order the colours in a way that OpenCV misses.
    """
    header, bits, compression = struct.unpack_from("<I10xHI", data, 14)
    if compression not in _BIT_FIELDS:
        return False
    if header >= _BMP_WITH_ALPHA_MASK:
        return bool(struct.unpack_from("<I", data, 66)[0])
    if bits == 32 and struct.unpack_from("<III", data, 54) != _BGR_MASKS:
        raise UnreadableSlice(UNDECODABLE)
    return False


# --- TIFF 6.0 (Adobe, 1992), its 64-bit form BigTIFF, and EXIF blocks, which have the same layout

UNCOMPRESSED, CHUNKY, WHITE_IS_ZERO = 1, 1, 0
JPEG, YCBCR = 7, 6
# What common programs write. The rest of what libtiff knows is rare, and 4.7.1, which OpenCV brings, has open flaws
# there: CVE-2026-12912 in the PixarLog codec, CVE-2026-4775 in YCbCr that no JPEG codec has made RGB.
_COMPRESSIONS = (UNCOMPRESSED, 5, JPEG, 8, 32946, 32773)  # LZW, deflate by its two numbers, PackBits
_PHOTOMETRICS = (WHITE_IS_ZERO, 1, 2, 3, 5)  # grey, RGB, palette, CMYK

MAX_ENTRIES = 1000  # of a directory; real ones have some tens
MAX_VALUES = 1 << 20  # of an entry; a strip a row of the tallest slice is far fewer
_UNSIGNED = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}  # field types; 16 and 18 are BigTIFF's


@dataclass(frozen=True)
class Directory:
    """What this program asks of a directory of a TIFF: the first value of a tag, of the strips all."""

    order: str  # "<" or ">", as in struct
    following: int  # where the next one begins; 0 behind the last
    width: int = 0
    height: int = 0
    bits: int = 1
    compression: int = UNCOMPRESSED
    photometric: int = 1
    strip_offsets: tuple[int, ...] = ()
    orientation: int = 1
    samples: int = 1
    strip_bytes: tuple[int, ...] = ()
    planar: int = CHUNKY
    extra_samples: int = 0


_SIZE = {256: "width", 257: "height"}
_STRIPS = {273: "strip_offsets", 279: "strip_bytes"}  # tags (section 8 and appendix A)
_TAGS = {258: "bits", 259: "compression", 262: "photometric", 274: "orientation", 277: "samples", 284: "planar"}
_TAGS |= {338: "extra_samples"} | _SIZE | _STRIPS


def read_directory(data: bytes, start: int = 0, wanted: Mapping[int, str] = _TAGS) -> Directory:
    """The first directory of a TIFF, or the one that begins at `start`. Raises UnreadableSlice or BROKEN."""
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    big = {42: False, 43: True}[struct.unpack_from(f"{order}H", data, 2)[0]]
    count_kind, pointer, entry_size = ("Q", "Q", 20) if big else ("H", "I", 12)
    if not start:
        (start,) = struct.unpack_from(order + pointer, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + count_kind, data, start)
    if count > MAX_ENTRIES:
        raise UnreadableSlice(DAMAGED)
    first = start + struct.calcsize(count_kind)
    tags: dict[int, list[int]] = {}
    for place in range(first, first + count * entry_size, entry_size):
        tag, kind, number = struct.unpack_from(f"{order}HH{pointer}", data, place)
        # The first of two entries of one tag counts, as in libtiff: else its size would not be the one checked here.
        if tag not in wanted or tag in tags:
            continue
        if kind not in _UNSIGNED or number > MAX_VALUES:  # libtiff may take it, so it cannot count as absent
            raise UnreadableSlice(DAMAGED)
        dtype = np.dtype(order + _UNSIGNED[kind])
        value = place + 4 + struct.calcsize(pointer)
        if number * dtype.itemsize > struct.calcsize(pointer):
            (value,) = struct.unpack_from(order + pointer, data, value)
        if value + number * dtype.itemsize > len(data):
            raise UnreadableSlice(DAMAGED)
        tags[tag] = np.frombuffer(data, dtype, number if tag in _STRIPS else min(number, 1), value).tolist()
    (following,) = struct.unpack_from(order + pointer, data, first + count * entry_size)
    fields: dict[str, Any] = {_TAGS[t]: tuple(v) if t in _STRIPS else v[0] for t, v in tags.items() if v}
    return Directory(order, following, **fields)


def from_largest_page(data: bytes) -> bytes:
    """The same TIFF as if its largest page were the first, for the first may be a thumbnail; any other file as it is.

    Of equal pages the first counts, and what is broken counts as no page: it is for the reader of the first to say.
    """
    if data[:4] not in _TIFFS:
        return data
    largest, most, start, seen = 0, 0, 0, set[int]()
    with suppress(*BROKEN, UnreadableSlice):
        while start not in seen and len(seen) < MAX_PAGES:  # 0 is the first of all, and what stands behind the last
            page = read_directory(data, start, _SIZE)
            if page.width * page.height > most:
                largest, most = start, page.width * page.height
            seen.add(start)
            start = page.following
    if not largest:
        return data
    place, pointer = (8, "Q") if 43 in data[2:4] else (4, "I")
    pointed = struct.pack(("<" if data[:1] == b"I" else ">") + pointer, largest)
    return data[:place] + pointed + data[place + len(pointed) :]


def read_orientation(exif: bytes) -> int:
    """The orientation in an EXIF block, 1 to 8; 1 where there is none or the block is broken: it makes no pixels."""
    try:
        orientation = read_directory(exif).orientation
    except (*BROKEN, UnreadableSlice):
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _tiff_size(data: bytes) -> tuple[int, int]:
    d = read_directory(data)
    becomes_rgb = d.photometric == YCBCR and d.compression == JPEG and d.planar == CHUNKY
    if d.compression not in _COMPRESSIONS or not (d.photometric in _PHOTOMETRICS or becomes_rgb):
        raise UnreadableSlice(UNDECODABLE)
    return d.width, d.height


_SIZES = {"png": _png_size, "jpeg": _jpeg_size, "webp": _webp_size, "bmp": _bmp_size, "tiff": _tiff_size}
