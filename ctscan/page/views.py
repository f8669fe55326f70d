"""An answer -> what a visitor sees of it. Words stand in the catalogue and the templates, HTML in templates alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from ctscan.classes import CLASS_KEYS, CLASSES
from ctscan.imaging.anatomy import Mask, find_anatomy
from ctscan.imaging.render import (
    DEFAULT_OPACITY,
    LONGEST_LAYER,
    LONGEST_OVERLAY,
    LONGEST_SIDE,
    data_uri,
    encode_png,
    fit,
    fitted,
    layer,
    overlay,
    to_bytes,
)
from ctscan.inference.classifier import Answer, Classifier, Prediction, Reader
from ctscan.io.images import read_slice
from ctscan.notices import catalogue
from ctscan.page.door import MAX_BYTES
from ctscan.page.examples import Example
from ctscan.results import summary
from ctscan.results.report import FILTERS
from ctscan.results.summary import Facts

STATIC = Path(__file__).parent / "static"
THUMBNAIL = 160  # px, longer side
CELL = 32  # px of the model's square, side of a cell of its last layer
SCALE = 256  # px, length of the colour scale
UNDER = ("air", "tissue")  # what the colour scale is shown over, as the map lies over the slice
OUTER, INNER = 1 / 3, 0.1  # of the body: an anterior third, a tenth of its width to either side of the middle


@dataclass(frozen=True)
class ClassView:
    """One class in an answer: its row, its map, and its map in words."""

    key: str
    title: str
    share: float
    likeliest: bool
    possible: bool
    map: str  # data URL
    place: str


@dataclass(frozen=True)
class AnswerView:
    """An answer as the template wants it; pictures are data URLs, so that they never have an address.

    Attributes:
        state: `single`, `uncertain`, `raw` (scores without a calibration), `unusual`, `refused` or `unreadable`.
        origin: What slice this is, where it is one of the examples.
        width: Of the slice, px; the maps are drawn in its coordinates.
        example: Number of the example, None for a visitor's own slice.
    """

    state: str
    notices: tuple[str, ...]
    origin: Example | None = None
    example: int | None = None
    width: int = 0
    height: int = 0
    slice: str = ""
    square: str = ""
    classes: tuple[ClassView, ...] = ()
    scale: tuple[tuple[str, str], ...] = ()  # what lies under it, and a data URL

    @property
    def likeliest(self) -> ClassView:
        """The class with the highest probability."""
        return next(c for c in self.classes if c.likeliest)

    @property
    def possible(self) -> list[str]:
        """Titles of the classes that cannot be ruled out."""
        return [c.title for c in self.classes if c.possible]


class Views:
    """What the page shows around one classifier. Nothing is kept of what is sent.

    Args:
        classifier: What answers.
        examples: Slices to show; the first is answered in the first response.
        facts: What is known of the model's worth.
        read: How a stranger's file is read.
    """

    def __init__(
        self, classifier: Classifier, examples: tuple[Example, ...], facts: Facts, read: Reader = read_slice
    ) -> None:
        self.classifier = classifier
        self.examples = examples
        self.read = read
        self.texts: dict[str, Any] = catalogue()["page"]
        self.names: dict[str, dict[str, str]] = catalogue()["classes"]
        self._templates = Environment(
            loader=PackageLoader("ctscan.page"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= FILTERS
        self._templates.globals |= {
            "t": self.texts, "names": self.names, "classes": CLASSES, "card": classifier.card, "facts": facts,
            "bounds": summary, "whole": whole, "opacity": round(100 * DEFAULT_OPACITY),
        }  # fmt: skip
        self._shown = cache(self._answer_example)

    def home(self) -> str:
        """The page, whose first screen is an example that the model has just answered."""
        side = self.classifier.card.preprocess.size
        return self._templates.get_template("page.html.j2").render(
            answer=self._shown(0) if self.examples else None,
            examples=[data_uri(to_bytes(fit(read_slice(e.data).pixels, THUMBNAIL))) for e in self.examples],
            titles=[e.title for e in self.examples],
            versions={path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in STATIC.iterdir()},
            limit=MAX_BYTES,
            side=side,
            cells=side // CELL,
        )

    def answer(self, data: bytes) -> dict[str, str]:
        """What the page's script puts in place of the last answer.

        Args:
            data: Bytes of a visitor's file.
        """
        return self._render(view(self.classifier(data, self.read), self.texts, self.names))

    def example(self, number: int) -> dict[str, str]:
        """The same for one of the examples."""
        return self._render(self._shown(number))

    def classify(self, data: bytes) -> tuple[dict[str, Any], bytes | None]:
        """The answer as the API gives it.

        Returns:
            The answer's JSON, and the slice under the likeliest class's map as PNG, None where there are no scores.
        """
        given = self.classifier(data, self.read)
        prediction = given.prediction
        if prediction is None or given.slice is None:
            return dict(given.to_dict()), None
        grey = to_bytes(fit(given.slice.pixels, LONGEST_OVERLAY))
        evidence = prediction.evidence(prediction.top, (grey.shape[0], grey.shape[1]))
        return dict(given.to_dict()), encode_png(overlay(grey, evidence, prediction.map_top))

    def _answer_example(self, number: int) -> AnswerView:
        example = self.examples[number]
        given = self.classifier(example.data, self.read)
        return view(given, self.texts, self.names, example, number)

    def _render(self, shown: AnswerView) -> dict[str, str]:
        html = self._templates.get_template("answer.html.j2").render(answer=shown)
        return {"state": shown.state, "html": html}


def whole(share: float) -> str:
    """A whole number, and never a certainty: `97 %`, `<1 %`, `>99 %`, with a space that does not break."""
    rounded = round(100 * share)
    return f"{'<1' if rounded == 0 else '>99' if rounded == 100 else rounded}\u00a0%"


def view(
    given: Answer,
    texts: dict[str, Any],
    names: dict[str, dict[str, str]],
    origin: Example | None = None,
    number: int | None = None,
) -> AnswerView:
    """What a visitor sees of an answer: pictures drawn, places named."""
    notices = tuple(map(str, given.notices))
    if given.slice is None:
        return AnswerView(given.verdict, notices, origin, number)
    pixels = given.slice.pixels
    height, width = pixels.shape
    picture = data_uri(to_bytes(fit(pixels, LONGEST_SIDE)))
    prediction = given.prediction
    if prediction is None:
        return AnswerView(given.verdict, notices, origin, number, width, height, picture)
    return AnswerView(
        state=given.verdict if given.verdict == "unusual" else given.outcome or "raw",
        notices=notices,
        origin=origin,
        example=number,
        width=width,
        height=height,
        slice=picture,
        square=data_uri(to_bytes(prediction.square)),
        classes=tuple(draw_classes(prediction, pixels, texts, names)),
        scale=tuple((name, draw_scale()) for name in UNDER),
    )


def draw_classes(
    prediction: Prediction, pixels: NDArray[np.float32], texts: dict[str, Any], names: dict[str, dict[str, str]]
) -> list[ClassView]:
    """Each class's row and map."""
    anatomy = find_anatomy(pixels)
    shape = fitted(prediction.placement.slice_shape, LONGEST_LAYER)
    views = []
    for index, key in enumerate(CLASS_KEYS):
        evidence = prediction.evidence(index, shape)
        title = names[key]["title"]
        place = texts["places"]["nowhere"].format(title=title)
        if prediction.is_localised(index):
            strength = whole(min(1.0, float(evidence.max()) / prediction.map_top))
            where = " ".join(texts["places"][name] for name in find_peak(evidence, anatomy.body, anatomy.lung_hulls))
            place = texts["places"]["strongest"].format(title=title, where=where, strength=strength)
        views.append(
            ClassView(
                key=key,
                title=title,
                share=float(prediction.probabilities[index]),
                likeliest=index == prediction.top,
                possible=key in (prediction.possible or ()),
                map=data_uri(layer(evidence, prediction.map_top)),
                place=place,
            )
        )
    return views


def find_peak(evidence: NDArray[np.float32], body: Mask, lungs: Mask) -> tuple[str, ...]:
    """Where the largest value lies, as keys of the catalogue: at a lung or a side, and how far from the front.

    Args:
        evidence: (h, w), over the slice, of any size.
        body: (H, W) of any size, over the slice too. Right and left are the patient's in the usual view.
        lungs: (H, W), the lungs with their walls.
    """
    row, column = np.unravel_index(int(evidence.argmax()), evidence.shape)
    y, x = int((row + 0.5) / evidence.shape[0] * body.shape[0]), int((column + 0.5) / evidence.shape[1] * body.shape[1])
    if not body[y, x]:
        return ("outside",)
    rows, columns = np.nonzero(body)
    down = (y - rows.min()) / (np.ptp(rows) + 1)
    across = (x - columns.min()) / (np.ptp(columns) + 1) - 0.5
    side = "right" if across < 0 else "left"
    depth = "anterior" if down < OUTER else "posterior" if down > 1 - OUTER else "between"
    if lungs[y, x]:
        return (f"{side}_lung", depth)
    return ("midline" if abs(across) < INNER else f"{side}_side", depth)


def draw_scale() -> str:
    """The colours from nothing to the scale's top, as see-through as the map's own; it is laid over greys."""
    return data_uri(layer(np.tile(np.linspace(0, 1, SCALE, dtype=np.float32), (2, 1)), 1.0))
