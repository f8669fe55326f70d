"""Logits and labels -> the numbers that are reported. Numpy only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054  # 97.5th percentile of the normal distribution


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logits (..., K) -> probabilities (..., K), float64, that sum to 1."""
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson, JASA 1927). It takes the images as independent, which slices are not.

    >>> [round(end, 3) for end in wilson_interval(9, 10)]
    [0.596, 0.982]
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = correct / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Score:
    """How a model did on `n` images: evaluation mode, fp32, no augmentation."""

    n: int
    correct: int
    accuracy: float
    interval95: tuple[float, float]  # Wilson, images taken as independent
    cross_entropy: float  # mean over images, natural logarithm
    confusion: tuple[tuple[int, ...], ...]  # [true class][predicted class], in the order of the classes

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def score(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Score:
    """Logits (N, K) and labels (N,) -> the score."""
    n, classes = logits.shape
    predicted = logits.argmax(axis=1)
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, predicted), 1)
    correct = int(np.trace(confusion))
    own = softmax(logits)[np.arange(n), labels]
    loss = float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean()) if n else 0.0
    table = tuple(tuple(int(v) for v in row) for row in confusion)
    return Score(n, correct, correct / max(n, 1), wilson_interval(correct, n), loss, table)
