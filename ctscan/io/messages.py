"""What a process that reads strangers' files is sent and answers, as bytes in a pipe.

A message is 8 bytes of length and that many bytes. A slice is its fields as JSON and its pixels as they lie in memory;
a refusal is a notice as JSON. Of a whole scan the pixels come part by part, and of each slice its fields, or why it
cannot be read. Whoever receives believes nothing: the process at the other end may have been taken over by a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ctscan.errors import UnreadableSlice
from ctscan.io.images import LONGEST_SIDE, Gap, Slice, Survey
from ctscan.io.medical import refusing
from ctscan.io.stack import NO_PIXELS, Part, Plate, Stack, assemble, check_room, every, to_units
from ctscan.notices import Notice

MAX_FIELDS = 1 << 20  # bytes: all of a slice but its pixels, the places of all slices of a file
# What receiving raises where the sender is gone, and where it was taken over and says what no child of ours says.
GONE = (OSError, EOFError, ValueError, TypeError, LookupError)


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
    if "positions" in fields:
        return Survey(tuple(None if place is None else float(place) for place in fields.pop("positions")), **fields)
    height, width = fields.pop("pixels")
    values = np.frombuffer(receive(stream, 4 * LONGEST_SIDE**2), np.float32)  # of bytes: read-only
    return _slice_from(fields, values.reshape(height, width))


def parts_of(
    data: bytes, window: tuple[float, float], first: int = 0, lost: str | None = None
) -> Iterator[tuple[bytes | memoryview, ...]]:
    """All slices of a file as they are read, each as its messages; no pixels of one alone.

    Args:
        data: As for `every`.
        window: As for `every`.
        first: Those before it are left out.
        lost: Why the first one is a gap, as the code of a notice: reading it has cost another process its life.

    Raises:
        UnreadableSlice: And nothing else.
    """
    for part in every(data, window):
        if isinstance(part, Plate):
            if lost:  # over no slice in particular
                raise UnreadableSlice(Notice(lost))
            yield _sent(part)
        elif part.number >= first:
            yield _read(part, lost if part.number == first else None)


def _read(part: Part, lost: str | None) -> tuple[bytes | memoryview, ...]:
    place = {"number": part.number, "count": part.count}
    try:
        if lost:
            raise UnreadableSlice(Notice(lost))
        slice_ = part.read()
    except UnreadableSlice as error:
        if part.count < 2:
            raise
        return (json.dumps(vars(Gap(error.notice, part.position)) | place, default=vars).encode(),)
    fields = vars(slice_) | place
    del fields["pixels"]
    said = json.dumps(fields, default=vars).encode()
    if part.count < 2 or not slice_.pixels.size:
        return (said,)
    height, width = slice_.pixels.shape
    return (*_sent(Plate(0, part.number, (part.count, height, width), slice_.pixels)), said)


def _sent(plate: Plate) -> tuple[bytes | memoryview, ...]:
    check_room(*plate.shape)
    with refusing():
        units = np.ascontiguousarray(to_units(plate.pixels))
    return json.dumps({"axis": plate.axis, "place": plate.place, "shape": plate.shape}).encode(), units.data.cast("B")


@dataclass
class Arriving:
    """A scan of which some slices have come, out of one process or, where that is lost, of several.

    Attributes:
        parts: By their numbers.
        units: As of a `Stack`.
    """

    parts: dict[int, Slice | Gap] = field(default_factory=dict)
    units: NDArray[np.int16] = field(default_factory=lambda: np.zeros((0, 0, 0), np.int16))

    def receive(self, stream: IO[bytes]) -> Stack | Notice | None:
        """Read the messages of `parts_of` up to the last; None where there is but one slice.

        Raises UnreadableSlice for too much, and one of GONE for anything else.
        """
        count = 0
        while not count or len(self.parts) < count:
            fields: dict[str, Any] = json.loads(receive(stream, MAX_FIELDS))
            if "code" in fields:
                return _from_json(fields)
            if "axis" in fields:
                self._place(stream, **fields)
                continue
            number, count = fields.pop("number"), fields.pop("count")
            if count < 2:
                return None
            if number in self.parts or not 0 <= number < count:
                raise ValueError("other slices")
            check_room(count, 0, 0)
            is_gap = "notice" in fields
            self.parts[number] = (
                Gap(_from_json(fields["notice"]), fields["position"]) if is_gap else _slice_from(fields, NO_PIXELS)
            )
        return assemble(self.units, [self.parts[number] for number in range(count)])

    def _place(self, stream: IO[bytes], axis: int, place: int, shape: tuple[int, int, int]) -> None:
        if not self.units.size:
            check_room(*shape)
            self.units = np.zeros(shape, np.int16)  # and nothing of this process's, where a plate should not come
        plate = np.moveaxis(self.units, axis, 0)[int(place)]
        plate[...] = np.frombuffer(receive(stream, plate.nbytes), "<i2").reshape(plate.shape)


def _slice_from(fields: dict[str, Any], pixels: NDArray[np.float32]) -> Slice:
    notices = tuple(_from_json(notice) for notice in fields.pop("notices"))
    facts: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return Slice(pixels, notices, **facts)


def _from_json(fields: dict[str, Any]) -> Notice:
    notice = Notice(**fields)
    str(notice)  # raises KeyError, ValueError or TypeError for what the catalogue cannot say
    return notice
