"""A volume as NIfTI and NRRD files store it, a grid of values that lies in a patient -> one axial Slice.

Of the values a plane or a block of planes is held at a time: a volume costs time and little memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite, prod
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctscan.errors import UnreadableSlice
from ctscan.io.headers import DAMAGED, MAX_PIXELS, UNDECODABLE, check_size
from ctscan.io.images import Gap, Slice
from ctscan.io.medical import Window, along_body, attempt, in_window, into_view, pick, resolve, tilt, to_scale, towards
from ctscan.io.stack import check_room
from ctscan.notices import Notice

MAX_BYTES = 1 << 31  # of a volume's values
BLOCK = 96 << 20  # bytes
TINY = float(np.finfo(np.float32).tiny)
FAT, AIR = -50.0, -200.0  # Hounsfield units: below it lies the one, a clipped volume's too, and the other

Start: TypeAlias = Callable[[], IO[bytes]]


@dataclass(frozen=True, eq=False)
class Grid:
    """What a file says of its values: how they are stored, and where in the patient they lie.

    Attributes:
        dtype: Of a value as stored.
        shape: How many there are along each of three axes; along the first they are neighbours in the file.
        directions: (3, 3), a column an axis: mm along the patient's left, back and head for a step along it.
        origin: (3,), mm along the same: where the first value lies.
        slope: What a stored value is multiplied by; 0 or no number for a file that scales nothing.
        intercept: What is then added.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, int, int]
    directions: NDArray[np.float64]
    origin: NDArray[np.float64]
    slope: float = 0.0
    intercept: float = 0.0

    @property
    def size(self) -> int:
        """Bytes of all values."""
        return prod(self.shape) * self.dtype.itemsize

    def cut(self, start: Start, slice: int | None, window: Window | None) -> Slice:
        """An axial slice in the radiological view.

        Args:
            start: Gives a stream that stands at the first value.
            slice: Counted from 0, from the feet up; the middle one by default.
            window: As for `medical.resolve`; a file of this kind states none, so `file` is the usual one.

        Raises:
            UnreadableSlice: There is no such slice, or none that can be read.
            ValueError: The values end too early, or there is no such window.
        """
        level, _ = self._level()
        number, notices = pick(self.shape[level], slice)
        stored, spread = self._turned(number), self._spread(start)
        (plane,) = self._planes(start, level, stored, stored + 1)
        return self._show(plane, stored, window, spread, notices)

    def every(self, start: Start, window: Window | None) -> Iterator[tuple[int, int, Slice | Gap]]:
        """All of them, as `images.every`, in the order in which the file has them."""
        level, (height, width) = self._level()
        count = self.shape[level]
        check_room(count, height, width)
        spread = self._spread(start)
        for stored, plane in enumerate(self._planes(start, level, 0, count)):
            part = attempt(partial(self._show, plane, stored, window, spread), self._position(stored, level))
            yield self._turned(stored), count, part

    def _level(self) -> tuple[int, tuple[int, int]]:
        """The axis along the body, and height and width of a slice as stored. Raises UnreadableSlice."""
        axes = self._axes()
        level = next(n for n in range(3) if axes[n][0] == 2)
        width, height = (self.shape[n] for n in range(3) if n != level)
        check_size(width, height)
        return level, (height, width)

    def _turned(self, number: int) -> int:
        """A slice's place in the file by its number, and the number by the place."""
        level, _ = self._level()
        return number if self._axes()[level][1] else self.shape[level] - 1 - number

    def _position(self, stored: int, level: int) -> float | None:
        """mm towards the head of the slice at a place in the file."""
        column, row = (self.directions[:, n] for n in range(3) if n != level)
        return along_body(self.origin + self.directions[:, level] * stored, column, row)

    def _spread(self, start: Start) -> tuple[float, float] | None:
        """The window from the least to the largest value, where none is as low as fat in Hounsfield units; else None.

        Of a CT the first plane nearly always holds such, and no further one is looked at. Greys of 8 bits with a sign
        reach below fat too.
        """
        stream, low, high, least = start(), inf, -inf, FAT if self.dtype.itemsize > 1 else AIR
        for _ in range(self.shape[2]):
            plane = self._take(stream)
            ends = self._linear(np.array([np.fmin.reduce(plane, axis=None), np.fmax.reduce(plane, axis=None)]))
            for end in ends[np.isfinite(ends)].tolist():
                low, high = min(low, end), max(high, end)
            if low <= least:
                break
        return ((low + high) / 2, max(high - low, TINY)) if least < low < inf else None

    def _show(
        self,
        plane: NDArray[Any],
        stored: int,
        window: Window | None,
        spread: tuple[float, float] | None,
        notices: tuple[Notice, ...] = (),
    ) -> Slice:
        """The slice at a place in the file, from its values as stored."""
        axes, (level, _) = self._axes(), self._level()
        column, row = (n for n in range(3) if n != level)
        centre, width = asked = spread or resolve(window) or resolve(None) or (0.0, 1.0)
        pixels = np.ascontiguousarray(into_view(in_window(self._scale(plane), *asked), axes[column], axes[row]))
        pixels.setflags(write=False)
        across, down = (float(np.linalg.norm(self.directions[:, n])) for n in (column, row))
        spacing = (down, across) if axes[column][0] == 0 else (across, down)
        said = Notice("taken_for_units", {"centre": centre, "width": width})
        if spread:
            said = Notice("unknown_units", {"low": centre - width / 2, "high": centre + width / 2})
        return Slice(
            pixels,
            (*notices, said, *to_scale(spacing), *tilt(self.directions[:, column], self.directions[:, row])),
            unit=None if spread else "HU",
            spacing=spacing,
            is_radiological=True,
            window=None if spread else asked,
            position=self._position(stored, level),
        )

    @property
    def slices(self) -> int:
        """How many axial ones there are. Raises UnreadableSlice."""
        return next(count for count, (axis, _) in zip(self.shape, self._axes(), strict=True) if axis == 2)

    def _axes(self) -> list[tuple[int, bool]]:
        """Where the three axes run, as `towards` says. Raises UnreadableSlice."""
        if min(self.shape) < 1 or self.size > MAX_BYTES or self.shape[0] * self.shape[1] > MAX_PIXELS:
            raise UnreadableSlice(UNDECODABLE)
        axes = [axis for axis in map(towards, self.directions.T) if axis]
        if {axis for axis, _ in axes} != {0, 1, 2}:
            raise UnreadableSlice(Notice("no_orientation"))
        return axes

    def _planes(self, start: Start, level: int, first: int, last: int) -> Iterator[NDArray[Any]]:
        """The planes from `first` to before `last` along the axis `level`, rows along the later of the two other axes.

        Those that do not lie in one piece are gathered `BLOCK` bytes at a time, which each cost a pass over the file.
        """
        across, down, deep = self.shape
        if level == 2:
            stream = start()
            stream.seek(stream.tell() + first * across * down * self.dtype.itemsize)
            for _ in range(first, last):
                yield self._take(stream)
            return
        size = deep * (across if level == 1 else down)
        step = max(1, BLOCK // (size * self.dtype.itemsize))
        for number in range(first, last, step):
            block, stream = np.empty((min(step, last - number), deep, size // deep), self.dtype), start()
            for row in range(deep):
                plane = self._take(stream)
                block[:, row] = (plane if level == 1 else plane.T)[number : number + len(block)]
            yield from block

    def _take(self, stream: IO[bytes]) -> NDArray[Any]:
        """The next plane along the last axis."""
        across, down, _ = self.shape
        size = across * down
        return np.frombuffer(stream.read(size * self.dtype.itemsize), self.dtype, size).reshape(down, across)

    def _scale(self, stored: NDArray[Any]) -> NDArray[np.float64]:
        values = self._linear(stored)
        if not np.isfinite(values).all():
            raise UnreadableSlice(Notice("not_numbers"))
        return values

    def _linear(self, stored: NDArray[Any]) -> NDArray[np.float64]:
        values = stored.astype(np.float64)
        if not (self.slope and isfinite(self.slope)):
            return values
        if not isfinite(self.intercept):
            raise UnreadableSlice(DAMAGED)
        return values * self.slope + self.intercept
