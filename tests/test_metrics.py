"""Against tables made by hand and published values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ctscan.metrics import score, softmax, wilson_interval


def test_score_of_four_slices_by_hand() -> None:
    logits = np.log(np.array([[0.7, 0.1, 0.1, 0.1], [0.2, 0.5, 0.2, 0.1], [0.6, 0.2, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]]))
    result = score(logits, np.array([0, 1, 2, 3]))
    assert (result.n, result.correct, result.accuracy) == (4, 3, 0.75)
    assert result.cross_entropy == pytest.approx(-(math.log(0.7) + math.log(0.5) + math.log(0.1) + math.log(0.7)) / 4)
    assert result.confusion == ((1, 0, 0, 0), (0, 1, 0, 0), (1, 0, 0, 0), (0, 0, 0, 1))


def test_wilson_interval_of_a_published_example() -> None:
    low, high = wilson_interval(81, 263)  # Newcombe, Statistics in Medicine 1998, table I: 0.2553 to 0.3662
    assert low == pytest.approx(0.2553, abs=5e-5)
    assert high == pytest.approx(0.3662, abs=5e-5)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(10, 10)[1] == pytest.approx(1)


def test_softmax_survives_large_logits() -> None:
    assert softmax(np.array([1000.0, 1000.0])).tolist() == [0.5, 0.5]
