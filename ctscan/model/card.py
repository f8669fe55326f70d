"""What a model says of itself: how to build it, how to feed it, when not to believe it, what it was made from."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ctscan.classes import CLASS_KEYS
from ctscan.errors import ModelError
from ctscan.imaging.preprocess import STRIDE, Preprocess

SCHEMA = 2

INTENDED_USE = (
    "Education and research: to show how an image classifier reaches an answer and how far that answer can be "
    "trusted. Not for diagnosis, triage or any other decision about a person."
)

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=STRICT)
class Architecture:
    """What is needed to build the network again."""

    head: Literal["linear", "mlp"] = "linear"  # dropout and one layer; or the seed design's 512-512-256-K
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2  # in the head
    normalise: bool = True  # by ImageNet's mean and standard deviation, inside the network
    classes: Annotated[int, Field(ge=2)] = len(CLASS_KEYS)


@dataclass(frozen=True, config=STRICT)
class Calibration:
    """What makes probabilities of a model's logits, and sets of classes of these; from slices out of fold."""

    temperature: Positive  # logits are divided by it before the softmax
    alpha: Finite  # share of each class's scans whose set may miss it
    # one a class: how far below 1 its probability may lie, and it is still in the set
    thresholds: Annotated[tuple[Finite, ...], Field(min_length=len(CLASS_KEYS), max_length=len(CLASS_KEYS))]


@dataclass(frozen=True, config=STRICT)
class Thresholds:
    """Where a signal changes the gate's verdict. From slices that the network of their fold had not seen."""

    refused: Finite  # probability of an upright axial chest CT slice below which no score is given
    unusual: Finite  # the same, below which the score comes with the reason
    far: Finite  # distance among the deepest features, in units of the usual one between training slices
    strange: Finite  # Mahalanobis' distance among the shallow features
    tone: Finite  # distance to the nearest training slices in how greys are spread
    greys: Finite  # of 256, in use inside the body, below which they are too few
    outside: Finite  # share of the likeliest class's evidence that lies outside the body, above which that is said


@dataclass(frozen=True, config=STRICT)
class GateCard:
    """What a model's gate says of itself; its tensors lie beside the network's."""

    thresholds: Thresholds
    fitted: dict[str, int]  # how many slices, pictures and sources it was fitted to
    kinds: tuple[str, ...]  # what its linear layer tells apart, in the order of its rows
    size: Annotated[int, Field(ge=STRIDE, multiple_of=STRIDE)] = 224  # side of the square that it sees, px


@dataclass(frozen=True, config=STRICT)
class Card:
    """The header of a model file. Plain JSON, readable without torch."""

    classes: tuple[str, ...]  # keys, in the order of the logits
    preprocess: Preprocess
    architecture: Architecture
    recipe: dict[str, Any]  # how it was trained, in full
    data: dict[str, Any]  # fingerprint, slices a split, files skipped
    metrics: dict[str, Any]  # split -> n, accuracy, its 95 % interval, cross-entropy, confusion
    map_scale_top: Positive  # logit units: 99th percentile of positive map values over the training slices
    golden_logits: tuple[float, ...] = ()  # of the phantom, fp32
    tensors_sha256: str = ""  # of the network's tensors, the gate's left out
    calibration: Calibration | None = None  # None until one has been measured for the recipe
    gate: GateCard | None = None  # None after a new training: then every slice is unusual
    intended_use: str = INTENDED_USE
    schema: int = SCHEMA

    @property
    def model_id(self) -> str:
        """A name that two different sets of weights never share."""
        return f"resnet18-{self.tensors_sha256[:12]}"

    @property
    def temperature(self) -> float:
        """What logits are divided by before the softmax; 1 where the model is not calibrated."""
        return self.calibration.temperature if self.calibration else 1.0

    def to_json(self) -> str:
        """One line, keys sorted: the same card is always the same text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Read what `to_json` wrote. Raises ModelError for another schema, other classes and unknown entries."""
        try:
            entries = json.loads(text)
            schema = entries.get("schema")
        except (ValueError, AttributeError):
            raise ModelError("Its card is not readable.") from None
        if schema != SCHEMA:
            raise ModelError(
                f"Its card follows schema {schema}, and this version of ctscan reads schema {SCHEMA} alone; such a "
                "file has to be trained anew, or taken from the same version as the program."
            )
        try:
            card = TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"]))
            raise ModelError(
                f"Its card holds what this version of ctscan does not know, at {place or 'its top'}."
            ) from None
        if card.classes != CLASS_KEYS:
            raise ModelError(f"Its classes are not {', '.join(CLASS_KEYS)}, in this order.")
        return card
