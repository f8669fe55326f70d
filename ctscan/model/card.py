"""What a checkpoint says of itself: how to build it, how to feed it, what it was made from, what it is worth."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, Literal

from ctscan.classes import CLASS_KEYS
from ctscan.errors import ModelError
from ctscan.imaging.preprocess import Preprocess

SCHEMA = 1

INTENDED_USE = (
    "Education and research: to show how an image classifier reaches an answer and how far that answer can be "
    "trusted. Not for diagnosis, triage or any other decision about a person."
)


@dataclass(frozen=True)
class Architecture:
    """What is needed to build the network again.

    head: `linear` is dropout and one layer; `mlp` is the seed design's 512-512-256-K with ReLU and dropout.
    """

    head: Literal["linear", "mlp"] = "linear"
    dropout: float = 0.2
    normalise: bool = True  # by ImageNet's mean and standard deviation, inside the network
    classes: int = len(CLASS_KEYS)

    def __post_init__(self) -> None:
        if self.head not in ("linear", "mlp") or not 0 <= self.dropout < 1 or self.classes < 2:
            raise ValueError(f"not an architecture that ctscan knows: {self}")


@dataclass(frozen=True)
class Calibration:
    """What makes probabilities of a model's logits, and sets of classes of these; from slices out of fold."""

    temperature: float  # logits are divided by it before the softmax
    alpha: float  # share of each class's scans whose set may miss it
    thresholds: tuple[float, ...]  # one a class: how far below 1 its probability may lie, and it is still in the set

    def __post_init__(self) -> None:
        numbers = (self.temperature, self.alpha, *self.thresholds)
        if not all(isfinite(number) for number in numbers) or self.temperature <= 0:
            raise ValueError(f"not a calibration: {self}")


@dataclass(frozen=True)
class Card:
    """The header of a checkpoint. Plain JSON, readable without torch."""

    classes: tuple[str, ...]  # keys, in the order of the logits
    preprocess: Preprocess
    architecture: Architecture
    training: dict[str, Any]  # the configuration of the run
    data: dict[str, Any]  # fingerprint, slices per split, files skipped
    metrics: dict[str, Any]  # split -> Score: n, accuracy, 95 % interval, cross-entropy, confusion
    map_scale_top: float  # logit units: 99th percentile of positive map values over the training slices
    golden_logits: tuple[float, ...]  # of the phantom, fp32
    tensors_sha256: str  # of the tensor bytes of the file
    calibration: Calibration | None = None  # None until `evaluate.py --calibrate` has been run for the recipe
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
        """Raises ModelError for another schema, another class list, and missing or unknown entries."""
        try:
            entries = json.loads(text)
        except ValueError:
            raise ModelError("Its card is not readable.") from None
        if not isinstance(entries, dict) or entries.get("schema") != SCHEMA:
            raise ModelError(f"Its card does not follow schema {SCHEMA}, the one this version of ctscan knows.")
        entries.setdefault("calibration", None)  # cards of before there was one
        if set(entries) != {f.name for f in fields(cls)}:
            raise ModelError("Its card lacks entries or has unknown ones.")
        if entries["classes"] != list(CLASS_KEYS):
            raise ModelError(f"Its classes are not {', '.join(CLASS_KEYS)}, in this order.")
        try:
            return cls(
                **entries
                | {
                    "classes": tuple(entries["classes"]),
                    "preprocess": Preprocess(**entries["preprocess"]),
                    "architecture": Architecture(**entries["architecture"]),
                    "calibration": _read_calibration(entries["calibration"]),
                    "golden_logits": tuple(float(v) for v in entries["golden_logits"]),
                    "map_scale_top": float(entries["map_scale_top"]),
                }
            )
        except (TypeError, ValueError, KeyError):
            raise ModelError("Its card holds values that this version of ctscan does not know.") from None


def _read_calibration(entries: Any) -> Calibration | None:
    if entries is None:
        return None
    thresholds = tuple(float(v) for v in entries["thresholds"])
    if len(thresholds) != len(CLASS_KEYS):
        raise ValueError
    return Calibration(**entries | {"thresholds": thresholds})
