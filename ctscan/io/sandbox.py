"""Bytes of a stranger's file -> Slice, read in a process that may be lost.

Picture decoders are C code, and what goes wrong in them goes wrong for the whole process. So strangers' bytes are
decoded in children that hold nothing, may use little memory and time, and are replaced when they are gone. They are
kept warm: a slice costs its way through two pipes. Time is the processor's, so that no file is refused for what others
let it wait; a child that does nothing at all is ended by the clock, later.

A child says once that it is ready; then it is sent which slice and window are wanted, or with which key to look at it,
and a file, and answers as `messages` says. All slices of a file come one by one, out of a process that is started for
them alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Timer
from typing import IO, Any, TypeVar, cast

from ctscan.errors import CtscanError, UnreadableSlice
from ctscan.io import messages
from ctscan.io.headers import MAX_PIXELS
from ctscan.io.images import Slice, Survey
from ctscan.io.medical import Window, resolve
from ctscan.io.stack import EXACT, Stack
from ctscan.notices import Notice

CHILDREN = 2  # as many as the page answers at once
START_TIME = 30.0  # s that a child may take to import what it needs
READ_TIME = 4.0  # s of the processor that a file may take
HANG_TIME = 20.0  # s that it may take by the clock, on a machine that has other things to do
MEMORY = 256 << 20  # bytes that a child may take beyond what it has when it is ready; a scan is 128 MiB of that
STACK_HANG_TIME = 120.0  # s by the clock that all slices of a file may take, each of which has READ_TIME

Outcome = TypeVar("Outcome")
LATE, LOST = Notice("too_slow"), Notice("lost")
OUT_OF_TIME = -signal.SIGPROF if sys.platform != "win32" else None  # status of a child whose own timer ended it

ROOT = Path(__file__).parent.parent.parent  # from where Python finds the package, installed or not
PROGRAM = "from ctscan.io.child import main; main()"
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OPENCV_LOG_LEVEL": "SILENT",
    "OPENCV_IO_MAX_IMAGE_PIXELS": str(MAX_PIXELS),  # for a size that another part of a file states
}


class Decoder:
    """A few children, started at once and kept warm. `read` may be called from any thread.

    `close` ends them, as does the end of this process, however it ends.

    Args:
        children: How many files are read at once.
        read_time: Seconds of the processor that a file may take.
        hang_time: Seconds that it may take by the clock.
    """

    def __init__(self, children: int = CHILDREN, read_time: float = READ_TIME, hang_time: float = HANG_TIME) -> None:
        self._size, self._read_time, self._hang_time = children, read_time, hang_time
        self._lock = Lock()  # between starting a child and closing
        self._closed = False
        self._children: set[Child] = set()
        self._idle: SimpleQueue[Child | None] = SimpleQueue()  # None in the place of one that cannot be started
        for _ in range(children):
            self._idle.put(self._replace(None))

    def wait_until_ready(self) -> None:
        """Return when all children wait for files. Raises CtscanError where one does not come up."""
        try:
            for child in tuple(self._children):
                child.wait_until_ready()
            are_ready = len(self._children) == self._size
        except messages.GONE:
            are_ready = False
        if not are_ready:
            raise CtscanError("No process can be started to read files in.")

    def read(self, data: bytes, slice: int | None = None, window: Window | None = None) -> Slice:
        """As `read_slice`, the same to the bit. Raises UnreadableSlice, also for what takes too much time or memory."""
        resolve(window)  # raises ValueError here and not in the child
        outcome = self._ask({"slice": slice, "window": window}, data)
        if isinstance(outcome, Survey):
            raise UnreadableSlice(LOST)
        return outcome

    def survey(self, data: bytes, key: str = "") -> Survey:
        """As `images.survey`. Raises UnreadableSlice, also for what takes too much time or memory."""
        outcome = self._ask({"key": key}, data)
        if isinstance(outcome, Slice):
            raise UnreadableSlice(LOST)
        return outcome

    def _ask(self, wanted: dict[str, Any], data: bytes) -> Slice | Survey:
        child, outcome = self._idle.get(), None
        try:
            if child is None or child.process.poll() is not None:  # it may have been killed while it had nothing to do
                child = self._replace(child)
            outcome = child.ask(wanted, data, self._hang_time, messages.receive_outcome) if child else LOST
        finally:
            if outcome in (None, LATE, LOST):  # it is gone, or what it may still say belongs to this file
                child = self._replace(child)
            self._idle.put(child)
        if isinstance(outcome, Notice):
            raise UnreadableSlice(outcome)
        return outcome

    def close(self) -> None:
        """End the children; a file that one of them is reading cannot be read."""
        with self._lock:
            self._closed = True
            for child in self._children:
                child.stop()

    def _replace(self, child: Child | None) -> Child | None:
        """A new child instead of one that is stopped; None after closing and where none can be started."""
        with self._lock:
            if child:
                child.stop()
                self._children.discard(child)
            if self._closed:
                return None
            try:
                started = Child(self._read_time)
            except OSError:
                return None
            self._children.add(started)
            return started


def read_stack(data: bytes | bytearray, read_time: float = READ_TIME) -> Stack | None:
    """All slices of a file, read in a process that is gone afterwards. Where a slice ends that, another one goes on.

    Args:
        data: The file.
        read_time: Seconds of the processor that each slice may take.

    Returns:
        None for a file that does not hold several slices.

    Raises:
        UnreadableSlice: And nothing else, also for what takes too much time or memory.
    """
    scan, end, lost = messages.Arriving(), time.monotonic() + STACK_HANG_TIME, None
    while True:
        known = len(scan.parts)
        try:
            child = Child(read_time)
        except OSError:
            raise UnreadableSlice(LOST) from None
        try:
            wanted = {"window": EXACT, "first": known, "lost": lost and lost.code}
            outcome = child.ask(wanted, data, end - time.monotonic(), scan.receive)
        finally:
            child.stop()
        if outcome not in (LATE, LOST) or (lost and len(scan.parts) == known):  # it is no slice that ends them
            break
        lost = outcome
    if isinstance(outcome, Notice):
        raise UnreadableSlice(outcome)
    return outcome


def environment() -> dict[str, str]:
    """Of a child, which runs elsewhere: relative entries of PYTHONPATH are told from here, where they are meant."""
    told = os.environ.get("PYTHONPATH")
    entries = [str(Path(entry).absolute()) for entry in told.split(os.pathsep)] if told else []
    return os.environ | ENVIRONMENT | ({"PYTHONPATH": os.pathsep.join(entries)} if entries else {})


class Child:
    """One process that reads files, one at a time. Raises OSError where it cannot be started."""

    def __init__(self, read_time: float) -> None:
        python = Path(sys.executable).absolute()  # found by PATH it may be relative
        self.process = subprocess.Popen(
            [python, "-c", PROGRAM, str(read_time), str(MEMORY)],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries quote a stranger's file in their warnings
        )
        self._pipes = cast("tuple[IO[bytes], IO[bytes]]", (self.process.stdin, self.process.stdout))
        self._ready = False

    def stop(self) -> None:
        """Kill the process and wait for its end."""
        self.process.kill()
        self.process.wait()
        for pipe in self._pipes:
            with suppress(OSError):  # a rest that nobody will read
                pipe.close()

    def wait_until_ready(self) -> None:
        """Return when the process waits for a file. Raises one of messages.GONE."""
        if not self._ready:
            with self._killed_after(START_TIME):
                messages.receive(self._pipes[1], 0)
            self._ready = True

    def ask(
        self, wanted: dict[str, Any], data: bytes | bytearray, hang_time: float, take: Callable[[IO[bytes]], Outcome]
    ) -> Outcome | Notice:
        """What is wanted, as `take` gets it, or why there is none: LATE or LOST where the process has not said it."""
        asked = time.monotonic()
        try:
            self.wait_until_ready()
            asked = time.monotonic()
            files, answers = self._pipes
            with self._killed_after(hang_time):
                messages.send(files, json.dumps(wanted).encode())
                messages.send(files, data)
                return take(answers)
        except messages.GONE:
            hung = time.monotonic() - asked >= hang_time
            self.process.kill()  # it may still live; one that is gone keeps the end that it had
            return LATE if hung or self.process.wait() == OUT_OF_TIME else LOST

    @contextmanager
    def _killed_after(self, seconds: float) -> Iterator[None]:
        """Reading from a pipe has no time limit of its own on every system; a killed process ends it on all."""
        timer = Timer(seconds, self.process.kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
