"""metrics.json and the checkpoint's card -> the number block of README.md, the model card and the data card.

    ctscan report

No number of these texts is written by hand. The words stand in `templates/`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from ctscan import files
from ctscan.classes import CLASSES
from ctscan.errors import DataError
from ctscan.model.checkpoint import read_checkpoint
from ctscan.notices import catalogue
from ctscan.results import summary
from ctscan.results.ledger import read_ledger
from ctscan.results.records import Coverage, Estimate, Interval
from ctscan.results.summary import Facts, facts_of

BEGIN, END = "<!-- numbers: begin (ctscan report) -->", "<!-- numbers: end -->"


def percent(value: float, digits: int = 0, *, language: str = "en") -> str:
    """`97.3 %`, of a share."""
    return f"{decimal(100 * value, digits, language=language)}{catalogue(language)['numbers']['percent']}"


def span(interval: Interval, digits: int = 0, factor: float = 100, *, language: str = "en") -> str:
    """`94–98`, of the ends of an interval; `-7 to 2` where a dash would be a minus."""
    low, high = (decimal(factor * end, digits, language=language) for end in interval)
    kind = "signed_range" if low.startswith("-") else "range"
    text: str = catalogue(language)["numbers"][kind].format(low=low, high=high)
    return text


def share(estimate: Estimate | Coverage, *, language: str = "en") -> str:
    """`81 % (74–87)`."""
    ends = span((estimate.low, estimate.high), language=language)
    return f"{percent(estimate.value, language=language)} ({ends})"


def points(estimate: Estimate, *, language: str = "en") -> str:
    """`15 points (9–22)`, of a difference of shares."""
    value, ends = decimal(100 * estimate.value, 0), span((estimate.low, estimate.high), language=language)
    units = catalogue(language)["numbers"]["points"]
    text: str = units["one" if value in ("1", "-1") else "many"].format(value=value, range=ends)
    return text


def decimal(value: Estimate | float, digits: int = 2, *, language: str = "en") -> str:
    """`0.81 (0.74–0.87)`, or of a number alone `0.81`; what rounds to zero has no minus."""
    if isinstance(value, Estimate):
        ends = span((value.low, value.high), digits, 1, language=language)
        return f"{decimal(value.value, digits, language=language)} ({ends})"
    point: str = catalogue(language)["numbers"]["point"]
    return f"{round(value, digits) + 0.0:.{digits}f}".replace(".", point)


def filters(language: str = "en") -> dict[str, Callable[..., str]]:
    """What templates write numbers with, by name."""
    return {f.__name__: partial(f, language=language) for f in (percent, span, share, points, decimal)}


def html_templates(package: str, language: str = "en") -> Environment:
    """The templates of a package for HTML: numbers as a language writes them, what is filled in escaped."""
    environment = Environment(
        loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= filters(language)
    return environment


def render(template: str, facts: Facts) -> str:
    """One of the texts, from a template of this package."""
    environment = Environment(
        loader=PackageLoader("ctscan.results"), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    environment.filters |= filters()
    return environment.get_template(template).render(facts=facts, bounds=summary, classes=CLASSES)


def generate(root: Path) -> dict[Path, str]:
    """The texts of a checkout, by path.

    Raises:
        DataError: `metrics.json` does not hold what is said of the checkpoint.
        ModelError: The checkpoint cannot be read.
    """
    folder = root / "checkpoints"
    if not folder.is_dir():
        raise DataError(f"{root} is no checkout of ctscan; give one by --root.")
    card = read_checkpoint(folder / "resnet18.safetensors").card
    ledger = folder / "metrics.json"
    facts = facts_of(read_ledger(ledger), card)
    needed = ("reading", "published", "grouped", "audit")
    missing = [name for name in needed if getattr(facts, name) is None]
    if missing:
        raise DataError(f"{ledger} holds no {', '.join(missing)} for {card.model_id}; the texts stay as they are.")
    readme = (root / "README.md").read_text(encoding="utf-8")
    before, _, rest = readme.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise DataError(f"{root / 'README.md'} lacks the lines {BEGIN} and {END}.")
    return {
        root / "README.md": f"{before}{BEGIN}\n{render('readme.md.j2', facts)}{END}{after}",
        folder / "README.md": render("model_card.md.j2", facts),
        folder / "DATA.md": render("data_card.md.j2", facts),
    }


def write(root: Path) -> None:
    """Bring the texts up to date."""
    for path, text in generate(root).items():
        files.write(path, text)
