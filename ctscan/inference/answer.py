"""What is said of one source: verdict, notices, probabilities and maps, and the API's JSON of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctscan.imaging.preprocess import Placement
from ctscan.imaging.render import overlay, to_bytes
from ctscan.io.images import Slice
from ctscan.notices import Notice

if TYPE_CHECKING:
    from PIL.Image import Image

NO_EVIDENCE = 0.1  # of the scale's top: a map whose peak stays under it shows no place
Verdict = Literal["ok", "unusual", "refused", "unreadable"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says of one slice, and what moved it.

    Attributes:
        classes: K keys.
        logits: (K,).
        probabilities: (K,), sum 1; raw scores where `possible` is None.
        possible: Keys of the classes that cannot be ruled out; None where that is not known.
        maps: (K, h, w), signed, logit units, over the model's square.
        square: (S, S) in [0, 1]: what the network saw.
        placement: From the slice to the square and back.
        map_top: Logit units: top of the scale of all maps.
    """

    classes: tuple[str, ...]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float64]
    possible: tuple[str, ...] | None
    maps: NDArray[np.float32]
    square: NDArray[np.float32]
    placement: Placement
    map_top: float

    @property
    def top(self) -> int:
        """Index of the class with the highest probability."""
        return int(self.probabilities.argmax())

    def evidence(self, index: int, shape: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """Grad-CAM of a class over the slice: float32, (H, W) of the slice or `shape`, >= 0, logit units."""
        return self.placement.invert(np.maximum(self.maps[index], 0), shape)

    def is_localised(self, index: int) -> bool:
        """Whether the class's map has a place worth showing: a peak of a tenth of the scale or more."""
        return float(self.maps[index].max()) >= NO_EVIDENCE * self.map_top


@dataclass(frozen=True, eq=False)
class Answer:
    """What ctscan says of one source: a slice and its prediction, or why there is none.

    Attributes:
        verdict: About the file. `ok` has a prediction, so has `unusual`, and the reason to mistrust it in the first
            notice; `refused` has a slice and the reason; `unreadable` has the reason alone.
        notices: What is to be said of it, the most important first; `str(notice)` is the sentence.
        model_id: What answered.
        slice: As it was read.
        prediction: None without scores.
    """

    verdict: Verdict
    notices: tuple[Notice, ...]
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
        if self.possible is None:
            return None
        return "single" if len(self.possible) == 1 else "uncertain"

    @property
    def probabilities(self) -> dict[str, float] | None:
        """Class key -> probability, in [0, 1]; raw scores for an unusual slice; None without scores."""
        p = self.prediction
        return dict(zip(p.classes, p.probabilities.tolist(), strict=True)) if p else None

    @property
    def top_class(self) -> str | None:
        """Key of the class with the highest probability; None without scores."""
        return self.prediction.classes[self.prediction.top] if self.prediction else None

    @property
    def possible(self) -> tuple[str, ...] | None:
        """Keys of the classes that cannot be ruled out, perhaps none; None where that is not known."""
        return self.prediction.possible if self.prediction else None

    @cached_property
    def maps(self) -> dict[str, NDArray[np.float32]]:
        """Class key -> Grad-CAM over the slice, float32 (H, W), >= 0, logit units; empty without scores."""
        p = self.prediction
        return {key: p.evidence(index) for index, key in enumerate(p.classes)} if p else {}

    def overlay(self, key: str) -> Image:
        """The slice under a class's map, on the one scale of all classes and slices.

        Args:
            key: Of the class, as in `probabilities`.

        Returns:
            RGB, as large as the slice.

        Raises:
            ValueError: There is no such class, or the answer has no scores.
        """
        if self.prediction is None or self.slice is None or key not in self.prediction.classes:
            raise ValueError(
                f"no map of {key!r}: this answer has maps of {', '.join(self.probabilities or ()) or 'no class'}"
            )
        from PIL.Image import fromarray

        evidence = self.prediction.evidence(self.prediction.classes.index(key))
        return fromarray(overlay(to_bytes(self.slice.pixels), evidence, self.prediction.map_top))

    def to_dict(self) -> dict[str, Any]:
        """The JSON of the API, to which entries may be added, and of which none is ever renamed or removed.

        Numbers are unrounded, classes are keys, `set` holds those that cannot be ruled out. `set` is null, and the
        probabilities are the raw scores, for an unusual slice and an uncalibrated model.
        """
        return {
            "verdict": self.verdict,
            "probabilities": self.probabilities,
            "top_class": self.top_class,
            "outcome": self.outcome,
            "set": None if self.possible is None else list(self.possible),
            "model_id": self.model_id,
            "notices": [str(notice) for notice in self.notices],
            "notice_codes": [notice.code for notice in self.notices],
        }
