"""NIfTI and NRRD volumes: whatever the axes and the type, the same slice comes out, seen from the feet."""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform

from ctscan.errors import UnreadableSlice
from ctscan.imaging.phantom import draw_phantom
from ctscan.io.images import Slice, read_slice
from ctscan.io.sandbox import Decoder
from ctscan.io.volumes import _read_nifti, _read_nrrd
from tests.samples import damaged
from tests.test_hostile import GROWTH, Growth

WIDE = (0.0, 4000.0)
PHANTOM = np.rint(draw_phantom(40, 50) * 2000 - 1000).astype(np.int16)
UNITS = np.stack([PHANTOM + 10 * z for z in range(36)])  # (Z, H, W), from the feet up
ALL_AXES = ["".join(axes) for order in permutations(("LR", "PA", "SI")) for axes in product(*order)]
KINDS = ["<i2", ">i2", "<f4", ">f4", "<i4", "<f8", "<i8"]
SHARED = Path(__file__).parent.parent.parent / "shared" / "volumes"


def in_axes(axes: str, kind: Any = nibabel.Nifti1Image, values: np.ndarray = UNITS) -> Any:
    """The volume stored along other axes: its lowest slice lies at 100 mm."""
    affine = np.array([[-0.8, 0, 0, 9], [0, -0.7, 0, 8], [0, 0, 3.0, 100], [0, 0, 0, 1]])
    image = kind(values.transpose(2, 1, 0), affine)
    return image.as_reoriented(ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(axes)))


def nifti(axes: str = "LPS", kind: Any = nibabel.Nifti1Image, dtype: str = "<i2", quaternion: bool = False) -> bytes:
    turned = in_axes(axes, kind)
    header = kind.header_class(endianness=dtype[0])
    image = kind(np.asanyarray(turned.dataobj).astype(dtype), turned.affine, header)
    image.header.set_data_dtype(dtype)
    image.set_qform(image.affine, 1)
    image.set_sform(None if quaternion else image.affine, 0 if quaternion else 1)
    data: bytes = image.to_bytes()
    return data


def nrrd_of(
    axes: str = "LPS",
    dtype: str = "<i2",
    space: str = "right-anterior-superior",
    units: np.ndarray = UNITS,
    **fields: Any,
) -> bytes:
    """By pynrrd; what nibabel calls an affine is in its axes to the right and the front."""
    image = in_axes(axes, values=units)
    signs = np.array([-1.0, -1.0, 1.0]) if space.lower() in ("lps", "left-posterior-superior") else np.ones(3)
    header = {
        "space": space,
        "space directions": (signs[:, None] * image.affine[:3, :3]).T,
        "space origin": signs * image.affine[:3, 3],
        "encoding": "raw",
    }
    buffer = io.BytesIO()
    nrrd.write(buffer, np.asanyarray(image.dataobj).astype(dtype), header | fields)
    return buffer.getvalue()


def units_of(slice_: Slice) -> np.ndarray:
    return (slice_.pixels - 0.5) * WIDE[1] + WIDE[0]


def code(data: bytes, slice_: int | None = None) -> str:
    with pytest.raises(UnreadableSlice) as refused:
        read_slice(data, slice_)
    return refused.value.notice.code


@pytest.mark.parametrize("quaternion", [False, True])
@pytest.mark.parametrize("axes", ALL_AXES)
def test_any_axes_of_nifti_give_the_same_slice(axes: str, quaternion: bool) -> None:
    assert_is_slice_7(read_slice(nifti(axes, quaternion=quaternion), 7, WIDE))


@pytest.mark.parametrize("space", ["right-anterior-superior", "LPS"])
@pytest.mark.parametrize("axes", ALL_AXES)
def test_any_axes_of_nrrd_give_the_same_slice(axes: str, space: str) -> None:
    assert_is_slice_7(read_slice(nrrd_of(axes, space=space), 7, WIDE))


def assert_is_slice_7(slice_: Slice) -> None:
    assert np.abs(units_of(slice_) - UNITS[7]).max() < 1
    assert slice_.spacing == pytest.approx((0.7, 0.8))
    assert slice_.position == pytest.approx(100 + 7 * 3, abs=0.01)
    assert (slice_.unit, slice_.is_radiological, slice_.window) == ("HU", True, WIDE)
    assert [notice.code for notice in slice_.notices] == ["taken_for_units"]


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_any_type_of_nifti_gives_the_same_slice(kind: type, dtype: str) -> None:
    for data in (nifti("RAS", kind, dtype), gzip.compress(nifti("RAS", kind, dtype))):
        assert_is_the_middle_slice(read_slice(data, window=WIDE))


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("dtype", KINDS)
def test_any_type_of_nrrd_gives_the_same_slice(dtype: str, encoding: str) -> None:
    assert_is_the_middle_slice(read_slice(nrrd_of(dtype=dtype, encoding=encoding), window=WIDE))


GREYS = (UNITS.astype(float) + 1000) / 3000  # 0 to nearly 1: no air of CT among them
UNITLESS = {
    "8 bits": lambda axes: nrrd_of(axes, "u1", units=np.rint(GREYS * 255)),
    "8 bits, signed": lambda axes: nrrd_of(axes, "i1", units=np.rint(GREYS * 255) - 128, encoding="gzip"),
    "no offset": lambda axes: nrrd_of(axes, "<u2", units=np.rint(GREYS * 4095)),
    "floats": lambda axes: nrrd_of(axes, "<f4", units=GREYS),
    "floats, some of them none": lambda axes: nrrd_of(axes, "<f4", units=with_a_slice_of(GREYS, np.nan)),
}


def with_a_slice_of(units: np.ndarray, value: float) -> np.ndarray:
    changed = units.copy()
    changed[35] = value
    return changed


@pytest.mark.parametrize("axes", ["LPS", "RAI", "SPL", "LIP"])
@pytest.mark.parametrize("name", UNITLESS)
def test_values_that_are_no_hounsfield_units_give_any_slice_from_darkest_to_brightest(name: str, axes: str) -> None:
    data = UNITLESS[name](axes)
    low, high = GREYS[:35].min(), GREYS[: 35 if "none" in name else 36].max()
    for number in (0, 7, 34):
        slice_ = read_slice(data, number, "lung")
        assert slice_.pixels == pytest.approx((GREYS[number] - low) / (high - low), abs=0.004)
        assert [notice.code for notice in slice_.notices] == ["unknown_units"]
        assert (slice_.unit, slice_.window, slice_.is_radiological) == (None, None, True)
        assert slice_.position == pytest.approx(100 + 3 * number, abs=0.01)


def test_a_volume_of_one_value_or_of_none_is_a_slice_or_a_sentence() -> None:
    assert (read_slice(nrrd_of(dtype="u1", units=np.full(UNITS.shape, 7.0))).pixels == 0.5).all()
    assert code(nrrd_of(dtype="<f4", units=np.full(UNITS.shape, np.nan))) == "not_numbers"


@pytest.mark.parametrize("dtype", ["<i2", "<f4"])
def test_soft_tissue_that_was_cut_out_of_a_scan_still_has_units(dtype: str) -> None:
    slice_ = read_slice(nrrd_of(dtype=dtype, units=UNITS.clip(-75, 175)), 7, WIDE)
    assert slice_.unit == "HU"
    assert np.abs(units_of(slice_) - UNITS[7].clip(-75, 175)).max() < 1


def assert_is_the_middle_slice(slice_: Slice) -> None:
    assert np.abs(units_of(slice_) - UNITS[18]).max() < 1
    assert [notice.code for notice in slice_.notices] == ["middle_slice", "taken_for_units"]


@pytest.mark.parametrize(
    "name", ["short", "short int", "signed short", "signed short int", "int16", "int16_t", "SHORT"]
)
def test_a_type_has_many_names(name: str) -> None:
    assert_is_the_middle_slice(read_slice(nrrd_of().replace(b"type: int16", f"type: {name}".encode()), window=WIDE))


@pytest.mark.parametrize("way", ["lines", "bytes", "all but the values", "Windows", "an axis more"])
def test_nrrd_has_many_ways(way: str) -> None:
    head, _, values = nrrd_of().partition(b"\n\n")
    data = {
        "lines": head + b"\nline skip: 2\n\n" + b"one\ntwo\n" + values,
        "bytes": head + b"\nbyte skip: 5\n\n" + b"12345" + values,
        "all but the values": head + b"\nbyte skip: -1\n\n" + b"\n\nanything" + values,
        "Windows": head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + values,
        "an axis more": head.replace(b"dimension: 3", b"dimension: 4")
        .replace(b"sizes: ", b"sizes: 1 ")
        .replace(b"space directions: ", b"space directions: none ")
        + b"\n\n"
        + values,
    }[way]
    assert data != nrrd_of()
    assert_is_the_middle_slice(read_slice(data, window=WIDE))


def test_slope_and_intercept_are_applied() -> None:
    data = bytearray(nifti())
    struct.pack_into("<2f", data, 112, 2.0, -50.0)
    assert np.abs(units_of(read_slice(bytes(data), 3, (0.0, 8000.0))) * 2 - (UNITS[3] * 2.0 - 50)).max() < 1
    struct.pack_into("<2f", data, 112, float("nan"), 1.0)  # no number: no scaling
    assert np.abs(units_of(read_slice(bytes(data), 3, WIDE)) - UNITS[3]).max() < 1


def test_a_volume_that_lies_askew_a_little_is_read_and_one_between_two_axes_is_not() -> None:
    for degrees, is_read in ((10, True), (20, True), (44, False)):
        turned = np.radians(degrees)
        tilt = np.array([[1, 0, 0], [0, np.cos(turned), -np.sin(turned)], [0, np.sin(turned), np.cos(turned)]])
        affine = np.eye(4)
        affine[:3, :3] = tilt @ np.diag([-0.8, -0.7, 3.0])
        data = nibabel.Nifti1Image(UNITS.transpose(2, 1, 0), affine).to_bytes()
        if is_read:
            slice_ = read_slice(data, 7, WIDE)
            assert np.abs(units_of(slice_) - UNITS[7]).max() < 1
            assert slice_.notices[-1].code == "tilted"
            assert slice_.notices[-1].values["degrees"] == pytest.approx(degrees)
        else:
            assert code(data) == "no_orientation"


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_volume_that_contradicts_itself_has_no_sides(kind: Any) -> None:
    image = in_axes("LPS", kind)
    image.set_sform(image.affine, 1)
    for turned, sides_known in ((np.diag([-1.0, 1, 1, 1]), False), (np.eye(4), True)):
        image.set_qform(turned @ image.affine, 1)
        slice_ = read_slice(image.to_bytes(), 7, WIDE)
        assert np.abs(units_of(slice_) - UNITS[7]).max() < 1
        assert slice_.is_radiological is sides_known
        assert ("two_orientations" in [notice.code for notice in slice_.notices]) is not sides_known


def test_a_step_below_zero_mirrors_nothing() -> None:
    data = bytearray(nifti(quaternion=True))
    struct.pack_into("<f", data, 80, -0.8)  # the standard knows lengths alone, and nibabel takes it for one
    assert_is_slice_7(read_slice(bytes(data), 7, WIDE))


def test_what_is_no_single_whole_volume_is_named() -> None:
    four = nibabel.Nifti1Image(np.stack([UNITS.transpose(2, 1, 0)] * 2, axis=-1), np.eye(4)).to_bytes()
    flat = nibabel.Nifti1Image(UNITS[0].T, np.eye(4)).to_bytes()
    unstated = nibabel.Nifti1Image(UNITS.transpose(2, 1, 0), None).to_bytes()
    beside = nrrd_of().replace(b"encoding: raw", b"encoding: raw\ndata file: /etc/passwd")
    assert code(four) == code(flat) == code(nrrd_of().replace(b"sizes: 50 40 36", b"sizes: 50 40 36 2").replace(
        b"space directions: ", b"space directions: none "
    )) == "several_volumes"  # fmt: skip
    assert code(unstated) == code(nrrd_of(space="scanner-xyz")) == "no_orientation"
    assert code(nifti().replace(b"n+1\0", b"ni1\0")) == code(beside) == "detached_header"
    assert code(nrrd_of().replace(b"encoding: raw", b"encoding: hex")) == "undecodable"
    assert code(gzip.compress(b"a report " * 100)) == "archive"


def test_a_nifti_of_colours_is_refused_as_no_greys() -> None:
    colours = np.zeros((8, 8, 8), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    with pytest.raises(UnreadableSlice) as refused:
        read_slice(nibabel.Nifti1Image(colours, np.eye(4)).to_bytes())
    assert refused.value.notice.code == "several_volumes"


def test_a_slice_that_is_not_there_is_named() -> None:
    for data in (nifti(), nrrd_of()):
        with pytest.raises(UnreadableSlice, match="0 to 35"):
            read_slice(data, 36)


# --- files that lie


def gzipped(head: bytes, zeros: int) -> bytes:
    """Packed zeros behind a header, in as many members as there are MiB."""
    return gzip.compress(head) + gzip.compress(bytes(1 << 20)) * (zeros >> 20)


def with_shape(*shape: int, axes: str = "LPS") -> bytes:
    head = bytearray(nifti(axes)[:352])
    struct.pack_into(f"<{len(shape)}h", head, 42, *shape)
    return bytes(head)


def with_offset(offset: float) -> bytes:
    data = bytearray(nifti())
    struct.pack_into("<f", data, 108, offset)
    return bytes(data)


def with_sizes(sizes: str) -> bytes:
    return nrrd_of().replace(b"sizes: 50 40 36", f"sizes: {sizes}".encode())


def packed_nrrd(sizes: str, zeros: int) -> bytes:
    head = with_sizes(sizes).partition(b"\n\n")[0].replace(b"encoding: raw", b"encoding: gzip") + b"\n\n"
    return head + gzipped(b"", zeros)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "more slices than there are": lambda: with_shape(50, 40, 30_000) + nifti()[352:],
    "huge sides": lambda: with_shape(32_767, 32_767, 32_767),
    "negative sides": lambda: with_shape(-50, 40, 36),
    "a bomb of 8 GB": lambda: gzipped(with_shape(32_000, 32_000, 4), 8 << 30),
    "a bomb of planes": lambda: gzipped(with_shape(4000, 4000, 60), 1 << 29),
    "a bomb across the planes": lambda: gzipped(with_shape(1000, 1000, 1000, axes="SPL"), 1 << 30),
    "values far behind": lambda: with_offset(1e30),
    "values before the file": lambda: with_offset(-352.0),
    "values at no number": lambda: with_offset(float("nan")),
    "an empty archive": lambda: gzip.compress(b""),
    "no archive behind its mark": lambda: b"\x1f\x8b" + b"\x08" * 500,
    "nrrd, huge sizes": lambda: with_sizes("9999999 9999999 9999999"),
    "nrrd, a size of a thousand digits": lambda: with_sizes("9" * 5000 + " 2 2"),
    "nrrd, a million sizes": lambda: with_sizes("2 " * 1_000_000),
    "nrrd, a million fields": lambda: b"NRRD0004\n" + b"a: b\n" * 1_000_000,
    "nrrd, no size": lambda: with_sizes("0 0 0"),
    "nrrd, negative": lambda: with_sizes("-50 -40 36"),
    "nrrd, a bomb": lambda: packed_nrrd("4000 4000 60", 1 << 29),
    "nrrd, a skip": lambda: nrrd_of().replace(b"encoding: raw", b"encoding: raw\nbyte skip: 99999999999999"),
    "nrrd, a skip of lines": lambda: nrrd_of().replace(b"encoding: raw", b"encoding: raw\nline skip: 1000000"),
    "nrrd, no values": lambda: nrrd_of().partition(b"\n\n")[0] + b"\n\n",
    "nrrd, letters for numbers": lambda: nrrd_of().replace(b"space origin: (", b"space origin: (x"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_volumes_end_in_a_sentence_and_the_next_is_read(what: str, decoder: Decoder) -> None:
    data, (child,) = HOSTILE[what](), decoder._children
    growth = Growth(child.process.pid)
    with pytest.raises(UnreadableSlice):
        decoder.read(data)
    assert child.process.poll() is not None or growth() <= GROWTH
    assert (decoder.read(nifti(), 7, WIDE).pixels == read_slice(nrrd_of(), 7, WIDE).pixels).all()


@pytest.mark.parametrize("kept", [0, 2, 200, 352, 5000])
def test_a_cut_volume_is_a_sentence(kept: int) -> None:
    for whole in (nifti(), nrrd_of(), nrrd_of(encoding="gzip")):
        for data in (whole[:kept], gzip.compress(whole)[:kept], gzip.compress(whole[:kept])):
            with pytest.raises(UnreadableSlice):
                read_slice(data, 20)


def test_damaged_volumes_are_read_or_refused() -> None:
    rng = np.random.default_rng(0)
    for whole in (nifti(), nrrd_of(), gzip.compress(nifti()), nrrd_of(encoding="gzip")):
        for _ in range(150):
            try:
                assert read_slice(damaged(whole, 600, rng)).pixels.dtype == np.float32
            except UnreadableSlice:
                continue


# --- real files


@pytest.mark.skipif(not SHARED.exists(), reason="real files are not here")
def test_real_volumes_are_read_as_by_the_libraries(decoder: Decoder) -> None:
    for path in (SHARED / "pyradiomics").glob("*_image.nrrd"):
        axial, _ = _read_nrrd(path)
        slice_ = decoder.read(path.read_bytes(), 20, WIDE)
        assert np.abs(units_of(slice_) - axial[20].clip(-2000, 2000)).max() < 1
    for path in (SHARED / "totalsegmentator").glob("*.nii.gz"):
        units = _read_nifti(path)
        slice_ = decoder.read(path.read_bytes(), 60, WIDE)
        assert np.abs(units_of(slice_) - units[60].clip(-2000, 2000)).max() < 1
