"""Ledger and card -> what is known of one model: the newest entry of each kind that is about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ctscan.model.card import Card
from ctscan.results.entries import Ledger, Section

Entry = dict[str, Any]
FOLDS = 5
HEADLINE_THRESHOLD = 0.90  # of the visual groups whose number is reported first
STRICT_THRESHOLD = 0.85
# What `Recipe(crop="none", tone="none")` says of itself; the module with the recipes would bring torch to the page.
PLAIN: dict[str, Any] = {
    "recipe": "ctscan", "precision": "auto", "seed": 0, "epochs": 24, "batch": 32, "optimiser": "adamw",
    "schedule": "one_cycle", "rate": 3e-4, "weight_decay": 0.05, "label_smoothing": 0.1, "ema": 0.0,
    "augmentation": "full", "size": 224, "crop": "none", "tone": "none", "head": "linear", "dropout": 0.2,
    "normalise": True,
}  # fmt: skip
SCALE = ("size", "epochs")  # said beside: a recipe tried small is the same recipe
VIEW = ("crop", "tone", "surround")  # what a control must share with a recipe to say something about it


@dataclass(frozen=True)
class Try:
    """A grouped cross-validation of some recipe, and by name the controls that were shown the same view."""

    entry: Entry
    controls: Mapping[str, Entry] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """Entries of metrics.json; None and empty where there are none yet."""

    reading: Entry | None = None  # the training's own scores of the published splits
    published: Entry | None = None
    deduplicated: Entry | None = None
    plain: Entry | None = None  # the published split as the plain recipe's newest model answers it
    grouped: Entry | None = None
    stricter: Entry | None = None  # the same recipe where visual groups are linked at `STRICT_THRESHOLD`
    controls: tuple[Entry, ...] = ()
    audit: Entry | None = None
    gate: Entry | None = None
    calibration: Entry | None = None
    explanation: Entry | None = None
    volumes: Entry | None = None
    search: Entry | None = None  # the newest of all, whatever recipe came of it
    tried: tuple[Try, ...] = ()  # every grouped cross-validation, whatever its recipe, oldest first

    def tries_of(self, settings: Mapping[str, Any]) -> list[Try]:
        """The cross-validations of a recipe whose groups are linked as those of the headline are, oldest first."""
        headline = [one for one in self.tried if one.entry["threshold"] == HEADLINE_THRESHOLD]
        return [one for one in headline if one.entry["settings"] == settings]


def is_plain(settings: Mapping[str, Any]) -> bool:
    """Whether a recipe is the plain one, of any size and length."""
    return {**settings, **{key: PLAIN[key] for key in SCALE}} == PLAIN


def results_of(ledger: Ledger, card: Card) -> Results:
    """What the ledger says of the model of a card."""

    def newest(section: Section, fits: Callable[[Entry], bool]) -> Entry | None:
        return next((entry for entry in reversed(ledger[section]) if fits(entry)), None)

    def of_model(entry: Entry) -> bool:
        return bool(entry["model_id"] == card.model_id)

    def of_split(split: str) -> Entry | None:
        return newest("evaluations", lambda e: of_model(e) and e["split"] == split)

    def of_recipe(entry: Entry, threshold: float = HEADLINE_THRESHOLD) -> bool:
        return bool(entry["settings"] == card.training and entry["threshold"] == threshold)

    plain = {reading["model_id"] for reading in ledger["readings"] if is_plain(reading["settings"])}

    return Results(
        reading=newest("readings", of_model),
        published=of_split("published"),
        deduplicated=of_split("deduplicated"),
        plain=newest("evaluations", lambda e: e["model_id"] in plain and e["split"] == "published"),
        # Compared with this model's own answers, so another model of the same recipe does not do.
        grouped=newest(
            "grouped", lambda e: of_recipe(e) and len(e["folds"]) == FOLDS and e.get("model_id") == card.model_id
        ),
        controls=tuple(controls_of(ledger["controls"], card.training).values()),
        audit=newest("audits", lambda e: True),
        gate=newest("gates", of_model),
        stricter=newest("grouped", lambda e: of_recipe(e, STRICT_THRESHOLD) and len(e["folds"]) == FOLDS),
        calibration=newest("calibrations", lambda e: of_recipe(e) and e["folds"] == FOLDS),
        explanation=newest("explanations", of_model),
        volumes=newest("volumes", of_model),
        search=newest("searches", lambda e: True),
        tried=tuple(Try(e, controls_of(ledger["controls"], e["settings"])) for e in ledger["grouped"]),
    )


def controls_of(controls: Sequence[Entry], settings: Mapping[str, Any]) -> dict[str, Entry]:
    """Of each control the newest entry with a recipe's view, first of all of one with its size too."""
    of_view = [
        entry
        for entry in controls
        if entry["threshold"] == HEADLINE_THRESHOLD
        and all(entry["settings"].get(key) == settings.get(key) for key in VIEW)
    ]
    of_size = [entry for entry in of_view if entry["settings"]["size"] == settings.get("size")]
    return {entry["control"]: entry for entry in (*of_view, *of_size)}
