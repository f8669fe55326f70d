"""Bytes of a file -> the answer that page, API and command line give, word for word the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np

from ctscan.errors import UnreadableSlice
from ctscan.imaging.anatomy import find_anatomy
from ctscan.inference.classifier import Classifier, Prediction
from ctscan.inference.shortcut import share_outside, where_disease_can_be
from ctscan.io.images import Slice, read_slice

SHORTCUT = (
    "{share:.0f} % of the evidence for this answer lies outside the body or at the picture's edge, where no disease "
    "can be: the model may be right or wrong for a reason that has nothing to do with it."
)

OUTSIDE = 0.37  # provisional: 95th percentile over valid; the gate has a threshold of its own, set before bars counted

Reader = Callable[[bytes], Slice]  # raises UnreadableSlice


class AnswerJSON(TypedDict):
    """The public form. Entries may be added, none is ever renamed or removed."""

    verdict: str
    probabilities: dict[str, float] | None
    top_class: str | None
    outcome: str | None
    set: list[str] | None
    model_id: str
    notices: list[str]


@dataclass(frozen=True, eq=False)
class Answer:
    """A slice and its prediction, or the sentence that says why there is none.

    The verdict is about the file: `ok` has a prediction, so has `unusual`, and the reason to mistrust it in the first
    notice; `refused` has a slice and the reason; `unreadable` has the reason alone. The outcome is about the answer.
    """

    verdict: Literal["ok", "unusual", "refused", "unreadable"]
    notices: tuple[str, ...]
    model_id: str
    slice: Slice | None = None
    prediction: Prediction | None = None

    @property
    def outcome(self) -> Literal["single", "uncertain"] | None:
        """`single` where exactly one class remains possible, else `uncertain`; None without a calibrated prediction.

        Always `uncertain` for an unusual slice: what was measured of probabilities and sets does not hold for it.
        """
        if self.verdict == "unusual":
            return "uncertain"
        if self.prediction is None or self.prediction.possible is None:
            return None
        return "uncertain" if self.prediction.uncertain else "single"

    def to_json(self) -> AnswerJSON:
        """Unrounded numbers, classes by key; `set` holds those that cannot be ruled out.

        `set` is null, and the probabilities are the raw scores, for an unusual slice and an uncalibrated model.
        """
        p = self.prediction
        return {
            "verdict": self.verdict,
            "probabilities": dict(zip(p.classes, p.probabilities.tolist(), strict=True)) if p else None,
            "top_class": p.classes[p.top] if p else None,
            "outcome": self.outcome,
            "set": list(p.possible) if p and p.possible is not None else None,
            "model_id": self.model_id,
            "notices": list(self.notices),
        }


def answer(classifier: Classifier, data: bytes, read: Reader = read_slice) -> Answer:
    """What ctscan says of a file's bytes. A file that cannot be read is an answer too, not an error.

    `read` is `read_slice`, or for strangers' files `Decoder.read`.
    """
    model_id = classifier.card.model_id
    try:
        slice_ = read(data)
    except UnreadableSlice as error:
        return Answer("unreadable", (str(error),), model_id)
    judged = classifier.judge(slice_)
    if judged.verdict == "refused":
        return Answer("refused", judged.reasons + tuple(map(str, slice_.notices)), model_id, slice_)
    prediction = classifier.predict(slice_, usual=judged.verdict == "ok")
    notices = judged.reasons + find_shortcut(classifier, prediction, slice_) + tuple(map(str, slice_.notices))
    return Answer(judged.verdict, notices, model_id, slice_, prediction)


def find_shortcut(classifier: Classifier, prediction: Prediction, slice_: Slice) -> tuple[str, ...]:
    """A notice where too much of what moved the score lies where no disease can be."""
    if classifier.gate is None:
        return ()
    evidence = np.maximum(prediction.maps[prediction.top], 0)
    share = share_outside(evidence, prediction.placement, where_disease_can_be(find_anatomy(slice_.pixels)))
    return (SHORTCUT.format(share=100 * share),) if share > OUTSIDE else ()
