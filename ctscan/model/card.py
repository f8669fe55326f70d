"""What a model says of itself: how to build it, how to feed it, when not to believe it, what it was made from."""

from __future__ import annotations

import json
from dataclasses import asdict
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ctscan.classes import CLASS_KEYS
from ctscan.errors import ModelError
from ctscan.imaging.preprocess import Preprocess

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
    """What is needed to build the network again.

    Attributes:
        head: `linear` is dropout and one layer; `mlp` is the seed design's 512-512-256-K with ReLU and dropout.
        dropout: In the head.
        normalise: By ImageNet's mean and standard deviation, inside the network.
        classes: K, outputs.
    """

    head: Literal["linear", "mlp"] = "linear"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    normalise: bool = True
    classes: Annotated[int, Field(ge=2)] = len(CLASS_KEYS)


@dataclass(frozen=True, config=STRICT)
class Calibration:
    """What makes probabilities of a model's logits, and sets of classes of these; from slices out of fold.

    Attributes:
        temperature: Logits are divided by it before the softmax.
        alpha: Share of each class's scans whose set may miss it.
        thresholds: One a class: how far below 1 its probability may lie, and it is still in the set.
    """

    temperature: Positive
    alpha: Finite
    thresholds: Annotated[tuple[Finite, ...], Field(min_length=len(CLASS_KEYS), max_length=len(CLASS_KEYS))]


@dataclass(frozen=True, config=STRICT)
class Thresholds:
    """Where a signal changes the gate's verdict. From slices that the network of their fold had not seen.

    Attributes:
        refused: Probability of an upright axial chest CT slice below which no score is given.
        unusual: The same, below which the score comes with the reason.
        far: Distance among the deepest features, in units of the usual one between training slices.
        strange: Mahalanobis' distance among the shallow features.
        tone: Distance to the nearest training slices in how greys are spread.
        greys: Of 256, in use inside the body, below which they are too few.
        outside: Share of the likeliest class's evidence that lies outside the body, above which that is said.
    """

    refused: Finite
    unusual: Finite
    far: Finite
    strange: Finite
    tone: Finite
    greys: Finite
    outside: Finite


@dataclass(frozen=True, config=STRICT)
class GateCard:
    """What a model's gate says of itself; its tensors lie beside the network's.

    Attributes:
        thresholds: Where its verdicts change.
        fitted: How many slices, pictures and sources it was fitted to.
        kinds: What its linear layer tells apart, in the order of its rows.
    """

    thresholds: Thresholds
    fitted: dict[str, int]
    kinds: tuple[str, ...]


@dataclass(frozen=True, config=STRICT)
class Card:
    """The header of a model file. Plain JSON, readable without torch.

    Attributes:
        classes: Keys, in the order of the logits.
        preprocess: How a slice becomes the network's square.
        architecture: How the network is built.
        recipe: How it was trained, in full.
        data: Fingerprint, slices a split, files skipped.
        metrics: Split -> n, accuracy, its 95 % interval, cross-entropy, confusion.
        map_scale_top: Logit units: 99th percentile of positive map values over the training slices.
        golden_logits: Of the phantom, fp32.
        tensors_sha256: Of the network's tensors, the gate's left out.
        calibration: None until one has been measured for the recipe.
        gate: None after a new training: then every slice is unusual.
    """

    classes: tuple[str, ...]
    preprocess: Preprocess
    architecture: Architecture
    recipe: dict[str, Any]
    data: dict[str, Any]
    metrics: dict[str, Any]
    map_scale_top: Positive
    golden_logits: tuple[float, ...] = ()
    tensors_sha256: str = ""
    calibration: Calibration | None = None
    gate: GateCard | None = None
    intended_use: str = INTENDED_USE
    schema: int = SCHEMA

    @property
    def model_id(self) -> str:
        """A name that two different sets of weights never share."""
        return f"resnet18-{self.tensors_sha256[:12]}"

    @property
    def recipe_digest(self) -> str:
        """The recipe's name by content."""
        return sha256(json.dumps(self.recipe, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def temperature(self) -> float:
        """What logits are divided by before the softmax; 1 where the model is not calibrated."""
        return self.calibration.temperature if self.calibration else 1.0

    def to_json(self) -> str:
        """One line, keys sorted: the same card is always the same text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Read what `to_json` wrote.

        Raises:
            ModelError: Another schema, another class list, entries that are missing, unknown or of another kind.
        """
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
