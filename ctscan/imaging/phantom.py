"""A synthetic chest slice: the picture that a checkpoint's golden logits are of, and a subject for tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def draw_phantom(height: int = 256, width: int = 320) -> NDArray[np.float32]:
    """Float32 (H, W) in [0, 1]: a body with two lungs, a heart, vessels, a spine and a table, drawn exactly.

    Nothing is random and only sums, products and comparisons are used, so that every machine draws the same.
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    y, x = (y + 0.5) / height * 2 - 1, (x + 0.5) / width * 2 - 1

    def ellipse(cy: float, cx: float, ry: float, rx: float) -> NDArray[np.bool_]:
        inside: NDArray[np.bool_] = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
        return inside

    slice_ = np.zeros((height, width))
    slice_[(y > 0.90) & (y < 0.94)] = 0.35  # table
    slice_[ellipse(0.0, 0.0, 0.80, 0.88)] = 0.42  # fat and muscle
    slice_[ellipse(0.0, 0.0, 0.72, 0.80)] = 0.50
    lungs = ellipse(-0.02, -0.42, 0.56, 0.30) | ellipse(-0.02, 0.42, 0.56, 0.30)
    slice_[lungs] = 0.06
    for row in range(-4, 5):  # vessels on a lattice, brighter towards the hilum
        for column in (-0.60, -0.48, -0.36, 0.36, 0.48, 0.60):
            vessel = ellipse(row * 0.1, column, 0.022, 0.018) & lungs
            slice_[vessel] = 0.30 + 0.4 * (0.7 - abs(column))
    slice_[ellipse(-0.12, 0.10, 0.30, 0.26)] = 0.58  # heart
    slice_[ellipse(-0.70, 0.0, 0.05, 0.16)] = 0.85  # sternum
    slice_[ellipse(0.48, 0.0, 0.14, 0.12)] = 0.90  # vertebra
    slice_[ellipse(0.62, 0.0, 0.05, 0.05)] = 0.45  # canal
    return slice_.astype(np.float32)
