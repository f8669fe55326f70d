"""Scores and estimates -> the figures of a sentence or a cell: no more digits than the data carries."""

from __future__ import annotations

from typing import Any


def percent(share: float) -> str:
    """`97.3 %`."""
    return f"{100 * share:.1f} %"


def interval(score: dict[str, Any]) -> str:
    """`94.5 to 98.7 %`, of a Score."""
    low, high = score["interval95"]
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def share(estimate: dict[str, float]) -> str:
    """`81 % (74 to 87)`, of an Estimate."""
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:.0f} % ({low:.0f} to {high:.0f})"


def points(estimate: dict[str, float]) -> str:
    """`15 points (9 to 22)`, of a difference of shares."""
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:.0f} points ({low:.0f} to {high:.0f})"


def decimal(estimate: dict[str, float]) -> str:
    """`0.81 (0.74 to 0.87)`, of an Estimate."""
    return f"{estimate['value']:.2f} ({estimate['low']:.2f} to {estimate['high']:.2f})"
