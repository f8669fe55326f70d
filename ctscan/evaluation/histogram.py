"""The greys inside the body: how they are distributed, and the same slice with another slice's distribution.

A model that knows a class by its window loses it when every slice has one histogram.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctscan.imaging.anatomy import Mask, Pixels, find_anatomy
from ctscan.imaging.preprocess import ranks

LEVELS = 256  # shares at which a distribution is kept

Quantiles = NDArray[np.float64]


def shares(levels: int) -> NDArray[np.float64]:
    """(levels,): the middles of as many even parts of 0 to 1."""
    return (np.arange(levels) + 0.5) / levels


def body_quantiles(pixels: Pixels) -> Quantiles:
    """Slice (H, W) -> (256,), never falling: the greys of its body at `LEVELS` even shares of the pixels."""
    return np.asarray(np.quantile(pixels[find_anatomy(pixels).body], shares(LEVELS)), np.float64)


def match(pixels: Pixels, inside: Mask, reference: Quantiles) -> Pixels:
    """The slice with its greys inside moved, in their order, to the reference's distribution; the rest stays.

    `reference` is (Q,), the greys at Q even shares as `shares` has them. Greys that are one in the slice stay one:
    what a window has cut off does not come back.
    """
    matched = pixels.copy()
    matched[inside] = np.interp(ranks(pixels, inside), shares(len(reference)), reference)
    return matched
