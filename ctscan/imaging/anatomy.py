"""Slice pixels -> where the body is and where its lungs are, by grey and shape alone.

Rules, not a model: enough to crop, to black something out and to judge where evidence lies; no segmentation. All of
it is found on a thumbnail, so that a blur or a margin means the same on every slice size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from ctscan.imaging.render import fit

Pixels: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]

THUMBNAIL = 256  # px, longer side; all other lengths below are pixels of it

# The body is what is brighter than the air around the patient. On the 8-bit scale of the data set.
BODY_THRESHOLD = 25 / 255
BODY_BLUR_SIGMA = 1.0
BODY_OPENING = 5  # cuts the table and drawn lines off the body
BODY_MIN_AREA = 0.05  # of the slice; a smaller component is not a body, and the whole slice is taken

# Two slices in one picture are two bodies that lie apart, dark inside; beside a chest lie arms, which are far smaller.
SECOND_BODY = 0.5  # of the larger one's area
APART = 0.1  # at most that share of the shorter one may lie beside the other
# Where they touch they are one; but then each half of the long picture has a pair of lungs, and half a chest has none.
WIDE, HIGH = 1.6, 1.2  # width by height and height by width from which a picture is long for one chest
LONGEST = 2.5  # of either: two chests are no longer
ALIKE = 0.25  # of the larger lung's area: the smaller one of a pair
OVERLAP = 0.3  # of the narrower lung's width: by how much the other may lie above or below it

# Lungs are the large dark areas inside the body. Darker than halfway between the two greys that Otsu's method
# parts, so that it holds in a lung window, where lungs are grey, as in a mediastinal one, where they are black.
LUNG_MIN_AREA = 0.015  # of the body's area, each lung
LUNGS_OF_BODY = 0.1  # of the body's area, dark inside an outline that is to be taken for the body's
LUNG_EROSION = 7  # what reaches the body's edge within it is fat or room air, not lung
LUNG_MAX_EDGE = 0.1  # of that inner edge: a dark area along more of it is room air that the body's mask let in
LUNG_MARGIN = 7  # added around each lung's hull: pleura and what touches it


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels: rows `top` to `top + height`, columns `left` to `left + width`."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Where body and lungs are in one slice: found once, handed to gate, preprocessing and the alarm alike.

    The masks over the slice are made when first asked for, and kept.
    """

    shape: tuple[int, int]  # (H, W) of the slice
    thumbnail: Pixels  # (h, w), the slice at `THUMBNAIL` px on its longer side, or as it is where it is smaller
    outline: Mask  # (h, w), the body with all that it encloses; everything where there is no body
    has_body: bool
    is_one: bool  # no second body lies beside it
    bright_box: Box  # in slice pixels, around what is brighter than black: room air too where it is grey

    @cached_property
    def body(self) -> Mask:
        """(H, W): `outline` over the slice."""
        return self._enlarge(self.outline)

    @cached_property
    def hull(self) -> Mask:
        """(H, W): the convex hull of the body, whose outline tells less than the body's own."""
        return self._enlarge(convex_hull(self.outline))

    @cached_property
    def lungs(self) -> list[Mask]:
        """The large dark areas inside the body, one mask (h, w) each; none where the rules find no lung."""
        inner = cv2.erode(self.outline.astype(np.uint8), np.ones((LUNG_EROSION, LUNG_EROSION), np.uint8)).astype(bool)
        if not (self.has_body and inner.any()):
            return []
        greys = np.clip(self.thumbnail * 255, 0, 255).astype(np.uint8)
        count, labels, areas = _components(inner & (greys <= _otsu(greys[inner].reshape(-1, 1))), opening=3)
        edge = inner & ~cv2.erode(inner.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0).astype(bool)
        large = (labels == i for i in range(1, count) if areas[i] >= LUNG_MIN_AREA * self.outline.sum())
        return [lung for lung in large if (lung & edge).sum() <= LUNG_MAX_EDGE * edge.sum()]

    @cached_property
    def lung_hulls(self) -> Mask:
        """(H, W): the convex hull of each lung and a margin, so that a tumour at its wall lies inside too."""
        hulls = np.any([np.zeros_like(self.outline), *map(convex_hull, self.lungs)], axis=0)
        return self._enlarge(_widen(hulls))

    @cached_property
    def aerated(self) -> Mask:
        """(H, W): the lungs and a margin, without their hulls: neither the heart between them nor a large mass."""
        return self._enlarge(_widen(np.any([np.zeros_like(self.outline), *self.lungs], axis=0)))

    @cached_property
    def thorax(self) -> Mask:
        """(H, W): the convex hull of both lungs with their margin; the body's hull where no lung was found."""
        if not self.lungs:
            return self.hull
        both = convex_hull(np.any(self.lungs, axis=0))
        return self._enlarge(_widen(both)) & self.hull

    @cached_property
    def hull_box(self) -> Box:
        """In slice pixels, around the body's hull; all of the slice without a body."""
        return _box_around(self.outline, self.shape)

    def _enlarge(self, mask: Mask) -> Mask:
        return cv2.resize(mask.astype(np.uint8), self.shape[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def find_anatomy(pixels: Pixels) -> Anatomy:
    """Body and lungs of a slice, float32 (H, W) in [0, 1].

    In a lung window room air is grey, so that what is brighter than black is the whole field of view. Otsu's method
    parts air and lungs from tissue there, but fat from muscle in a soft tissue window. Which of the two it is, the
    rim between both outlines tells: air is no brighter than the lungs, fat is.
    """
    height, width = pixels.shape
    thumbnail = fit(pixels, THUMBNAIL)
    wide = _find_bright(thumbnail, BODY_THRESHOLD)
    if not wide:
        everything = np.ones(thumbnail.shape, bool)
        return Anatomy((height, width), thumbnail, everything, False, True, Box(0, 0, height, width))
    outline = _fill(wide[0])
    parting = _otsu(np.rint(thumbnail * 255).astype(np.uint8)) / 255
    tight = _find_bright(thumbnail, parting)
    if tight:
        inner = _fill(tight[0])
        rim, lungs = outline & ~inner, inner & (thumbnail <= parting)
        enough = rim.any() and lungs.sum() >= LUNGS_OF_BODY * inner.sum()
        if enough and np.median(thumbnail[rim]) <= np.median(thumbnail[lungs]):
            outline = inner
    is_one = not (any(_are_two_bodies(p, thumbnail <= parting) for p in (wide, tight)) or _are_two_chests(pixels))
    return Anatomy((height, width), thumbnail, outline, True, is_one, _box_around(wide[0], (height, width)))


def _find_bright(thumbnail: Pixels, threshold: float) -> list[Mask]:
    """(h, w) each: the connected parts above a grey that are as large as a body, the largest first."""
    bright = cv2.GaussianBlur(thumbnail, (0, 0), BODY_BLUR_SIGMA) > threshold
    count, labels, areas = _components(bright, BODY_OPENING)
    large = [i for i in range(1, count) if areas[i] >= BODY_MIN_AREA * thumbnail.size]
    return [labels == i for i in sorted(large, key=lambda i: -areas[i])]


def _are_two_bodies(parts: list[Mask], dark: Mask) -> bool:
    """Whether the two largest parts are bodies of similar size, beside each other or one below the other."""
    if len(parts) < 2:  # nearly always, and filling is what takes time
        return False
    bodies = [_fill(part) for part in parts[:2]]
    areas = [body.sum() for body in bodies]
    if min(areas) < SECOND_BODY * max(areas):
        return False
    shadows = [[body.any(axis=axis) for body in bodies] for axis in (0, 1)]
    shared = min((one & other).sum() / min(one.sum(), other.sum()) for one, other in shadows)
    hollow = all((body & dark).sum() >= LUNGS_OF_BODY * area for body, area in zip(bodies, areas, strict=True))
    return bool(shared <= APART and hollow)


def _are_two_chests(pixels: Pixels) -> bool:
    """Whether each half of a picture that is long for one chest has lungs beside each other."""
    height, width = pixels.shape
    if not (WIDE <= width / height <= LONGEST or HIGH <= height / width <= LONGEST):  # nearly always
        return False
    first, second = np.array_split(pixels, 2, axis=int(width > height))
    return _has_pair(find_anatomy(first).lungs) and _has_pair(find_anatomy(second).lungs)


def _has_pair(lungs: list[Mask]) -> bool:
    """Whether the two largest are of similar size and beside each other."""
    pair = sorted(lungs, key=lambda lung: -lung.sum())[:2]
    if len(pair) < 2 or pair[1].sum() < ALIKE * pair[0].sum():
        return False
    shadows = [lung.any(axis=0) for lung in pair]
    return bool((shadows[0] & shadows[1]).sum() <= OVERLAP * min(shadow.sum() for shadow in shadows))


def _box_around(mask: Mask, shape: tuple[int, int]) -> Box:
    """In pixels of a slice (H, W), around a mask (h, w) of its thumbnail."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    (height, width), (h, w) = shape, mask.shape
    top, left = int(rows[0] * height / h), int(columns[0] * width / w)
    bottom, right = int(np.ceil((rows[-1] + 1) * height / h)), int(np.ceil((columns[-1] + 1) * width / w))
    return Box(top, left, min(height, bottom) - top, min(width, right) - left)


def _components(mask: Mask, opening: int) -> tuple[int, NDArray[Any], NDArray[Any]]:
    """How many connected parts a mask has once opened, the number of each one's pixels, and areas; 0 is the rest."""
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((opening, opening), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened)
    return count, labels, stats[:, cv2.CC_STAT_AREA]


def _fill(mask: Mask) -> Mask:
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros(mask.shape, np.uint8), outlines, -1, 1, cv2.FILLED).astype(bool)


def convex_hull(mask: Mask) -> Mask:
    """(H, W): the smallest convex area around a mask that is not empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    ends = mask[rows].argmax(axis=1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)  # nothing else can be on it
    points = np.concatenate([np.stack([columns, rows], axis=1) for columns in ends]).astype(np.int32)
    return cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), cv2.convexHull(points), 1).astype(bool)


def _widen(mask: Mask) -> Mask:
    """By the margin of the lungs, on all sides."""
    side = 2 * LUNG_MARGIN + 1
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)).astype(bool)


def _otsu(greys: NDArray[np.uint8]) -> float:
    """The grey up to which Otsu's method counts as dark."""
    return cv2.threshold(greys, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0]
