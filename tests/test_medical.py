"""One phantom through every medical container and every type of number, and windows against those of pydicom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut, apply_windowing
from pydicom.sequence import Sequence

from ctscan.imaging.phantom import draw_phantom
from ctscan.io.images import read_slice
from ctscan.io.medical import PRESETS
from tests.test_dicom import ENHANCED, make, write
from tests.test_series import zip_of
from tests.test_volume_files import nrrd_of

WIDE = (250.0, 4000.0)
PHANTOM = 10 * np.rint(draw_phantom(96, 120) * 250 - 100).astype(np.int64)  # HU, -1000 to 1500 in steps that fit 8 bits
INTEGERS = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]


def stored_as(dtype: str) -> tuple[np.ndarray, float, float]:
    """The phantom in a type of number, with the slope and the intercept that make Hounsfield units of it again."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return PHANTOM.astype(kind), 1.0, 0.0
    slope = 10 if kind.itemsize == 1 else 1
    intercept = {"u": -1000, "i": 280 if kind.itemsize == 1 else 0}[kind.kind]
    return ((PHANTOM - intercept) // slope).astype(kind), slope, intercept


def dicom(dtype: str, stored: int | None = None, frames: int = 1, **tags: Any) -> FileDataset:
    """Uncompressed, as in C.7.6.3: 8, 16 or 32 bits allocated, as many of them stored."""
    values, slope, intercept = stored_as(dtype)
    bits = values.dtype.itemsize * 8
    file = make(PHANTOM.astype(np.int16), RescaleSlope=slope, RescaleIntercept=intercept, **tags)
    file.BitsAllocated, file.BitsStored, file.HighBit = bits, stored or bits, (stored or bits) - 1
    file.PixelRepresentation = int(values.dtype.kind == "i")
    mask = (1 << (stored or bits)) - 1
    raw = (values.astype(np.int64) & mask).astype(f"<u{values.dtype.itemsize}").tobytes() * frames
    del file.PixelData
    file.add_new("PixelData", "OB" if bits == 8 else "OW", raw)
    if frames > 1:
        file.NumberOfFrames = frames
    return file


def nifti(kind: Any, dtype: str, order: str) -> bytes:
    values, slope, intercept = stored_as(dtype)
    header = kind.header_class(endianness=order)
    image = kind(np.stack([values.T] * 3, axis=-1).astype(order + dtype), np.diag([-1.0, -1, 1, 1]), header)
    image.header.set_data_dtype(order + dtype)
    image.header.set_slope_inter(slope, intercept)
    image.set_sform(image.affine, 1)
    data = bytearray(image.to_bytes())  # nibabel writes a scaling of its own choice, or none
    at, form = (112, "f4") if kind is nibabel.Nifti1Image else (176, "f8")
    scaling = np.array([slope, intercept], order + form).tobytes()
    data[at : at + len(scaling)] = scaling
    return bytes(data)


def nrrd(dtype: str, **fields: Any) -> bytes:
    """It scales nothing, so only wide types hold the phantom."""
    return nrrd_of(dtype=dtype, units=np.stack([PHANTOM] * 3).astype(np.float64), **fields)


def containers() -> Iterator[tuple[str, Callable[[], bytes]]]:
    bits = [(dtype, None) for dtype in INTEGERS[:6]] + [("u2", 12), ("i2", 12), ("i2", 13), ("u4", 24), ("i4", 17)]
    for dtype, stored in bits:
        yield f"dicom {dtype}, {stored or 'all'} bits", partial(write, dicom(dtype, stored))
    yield "dicom of three frames", lambda: write(dicom("i2", frames=3))
    yield "dicom in a zip", lambda: zip_of([write(dicom("u2"))])
    for kind, dtype, order in product((nibabel.Nifti1Image, nibabel.Nifti2Image), (*INTEGERS, "f4", "f8"), "<>"):
        yield f"{kind.__name__} {order}{dtype}", partial(nifti, kind, dtype, order)
    for dtype, encoding in product(("i2", "i4", "i8", "f4", "f8", ">i2", ">f4"), ("raw", "gzip")):
        yield f"nrrd {dtype} {encoding}", partial(nrrd, dtype, encoding=encoding)


CONTAINERS = dict(containers())


@pytest.mark.parametrize("name", CONTAINERS)
def test_one_phantom_comes_back_within_one_unit(name: str) -> None:
    slice_ = read_slice(CONTAINERS[name](), window=WIDE)
    units = (slice_.pixels.astype(np.float64) - 0.5) * WIDE[1] + WIDE[0]
    assert np.abs(units - PHANTOM).max() < 1
    assert (slice_.unit, slice_.is_radiological) == ("HU", True)


# --- windows


def by_pydicom(file: FileDataset, values: np.ndarray) -> np.ndarray:
    """What pydicom makes of them, from the least to the most it can be: 0 to 1."""
    least, most = apply_windowing(np.array([-1e6, 1e6]), file)
    shares: np.ndarray = (apply_windowing(values.astype(np.float64), file) - least) / (most - least)
    return shares


@pytest.mark.parametrize("window", [*PRESETS.values(), (40, 1), (40.5, 2.5), (0, 100_000)])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("dtype", ["i2", "u2"])
def test_the_window_of_a_file_is_that_of_pydicom(function: str, window: tuple[float, float], dtype: str) -> None:
    file = dicom(dtype)
    file.WindowCenter, file.WindowWidth, file.VOILUTFunction = *window, function
    slice_ = read_slice(write(file), window="file")
    assert slice_.pixels == pytest.approx(by_pydicom(file, PHANTOM), abs=1e-4)
    assert slice_.window == window


@pytest.mark.parametrize("name", [*PRESETS, "the middle"])
def test_a_window_that_is_asked_for_is_the_exact_one_of_pydicom(name: str) -> None:
    window = PRESETS.get(name, (12.0, 345.0))
    file = dicom("i2")
    file.WindowCenter, file.WindowWidth, file.VOILUTFunction = *window, "LINEAR_EXACT"
    expected = by_pydicom(file, PHANTOM)
    for asked in (name, window) if name in PRESETS else (window,):
        assert read_slice(write(file), window=asked).pixels == pytest.approx(expected, abs=1e-4)


def test_the_first_of_several_windows_counts() -> None:
    file = dicom("i2")
    file.WindowCenter, file.WindowWidth = [40, -600], [400, 1500]
    assert read_slice(write(file), window="file").window == (40, 400)


def test_a_table_of_the_file_is_that_of_pydicom() -> None:
    file = dicom("u2")
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [2501, 0, 12], np.linspace(0, 4095, 2501).astype(np.uint16)[::-1].tolist()
    table["LUTDescriptor"].VR = "US"
    table["LUTData"].VR = "US"
    file.RescaleIntercept = 0
    file.VOILUTSequence = Sequence([table])
    stored, _, _ = stored_as("u2")
    expected = apply_voi_lut(apply_modality_lut(stored, file).astype(np.int64), file) / 4095
    assert read_slice(write(file), window="file").pixels == pytest.approx(expected, abs=1e-3)


def test_each_frame_has_its_own_rescale_and_its_own_window() -> None:
    file = dicom("i2", frames=3)
    file.SOPClassUID = ENHANCED
    del file.RescaleSlope, file.RescaleIntercept
    groups = []
    for number in range(3):
        scale, shown, group = Dataset(), Dataset(), Dataset()
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = 1 + number, -100 * number, "HU"
        shown.WindowCenter, shown.WindowWidth = 40 + number, 400
        group.PixelValueTransformationSequence = Sequence([scale])
        group.FrameVOILUTSequence = Sequence([shown])
        groups.append(group)
    file.PerFrameFunctionalGroupsSequence = Sequence(groups)
    for number in range(3):
        units = PHANTOM * (1.0 + number) - 100 * number
        file.WindowCenter, file.WindowWidth = 40 + number, 400
        given = read_slice(write(file), number, "file")
        assert given.window == (40 + number, 400)
        assert given.pixels == pytest.approx(by_pydicom(file, units), abs=1e-4)
