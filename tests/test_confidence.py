"""Temperature, calibration error by luck and conformal sets: against libraries, closed forms and made-up models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from ctscan.classes import CLASS_KEYS
from ctscan.evaluation.calibration import (
    choose_one,
    cover,
    fit_temperature,
    fold_temperatures,
    judge_calibration,
    judge_sets,
    perfect_errors,
)
from ctscan.evaluation.intervals import Answers
from ctscan.inference.classifier import Classifier
from ctscan.inference.confidence import calibrate, class_thresholds, prediction_sets
from ctscan.metrics import calibration_error, softmax
from tests.conftest import ROOT


def draw_model(n: int, temperature: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits that would be calibrated at `temperature`, and labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, 4))
    labels = (rng.random(n)[:, None] > softmax(logits).cumsum(axis=1)).sum(axis=1)
    return (logits * temperature).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_a_model_was_made_with_is_found(temperature: float) -> None:
    logits, labels = draw_model(20_000, temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.04)


def test_no_other_temperature_has_a_lower_cross_entropy() -> None:
    from sklearn.metrics import log_loss

    logits, labels = draw_model(300, 1.7, seed=1)
    best = fit_temperature(logits, labels)
    losses = [log_loss(labels, calibrate(logits, best * factor)) for factor in (0.99, 1, 1.01)]
    assert min(losses) == losses[1]


def test_a_model_that_is_always_right_is_as_sure_as_is_allowed() -> None:
    labels = np.arange(8) % 4
    assert fit_temperature(np.eye(4)[labels], labels) == pytest.approx(0.05, rel=1e-3)


def test_calibration_keeps_the_order_of_the_classes() -> None:
    logits, _ = draw_model(50, 1)
    assert np.array_equal(calibrate(logits, 3).argsort(axis=1), calibrate(logits, 0.3).argsort(axis=1))


def test_the_fewer_the_groups_the_larger_the_error_by_luck() -> None:
    probabilities = softmax(draw_model(800, 1)[0])
    alone = perfect_errors(probabilities, np.arange(800), 200)
    together = perfect_errors(np.repeat(probabilities[::10], 10, axis=0), np.arange(800) // 10, 200)
    assert alone.mean() < 0.5 * together.mean()
    labels = draw_model(800, 1)[1]
    assert calibration_error(probabilities, labels) < np.percentile(alone, 99)


def test_a_sure_model_has_no_error_by_luck() -> None:
    assert perfect_errors(np.eye(4)[[0, 1, 2]], np.arange(3), 5).tolist() == [0] * 5


def test_a_threshold_by_hand() -> None:
    own = np.linspace(0.5, 0.95, 10)  # probabilities of the true class
    probabilities = np.stack([own, 1 - own], axis=1)
    thresholds = class_thresholds(probabilities, np.zeros(10, int), alpha=0.1)
    assert thresholds.tolist() == pytest.approx([0.5, 1.0])  # rank ceil(11 * 0.9) = 10 of 10; none of the other class
    assert prediction_sets(np.array([[0.5, 0.5], [0.49, 0.51]]), thresholds).tolist() == [[True, True], [False, True]]


def test_sets_are_those_of_mapie_class_by_class() -> None:
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Given(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """A classifier whose features are its probabilities."""

        classes_ = np.arange(4)

        def fit(self, x: NDArray[np.float64], y: NDArray[np.int64]) -> Given:
            return self

        def predict_proba(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
            return x

        def predict(self, x: NDArray[np.float64]) -> NDArray[np.int64]:
            return np.asarray(x.argmax(axis=1))

        def __sklearn_is_fitted__(self) -> bool:
            return True

    for seed in range(20):
        logits, labels = draw_model(120, 1, seed)
        probabilities, others = softmax(logits), softmax(draw_model(50, 1, seed + 1000)[0])
        thresholds = class_thresholds(probabilities, labels)
        ours = prediction_sets(others, thresholds)
        for index in range(4):
            own = labels == index
            oracle = SplitConformalClassifier(Given(), confidence_level=0.9, conformity_score="lac", prefit=True)
            oracle.conformalize(probabilities[own], labels[own])
            theirs = oracle.predict_set(others)[1][:, index, 0]
            assert np.array_equal(1 - others[:, index] <= thresholds[index], theirs), (seed, index)
            assert ours[theirs, index].all(), (seed, index)


@given(
    arrays(np.float64, (20, 4), elements=st.floats(-6, 6)),
    arrays(np.float64, 4, elements=st.floats(0, 1)),
)
def test_a_set_never_leaves_out_what_is_likelier_than_what_it_holds(
    logits: NDArray[np.float64], thresholds: NDArray[np.float64]
) -> None:
    probabilities = softmax(logits)
    sets = prediction_sets(probabilities, thresholds)
    by_threshold = 1 - probabilities <= thresholds
    assert sets[by_threshold].all()
    for row, inside, named in zip(probabilities, sets, by_threshold, strict=True):
        assert inside.any() == named.any()  # a set may still be empty
        assert not inside.any() or not (row[~inside] >= row[inside].min()).any()
        assert not named.any() or row[inside].min() == row[named].min()  # and no more than that is added


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.png")), ids=lambda p: p.stem)
def test_the_set_of_an_example_goes_down_the_scores_without_a_gap(path: Path, committed: Classifier) -> None:
    shown = committed(path).to_dict()
    probabilities, inside = shown["probabilities"] or {}, shown["set"]
    assert inside
    assert set(inside) == set(sorted(probabilities, key=lambda key: -probabilities[key])[: len(inside)])


def test_sets_keep_their_promise_class_by_class() -> None:
    hits: list[NDArray[np.bool_]] = []
    for seed in range(60):
        logits, labels = draw_model(400, 1, seed)
        p = softmax(logits)
        sets = prediction_sets(p[200:], class_thresholds(p[:200], labels[:200]))
        hits.append(sets[np.arange(200), labels[200:]])
    assert 0.89 < np.mean(hits) < 0.93


def test_one_slice_of_each_kind_is_chosen_and_not_always_the_same() -> None:
    kinds = np.array([5, 5, 5, 2, 2, 9])
    generator = np.random.default_rng(0)
    drawn = [choose_one(kinds, generator) for _ in range(30)]
    assert all(kinds[chosen].tolist() == [2, 5, 9] for chosen in drawn)
    assert {int(chosen[1]) for chosen in drawn} == {0, 1, 2}


def test_an_exact_interval_of_a_published_example() -> None:
    found = cover(np.array([1.0] * 81 + [0.0] * 182))  # Newcombe 1998, table I, method 5: 0.2527 to 0.3676
    assert (found.low, found.high) == pytest.approx((0.2527, 0.3676), abs=5e-5)
    assert found.groups == 263


def test_what_is_reported_of_an_overconfident_model() -> None:
    logits, labels = draw_model(1000, 2.0)
    groups = np.arange(1000) // 2
    answers, folds = Answers(logits, labels, groups), groups % 5
    temperatures = fold_temperatures(answers, folds)
    raw, calibrated, perfect = judge_calibration(answers, temperatures, CLASS_KEYS, 100)
    assert calibrated["nll"].value < raw["nll"].value
    assert calibrated["ece"].value < perfect < raw["ece"].value
    sets, thresholds = judge_sets(answers, folds, temperatures, CLASS_KEYS)
    assert set(sets.coverage) == set(CLASS_KEYS)
    assert all(c.high >= 0.9 for c in sets.coverage.values())
    assert 1 <= sets.size <= 4
    assert sets.single + sets.empty <= 1
    assert len(thresholds) == 4


def test_a_folds_temperature_comes_from_the_others() -> None:
    logits, labels = draw_model(400, 1)
    folds = np.arange(400) % 2
    changed = logits.copy()
    changed[folds == 0] *= 5
    before, after = (fold_temperatures(Answers(a, labels, np.arange(400)), folds) for a in (logits, changed))
    assert before[folds == 0][0] == after[folds == 0][0]
    assert after[folds == 1][0] > 2 * before[folds == 1][0]
