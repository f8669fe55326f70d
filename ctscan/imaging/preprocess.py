"""Slice pixels -> the square that the model sees, and the way back from its maps to the slice.

Numpy in, numpy out; torch is not needed. The forward and the inverse geometry are one object, `Placement`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from ctscan.imaging.anatomy import Anatomy, Box, Mask, Pixels, find_anatomy

Crop = Literal["hull", "whole", "none"]
Tone = Literal["rank", "none"]
Surround = Literal["hull", "keep"]
Pool = Literal["all", "hull", "thorax", "lungs"]

RANK_LOW = 40 / 255  # the darkest rank: what is kept of a slice stays apart from the black around it
STRIDE = 32  # px of the square to one of the network's last cells
GREYS = 65535  # steps in which greys are counted: 8- and 16-bit greys stay apart


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
        height, width = shape or self.slice_shape
        rows, columns = self._weights(0, height, maps.shape[-2]), self._weights(1, width, maps.shape[-1])
        over_slice: NDArray[np.float32] = np.asarray(rows @ maps @ columns.T, np.float32)
        return over_slice

    def _weights(self, axis: int, pixels: int, cells: int) -> NDArray[np.float32]:
        """(pixels, cells): how much each cell along the square weighs at each pixel along the slice.

        Beyond the outermost cell centres the outermost value holds; outside the box nothing does.
        """
        box, target = self.box, self.target
        start, extent = ((box.top, box.height), (box.left, box.width))[axis]
        target_start, target_extent = ((target.top, target.height), (target.left, target.width))[axis]
        along = (np.arange(pixels) + 0.5) * (self.slice_shape[axis] / pixels) - start
        position = (target_start + along * (target_extent / extent)) / self.size
        place = np.clip(position * cells - 0.5, 0, cells - 1)
        weights = np.maximum(1 - np.abs(place[:, None] - np.arange(cells)), 0)
        weights[(along < 0) | (along >= extent)] = 0
        return np.asarray(weights, np.float32)


def letterbox(box: Box, size: int) -> Box:
    """The largest centred rectangle of the box's shape in a square of `size` pixels.

    >>> letterbox(Box(top=40, left=10, height=100, width=200), size=224)
    Box(top=56, left=0, height=112, width=224)
    """
    scale = size / max(box.height, box.width)
    height, width = max(1, round(box.height * scale)), max(1, round(box.width * scale))
    return Box((size - height) // 2, (size - width) // 2, height, width)


def rank_greys(pixels: Pixels, inside: Mask) -> Pixels:
    """Each grey inside becomes its rank there, from `RANK_LOW` to 1; outside is black. Equal greys stay equal.

    Every slice then has one histogram, and what raises or lowers greys without changing their order changes nothing:
    of a window only what it cut off remains to be seen, as an area of one grey.
    """
    greys = np.rint(pixels[inside] * GREYS).astype(np.uint16)  # in steps: ranks are equal on every processor
    counts = np.bincount(greys, minlength=GREYS + 1)
    darker = (np.cumsum(counts) - counts / 2) / max(greys.size, 1)  # of each grey, half of the equal ones counted too
    ranked = np.zeros_like(pixels)
    ranked[inside] = (RANK_LOW + (1 - RANK_LOW) * darker).astype(np.float32)[greys]
    return ranked


@dataclass(frozen=True)
class Preprocess:
    """How a slice becomes a network's input. Travels in the checkpoint's card."""

    size: int = 224  # S, side of the square in pixels, a multiple of `STRIDE`
    # `hull` letterboxes the box of the body's hull, `whole` all of the slice; `none` squashes that into the square.
    crop: Crop = "hull"
    # `rank` gives what is kept, air and all, one histogram in every slice; `none` leaves greys as they are.
    tone: Tone = "rank"
    # `hull` makes black what lies outside the body's convex hull; `keep` leaves table, cushions and burned-in signs.
    # It comes before the tone, so that the table has no part in the greys of the body.
    surround: Surround = "hull"
    # Whose evidence counts, by the share of each of the network's cells that lies in it: `all` counts the black bars
    # and the table too. Where nothing of the kind is found in a slice it is the next larger one.
    pool: Pool = "all"

    def __post_init__(self) -> None:
        pairs = (self.crop, Crop), (self.tone, Tone), (self.surround, Surround), (self.pool, Pool)
        if self.size < STRIDE or self.size % STRIDE or not all(value in get_args(known) for value, known in pairs):
            raise ValueError(f"not a preprocessing that ctscan knows: {self}")

    def __call__(self, pixels: Pixels, anatomy: Anatomy | None = None) -> tuple[Pixels, Placement]:
        """The network's square, and where the slice's pixels went in it.

        Args:
            pixels: Float32 (H, W) in [0, 1].
            anatomy: Of this slice, where it has been found already.

        Returns:
            Float32 (2, S, S) in [0, 1], what is seen and how much its evidence counts; and the placement of both.
        """
        anatomy = anatomy or find_anatomy(pixels)
        visible, placement = self.visible(anatomy), self.place(anatomy)
        kept = rank_greys(pixels, visible) if self.tone == "rank" else np.where(visible, pixels, 0)
        square = np.clip(placement.apply(kept), 0, 1)  # float32 averages of white may be over 1 in the last digit
        return np.stack([square, self.weigh(anatomy, placement)]), placement

    def square(self, pixels: Pixels, anatomy: Anatomy | None = None) -> Pixels:
        """The square alone."""
        return self(pixels, anatomy)[0]

    def weigh(self, anatomy: Anatomy, placement: Placement) -> Pixels:
        """(S, S) in [0, 1]: how much of each pixel of the square lies where evidence counts."""
        if self.pool == "all":
            return np.ones((self.size, self.size), np.float32)
        inside = {"hull": anatomy.hull, "thorax": anatomy.thorax, "lungs": anatomy.lung_hulls}[self.pool]
        return np.clip(placement.apply((inside if inside.any() else anatomy.hull).astype(np.float32)), 0, 1)

    def visible(self, anatomy: Anatomy) -> Mask:
        """(H, W): what `surround` leaves of a slice."""
        return anatomy.hull if self.surround == "hull" else np.ones(anatomy.shape, bool)

    def place(self, anatomy: Anatomy) -> Placement:
        """Where the slice goes in the square."""
        box = anatomy.hull_box if self.crop == "hull" else Box(0, 0, *anatomy.shape)
        target = Box(0, 0, self.size, self.size) if self.crop == "none" else letterbox(box, self.size)
        return Placement(anatomy.shape, self.size, box, target)
