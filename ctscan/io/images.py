"""Bytes of a file -> Slice: grey pixels, and nothing else of the file.

Pixels are decoded by OpenCV and never by Pillow: the Pillow that the page's library allows has an open flaw in its
JPEG decoder, and strangers' bytes come here. The header is read first, by `headers`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ctscan.errors import UnreadableSlice
from ctscan.io import tiff
from ctscan.io.headers import (
    DAMAGED,
    UNUSUAL,
    Header,
    bmp_has_alpha,
    bmp_hides_its_colours,
    png_pixels,
    png_transparent_grey,
    read_header,
)
from ctscan.notices import Notice

__all__ = ["Slice", "UnreadableSlice", "read_slice"]

LUMA_BGR = (0.114, 0.587, 0.299)  # ITU-R BT.601
COLOUR_STEP = 24 / 255  # of full scale between two channels; JPEG's colour noise on a grey picture stays below
ROWS_AT_ONCE = 64  # of a picture that becomes grey: in float64 the whole would take eight times its bytes
EIGHT_BITS, TWELVE_BITS, SIXTEEN_BITS = 255, 4095, 65535

# What forged bytes can raise in a parser, in NumPy or in OpenCV.
BROKEN = (struct.error, LookupError, ValueError, OverflowError, MemoryError, cv2.error)


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice as it came, upright. No name, date or other text of the file: it cannot leak what it lacks."""

    pixels: NDArray[np.float32]  # (H, W), grey in [0, 1], read-only
    notices: tuple[Notice, ...] = ()  # what a viewer should know about the reading
    colour: float = 0.0  # share of the pixels that are clearly coloured, in [0, 1]


def read_slice(data: bytes) -> Slice:
    """PNG, JPEG, WebP, BMP or TIFF, recognised by content. Raises UnreadableSlice and nothing else."""
    try:
        return _read(data)
    except UnreadableSlice:
        raise
    except BROKEN as error:
        raise UnreadableSlice(Notice("too_much_memory") if is_out_of_memory(error) else DAMAGED) from None


def is_out_of_memory(error: Exception) -> bool:
    """Whether NumPy or OpenCV got no memory, as where a process may have little."""
    return isinstance(error, MemoryError) or getattr(error, "code", 0) == cv2.Error.StsNoMem


def _read(data: bytes) -> Slice:
    header = read_header(data)
    stored = decode(data, header)
    grey = to_grey(stored)
    if grey.shape != (header.height, header.width):
        raise UnreadableSlice(DAMAGED)
    pixels, notices = to_unit_range(grey)
    upright = np.ascontiguousarray(turn(pixels, header.orientation))
    upright.setflags(write=False)
    return Slice(upright, notices + ((Notice("several_frames"),) if header.frames > 1 else ()), share_coloured(stored))


def decode(data: bytes, header: Header) -> NDArray[Any]:
    """The first frame as stored: (H, W) grey, (H, W, 2) grey and alpha, (H, W, 3) BGR or (H, W, 4) BGRA."""
    match header.container:
        case "tiff":
            return decode_tiff(data)
        case "bmp":
            return decode_bmp(data)
        case "png":
            return decode_png(data)
        case _:
            return decode_plain(data)


def decode_plain(data: bytes) -> NDArray[Any]:
    """By OpenCV. `IMREAD_UNCHANGED` keeps depth and alpha, and leaves the EXIF orientation to us."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise UnreadableSlice(UNUSUAL)
    return pixels


def decode_png(data: bytes) -> NDArray[Any]:
    """By OpenCV, which keeps the transparent grey of a PNG that has one; it is black, as all that is transparent."""
    pixels = decode_plain(png_pixels(data))
    transparent = png_transparent_grey(data)
    if transparent is None or pixels.ndim != 2:
        return pixels
    stored_top = (1 << data[24]) - 1  # byte 24: bit depth; OpenCV widens 1, 2 and 4 bits to 8
    return np.where(pixels == transparent * (np.iinfo(pixels.dtype).max // stored_top), 0, pixels).astype(pixels.dtype)


def decode_bmp(data: bytes) -> NDArray[Any]:
    """By OpenCV, which takes any fourth byte behind bit masks for alpha and knows those of short headers as BGR."""
    if bmp_hides_its_colours(data):
        raise UnreadableSlice(UNUSUAL)
    pixels = decode_plain(data)
    return pixels if pixels.ndim == 2 or bmp_has_alpha(data) else pixels[..., :3]


def decode_tiff(data: bytes) -> NDArray[Any]:
    """By OpenCV, but for what it gets wrong: orientation, alpha of grey, separate planes, greys whose white is 0."""
    directory = tiff.read_directory(data)
    pixels: NDArray[Any] | None = tiff.read_grey_alpha(data, directory)
    by_opencv = pixels is None
    if pixels is None:
        pixels = _decode_tiff_by_opencv(data, directory)
    if directory.first(tiff.PHOTOMETRIC, 1) == tiff.WHITE_IS_ZERO and not (by_opencv and pixels.dtype == np.uint8):
        pixels = invert(pixels)
    alpha = pixels.ndim == 3 and pixels.shape[2] in (2, 4)
    return pixels[..., :-1] if alpha and is_on_black(pixels, directory) else pixels


def _decode_tiff_by_opencv(data: bytes, directory: tiff.Directory) -> NDArray[Any]:
    unassociated = directory.first(tiff.EXTRA_SAMPLES, 0) == tiff.UNASSOCIATED
    if directory.first(tiff.SAMPLES, 1) == 2 and unassociated:  # OpenCV drops the alpha
        raise UnreadableSlice(Notice("transparent_tiff"))
    pixels = decode_plain(tiff.without_orientation(data, directory))
    separate = directory.first(tiff.PLANAR, tiff.CHUNKY) != tiff.CHUNKY and directory.first(tiff.SAMPLES, 1) > 1
    if separate and pixels.dtype != np.uint8:  # OpenCV reads them as if they were interleaved
        raise UnreadableSlice(UNUSUAL)
    return pixels


def is_on_black(pixels: NDArray[Any], directory: tiff.Directory) -> bool:
    """Whether the last of 2 or 4 channels of a TIFF is to be dropped: no alpha, or multiplied into the others already.

    The file multiplies associated alpha, OpenCV any alpha of 8-bit colours; an extra sample of no stated meaning
    (TIFF 6.0, ExtraSamples 0) is none.
    """
    by_opencv = pixels.shape[2] == 4 and pixels.dtype == np.uint8
    return by_opencv or directory.first(tiff.EXTRA_SAMPLES, 0) != tiff.UNASSOCIATED


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
    for top in range(0, len(grey), ROWS_AT_ONCE):
        grey[top : top + ROWS_AT_ONCE] = _to_grey(pixels[top : top + ROWS_AT_ONCE])
    return grey


def _to_grey(pixels: NDArray[Any]) -> NDArray[Any]:
    whole = np.issubdtype(pixels.dtype, np.integer)
    grey = pixels[..., :3] @ np.array(LUMA_BGR) if pixels.shape[2] >= 3 else pixels[..., 0].astype(np.float64)
    grey = np.rint(grey) if whole else grey
    if pixels.shape[2] in (2, 4):
        opaque = np.iinfo(pixels.dtype).max if whole else 1.0
        grey = grey * (pixels[..., -1] / opaque)
    return (np.rint(grey) if whole else grey).astype(pixels.dtype)


def share_coloured(pixels: NDArray[Any]) -> float:
    """The share of pixels as stored whose channels differ by more than `COLOUR_STEP`, 0 for grey ones."""
    if pixels.ndim == 2 or pixels.shape[2] < 3:
        return 0.0
    whole = np.issubdtype(pixels.dtype, np.integer)
    step = COLOUR_STEP * float(np.iinfo(pixels.dtype).max if whole else pixels[..., :3].max())
    rows = range(0, len(pixels), ROWS_AT_ONCE)
    coloured = sum(int((np.ptp(pixels[top : top + ROWS_AT_ONCE, :, :3], axis=2) > step).sum()) for top in rows)
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
        return _stretch(grey.astype(np.float64))
    pixels: NDArray[np.float32] = np.divide(grey, top, dtype=np.float32)
    if grey.dtype == np.uint16:
        return pixels, (Notice("twelve_bit"),) if top == TWELVE_BITS else ()
    stated = top == 1 or grey.dtype == np.uint8
    return pixels, () if stated else (Notice("assumed_range", {"top": top}),)


def _stretch(grey: NDArray[np.float64]) -> tuple[NDArray[np.float32], tuple[Notice, ...]]:
    low, high = float(grey.min()), float(grey.max())
    half_span = high / 2 - low / 2  # halves, because the difference of the largest floats is infinite
    scaled = (grey / 2 - low / 2) / half_span if half_span > 0 else np.zeros_like(grey)
    return scaled.astype(np.float32), (Notice("stretched", {"low": low, "high": high}),)


def turn(pixels: NDArray[np.float32], orientation: int) -> NDArray[np.float32]:
    """Undo an EXIF orientation (tag 274, 1 to 8): afterwards the first row is the top, the first column the left."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.T
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
