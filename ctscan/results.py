"""Ledger and card -> what is known of one model: the newest entry of each kind that is about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ctscan.card import Card
from ctscan.ledger import Ledger, Section

Entry = dict[str, Any]
FOLDS = 5
HEADLINE_THRESHOLD = 0.90  # of the visual groups whose number is reported first
VIEW = ("crop", "tone", "surround", "size")  # what a control must share with the model to say something about it


@dataclass(frozen=True)
class Results:
    """Entries of metrics.json; None and empty where there are none yet."""

    reading: Entry | None = None  # the training's own scores of the published splits
    published: Entry | None = None
    deduplicated: Entry | None = None
    grouped: Entry | None = None
    controls: tuple[Entry, ...] = ()
    audit: Entry | None = None
    gate: Entry | None = None


def results_of(ledger: Ledger, card: Card) -> Results:
    """What the ledger says of the model of a card."""

    def newest(section: Section, fits: Callable[[Entry], bool]) -> Entry | None:
        return next((entry for entry in reversed(ledger[section]) if fits(entry)), None)

    def of_model(split: str) -> Entry | None:
        return newest("evaluations", lambda e: e["model_id"] == card.model_id and e["split"] == split)

    def headline(entry: Entry) -> bool:
        return bool(entry["threshold"] == HEADLINE_THRESHOLD)

    controls: dict[str, Entry] = {}
    for entry in ledger["controls"]:
        if headline(entry) and all(entry["settings"].get(key) == card.training.get(key) for key in VIEW):
            controls[entry["control"]] = entry
    return Results(
        reading=newest("readings", lambda e: bool(e["model_id"] == card.model_id)),
        published=of_model("published"),
        deduplicated=of_model("deduplicated"),
        grouped=newest(
            "grouped", lambda e: headline(e) and e["settings"] == card.training and len(e["folds"]) == FOLDS
        ),
        controls=tuple(controls.values()),
        audit=newest("audits", lambda e: True),
        gate=newest("gates", lambda e: bool(e["model_id"] == card.model_id)),
    )
