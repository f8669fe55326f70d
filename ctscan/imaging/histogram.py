"""The greys inside the body: how they are distributed, and the same slice with another slice's distribution.

A model that knows a class by its window loses it when every slice has one histogram.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctscan.imaging.anatomy import Mask, Pixels, body_mask

LEVELS = 256  # shares at which a distribution is kept
GREYS = 65535  # steps in which greys are counted: 8- and 16-bit greys stay apart

Quantiles = NDArray[np.float64]


def shares(levels: int) -> NDArray[np.float64]:
    """(levels,): the middles of as many even parts of 0 to 1."""
    return (np.arange(levels) + 0.5) / levels


def body_quantiles(pixels: Pixels) -> Quantiles:
    """Slice (H, W) -> (256,), never falling: the greys of its body at `LEVELS` even shares of the pixels."""
    return np.asarray(np.quantile(pixels[body_mask(pixels)], shares(LEVELS)), np.float64)


def mean_quantiles(several: Sequence[Quantiles]) -> Quantiles:
    """The mean distribution of several slices, grey by grey of the same rank, as no slice need have it."""
    return np.asarray(np.mean(several, axis=0), np.float64)


def ranks(pixels: Pixels, inside: Mask) -> NDArray[np.float64]:
    """Slice (H, W) and N pixels of it -> (N,) in (0, 1): the share of them that are darker, half of the equal ones too.

    Greys are counted in `GREYS` steps, so ranks are equal on every processor.
    """
    greys = np.rint(pixels[inside] * GREYS).astype(np.int64)
    counts = np.bincount(greys, minlength=GREYS + 1)
    below = (np.cumsum(counts) - counts / 2) / max(greys.size, 1)
    return np.asarray(below[greys], np.float64)


def match(pixels: Pixels, inside: Mask, reference: Quantiles) -> Pixels:
    """The slice with its greys inside moved, in their order, to the reference's distribution; the rest stays.

    `reference` is (Q,), the greys at Q even shares as `shares` has them. Greys that are one in the slice stay one:
    what a window has cut off does not come back.
    """
    matched = pixels.copy()
    matched[inside] = np.interp(ranks(pixels, inside), shares(len(reference)), reference)
    return matched
