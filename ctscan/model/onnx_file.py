"""One ONNX file <-> its graph's bytes and what it says of itself. Neither torch nor an ONNX library is needed.

An ONNX file is a protobuf message, a row of numbered fields. ctscan writes the model as it was exported and behind
it three metadata entries: `card` (JSON), `export` (JSON), which holds the SHA-256 of the model, and `sha256` of both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctscan.errors import ModelError
from ctscan.model.card import Card
from ctscan.model.sealed import replace_file

OPSET = 18  # of ONNX: the operators that an exported graph may use

# Field numbers of the messages ModelProto, OperatorSetIdProto and StringStringEntryProto in onnx.proto
MODEL_GRAPH, MODEL_OPSET, MODEL_METADATA = 7, 8, 14
OPSET_DOMAIN, OPSET_VERSION = 1, 2
ENTRY_KEY, ENTRY_VALUE = 1, 2
VARINT, LENGTH_DELIMITED = 0, 2  # how a field is stored
MAX_VARINT = 10  # bytes


@dataclass(frozen=True)
class OnnxFile:
    """What an ONNX file says of itself."""

    card: Card
    precision: str  # `fp32` or `int8`
    quantisation: dict[str, Any] = field(default_factory=dict)  # int8: what it was calibrated on and what it lost


def read_onnx_file(path: Path) -> OnnxFile:
    """Read and verify every byte. Raises ModelError for all that is not exactly what ctscan wrote."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(
            f"There is no ONNX file at {path}; `python -m ctscan export --onnx {path}` makes it."
        ) from None
    except OSError as error:
        raise ModelError(f"The ONNX file {path} cannot be opened ({error.strerror}).") from None
    try:
        return _verified(memoryview(raw))
    except ModelError as error:
        raise ModelError(f"The ONNX file {path} is refused. {error}") from None


def write_onnx_file(path: Path, model: bytes, file: OnnxFile) -> None:
    """Write a serialised model that has no metadata of its own, all or nothing.

    Raises ModelError where the file cannot be written; what stood there stays.
    """
    export = {"precision": file.precision, "quantisation": file.quantisation, "opset": OPSET}
    export["model_sha256"] = hashlib.sha256(model).hexdigest()
    card, text = file.card.to_json(), json.dumps(export, sort_keys=True, separators=(",", ":"))
    entries = {"card": card, "export": text, "sha256": _digest(card, text)}
    try:
        replace_file(path, model + b"".join(_encode_entry(key, value) for key, value in entries.items()))
    except OSError as error:
        raise ModelError(f"The ONNX file {path} cannot be written ({error.strerror}).") from None


def _verified(raw: memoryview) -> OnnxFile:
    model, entries, opset, has_graph = hashlib.sha256(), {}, 0, False
    try:
        for number, value, span in _fields(raw):
            has_graph |= number == MODEL_GRAPH
            if number == MODEL_METADATA:
                entry = {n: bytes(v).decode() for n, v, _ in _fields(_message(value))}
                entries[entry[ENTRY_KEY]] = entry[ENTRY_VALUE]
                continue
            model.update(span)
            if number == MODEL_OPSET:
                opset = _default_opset(_message(value)) or opset
    except (ValueError, LookupError, TypeError):
        raise ModelError("It is no ONNX file, or it is cut off or damaged.") from None
    if not has_graph:
        raise ModelError("It is no ONNX file, or it is cut off or damaged.")
    if not {"card", "export", "sha256"} <= entries.keys():
        raise ModelError("It is an ONNX file that ctscan did not write.")
    if opset != OPSET:
        raise ModelError(f"It uses opset {opset}; this version of ctscan writes and reads opset {OPSET}.")
    if entries["sha256"] != _digest(entries["card"], entries["export"]):
        raise ModelError("Its card was changed after it was written.")
    return _described(entries, model.hexdigest())


def _described(entries: dict[str, str], model_sha256: str) -> OnnxFile:
    card = Card.from_json(entries["card"])
    try:
        export = json.loads(entries["export"])
        expected, file = export["model_sha256"], OnnxFile(card, export["precision"], export["quantisation"])
    except (ValueError, KeyError, TypeError):
        raise ModelError("Its metadata is not one that this version of ctscan writes.") from None
    if expected != model_sha256:
        raise ModelError("Its graph was changed after it was written: the SHA-256 differs from the one stored.")
    return file


def _digest(card: str, export: str) -> str:
    return hashlib.sha256(f"{card}\n{export}".encode()).hexdigest()


def _fields(raw: memoryview) -> Iterator[tuple[int, int | memoryview, memoryview]]:
    """Number, value and all bytes of each field of a message. Raises ValueError or IndexError where it is none."""
    place = 0
    while place < len(raw):
        start = place
        key, place = _read_varint(raw, place)
        number, storage = key >> 3, key & 7
        if storage not in (VARINT, LENGTH_DELIMITED) or not number:
            raise ValueError(f"field {number} is stored as {storage}")
        value, place = _read_varint(raw, place)
        if storage == VARINT:
            yield number, value, raw[start:place]
            continue
        end = place + value
        if end > len(raw):
            raise ValueError(f"field {number} is cut off")
        yield number, raw[place:end], raw[start:end]
        place = end


def _read_varint(raw: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(MAX_VARINT):
        byte = raw[place + shift]
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, place + shift + 1
    raise ValueError("a number without end")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message belongs")
    return value


def _default_opset(message: memoryview) -> int:
    """The version of ONNX's own operators, 0 where the message is about those of another domain."""
    entries = {number: value for number, value, _ in _fields(message)}
    version = entries.get(OPSET_VERSION, 0)
    return version if isinstance(version, int) and not entries.get(OPSET_DOMAIN) else 0


def _encode_entry(key: str, value: str) -> bytes:
    entry = _encode_field(ENTRY_KEY, key.encode()) + _encode_field(ENTRY_VALUE, value.encode())
    return _encode_field(MODEL_METADATA, entry)


def _encode_field(number: int, value: bytes) -> bytes:
    return _encode_varint(number << 3 | LENGTH_DELIMITED) + _encode_varint(len(value)) + value


def _encode_varint(value: int) -> bytes:
    digits = []
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])
