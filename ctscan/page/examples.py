"""A folder of example slices -> what the page shows of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ctscan.classes import CLASS_KEYS, class_of_folder
from ctscan.errors import DataError, UnreadableSlice
from ctscan.io.images import Slice, read_slice
from ctscan.notices import LANGUAGES, catalogue

LISTING = "examples.json"
NOT_PICTURES = {".json", ".md", ".txt"}
TRUTHS = ("mass", "nodule", "no_mass", *CLASS_KEYS)
MOST = 24  # thumbnails; a folder may hold more, the page would not

logger = logging.getLogger(__name__)


class Words(BaseModel):
    """What an example is called, and what it shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    description: str


class Entry(Words):
    """One entry of examples.json.

    Attributes:
        translated: The same words in other languages.
        truth: What is known of the slice: the key of a class, or what it shows; empty where nothing is known.
        outline: What is outlined, as closed lines of (x, y) in pixels of the slice.
    """

    file: str
    source: str
    translated: dict[str, Words] = {}
    truth: str = Field("", pattern=f"^({'|'.join(TRUTHS)}|)$")
    outline: tuple[tuple[tuple[float, float], ...], ...] = ()

    def words(self, language: str) -> Words:
        """Its own where it has none in this language."""
        return self.translated.get(language, self)


@dataclass(frozen=True)
class Example:
    """One example slice, and what to call it."""

    entry: Entry
    slice: Slice


def unnamed(number: int, count: int, language: str) -> Words:
    """What one of several is called where nobody has named it."""
    texts = catalogue(language)["page"]["unnamed"]
    return Words(**{part: text.format(number=number, count=count) for part, text in texts.items()})


def read_examples(folder: Path) -> tuple[Example, ...]:
    """The readable pictures of a folder, in the order of its examples.json or of their names, `MOST` at most.

    Without a listing they are named by number: a file's name may be a patient's; where it has folders named by
    classes, these are the truth about the slices in them. Files that are no readable slices are
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
            folders = [(class_of_folder(p.name), p) for p in sorted(folder.iterdir()) if p.is_dir()]
            files = [
                (truth, path)
                for truth, place in [("", folder), *((truth, place) for truth, place in folders if truth)]
                for path in sorted(place.iterdir())
                if path.is_file() and not path.name.startswith(".") and path.suffix.lower() not in NOT_PICTURES
            ]
            entries = [
                Entry(
                    file=str(path.relative_to(folder)),
                    **unnamed(number, len(files), "en").model_dump(),
                    translated={language: unnamed(number, len(files), language) for language in LANGUAGES},
                    source="",
                    truth=truth,
                )
                for number, (truth, path) in enumerate(files, 1)
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
