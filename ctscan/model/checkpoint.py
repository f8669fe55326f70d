"""A model as one file, in which every byte is vouched for: weights, gate and card. No pickle, no torch.

A checkpoint is a safetensors file: 8 bytes length, JSON header, tensors. The header's metadata holds the card (JSON)
and the SHA-256 of everything else in the file. The gate's tensors are those whose name begins with `gate.`.

An exported ONNX file holds card and gate in its metadata, as ONNX Runtime reads them. Its last bytes are one more
metadata entry, the SHA-256 of all bytes before them, so that it is checked before any library sees it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from ctscan.errors import ModelError
from ctscan.files import write
from ctscan.model.card import Card

Tensors = dict[str, NDArray[np.generic]]

LFS_POINTER = b"version https://git-lfs"  # how a file begins whose content git-lfs has not fetched
LENGTH_BYTES = 8  # of the little-endian header length in front of a safetensors file
MAX_HEADER = 1 << 20
GATE = "gate."  # how the names of the gate's tensors begin
# An ONNX file is a protobuf message, to which fields may be appended: field 14 of ModelProto is a metadata entry of
# key (field 1) and value (field 2). Its length is always the same, so the digest is found from the end of the file.
ONNX_SEAL = b"\x72\x4a\x0a\x06sha256\x12\x40"
ONNX_SEAL_BYTES = len(ONNX_SEAL) + 64


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model at rest."""

    card: Card
    tensors: Tensors  # the network's weights by name, as stored: large ones float16
    gate: Tensors | None = None  # the gate's tensors by name; None after a new training


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint. Raises ModelError where it is not there or not exactly what was written."""
    raw = read_bytes(path)
    try:
        header, body = _split(raw)
        metadata = header.pop("__metadata__")
        card_json, digest = metadata["card"], metadata.get("sha256")
        if digest is None:
            raise ModelError(
                "It was written by an earlier version of ctscan, which kept the gate in a file of its own."
            )
        if digest != _digest(header, card_json, body) or raw[: len(raw) - len(body)] != _encode(header, metadata):
            raise ModelError("It was changed after it was written: the SHA-256 differs from the one stored.")
        tensors = safetensors.numpy.load(raw)
        card = Card.from_json(card_json)
    except (KeyError, TypeError, AttributeError, SafetensorError):
        raise ModelError(f"The model {path} is refused. It is not one that ctscan wrote.") from None
    except ModelError as error:
        raise ModelError(f"The model {path} is refused. {error}") from None
    gate = {name.removeprefix(GATE): values for name, values in tensors.items() if name.startswith(GATE)}
    return Checkpoint(card, {n: v for n, v in tensors.items() if not n.startswith(GATE)}, gate if card.gate else None)


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> Card:
    """Write a checkpoint, all or nothing; gives its card with the SHA-256 that names the model. Raises DataError."""
    of_network = hashlib.sha256(_split(pack(checkpoint.tensors))[1]).hexdigest()
    card = replace(checkpoint.card, tensors_sha256=of_network)
    header, body = _split(pack(checkpoint.tensors | {GATE + n: v for n, v in (checkpoint.gate or {}).items()}))
    card_json = card.to_json()
    metadata = {"card": card_json, "sha256": _digest(header, card_json, body)}
    write(path, _encode(header, metadata) + body)
    return card


def is_checkpoint(path: Path) -> bool:
    """Whether a file begins as a checkpoint does, whose header opens at its ninth byte; True if unreadable."""
    try:
        with path.open("rb") as file:
            start = file.read(LENGTH_BYTES + 1)
    except OSError:
        return True
    return start[LENGTH_BYTES:] == b"{" or LFS_POINTER.startswith(start[:LENGTH_BYTES] or b"?")


def read_onnx(path: Path) -> bytes:
    """The bytes of an ONNX file. Raises ModelError where it is not there or not exactly what was written."""
    raw = read_bytes(path)
    seal = raw[-ONNX_SEAL_BYTES:]
    if not seal.startswith(ONNX_SEAL):
        raise ModelError(f"The model {path} is refused. It is cut off, or not one that ctscan wrote.")
    if seal != seal_onnx(raw[:-ONNX_SEAL_BYTES])[-ONNX_SEAL_BYTES:]:
        raise ModelError(f"The model {path} is refused. It was changed after it was written.")
    return raw


def seal_onnx(model: bytes) -> bytes:
    """A serialised ONNX model with the SHA-256 of its bytes behind it."""
    return model + ONNX_SEAL + hashlib.sha256(model).hexdigest().encode()


def onnx_metadata(checkpoint: Checkpoint, export: Mapping[str, Any]) -> dict[str, str]:
    """What an ONNX file holds beside its graph: card, gate, and how it was exported."""
    gate = base64.b64encode(pack(checkpoint.gate)).decode() if checkpoint.gate else ""
    return {"card": checkpoint.card.to_json(), "gate": gate, "export": json.dumps(export, sort_keys=True)}


def read_onnx_metadata(entries: Mapping[str, str]) -> tuple[Card, Tensors | None, dict[str, Any]]:
    """Card, gate's tensors and facts of the export, as `onnx_metadata` wrote them. Raises ModelError."""
    try:
        card, export = Card.from_json(entries["card"]), json.loads(entries["export"])
        gate = safetensors.numpy.load(base64.b64decode(entries["gate"])) if entries["gate"] else None
        return card, gate, dict(export)
    except (KeyError, TypeError, ValueError, RecursionError, SafetensorError):
        raise ModelError("Its metadata is not what this version of ctscan writes.") from None


def pack(tensors: Tensors) -> bytes:
    """Tensors as a safetensors file without metadata."""
    return safetensors.numpy.save({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)})


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises ModelError where it cannot be opened, or git-lfs has not fetched it."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"There is no model at {path}.") from None
    except OSError as error:
        raise ModelError(f"The model {path} cannot be opened ({error.strerror}).") from None
    if raw.startswith(LFS_POINTER):
        raise ModelError(f"The model {path} is a git-lfs pointer, not the file itself: run `git lfs pull`.")
    return raw


def _split(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """Bytes of a safetensors file -> its header, its tensor bytes. Raises ModelError."""
    length = int.from_bytes(raw[:LENGTH_BYTES], "little")
    if len(raw) < LENGTH_BYTES or length > MAX_HEADER or len(raw) < LENGTH_BYTES + length:
        raise ModelError("It is no safetensors file, or it is cut off.")
    try:
        header: dict[str, Any] = json.loads(raw[LENGTH_BYTES : LENGTH_BYTES + length])
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise ModelError("Its header is damaged or not one that ctscan wrote.") from None
    body = raw[LENGTH_BYTES + length :]
    if len(body) != end:
        raise ModelError(f"It is cut off or too long: {len(body)} bytes of tensors where {end} belong.")
    return header, body


def _encode(header: dict[str, Any], metadata: dict[str, str]) -> bytes:
    """Length and JSON of a header, keys sorted (the library's order varies), padded to 8 bytes."""
    text = json.dumps(header | {"__metadata__": metadata}, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _digest(header: dict[str, Any], card_json: str, body: bytes) -> str:
    return hashlib.sha256(_encode(header, {"card": card_json}) + body).hexdigest()
