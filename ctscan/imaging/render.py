"""Slices and maps -> pictures. Numpy and OpenCV only.

Evidence has one hue, and is as opaque as it is strong: over any grey the hue stays that of the scale, no evidence looks
like nothing, and the pixels under it are the slice's own.
"""

from __future__ import annotations

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

HUE = (255, 166, 0)  # red, green, blue; that of the page's script
DEFAULT_OPACITY = 0.6
LONGEST_SIDE = 1024  # px of a picture on the page
LONGEST_OVERLAY = 2048  # px of the picture that the API gives
ROWS_AT_ONCE = 64  # of an overlay: as floats the whole would take four times its picture, several times over

Picture = NDArray[np.uint8]


def to_bytes(pixels: NDArray[np.float32]) -> Picture:
    """Float (H, W) in [0, 1] -> uint8."""
    return np.rint(pixels * 255).astype(np.uint8)


def layer(evidence: NDArray[np.float32], top: float) -> Picture:
    """Evidence (H, W), >= 0, logit units -> RGBA (H, W, 4), as opaque as it is strong, and opaque from `top` on."""
    share = to_bytes(np.clip(evidence / top, 0, 1).astype(np.float32))
    return np.dstack([np.broadcast_to(np.array(HUE, np.uint8), (*share.shape, 3)), share])


def overlay(grey: Picture, evidence: NDArray[np.float32], top: float, opacity: float = DEFAULT_OPACITY) -> Picture:
    """A slice (H, W) under its map, RGB (H, W, 3). Where there is no evidence the slice's pixels are unchanged."""
    drawn = np.empty((*grey.shape, 3), np.uint8)
    for first in range(0, len(grey), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        coloured = layer(evidence[rows], top).astype(np.float32)
        alpha = coloured[..., 3:] / 255 * opacity
        drawn[rows] = np.rint(grey[rows, :, None] * (1 - alpha) + coloured[..., :3] * alpha)
    return drawn


def fitted(shape: tuple[int, int], longest: int) -> tuple[int, int]:
    """Height and width shrunk to at most `longest` on the longer side; smaller ones stay as they are."""
    scale = min(1.0, longest / max(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def fit(pixels: NDArray[np.float32], longest: int) -> NDArray[np.float32]:
    """A slice (H, W) shrunk to at most `longest` pixels on the longer side."""
    height, width = fitted((pixels.shape[0], pixels.shape[1]), longest)
    if (height, width) == pixels.shape:
        return pixels
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)


def encode_png(picture: Picture) -> bytes:
    """Grey (H, W), RGB (H, W, 3) or RGBA (H, W, 4) -> PNG without any text."""
    ordered = picture if picture.ndim == 2 else picture[..., [2, 1, 0, 3][: picture.shape[2]]]
    return cv2.imencode(".png", ordered)[1].tobytes()


def data_uri(picture: Picture) -> str:
    """A PNG inside an address: it is shown without ever being a file."""
    return "data:image/png;base64," + base64.b64encode(encode_png(picture)).decode()
