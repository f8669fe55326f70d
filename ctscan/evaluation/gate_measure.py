"""Signals of what a gate had not seen -> thresholds, verdicts, and tables of how often it is right.

Shares come with Clopper and Pearson's 95 % interval (Biometrika 1934), which takes the pictures as independent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from ctscan.evaluation.gate_fit import DATA_SET, ELSEWHERE, Subject
from ctscan.inference.gate import WHAT_IT_IS, Judgement, Signals, Thresholds, decide

# At most, of upright chests that had not been seen, to catch as much as that allows; goals are 5 and 10 %.
REFUSED_OF_DATA, REFUSED_ELSEWHERE = 0.02, 0.05
UNUSUAL_OF_DATA, UNUSUAL_ELSEWHERE = 0.02, 0.10  # the same for doubt about what a picture shows
FAR_OF_DATA = 0.01  # of the data's slices are called far by either distance between features, or said to have few greys
OTHER_OF_DATA = 0.05  # of them are called to be of another window: the price of seeing those that are
ALARM, ALARMED_OF_DATA = 0.20, 0.05  # share of evidence outside the body that alarms; at most so many of the data's


@dataclass(frozen=True)
class Judged:
    """A picture and what the gate said of it."""

    subject: Subject
    judgement: Judgement

    @property
    def is_named(self) -> bool:
        """Whether the first reason says what the picture really shows; a broken rule says it too."""
        reasons = self.judgement.reasons
        return bool(reasons) and reasons[0] in (self.subject.fault, WHAT_IT_IS.get(self.subject.kind))


def choose(signals: Sequence[Signals], subjects: Sequence[Subject], outside: NDArray[np.float64]) -> Thresholds:
    """Thresholds from upright chests that neither network nor gate had seen.

    `outside` are the shares of evidence outside the body on the data set's slices.
    """
    pairs = list(zip(signals, subjects, strict=True))
    data = [g for g, s in pairs if s.group == DATA_SET]
    chest = np.array([g.chest for g in data])
    elsewhere = np.array([g.chest for g, s in pairs if s.group == ELSEWHERE])

    def below(of_data: float, of_elsewhere: float) -> float:
        return float(min(np.quantile(chest, of_data), np.quantile(elsewhere, of_elsewhere)))

    def above(values: Sequence[float], of_data: float = FAR_OF_DATA) -> float:
        return float(np.quantile(values, 1 - of_data))

    refused = below(REFUSED_OF_DATA, REFUSED_ELSEWHERE)
    return Thresholds(
        refused=refused,
        unusual=max(refused, below(UNUSUAL_OF_DATA, UNUSUAL_ELSEWHERE)),
        far=above([g.distance for g in data]),
        strange=above([g.strangeness for g in data]),
        tone=above([g.tone for g in data], OTHER_OF_DATA),
        greys=float(np.quantile([g.greys for g in data], FAR_OF_DATA)),
        outside=max(ALARM, float(np.quantile(outside, 1 - ALARMED_OF_DATA, method="higher"))),
    )


def judge(signals: Sequence[Signals], subjects: Sequence[Subject], at: Thresholds) -> list[Judged]:
    """The verdicts, rules first, as the gate gives them."""
    return [
        Judged(s, Judgement("refused", (s.fault,)) if s.fault else decide(g, at))
        for g, s in zip(signals, subjects, strict=True)
    ]


def tabulate(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """One row for each group of pictures, and one for each kind over all of them, for the ledger."""
    rows = []
    for kind in dict.fromkeys(j.subject.kind for j in judged):
        of_kind = [j for j in judged if j.subject.kind == kind]
        groups = list(dict.fromkeys(j.subject.group for j in of_kind))
        rows += [row(kind, group, [j for j in of_kind if j.subject.group == group]) for group in groups]
        rows.append(row(kind, "", of_kind))
    return rows


def row(kind: str, group: str, judged: Sequence[Judged]) -> dict[str, Any]:
    """Counts by verdict, and two shares with their intervals: refused, and not `ok`."""
    n, verdicts = len(judged), Counter(j.judgement.verdict for j in judged)
    refused, unusual = verdicts["refused"], verdicts["unusual"]
    return {
        "kind": kind, "group": group, "n": n, "sources": len({j.subject.source for j in judged}),
        "refused": refused, "unusual": unusual, "ok": verdicts["ok"], "named": sum(j.is_named for j in judged),
        "refused95": exact_interval(refused, n), "not_ok95": exact_interval(refused + unusual, n),
    }  # fmt: skip


def exact_interval(k: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of k of n.

    >>> [round(end, 3) for end in exact_interval(99, 100)]
    [0.946, 1.0]
    """
    low = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
    return low, float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0


def reasons(judged: Sequence[Judged]) -> dict[str, int]:
    """How often each reason is given."""
    return dict(Counter(reason for j in judged for reason in j.judgement.reasons).most_common())


def facts(subjects: Sequence[Subject]) -> dict[str, Any]:
    """What a gate was fitted to, for its card."""
    pictures = [s for s in subjects if not s.group.startswith(DATA_SET)]
    return {
        "slices": sum(s.group == DATA_SET for s in subjects),
        "pictures": len(pictures),
        "sources": len({s.source for s in pictures}),
    }
