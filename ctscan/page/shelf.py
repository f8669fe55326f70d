"""Scans of visitors between two of their questions, in memory alone and bounded: nothing of one is ever on a disk."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ctscan.io.stack import Stack

AGE = 600.0  # s after its last use when a scan is dropped
PLACES = 4  # scans at once, those under way among them


class Shelf:
    """Scans by names that nobody can guess. For one thread: the server's.

    Args:
        age: Seconds after its last use when a scan is dropped.
        places: How many scans there may be.
    """

    def __init__(self, age: float = AGE, places: int = PLACES) -> None:
        self.age = age
        self.places = places
        self._scans: dict[str, tuple[float, Stack]] = {}
        self._coming = 0

    @contextmanager
    def place(self) -> Iterator[bool]:
        """A place for a scan that is coming; False where there is none."""
        self.forget()
        is_free = len(self._scans) + self._coming < self.places
        self._coming += is_free
        try:
            yield is_free
        finally:
            self._coming -= is_free

    def put(self, scan: Stack) -> str:
        """Keep a scan.

        Returns:
            The name under which its visitor alone can have it.
        """
        name = secrets.token_hex(16)
        self._scans[name] = time.monotonic(), scan
        return name

    def get(self, name: str) -> Stack | None:
        """A scan, None where there is none of this name, or none any more."""
        self.forget()
        if name not in self._scans:
            return None
        _, scan = self._scans[name]
        self._scans[name] = time.monotonic(), scan
        return scan

    def drop(self, name: str) -> None:
        """Its visitor needs it no more."""
        self._scans.pop(name, None)

    def forget(self) -> None:
        """Drop what was not used for long."""
        oldest = time.monotonic() - self.age
        self._scans = {name: kept for name, kept in self._scans.items() if kept[0] >= oldest}
