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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from ctscan.errors import DataError

Section = Literal[
    "readings", "cross_validations", "audits", "evaluations", "grouped", "controls", "calibrations", "searches",
    "explanations", "gates", "volumes",
]  # fmt: skip
SECTIONS: tuple[Section, ...] = get_args(Section)
Ledger: TypeAlias = dict[Section, list[dict[str, Any]]]


def read_ledger(path: Path) -> Ledger:
    """The ledger at `path`, or an empty one. Raises DataError."""
    try:
        ledger = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        ledger = {}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise not_ours(path) from None
    if not isinstance(ledger, dict) or not set(ledger) <= set(SECTIONS) or not all(map(is_section, ledger.values())):
        raise not_ours(path)
    return {section: ledger.get(section, []) for section in SECTIONS}


def is_section(entries: object) -> bool:
    """Whether this is a list of entries, whatever they say."""
    return isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)


def not_ours(path: Path) -> DataError:
    """What to raise for a file that ctscan has not written."""
    return DataError(f"{path} is no ledger of readings; move it away.")


@contextmanager
def using(path: Path) -> Iterator[None]:
    """A block that looks entries of `path` up. Raises DataError where they lack what ctscan's own have."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError):
        raise not_ours(path) from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A block that no other process runs for this file at the same time; others wait."""
    from filelock import FileLock  # comes with torch; whoever only reads needs neither

    lock = path.with_name(f".{path.name}.lock")
    with FileLock(lock):
        try:
            yield
        finally:
            with suppress(OSError):  # FileLock notes that the file which it waited for is gone, and makes another
                lock.unlink()


def append(path: Path, section: Section, entry: dict[str, Any]) -> None:
    """Add an entry to a section; what stands there is never changed. The same result on another day is no news.

    Raises DataError, and OSError where the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = json.loads(json.dumps(entry))  # tuples become the lists that they are read as
    with locked(path):
        ledger = read_ledger(path)
        if any(old | {"date": None} == entry | {"date": None} for old in ledger[section]):
            return
        ledger[section].append(entry)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(ledger, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
