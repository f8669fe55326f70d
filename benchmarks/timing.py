"""Two callables timed in turn, A B A B ..., so that a machine that slows down slows both."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

from ctscan.bundle import bundled


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call, or what it says itself where it gives a float."""
    start = time.perf_counter()
    measured = work()
    return measured if isinstance(measured, float) else time.perf_counter() - start


def print_ratio(name: str, first: Callable[[], object], second: Callable[[], object], rounds: int) -> None:
    """Print `name: ratio`, the median over rounds of first / second, after one round that does not count."""
    first(), second()
    pairs = [(seconds(first), seconds(second)) for _ in range(rounds)]
    a, b = median(p[0] for p in pairs), median(p[1] for p in pairs)
    print(f"{name}: {median(x / y for x, y in pairs):.3f}   ({1000 * a:.1f} ms / {1000 * b:.1f} ms, {rounds} rounds)")


def example() -> bytes:
    """The first slice that ctscan brings: a real one, which the gate lets pass."""
    return min(bundled("examples").glob("*.png")).read_bytes()


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """The flags of every benchmark."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds, help="(default: %(default)s)")
    return made
