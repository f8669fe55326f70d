"""A folder of example slices -> what the page shows of them."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ctscan.errors import DataError, UnreadableSlice
from ctscan.io.images import read_slice

LISTING = "examples.json"
NOT_PICTURES = {".json", ".md", ".txt"}
MOST = 24  # thumbnails; a folder may hold more, the page would not

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """One example: the bytes as a visitor would upload them, and what to call them."""

    data: bytes
    title: str
    description: str
    source: str = ""


def read_examples(folder: Path) -> tuple[Example, ...]:
    """The readable pictures of a folder, in the order of its examples.json or of their names, `MOST` at most.

    Files that are no readable slices are skipped with a log line. Raises DataError where the folder or its
    listing cannot be read.
    """
    try:
        found = (read_example(folder, entry) for entry in read_listing(folder))  # one by one: a folder may be large
        return tuple(islice(filter(is_readable, found), MOST))
    except OSError as error:
        raise DataError(f"The examples in {folder} cannot be read ({error.strerror}).") from None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{folder / LISTING} is not a list of file, title, description and source.") from None


def read_example(folder: Path, entry: dict[str, str]) -> Example:
    """One entry of the listing. Raises OSError, KeyError, and TypeError where a text is none."""
    texts = [entry[name] for name in ("file", "title", "description", "source")]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError
    return Example((folder / texts[0]).read_bytes(), *texts[1:])


def read_listing(folder: Path) -> list[dict[str, str]]:
    """The entries of examples.json, or one for each file that may be a picture."""
    listing = folder / LISTING
    if listing.exists():
        entries: list[dict[str, str]] = json.loads(listing.read_text(encoding="utf-8"))
        return entries
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    names = [p.name for p in files if p.suffix.lower() not in NOT_PICTURES]
    return [
        {
            "file": name,
            "title": f"Example {number}",
            "description": f"Example {number} of {len(names)}.",
            "source": "",
        }
        for number, name in enumerate(names, 1)
    ]


def is_readable(example: Example) -> bool:
    """Whether the reader takes it; if not, say so in the log."""
    try:
        read_slice(example.data)
    except UnreadableSlice as error:
        logger.warning("%s is left out: %s", example.title, error)
        return False
    return True
