"""Map and slice -> how much of what moved the score lies where no disease can be.

A network that looks at the table, at a stamp or at the picture's edge may be right for the wrong reason. What is
drawn over the body itself cannot be told from anatomy by grey and shape, and is not counted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctscan.imaging.anatomy import Mask, Pixels, body_mask, shrink
from ctscan.imaging.preprocess import Placement

BORDER = 2  # px of the thumbnail of 256: frames and lines along the edge


def share_outside(map_: NDArray[np.float32], placement: Placement, pixels: Pixels) -> float:
    """Of a signed map's positive part, the share outside the body or on the picture's border, in [0, 1].

    0 where nothing is positive. Text and frames that scanners burn in lie outside the body's mask: it is the largest
    bright component, with thin lines cut off.
    """
    thumbnail = shrink(pixels)
    evidence = placement.invert(np.maximum(map_, 0), (thumbnail.shape[0], thumbnail.shape[1]))
    total = float(evidence.sum())
    return float(evidence[elsewhere(thumbnail)].sum()) / total if total > 0 else 0.0


def elsewhere(thumbnail: Pixels) -> Mask:
    """(h, w): true outside the body and on the border of a slice that `shrink` made small."""
    outside = ~body_mask(thumbnail)
    inner = np.zeros_like(outside)
    inner[BORDER:-BORDER, BORDER:-BORDER] = True
    return outside | ~inner
