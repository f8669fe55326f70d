"""DICOM files that mean harm: each ends soon, in little memory, and the next file is read."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate

from ctscan.errors import UnreadableSlice
from ctscan.io.images import read_slice
from ctscan.io.sandbox import READ_TIME, Decoder
from tests.test_dicom import WIDE, by_gdcm, enhanced, in_syntax, make, write
from tests.test_hostile import GROWTH, Growth

UNDEFINED = b"\xff\xff\xff\xff"
ITEM, END_OF_ITEM, END = b"\xfe\xff\0\xe0", b"\xfe\xff\r\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"
PER_FRAME = b"\0\x52\x30\x92SQ\0\0"  # (5200,9230), which is looked at
PRIVATE = b"\x09\0\x10\x10SQ\0\0"  # which is not
PIXELS = b"\xe0\x7f\x10\0"
SIDE = struct.pack(">I", 60_000)

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is looked up in /proc")


def meta() -> bytes:
    """The preamble and file meta information of a file."""
    whole = write(make())
    return whole[: 132 + 12 + struct.unpack_from("<I", whole, 140)[0]]


def before_pixels(file: FileDataset, more: bytes) -> bytes:
    """More elements where they belong, in front of the pixels."""
    whole = write(file)
    place = whole.rindex(PIXELS)
    return whole[:place] + more + whole[place:]


def nested(tag: bytes, depth: int) -> bytes:
    """A sequence in a sequence, and so on, all of undefined length."""
    return before_pixels(make(), (tag + UNDEFINED + ITEM + UNDEFINED) * depth)


def with_items(tag: bytes, count: int) -> bytes:
    return before_pixels(make(), tag + UNDEFINED + (ITEM + b"\0\0\0\0") * count + END)


def with_elements(count: int) -> bytes:
    """So many private elements without a value."""
    numbers = np.zeros((count, 8), np.uint8)
    numbers[:, 0], numbers[:, 4:6] = 9, np.frombuffer(b"CS", np.uint8)
    numbers[:, 2], numbers[:, 3] = np.arange(count) & 255, np.arange(count) >> 8 & 255
    return before_pixels(make(), numbers.tobytes())


def deflated_bomb() -> bytes:
    whole = in_syntax(uid.DeflatedExplicitVRLittleEndian)
    start = 132 + 12 + struct.unpack_from("<I", whole, 140)[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return whole[:start] + b"".join(packer.compress(bytes(1 << 24)) for _ in range(64)) + packer.flush()


def in_fragments(fragments: bytes, syntax: str = uid.RLELossless) -> bytes:
    """Encapsulated pixels of our own making."""
    file = make()
    file.file_meta.TransferSyntaxUID = uid.UID(syntax)
    file.PixelData = encapsulate([b"no pixels "])
    whole = write(file)
    place = whole.rindex(PIXELS)
    return whole[:place] + PIXELS + b"OB\0\0" + UNDEFINED + fragments


def with_table(offsets: bytes) -> bytes:
    """Offsets of fragments that are not there."""
    return in_fragments(ITEM + struct.pack("<I", len(offsets)) + offsets + ITEM + b"\x08\0\0\0" + bytes(8) + END)


def rle(header: bytes, body: bytes) -> bytes:
    fragment = header.ljust(64, b"\0") + body
    return in_fragments(ITEM + bytes(4) + ITEM + struct.pack("<I", len(fragment)) + fragment + END)


def other_size(syntax: str, before: bytes, after: bytes) -> Callable[[Path], bytes]:
    """A picture whose own size is not that of the file."""

    def made(folder: Path) -> bytes:
        data = by_gdcm(syntax, write(make()), folder)
        assert data.count(before) >= 1
        return data.replace(before, after)

    return made


SIZE = struct.pack(">HH", 96, 120)  # rows, columns, as JPEG and JPEG-LS have them
HUGE = struct.pack(">HH", 65_500, 65_500)
# All are refused.
HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "deep sequences": lambda _: nested(PRIVATE, 20_000),
    "deep sequences that are looked at": lambda _: nested(PER_FRAME, 20_000),
    "a bomb": lambda _: deflated_bomb(),
    "encapsulation cut short": lambda _: in_syntax(uid.RLELossless)[:-3000],
    "a length that lies": lambda _: write(make()).replace(b"OW\0\0", b"OW\0\0\xff\xff\xff\x7f", 1)[:-5000],
    "pixels of undefined length": lambda _: write(make()).replace(b"OW\0\0\0\x5a\0\0", b"OW\0\0" + UNDEFINED, 1),
    "frames that are not there": lambda _: write(make(NumberOfFrames=2_000_000_000)),
    "no fragment": lambda _: in_fragments(ITEM + bytes(4) + END),
    "a million empty fragments": lambda _: in_fragments((ITEM + bytes(4)) * 1_000_000 + END),
    "a fragment of 4 GiB": lambda _: in_fragments(ITEM + bytes(4) + ITEM + b"\xfe\xff\xff\xff" + bytes(99)),
    "a fragment of undefined length": lambda _: in_fragments(ITEM + bytes(4) + ITEM + UNDEFINED + bytes(99)),
    "fragments without an end": lambda _: in_fragments(ITEM + bytes(4) + ITEM + b"\x08\0\0\0" + bytes(8)),
    "offsets that are nowhere": lambda _: with_table(b"\xf0\xff\xff\xff" * 1000),
    "a million offsets": lambda _: with_table(bytes(4_000_000)),
    "segments that are nowhere": lambda _: rle(struct.pack("<3I", 2, 64, 0xFFFFFFF0), b"\x7f" * 200),
    "more segments than there may be": lambda _: rle(struct.pack("<16I", 0xFFFFFFFF, *[64] * 15), b"\x7f" * 200),
    "runs without an end": lambda _: rle(struct.pack("<3I", 2, 64, 66), b"\x81\0" * 4_000_000),
    "JPEG lossless of 4 gigapixels": other_size(uid.JPEGLosslessSV1, SIZE, HUGE),
    "JPEG-LS of 4 gigapixels": other_size(uid.JPEGLSLossless, SIZE, HUGE),
    "JPEG 2000 of 3.6 gigapixels": other_size(
        uid.JPEG2000Lossless, struct.pack(">4I", 120, 96, 0, 0), SIDE + SIDE + bytes(8)
    ),
    "JPEG 2000 in tiles of one pixel": other_size(
        uid.JPEG2000Lossless, struct.pack(">4I", 120, 96, 0, 0), struct.pack(">4I", 1, 1, 0, 0)
    ),
}
# These are read, or refused.
ODD: dict[str, Callable[[Path], bytes]] = {
    "a million empty items": lambda _: with_items(PRIVATE, 1_000_000),
    "a million empty items that are looked at": lambda _: with_items(PER_FRAME, 1_000_000),
    "sixty thousand elements": lambda _: with_elements(60_000),
    "a window of many values": lambda _: write(make(WindowCenter=[40] * 8000, WindowWidth=[400] * 8000)),
    "a value of 4 GiB": lambda _: before_pixels(make(), b"\x09\0\x10\x10OB\0\0\xf0\xff\xff\xff"),
    "a group of frames that lies": lambda _: enhanced().replace(b"\0\x52\x30\x92SQ\0\0", b"\0\x52\x30\x92OB\0\0"),
}


@pytest.mark.parametrize("what", HOSTILE | ODD)
def test_hostile_files_end_soon_in_little_memory_and_the_next_is_read(
    what: str, decoder: Decoder, tmp_path: Path
) -> None:
    data = (HOSTILE | ODD)[what](tmp_path)
    (child,) = decoder._children
    growth, begun = Growth(child.process.pid), processor_time(child.process.pid)
    with suppress(UnreadableSlice):
        decoder.read(data, window=WIDE)
        assert what in ODD
    if child.process.poll() is None:
        assert growth() <= GROWTH
        assert processor_time(child.process.pid) - begun <= READ_TIME + 1
    again, here = decoder.read(write(make()), window="lung"), read_slice(write(make()), window="lung")
    assert (again.pixels == here.pixels).all()
    assert vars(again) | {"pixels": 0} == vars(here) | {"pixels": 0}


def processor_time(pid: int) -> float:
    """Seconds that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.parametrize("what", ["deep sequences", "a million empty items", "a bomb"])
def test_a_look_at_a_hostile_file_ends_too(what: str, decoder: Decoder, tmp_path: Path) -> None:
    (child,) = decoder._children
    begun = processor_time(child.process.pid)
    with suppress(UnreadableSlice):
        decoder.survey((HOSTILE | ODD)[what](tmp_path), "key")
    assert child.process.poll() is not None or processor_time(child.process.pid) - begun <= READ_TIME + 1
    assert len(decoder.survey(write(make()), "key").positions) == 1
