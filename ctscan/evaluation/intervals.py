"""Answers with labels and visual groups -> measures with intervals that hold the groups together.

Slices of one scan are nearly one picture, so an interval that takes them as independent is too narrow. Here whole
visual groups are drawn with replacement (cluster bootstrap), and what is reported are the 2.5th and 97.5th
percentiles of the draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def estimate(value: float, drawn: Sequence[float]) -> Estimate:
    """A value with the spread of its draws; those where it is not defined do not count."""
    defined = np.array(drawn)[~np.isnan(drawn)]
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(value=value, low=float(low), high=float(high), se=float(defined.std()))


def evaluate(answers: Answers, keys: Sequence[str], draws: int, title: str = "bootstrap") -> Evaluation:
    """Every measure that is defined, with its interval over groups.

    Args:
        answers: Of one slice or more.
        keys: The K classes.
        draws: Of groups.
        title: Of the progress bar.
    """
    now = measures(answers.logits, answers.labels, keys)
    named = {name: value for name, value in now.items() if not np.isnan(value)}
    drawn: dict[str, list[float]] = {name: [] for name in named}
    for (index,) in tqdm(resample([answers.groups], draws), title, draws, unit="draw", leave=False):
        again = measures(answers.logits[index], answers.labels[index], keys)
        for name, values in drawn.items():
            values.append(again[name])
    defined = {name: values for name, values in drawn.items() if not np.isnan(values).all()}
    return Evaluation(
        n=len(answers.labels),
        groups=len(np.unique(answers.groups)),
        measures={n: _widen(n, estimate(named[n], values), answers, keys) for n, values in defined.items()},
        confusion=score(answers.logits, answers.labels).confusion,
    )


def average(repeats: Sequence[Evaluation]) -> Evaluation:
    """The mean of every measure over independent repeats on the same slices, intervals from how far these differ.

    Student's t: the repeats are few. The confusion is that of all together.
    """
    first, n = repeats[0], len(repeats)
    means = {}
    for name in first.measures:
        values = [repeat.measures[name].value for repeat in repeats if name in repeat.measures]
        if len(values) == n:
            mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(n))
            half = float(t.ppf(0.975, n - 1)) * error
            means[name] = Estimate(value=mean, low=mean - half, high=mean + half, se=error)
    confusion = np.sum([repeat.confusion for repeat in repeats], axis=0).tolist()
    return first.model_copy(update={"measures": means, "confusion": tuple(map(tuple, confusion))})


def _widen(name: str, found: Estimate, answers: Answers, keys: Sequence[str]) -> Estimate:
    """A share of 0 or 1 in all draws has no spread to show; then Wilson's interval over as many trials as groups."""
    kind, _, key = name.partition(".")
    if found.low != found.high or kind not in ("accuracy", "balanced_accuracy", "sensitivity", "specificity"):
        return found
    of_class = answers.labels == keys.index(key) if key else np.ones(len(answers.labels), bool)
    counted = ~of_class if kind == "specificity" else of_class
    trials = len(np.unique(answers.groups[counted]))
    interval = binomtest(round(found.value * trials), trials).proportion_ci(method="wilson")
    return found.model_copy(update={"low": float(interval.low), "high": float(interval.high)})


def difference(
    first: Answers, second: Answers, keys: Sequence[str], names: Sequence[str], draws: int
) -> dict[str, Estimate]:
    """First minus second for the named measures, groups drawn for both at once."""
    before, after = (measures(a.logits, a.labels, keys) for a in (first, second))
    drawn: dict[str, list[float]] = {name: [] for name in names}
    for ours, theirs in tqdm(resample([first.groups, second.groups], draws), "difference", draws, leave=False):
        a = measures(first.logits[ours], first.labels[ours], keys)
        b = measures(second.logits[theirs], second.labels[theirs], keys)
        for name in names:
            drawn[name].append(a[name] - b[name])
    return {name: estimate(before[name] - after[name], drawn[name]) for name in names}
