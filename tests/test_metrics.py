"""Against tables made by hand and published values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ctscan.classes import CLASS_KEYS
from ctscan.metrics import (
    augrc,
    auroc,
    calibration_error,
    measures,
    score,
    softmax,
    wilson_interval,
)


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


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    """200 made-up logits, some tied, that are often right."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 200)
    logits = np.round(rng.normal(size=(200, 4)), 1)
    logits[np.arange(200), labels] += 1
    return logits, labels


def test_measures_are_those_of_scikit_learn(answers: tuple[np.ndarray, np.ndarray]) -> None:
    from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

    logits, labels = answers
    found, p = measures(logits, labels, CLASS_KEYS), softmax(logits)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, p.argmax(1)))
    assert found["auroc_macro"] == pytest.approx(roc_auc_score(labels, p, multi_class="ovr"))
    assert found["auroc.normal"] == pytest.approx(roc_auc_score(labels == 3, p[:, 3]))
    assert found["nll"] == pytest.approx(log_loss(labels, p))
    pair = labels < 2
    expected = roc_auc_score(labels[pair] == 0, (logits[:, 0] - logits[:, 1])[pair])
    assert found["auroc.adenocarcinoma.large_cell_carcinoma"] == pytest.approx(expected)
    one_hot = np.eye(4)[labels]
    assert found["brier"] == pytest.approx(((p - one_hot) ** 2).sum(1).mean())


def test_sensitivity_and_specificity_by_hand() -> None:
    logits = np.eye(4)[[0, 0, 1, 3, 3, 3]] * 9
    found = measures(logits, np.array([0, 1, 1, 3, 3, 0]), CLASS_KEYS)
    assert found["sensitivity.adenocarcinoma"] == 0.5
    assert found["specificity.adenocarcinoma"] == 0.75
    assert math.isnan(found["sensitivity.squamous_cell_carcinoma"])
    assert found["balanced_accuracy"] == pytest.approx((0.5 + 0.5 + 1) / 3)


def test_a_perfectly_calibrated_table_has_no_calibration_error() -> None:
    p = np.tile([0.75, 0.25], (4, 1))
    assert calibration_error(p, np.array([0, 0, 0, 1])) == pytest.approx(0)
    assert calibration_error(p, np.array([1, 1, 1, 1])) == pytest.approx(0.75)


def test_auroc_without_one_kind_is_not_a_number() -> None:
    assert math.isnan(auroc(np.array([1.0, 2.0]), np.array([True, True])))


def test_augrc_by_hand_and_by_its_closed_form(answers: tuple[np.ndarray, np.ndarray]) -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    # answered right, wrong, right, right: wrong of all after 0, 1, 2, 3, 4 slices 0, 0, 1/4, 1/4, 1/4
    assert augrc(p, np.array([0, 1, 0, 0])) == pytest.approx((0 + 0.125 + 0.25 + 0.25) / 4)
    logits, labels = answers
    some = softmax(logits)
    right = some.argmax(axis=1) == labels
    a, area = right.mean(), auroc(some.max(axis=1), right)
    assert augrc(some, labels) == pytest.approx((1 - area) * a * (1 - a) + (1 - a) ** 2 / 2)  # Traub et al., eq. 8


def test_risk_at_a_coverage_is_that_of_the_surest() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.65, 0.35], [0.6, 0.4]])
    assert measures(np.log(p), np.array([0, 1, 0, 0, 1]), CLASS_KEYS[:2])["risk_at_80"] == 0.25
