"""Logits and labels -> the numbers that are reported. Numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

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


def score(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Score:
    """Logits (N, K) and labels (N,) -> the score."""
    n, k = logits.shape
    confusion = np.bincount(labels * k + logits.argmax(axis=1), minlength=k * k).reshape(k, k)
    correct = int(confusion.trace())
    return Score(
        n=n,
        correct=correct,
        accuracy=correct / max(n, 1),
        interval95=wilson_interval(correct, n),
        cross_entropy=cross_entropy(softmax(logits), labels) if n else 0.0,
        confusion=tuple(map(tuple, confusion.tolist())),
    )


def cross_entropy(probabilities: NDArray[np.float64], labels: NDArray[np.integer]) -> float:
    """Probabilities (N, K) and labels (N,) -> the mean over images, natural logarithm."""
    of_truth = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(of_truth, np.finfo(np.float64).tiny)).mean())


RELIABILITY_BINS = 10


def auroc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counted half; NaN without both.

    >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    yes, no = int(positive.sum()), int((~positive).sum())
    if not yes or not no:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2  # of each distinct score, ties share their mean rank
    return float((rank[place[positive]].sum() - yes * (yes + 1) / 2) / (yes * no))


def calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.integer]) -> float:
    """ECE (Guo et al., ICML 2017) of the highest probability in ten bins of equal width."""
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((top * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    return float(np.abs(np.bincount(bins, top - right)).sum() / len(labels))


def augrc(probabilities: NDArray[np.float64], labels: NDArray[np.integer]) -> float:
    """Area under the generalised risk-coverage curve (Traub et al., NeurIPS 2024): the mean, over all shares of
    slices that may be answered, surest first, of the share of all slices that is answered wrong; equally sure ones
    are answered together.

    >>> augrc(np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]), np.array([0, 1, 0, 0]))
    0.15625
    """
    wrong = probabilities.argmax(axis=1) != labels
    _, place = np.unique(-probabilities.max(axis=1), return_inverse=True)
    coverage = np.concatenate([[0], np.cumsum(np.bincount(place))]) / len(wrong)
    risk = np.concatenate([[0], np.cumsum(np.bincount(place, weights=wrong))]) / len(wrong)
    return float(np.trapezoid(risk, coverage))


def measures(logits: NDArray[np.floating], labels: NDArray[np.integer], keys: Sequence[str]) -> dict[str, float]:
    """Logits (N, K), labels (N,) and the K classes' keys -> every number by name; NaN where it is not defined.

    Balanced accuracy and macro AUROC are means over the classes that occur. A pair's AUROC takes the difference of
    its two logits, a class's the class's probability against all others. `risk_at_80` is the share of wrong answers
    among the four fifths with the highest top probability.
    """
    probabilities = softmax(logits)
    n, k = probabilities.shape
    confusion = np.bincount(labels * k + probabilities.argmax(axis=1), minlength=k * k).reshape(k, k)
    truth, called, right = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    with np.errstate(invalid="ignore"):
        sensitivity, specificity = right / truth, (n - truth - called + right) / (n - truth)
    surest = np.argsort(-probabilities.max(axis=1), kind="stable")[: ceil(0.8 * n)]
    against_rest = [auroc(probabilities[:, c], labels == c) for c in range(k)]
    named = {
        "accuracy": float(right.sum() / n),
        "balanced_accuracy": _mean(sensitivity),
        "auroc_macro": _mean(np.array(against_rest)),
        "nll": cross_entropy(probabilities, labels),
        "brier": float(((probabilities - np.eye(k)[labels]) ** 2).sum(axis=1).mean()),
        "ece": calibration_error(probabilities, labels),
        "augrc": augrc(probabilities, labels),
        "risk_at_80": float((probabilities.argmax(axis=1) != labels)[surest].mean()),
    }
    for c, key in enumerate(keys):
        named |= {f"sensitivity.{key}": float(sensitivity[c]), f"specificity.{key}": float(specificity[c])}
        named |= {f"auroc.{key}": against_rest[c]}
    for a in range(k):
        for b in range(a + 1, k):
            pair = (labels == a) | (labels == b)
            named[f"auroc.{keys[a]}.{keys[b]}"] = auroc((logits[:, a] - logits[:, b])[pair], labels[pair] == a)
    return named


def _mean(values: NDArray[np.floating]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
