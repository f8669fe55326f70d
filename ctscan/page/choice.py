"""Which slice of a medical file a question means, and in which window: from what a stranger typed."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from ctscan.inference.classifier import Reader
from ctscan.io.medical import Window, parse

MOST = 1 << 31  # a slice's number is below it
LONGEST = 64  # letters of a window


@dataclass(frozen=True)
class Choice:
    """As for `read_slice`: the middle slice and the usual window where nothing is chosen."""

    slice: int | None = None
    window: Window | None = None

    def reader(self, read: Reader) -> Reader:
        """What reads the chosen slice of a file."""
        return read if self == MIDDLE else partial(read, slice=self.slice, window=self.window)


MIDDLE = Choice()


def read_choice(slice: object = None, window: object = None) -> Choice:
    """A slice as a whole number or its digits, and a window as it is typed; nothing and empty text choose nothing.

    Raises ValueError, with no word of what was typed.

    >>> read_choice("40", "-600/1500")
    Choice(slice=40, window=(-600.0, 1500.0))
    """
    with suppress(ValueError):  # whose words quote what was typed
        number = int(slice) if isinstance(slice, str) and slice.isdecimal() else None if slice == "" else slice
        is_window = window is None or (isinstance(window, str) and len(window) <= LONGEST)
        if is_window and (number is None or (type(number) is int and 0 <= number < MOST)):  # True is no number
            return Choice(number, parse(str(window) if window else None))
    raise ValueError("no slice, or no window")
