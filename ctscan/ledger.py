"""metrics.json: every reading of the test split and every cross-validation that was ever made, appended only.

All numbers in README, cards and page come from here or from a checkpoint's card.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

Section = Literal["readings", "cross_validations"]


class LedgerError(ValueError):
    """A file that is no ledger; the text is one sentence."""


def read_ledger(path: Path) -> dict[Section, list[dict[str, Any]]]:
    """The ledger at `path`, or an empty one. Raises LedgerError."""
    if not path.exists():
        return {"readings": [], "cross_validations": []}
    try:
        ledger = json.loads(path.read_text(encoding="utf-8"))
        return {"readings": list(ledger["readings"]), "cross_validations": list(ledger["cross_validations"])}
    except (ValueError, KeyError, TypeError):
        raise LedgerError(f"{path} is no ledger of readings; move it away or give another --ledger.") from None


def append(path: Path, section: Section, entry: dict[str, Any]) -> None:
    """Add an entry to a section. What stands there is never changed."""
    ledger = read_ledger(path)
    ledger[section].append(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(ledger, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
