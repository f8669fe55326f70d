"""Bytes of a file -> Slice: grey pixels, and nothing else of the file.

Pixels are decoded by OpenCV and never by Pillow: the Pillow that the page's library allows has an open flaw in its
JPEG decoder, and strangers' bytes come here. The header is read first, by `headers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ctscan import tiff
from ctscan.headers import DAMAGED, Header, UnreadableSlice, read_header

__all__ = ["Slice", "UnreadableSlice", "read_slice"]

LUMA_BGR = (0.114, 0.587, 0.299)  # ITU-R BT.601
TWELVE_BITS, SIXTEEN_BITS = 4095, 65535

SEVERAL_FRAMES = "The file holds several frames; the first is shown."
TWELVE_BIT_NOTICE = "The greys use 12 of 16 bits, so they were scaled by 4095."


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice as it came, upright. No name, date or other text of the file: it cannot leak what it lacks."""

    pixels: NDArray[np.float32]  # (H, W), grey in [0, 1], read-only
    notices: tuple[str, ...] = ()  # what a viewer should know about the reading, in sentences


def read_slice(data: bytes) -> Slice:
    """PNG, JPEG, WebP, BMP or TIFF, recognised by content. Raises UnreadableSlice and nothing else."""
    header = read_header(data)
    grey = to_grey(decode(data, header))
    if grey.shape != (header.height, header.width):
        raise UnreadableSlice(DAMAGED)
    pixels, notices = to_unit_range(grey)
    upright = np.ascontiguousarray(turn(pixels, header.orientation))
    upright.setflags(write=False)
    return Slice(upright, notices + ((SEVERAL_FRAMES,) if header.frames > 1 else ()))


def decode(data: bytes, header: Header) -> NDArray[Any]:
    """The first frame as stored: (H, W) grey, (H, W, 2) grey and alpha, (H, W, 3) BGR or (H, W, 4) BGRA."""
    try:
        return decode_tiff(data) if header.container == "tiff" else decode_plain(data)
    except (cv2.error, MemoryError, tiff.TiffError):
        raise UnreadableSlice(DAMAGED) from None


def decode_plain(data: bytes) -> NDArray[Any]:
    """By OpenCV. `IMREAD_UNCHANGED` keeps depth and alpha, and leaves the EXIF orientation to us."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise UnreadableSlice(DAMAGED)
    return pixels


def decode_tiff(data: bytes) -> NDArray[Any]:
    """By OpenCV, but for what it gets wrong: orientation, grey with alpha, and 16-bit greys whose white is zero."""
    directory = tiff.read_directory(data)
    pixels: NDArray[Any] | None = tiff.read_grey_alpha(data, directory)
    if pixels is None and directory.first(tiff.SAMPLES, 1) == 2:
        raise UnreadableSlice(
            "This TIFF holds compressed grey with transparency, which ctscan cannot read. Please use PNG."
        )
    if pixels is None:
        pixels = decode_plain(tiff.without_orientation(data, directory))
    if directory.first(tiff.PHOTOMETRIC, 1) == tiff.WHITE_IS_ZERO and pixels.dtype == np.uint16:
        pixels = SIXTEEN_BITS - pixels
    return pixels[..., :3] if is_on_black(pixels, directory) else pixels


def is_on_black(pixels: NDArray[Any], directory: tiff.Directory) -> bool:
    """Whether a TIFF's colours are multiplied by its alpha: by the file, or by OpenCV, which does so at 8 bits."""
    extra = directory.first(tiff.EXTRA_SAMPLES, 0)
    multiplied = extra == tiff.ASSOCIATED or (extra == tiff.UNASSOCIATED and pixels.dtype == np.uint8)
    return pixels.ndim == 3 and pixels.shape[2] == 4 and multiplied


def to_grey(pixels: NDArray[Any]) -> NDArray[Any]:
    """Luma on black at the depth of the file, so that equal channels give exactly their value back: (H, W)."""
    if pixels.ndim == 2:
        return pixels
    whole = np.issubdtype(pixels.dtype, np.integer)
    grey = pixels[..., :3] @ np.array(LUMA_BGR) if pixels.shape[2] >= 3 else pixels[..., 0].astype(np.float64)
    grey = np.rint(grey) if whole else grey
    if pixels.shape[2] in (2, 4):
        opaque = np.iinfo(pixels.dtype).max if whole else 1.0
        grey = grey * (pixels[..., -1] / opaque)
    return (np.rint(grey) if whole else grey).astype(pixels.dtype)


def to_unit_range(grey: NDArray[Any]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Any depth -> float32 in [0, 1] and the notices that this earns. Raises UnreadableSlice for NaN and infinity."""
    if grey.dtype == np.uint8:
        return grey.astype(np.float32) / np.float32(255), ()
    if grey.dtype == np.uint16:
        if grey.max() > TWELVE_BITS:
            return grey.astype(np.float32) / np.float32(SIXTEEN_BITS), ()
        return grey.astype(np.float32) / np.float32(TWELVE_BITS), (TWELVE_BIT_NOTICE,)
    return _scale_measured(grey.astype(np.float64), may_be_unit=np.issubdtype(grey.dtype, np.floating))


def _scale_measured(grey: NDArray[np.float64], *, may_be_unit: bool) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Float, signed and 32-bit greys state no range of their own: the first usual one that holds them is taken."""
    low, high = float(grey.min()), float(grey.max())
    if not np.isfinite([low, high]).all():
        raise UnreadableSlice("This picture holds values that are not numbers.")
    usual = ((1,) if may_be_unit else ()) + (255, TWELVE_BITS, SIXTEEN_BITS)
    top = next((t for t in usual if low >= 0 and high <= t), None)
    if top == 1:
        return grey.astype(np.float32), ()
    if top:
        return (grey / top).astype(np.float32), (f"The greys were taken to lie between 0 and {top}.",)
    scaled = (grey - low) / (high - low) if high > low else np.zeros_like(grey)
    return scaled.astype(np.float32), (f"The greys were stretched from {low:g} … {high:g}, darkest to brightest.",)


def turn(pixels: NDArray[np.float32], orientation: int) -> NDArray[np.float32]:
    """Undo an EXIF orientation (tag 274, 1 to 8): afterwards the first row is the top, the first column the left."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.T
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
