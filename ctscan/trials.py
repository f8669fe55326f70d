"""The trials of a search, as the ledger keeps them -> a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ctscan.markdown import table


def trial_table(trials: Sequence[dict[str, Any]]) -> str:
    """Trials as Markdown, the best first, those without a result last."""
    names = list(dict.fromkeys(name for trial in trials for name in trial["settings"]))
    ordered = sorted(trials, key=lambda trial: (trial["loss"] is None, trial["loss"] or 0, trial["number"]))
    rows = [
        [trial["number"], trial["state"], "" if trial["loss"] is None else f"{trial['loss']:.3f}"]
        + [", ".join(f"{100 * fold['balanced_accuracy']:.0f}" for fold in trial["folds"])]
        + [_short(trial["settings"].get(name, "")) for name in names]
        for trial in ordered
    ]
    return table(["trial", "state", "loss", "balanced accuracy by fold, %", *names], rows)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
