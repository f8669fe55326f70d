"""One safetensors file <-> Checkpoint: the weights and, in the header, the card. No pickle, no torch.

Layout of the file (safetensors): 8 bytes length, JSON header, tensor bytes. The header's metadata holds
`card` (JSON), and `card_sha256`; the card holds the SHA-256 of the tensor bytes, so every byte is vouched for.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from ctscan.card import Card, CardError

Tensors = dict[str, NDArray[np.generic]]

LFS_POINTER = b"version https://git-lfs"  # how a file begins whose content git-lfs has not fetched
LENGTH_BYTES = 8  # of the little-endian header length in front of a safetensors file
MAX_HEADER = 1 << 20


class CheckpointError(ValueError):
    """A checkpoint that is refused; the text is one sentence that names the file and what is wrong."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights by name, as stored (large ones float16), and the card that belongs to them."""

    card: Card
    tensors: Tensors


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify. Raises CheckpointError for everything that is not exactly what was written."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"There is no checkpoint at {path}.") from None
    except OSError as error:
        raise CheckpointError(f"The checkpoint {path} cannot be opened ({error.strerror}).") from None
    try:
        metadata, body = _split_file(raw)
        card = _verified_card(metadata, body)
        return Checkpoint(card, safetensors.numpy.load(raw))
    except CardError as error:
        raise CheckpointError(f"The checkpoint {path} is refused. {error}") from None
    except SafetensorError:
        raise CheckpointError(f"The checkpoint {path} is refused. Its tensors are damaged.") from None


def _split_file(raw: bytes) -> tuple[dict[str, str], memoryview]:
    """Bytes of a safetensors file -> the metadata of its header, its tensor bytes."""
    if raw.startswith(LFS_POINTER):
        raise CardError("It is a git-lfs pointer, not the file itself: run `git lfs pull`.")
    length = int.from_bytes(raw[:LENGTH_BYTES], "little")
    if len(raw) < LENGTH_BYTES or length > MAX_HEADER or len(raw) < LENGTH_BYTES + length:
        raise CardError("It is no safetensors file, or it is cut off.")
    try:
        header = json.loads(raw[LENGTH_BYTES : LENGTH_BYTES + length])
        metadata = header.pop("__metadata__")
        end = max(entry["data_offsets"][1] for entry in header.values())
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise CardError("Its header is damaged or not one that ctscan wrote.") from None
    body = memoryview(raw)[LENGTH_BYTES + length :]
    if not isinstance(end, int) or len(body) != end:
        raise CardError(f"It is cut off or too long: {len(body)} bytes of tensors where {end} belong.")
    return metadata, body


def _verified_card(metadata: dict[str, str], body: memoryview) -> Card:
    text = metadata.get("card", "") if isinstance(metadata, dict) else ""
    if not text or hashlib.sha256(text.encode()).hexdigest() != metadata.get("card_sha256"):
        raise CardError("Its card is missing or was changed after it was written.")
    card = Card.from_json(text)
    if hashlib.sha256(body).hexdigest() != card.tensors_sha256:
        raise CardError("Its weights were changed after it was written: the SHA-256 differs from the card's.")
    return card


def write_checkpoint(path: Path, card: Card, tensors: Tensors) -> Card:
    """Write weights and card, all or nothing; gives the card back with the SHA-256 filled in.

    Raises CheckpointError where the file cannot be written, as on a full disk; what stood there stays.
    """
    bare = safetensors.numpy.save({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)})
    start = LENGTH_BYTES + int.from_bytes(bare[:LENGTH_BYTES], "little")
    header, body = json.loads(bare[LENGTH_BYTES:start]), bare[start:]
    card = replace(card, tensors_sha256=hashlib.sha256(body).hexdigest())
    text = card.to_json()
    header["__metadata__"] = {"card": text, "card_sha256": hashlib.sha256(text.encode()).hexdigest()}
    try:
        replace_file(path, encode_header(header) + body)
    except OSError as error:
        raise CheckpointError(f"The checkpoint {path} cannot be written ({error.strerror}).") from None
    return card


def replace_file(path: Path, data: bytes) -> None:
    """Write a file, all or nothing. Raises OSError, as on a full disk; what stood there stays."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


def encode_header(header: dict[str, Any]) -> bytes:
    """Length and JSON of a safetensors header, keys sorted (the library's order varies), padded to 8 bytes."""
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
