"""How many processor cores there are for this process: a machine's count is not what a container may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def count_cores(root: Path = Path("/")) -> int:
    """The cores that this process may run on, or as many as its share of time keeps busy, where those are fewer.

    Args:
        root: Where `proc` and `sys` lie.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, quotas(root))]))


def limit_threads(root: Path = Path("/")) -> None:
    """Where time is limited, have torch start no more threads than it lasts for; before torch is imported.

    OpenMP, by which torch counts, knows the cores that a process may run on, but nothing of time. What is set stays.
    """
    if any(quotas(root)):
        os.environ.setdefault("OMP_NUM_THREADS", str(count_cores(root)))


def quotas(root: Path) -> Iterator[float]:
    """How many cores' time the control groups around this process may take, those that are limited (Linux)."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")  # version 1, or 2, which has one tree for all
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        group = top / name.lstrip("/")
        for folder in (group, *group.parents):  # a container that is named from outside sees itself at the top
            with suppress(OSError, ValueError):  # it has no such file, or `max`: no limit
                share, period = map(int, " ".join((folder / file).read_text() for file in files).split())
                if share > 0:  # -1 is no limit
                    yield share / period
            if folder == top:
                break
