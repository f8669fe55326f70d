"""One safetensors file <-> Checkpoint: the weights and, in the header, the card. Sealed: see `sealed`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ctscan.errors import ModelError
from ctscan.model.card import Card
from ctscan.model.sealed import Sealed, Tensors, read_sealed, replace_file, seal


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights by name, as stored (large ones float16), and the card that belongs to them."""

    card: Card
    tensors: Tensors


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify. Raises ModelError for everything that is not exactly what was written."""
    try:
        sealed = read_sealed(path.read_bytes())
        return Checkpoint(_verified_card(sealed), sealed.tensors())
    except FileNotFoundError:
        raise ModelError(f"There is no checkpoint at {path}.") from None
    except OSError as error:
        raise ModelError(f"The checkpoint {path} cannot be opened ({error.strerror}).") from None
    except ModelError as error:
        raise ModelError(f"The checkpoint {path} is refused. {error}") from None


def _verified_card(sealed: Sealed) -> Card:
    card = Card.from_json(sealed.card)
    if sealed.tensors_sha256 != card.tensors_sha256:
        raise ModelError("Its weights were changed after it was written: the SHA-256 differs from the card's.")
    return card


def write_checkpoint(path: Path, card: Card, tensors: Tensors) -> Card:
    """Write weights and card, all or nothing; gives the card back with the SHA-256 filled in.

    Raises ModelError where the file cannot be written, as on a full disk; what stood there stays.
    """
    data = seal(tensors, lambda digest: replace(card, tensors_sha256=digest).to_json())
    try:
        replace_file(path, data)
    except OSError as error:
        raise ModelError(f"The checkpoint {path} cannot be written ({error.strerror}).") from None
    return replace(card, tensors_sha256=read_sealed(data).tensors_sha256)
