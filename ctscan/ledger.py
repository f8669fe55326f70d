"""metrics.json: every reading of the test split and every cross-validation that was ever made, appended only.

All numbers in README, cards and page come from here or from a checkpoint's card.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

Section = Literal["readings", "cross_validations"]


def read_ledger(path: Path) -> dict[Section, list[dict[str, Any]]]:
    """The ledger at `path`, or an empty one."""
    if not path.exists():
        return {"readings": [], "cross_validations": []}
    ledger: dict[Section, list[dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))
    return ledger


def append(path: Path, section: Section, entry: dict[str, Any]) -> None:
    """Add an entry to a section. What stands there is never changed."""
    ledger = read_ledger(path)
    ledger[section].append(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(ledger, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
