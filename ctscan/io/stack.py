"""All slices of a volume or a series: in what parts they are read, and as numbers of 16 bits, to scroll through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ctscan.errors import UnreadableSlice
from ctscan.io.headers import sniff
from ctscan.io.images import MEDICAL, Gap, Slice, read_slice, shrink
from ctscan.io.medical import DEFAULT_WINDOW, PRESETS, in_window
from ctscan.notices import Notice

MAX_BYTES = 192 << 20  # of all its values: some 380 slices of 512 x 512
MAX_SLICES = 2048
# A window under which greys are Hounsfield units again: its floats are finer than a hundredth of a unit.
EXACT = (0.0, 65536.0)
BLACK = -(1 << 15)  # under any window
NO_PIXELS = np.zeros((0, 0), np.float32)
NAMED = 10  # gaps, at most, by their numbers


@dataclass(frozen=True, eq=False)
class Stack:
    """One scan.

    Attributes:
        units: Int16 (Z, H, W), Hounsfield units; where the file has none, greys that fill all 16 bits.
        slices: All that is known of each besides its pixels, which are empty; why there is none where it is a gap.
    """

    units: NDArray[np.int16]
    slices: tuple[Slice | Gap, ...]

    @property
    def unit(self) -> Literal["HU"] | None:
        """As of its slices."""
        return next(slice_.unit for slice_ in self.slices if isinstance(slice_, Slice))

    @property
    def positions(self) -> tuple[float, ...] | None:
        """mm towards the head, of each slice; None where one does not say it."""
        found = [slice_.position for slice_ in self.slices if slice_.position is not None]
        return tuple(found) if len(found) == len(self.slices) else None

    def slice(self, number: int) -> Slice:
        """One of them under the usual window, as `read_slice` gives it but for what rounding to units takes.

        Raises UnreadableSlice for a gap.
        """
        known = self.slices[number]
        if isinstance(known, Gap):
            raise UnreadableSlice(known.notice)
        centre, width = asked = PRESETS[DEFAULT_WINDOW] if known.unit else EXACT
        pixels = in_window(self.units[number], *asked)
        pixels.setflags(write=False)
        if known.unit is None:
            return shrink(replace(known, pixels=pixels))
        values = {"centre": centre, "width": width}
        notices = tuple(Notice(n.code, values) if n.values.keys() == values.keys() else n for n in known.notices)
        return shrink(replace(known, pixels=pixels, notices=notices, window=asked))


@dataclass(frozen=True)
class Part:
    """A slice of a scan that is still to be read.

    Attributes:
        number: Counted from the feet up where the file says where its slices lie.
        count: How many there are.
        position: As of a `Slice`.
        read: Gives it, as large as it is stored, and without pixels where those come as plates. Raises UnreadableSlice.
    """

    number: int
    count: int
    position: float | None
    read: Callable[[], Slice]


@dataclass(frozen=True, eq=False)
class Plate:
    """What a volume's file has in one piece: a slice, or one row or one column of all slices.

    Attributes:
        axis: That it lies across: 0 of slices, 1 of rows, 2 of columns.
        place: Where along it.
        shape: How many slices, rows and columns there are.
        pixels: As of a `Slice`, along the two other axes; not finite where a slice is a gap.
    """

    axis: int
    place: int
    shape: tuple[int, int, int]
    pixels: NDArray[np.float32]


def every(data: bytes, window: tuple[float, float]) -> Iterator[Part | Plate]:
    """All slices in the bytes of a file, each to be read once: of a volume the plates, of any file then the parts.

    Args:
        data: As for `read_slice`.
        window: Centre and width under which Hounsfield units become greys.

    Raises:
        UnreadableSlice: And nothing else, whatever the bytes are.
    """
    kind = sniff(data)
    if kind in MEDICAL:
        yield from import_module(MEDICAL[kind]).every(data, window)
    else:
        yield Part(0, 1, None, partial(read_slice, data))


def assemble(units: NDArray[np.int16], parts: Sequence[Slice | Gap]) -> Stack | Notice:
    """A scan of slices and gaps, which are black in it and which the slices tell of; where all are gaps, why.

    Args:
        units: As of a `Stack`, which has them from now on.
        parts: In order.

    Raises:
        ValueError: There are units of more slices, or of fewer.
    """
    gaps = {number: part.notice for number, part in enumerate(parts) if isinstance(part, Gap)}
    if len(gaps) == len(parts):
        return gaps[0]
    if len(units) != len(parts):
        raise ValueError("other slices")
    units[list(gaps)] = BLACK
    units.setflags(write=False)
    numbers = ", ".join(str(number + 1) for number in list(gaps)[:NAMED]) + (" …" if len(gaps) > NAMED else "")
    said = (Notice("unread_slices", {"count": len(gaps), "numbers": numbers}),) if gaps else ()
    told = [part if isinstance(part, Gap) else replace(part, notices=part.notices + said) for part in parts]
    return Stack(units, tuple(told))


def to_units(pixels: NDArray[np.float32]) -> NDArray[np.int16]:
    """Of what was read under `EXACT`, as of a `Stack`."""
    units = pixels * np.float32(EXACT[1])  # a power of two: exact
    units += np.float32(EXACT[0] - EXACT[1] / 2)
    np.rint(units, out=units)
    return np.clip(units, -(1 << 15), (1 << 15) - 1, out=units).astype(np.int16)


def check_room(count: int, height: int, width: int) -> None:
    """Raise UnreadableSlice where so many slices are too much."""
    if count > MAX_SLICES or 2 * count * height * width > MAX_BYTES:
        raise UnreadableSlice(Notice("large_stack", {"megabytes": MAX_BYTES >> 20, "most": MAX_SLICES}))
