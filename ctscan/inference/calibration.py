"""Logits -> probabilities that mean what they say: one temperature (Guo et al., ICML 2017). Numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctscan.metrics import softmax

Probabilities = NDArray[np.float64]


def calibrate(logits: NDArray[np.floating], temperature: float) -> Probabilities:
    """Logits (..., K) -> probabilities (..., K); a temperature above 1 makes them less sure."""
    return softmax(logits / temperature)
