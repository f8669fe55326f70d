"""A volume as NIfTI and NRRD files store it, a grid of values that lies in a patient -> one axial Slice.

Of the values a plane is held at a time: a volume costs time and little memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from math import inf, isfinite, prod
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ctscan.errors import UnreadableSlice
from ctscan.io.headers import DAMAGED, MAX_PIXELS, UNDECODABLE, check_size
from ctscan.io.images import Slice, Survey
from ctscan.io.medical import (
    DEFAULT_WINDOW,
    PRESETS,
    Window,
    along_body,
    in_window,
    into_view,
    pick,
    refusing,
    resolve,
    tilt,
    to_scale,
    towards,
)
from ctscan.io.stack import NO_PIXELS, Part, Plate, check_room
from ctscan.notices import Notice

MAX_BYTES = 1 << 31  # of a volume's values
TINY = float(np.finfo(np.float32).tiny)
FORGED = (ValueError, EOFError, OSError, zlib.error)
FAT, AIR = -50.0, -200.0  # Hounsfield units: below it lies the one, a clipped volume's too, and the other


@dataclass(frozen=True, eq=False)
class Grid:
    """What a file says of its values: how they are stored, and where in the patient they lie.

    Attributes:
        dtype: Of a value as stored.
        shape: How many there are along each of three axes; along the first they are neighbours in the file.
        directions: (3, 3), a column an axis: mm along the patient's left, back and head for a step along it.
        origin: (3,), mm along the same: where the first value lies.
        start: Gives a stream that stands at the first value.
        slope: What a stored value is multiplied by; 0 or no number for a file that scales nothing.
        intercept: What is then added.
        sides_known: Whether the file says in one way alone where the axes run.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, int, int]
    directions: NDArray[np.float64]
    origin: NDArray[np.float64]
    start: Callable[[], IO[bytes]]
    slope: float = 0.0
    intercept: float = 0.0
    sides_known: bool = True

    def cut(self, slice: int | None, window: Window | None) -> Slice:
        """An axial slice in the radiological view.

        Args:
            slice: Counted from 0, from the feet up; the middle one by default.
            window: As for `medical.resolve`; a file of this kind states none, so `file` is the usual one.

        Raises:
            UnreadableSlice: There is no such slice, or none that can be read.
            ValueError: The values end too early, or there is no such window.
        """
        number, notices = pick(self.shape[self._level], slice)
        asked, is_hu = self._window(window)
        stored = self._turned(number)
        values = self._linear(self._plane(stored))
        column, row = self._in_plane
        pixels = np.ascontiguousarray(into_view(in_window(values, *asked), self._axes[column], self._axes[row]))
        pixels.setflags(write=False)
        return self._show(pixels, stored, bool(np.isfinite(values).all()), asked, is_hu, notices)

    def every(self, window: Window | None) -> Iterator[Part | Plate]:
        """All of them, as `stack.every`, in one pass over the file."""
        level = self._level
        column, row, deep = axes = self._axes
        sizes = {axis: size for (axis, _), size in zip(axes, self.shape, strict=True)}
        shape = sizes[2], sizes[1], sizes[0]
        check_room(*shape)
        asked, is_hu = self._window(window)
        stream, finite = self.start(), np.ones(shape[0], bool)
        for place in range(self.shape[2]):
            values = self._linear(self._take(stream))
            numbers = np.isfinite(values)
            values[~numbers] = 0
            finite[place if level == 2 else ...] &= numbers.all(axis=level if level < 2 else None)
            pixels = into_view(in_window(values, *asked), column, row)
            yield Plate(2 - deep[0], place if deep[1] else self.shape[2] - 1 - place, shape, pixels)
        for stored in range(shape[0]):
            read = partial(self._show, NO_PIXELS, stored, bool(finite[stored]), asked, is_hu)
            yield Part(self._turned(stored), shape[0], self._position(stored), read)

    @property
    def positions(self) -> tuple[float | None, ...]:
        """Of the axial ones, from the feet up, as of a `Slice`. Raises UnreadableSlice."""
        return tuple(self._position(self._turned(number)) for number in range(self.shape[self._level]))

    @cached_property
    def _axes(self) -> list[tuple[int, bool]]:
        """Where the three axes run, as `towards` says. Raises UnreadableSlice."""
        size = prod(self.shape) * self.dtype.itemsize
        if min(self.shape) < 1 or size > MAX_BYTES or self.shape[0] * self.shape[1] > MAX_PIXELS:
            raise UnreadableSlice(UNDECODABLE)
        axes = [axis for axis in map(towards, self.directions.T) if axis]
        if {axis for axis, _ in axes} != {0, 1, 2}:
            raise UnreadableSlice(Notice("no_orientation"))
        return axes

    @cached_property
    def _level(self) -> int:
        """The axis along the body. Raises UnreadableSlice, also for a size of slices beyond the limits."""
        level = next(n for n, (axis, _) in enumerate(self._axes) if axis == 2)
        check_size(*(size for n, size in enumerate(self.shape) if n != level))
        return level

    @property
    def _in_plane(self) -> tuple[int, int]:
        """The two other axes, which columns and rows of a slice follow."""
        column, row = (n for n in range(3) if n != self._level)
        return column, row

    def _turned(self, number: int) -> int:
        """A slice's place in the file by its number, and the number by the place."""
        return number if self._axes[self._level][1] else self.shape[self._level] - 1 - number

    def _position(self, stored: int) -> float | None:
        """mm towards the head of the slice at a place in the file."""
        column, row = self.directions[:, self._in_plane].T
        return along_body(self.origin + self.directions[:, self._level] * stored, column, row)

    def _window(self, window: Window | None) -> tuple[tuple[float, float], bool]:
        """Under which values become greys, and whether they are Hounsfield units.

        Where none is as low as fat in those, it goes from the least value to the largest. Of a CT the first plane
        nearly always holds such, and no further one is looked at. Greys of 8 bits with a sign reach below fat too.
        """
        stream, low, high, least = self.start(), inf, -inf, FAT if self.dtype.itemsize > 1 else AIR
        for _ in range(self.shape[2]):
            plane = self._take(stream)
            ends = self._linear(np.array([np.fmin.reduce(plane, axis=None), np.fmax.reduce(plane, axis=None)]))
            for end in ends[np.isfinite(ends)].tolist():
                low, high = min(low, end), max(high, end)
            if low <= least:
                break
        if least < low < inf:
            return ((low + high) / 2, max(high - low, TINY)), False
        return resolve(window) or PRESETS[DEFAULT_WINDOW], True

    def _show(
        self,
        pixels: NDArray[np.float32],
        stored: int,
        is_finite: bool,
        asked: tuple[float, float],
        is_hu: bool,
        notices: tuple[Notice, ...] = (),
    ) -> Slice:
        """The slice at a place in the file, from its pixels in the radiological view. Raises UnreadableSlice."""
        if not is_finite:
            raise UnreadableSlice(Notice("not_numbers"))
        column, row = self._in_plane
        across, down = (float(np.linalg.norm(self.directions[:, n])) for n in (column, row))
        spacing = (down, across) if self._axes[column][0] == 0 else (across, down)
        centre, width = asked
        said = Notice("unknown_units", {"low": centre - width / 2, "high": centre + width / 2})
        if is_hu:
            said = Notice("taken_for_units", {"centre": centre, "width": width})
        told = to_scale(spacing) + tilt(self.directions[:, column], self.directions[:, row])
        if not self.sides_known:
            told += (Notice("two_orientations"),)
        return Slice(
            pixels,
            (*notices, said, *told),
            unit="HU" if is_hu else None,
            spacing=spacing,
            is_radiological=self.sides_known,
            window=asked if is_hu else None,
            position=self._position(stored),
        )

    def _plane(self, place: int) -> NDArray[Any]:
        """The slice at a place in the file, as stored: rows along the later of its two axes."""
        across, down, deep = self.shape
        stream = self.start()
        if self._level == 2:
            stream.seek(stream.tell() + place * across * down * self.dtype.itemsize)
            return self._take(stream)
        return np.stack([self._take(stream).take(place, axis=1 - self._level) for _ in range(deep)])

    def _take(self, stream: IO[bytes]) -> NDArray[Any]:
        """The next plane along the last axis."""
        across, down, _ = self.shape
        size = across * down
        return np.frombuffer(stream.read(size * self.dtype.itemsize), self.dtype, size).reshape(down, across)

    def _linear(self, stored: NDArray[Any]) -> NDArray[np.float64]:
        values = stored.astype(np.float64)
        if not (self.slope and isfinite(self.slope)):
            return values
        if not isfinite(self.intercept):
            raise UnreadableSlice(DAMAGED)
        return values * self.slope + self.intercept


def doors(
    parse: Callable[[bytes], Grid],
) -> tuple[
    Callable[[bytes, int | None, Window | None], Slice],
    Callable[[bytes, Window], Iterator[Part | Plate]],
    Callable[[bytes, str], Survey],
]:
    """`read`, `every` and `survey` of a format, from what finds the grid in the bytes of a file."""

    def read(data: bytes, slice: int | None, window: Window | None) -> Slice:
        """Slice number `slice`, counted from 0 from the feet up, the middle one by default. Raises UnreadableSlice."""
        with refusing(*FORGED):
            return parse(data).cut(slice, window)

    def every(data: bytes, window: Window) -> Iterator[Part | Plate]:
        """As `stack.every`. Raises UnreadableSlice and nothing else."""
        with refusing(*FORGED):
            yield from parse(data).every(window)

    def survey(data: bytes, key: str) -> Survey:
        """Where the slices lie; the key is not needed. Raises UnreadableSlice."""
        with refusing(*FORGED):
            return Survey(parse(data).positions)

    return read, every, survey
