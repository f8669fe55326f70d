"""Answers with labels and visual groups -> measures with intervals that hold the groups together.

Slices of one scan are nearly one picture, so an interval that takes them as independent is too narrow. Here whole
visual groups are drawn with replacement (cluster bootstrap), and what is reported are the 2.5th and 97.5th
percentiles of the draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t
from tqdm.auto import tqdm

from ctscan.metrics import measures, reliability, risk_coverage, score, softmax, wilson_interval

BOOTSTRAP_SEED = 0
COVERAGES = 20  # points of the risk-coverage curve that are kept


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model said of labelled slices."""

    logits: NDArray[np.float32]  # (N, K)
    labels: NDArray[np.int64]  # (N,)
    groups: NDArray[np.int64]  # (N,), the visual group of each slice

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Answers:
        """The answers at these places, or where the mask is true."""
        return Answers(self.logits[index], self.labels[index], self.groups[index])


@dataclass(frozen=True)
class Estimate:
    """A number and how sure it is."""

    value: float
    low: float  # 95 % interval over groups
    high: float
    se: float  # standard deviation of the draws


@dataclass(frozen=True)
class Evaluation:
    """All that is reported of some answers."""

    n: int
    groups: int
    measures: dict[str, Estimate]  # those that are defined for the classes that occur
    confusion: tuple[tuple[int, ...], ...]  # [true class][predicted class]
    reliability: list[tuple[int, float, float]]  # ten bins: slices, mean top probability, share right
    risk_coverage: list[tuple[float, float]]  # share of slices kept, share of those that are wrong

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


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
    if not len(defined):
        return Estimate(value, float("nan"), float("nan"), float("nan"))
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(value, float(low), float(high), float(defined.std()))


def evaluate(answers: Answers, keys: Sequence[str], draws: int, title: str = "bootstrap") -> Evaluation:
    """Every measure that is defined, with its interval over groups; a progress bar meanwhile."""
    now = measures(answers.logits, answers.labels, keys)
    named = {name: value for name, value in now.items() if not np.isnan(value)}
    drawn: dict[str, list[float]] = {name: [] for name in named}
    for (index,) in tqdm(resample([answers.groups], draws), title, draws, unit="draw", leave=False):
        again = measures(answers.logits[index], answers.labels[index], keys)
        for name, values in drawn.items():
            values.append(again[name])
    found = {name: _widen(name, estimate(named[name], drawn[name]), answers, keys) for name in named}
    probabilities = softmax(answers.logits)
    return Evaluation(
        n=len(answers.labels),
        groups=len(np.unique(answers.groups)),
        measures=found,
        confusion=score(answers.logits, answers.labels).confusion,
        reliability=reliability(probabilities, answers.labels),
        risk_coverage=_thin(risk_coverage(probabilities, answers.labels)),
    )


def average(repeats: Sequence[Evaluation]) -> Evaluation:
    """The mean of every measure over independent repeats on the same slices, intervals from how far these differ.

    Student's t: the repeats are few. The confusion is that of all together; the rest is the first one's.
    """
    first, n = repeats[0], len(repeats)
    means = {}
    for name in first.measures:
        values = [repeat.measures[name].value for repeat in repeats if name in repeat.measures]
        if len(values) == n:
            mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(n))
            half = float(t.ppf(0.975, n - 1)) * error
            means[name] = Estimate(mean, mean - half, mean + half, error)
    confusion = np.sum([repeat.confusion for repeat in repeats], axis=0).tolist()
    return replace(first, measures=means, confusion=tuple(tuple(row) for row in confusion))


def _widen(name: str, found: Estimate, answers: Answers, keys: Sequence[str]) -> Estimate:
    """A share of 0 or 1 in all draws has no spread to show; then Wilson's interval over as many trials as groups."""
    kind, _, key = name.partition(".")
    if found.low != found.high or kind not in ("accuracy", "balanced_accuracy", "sensitivity", "specificity"):
        return found
    of_class = answers.labels == keys.index(key) if key else np.ones(len(answers.labels), bool)
    counted = ~of_class if kind == "specificity" else of_class
    trials = len(np.unique(answers.groups[counted]))
    low, high = wilson_interval(round(found.value * trials), trials)
    return Estimate(found.value, low, high, found.se)


def _thin(risk: NDArray[np.float64]) -> list[tuple[float, float]]:
    n = len(risk)
    kept = sorted({max(1, round(n * part / COVERAGES)) for part in range(1, COVERAGES + 1)})
    return [(k / n, float(risk[k - 1])) for k in kept]


def difference(
    first: Answers, second: Answers, keys: Sequence[str], names: Sequence[str], draws: int
) -> dict[str, Estimate]:
    """First minus second for the named measures, groups drawn for both at once."""
    before, after = (measures(a.logits, a.labels, keys) for a in (first, second))
    drawn: dict[str, list[float]] = {name: [] for name in names}
    for one, other in tqdm(resample([first.groups, second.groups], draws), "difference", draws, leave=False):
        a = measures(first.logits[one], first.labels[one], keys)
        b = measures(second.logits[other], second.labels[other], keys)
        for name in names:
            drawn[name].append(a[name] - b[name])
    return {name: estimate(before[name] - after[name], drawn[name]) for name in names}
