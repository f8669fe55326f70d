"""Logits -> probabilities that mean what they say: one temperature (Guo et al., ICML 2017). Numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctscan.metrics import calibration_error, softmax

COLDEST, HOTTEST = 0.05, 20.0
STEPS = 50  # halvings of the interval in which the logarithm lies: far below what float64 resolves

Probabilities = NDArray[np.float64]


def calibrate(logits: NDArray[np.floating], temperature: float) -> Probabilities:
    """Logits (..., K) -> probabilities (..., K); a temperature above 1 makes them less sure."""
    return softmax(logits / temperature)


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """The temperature with the lowest mean cross-entropy on labelled logits (N, K), between 0.05 and 20.

    The cross-entropy is convex in the inverse of the temperature: its slope, the mean of what the model expects of
    the logits less the logit of the true class, changes its sign once, and halving finds the place.
    """
    wide = logits.astype(np.float64)
    own = wide[np.arange(len(labels)), labels].mean()
    cold, hot = np.log(COLDEST), np.log(HOTTEST)
    for _ in range(STEPS):
        middle = (cold + hot) / 2
        expected = (calibrate(wide, float(np.exp(middle))) * wide).sum(axis=1).mean()
        cold, hot = (middle, hot) if expected > own else (cold, middle)
    return float(np.exp((cold + hot) / 2))


def perfect_errors(
    probabilities: Probabilities, groups: NDArray[np.integer], draws: int, seed: int = 0
) -> Probabilities:
    """(draws,): the calibration errors that a perfectly calibrated model of these probabilities (N, K) would show.

    Its labels are drawn from the probabilities themselves. The slices of a group move together, as those of one scan
    do: one number a group decides which of its slices are answered right. So few groups mean large errors by luck.
    """
    generator = np.random.default_rng(seed)
    names, place = np.unique(groups, return_inverse=True)
    surest_first = np.argsort(-probabilities, axis=1, kind="stable")
    steps = np.take_along_axis(probabilities, surest_first, axis=1).cumsum(axis=1)[:, :-1]
    errors = []
    for _ in range(draws):
        luck = generator.random(len(names))[place]
        rank = (luck[:, None] >= steps).sum(axis=1)
        labels = surest_first[np.arange(len(rank)), rank]
        errors.append(calibration_error(probabilities, labels))
    return np.array(errors)
