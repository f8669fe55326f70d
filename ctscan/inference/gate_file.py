"""A gate beside its checkpoint: one safetensors file <-> reference and card. No pickle, no torch.

Laid out and verified as a checkpoint is. The card names the model the gate was fitted to, for its features are that
model's; a gate of another model is refused.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ctscan.errors import ModelError
from ctscan.inference.gate import KINDS, Reference, Thresholds
from ctscan.model.sealed import Tensors, read_sealed, replace_file, seal

SCHEMA = 1
FULL = ("bias", "usual")  # stored float32, all else float16: distances change in their fourth digit
SUFFIX = ".gate.safetensors"


@dataclass(frozen=True)
class GateCard:
    """The header of a gate's file. Plain JSON."""

    model_id: str
    thresholds: Thresholds
    fitted: dict[str, Any]  # what it was fitted to: slices, pictures, sources
    tensors_sha256: str = ""
    kinds: tuple[str, ...] = KINDS
    schema: int = SCHEMA

    def to_json(self) -> str:
        """One line, keys sorted."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> GateCard:
        """Raises ModelError for another schema, other kinds, missing or unknown entries."""
        try:
            entries = json.loads(text)
            entries["thresholds"] = Thresholds(**{name: float(v) for name, v in entries["thresholds"].items()})
            card = cls(**entries | {"kinds": tuple(entries["kinds"])})
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ModelError("Its card is not one that this version of ctscan knows.") from None
        if card.schema != SCHEMA or card.kinds != KINDS:
            raise ModelError("Its card is not one that this version of ctscan knows.")
        return card


def gate_path(checkpoint: Path) -> Path:
    """Where a checkpoint's gate lies: `resnet18.gate.safetensors` beside `resnet18.safetensors` or `resnet18.onnx`."""
    return checkpoint.with_name(checkpoint.name.split(".")[0] + SUFFIX)


def read_gate(path: Path) -> tuple[GateCard, Reference]:
    """Read and verify. Raises ModelError for everything that is not exactly what was written."""
    try:
        sealed = read_sealed(path.read_bytes())
        card = GateCard.from_json(sealed.card)
        if sealed.tensors_sha256 != card.tensors_sha256:
            raise ModelError("It was changed after it was written.")
        tensors = sealed.tensors()
        return card, Reference(**{f.name: tensors[f.name].astype(np.float32) for f in fields(Reference)})
    except OSError as error:
        raise ModelError(f"The gate {path} cannot be opened ({error.strerror}).") from None
    except ModelError as error:
        raise ModelError(f"The gate {path} is refused. {error}") from None
    except KeyError:
        raise ModelError(f"The gate {path} is refused. A tensor is missing.") from None


def write_gate(path: Path, card: GateCard, reference: Reference) -> GateCard:
    """Write, all or nothing; gives the card back with the SHA-256 filled in. Raises ModelError."""
    tensors: Tensors = {
        f.name: np.asarray(getattr(reference, f.name), np.float32 if f.name in FULL else np.float16)
        for f in fields(Reference)
    }
    data = seal(tensors, lambda digest: replace(card, tensors_sha256=digest).to_json())
    try:
        replace_file(path, data)
    except OSError as error:
        raise ModelError(f"The gate {path} cannot be written ({error.strerror}).") from None
    return replace(card, tensors_sha256=read_sealed(data).tensors_sha256)
