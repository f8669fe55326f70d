"""Bytes of a file -> Slice: grey pixels, and nothing else of the file.

Pixels are decoded by OpenCV and never by Pillow: the Pillow that the page's library allows has an open flaw in its
JPEG decoder, and strangers' bytes come here. The header is read first, by `headers`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ctscan.errors import UnreadableSlice
from ctscan.imaging.render import fitted
from ctscan.io import headers
from ctscan.io.headers import DAMAGED, UNDECODABLE
from ctscan.io.store import is_stored, read_stored
from ctscan.notices import Notice

LUMA_BGR = (0.114, 0.587, 0.299)  # ITU-R BT.601
COLOUR_STEP = 24 / 255  # of full scale between two channels; JPEG's colour noise on a grey picture stays below
ROWS_AT_ONCE = 64  # of a picture that becomes grey: in float64 the whole would take eight times its bytes
LONGEST_SIDE = 2048  # px of a slice: scanners make 512 or 1024, and floats of all that a file may hold take 80 MB
THINNEST = 64  # px that a shorter side keeps, so that what is far too long is still called that
MAX_FILE = 192 << 20  # bytes: what the process that reads a file has room for, beside one slice
EIGHT_BITS, TWELVE_BITS, SIXTEEN_BITS = 255, 4095, 65535
UNASSOCIATED = 2  # a TIFF's extra samples: alpha that is not multiplied into the colours

BROKEN = (*headers.BROKEN, ValueError, MemoryError, cv2.error)  # what forged bytes raise in NumPy and OpenCV too


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice as it came, upright. No name, date or other text of the file: it cannot leak what it lacks.

    Attributes:
        pixels: Float32 (H, W), grey in [0, 1], read-only.
        notices: What a viewer should know about the reading.
        colour: Share of the pixels that are clearly coloured, in [0, 1].
        unit: `HU` where the file holds Hounsfield units, of which the pixels are made; None for any other grey.
        spacing: mm between two rows and between two columns, where the file says it.
        is_radiological: Whether the file itself says how the patient lay: then the patient's right is at the left, and
            the front at the top.
        window: Centre and width under which the file's values became greys.
        position: mm towards the patient's head, from a point that slices of one scan share, where the file says it.
    """

    pixels: NDArray[np.float32]
    notices: tuple[Notice, ...] = ()
    colour: float = 0.0
    unit: Literal["HU"] | None = None
    spacing: tuple[float, float] | None = None
    is_radiological: bool = False
    window: tuple[float, float] | None = None
    position: float | None = None


@dataclass(frozen=True)
class Gap:
    """A slice of a scan that cannot be read.

    Attributes:
        notice: Why.
        position: As of a `Slice`, where it would lie.
    """

    notice: Notice
    position: float | None = None


@dataclass(frozen=True)
class Survey:
    """What is in a file before any pixel is decoded.

    Attributes:
        positions: As of a `Slice`, of each that there is.
        series: Equal for files of one series that are looked at with one key, and of no other meaning.
    """

    positions: tuple[float | None, ...] = (None,)
    series: str = ""

    @property
    def position(self) -> float | None:
        """Of the only one."""
        return self.positions[0] if len(self.positions) == 1 else None


# Container -> the module that reads it, imported when the first such file comes. All others are pictures.
MEDICAL: dict[str, str] = {
    "dicom": "ctscan.io.dicom",
    "nifti": "ctscan.io.nifti",
    "nrrd": "ctscan.io.nrrd",
    "zip": "ctscan.io.archive",
}


def read_slice(data: bytes, slice: int | None = None, window: str | tuple[float, float] | None = None) -> Slice:
    """The slice in the bytes of a file.

    Args:
        data: A DICOM, NIfTI or NRRD file, a zip of DICOM files, or a PNG, JPEG, WebP, BMP or TIFF, recognised by
            content. Of a picture's frames the first is taken, of its pages the largest.
        slice: Which slice or frame of a medical file, counted from 0, in a volume from the feet up; the middle one by
            default.
        window: Under which Hounsfield units become greys: `lung`, `mediastinal`, `bone`, `training` (by default),
            `file` for the file's own, or centre and width.

    Returns:
        The slice, turned as its EXIF orientation says, what is transparent on black, averaged down to `LONGEST_SIDE`.

    Raises:
        UnreadableSlice: And nothing else, whatever the bytes are.
        ValueError: There is no such window.

    >>> read_slice(b"%PDF-1.7")
    Traceback (most recent call last):
    ctscan.errors.UnreadableSlice: This is a PDF document. Please export the picture in it as PNG.
    """
    kind = headers.sniff(data)
    if kind in MEDICAL:
        return shrink(import_module(MEDICAL[kind]).read(data, slice, window))
    if slice:
        raise UnreadableSlice(Notice("no_such_slice", {"slice": slice, "last": 0}))
    picture = shrink(_read_picture(data))
    return replace(picture, notices=(*picture.notices, Notice("no_window"))) if window else picture


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file, on this machine or in an object store.

    Raises UnreadableSlice, for what is far too large after reading so much of it.
    """
    try:
        if is_stored(path):
            data = read_stored(str(path), MAX_FILE + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(MAX_FILE + 1)  # not all: a device may never end
    except (OSError, ValueError) as error:  # ValueError: no name that the system could have
        reason = getattr(error, "strerror", None) or "no such file"
        raise UnreadableSlice(Notice("cannot_open", {"reason": reason})) from None
    if len(data) > MAX_FILE:
        raise UnreadableSlice(Notice("large_file", {"megabytes": MAX_FILE >> 20}))
    return data


def survey(data: bytes, key: str = "") -> Survey:
    """What is in the bytes of a file, as `read_slice` would read it.

    Args:
        data: As for `read_slice`.
        key: Without which nobody can tell from `Survey.series` what series it is.

    Raises:
        UnreadableSlice: And nothing else, whatever the bytes are.
    """
    kind = headers.sniff(data)
    found: Survey = import_module(MEDICAL[kind]).survey(data, key) if kind in MEDICAL else Survey()
    return found


def _read_picture(data: bytes) -> Slice:
    try:
        shown = headers.from_largest_page(data)
        header = headers.read_header(shown)
        stored, orientation, has_several_frames = _decode(shown, header.container)
        grey, colour = to_grey(stored), share_coloured(stored)
        del stored  # before there are floats
        if sorted(grey.shape) != sorted((header.height, header.width)):  # OpenCV turns a TIFF itself
            raise UnreadableSlice(DAMAGED)
        pixels, notices = to_unit_range(grey)
        if shown is not data:
            notices += (Notice("largest_page"),)
        elif has_several_frames:
            notices += (Notice("several_frames"),)
    except BROKEN as error:
        out_of_memory = isinstance(error, MemoryError) or getattr(error, "code", 0) == cv2.Error.StsNoMem
        raise UnreadableSlice(Notice("too_much_memory") if out_of_memory else DAMAGED) from None
    upright = np.ascontiguousarray(turn(pixels, orientation))
    upright.setflags(write=False)
    return Slice(upright, notices, colour)


def _decode(data: bytes, container: headers.Container) -> tuple[NDArray[Any], int, bool]:
    """The first frame as stored, (H, W) grey, (H, W, 2) grey and alpha, (H, W, 3) BGR or (H, W, 4) BGRA.

    And the EXIF orientation that is still to be undone, and whether there are frames behind the first.
    """
    match container:
        case "png":
            wanted, transparent, has_several_frames = headers.png_pixels(data)
            pixels, orientation = _decode_by_opencv(wanted)
            if transparent is not None and pixels.ndim == 2:  # kept by OpenCV; it is black, as all that is transparent
                stored_top = (1 << data[24]) - 1  # byte 24: bit depth; OpenCV widens 1, 2 and 4 bits to 8
                widened = transparent * (np.iinfo(pixels.dtype).max // stored_top)
                pixels = np.where(pixels == widened, 0, pixels).astype(pixels.dtype)
            return pixels, orientation, has_several_frames
        case "bmp":  # OpenCV takes any fourth byte behind bit masks for alpha and knows those of short headers as BGR
            has_alpha = headers.bmp_has_alpha(data)
            pixels, _ = _decode_by_opencv(data)
            return (pixels if pixels.ndim == 2 or has_alpha else pixels[..., :3]), 1, False
        case "tiff":
            return _decode_tiff(data)
        case "webp":
            has_several_frames = data[12:16] == b"VP8X" and bool(data[20] & 2) and data.count(b"ANMF") > 1
            return *_decode_by_opencv(data), has_several_frames
        case "jpeg":
            return *_decode_by_opencv(data), False


def _decode_by_opencv(data: bytes) -> tuple[NDArray[Any], int]:
    """`IMREAD_UNCHANGED` keeps depth and alpha, and leaves the EXIF orientation to us."""
    pixels, kinds, blocks = cv2.imdecodeWithMetadata(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise UnreadableSlice(UNDECODABLE)
    exif = [block for kind, block in zip(kinds, blocks, strict=True) if kind == cv2.IMAGE_METADATA_EXIF]
    return pixels, headers.read_orientation(bytes(exif[0])) if exif else 1


def _decode_tiff(data: bytes) -> tuple[NDArray[Any], int, bool]:
    """By OpenCV, which turns a TIFF upright, but for what it gets wrong: alpha of grey, planes, white that is 0."""
    directory = headers.read_directory(data)
    pixels, orientation = _read_grey_alpha(data, directory), directory.orientation
    by_opencv = pixels is None
    if pixels is None:
        if directory.samples == 2 and directory.extra_samples == UNASSOCIATED:  # OpenCV drops the alpha
            raise UnreadableSlice(Notice("transparent_tiff"))
        pixels, orientation = _decode_by_opencv(data)
        in_planes = directory.planar != headers.CHUNKY and directory.samples > 1
        if in_planes and pixels.dtype != np.uint8:  # OpenCV reads them as if they were interleaved
            raise UnreadableSlice(UNDECODABLE)
    if directory.photometric == headers.WHITE_IS_ZERO and not (by_opencv and pixels.dtype == np.uint8):
        pixels = invert(pixels)
    # The file multiplies associated alpha, OpenCV any alpha of 8-bit colours; an extra sample of no stated meaning
    # (TIFF 6.0, ExtraSamples 0) is no alpha.
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        is_on_black = directory.extra_samples != UNASSOCIATED or (pixels.shape[2] == 4 and pixels.dtype == np.uint8)
        pixels = pixels[..., :-1] if is_on_black else pixels
    return pixels, orientation, directory.following != 0


def _read_grey_alpha(data: bytes, directory: headers.Directory) -> NDArray[Any] | None:
    """Pixels (H, W, 2) of an uncompressed grey TIFF with alpha, whose alpha OpenCV would drop; None for others."""
    is_plain = directory.compression == headers.UNCOMPRESSED and directory.planar == headers.CHUNKY
    is_grey_alpha = directory.samples == 2 and directory.photometric <= 1
    if not (is_plain and is_grey_alpha and directory.bits in (8, 16) and directory.strip_offsets):
        return None
    if len(directory.strip_bytes) != len(directory.strip_offsets):  # without sizes it may be whole for other readers
        raise UnreadableSlice(UNDECODABLE)
    strips = zip(directory.strip_offsets, directory.strip_bytes, strict=True)
    raw = b"".join(data[offset : offset + size] for offset, size in strips)
    shape = directory.height, directory.width, 2
    dtype = np.dtype(f"{directory.order}u{directory.bits // 8}")
    return np.frombuffer(raw, dtype, int(np.prod(shape))).reshape(shape).astype(dtype.newbyteorder("="))


def invert(pixels: NDArray[Any]) -> NDArray[Any]:
    """Greys whose white is zero -> greys whose black is zero, about the full scale of their depth; alpha stays."""
    grey = pixels[..., 0] if pixels.ndim == 3 else pixels
    top = usual_top(grey)
    turned: NDArray[Any]
    if top is None:
        wide = grey.astype(np.float64)
        turned = wide.min() + wide.max() - wide
    else:
        turned = (top - grey).astype(grey.dtype)
    return turned if pixels.ndim == 2 else np.dstack([turned, pixels[..., 1:]])


def to_grey(pixels: NDArray[Any]) -> NDArray[Any]:
    """Luma on black at the depth of the file, so that equal channels give exactly their value back: (H, W)."""
    if pixels.ndim == 2:
        return pixels
    grey = np.empty(pixels.shape[:2], pixels.dtype)
    whole = np.issubdtype(pixels.dtype, np.integer)
    opaque = np.iinfo(pixels.dtype).max if whole else 1.0
    for top in range(0, len(grey), ROWS_AT_ONCE):
        rows = pixels[top : top + ROWS_AT_ONCE]
        first, *others = cv2.split(rows)  # planes: NumPy is slow where channels lie side by side
        alpha = others.pop() if len(others) in (1, 3) else None
        luma: NDArray[Any] = first
        if others and not (whole and all(np.array_equal(first, other) for other in others)):
            luma = rows[..., :3] @ np.array(LUMA_BGR)
            luma = np.rint(luma) if whole else luma
        if alpha is not None and (alpha != opaque).any():
            luma = luma * (alpha / opaque)
            luma = np.rint(luma) if whole else luma
        grey[top : top + ROWS_AT_ONCE] = luma
    return grey


def share_coloured(pixels: NDArray[Any]) -> float:
    """The share of pixels as stored whose channels differ by more than `COLOUR_STEP`, 0 for grey ones."""
    if pixels.ndim == 2 or pixels.shape[2] < 3:
        return 0.0
    whole = np.issubdtype(pixels.dtype, np.integer)
    step = int(COLOUR_STEP * np.iinfo(pixels.dtype).max) if whole else COLOUR_STEP * float(pixels[..., :3].max())
    rows = range(0, len(pixels), ROWS_AT_ONCE)
    coloured = 0
    for top in rows:
        blue, green, red = cv2.split(pixels[top : top + ROWS_AT_ONCE])[:3]
        most, least = np.maximum(np.maximum(blue, green), red), np.minimum(np.minimum(blue, green), red)
        coloured += int((most - least > step).sum())
    return float(coloured / (pixels.shape[0] * pixels.shape[1]))


def usual_top(grey: NDArray[Any]) -> int | None:
    """The value of white: of the depth, else the first usual one that holds all greys; None where none does."""
    if grey.dtype == np.uint8:
        return EIGHT_BITS
    # Float, signed and 32-bit greys state no range of their own.
    tops: tuple[int, ...] = (EIGHT_BITS, TWELVE_BITS, SIXTEEN_BITS)
    if grey.dtype == np.uint16:
        tops = (TWELVE_BITS, SIXTEEN_BITS)
    elif np.issubdtype(grey.dtype, np.floating):
        tops = (1, *tops)
    low, high = grey.min(), grey.max()
    return next((top for top in tops if low >= 0 and high <= top), None)


def to_unit_range(grey: NDArray[Any]) -> tuple[NDArray[np.float32], tuple[Notice, ...]]:
    """Any depth -> float32 in [0, 1] and the notices that this earns. Raises UnreadableSlice for NaN and infinity."""
    if not np.isfinite([grey.min(), grey.max()]).all():
        raise UnreadableSlice(Notice("not_numbers"))
    top = usual_top(grey)
    if top is None:
        low, high = float(grey.min()), float(grey.max())
        half_span = high / 2 - low / 2  # halves, because the difference of the largest floats is infinite
        wide = grey.astype(np.float64)
        stretched = (wide / 2 - low / 2) / half_span if half_span > 0 else np.zeros_like(wide)
        return stretched.astype(np.float32), (Notice("stretched", {"low": low, "high": high}),)
    pixels: NDArray[np.float32] = np.divide(grey, top, dtype=np.float32)
    if grey.dtype == np.uint16:
        return pixels, (Notice("twelve_bit"),) if top == TWELVE_BITS else ()
    stated = top == 1 or grey.dtype == np.uint8
    return pixels, () if stated else (Notice("assumed_range", {"top": top}),)


def shrink(slice_: Slice) -> Slice:
    """At most `LONGEST_SIDE` on the longer side, each pixel the mean of those it covers; what is smaller stays."""
    before = slice_.pixels.shape[0], slice_.pixels.shape[1]
    height, width = (
        max(now, min(was, THINNEST)) for now, was in zip(fitted(before, LONGEST_SIDE), before, strict=True)
    )
    if (height, width) == before:
        return slice_
    means = cv2.resize(slice_.pixels, (width, height), interpolation=cv2.INTER_AREA)
    pixels = np.minimum(means, 1, dtype=np.float32)  # averages of white may be over 1 in the last digit
    pixels.setflags(write=False)
    spacing = slice_.spacing and (slice_.spacing[0] * before[0] / height, slice_.spacing[1] * before[1] / width)
    return replace(slice_, pixels=pixels, spacing=spacing)


def turn(pixels: NDArray[np.float32], orientation: int) -> NDArray[np.float32]:
    """Undo an EXIF orientation (tag 274, 1 to 8): afterwards the first row is the top, the first column the left."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.T
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
