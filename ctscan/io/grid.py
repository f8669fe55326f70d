"""A volume as NIfTI and NRRD files store it, a grid of values that lies in a patient -> one axial Slice.

Of the values only the planes that the slice lies in are held, one at a time: a volume costs time and no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite, prod
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ctscan.errors import UnreadableSlice
from ctscan.io.headers import DAMAGED, MAX_PIXELS, UNDECODABLE, check_size
from ctscan.io.images import Slice
from ctscan.io.medical import Window, along_body, in_window, into_view, pick, resolve, to_scale, towards
from ctscan.io.stack import check_room
from ctscan.notices import Notice

MAX_BYTES = 1 << 31  # of a volume's values


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

    def cut(self, stream: IO[bytes], slice: int | None, window: Window | None) -> Slice:
        """An axial slice in the radiological view.

        Args:
            stream: Stands at the first value.
            slice: Counted from 0, from the feet up; the middle one by default.
            window: As for `medical.resolve`; a file of this kind states none, so `file` is the usual one.

        Raises:
            UnreadableSlice: There is no such slice, or none that can be read.
            ValueError: The values end too early, or there is no such window.
        """
        level, _ = self._level()
        number, notices = pick(self.shape[level], slice)
        stored = self._turned(number)
        return self._show(self._scale(self._plane(stream, level, stored)), stored, window, notices)

    def every(self, stream: IO[bytes], window: Window | None) -> Iterator[tuple[int, int, Slice]]:
        """All of them, as `images.every`, in the order in which the file has them: its values are passed once.

        Slices that do not lie in one piece there are put together first, as Hounsfield units of 16 bits.
        """
        level, (height, width) = self._level()
        count = self.shape[level]
        check_room(count, height, width)
        whole = None if level == 2 else np.empty((count, height, width), np.int16)
        if whole is not None:
            for row in range(height):
                plane = self._scale(self._take(stream))
                whole[:, row] = np.rint(plane if level == 1 else plane.T).clip(-(1 << 15), (1 << 15) - 1)
        for stored in range(count):
            values = self._scale(self._take(stream)) if whole is None else whole[stored].astype(np.float64)
            yield self._turned(stored), count, self._show(values, stored, window)

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

    def _show(
        self, values: NDArray[np.float64], stored: int, window: Window | None, notices: tuple[Notice, ...] = ()
    ) -> Slice:
        """The slice at a place in the file, from its values."""
        axes, (level, _) = self._axes(), self._level()
        column, row = (n for n in range(3) if n != level)
        centre, width = asked = resolve(window) or resolve(None) or (0.0, 1.0)
        pixels = np.ascontiguousarray(into_view(in_window(values, *asked), axes[column], axes[row]))
        pixels.setflags(write=False)
        across, down = (float(np.linalg.norm(self.directions[:, n])) for n in (column, row))
        spacing = (down, across) if axes[column][0] == 0 else (across, down)
        said = Notice("taken_for_units", {"centre": centre, "width": width})
        return Slice(
            pixels,
            (*notices, said, *to_scale(spacing)),
            unit="HU",
            spacing=spacing,
            is_radiological=True,
            window=asked,
            position=along_body(
                self.origin + self.directions[:, level] * stored, self.directions[:, column], self.directions[:, row]
            ),
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

    def _plane(self, stream: IO[bytes], level: int, number: int) -> NDArray[Any]:
        """The plane at `number` along the axis `level`, rows along the later of the two other axes."""
        across, down, deep = self.shape
        if level == 2:
            stream.seek(stream.tell() + number * across * down * self.dtype.itemsize)
            return self._take(stream)
        return np.stack([self._take(stream).take(number, axis=1 - level) for _ in range(deep)])

    def _take(self, stream: IO[bytes]) -> NDArray[Any]:
        """The next plane along the last axis."""
        across, down, _ = self.shape
        size = across * down
        return np.frombuffer(stream.read(size * self.dtype.itemsize), self.dtype, size).reshape(down, across)

    def _scale(self, stored: NDArray[Any]) -> NDArray[np.float64]:
        values = stored.astype(np.float64)
        if self.slope and isfinite(self.slope):
            if not isfinite(self.intercept):
                raise UnreadableSlice(DAMAGED)
            values = values * self.slope + self.intercept
        if not np.isfinite(values).all():
            raise UnreadableSlice(Notice("not_numbers"))
        return values
