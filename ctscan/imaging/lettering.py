"""Slice pixels -> whether there seems to be text beside the body: a name, a date, a scanner's notes.

Rules, not a model: four bright marks of a letter's size in a row. No letter is read. Text on the body, and text in
colours darker than what is around it, is not looked for.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ctscan.imaging.anatomy import Anatomy, Mask, Pixels, convex_hull
from ctscan.imaging.render import fit, to_bytes

LONGEST = 1024  # px of the picture that is looked at
STROKE = 11  # px: a line of a letter is thinner
STEP = 50  # of 255: what a stroke is brighter by than what is around it
# 0.6 of the brightest step nearby: what is no brighter is the edge of a stroke, and would join two letters
EDGE = (0.6 * np.arange(256)).astype(np.uint8)
NEAR = 9  # px
LEAST, MOST = 5, 1 / 12  # px, and of the picture's height: how high a letter is
WIDEST = 1.5  # of a letter's height
APART = 2.0  # of a letter's height: the next one of its row is nearer
ON_LINE = 0.25  # of a letter's height: its foot is not further off the row
ALIKE = (0.6, 1.7)  # of a letter's height: that of the next one
LETTERS = 4  # in a row: of clean slices, none had more than 3
TALL = 0.25  # of the picture's height: what is taller is a part of the body or of the table
MARGIN = 5  # px of a thumbnail, around the body


def has_lettering(pixels: Pixels, anatomy: Anatomy) -> bool:
    """Whether there seems to be text outside the body.

    Args:
        pixels: (H, W) in [0, 1].
        anatomy: Of the same slice.
    """
    grey = to_bytes(fit(pixels, LONGEST))
    above = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, np.ones((STROKE, STROKE), np.uint8))
    core = above > cv2.LUT(cv2.dilate(above, np.ones((NEAR, NEAR), np.uint8)), EDGE)
    is_inside = cv2.resize(_large_parts(anatomy), grey.shape[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
    marks = ((above > STEP) & core & ~is_inside).astype(np.uint8)
    left, top, width, height = cv2.boundingRect(marks)
    if not width:
        return False
    _, _, stats, _ = cv2.connectedComponentsWithStats(marks[top : top + height, left : left + width])
    width, height, area = (stats[:, n] for n in (cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_AREA))
    are_letters = (height >= LEAST) & (height <= MOST * len(grey)) & (width <= WIDEST * height) & (area >= height)
    are_letters[0] = False  # all that is no mark
    letters = stats[are_letters]
    return _longest_row(letters[np.argsort(letters[:, cv2.CC_STAT_LEFT], kind="stable")].tolist()) >= LETTERS


def _large_parts(anatomy: Anatomy) -> NDArray[np.uint8]:
    """(h, w): 1 in the hulls of the body and of all that is as tall, which hold more than its outline does."""
    grey = to_bytes(anatomy.thumbnail)
    bright = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(cv2.dilate(bright, np.ones((3, 3), np.uint8)))
    tall = [n for n in range(1, count) if stats[n, cv2.CC_STAT_HEIGHT] >= TALL * len(grey)]
    parts: list[Mask] = [anatomy.outline, *(labels == n for n in tall)]
    hulls = np.any([convex_hull(part) for part in parts], axis=0).astype(np.uint8)
    return cv2.dilate(hulls, np.ones((MARGIN, MARGIN), np.uint8)).astype(np.uint8)


def _longest_row(letters: list[list[int]]) -> int:
    """How many marks follow each other on one line, at most.

    Args:
        letters: Left, top, width and height of each, from left to right.
    """
    longest = 0
    for first, start in enumerate(letters):
        row = [start]
        for letter in letters[first + 1 :]:
            (left, top, _, height), (x, y, width, before) = letter[:4], row[-1][:4]
            gap, off = left - x - width, abs(top + height - y - before)
            if gap > APART * before:
                break
            is_like = ALIKE[0] <= height / before <= ALIKE[1] and off <= ON_LINE * max(height, before)
            if gap >= -1 and is_like:
                row.append(letter)
        longest = max(longest, len(row))
    return longest
