"""All slices of a scan at once: the same as one by one, within limits of time and memory."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.encaps import encapsulate, generate_frames

from ctscan.errors import UnreadableSlice
from ctscan.io import stack
from ctscan.io.images import Gap, Slice, read_slice, survey
from ctscan.io.sandbox import MEMORY, read_stack
from ctscan.io.stack import MAX_BYTES, Stack
from ctscan.notices import Notice
from ctscan.page.door import MAX_SCAN
from tests.test_dicom import CANARY, ENHANCED, PHANTOM, by_gdcm, enhanced, make, write
from tests.test_medical import dicom
from tests.test_page import cv2_png
from tests.test_series import HOSTILE, SHUFFLED, at, zip_of
from tests.test_volume_files import UNITLESS, nifti, nrrd_of

STEPS = 60_000_000
SCANS: dict[str, Callable[[], bytes]] = {
    "zip": lambda: zip_of([*SHUFFLED, b"a report"]),
    "frames": enhanced,
    "enhanced, out of order": lambda: enhanced(5, -5, 0),
    "frames in a zip": lambda: zip_of([enhanced()]),
    "nrrd": nrrd_of,
    **{f"nifti {''.join(axes)}": partial(nifti, "".join(axes)) for axes in permutations("LPS")},
    "nifti from the head down": lambda: nifti("RAI"),
    "frames without units": lambda: write(dicom("i2", frames=3, RescaleType="US")),
    "slices without units": lambda: zip_of([at(n, RescaleType="US") for n in range(3)]),
    **{f"volume of {name}": partial(UNITLESS[name], "SPL") for name in ("8 bits", "floats")},
}


def read(data: bytes) -> Stack:
    scan = read_stack(data)
    assert scan is not None
    return scan


@pytest.mark.parametrize("name", SCANS)
def test_slices_of_a_scan_are_those_that_are_read_one_by_one(name: str) -> None:
    data = SCANS[name]()
    scan = read(data)
    assert scan.units.dtype == np.int16
    assert len(scan.slices) == len(survey(data).positions)
    assert (scan.positions is None) is name.startswith("frames")
    assert list(scan.positions or ()) == sorted(scan.positions or ())
    for number in {0, 1, len(scan.slices) - 1}:
        one, other = scan.slice(number), read_slice(data, number)
        assert one.unit == scan.unit
        assert one.pixels == pytest.approx(other.pixels, abs=0.51 / 2350)
        assert vars(one) | {"pixels": 0} == vars(other) | {"pixels": 0}


@pytest.mark.parametrize(
    "data", [cv2_png(np.zeros((64, 64), np.uint8)), SHUFFLED[0], zip_of([SHUFFLED[0]]), write(make(RescaleType="US"))]
)
def test_what_is_no_scan_is_none(data: bytes) -> None:
    assert read_stack(data) is None


def broken(position: float) -> bytes:
    """A slice whose head is whole and whose pixels are cut off."""
    return at(position)[:-5000]


def of_three_frames(*garbled: int) -> bytes:
    """Of which some are no RLE."""
    file = make(np.stack([PHANTOM] * 3), SOPClassUID=ENHANCED, NumberOfFrames=3)
    file.compress(uid.RLELossless, generate_instance_uid=False)
    frames = list(generate_frames(file.PixelData, number_of_frames=3))
    file.PixelData = encapsulate([b"no pixels " if n in garbled else frame for n, frame in enumerate(frames)])
    return write(file)


@pytest.mark.parametrize(
    ("data", "gaps"),
    [
        (zip_of([at(10), broken(5), at(0), broken(15), at(20)]), [1, 3]),
        (zip_of({"a": at(10), "b": at(5), "c": at(0)}, zipfile.ZIP_STORED).replace(at(0)[-99:], bytes(99), 1), [2]),
        (of_three_frames(1), [1]),
    ],
    ids=["cut", "checksum", "frame"],
)
def test_a_slice_that_cannot_be_read_is_a_gap_in_its_place_and_the_others_say_so(data: bytes, gaps: list[int]) -> None:
    scan = read(data)
    count = len(scan.slices)
    assert [number for number, part in enumerate(scan.slices) if isinstance(part, Gap)] == gaps
    assert list(scan.positions or ()) in ([5.0 * number for number in range(count)], [])
    said = Notice("unread_slices", {"count": len(gaps), "numbers": ", ".join(str(n + 1) for n in gaps)})
    for number in range(count):
        if number in gaps:
            assert (scan.units[number] == stack.BLACK).all()
            with pytest.raises(UnreadableSlice) as refused:
                scan.slice(number)
            with pytest.raises(UnreadableSlice) as alone:
                read_slice(data, number)
            assert refused.value.notice == alone.value.notice
        else:
            assert said in scan.slice(number).notices


def of_a_huge_frame(position: float, folder: Path) -> bytes:
    """In JPEG-LS, whose decoder ends the process where the frame that is stated has no room."""
    data = by_gdcm(uid.JPEGLSLossless, at(position), folder)
    head = data.index(b"\xff\xf7")  # a start of frame: length, precision, height, width
    return data[: head + 5] + struct.pack(">HH", 60_000, 60_000) + data[head + 9 :]


def of_sixty_million_steps(position: float, _: Path) -> bytes:
    """In RLE, with as many that do nothing before the first that does."""
    file = dcmread(io.BytesIO(at(position)))
    file.compress(uid.RLELossless, generate_instance_uid=False)
    (frame,) = generate_frames(file.PixelData, number_of_frames=1)
    count, first, second = struct.unpack_from("<3I", frame)
    head = struct.pack("<3I", count, first, second + STEPS) + frame[12:64]
    file.PixelData = encapsulate([head + b"\x80" * STEPS + frame[64:]])
    return write(file)


@pytest.mark.parametrize(("made", "code"), [(of_a_huge_frame, "lost"), (of_sixty_million_steps, "too_slow")])
def test_a_slice_that_ends_the_process_is_a_gap_and_the_others_are_read(
    made: Callable[[float, Path], bytes], code: str, tmp_path: Path
) -> None:
    scan = read_stack(zip_of([at(0), made(5, tmp_path), at(10), broken(15)]), read_time=0.5)
    assert scan is not None
    assert list(scan.positions or ()) == [0, 5, 10, 15]
    assert [part.notice.code for part in scan.slices if isinstance(part, Gap)] == [code, "damaged"]
    assert "unread_slices" in [notice.code for notice in scan.slice(2).notices]
    assert np.abs(scan.units[2] - PHANTOM).max() < 1


def test_a_scan_of_gaps_alone_is_refused_as_its_slice_is() -> None:
    for data in (zip_of([broken(0), broken(5)]), of_three_frames(0, 1, 2)):
        with pytest.raises(UnreadableSlice) as refused:
            read_stack(data)
        assert refused.value.notice.code == "damaged"


def test_no_more_than_ten_gaps_are_named() -> None:
    gaps = [Gap(Notice("damaged")) for _ in range(12)]
    scan = stack.assemble(np.zeros((13, 2, 2), np.int16), [Slice(np.zeros((0, 0), np.float32)), *gaps])
    assert isinstance(scan, Stack)
    assert isinstance(scan.slices[0], Slice)
    assert str(scan.slices[0].notices[0]).endswith("12 (number 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 …, counted from 1).")


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archives_end_in_a_sentence(what: str) -> None:
    made, expected = HOSTILE[what]
    with pytest.raises(UnreadableSlice) as refused:
        read_stack(made())
    assert refused.value.notice.code in expected


def test_a_scan_that_takes_too_much_is_refused_with_the_limit_and_the_command_line() -> None:
    for shape in ((13, 2900, 2900), (4000, 64, 64)):
        with pytest.raises(UnreadableSlice, match=r"2048 slices.*192 MiB.*ctscan predict FILE --series"):
            read_stack(nrrd_of(units=np.zeros(shape, np.uint8), dtype="u1", encoding="gzip"))
    assert MAX_BYTES < 2 * 13 * 2900 * 2900


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["frames", "across"])
def test_the_largest_scans_fit_into_the_memory_that_is_promised(kind: str) -> None:
    units = np.random.default_rng(0).integers(-1000, 1000, (255, 512, 512), np.int16)
    file = make(units, SOPClassUID=ENHANCED, NumberOfFrames=255) if kind == "frames" else None
    data = write(file) if file else nrrd_of("SPL", units=units)
    del file
    assert MAX_SCAN - (1 << 20) < len(data) < MAX_SCAN
    assert MEMORY == 256 << 20
    assert (read(data).units == units).all()


def test_nothing_of_a_scan_names_anybody() -> None:
    scan = read(zip_of([at(position, PatientName=CANARY, PatientID=CANARY) for position in (0, 5)]))
    known: list[Any] = [vars(slice_) for slice_ in scan.slices]
    assert not any(word in repr(known) for word in (CANARY, "Canary", "1970", "1.2.840"))
    assert all(isinstance(slice_, Slice) and slice_.pixels.size == 0 for slice_ in scan.slices)


def test_units_are_rounded_and_end_where_16_bits_do() -> None:
    units = np.repeat([-1000.0, 70_000.0], 64 * 64).reshape(2, 64, 64)
    read_under = read_slice(nrrd_of(units=units, dtype="f4"), 1, stack.EXACT)
    assert (stack.to_units(read_under.pixels) == 32767).all()


def test_a_slice_without_units_is_of_another_series() -> None:
    scan = read(zip_of([at(0), at(5), at(10, RescaleType="US")]))
    assert (len(scan.slices), scan.unit) == (2, "HU")
