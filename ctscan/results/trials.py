"""A search and its trials, as the ledger keeps them -> a sentence and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ctscan.results.figures import by_fold
from ctscan.results.markdown import table

IMPORTANCE_HEAD = ("setting", "share of the differences it explains")


def summary(search: Mapping[str, Any]) -> str:
    """How many recipes were tried, how it went, and the best."""
    states = Counter(trial["state"] for trial in search["trials"])
    ended = ", ".join(f"{n} {'failed' if state == 'fail' else state}" for state, n in states.items())
    losses = [trial["loss"] for trial in search["trials"] if trial["loss"] is not None]
    best = f", lowest cross-entropy {min(losses):.3f}, mean over classes" if losses else ""
    return (
        f"Optuna tried {len(search['trials'])} recipes on {len(search['folds'])} grouped folds: {ended}{best}. These "
        "folds are among the five that a recipe chosen so is judged by afterwards, which flatters it a little."
    )


def importance_rows(search: Mapping[str, Any]) -> list[list[object]]:
    """How much each setting counts for, by fANOVA, a rough guess from few trials; none where there were too few."""
    return [[name.replace("_", " "), f"{100 * value:.0f} %"] for name, value in search["importance"].items()]


def trial_table(trials: Sequence[dict[str, Any]]) -> str:
    """Trials as Markdown, the best first, those without a result last."""
    names = list(dict.fromkeys(name for trial in trials for name in trial["settings"]))
    ordered = sorted(trials, key=lambda trial: (trial["loss"] is None, trial["loss"] or 0, trial["number"]))
    rows = [
        [trial["number"], trial["state"], "" if trial["loss"] is None else f"{trial['loss']:.3f}"]
        + [by_fold(trial["folds"])]
        + [_short(trial["settings"].get(name, "")) for name in names]
        for trial in ordered
    ]
    return table(["trial", "state", "loss", "balanced accuracy by fold, %", *names], rows)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
