"""Two callables timed in turn, A B A B ..., so that a machine that slows down slows both."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import psutil

from ctscan.bundle import bundled


def core_seconds() -> float:
    """What this process and its children have computed, those that are gone too."""
    this = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in (this, *this.children(recursive=True)))


def measure(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of one call: of the clock, or what it says itself where it gives a float; and of all cores."""
    start, cores = time.perf_counter(), core_seconds()
    measured = work()
    return measured if isinstance(measured, float) else time.perf_counter() - start, core_seconds() - cores


def print_ratio(name: str, first: Callable[[], object], second: Callable[[], object], rounds: int) -> None:
    """Print `name: ratio`, the median over rounds of first / second, after one round that does not count.

    Beside it stands the ratio of the processor's time, which holds on a busy machine too.
    """
    first(), second()
    pairs = [(measure(first), measure(second)) for _ in range(rounds)]
    clock = median(a / b for (a, _), (b, _) in pairs)
    (a, ours), (b, theirs) = ([median(p[which][0] for p in pairs), sum(p[which][1] for p in pairs)] for which in (0, 1))
    core = f"processor's time {ours / theirs:.3f}; " if theirs else ""  # counted in hundredths of a second
    print(f"{name}: {clock:.3f}   ({core}{1000 * a:.1f} ms / {1000 * b:.1f} ms, {rounds} rounds)")


def example() -> bytes:
    """The first slice that ctscan brings: a real one, which the gate lets pass."""
    return min(bundled("examples").glob("*.png")).read_bytes()


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """The flags of every benchmark."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds, help="(default: %(default)s)")
    return made
