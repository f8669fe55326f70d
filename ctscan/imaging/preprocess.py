"""Slice pixels -> the square that the model sees, and the way back from its maps to the slice.

Numpy in, numpy out; torch is not needed. The forward and the inverse geometry are one object, `Placement`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from ctscan.imaging.anatomy import (
    Box,
    Mask,
    Pixels,
    body_hull_mask,
    body_mask,
    body_oval_mask,
    chest_mask,
    find_body,
    find_hull,
    find_lungs,
)
from ctscan.imaging.histogram import match, ranks

Crop = Literal["body", "lungs", "fill", "whole", "none"]
Tone = Literal["equalise", "rank", "clipped_rank", "matched", "none"]
Surround = Literal["keep", "black", "hull", "chest", "oval"]

# Tone: the greys above the floor (soft tissue, vessels, bone; not the air of lungs and room) are spread evenly.
TONE_FLOOR = 20 / 255
TONE_LOW = 40 / 255
TONE_BINS = 256
RANK_WHITE = 0.88  # rank from which `clipped_rank` is white: in a narrow window up to 12 % of a body is cut off there
# Of the body's pixels at 16 even shares of them, from the darkest: mean of the slices of the train split.
REFERENCE = np.array(
    [0.090, 0.117, 0.147, 0.196, 0.260, 0.336, 0.395, 0.450, 0.478, 0.501, 0.520, 0.536, 0.550, 0.567, 0.594, 0.664]
)


@dataclass(frozen=True)
class Placement:
    """Where a slice's pixels went in the model's square: `box` of the slice was scaled onto `target` of the square.

    Pixels are areas, so a pixel's centre lies half a pixel in; both directions keep to that.
    """

    slice_shape: tuple[int, int]  # (H, W)
    size: int  # S, side of the model's square
    box: Box  # in slice pixels
    target: Box  # in pixels of the square

    def apply(self, pixels: Pixels) -> Pixels:
        """Float32 (H, W) -> float32 (S, S), black outside `target`."""
        box, target = self.box, self.target
        cut = pixels[box.top : box.top + box.height, box.left : box.left + box.width]
        # Each side by itself: where one grows, OpenCV would skip rows of the one that shrinks instead of averaging.
        smaller = min(target.width, box.width), min(target.height, box.height)
        shrunk = cv2.resize(cut, smaller, interpolation=cv2.INTER_AREA)
        scaled = cv2.resize(shrunk, (target.width, target.height), interpolation=cv2.INTER_LINEAR)
        square = np.zeros((self.size, self.size), np.float32)
        square[target.top : target.top + target.height, target.left : target.left + target.width] = scaled
        return square

    def invert(self, maps: NDArray[np.float32], shape: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """Maps over the square, float32 (..., h, w), interpolated bilinearly over the slice: (..., *shape).

        `shape` is the slice's own unless given; a smaller one covers the same slice with larger pixels. Zero
        outside `box`, of which the model saw nothing.
        """
        box, target = self.box, self.target
        height, width = shape or self.slice_shape
        across_rows = _positions(height, self.slice_shape[0], box.top, box.height, target.top, target.height)
        across_columns = _positions(width, self.slice_shape[1], box.left, box.width, target.left, target.width)
        rows = _bilinear_weights(across_rows / self.size, maps.shape[-2])
        columns = _bilinear_weights(across_columns / self.size, maps.shape[-1])
        over_slice: NDArray[np.float32] = np.asarray(rows @ maps @ columns.T, np.float32)
        return over_slice


def _positions(
    pixels: int, length: int, start: int, extent: int, target_start: int, target_extent: int
) -> NDArray[np.float64]:
    """Where along the square each of `pixels` across a slice of `length` lies, NaN outside the box."""
    along = (np.arange(pixels) + 0.5) * (length / pixels) - start
    return np.where((along >= 0) & (along < extent), target_start + along * (target_extent / extent), np.nan)


def _bilinear_weights(position: NDArray[np.float64], cells: int) -> NDArray[np.float32]:
    """(P, cells): how much each of `cells` weighs at each position, 0 to 1 across the square; nothing at NaN.

    Beyond the outermost cell centres the outermost value holds.
    """
    place = np.clip(position * cells - 0.5, 0, cells - 1)
    distance = np.abs(place[:, None] - np.arange(cells)[None, :])
    weights: NDArray[np.float32] = np.nan_to_num(np.maximum(1 - distance, 0)).astype(np.float32)
    return weights


def letterbox(box: Box, size: int) -> Box:
    """The largest centred rectangle of the box's shape in a square of `size` pixels."""
    scale = size / max(box.height, box.width)
    height, width = max(1, round(box.height * scale)), max(1, round(box.width * scale))
    return Box((size - height) // 2, (size - width) // 2, height, width)


def equalise(square: Pixels) -> Pixels:
    """Spread the greys above `TONE_FLOOR` evenly over `TONE_LOW` to 1, in their order; the rest stay.

    Two windows of the same anatomy become nearly the same picture, so a class is not known by its window. The
    rank comes from a histogram read with linear interpolation: a change of a grey in its last digit, as between
    two processors, changes the result in its last digit only.
    """
    inside = square > TONE_FLOOR
    if not inside.any():
        return square
    counts, edges = np.histogram(square[inside], bins=TONE_BINS, range=(TONE_FLOOR, 1.0))
    rank = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    spread = TONE_LOW + (1 - TONE_LOW) * np.interp(square, edges, rank)
    return np.where(inside, spread, square).astype(np.float32)


def rank_greys(pixels: Pixels, inside: Mask, white: float = 1.0) -> Pixels:
    """Each grey inside becomes its rank there, from `TONE_LOW` to 1; outside is black. Equal greys stay equal.

    Every slice then has one histogram, and what raises or lowers greys without changing their order changes nothing:
    of a window only what it cut off remains to be seen, as an area of one grey. Ranks from `white` on are all white,
    so that what a narrower window cut off there is cut off in every slice.
    """
    ranked = np.zeros_like(pixels)
    ranked[inside] = TONE_LOW + (1 - TONE_LOW) * np.minimum(ranks(pixels, inside) / white, 1)
    return ranked


@dataclass(frozen=True)
class Preprocess:
    """How a slice becomes the model's input. Travels in the checkpoint's card.

    crop: `body` takes the body's bounding box and letterboxes it, `lungs` that of the lungs' hulls (the body's where
    there are no lungs), `fill` stretches the box of the body's hull to the square, `whole` letterboxes the whole slice,
    `none` squashes it.
    tone: `equalise` spreads the greys inside the body, `rank` gives what `surround` leaves, air and all, one histogram
    in every slice, `clipped_rank` the same with the brightest `1 - RANK_WHITE` white, `matched` gives it the histogram
    `REFERENCE`, `none` keeps them.
    surround: what lies outside is black: outside the body for `black`, outside its convex hull for `hull`, outside an
    ellipse within that hull for `oval`, outside the convex hull of both lungs for `chest`; `keep` leaves table,
    cushions and burned-in signs where they are.
    It comes before the tone, so that the table has no part in the greys of the body.
    """

    size: int = 224
    crop: Crop = "body"
    tone: Tone = "equalise"
    surround: Surround = "keep"

    def __post_init__(self) -> None:
        known = self.crop in get_args(Crop) and self.tone in get_args(Tone) and self.surround in get_args(Surround)
        if self.size < 32 or not known:
            raise ValueError(f"not a preprocessing that ctscan knows: {self}")

    def __call__(self, pixels: Pixels) -> tuple[Pixels, Placement]:
        """Float32 (H, W) in [0, 1] -> float32 (1, S, S) in [0, 1], and where the pixels went."""
        placement = self.place(pixels)
        visible = self.visible(pixels)
        match self.tone:
            case "rank":
                left = rank_greys(pixels, visible)
            case "clipped_rank":
                left = rank_greys(pixels, visible, RANK_WHITE)
            case "matched":
                left = match(np.where(visible, pixels, 0), visible, REFERENCE)
            case _:
                left = np.where(visible, pixels, 0)
        square = np.clip(placement.apply(left), 0, 1)  # float32 averages of white may be over 1 in the last digit
        return (equalise(square) if self.tone == "equalise" else square)[None], placement

    def square(self, pixels: Pixels) -> Pixels:
        """Float32 (H, W) in [0, 1] -> float32 (1, S, S) in [0, 1]."""
        return self(pixels)[0]

    def visible(self, pixels: Pixels) -> Mask:
        """(H, W): what `surround` leaves of a slice."""
        match self.surround:
            case "black":
                return body_mask(pixels)
            case "hull":
                return body_hull_mask(pixels)
            case "chest":
                return chest_mask(pixels)
            case "oval":
                return body_oval_mask(pixels)
            case _:
                return np.ones(pixels.shape, bool)

    def place(self, pixels: Pixels) -> Placement:
        """Where the slice goes in the square."""
        height, width = pixels.shape
        boxes = {"body": find_body, "lungs": find_lungs, "fill": find_hull}
        box = boxes[self.crop](pixels) if self.crop in boxes else Box(0, 0, height, width)
        target = Box(0, 0, self.size, self.size) if self.crop in ("fill", "none") else letterbox(box, self.size)
        return Placement((height, width), self.size, box, target)
