"""Logits -> probabilities that mean what they say, and the set of classes that cannot be ruled out. NumPy only.

One temperature makes the probabilities (Guo et al., ICML 2017). The sets are class-conditional (Mondrian) split
conformal ones with the score of Sadinle, Lei and Wasserman, JASA 2019 (LAC): one minus the probability of the true
class. They hold for slices that are exchangeable with those that temperature and thresholds come from, so for one
slice a scan, and for images like the data set alone.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray

from ctscan.metrics import softmax

ALPHA = 0.10  # the share of each class's slices whose set may miss it


def calibrate(logits: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Logits (..., K) -> probabilities (..., K); a temperature above 1 makes them less sure."""
    return softmax(logits / temperature)


def class_thresholds(
    probabilities: NDArray[np.float64], labels: NDArray[np.integer], alpha: float = ALPHA
) -> NDArray[np.float64]:
    """The score up to which each class belongs to a set.

    Args:
        probabilities: Of labelled slices, (N, K).
        labels: (N,), 0 to K - 1.
        alpha: The share of each class's slices whose set may miss it.

    Returns:
        (K,); 1, which keeps the class in every set, where a class has too few slices to promise more (fewer than 9 at
        0.10).
    """
    scores = 1 - probabilities
    thresholds = np.ones(probabilities.shape[1])
    for index in range(len(thresholds)):
        of_class = np.sort(scores[labels == index, index])
        rank = ceil((len(of_class) + 1) * (1 - alpha))
        if rank <= len(of_class):
            thresholds[index] = of_class[rank - 1]
    return thresholds


def prediction_sets(probabilities: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Probabilities (..., K), thresholds (K,) -> (..., K): the classes in each set, which may be empty.

    A class belongs to a set by its own threshold, or because it is at least as probable as a class that does: a set
    never leaves out what is likelier than what it holds. That adds classes alone, so coverage can only grow.
    """
    by_threshold = 1 - probabilities <= thresholds
    least = np.where(by_threshold, probabilities, np.inf).min(axis=-1, keepdims=True)
    inside: NDArray[np.bool_] = probabilities >= least
    return inside
