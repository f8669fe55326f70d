"""What is to be said to a person, as a code with its values; the words stand in `locales/<language>.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

LOCALES = Path(__file__).parent / "locales"

Value = str | int | float


@cache
def catalogue(language: str = "en") -> dict[str, Any]:
    """The texts of a language by section: `notices`, `classes`, `page`."""
    texts: dict[str, Any] = json.loads((LOCALES / f"{language}.json").read_text(encoding="utf-8"))
    return texts


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
        sentence: str = catalogue(language)["notices"][self.code]
        return sentence.format(**self.values)

    def __str__(self) -> str:
        return self.text()
