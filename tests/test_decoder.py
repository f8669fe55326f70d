"""The decoder's processes: the reader's answers to the bit, and what happens when one of them is lost."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest

from ctscan.errors import CtscanError, UnreadableSlice
from ctscan.inference.classifier import Reader
from ctscan.io import messages
from ctscan.io.headers import MAX_PIXELS
from ctscan.io.images import LONGEST_SIDE, Slice, read_slice
from ctscan.io.sandbox import LATE, LOST, Decoder
from ctscan.notices import Notice
from tests.conftest import ROOT, free_port, wait_until
from tests.process_tree import children_of, is_running
from tests.samples import ALL, NOT_PICTURES, OTHERWISE

EXAMPLES = sorted((ROOT / "examples").glob("*.png"))
DATA = ALL["png L"]

pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="children are looked up in /proc")


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with closing(Decoder()) as started:
        started.wait_until_ready()
        yield started


def outcome(read: Reader, data: bytes) -> Slice | Notice:
    try:
        return read(data)
    except UnreadableSlice as error:
        return error.notice


def assert_reads_as_in_process(decoder: Decoder, data: bytes) -> None:
    ours, theirs = outcome(decoder.read, data), outcome(read_slice, data)
    if isinstance(theirs, Notice) or isinstance(ours, Notice):
        assert ours == theirs
        return
    for field in fields(Slice):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        assert type(a) is type(b)
        assert np.array_equal(a, b), field.name
    assert ours.pixels.dtype == np.float32
    assert not ours.pixels.flags.writeable


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_bundled_examples_are_read_as_in_process(decoder: Decoder, path: Path) -> None:
    assert_reads_as_in_process(decoder, path.read_bytes())


@pytest.mark.parametrize("name", [*ALL, *OTHERWISE])
def test_every_kind_is_read_or_refused_as_in_process(decoder: Decoder, name: str) -> None:
    assert_reads_as_in_process(decoder, (ALL | OTHERWISE)[name])


def test_what_is_no_picture_is_refused_with_the_same_sentence(decoder: Decoder) -> None:
    for data, _ in NOT_PICTURES.values():
        assert_reads_as_in_process(decoder, data)
    assert_reads_as_in_process(decoder, b"\xff\xd8\xff" + os.urandom(15 << 20))


def test_a_child_that_was_killed_while_idle_is_replaced_and_nobody_notices(decoder: Decoder) -> None:
    killed = pids(decoder)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(is_running(pid) for pid in killed))
    for _ in range(3):
        assert_reads_as_in_process(decoder, DATA)


def test_a_child_that_hangs_ends_in_a_sentence_and_the_next_file_is_read() -> None:
    with closing(Decoder(1, hang_time=1.0)) as alone:
        alone.wait_until_ready()
        (pid,) = pids(alone)
        os.kill(pid, signal.SIGSTOP)
        assert outcome(alone.read, DATA) == LATE
        assert_reads_as_in_process(alone, DATA)
        assert pid not in pids(alone)


def test_a_file_that_computes_too_long_ends_in_the_same_sentence() -> None:
    with closing(Decoder(1, read_time=0.2)) as hasty:
        hasty.wait_until_ready()
        assert outcome(hasty.read, largest((3,))) == LATE
        assert_reads_as_in_process(hasty, DATA)


def test_what_others_let_a_file_wait_is_not_counted(decoder: Decoder) -> None:
    """Eight at once, which take their children longer together than one may take."""
    large = largest((4,))
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(lambda _: outcome(decoder.read, large), range(8)))
    assert all(isinstance(read, Slice) for read in outcomes)


def test_a_child_that_waits_for_longer_than_it_may_compute_is_waited_for() -> None:
    with closing(Decoder(1, read_time=1.0)) as alone, ThreadPoolExecutor(1) as threads:
        alone.wait_until_ready()
        (pid,) = pids(alone)
        os.kill(pid, signal.SIGSTOP)
        asked = threads.submit(outcome, alone.read, DATA)
        time.sleep(1.5)
        os.kill(pid, signal.SIGCONT)
        assert isinstance(asked.result(), Slice)
        assert pids(alone) == [pid]


def largest(channels: tuple[int, ...]) -> bytes:
    """A picture of 8 bits at the limit of pixels."""
    side = int(MAX_PIXELS**0.5)
    return cv2.imencode(".png", np.full((side, side, *channels), 9, np.uint8))[1].tobytes()


def test_a_child_that_dies_over_a_file_ends_in_a_sentence_and_the_next_file_is_read() -> None:
    with closing(Decoder(1)) as alone, ThreadPoolExecutor(1) as threads:
        alone.wait_until_ready()
        (pid,) = pids(alone)
        os.kill(pid, signal.SIGSTOP)  # so that it surely has not answered
        asked = threads.submit(outcome, alone.read, DATA)
        wait_until(lambda: bytes_waiting(alone) > 0)
        os.kill(pid, signal.SIGKILL)
        assert asked.result() == LOST
        assert_reads_as_in_process(alone, DATA)


def bytes_waiting(decoder: Decoder) -> int:
    """In the pipe to the only child."""
    (child,) = decoder._children
    assert child.process.stdin is not None
    return int.from_bytes(fcntl.ioctl(child.process.stdin, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.fixture(scope="module")
def patient() -> Iterator[Decoder]:
    """With time for large files on a slow machine, where memory is the matter."""
    with closing(Decoder(1, read_time=60.0, hang_time=120.0)) as started:
        started.wait_until_ready()
        yield started


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory needs Linux")
def test_a_file_that_needs_too_much_memory_is_refused_and_the_child_lives(patient: Decoder) -> None:
    side = int(MAX_PIXELS**0.5)
    hungry = cv2.imencode(".png", np.zeros((side, side, 4), np.uint16))[1].tobytes()
    before = pids(patient)
    assert outcome(patient.read, hungry) == Notice("too_much_memory")
    assert pids(patient) == before
    assert_reads_as_in_process(patient, DATA)


@pytest.mark.parametrize("shape", [(1,), (3,), (4,)], ids=["grey", "colour", "alpha"])
def test_the_largest_pictures_of_8_bits_fit(patient: Decoder, shape: tuple[int]) -> None:
    assert patient.read(largest(shape)).pixels.shape == (LONGEST_SIDE, LONGEST_SIDE)


def test_files_are_read_side_by_side_each_with_its_own_answer(decoder: Decoder) -> None:
    files = [path.read_bytes() for path in EXAMPLES] * 5
    with ThreadPoolExecutor(4) as threads:
        for read, data in zip(threads.map(decoder.read, files), files, strict=True):
            assert np.array_equal(read.pixels, read_slice(data).pixels)


def test_one_that_hangs_does_not_hold_up_the_other() -> None:
    with closing(Decoder(2, hang_time=1.0)) as two:
        two.wait_until_ready()
        os.kill(pids(two)[0], signal.SIGSTOP)
        with ThreadPoolExecutor(2) as threads:
            outcomes = list(threads.map(lambda _: outcome(two.read, DATA), range(2)))
        assert sorted(isinstance(o, Notice) for o in outcomes) == [False, True]
        assert LATE in outcomes
        assert_reads_as_in_process(two, DATA)


def test_fifty_lost_children_leave_no_descriptor_and_no_zombie() -> None:
    with closing(Decoder(1)) as alone:
        alone.wait_until_ready()
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for _ in range(50):
            (child,) = alone._children
            child.stop()
            alone._idle.put(alone._replace(alone._idle.get()))
        assert_reads_as_in_process(alone, DATA)
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
        left = pids(alone)
    assert not any(map(is_running, left))


def test_after_closing_nothing_is_read_and_nothing_started() -> None:
    closed = Decoder()
    closed.close()
    assert outcome(closed.read, DATA) == LOST
    assert not any(map(is_running, pids(closed)))
    closed.close()


PARENT = """
import os, signal, sys, time
from ctscan.io.sandbox import Decoder
decoder = Decoder()
decoder.wait_until_ready()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_no_child_outlives_its_parent(end: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        children = children_of(parent.pid)
        assert len(children) == 2
        parent.send_signal(end)
    wait_until(lambda: not any(is_running(pid) for pid in children))


def test_a_child_holds_no_torch_no_gradio_and_no_pillow() -> None:
    program = "import sys, ctscan.io.child; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, check=True)
    assert not {"torch", "torchvision", "gradio", "PIL", "onnxruntime", "multiprocessing"} & set(done.stdout.split())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_has_given_up_what_it_does_not_need(decoder: Decoder) -> None:
    for pid in pids(decoder):
        limits = Path(f"/proc/{pid}/limits").read_text(encoding="ascii")
        size = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
        (most,) = (int(line.split()[3]) for line in limits.splitlines() if line.startswith("Max address space"))
        assert size < most < 1 << 30
        for name in ("Max file size", "Max core file size", "Max processes"):
            (line,) = (line for line in limits.splitlines() if line.startswith(name))
            assert line.removeprefix(name).split()[:2] == ["0", "0"]


SAID: list[list[bytes]] = [
    [b"no JSON"],
    [b'{"pixels": [2, 3]}', b"\0" * 20],
    [b'{"pixels": [2, 3], "name": 1}', b"\0" * 24],
    [b'{"notices": []}', b"\0" * 24],
    [b'{"pixels": [2, 3], "notices": [{"code": "mine", "values": {}}]}', b"\0" * 24],
    [b'{"code": "a sentence of its own", "values": {}}'],
    [b'{"code": "too_small", "values": {}}'],
    [b'{"code": "empty", "values": 1}'],
    [b'"a sentence of its own"'],
    [b"[1, 2]", b""],
    [b"9" * (messages.MAX_FIELDS + 1)],
]
SAID_OF_SCANS: list[list[bytes]] = [
    [b'{"axis": 3, "place": 0, "shape": [2, 2, 2]}', bytes(8)],
    [b'{"axis": 0, "place": 2, "shape": [2, 2, 2]}', bytes(8)],
    [b'{"axis": 0, "place": 0, "shape": [2, 2, 2]}', bytes(9)],
    [b'{"axis": 0, "place": 0, "shape": [-2, -2, 2]}', bytes(8)],
    [b'{"axis": 0, "place": "x", "shape": [2, 2, 2]}', bytes(8)],
    [b'{"number": 0, "count": 2, "notices": []}', b'{"number": 0, "count": 2, "notices": []}'],
    [b'{"number": 0, "count": 2, "notices": []}', b'{"number": 1, "count": 2, "notices": []}'],  # and no pixels
    [b'{"number": 2, "count": 2, "notices": []}'],
]


@pytest.mark.parametrize("said", [*SAID, *SAID_OF_SCANS], ids=lambda s: s[0][:20].decode())
def test_what_a_child_that_was_taken_over_may_say_is_not_believed(said: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "said"
    with path.open("wb") as file:
        for message in said:
            messages.send(file, message)
    with path.open("rb") as file, pytest.raises(messages.GONE):
        messages.Arriving().receive(file) if said in SAID_OF_SCANS else messages.receive_outcome(file)


def test_a_decoder_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with closing(Decoder()) as none:
        with pytest.raises(CtscanError, match=r"^No process can be started .*\.$"):
            none.wait_until_ready()
        assert outcome(none.read, DATA) == LOST


@pytest.mark.nightly  # as for any other mistake: the tests of the page
def test_the_app_says_so_too_in_one_line_and_exits_2(checkpoint_path: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif any('ctscan.io.child' in argument for argument in sys.orig_argv): sys.exit(1)\n"
    )
    command = [sys.executable, str(ROOT / "app.py"), "--checkpoint", str(checkpoint_path), "--port", str(free_port())]
    settings = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=settings, text=True, capture_output=True, timeout=90, check=False)
    assert (done.returncode, done.stderr) == (2, "app.py: No process can be started to read files in.\n")


def test_a_slice_travels_whole(tmp_path: Path) -> None:
    whole = read_slice(ALL["tiff int32"])
    with (tmp_path / "sent").open("w+b") as file:
        messages.send_outcome(file, whole)
        file.seek(0)
        sent = json.loads(messages.receive(file, messages.MAX_FIELDS))
    assert set(sent) == {field.name for field in fields(Slice)}
    assert whole.notices
    assert sent["notices"] == [{"code": n.code, "values": n.values} for n in whole.notices]


def pids(decoder: Decoder) -> list[int]:
    return [child.process.pid for child in decoder._children]
