"""What a process and its children hold now, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Holding:
    """Sums over a process and all its descendants."""

    memory: float  # MiB resident
    files: int  # open, sockets too
    threads: int
    processes: int


def descendants(pid: int) -> Iterator[Path]:
    """The process's folder in /proc and those of its children, and theirs."""
    process = Path(f"/proc/{pid}")
    yield process
    for thread in (process / "task").iterdir():
        for child in (thread / "children").read_text().split():
            yield from descendants(int(child))


def holding(pid: int) -> Holding:
    """Measured one after the other, so a process that ends meanwhile raises OSError."""
    tree = list(descendants(pid))
    pages = sum(int((process / "statm").read_text().split()[1]) for process in tree)
    return Holding(
        memory=pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        files=sum(len(list((process / "fd").iterdir())) for process in tree),
        threads=sum(len(list((process / "task").iterdir())) for process in tree),
        processes=len(tree),
    )
