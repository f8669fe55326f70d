"""The greys inside the body: how they are distributed, and the same slice with another slice's distribution.

A model that knows a class by its window loses it when every slice has one histogram.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctscan.anatomy import Pixels, body_mask

LEVELS = (np.arange(256) + 0.5) / 256  # shares of the body's pixels at which a distribution is kept

Quantiles = NDArray[np.float64]


def body_quantiles(pixels: Pixels) -> Quantiles:
    """Slice (H, W) -> (256,), never falling: the grey below which each share in `LEVELS` of the body's pixels lies."""
    return np.asarray(np.quantile(pixels[body_mask(pixels)], LEVELS), np.float64)


def mean_quantiles(several: Sequence[Quantiles]) -> Quantiles:
    """The mean distribution of several slices, grey by grey of the same rank, as no slice need have it."""
    return np.asarray(np.mean(several, axis=0), np.float64)


def match(pixels: Pixels, reference: Quantiles) -> Pixels:
    """The slice with its body's greys moved, in their order, to the reference's distribution; the rest stays.

    Greys that are one in the slice stay one: what a window has cut off does not come back.
    """
    mask = body_mask(pixels)
    _, place, counts = np.unique(pixels[mask], return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - counts / 2) / counts.sum()
    matched = pixels.copy()
    matched[mask] = np.interp(rank, LEVELS, reference)[place]
    return matched
