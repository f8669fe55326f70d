"""Answers with labels and visual groups -> measures with intervals that hold the groups together.

Slices of one scan are nearly one picture, so an interval that takes them as independent is too narrow. Here whole
visual groups are drawn with replacement (cluster bootstrap), and what is reported are the 2.5th and 97.5th
percentiles of the draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, t
from tqdm.auto import tqdm

from ctscan.metrics import measures, score
from ctscan.results.records import Estimate, Evaluation

BOOTSTRAP_SEED = 0


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model said of labelled slices."""

    logits: NDArray[np.float32]  # (N, K)
    labels: NDArray[np.int64]  # (N,)
    groups: NDArray[np.int64]  # (N,), the visual group of each slice

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Answers:
        """The answers at these places, or where the mask is true."""
        return Answers(self.logits[index], self.labels[index], self.groups[index])

    def measures(self, keys: Sequence[str]) -> dict[str, float]:
        """Every measure by name; NaN where it is not defined."""
        return measures(self.logits, self.labels, keys)


def resample(groups: Sequence[NDArray[np.int64]], draws: int) -> Iterator[list[NDArray[np.int64]]]:
    """For each draw the places (with repeats) of the drawn groups' slices, in each of several arrays of groups.

    One draw of groups holds for all arrays, so that what they share varies together.
    """
    names = np.unique(np.concatenate(groups))
    places = [np.searchsorted(names, g) for g in groups]
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    for _ in range(draws):
        times = np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))
        yield [np.repeat(np.arange(len(place)), times[place]) for place in places]


def bootstrap(
    groups: Sequence[NDArray[np.int64]],
    statistic: Callable[..., dict[str, float]],
    draws: int,
    title: str = "bootstrap",
) -> dict[str, Estimate]:
    """A statistic with its intervals: named numbers of the places in each array of groups, as `resample` draws them.

    A number that is not defined, as it is or in any draw, is left out; draws in which it is not defined do not count.
    """
    drawn = [statistic(*places) for places in tqdm(resample(groups, draws), title, draws, unit="draw", leave=False)]
    estimates = {}
    for name, value in statistic(*(np.arange(len(g)) for g in groups)).items():
        values = np.array([numbers[name] for numbers in drawn])
        defined = values[~np.isnan(values)]
        if not np.isnan(value) and len(defined):
            low, high = np.percentile(defined, [2.5, 97.5])
            estimates[name] = Estimate(value=value, low=float(low), high=float(high), se=float(defined.std()))
    return estimates


def evaluate(answers: Answers, keys: Sequence[str], draws: int, title: str = "bootstrap") -> Evaluation:
    """Every measure of one answer or more that is defined, with its interval over groups; `keys` are the K classes."""
    estimates = bootstrap([answers.groups], lambda places: answers.take(places).measures(keys), draws, title)
    for name, estimate in estimates.items():
        kind, _, key = name.partition(".")
        shares = kind in ("accuracy", "balanced_accuracy", "sensitivity", "specificity")
        if shares and estimate.low == estimate.high:
            # 0 or 1 in all draws has no spread to show; then Wilson's interval over as many trials as groups.
            of_class = answers.labels == keys.index(key) if key else np.ones(len(answers.labels), bool)
            trials = len(np.unique(answers.groups[~of_class if kind == "specificity" else of_class]))
            interval = binomtest(round(estimate.value * trials), trials).proportion_ci(method="wilson")
            estimates[name] = estimate.model_copy(update={"low": float(interval.low), "high": float(interval.high)})
    return Evaluation(
        n=len(answers.labels),
        groups=len(np.unique(answers.groups)),
        measures=estimates,
        confusion=score(answers.logits, answers.labels).confusion,
    )


def difference(
    first: Answers, second: Answers, keys: Sequence[str], names: Sequence[str], draws: int
) -> dict[str, Estimate]:
    """First minus second for the named measures, groups drawn for both at once."""

    def gap(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> dict[str, float]:
        a, b = first.take(ours).measures(keys), second.take(theirs).measures(keys)
        return {name: a[name] - b[name] for name in names}

    return bootstrap([first.groups, second.groups], gap, draws, "difference")


def mean(values: NDArray[np.floating], draws: int) -> Estimate:
    """The mean of values (N,) of N different visual groups, with its interval over them."""
    return bootstrap([np.arange(len(values))], lambda places: {"mean": float(values[places].mean())}, draws)["mean"]


def average(repeats: Sequence[Estimate]) -> Estimate:
    """The mean of a measure over independent repeats on the same slices; its interval from how far these differ.

    Student's t: the repeats are few.
    """
    if len(repeats) == 1:
        return repeats[0]
    values, n = [repeat.value for repeat in repeats], len(repeats)
    middle, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(n))
    half = float(t.ppf(0.975, n - 1)) * error
    return Estimate(value=middle, low=middle - half, high=middle + half, se=error)
