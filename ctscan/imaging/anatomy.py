"""Slice pixels -> where the body is and where its lungs are, by grey and shape alone.

Rules, not a model: enough to crop, to black something out and to judge where evidence lies; no segmentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]

# The body is what is brighter than the air around the patient. On the 8-bit scale of the data set.
BODY_THRESHOLD = 25 / 255
BODY_THUMBNAIL = 256  # px, longer side: the blur and the opening below mean the same on every slice size
BODY_BLUR_SIGMA = 1.0  # px of the thumbnail
BODY_OPENING = 5  # px of the thumbnail; cuts the table and drawn lines off the body
OVAL = 0.9  # of the sides of the body's box: an ellipse that almost every body fills, so that its edge tells nothing
BODY_MIN_AREA = 0.05  # of the slice; a smaller component is not a body, and the whole slice is taken

# Lungs are the large dark areas inside the body. Darker than halfway between the two greys that Otsu's method
# parts, so that it holds in a lung window, where lungs are grey, as in a mediastinal one, where they are black.
LUNG_MIN_AREA = 0.015  # of the body's area, each lung
LUNGS_OF_BODY = 0.1  # of the body's area, dark inside an outline that is to be taken for the body's
LUNG_EROSION = 7  # px of the thumbnail: what reaches the body's edge within it is fat or room air, not lung
LUNG_MAX_EDGE = 0.1  # of that inner edge: a dark area along more of it is room air that the body's mask let in
LUNG_HULL_MARGIN = 7  # px of the thumbnail, added around each lung's hull: pleura and what touches it


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels: rows `top` to `top + height`, columns `left` to `left + width`."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def around(cls, mask: Mask) -> Box:
        """The smallest one with all of a mask (H, W), which must not be empty."""
        rows, columns = np.nonzero(mask)
        top, left = int(rows.min()), int(columns.min())
        return cls(top, left, int(rows.max()) + 1 - top, int(columns.max()) + 1 - left)


def shrink(pixels: Pixels) -> Pixels:
    """The slice at `BODY_THUMBNAIL` px on its longer side, or as it is where it is smaller."""
    height, width = pixels.shape
    scale = min(1.0, BODY_THUMBNAIL / max(height, width))
    small: Pixels = cv2.resize(
        pixels, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
    ).astype(np.float32)
    return small


def _largest_bright(thumbnail: Pixels, threshold: float = BODY_THRESHOLD) -> tuple[Mask, Box] | None:
    blurred = cv2.GaussianBlur(thumbnail, (0, 0), BODY_BLUR_SIGMA)
    bright = (blurred > threshold).astype(np.uint8)
    opened = cv2.morphologyEx(bright, cv2.MORPH_OPEN, np.ones((BODY_OPENING, BODY_OPENING), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened)
    if count < 2:
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    if stats[largest, cv2.CC_STAT_AREA] < BODY_MIN_AREA * thumbnail.size:
        return None
    x, y, w, h = (int(v) for v in stats[largest, :4])
    return labels == largest, Box(y, x, h, w)


def find_body(pixels: Pixels) -> Box:
    """The bounding box of the largest bright component of a slice, or the whole slice where there is none."""
    height, width = pixels.shape
    thumbnail = shrink(pixels)
    found = _largest_bright(thumbnail)
    if found is None:
        return Box(0, 0, height, width)
    box, (rows, columns) = found[1], thumbnail.shape
    top, left = int(box.top * height / rows), int(box.left * width / columns)
    bottom = min(height, int(np.ceil((box.top + box.height) * height / rows)))
    right = min(width, int(np.ceil((box.left + box.width) * width / columns)))
    return Box(top, left, bottom - top, right - left)


def _fill(mask: Mask) -> Mask:
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros(mask.shape, np.uint8), outlines, -1, 1, cv2.FILLED).astype(bool)


def _enlarge(mask: Mask, shape: tuple[int, int]) -> Mask:
    return cv2.resize(mask.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def _hull(mask: Mask) -> Mask:
    rows, columns = np.nonzero(mask)
    points = np.stack([columns, rows], axis=1).astype(np.int32)
    filled = np.zeros(mask.shape, np.uint8)
    return cv2.fillConvexPoly(filled, cv2.convexHull(points), 1).astype(bool) if len(points) else mask


def _find_outline(thumbnail: Pixels) -> Mask | None:
    """The body of a thumbnail with all that it encloses, None where there is none.

    In a lung window room air is grey, so that what is brighter than black is the whole field of view. Otsu's method
    parts air and lungs from tissue there, but fat from muscle in a soft tissue window. Which of the two it is, the
    rim between both outlines tells: air is no brighter than the lungs, fat is.
    """
    wide = _largest_bright(thumbnail)
    parting, _ = cv2.threshold(np.rint(thumbnail * 255).astype(np.uint8), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    tight = _largest_bright(thumbnail, parting / 255)
    if wide is None or tight is None:
        return None if wide is None else _fill(wide[0])
    outline, inner = _fill(wide[0]), _fill(tight[0])
    rim, lungs = outline & ~inner, inner & (thumbnail <= parting / 255)
    if not rim.any() or lungs.sum() < LUNGS_OF_BODY * inner.sum():
        return outline
    return inner if np.median(thumbnail[rim]) <= np.median(thumbnail[lungs]) else outline


def body_mask(pixels: Pixels) -> Mask:
    """(H, W): the body with all that it encloses; everything where there is none."""
    found = _find_outline(shrink(pixels))
    return np.ones(pixels.shape, bool) if found is None else _enlarge(found, pixels.shape)


def body_hull_mask(pixels: Pixels) -> Mask:
    """(H, W): the convex hull of the body, whose outline tells less than the body's own."""
    found = _find_outline(shrink(pixels))
    return np.ones(pixels.shape, bool) if found is None else _enlarge(_hull(found), pixels.shape)


def find_hull(pixels: Pixels) -> Box:
    """The bounding box of the body's hull, or the whole slice where there is no body."""
    return Box.around(body_hull_mask(pixels))


def body_oval_mask(pixels: Pixels) -> Mask:
    """(H, W): what of the body's hull lies in an ellipse of `OVAL` of its bounding box, around the box's centre."""
    hull = body_hull_mask(pixels)
    box = Box.around(hull)
    rows, columns = np.ogrid[: hull.shape[0], : hull.shape[1]]
    down = (rows + 0.5 - box.top) / box.height * 2 - 1
    across = (columns + 0.5 - box.left) / box.width * 2 - 1
    inside: Mask = hull & (down**2 + across**2 <= OVAL**2)
    return inside


def chest_mask(pixels: Pixels) -> Mask:
    """(H, W): the convex hull of all lungs together, the mediastinum between them too; the body where there are none.

    With the margin of `lung_hull_mask`; ribs, muscles, fat and the outline of the body lie outside.
    """
    thumbnail = shrink(pixels)
    lungs = lung_components(thumbnail)
    if not lungs:
        return body_mask(pixels)
    return _enlarge(_widen(_hull(np.any(lungs, axis=0))), pixels.shape)


def lung_components(thumbnail: Pixels) -> list[Mask]:
    """The large dark areas inside the body of a slice that `shrink` made small, one mask each."""
    body = _find_outline(thumbnail)
    if body is None:
        return []
    inner = cv2.erode(body.astype(np.uint8), np.ones((LUNG_EROSION, LUNG_EROSION), np.uint8)).astype(bool)
    if not inner.any():
        return []
    greys = np.clip(thumbnail * 255, 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(greys[inner].reshape(-1, 1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    dark = (inner & (greys <= threshold)).astype(np.uint8)
    opened = cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened)
    edge = inner & ~cv2.erode(inner.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0).astype(bool)
    large = (labels == i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] >= LUNG_MIN_AREA * body.sum())
    return [lung for lung in large if (lung & edge).sum() <= LUNG_MAX_EDGE * edge.sum()]


def shows_lung(pixels: Pixels) -> bool:
    """Whether a slice has lung in it that these rules find."""
    return bool(lung_components(shrink(pixels)))


def lung_mask(pixels: Pixels) -> Mask:
    """(H, W): the large dark areas inside the body; empty where there are none."""
    thumbnail = shrink(pixels)
    lungs = lung_components(thumbnail)
    return _enlarge(np.any(lungs, axis=0) if lungs else np.zeros(thumbnail.shape, bool), pixels.shape)


def lung_hull_mask(pixels: Pixels) -> Mask:
    """(H, W): the convex hull of each lung and a margin, so that a tumour at its wall lies inside too."""
    thumbnail = shrink(pixels)
    hulls = [_hull(lung) for lung in lung_components(thumbnail)]
    return _enlarge(_widen(np.any(hulls, axis=0)) if hulls else np.zeros(thumbnail.shape, bool), pixels.shape)


def find_lungs(pixels: Pixels) -> Box:
    """The bounding box of the lungs' hulls with their margin, or of the body where there are none."""
    lungs = lung_hull_mask(pixels)
    return Box.around(lungs) if lungs.any() else find_body(pixels)


def _widen(mask: Mask) -> Mask:
    side = 2 * LUNG_HULL_MARGIN + 1
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)).astype(bool)
