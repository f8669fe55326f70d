"""Facts -> the tab "How good is it?"; its words stand in `templates/how_good.html.j2`."""

from __future__ import annotations

from ctscan.classes import CLASSES
from ctscan.results import summary
from ctscan.results.report import environment


def how_good(facts: summary.Facts) -> str:
    """The tab; one sentence where the model shown has not been evaluated."""
    template = environment("ctscan.page", autoescape=True).get_template("how_good.html.j2")
    return template.render(facts=facts, classes=CLASSES, bounds=summary)
