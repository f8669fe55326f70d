"""metrics.json: every reading, evaluation, cross-validation and control that was ever made, appended only.

    readings            train.py: the published splits, once a training
    cross_validations   of the first recipe, inside train + valid, neighbours of a scan in different folds; closed
    audits              what the data holds twice, and what crosses its splits
    evaluations         evaluate.py --data: a checkpoint on the published and the deduplicated test split
    grouped             evaluate.py --cross-validate: a recipe, out of fold, no visual group in two folds
    controls            evaluate.py --control: trainings that must fail, on the same folds
    gates               python -m ctscan gate: what a gate refuses and what it lets pass, none of which it had seen
    calibrations        evaluate.py --calibrate: temperature, conformal sets, and what they were worth out of fold
    searches            train.py --trials: every trial of a search for a recipe, failed and pruned ones too
    explanations        evaluate.py --explain: tests of the maps
    volumes             evaluate.py --explain --volumes: scans of whole chests, outlined slices against the others

All numbers in README, cards and page come from here or from a checkpoint's card.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

Section = Literal[
    "readings", "cross_validations", "audits", "evaluations", "grouped", "controls", "calibrations", "searches",
    "explanations", "gates", "volumes",
]  # fmt: skip
SECTIONS: tuple[Section, ...] = get_args(Section)
Ledger: TypeAlias = dict[Section, list[dict[str, Any]]]


class LedgerError(ValueError):
    """A file that is no ledger; the text is one sentence."""


def read_ledger(path: Path) -> Ledger:
    """The ledger at `path`, or an empty one. Raises LedgerError."""
    if not path.exists():
        return {section: [] for section in SECTIONS}
    try:
        ledger = json.loads(path.read_text(encoding="utf-8"))
        if not set(ledger) <= set(SECTIONS):
            raise KeyError
        return {section: list(ledger.get(section, [])) for section in SECTIONS}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise LedgerError(f"{path} is no ledger of readings; move it away or give another --ledger.") from None


def append(path: Path, section: Section, entry: dict[str, Any]) -> None:
    """Add an entry to a section; what stands there is never changed. The same result on another day is no news."""
    ledger = read_ledger(path)
    entry = json.loads(json.dumps(entry))  # tuples become the lists that they are read as
    if any(old | {"date": None} == entry | {"date": None} for old in ledger[section]):
        return
    ledger[section].append(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(ledger, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
