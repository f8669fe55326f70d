"""The process that reads strangers' files: what it gives up before the first one, and what it does for each.

It holds nothing, writes nothing and may be lost. `sandbox` starts it, with the seconds and the bytes that a file may
take as arguments.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any, TypeVar

import cv2

from ctscan.errors import UnreadableSlice
from ctscan.io import messages
from ctscan.io.images import MEDICAL, Slice, Survey, read_slice, survey
from ctscan.notices import Notice

if sys.platform != "win32":
    import resource

Part = TypeVar("Part")
OPEN_FILES = 16
STATM = Path("/proc/self/statm")


def main() -> None:
    """Read files from standard input until it ends, as it does when the parent is gone, however it went."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # for the parent, which may still need this process, and ends it
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    files, answers = sys.stdin.buffer, sys.stdout.buffer
    cv2.setNumThreads(1)
    for module in MEDICAL.values():  # while files may still be opened
        import_module(module)
    limit_resources(int(sys.argv[2]))
    messages.send(answers, b"")
    with suppress(EOFError, BrokenPipeError):
        while True:
            wanted = json.loads(messages.receive(files, messages.MAX_FIELDS))
            answer(answers, wanted, messages.receive(files, sys.maxsize), float(sys.argv[1]))


def answer(answers: IO[bytes], wanted: dict[str, Any], data: bytes, seconds: float) -> None:
    """Read a file and say what is wanted of it, or why not. Raises OSError where nobody listens.

    Of a whole scan each slice may take the time of a file.
    """
    outcome: Slice | Survey | Notice | None = None
    try:
        if "first" in wanted:
            for part in timed(messages.parts_of(data, **wanted), seconds):
                for message in part:
                    messages.send(answers, message)
        else:
            with limited_time(seconds):
                outcome = survey(data, **wanted) if "key" in wanted else read_slice(data, **wanted)
    except UnreadableSlice as error:
        outcome = error.notice
    if outcome:  # said with the time stopped: what ran out behind an answer would be laid to the next file
        messages.send_outcome(answers, outcome)


def timed(parts: Iterator[Part], seconds: float) -> Iterator[Part]:
    """All of them, for each of which this process may compute so long."""
    part: Part | None
    while True:
        with limited_time(seconds):
            part = next(parts, None)
        if part is None:
            return
        yield part


def limit_resources(memory: int) -> None:
    """Give up what reading needs no more: files, processes, and memory beyond `memory` bytes.

    Where the system has no such limits (Windows), the pixels that a header may state and the time still have.
    """
    if sys.platform == "win32":
        return
    limits = {
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: OPEN_FILES,
    }
    if STATM.exists():  # Linux; elsewhere a limit on memory is accepted and not kept
        pages = int(STATM.read_text(encoding="ascii").split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + memory
    for limit, most in limits.items():
        with suppress(ValueError, OSError):  # a system may set its own, lower ones
            resource.setrlimit(limit, (most, most))


@contextmanager
def limited_time(seconds: float) -> Iterator[None]:
    """End this process where it computes longer, also when its parent is gone. Windows has the parent's clock alone."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        if sys.platform != "win32":
            signal.setitimer(signal.ITIMER_PROF, 0)
