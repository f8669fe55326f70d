"""All slices of a scan at once: the same as one by one, within limits of time and memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from ctscan.errors import UnreadableSlice
from ctscan.io import stack
from ctscan.io.images import read_slice, survey
from ctscan.io.sandbox import read_stack
from ctscan.io.stack import MAX_BYTES, Stack
from tests.test_dicom import CANARY, enhanced, make, write
from tests.test_page import cv2_png
from tests.test_series import HOSTILE, SHUFFLED, at, zip_of
from tests.test_volume_files import nifti, nrrd_of

SCANS: dict[str, Callable[[], bytes]] = {
    "zip": lambda: zip_of([*SHUFFLED, b"a report"]),
    "frames": enhanced,
    "frames in a zip": lambda: zip_of([enhanced()]),
    "nrrd": nrrd_of,
    **{f"nifti {''.join(axes)}": partial(nifti, "".join(axes)) for axes in permutations("LPS")},
    "nifti from the head down": lambda: nifti("RAI"),
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
    assert len(scan.slices) == survey(data).slices
    assert (scan.positions is None) is name.startswith("frames")
    assert list(scan.positions or ()) == sorted(scan.positions or ())
    for number in {0, 1, len(scan.slices) - 1}:
        one, other = scan.slice(number), read_slice(data, number)
        assert one.pixels == pytest.approx(other.pixels, abs=0.51 / 2350)
        assert vars(one) | {"pixels": 0} == vars(other) | {"pixels": 0}


@pytest.mark.parametrize(
    "data", [cv2_png(np.zeros((64, 64), np.uint8)), SHUFFLED[0], zip_of([SHUFFLED[0]]), write(make(RescaleType="US"))]
)
def test_what_is_no_scan_is_none(data: bytes) -> None:
    assert read_stack(data) is None


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


def test_nothing_of_a_scan_names_anybody() -> None:
    scan = read(zip_of([at(position, PatientName=CANARY, PatientID=CANARY) for position in (0, 5)]))
    known: list[Any] = [vars(slice_) for slice_ in scan.slices]
    assert not any(word in repr(known) for word in (CANARY, "Canary", "1970", "1.2.840"))
    assert all(slice_.pixels.size == 0 for slice_ in scan.slices)


def test_units_are_rounded_and_end_where_16_bits_do() -> None:
    read_under = read_slice(nrrd_of(units=np.full((2, 64, 64), 70_000.0), dtype="f4"), 0, stack.EXACT)
    assert (stack.to_units(read_under) == 32767).all()
