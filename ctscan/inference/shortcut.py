"""Map and slice -> how much of what moved the score lies where no disease can be.

A network that looks at the table, at a stamp or at the picture's edge may be right for the wrong reason. What is
drawn over the body itself cannot be told from anatomy by grey and shape, and is not counted.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ctscan.imaging.anatomy import Anatomy, Mask
from ctscan.imaging.preprocess import Placement

BORDER = 2 / 256  # of the longer side: frames and lines along the picture's edge


def share_outside(evidence: NDArray[np.float32], placement: Placement, inside: Mask) -> float:
    """Of evidence over the model's square, the share that does not lie in a mask of the slice.

    The whole square counts: what lies in its black bars, or where the slice was cropped away, lies outside.

    Args:
        evidence: Map over the square, (h, w), >= 0.
        placement: Where the slice lies in the square.
        inside: Mask of the slice, (H, W).

    Returns:
        A share in [0, 1]; NaN where there is no evidence.
    """
    fine = cv2.resize(evidence, (placement.size, placement.size), interpolation=cv2.INTER_LINEAR).astype(np.float64)
    total = float(fine.sum())
    return 1 - float((fine * placement.apply(inside.astype(np.float32))).sum()) / total if total > 0 else float("nan")


def where_disease_can_be(anatomy: Anatomy) -> Mask:
    """(H, W): the body, but for the picture's border.

    Text and frames that scanners burn in lie outside the body's mask: it is the largest bright component, with thin
    lines cut off.
    """
    width = max(1, round(BORDER * max(anatomy.shape)))
    inside = np.zeros(anatomy.shape, bool)
    inside[width:-width, width:-width] = anatomy.body[width:-width, width:-width]
    return inside
