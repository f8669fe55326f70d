"""A folder of example slices -> what the page shows of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from ctscan.errors import DataError, UnreadableSlice
from ctscan.io.images import Slice, read_slice

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
    """One example slice, and what to call it."""

    entry: Entry
    slice: Slice


def read_examples(folder: Path) -> tuple[Example, ...]:
    """The readable pictures of a folder, in the order of its examples.json or of their names, `MOST` at most.

    Without a listing they are named by number: a file's name may be a patient's. Files that are no readable slices are
    skipped with a log line.

    Raises:
        DataError: The folder or its listing cannot be read.
    """
    listing = folder / LISTING
    examples: list[Example] = []
    try:
        if listing.exists():
            entries = TypeAdapter(list[Entry]).validate_json(listing.read_bytes())
        else:
            files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
            names = [p.name for p in files if p.suffix.lower() not in NOT_PICTURES]
            entries = [
                Entry(file=name, title=f"Example {number}", description=f"Example {number} of {len(names)}.", source="")
                for number, name in enumerate(names, 1)
            ]
        for entry in entries:
            if len(examples) == MOST:
                break
            try:
                examples.append(Example(entry, read_slice((folder / entry.file).read_bytes())))
            except UnreadableSlice as error:
                logger.warning("%s is left out: %s", entry.title, error)
    except OSError as error:
        raise DataError(f"The examples in {folder} cannot be read ({error.strerror}).") from None
    except ValidationError:
        raise DataError(f"{listing} is not a list of file, title, description and source.") from None
    return tuple(examples)
