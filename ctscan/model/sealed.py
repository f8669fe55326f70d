"""Tensors and a card -> one safetensors file in which every byte is vouched for, and back. No pickle, no torch.

Layout (safetensors): 8 bytes length, JSON header, tensor bytes. The header's metadata holds `card` (JSON) and
`card_sha256`; the card holds the SHA-256 of the tensor bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from ctscan.errors import ModelError

Tensors = dict[str, NDArray[np.generic]]

LFS_POINTER = b"version https://git-lfs"  # how a file begins whose content git-lfs has not fetched
LENGTH_BYTES = 8  # of the little-endian header length in front of a safetensors file
MAX_HEADER = 1 << 20


@dataclass(frozen=True, eq=False)
class Sealed:
    """What a file holds. The caller compares `tensors_sha256` with the one in its card."""

    card: str  # JSON, as it was written
    raw: bytes  # the whole file
    tensors_sha256: str

    def tensors(self) -> Tensors:
        """Raises ModelError where the tensors are damaged."""
        try:
            return safetensors.numpy.load(self.raw)
        except SafetensorError:
            raise ModelError("Its tensors are damaged.") from None


def read_sealed(raw: bytes) -> Sealed:
    """Bytes of a file -> its card, verified, and its tensors, not read yet. Raises ModelError."""
    metadata, body = _split_file(raw)
    text = metadata.get("card", "") if isinstance(metadata, dict) else ""
    if not text or hashlib.sha256(text.encode()).hexdigest() != metadata.get("card_sha256"):
        raise ModelError("Its card is missing or was changed after it was written.")
    return Sealed(text, raw, hashlib.sha256(body).hexdigest())


def _split_file(raw: bytes) -> tuple[dict[str, str], memoryview]:
    """Bytes of a safetensors file -> the metadata of its header, its tensor bytes."""
    if raw.startswith(LFS_POINTER):
        raise ModelError("It is a git-lfs pointer, not the file itself: run `git lfs pull`.")
    length = int.from_bytes(raw[:LENGTH_BYTES], "little")
    if len(raw) < LENGTH_BYTES or length > MAX_HEADER or len(raw) < LENGTH_BYTES + length:
        raise ModelError("It is no safetensors file, or it is cut off.")
    try:
        header = json.loads(raw[LENGTH_BYTES : LENGTH_BYTES + length])
        metadata = header.pop("__metadata__")
        end = max(entry["data_offsets"][1] for entry in header.values())
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise ModelError("Its header is damaged or not one that ctscan wrote.") from None
    body = memoryview(raw)[LENGTH_BYTES + length :]
    if not isinstance(end, int) or len(body) != end:
        raise ModelError(f"It is cut off or too long: {len(body)} bytes of tensors where {end} belong.")
    return metadata, body


def seal(tensors: Tensors, card_of: Callable[[str], str]) -> bytes:
    """The bytes of a file. `card_of` gives the card's JSON for the SHA-256 of the tensor bytes."""
    bare = safetensors.numpy.save({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)})
    start = LENGTH_BYTES + int.from_bytes(bare[:LENGTH_BYTES], "little")
    header, body = json.loads(bare[LENGTH_BYTES:start]), bare[start:]
    text = card_of(hashlib.sha256(body).hexdigest())
    header["__metadata__"] = {"card": text, "card_sha256": hashlib.sha256(text.encode()).hexdigest()}
    return encode_header(header) + body


def encode_header(header: dict[str, Any]) -> bytes:
    """Length and JSON of a safetensors header, keys sorted (the library's order varies), padded to 8 bytes."""
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


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
