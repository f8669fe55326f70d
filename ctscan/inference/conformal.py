"""Probabilities -> the set of classes that cannot be ruled out, so that each true class is missed rarely. Numpy only.

Class-conditional (Mondrian) split conformal sets with the score of Sadinle, Lei and Wasserman, JASA 2019 (LAC): one
minus the probability of the true class. They hold for slices that are exchangeable with those that the thresholds
come from, so for one slice a scan, and for images like the data set alone.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.10  # the share of each class's slices whose set may miss it


def class_thresholds(
    probabilities: NDArray[np.float64], labels: NDArray[np.integer], alpha: float = ALPHA
) -> NDArray[np.float64]:
    """Labelled probabilities (N, K) -> (K,): the score up to which each class belongs to a set.

    1, which keeps the class in every set, where a class has too few slices (fewer than 9 at 0.10) to promise more.
    """
    scores = 1 - probabilities
    thresholds = np.ones(probabilities.shape[1])
    for index in range(len(thresholds)):
        own = np.sort(scores[labels == index, index])
        rank = ceil((len(own) + 1) * (1 - alpha))
        if rank <= len(own):
            thresholds[index] = own[rank - 1]
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
