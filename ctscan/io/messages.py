"""What a process that reads strangers' files is sent and answers, as bytes in a pipe.

A message is 8 bytes of length and that many bytes. A slice is its fields as JSON and its pixels as they lie in memory;
a refusal is a notice as JSON. Of a whole scan one slice comes after the other, or why it cannot be read. Whoever
receives believes nothing: the process at the other end may have been taken over by a file.
"""

from __future__ import annotations

import json
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ctscan.errors import UnreadableSlice
from ctscan.io.images import LONGEST_SIDE, Gap, Slice, Survey, every
from ctscan.io.medical import refusing
from ctscan.io.stack import Stack, assemble, check_room, to_units
from ctscan.notices import Notice

MAX_FIELDS = 1 << 16  # bytes: all of a slice but its pixels
NO_PIXELS = np.zeros((0, 0), np.float32)
# What receiving raises where the sender is gone, and where it was taken over and says what no child of ours says.
GONE = (OSError, EOFError, ValueError, TypeError, KeyError)


def send(stream: IO[bytes], message: bytes | bytearray | memoryview) -> None:
    """Write one message. Raises OSError."""
    stream.write(len(message).to_bytes(8, "little"))
    stream.write(message)
    stream.flush()


def receive(stream: IO[bytes], most: int) -> bytes:
    """Read one message of at most `most` bytes. Raises EOFError, and ValueError for a longer one."""
    head = stream.read(8)
    length = int.from_bytes(head, "little")
    if length > most:
        raise ValueError("too long")
    message = stream.read(length)
    if len(head) < 8 or len(message) < length:
        raise EOFError
    return message


def send_outcome(stream: IO[bytes], outcome: Slice | Survey | Notice) -> None:
    """Write a slice or a survey, or why there is none. Raises OSError."""
    pixels = outcome.pixels if isinstance(outcome, Slice) else None
    fields = vars(outcome) if pixels is None else vars(outcome) | {"pixels": pixels.shape}
    send(stream, json.dumps(fields, default=vars).encode())
    if pixels is not None:
        send(stream, pixels.data.cast("B"))


def receive_outcome(stream: IO[bytes]) -> Slice | Survey | Notice:
    """Read what `send_outcome` wrote. Raises one of GONE for anything else."""
    fields: dict[str, Any] = json.loads(receive(stream, MAX_FIELDS))
    if not isinstance(fields, dict):
        raise TypeError("no object")
    if "code" in fields:
        return _from_json(fields)
    if "slices" in fields:
        return Survey(int(fields.pop("slices")), **fields)
    height, width = fields.pop("pixels")
    values = np.frombuffer(receive(stream, 4 * LONGEST_SIDE**2), np.float32)  # of bytes: read-only
    return _slice_from(fields, values.reshape(height, width))


def send_stack(stream: IO[bytes], data: bytes, window: tuple[float, float]) -> None:
    """Write all slices of a file as they are read, no pixels of one alone. Raises OSError, and UnreadableSlice."""
    for number, count, part in every(data, window):
        place = {"number": number, "count": count}
        if isinstance(part, Gap):
            if count < 2:
                raise UnreadableSlice(part.notice)
            send(stream, json.dumps(vars(part) | place, default=vars).encode())
            continue
        height, width = part.pixels.shape
        check_room(count, height, width)
        send(stream, json.dumps(vars(part) | place | {"pixels": (height, width)}, default=vars).encode())
        if count < 2:
            return
        with refusing():
            units = to_units(part)
        send(stream, units.data.cast("B"))


def receive_stack(stream: IO[bytes]) -> Stack | Notice | None:
    """Read what `send_stack` wrote. Raises UnreadableSlice for too much, and one of GONE for anything else."""
    count, units, parts = 1, np.empty((0, 0, 0), np.int16), dict[int, Slice | Gap]()
    while len(parts) < count:
        fields: dict[str, Any] = json.loads(receive(stream, MAX_FIELDS))
        if "code" in fields:
            return _from_json(fields)
        number, stated = fields.pop("number"), fields.pop("count")
        if stated < 2:
            return None
        if number in parts or not 0 <= number < stated or (parts and stated != count):
            raise ValueError("other slices")
        count = stated
        if "notice" in fields:
            check_room(count, 0, 0)
            parts[number] = Gap(_from_json(fields["notice"]), fields["position"])
            continue
        height, width = fields.pop("pixels")
        if not units.size:
            check_room(count, height, width)
            units = np.empty((count, height, width), np.int16)
        units[number] = np.frombuffer(receive(stream, 2 * height * width), "<i2").reshape(units.shape[1:])
        parts[number] = _slice_from(fields, NO_PIXELS)
    return assemble(units, [parts[number] for number in range(count)])


def _slice_from(fields: dict[str, Any], pixels: NDArray[np.float32]) -> Slice:
    notices = tuple(_from_json(notice) for notice in fields.pop("notices"))
    facts: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return Slice(pixels, notices, **facts)


def _from_json(fields: dict[str, Any]) -> Notice:
    notice = Notice(**fields)
    str(notice)  # raises KeyError, ValueError or TypeError for what the catalogue cannot say
    return notice
