"""The answers to the slices of one scan -> an HTML file: the scores along the body, and the slices that carry them.

    (number, Answer), ... --add--> a Reading a slice, one picture a class --write--> FILE

A scan may have hundreds of slices: of each only the scores are kept, and of the highest of each class the picture.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ctscan.files import write
from ctscan.imaging.render import data_uri
from ctscan.inference.answer import Answer
from ctscan.notices import catalogue
from ctscan.results.report import html_templates

WIDE, TALL = 1000, 220  # of the chart, in its own units


@dataclass(frozen=True)
class Reading:
    """What one slice was answered."""

    number: int  # from the feet, 0 first
    position: float | None  # mm towards the head
    verdict: str
    probabilities: dict[str, float] | None


@dataclass(frozen=True)
class Highest:
    """The slice with the highest score of a class: an answered one, where one is answered."""

    reading: Reading
    share: float
    picture: str  # under the class's map, as an address


class ScanReport:
    """What is said of a scan as a whole, which the network has not seen as one."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.highest: dict[str, Highest] = {}
        self.notices: Counter[str] = Counter()  # of how many slices each is said
        self.model_id = ""

    def add(self, number: int, position: float | None, answer: Answer) -> None:
        """The next slice."""
        reading = Reading(number, position, answer.verdict, answer.probabilities)
        self.readings.append(reading)
        self.notices.update(map(str, answer.notices))
        self.model_id = answer.model_id
        for key, share in (answer.probabilities or {}).items():
            before = self.highest.get(key)
            rank = answer.verdict == "ok", share
            if before is None or (before.reading.verdict == "ok", before.share) < rank:
                self.highest[key] = Highest(reading, share, data_uri(np.asarray(answer.overlay(key))))

    def line(self, key: str, answered: bool) -> str:
        """The path of a class's scores between neighbours that both are answered, or of which one is unusual."""
        last = max(len(self.readings) - 1, 1)
        path = ""
        for number, (before, after) in enumerate(pairwise(self.readings)):
            both = (before.verdict == after.verdict == "ok") is answered
            if both and before.probabilities and after.probabilities:
                ends = [(number, before.probabilities[key]), (number + 1, after.probabilities[key])]
                start, end = (f"{WIDE * at / last:.1f} {TALL * (1 - share):.1f}" for at, share in ends)
                path += f"M{start}L{end}"
        return path

    def write(self, path: Path) -> None:
        """Write the file. Raises DataError where it cannot be written."""
        words = catalogue()
        html = (
            html_templates("ctscan.results")
            .get_template("scan.html.j2")
            .render(scan=self, wide=WIDE, tall=TALL, names=words["classes"], t=words["page"])
        )
        write(path, html)
