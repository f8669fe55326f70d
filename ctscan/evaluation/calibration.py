"""Out-of-fold answers -> what may be said of their certainty: temperature, calibration error, sets of classes.

Cross-fitted: what judges a fold's slices comes from the other folds alone, and what ships comes from all. Slices of
one visual group are no two witnesses: intervals draw groups, and sets are made and judged with one slice a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from ctscan.evaluation.intervals import Answers, evaluate
from ctscan.inference.confidence import ALPHA, calibrate, class_thresholds, prediction_sets
from ctscan.metrics import calibration_error, softmax
from ctscan.results.records import Coverage, Estimate, Sets

COLDEST, HOTTEST = 0.05, 20.0
SET_DRAWS = 100  # of one slice a group
NULL_PERCENTILE = 95
JUDGED = ("nll", "brier", "ece", "augrc", "risk_at_80")


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """The temperature with the lowest mean cross-entropy on labelled logits (N, K), between 0.05 and 20."""
    wide, rows = logits.astype(np.float64), np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        cooled = wide / np.exp(log_temperature)
        return float((np.logaddexp.reduce(cooled, axis=1) - cooled[rows, labels]).mean())

    bounds = np.log(COLDEST), np.log(HOTTEST)
    inside = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9}).x
    return float(np.exp(min((*bounds, inside), key=loss)))  # the search ends a little inside of its bounds


def fold_temperatures(answers: Answers, folds: NDArray[np.int64]) -> NDArray[np.float32]:
    """(N,): for each slice the temperature of the folds that it does not lie in."""
    temperatures = np.ones(len(folds), np.float32)
    for fold in np.unique(folds):
        others = answers.take(folds != fold)
        temperatures[folds == fold] = fit_temperature(others.logits, others.labels)
    return temperatures


def judge_calibration(
    answers: Answers, temperatures: NDArray[np.float32], keys: Sequence[str], draws: int
) -> tuple[dict[str, Estimate], dict[str, Estimate], float]:
    """The measures of certainty of the scores as they are and at temperatures (N,), and the error of a perfect model.

    The third is the 95th percentile of the calibration error of a perfectly calibrated model of as few groups.
    """
    cooled = replace(answers, logits=answers.logits / temperatures[:, None])
    errors = perfect_errors(softmax(cooled.logits), answers.groups, draws)
    raw, calibrated = (evaluate(a, keys, draws, "calibration").measures for a in (answers, cooled))
    of_raw, of_calibrated = ({name: measures[name] for name in JUDGED} for measures in (raw, calibrated))
    return of_raw, of_calibrated, float(np.percentile(errors, NULL_PERCENTILE))


def perfect_errors(probabilities: NDArray[np.float64], groups: NDArray[np.integer], draws: int) -> NDArray[np.float64]:
    """(draws,): the calibration errors that a perfectly calibrated model of these probabilities (N, K) would show.

    Its labels are drawn from the probabilities themselves. The slices of a group move together, as those of one scan
    do: one number a group decides which of its slices are answered right. So few groups mean large errors by luck.
    """
    generator = np.random.default_rng(0)
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


def judge_sets(
    answers: Answers, folds: NDArray[np.int64], temperatures: NDArray[np.float32], keys: Sequence[str]
) -> tuple[Sets, tuple[float, ...]]:
    """Sets for each fold from the others' slices, one a group and class, averaged over `SET_DRAWS` such choices.

    Returns:
        What they were worth, and the thresholds of all folds together, one a class: those that ship.
    """
    generator = np.random.default_rng(0)
    kinds = answers.groups * len(keys) + answers.labels
    shipped = calibrate(answers.logits, fit_temperature(answers.logits, answers.labels))
    thresholds, covered, sizes = [], [], []
    for _ in range(SET_DRAWS):
        chosen = choose_one(kinds, generator)
        some, where = answers.take(chosen), folds[chosen]
        thresholds.append(class_thresholds(shipped[chosen], some.labels))
        sets = np.zeros(some.logits.shape, bool)
        for fold in np.unique(where):
            here, probabilities = where == fold, calibrate(some.logits, float(temperatures[folds == fold][0]))
            elsewhere = class_thresholds(probabilities[~here], some.labels[~here])
            sets[here] = prediction_sets(probabilities[here], elsewhere)
        covered.append(sets[np.arange(len(chosen)), some.labels])
        sizes.append(sets.sum(axis=1))
    labels = answers.labels[choose_one(kinds, generator)]  # the same in every draw, for kinds are in order
    hit = np.mean(covered, axis=0)
    worth = Sets(
        alpha=ALPHA,
        coverage={key: cover(hit[labels == index]) for index, key in enumerate(keys) if (labels == index).any()},
        size=float(np.mean(sizes)),
        single=float(np.mean(np.equal(sizes, 1))),
        empty=float(np.mean(np.equal(sizes, 0))),
    )
    return worth, tuple(float(t) for t in np.mean(thresholds, axis=0))


def choose_one(kinds: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """The place of one slice of each kind, at random, in the order of the kinds."""
    shuffled = generator.permutation(len(kinds))
    _, first = np.unique(kinds[shuffled], return_index=True)
    return np.asarray(shuffled[first])


def cover(hit: NDArray[np.float64]) -> Coverage:
    """Of each group's share of hits, the mean and its exact interval with as many trials as groups."""
    interval = binomtest(round(float(hit.sum())), len(hit)).proportion_ci(method="exact")
    return Coverage(value=float(hit.mean()), low=float(interval.low), high=float(interval.high), groups=len(hit))
