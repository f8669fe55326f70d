"""A process and what it has started, as the system sees them."""

from __future__ import annotations

from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Holding:
    """Sums over a process and all its descendants."""

    memory: float  # MiB resident
    files: int  # open, sockets too
    threads: int
    processes: int


def descendants(pid: int) -> list[int]:
    """The process itself and all that came of it, for as long as they run."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and not yet seen end."""
    return [child.pid for child in psutil.Process(pid).children()]


def is_running(pid: int) -> bool:
    """Whether there is such a process, and one that still does something."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def holding(pid: int) -> Holding:
    """Measured one after the other: raises psutil.NoSuchProcess where one ends meanwhile."""
    tree = [psutil.Process(member) for member in descendants(pid)]
    return Holding(
        memory=sum(process.memory_info().rss for process in tree) / 2**20,
        files=sum(process.num_fds() for process in tree),
        threads=sum(process.num_threads() for process in tree),
        processes=len(tree),
    )
