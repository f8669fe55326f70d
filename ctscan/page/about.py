"""Card -> the tabs that explain: how to read a map, what the classes are, what the model is and is worth."""

from __future__ import annotations

from html import escape
from typing import Any

from ctscan.classes import CLASSES
from ctscan.model.card import Card
from ctscan.page import words

CELL = 32  # px of the model's square, side of a cell of its last layer
SPLIT_NAMES = {
    "train": "train (the slices it learned from)",
    "valid": "valid (chose the best epoch)",
    "test": "test, as published",
    "test_unseen": "test slices whose pixels are in neither",
}


def how_to_read(card: Card) -> str:
    """The tab on reading maps and scores, as this model makes them."""
    facts = facts_of(card)
    parts = "".join(
        f"<h3>{escape(title)}</h3><p>{escape(text.format_map(facts))}</p>" for title, text in words.HOW_TO_READ
    )
    return f'<article class="prose">{parts}</article>'


def facts_of(card: Card) -> dict[str, object]:
    """What the sentences of `words.HOW_TO_READ` leave open."""
    preprocess, known = card.preprocess, card.calibration
    return {
        "size": preprocess.size,
        "cells": preprocess.size // CELL,
        "crop": words.CROPS[preprocess.crop],
        "surround": words.SURROUNDS[preprocess.surround],
        "tone": words.TONES[preprocess.tone],
        "calibration": words.CALIBRATED.format(miss=100 * known.alpha) if known else words.NOT_CALIBRATED,
    }


def about(card: Card) -> str:
    """The tab on classes, model and privacy."""
    classes = "".join(f"<dt>{escape(c.title)}</dt><dd>{escape(words.CLASS_LONG[c.key])}</dd>" for c in CLASSES)
    return (
        f'<article class="prose"><h3>The four classes</h3><dl>{classes}</dl><p>{escape(words.HISTOLOGY)}</p>'
        f"<h3>The model</h3><p>{escape(model(card))}</p>{scores(card.metrics)}<p>{escape(words.LEAK)}</p>"
        f"<h3>Intended use</h3><p>{escape(card.intended_use)}</p>"
        f"<h3>What happens to your slice</h3><p>{escape(words.KEPT_NOTHING)}</p></article>"
    )


def model(card: Card) -> str:
    """What the model is, from its card."""
    slices = card.data.get("slices", {})
    counts = ", ".join(f"{slices[name]} {name}" for name in SPLIT_NAMES if name in slices)
    return (
        f"{card.model_id}: a ResNet18 that started from ImageNet weights, with all layers fine-tuned on the public "
        f"Kaggle set “Chest CT-Scan images” ({counts}). At each start its weights are checked against their SHA-256, "
        "and its answer to a synthetic slice against the one it gave when it was made."
    )


def scores(metrics: dict[str, Any]) -> str:
    """Accuracy by split, with n and interval."""
    lines = "".join(
        f'<tr><th scope="row">{escape(title)}</th><td>{metrics[name]["n"]}</td>'
        f"<td>{100 * metrics[name]['accuracy']:.1f} %</td>"
        f"<td>{100 * metrics[name]['interval95'][0]:.1f} to {100 * metrics[name]['interval95'][1]:.1f} %</td></tr>"
        for name, title in SPLIT_NAMES.items()
        if name in metrics
    )
    head = "<tr><th>slices</th><th>n</th><th>right</th><th>95 % interval (Wilson, slices as independent)</th></tr>"
    return f'<div class="scroll"><table class="figures"><thead>{head}</thead><tbody>{lines}</tbody></table></div>'
