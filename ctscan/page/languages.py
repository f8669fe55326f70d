"""Which of the page's languages a visitor gets."""

from __future__ import annotations

import re

from ctscan.notices import LANGUAGES

DEFAULT = "en"
# A language range and its weight, as RFC 9110 has them; what is written otherwise is passed over.
RANGE = re.compile(
    r"\s*(\*|[a-z]{1,8})(?:-[a-z0-9]{1,8})*\s*(?:;\s*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*)?", re.I | re.ASCII
)


def choose(asked: str, accepted: str) -> str:
    """What the address asks for; else what the browser prefers; else English.

    Args:
        asked: Value of `lang` in the address; empty where there is none.
        accepted: An Accept-Language header. Regions are passed over; of equal weights the first counts; `*` is English.

    >>> choose("", "nl, de-AT;q=0.8, fr;q=0.9")
    'fr'
    >>> choose("es", "de")
    'es'
    """
    if asked in LANGUAGES:
        return asked
    best, weight = DEFAULT, 0.0
    for found in filter(None, map(RANGE.fullmatch, accepted.split(","))):
        language = DEFAULT if found[1] == "*" else found[1].lower()
        wanted = float(found[2] or 1)
        if language in LANGUAGES and wanted > weight:
            best, weight = language, wanted
    return best
