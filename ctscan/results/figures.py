"""Scores and estimates -> the figures of a sentence or a cell: no more digits than the data carries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

UNDEFINED = "not defined"


def percent(share: float) -> str:
    """`97.3 %`."""
    return f"{100 * share:.1f} %"


def interval(score: dict[str, Any]) -> str:
    """`94.5 to 98.7 %`, of a Score."""
    low, high = score["interval95"]
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def rounded(value: float, digits: int) -> str:
    """`-4`, and `0` where rounding leaves nothing of a minus."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def by_fold(folds: Iterable[Mapping[str, float]]) -> str:
    """`67, 80, 89`: balanced accuracy of each fold, %."""
    return ", ".join(f"{100 * fold['balanced_accuracy']:.0f}" for fold in folds)


def share(estimate: dict[str, float] | None) -> str:
    """`81 % (74 to 87)`, of an Estimate; None is a measure that does not exist, as where a class has no slice."""
    if estimate is None:
        return UNDEFINED
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:.0f} % ({low:.0f} to {high:.0f})"


def points(estimate: dict[str, float]) -> str:
    """`15 points (9 to 22)`, of a difference of shares."""
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    unit = "point" if round(abs(value)) == 1 else "points"
    return f"{rounded(value, 0)} {unit} ({rounded(low, 0)} to {rounded(high, 0)})"


def decimal(estimate: dict[str, float] | None) -> str:
    """`0.81 (0.74 to 0.87)`, of an Estimate or None."""
    if estimate is None:
        return UNDEFINED
    value, low, high = (rounded(estimate[key], 2) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
