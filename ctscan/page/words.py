"""The templates of the page in its languages, and what they say of numbers and places."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment

from ctscan.imaging import render
from ctscan.notices import LANGUAGES, catalogue
from ctscan.results.report import html_templates

if TYPE_CHECKING:
    from ctscan.page.views import ClassView

OTHER_SIDE = {
    "right_lung": "left_lung",
    "left_lung": "right_lung",
    "right_side": "left_side",
    "left_side": "right_side",
}


def templates(language: str, shared: Mapping[str, Any]) -> Environment:
    """The templates in a language: its words, and numbers as it writes them.

    Args:
        language: Of a catalogue.
        shared: What they say in every language.
    """
    environment, words = html_templates("ctscan.page", language), catalogue(language)
    environment.globals |= shared
    environment.globals |= {
        "language": language,
        "languages": {code: catalogue(code)["name"] for code in LANGUAGES},
        "t": words["page"],
        "names": words["classes"],
        "reasons": words["notices"],
        "place": partial(place, language),
    }
    return environment


def place(language: str, shown: ClassView, flipped: bool = False) -> str:
    """Where a class's map is brightest, as a sentence; `flipped` where the slice was saved the other way round."""
    words, title = catalogue(language)["page"]["places"], catalogue(language)["classes"][shown.key]["title"]
    where = " ".join(words[OTHER_SIDE.get(name, name) if flipped else name] for name in shown.where)
    sentence: str = words["nowhere" if not where else "strongest" if shown.strength <= 1 else "beyond"]
    return sentence.format(title=title, where=where, strength=f"{round(100 * shown.strength)}\u00a0%")


def sketch(cells: int) -> str:
    """A made-up map of as many cells as a real one has, a pixel each, as a data URL."""
    rows, columns = np.mgrid[:cells, :cells] / cells
    blob = np.exp(-((rows - 0.55) ** 2 + (columns - 0.3) ** 2) / 0.045)
    return render.data_uri(render.layer(blob.astype(np.float32), 1.0))


def whole(share: float) -> str:
    """A whole number, and never a certainty: `97 %`, `<1 %`, `>99 %`, with a space that does not break."""
    rounded = round(100 * share)
    return f"{'<1' if rounded == 0 else '>99' if rounded == 100 else rounded}\u00a0%"
