"""Out-of-fold answers -> what may be said of their certainty: temperature, calibration error, sets of classes.

Cross-fitted: what judges a fold's slices comes from the other folds alone, and what ships comes from all. Slices of
one visual group are no two witnesses: intervals draw groups, and sets are made and judged with one slice a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ctscan.evaluation.intervals import Answers, Estimate, estimate, evaluate, resample
from ctscan.inference.calibration import calibrate, fit_temperature, perfect_errors
from ctscan.inference.conformal import ALPHA, class_thresholds, prediction_sets

SET_DRAWS = 100  # of one slice a group
NULL_PERCENTILE = 95
JUDGED = ("nll", "brier", "ece", "augrc", "risk_at_80")


@dataclass(frozen=True)
class Coverage:
    """How often a class's slices have it in their set."""

    value: float  # mean over the draws
    low: float  # 95 % interval of Clopper and Pearson over groups
    high: float
    groups: int


@dataclass(frozen=True)
class Sets:
    """Conformal sets: what ships, and what it was worth on groups that had no part in it."""

    alpha: float
    thresholds: tuple[float, ...]  # one a class, from all folds, mean over the draws
    coverage: dict[str, Coverage]  # by class
    size: float  # mean number of classes in a set
    single: float  # share of sets of one class
    empty: float  # share of sets of none


@dataclass(frozen=True)
class Confidence:
    """All that is reported of certainty."""

    temperature: Estimate  # from all folds; interval over groups
    raw: dict[str, Estimate]  # `JUDGED`, as the logits are
    calibrated: dict[str, Estimate]  # the same, each fold by the temperature of the others
    perfect_ece: float  # 95th percentile for a perfectly calibrated model of this size and grouping
    sets: Sets

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def judge_confidence(answers: Answers, folds: NDArray[np.int64], keys: Sequence[str], draws: int) -> Confidence:
    """Answers of at least two folds (N,) -> temperature, calibration and sets; progress bars meanwhile."""
    temperatures = fold_temperatures(answers, folds)
    cooled = replace(answers, logits=answers.logits / temperatures[:, None])
    raw, calibrated = (evaluate(a, keys, draws, "calibration").measures for a in (answers, cooled))
    errors = perfect_errors(calibrate(cooled.logits, 1), answers.groups, draws)
    return Confidence(
        temperature=estimate_temperature(answers, draws),
        raw={name: raw[name] for name in JUDGED},
        calibrated={name: calibrated[name] for name in JUDGED},
        perfect_ece=float(np.percentile(errors, NULL_PERCENTILE)),
        sets=judge_sets(answers, folds, temperatures, keys),
    )


def fold_temperatures(answers: Answers, folds: NDArray[np.int64]) -> NDArray[np.float32]:
    """(N,): for each slice the temperature of the folds that it does not lie in."""
    temperatures = np.ones(len(folds), np.float32)
    for fold in np.unique(folds):
        others = answers.take(folds != fold)
        temperatures[folds == fold] = fit_temperature(others.logits, others.labels)
    return temperatures


def estimate_temperature(answers: Answers, draws: int) -> Estimate:
    """The temperature of all answers, with its interval over groups."""
    drawn = [
        fit_temperature(answers.logits[index], answers.labels[index])
        for (index,) in tqdm(resample([answers.groups], draws), "temperature", draws, unit="draw", leave=False)
    ]
    return estimate(fit_temperature(answers.logits, answers.labels), drawn)


def judge_sets(
    answers: Answers, folds: NDArray[np.int64], temperatures: NDArray[np.float32], keys: Sequence[str]
) -> Sets:
    """Sets for each fold from the others' slices, one a group and class, averaged over `SET_DRAWS` such choices."""
    generator = np.random.default_rng(0)
    kinds = answers.groups * len(keys) + answers.labels
    shipped = calibrate(answers.logits, fit_temperature(answers.logits, answers.labels))
    thresholds, covered, sizes = [], [], []
    for _ in range(SET_DRAWS):
        chosen = choose_one(kinds, generator)
        some, where = answers.take(chosen), folds[chosen]
        thresholds.append(class_thresholds(shipped[chosen], some.labels))
        sets = cross_fitted_sets(some, where, {f: float(temperatures[folds == f][0]) for f in np.unique(where)})
        covered.append(sets[np.arange(len(chosen)), some.labels])
        sizes.append(sets.sum(axis=1))
    labels = answers.labels[choose_one(kinds, generator)]  # the same in every draw, for kinds are in order
    hit = np.mean(covered, axis=0)
    return Sets(
        alpha=ALPHA,
        thresholds=tuple(float(t) for t in np.mean(thresholds, axis=0)),
        coverage={key: cover(hit[labels == index]) for index, key in enumerate(keys) if (labels == index).any()},
        size=float(np.mean(sizes)),
        single=float(np.mean(np.equal(sizes, 1))),
        empty=float(np.mean(np.equal(sizes, 0))),
    )


def choose_one(kinds: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """The place of one slice of each kind, at random, in the order of the kinds."""
    shuffled = generator.permutation(len(kinds))
    _, first = np.unique(kinds[shuffled], return_index=True)
    chosen: NDArray[np.int64] = shuffled[first]
    return chosen


def cross_fitted_sets(some: Answers, folds: NDArray[np.int64], temperatures: dict[int, float]) -> NDArray[np.bool_]:
    """(N, K): the sets of each fold's slices by the thresholds of the others, both at that fold's temperature."""
    sets = np.zeros(some.logits.shape, bool)
    for fold, temperature in temperatures.items():
        here, probabilities = folds == fold, calibrate(some.logits, temperature)
        sets[here] = prediction_sets(probabilities[here], class_thresholds(probabilities[~here], some.labels[~here]))
    return sets


def cover(hit: NDArray[np.float64]) -> Coverage:
    """Of each group's share of hits, the mean and its exact interval with as many trials as groups."""
    from scipy.stats import binomtest

    interval = binomtest(round(float(hit.sum())), len(hit)).proportion_ci(method="exact")
    return Coverage(float(hit.mean()), float(interval.low), float(interval.high), len(hit))
