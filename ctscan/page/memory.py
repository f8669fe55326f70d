"""Files of API clients between two of their requests, in memory alone: nothing that is sent is ever on a disk."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict

AGE = 600.0  # s after which a file is forgotten
ROOM = 256 << 20  # bytes of all files; the oldest makes room


class Memory:
    """Bytes by names that nobody can guess. For one thread: the server's.

    Args:
        age: Seconds after which a file is forgotten.
        room: Bytes that all files together may have; the oldest is forgotten for a new one.
    """

    def __init__(self, age: float = AGE, room: int = ROOM) -> None:
        self.age = age
        self.room = room
        self._files: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    def put(self, data: bytes, suffix: str = "") -> str:
        """Remember a file.

        Returns:
            The name under which it can be had.
        """
        name = secrets.token_hex(16) + suffix
        self._files[name] = time.monotonic(), data
        while sum(len(kept) for _, kept in self._files.values()) > self.room:
            self._files.popitem(last=False)
        return name

    def get(self, name: object) -> bytes | None:
        """The bytes of a file, None where there is none of this name, or none any more."""
        self.forget()
        kept = self._files.get(name) if isinstance(name, str) else None
        return kept[1] if kept else None

    def forget(self) -> None:
        """Drop what is too old."""
        oldest = time.monotonic() - self.age
        while self._files and next(iter(self._files.values()))[0] < oldest:
            self._files.popitem(last=False)
