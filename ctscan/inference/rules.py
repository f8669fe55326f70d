"""Slice -> the first simple reason why it cannot be an axial chest CT slice: size, shape, colour, emptiness.

Looks at numbers that cost nothing, before any network is asked. What passes here need not be a CT slice.
"""

from __future__ import annotations

import numpy as np

from ctscan.io.images import Slice

MIN_SIDE = 64  # px; below it lungs are a few pixels wide
MAX_ASPECT = 2.5  # longer side by shorter; the widest chest cut close to the body has 1.8
MAX_COLOUR = 0.10  # of the pixels; arrows and stamps in colour stay below
MIN_SPREAD = 0.02  # standard deviation of the greys, of full scale; air and tissue are further apart in any window


def find_fault(slice_: Slice) -> str | None:
    """One sentence, or None where no rule is broken."""
    height, width = slice_.pixels.shape
    if min(height, width) < MIN_SIDE:
        return f"The picture is only {width} × {height} pixels; a slice needs at least {MIN_SIDE} on each side."
    if max(height, width) > MAX_ASPECT * min(height, width):
        return "The picture is far longer than wide, which no axial slice is."
    if slice_.colour > MAX_COLOUR:
        return "The picture is in colour; a CT slice is grey."
    if float(np.std(slice_.pixels, dtype=np.float64)) < MIN_SPREAD:
        return "The picture is nearly one grey all over."
    return None
