"""What is to be said to a person, as a code with its values; the words stand in `locales/<language>.json`."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

LOCALES = Path(__file__).parent / "locales"
LANGUAGES = ("en", "es", "fr", "de")  # that have a catalogue; all of them hold the same keys

Value = str | int | float


@cache
def catalogue(language: str = "en") -> dict[str, Any]:
    """The texts of a language by section: its own `name`, `numbers`, `notices`, `classes`, `page`."""
    texts: dict[str, Any] = json.loads((LOCALES / f"{language}.json").read_text(encoding="utf-8"))
    return texts


class _Formatter(string.Formatter):
    """Writes numbers as the language does; a share with its own sign."""

    def __init__(self, language: str) -> None:
        self.numbers = catalogue(language)["numbers"]

    def format_field(self, value: Any, format_spec: str) -> str:
        """One number or name of a sentence."""
        text = format(value, format_spec)
        if isinstance(value, str):
            return text
        return text.replace(".", self.numbers["point"]).replace("%", self.numbers["percent"])


@dataclass(frozen=True)
class Notice:
    """One sentence about a file or an answer.

    Attributes:
        code: Key in the catalogue's section `notices`, stable for programs.
        values: What the sentence names: sizes in pixels, shares in [0, 1].
    """

    code: str
    values: Mapping[str, Value] = field(default_factory=dict, hash=False)

    def text(self, language: str = "en") -> str:
        """The sentence in a language of `locales/`."""
        return _Formatter(language).format(catalogue(language)["notices"][self.code], **self.values)

    def __str__(self) -> str:
        return self.text()
