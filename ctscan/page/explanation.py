"""Answer -> the pictures: the slice untouched, the slice under its map, and what the model saw, as HTML.

All four maps lie over the slice as transparent layers. Which one shows is decided by the browser from a radio button,
and how strongly by a slider: neither asks the server, and the server remembers nothing.
"""

from __future__ import annotations

import uuid
from html import escape

import numpy as np
from numpy.typing import NDArray

from ctscan.classes import CLASSES
from ctscan.imaging.render import (
    DEFAULT_OPACITY,
    LONGEST_LAYER,
    LONGEST_SIDE,
    colour_table,
    data_uri,
    fit,
    fitted,
    layer,
    to_bytes,
)
from ctscan.inference.answer import Answer
from ctscan.inference.classifier import Prediction
from ctscan.io.images import Slice
from ctscan.page import words

EMPTY = f'<div class="explanation empty"><p>{words.EMPTY_PICTURE}</p></div>'
BAR_STOPS = 8


def explanation(answer: Answer) -> str:
    """The middle column: nothing, the slice alone where it was refused, or the slice and its maps."""
    if answer.slice is None:
        return EMPTY
    address = data_uri(to_bytes(fit(answer.slice.pixels, LONGEST_SIDE)))
    return explained(answer.slice, answer.prediction, address) if answer.prediction else alone(answer.slice, address)


def alone(slice_: Slice, address: str) -> str:
    """A picture that was given no scores, so without maps, and without sides: it need not show a patient."""
    height, width = slice_.pixels.shape
    picture = f'<img src="{address}" alt="The picture as it was read, {width} by {height} pixels.">'
    return (
        f'<div class="explanation" style="--aspect:{aspect(slice_):.5f}"><div class="pictures alone"><figure>'
        f'<div class="plate"><div class="stack">{picture}</div></div><figcaption>{words.ALONE}</figcaption>'
        "</figure></div></div>"
    )


def explained(slice_: Slice, prediction: Prediction, address: str) -> str:
    """A slice beside itself under its maps, with the controls."""
    shape = fitted(prediction.placement.slice_shape, LONGEST_LAYER)
    evidence = [prediction.evidence(index, shape) for index in range(len(CLASSES))]
    return (
        f'<div class="explanation" data-answer="{uuid.uuid4()}" '
        f'style="--opacity:{DEFAULT_OPACITY};--aspect:{aspect(slice_):.5f}">'
        f'<div class="pictures">{untouched(slice_, address)}{covered(prediction, evidence, address)}</div>'
        f'<div class="foot">{class_choice(prediction)}<div class="tools">{opacity_choice()}'
        f"{colour_bar(prediction.map_top)}{places(prediction, evidence)}</div>{square(prediction)}</div></div>"
    )


def aspect(slice_: Slice) -> float:
    """Width by height; pictures and layers fill one box of this shape, so that they lie on one another exactly."""
    height, width = slice_.pixels.shape
    return float(width / height)


def sides(inside: str) -> str:
    """A picture between the marks of the patient's right and left."""
    right, left = (
        f'<span class="side" title="patient’s {side}">{side[0].upper()}</span>' for side in ("right", "left")
    )
    return f'<div class="plate">{right}<div class="stack">{inside}</div>{left}</div>'


def untouched(slice_: Slice, address: str) -> str:
    """The slice as it was read."""
    height, width = slice_.pixels.shape
    picture = f'<img src="{address}" alt="The slice as it was read, {width} by {height} pixels, without a map.">'
    return f"<figure>{sides(picture)}<figcaption>The slice, untouched</figcaption></figure>"


def covered(prediction: Prediction, evidence: list[NDArray[np.float32]], address: str) -> str:
    """The slice with all four layers, of which the browser shows one."""
    layers = "".join(
        f'<img class="layer" data-class="{index}" alt="{escape(describe(prediction, evidence, index))}" '
        f'src="{data_uri(layer(map_, prediction.map_top))}">'
        for index, map_ in enumerate(evidence)
    )
    captions = "".join(f'<span class="of" data-class="{i}">{escape(c.title)}</span>' for i, c in enumerate(CLASSES))
    stack = sides(f'<img src="{address}" alt="">{layers}')
    return f'<figure class="covered">{stack}<figcaption>What moved the score: {captions}</figcaption></figure>'


def class_choice(prediction: Prediction) -> str:
    """Which class's map is shown."""
    buttons = "".join(
        f'<label><input type="radio" name="ctscan-class" value="{index}"{" checked" * (index == prediction.top)}>'
        f"<span>{escape(shown.title)}</span></label>"
        for index, shown in enumerate(CLASSES)
    )
    return f'<fieldset class="classes"><legend>Map of</legend>{buttons}</fieldset>'


def opacity_choice() -> str:
    """How strongly the map covers the slice."""
    return (
        '<label class="opacity"><span>Opacity</span>'
        f'<input type="range" min="0" max="100" step="5" value="{100 * DEFAULT_OPACITY:.0f}"></label>'
    )


def colour_bar(top: float) -> str:
    """The scale, the same for every class and every slice."""
    table = colour_table()
    places_ = np.linspace(0, 255, BAR_STOPS).astype(int)
    stops = ",".join(f"rgba({r},{g},{b},{p / 255:.2f})" for p, (r, g, b) in zip(places_, table[places_], strict=True))
    return (
        f'<div class="bar" role="img" aria-label="Colour scale: evidence for the class from 0 to {top:.3f} logit units '
        f'or more, one scale for all classes and slices"><span>0</span>'
        f'<i style="background:linear-gradient(90deg,{stops}),#000"></i><span>≥ {top:.3f}</span>'
        "<em>evidence for the class, logit units</em></div>"
    )


def square(prediction: Prediction) -> str:
    """The model's own input."""
    side = prediction.square.shape[0]
    alt = "The slice as the network was given it: cropped and scaled, and its greys spread."
    picture = f'<img src="{data_uri(to_bytes(prediction.square))}" alt="{alt}">'
    caption = f"<figcaption>What the model saw: {side} × {side} pixels</figcaption>"
    return f'<figure class="square">{picture}{caption}</figure>'


def places(prediction: Prediction, evidence: list[NDArray[np.float32]]) -> str:
    """In words, for each class, what its map shows; the browser shows the chosen one."""
    return "".join(
        f'<p class="of" data-class="{index}">{escape(describe(prediction, evidence, index))}</p>'
        for index in range(len(CLASSES))
    )


def describe(prediction: Prediction, evidence: list[NDArray[np.float32]], index: int) -> str:
    """One class's map in a sentence."""
    title = CLASSES[index].title
    if not prediction.is_localised(index):
        return f"{title}: {words.NO_EVIDENCE}. The peak of the map is under a tenth of the scale."
    peak = float(evidence[index].max())
    share = peak / prediction.map_top
    scale = "at or above the top of the scale" if share >= 1 else f"at {100 * share:.0f} % of the scale"
    return f"The strongest evidence for {title} lies {find_peak(evidence[index])}, {scale}."


def find_peak(evidence: NDArray[np.float32]) -> str:
    """Where the largest value lies, in words of the picture and of the patient."""
    row, column = np.unravel_index(int(evidence.argmax()), evidence.shape)
    down = ("upper", "middle", "lower")[min(2, int(3 * row / evidence.shape[0]))]
    across = min(2, int(3 * column / evidence.shape[1]))
    if across == 1:
        place = "centre" if down == "middle" else f"{down} middle"
        return f"in the {place} of the picture (between the patient's right and left)"
    side, of_patient = ("left", "right") if across == 0 else ("right", "left")
    return f"in the {down} {side} of the picture (the patient's {of_patient})"
