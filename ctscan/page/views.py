"""An answer -> what a visitor sees of it. Words stand in the catalogue and the templates, HTML in templates alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import ctscan
from ctscan.classes import CLASSES
from ctscan.errors import UnreadableSlice
from ctscan.imaging import render
from ctscan.imaging.anatomy import Mask, find_anatomy
from ctscan.inference.answer import Answer, Prediction
from ctscan.inference.checks import check
from ctscan.inference.classifier import Classifier, Patch, Reader, read
from ctscan.inference.gate import share_outside, where_disease_can_be
from ctscan.io.images import Slice, read_slice
from ctscan.io.medical import PRESETS
from ctscan.model.card import INTENDED_USE
from ctscan.notices import LANGUAGES, Notice, catalogue
from ctscan.page.assets import Assets
from ctscan.page.choice import MIDDLE, Choice
from ctscan.page.door import MAX_BYTES, MAX_SCAN
from ctscan.page.examples import Entry, Example
from ctscan.page.words import sketch, templates, whole
from ctscan.results import summary
from ctscan.results.scan import BundledScan
from ctscan.results.summary import Facts

SHOWN = ("lung", "mediastinal", "bone", "training")  # windows that a scan can be seen in at one press
THUMBNAIL = 160  # px, longer side
CELL = 32  # px of the model's square, side of a cell of its last layer
DIGITS = 5  # of a map's values as the page is given them: far finer than a colour tells
OUTER, INNER = 1 / 3, 0.1  # of the body: an anterior third, a tenth of its width to either side of the middle


@dataclass(frozen=True)
class ClassView:
    """One class in an answer: its row, and where its map is brightest."""

    key: str
    share: float
    likeliest: bool
    possible: bool
    where: tuple[str, ...]  # keys of the catalogue's `places`; empty where no place stands out
    strength: float  # there, of the scale
    lungs: float  # share of the evidence for it that lies at aerated lung; NaN where there is none for it
    outlined: float  # share in what is outlined; NaN where nothing is
    outside: float  # share outside the body, in the picture's border or in the black bars beside it


@dataclass(frozen=True)
class AnswerView:
    """An answer as the template wants it, in numbers and keys: words come with a language, in the template. Pictures of
    a visitor are data URLs, so that they never have an address.

    Attributes:
        state: `single`, `uncertain`, `raw` (scores without a calibration), `unusual`, `refused` or `unreadable`.
        notices: Reasons to doubt the answer, or why there is none.
        facts: What is to be said of the file alone.
        origin: What slice this is, where it is one of the examples.
        width: Of the slice, px; the maps are drawn in its coordinates. 0 where there is no slice.
        sides_known: Whether the file says how the patient lay; else R and L are those of the usual view, and can be
            flipped.
        square: What the network saw.
        classes: Empty where there are no scores.
        json: The answer as the API gives it.
        evidence: What the page's script draws the maps from: see `drawn_from`.
    """

    state: str
    notices: tuple[Notice, ...]
    facts: tuple[Notice, ...] = ()
    origin: Entry | None = None
    width: int = 0
    height: int = 0
    sides_known: bool = False
    slice: str = ""
    square: str = ""
    classes: tuple[ClassView, ...] = ()
    json: dict[str, Any] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    outlined: float = 0.0  # share of the body that is outlined


class Views:
    """What the page shows around one classifier. Nothing is kept of what is sent.

    Args:
        classifier: What answers.
        examples: Slices to show; the first is answered in the first response.
        facts: What is known of the model's worth.
        read: How a stranger's file is read.
        scan: A whole one to scroll through; None shows no such section.
        address: Of the page, as others have it, with a slash at its end; empty where nobody has said so.
        space: The Hugging Face Space, `owner/name`, in which it runs; empty anywhere else.
    """

    def __init__(
        self,
        classifier: Classifier,
        examples: tuple[Example, ...],
        facts: Facts,
        read: Reader = read_slice,
        scan: BundledScan | None = None,
        address: str = "",
        space: str = "",
    ) -> None:
        self.classifier = classifier
        self.scan = scan
        self.examples = examples
        self.read = read
        self.assets = Assets(classifier.card.model_id)
        side = classifier.card.preprocess.size
        shared = {
            "classes": CLASSES,
            "card": classifier.card,
            "facts": facts,
            "scan": scan,
            "bounds": summary,
            "windows": {name: PRESETS[name] for name in SHOWN},
            "whole": whole,
            "intended_use": INTENDED_USE,
            "version": ctscan.__version__,
            "address": address,
            "space": space,
            "texts": self.assets.texts,
            "opacity": round(100 * render.DEFAULT_OPACITY),
            "side": side,
            "cells": side // CELL,
            "sketch": sketch(side // CELL),
        }
        self._templates = {language: templates(language, shared) for language in LANGUAGES}
        if scan:
            self.assets.files |= {f"scan/{name}": data for name, data in scan.files.items()}
        self._example = cache(
            lambda number: view(classifier(examples[number].slice), examples[number].entry, self.assets.publish)
        )
        self._preview = self.publish_preview() if address else ""

    def publish_preview(self) -> str:
        """The address of a picture for who is sent a link, the first example under its map; empty without one."""
        if not self.examples:
            return ""
        slice_ = self.examples[0].slice
        prediction = self.classifier(slice_).prediction
        return self.assets.publish(draw_under_map(slice_, prediction, render.LONGEST_SIDE)) if prediction else ""

    def home(self, language: str = "en") -> str:
        """The page, whose first screen is an example that the model has just answered."""
        pictures = [(e.entry.words(language).title, draw(e.slice.pixels, THUMBNAIL)) for e in self.examples]
        page = self._templates[language].get_template("page.html.j2")
        return page.render(
            answer=self._example(0) if self.examples else None,
            examples=[(title, self.assets.publish(picture)) for title, picture in pictures],
            versions=self.assets.versions,
            preview=self._preview,
            limit=MAX_BYTES,
            scan_limit=MAX_SCAN,
        )

    def answer(self, data: bytes | Slice, choice: Choice = MIDDLE, *, language: str = "en") -> dict[str, Any]:
        """What the page's script puts in place of the last answer.

        Args:
            data: Bytes of a visitor's file, or a slice of a scan that was read before.
            choice: Of a slice and a window, in a medical file.
            language: Of the page.
        """
        return self.render(view(self.classifier(data, choice.reader(self.read))), language)

    def example(self, number: int, language: str = "en") -> dict[str, Any]:
        """The same for one of the examples."""
        return self.render(self._example(number), language)

    def cover(
        self, source: bytes | int | Slice, choice: Choice = MIDDLE, *, patches: tuple[Patch, ...]
    ) -> dict[str, Any]:
        """What the network says of a slice of which places are covered, as `Classifier.cover`.

        Args:
            source: Bytes of a visitor's file, a slice of a scan, or the number of an example.
            choice: As for `answer`.
            patches: What is covered.

        Returns:
            `shares`, as text, and `logits` of the classes; both empty for what gets no scores.
        """
        slice_ = self.examples[source].slice if isinstance(source, int) else source
        given = self.classifier.cover(slice_, patches, choice.reader(self.read))
        if given is None:
            return {"shares": [], "logits": []}
        return {"shares": [whole(p) for p in given.probabilities.tolist()], "logits": given.logits.tolist()}

    def check(
        self, source: bytes | int | Slice, choice: Choice = MIDDLE, *, language: str = "en"
    ) -> Iterator[dict[str, Any]]:
        """Whether the answer to a slice survives small changes of it.

        Args:
            source: As for `cover`.
            choice: As for `answer`.
            language: Of the page.

        Yields:
            For each change its `title`, what is `said` then, and whether it is the `same` as without it.
        """
        try:
            slice_ = read(self.examples[source].slice if isinstance(source, int) else source, choice.reader(self.read))
        except UnreadableSlice:
            return
        texts, names = catalogue(language)["page"], catalogue(language)["classes"]
        before = self.classifier(slice_)
        for name, given in check(self.classifier, slice_):
            if given.verdict == "ok" and given.probabilities and given.top_class:
                said = f"{names[given.top_class]['title']}, {whole(given.probabilities[given.top_class])}"
            else:
                said = texts["scan"]["live"][given.verdict]
            same = (given.verdict, given.top_class) == (before.verdict, before.top_class)
            yield {"title": texts["changes"][name], "said": said, "same": same}

    def unread(self, notice: Notice, language: str = "en") -> dict[str, Any]:
        """The answer to a scan, or a slice of one, that cannot be read."""
        return self.render(view(Answer("unreadable", (notice,), self.classifier.card.model_id)), language)

    def score(self, read: Callable[[], Slice]) -> dict[str, Any]:
        """What is said of one slice among many: its verdict, scores and classes, and why there are none."""
        given = self.classifier(b"", lambda _: read())
        shares = list(given.probabilities.values()) if given.probabilities else None
        reason = given.notices[0].code if given.notices and given.verdict != "ok" else None
        return {"verdict": given.verdict, "probabilities": shares, "possible": given.possible, "reason": reason}

    def render(self, shown: AnswerView, language: str = "en") -> dict[str, Any]:
        """The answer's state, HTML and JSON."""
        html = self._templates[language].get_template("answer.html.j2").render(answer=shown)
        return {"state": shown.state, "html": html, "answer": shown.json}

    def classify(self, data: bytes, choice: Choice = MIDDLE) -> tuple[dict[str, Any], bytes | None]:
        """The answer as the API gives it.

        Args:
            data: Bytes of a file.
            choice: As for `answer`.

        Returns:
            The answer's JSON, and the slice under the likeliest class's map as PNG, None where there are no scores.
        """
        given, overlay = self.classifier(data, choice.reader(self.read)), None
        if given.prediction and given.slice:
            overlay = render.encode_png(draw_under_map(given.slice, given.prediction, render.LONGEST_OVERLAY))
        return given.to_dict(), overlay


def view(
    given: Answer, origin: Entry | None = None, show: Callable[[render.Picture], str] = render.data_uri
) -> AnswerView:
    """What a visitor sees of an answer: pictures drawn, places named.

    Args:
        given: The answer.
        origin: What slice this is, where it is one of the examples.
        show: Gives a picture an address.
    """
    state = given.outcome or "raw" if given.verdict == "ok" else given.verdict
    facts = given.slice.notices if given.slice else ()
    reasons = tuple(notice for notice in given.notices if notice not in facts)
    shown = AnswerView(state, reasons, facts, origin, json=given.to_dict())
    if given.slice is None:
        return shown
    pixels, prediction = given.slice.pixels, given.prediction
    height, width = pixels.shape
    shown = replace(
        shown,
        width=width,
        height=height,
        sides_known=given.slice.is_radiological,
        slice=show(draw(pixels, render.LONGEST_SIDE)),
    )
    if prediction is None:
        return shown
    anatomy = find_anatomy(pixels)
    shape = render.fitted(prediction.placement.slice_shape, THUMBNAIL)
    drawn = np.zeros(anatomy.shape, np.uint8)
    for line in origin.outline if origin else ():
        cv2.fillPoly(drawn, [np.floor(line).astype(np.int32)], 1)
    diseased, lesion = where_disease_can_be(anatomy), drawn.astype(bool)
    classes = []
    for index, key in enumerate(prediction.classes):
        evidence = prediction.evidence(index, shape)
        positive = np.maximum(prediction.maps[index], 0)
        stands_out = prediction.is_localised(index)
        classes.append(
            ClassView(
                key=key,
                share=float(prediction.probabilities[index]),
                likeliest=index == prediction.top,
                possible=key in (prediction.possible or ()),
                where=find_peak(evidence, anatomy.body, anatomy.aerated) if stands_out else (),
                strength=float(evidence.max()) / prediction.map_top,
                lungs=1 - share_outside(positive, prediction.placement, anatomy.aerated),
                outlined=1 - share_outside(positive, prediction.placement, lesion) if lesion.any() else float("nan"),
                outside=share_outside(positive, prediction.placement, diseased),
            )
        )
    covered = float((lesion & anatomy.body).sum() / anatomy.body.sum())
    square = show(draw(prediction.square, render.LONGEST_SIDE))
    return replace(shown, square=square, classes=tuple(classes), evidence=drawn_from(prediction), outlined=covered)


def drawn_from(prediction: Prediction) -> dict[str, Any]:
    """Numbers from which a browser draws all maps.

    `square` is where the model's square lies in the slice's pixels: left, top, width, height. `maps` are signed, (K,
    h, w), logit units, over that square: with a class's `bias` they sum to its logit. `top` is the top of the scale.
    """
    placement, maps = prediction.placement, prediction.maps
    box, target = placement.box, placement.target
    across, down = box.width / target.width, box.height / target.height
    return {
        "square": [
            box.left - target.left * across,
            box.top - target.top * down,
            placement.size * across,
            placement.size * down,
        ],
        "maps": np.round(maps.astype(np.float64), DIGITS).tolist(),
        "bias": (prediction.logits - maps.sum(axis=(1, 2))).tolist(),
        "logits": prediction.logits.tolist(),
        "top": prediction.map_top,
    }


def draw_under_map(slice_: Slice, prediction: Prediction, longest: int) -> render.Picture:
    """A slice under the map of its likeliest class."""
    grey = draw(slice_.pixels, longest)
    evidence = prediction.evidence(prediction.top, (grey.shape[0], grey.shape[1]))
    return render.overlay(grey, evidence, prediction.map_top)


def draw(pixels: NDArray[np.float32], longest: int) -> render.Picture:
    """Pixels (H, W) in [0, 1] as greys, shrunk to at most `longest` on the longer side."""
    return render.to_bytes(render.fit(pixels, longest))


def find_peak(evidence: NDArray[np.float32], body: Mask, lungs: Mask) -> tuple[str, ...]:
    """Where the largest value lies, as keys of the catalogue: at a lung or a side, and how far from the front.

    Args:
        evidence: (h, w), over the slice, of any size.
        body: (H, W) of any size, over the slice too. Right and left are the patient's in the usual view.
        lungs: (H, W), what is aerated, and a margin.
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
