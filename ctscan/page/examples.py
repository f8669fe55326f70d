"""A folder of example slices -> what the page shows of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from ctscan.errors import DataError, UnreadableSlice
from ctscan.io.images import read_slice

LISTING = "examples.json"
NOT_PICTURES = {".json", ".md", ".txt"}
MOST = 24  # thumbnails; a folder may hold more, the page would not

logger = logging.getLogger(__name__)


class Entry(BaseModel):
    """One entry of examples.json."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    file: str
    title: str
    description: str
    source: str


@dataclass(frozen=True)
class Example:
    """One example: the bytes as a visitor would upload them, and what to call them."""

    data: bytes
    title: str
    description: str
    source: str = ""


def read_examples(folder: Path) -> tuple[Example, ...]:
    """The readable pictures of a folder, in the order of its examples.json or of their names, `MOST` at most.

    Files that are no readable slices are skipped with a log line.

    Raises:
        DataError: The folder or its listing cannot be read.
    """
    try:
        listing = folder / LISTING
        if listing.exists():
            entries = TypeAdapter(list[Entry]).validate_json(listing.read_bytes())
        else:
            entries = name_pictures(folder)
        read = (
            Example((folder / entry.file).read_bytes(), entry.title, entry.description, entry.source)
            for entry in entries  # one by one: a folder may be large
        )
        return tuple(islice(filter(is_readable, read), MOST))
    except OSError as error:
        raise DataError(f"The examples in {folder} cannot be read ({error.strerror}).") from None
    except ValidationError:
        raise DataError(f"{folder / LISTING} is not a list of file, title, description and source.") from None


def name_pictures(folder: Path) -> list[Entry]:
    """An entry for each file that may be a picture, by number: a file's name may be a patient's."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    names = [p.name for p in files if p.suffix.lower() not in NOT_PICTURES]
    return [
        Entry(file=name, title=f"Example {number}", description=f"Example {number} of {len(names)}.", source="")
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
