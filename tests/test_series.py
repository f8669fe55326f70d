"""Several DICOM files in a zip or a folder: one series, in the order of the body, and what is odd about it in words."""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom import dcmread, uid

from ctscan.errors import CtscanError, UnreadableSlice
from ctscan.io.images import Slice, Survey, read_slice, survey
from ctscan.io.sandbox import Decoder
from ctscan.io.series import arrange, sources
from tests.conftest import ROOT, Ctscan
from tests.process_tree import is_running
from tests.test_dicom import CANARY, PHANTOM, WIDE, enhanced, in_syntax, make, units_of, write
from tests.test_hostile import GROWTH, Growth
from tests.test_volume_files import nifti

SHARED = ROOT.parent / "shared" / "dicom"
SERIES = "1.2.840.1970.7"
PHANTOMS = {5.0 * n: PHANTOM + 10 * n for n in range(8)}  # mm, from the feet up


def at(position: float, units: np.ndarray = PHANTOM, series: str = SERIES, **tags: Any) -> bytes:
    return write(make(units, ImagePositionPatient=[-100, -90, position], SeriesInstanceUID=series, **tags))


SLICES = [at(position, units) for position, units in PHANTOMS.items()]
SHUFFLED = [SLICES[n] for n in (3, 0, 7, 5, 1, 6, 2, 4)]


def zip_of(files: list[bytes] | dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """With the canary in all names that are not given."""
    named = files if isinstance(files, dict) else {f"{CANARY}/{n}.dcm": data for n, data in enumerate(files)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, compresslevel=1) as archive:
        for name, data in named.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def codes(slice_: Slice) -> list[str]:
    return [notice.code for notice in slice_.notices if notice.code != "shown_in_window"]


def said(slice_: Slice) -> dict[str, dict[str, Any]]:
    return {notice.code: dict(notice.values) for notice in slice_.notices}


def code(data: bytes, slice_: int | None = None) -> str:
    with pytest.raises(UnreadableSlice) as refused:
        read_slice(data, slice_)
    return refused.value.notice.code


# --- a zip


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_slices_in_a_zip_are_counted_from_the_feet_up(method: int) -> None:
    data = zip_of(SHUFFLED, method)
    assert len(survey(data).positions) == 8
    for number, (position, units) in enumerate(PHANTOMS.items()):
        slice_ = read_slice(data, number, WIDE)
        assert np.abs(units_of(slice_) - units).max() < 1
        assert slice_.position == position
        assert codes(slice_) == []
    middle = read_slice(data, window=WIDE)
    assert (middle.position, codes(middle)) == (20, ["middle_slice"])
    with pytest.raises(UnreadableSlice, match="0 to 7"):
        read_slice(data, 8)


def test_order_is_that_of_the_body_whatever_way_the_patient_lay() -> None:
    prone = [at(position, ImageOrientationPatient=[-1, 0, 0, 0, -1, 0]) for position in (10, 0, 5)]
    assert [read_slice(zip_of(prone), n).position for n in range(3)] == [0, 5, 10]


def test_gaps_duplicates_and_what_is_no_slice_are_said() -> None:
    odd = [*SLICES[:4], *SLICES[5:], SLICES[2], b"a report", write(make(Modality="SR")), write(make())]
    slice_ = read_slice(zip_of(odd), 0)
    assert said(slice_)["left_out"] == {"count": 3}
    assert said(slice_)["duplicates"] == {"count": 1}
    assert said(slice_)["gaps"] == {"count": 1, "step": 5}
    assert len(survey(zip_of(odd)).positions) == 7


def test_of_two_series_the_one_with_more_slices_is_read() -> None:
    other = [at(position, series="1.2.840.1970.8") for position in (2.5, 7.5)]
    scout = at(1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    slice_ = read_slice(zip_of([*other, *SHUFFLED, scout]), 1)
    assert slice_.position == 5
    assert said(slice_)["other_series"] == {"count": 1, "slices": 8, "all": 10}
    assert said(slice_)["left_out"] == {"count": 1}
    assert "gaps" not in said(slice_)


def test_a_tilted_gantry_is_said() -> None:
    tilted = [at(position, ImageOrientationPatient=[1, 0, 0, 0, 0.94, -0.34]) for position in (0, 5, 10)]
    slice_ = read_slice(zip_of(tilted), 2)
    assert said(slice_)["tilted"]["degrees"] == pytest.approx(19.9, abs=0.1)
    assert slice_.position == pytest.approx(-90 * 0.34 + 10 * 0.94, abs=0.1)


def test_a_file_alone_in_a_zip_keeps_its_frames() -> None:
    data = zip_of([enhanced()])
    assert len(survey(data).positions) == 3
    assert np.abs(units_of(read_slice(data, 2, WIDE)) - PHANTOM - 200).max() < 1
    assert codes(read_slice(zip_of([SLICES[0]]))) == []


@pytest.mark.parametrize("syntax", [uid.DeflatedExplicitVRLittleEndian, uid.RLELossless])
def test_compressed_slices_are_sorted_too(syntax: str) -> None:
    files = [
        in_syntax(syntax, ImagePositionPatient=[0, 0, position], SeriesInstanceUID=SERIES) for position in (9, 3, 6)
    ]
    assert [read_slice(zip_of(files), n).position for n in range(3)] == [3, 6, 9]


# --- files that mean harm


def patched(data: bytes, before: bytes, after: bytes) -> bytes:
    assert before in data
    return data.replace(before, after)


def with_password() -> bytes:
    """Bit 0 of the flags, in both headers of each file."""
    data = bytearray(zip_of(SLICES))
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = data.find(mark)
        while start >= 0:
            data[start + place] |= 1
            start = data.find(mark, start + 4)
    return bytes(data)


def long_head() -> bytes:
    """A file that unpacks to 60 MB before its pixels, a hundred times."""
    file = make(ImagePositionPatient=[0, 0, 1])
    file.add_new(0x00091001, "OB", bytes(60 << 20))
    whole = write(file)
    return zip_of({str(n): whole for n in range(3)})


def of_a_gigabyte() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, archive.open("a", "w") as file:
        for _ in range(1024):
            file.write(bytes(1 << 20))
    return buffer.getvalue()


def nested_zip() -> bytes:
    data = zip_of(SLICES)
    for _ in range(20):
        data = zip_of([data])
    return data


def overlapping() -> bytes:
    """Ten thousand entries of the directory that all are the one file."""
    one = zip_of({"a": SLICES[0]})
    start = one.index(b"PK\1\2")
    end = one.index(b"PK\5\6")
    entry = one[start:end]
    count = 4000
    tail = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(entry) * count, start, 0)
    return one[:start] + entry * count + tail


HOSTILE: dict[str, tuple[Callable[[], bytes], set[str]]] = {
    "nothing": (lambda: zip_of([]), {"no_series"}),
    "no slice": (lambda: zip_of([b"a report", nifti()]), {"no_series"}),
    "its end cut off": (lambda: zip_of(SLICES)[:-30], {"damaged"}),
    "its mark alone": (lambda: b"PK\3\4" + bytes(400), {"damaged"}),
    "a path up": (lambda: zip_of({"a/../../b.dcm": SLICES[0]}), {"odd_archive"}),
    "a path from the root": (lambda: zip_of({"/etc/passwd": SLICES[0]}), {"odd_archive"}),
    "a path of Windows": (lambda: zip_of({"C:\\b.dcm": SLICES[0]}), {"odd_archive"}),
    "a path up, of Windows": (lambda: zip_of({"..\\b.dcm": SLICES[0]}), {"odd_archive"}),
    "six thousand files": (lambda: zip_of({str(n): b"" for n in range(6000)}), {"odd_archive"}),
    "a password": (with_password, {"locked_archive"}),
    "a gigabyte": (of_a_gigabyte, {"no_series"}),
    "a zip in a zip": (nested_zip, {"no_series"}),
    "another way to pack": (lambda: zip_of(SLICES, zipfile.ZIP_LZMA), {"no_series"}),
    "checksums that lie": (
        lambda: patched(zip_of({"a": SLICES[0]}), struct.pack("<I", zlib.crc32(SLICES[0])), b"abcd"),
        {"damaged", "no_series"},
    ),
    "sizes that lie": (
        lambda: patched(zip_of({"a": SLICES[0]}), struct.pack("<I", len(SLICES[0])), b"\0\x10\0\0"),
        {"damaged", "no_series"},
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archives_end_in_a_sentence_and_the_next_is_read(what: str, decoder: Decoder) -> None:
    made, expected = HOSTILE[what]
    data, growth = made(), Growth(decoder_pid(decoder))
    with pytest.raises(UnreadableSlice) as refused:
        decoder.read(data)
    assert refused.value.notice.code in expected
    assert growth() <= GROWTH
    assert decoder.read(zip_of(SHUFFLED), 1).position == 5


def decoder_pid(decoder: Decoder) -> int:
    (child,) = decoder._children
    return child.process.pid


@pytest.mark.parametrize("make_one", [long_head, overlapping])
def test_archives_that_would_take_long_end_in_time(make_one: Callable[[], bytes], decoder: Decoder) -> None:
    data, growth = make_one(), Growth(decoder_pid(decoder))
    with suppress(UnreadableSlice):
        assert decoder.read(data).unit == "HU"
    assert not is_running(growth.pid) or growth() <= GROWTH  # a slow machine ends the process itself
    assert decoder.read(zip_of(SHUFFLED), 1).position == 5


def test_damaged_archives_are_read_or_refused() -> None:
    rng, whole = np.random.default_rng(0), zip_of(SLICES[:3])
    head = [n for n in range(len(whole)) if n < 200 or n > len(whole) - 400]
    for _ in range(200):
        data = bytearray(whole)
        for place in rng.choice(head, 2):
            data[place] = rng.integers(256)
        try:
            assert read_slice(bytes(data)).pixels.dtype == np.float32
        except UnreadableSlice:
            continue


# --- a folder, and the order of all


def fill(folder: Path, files: list[bytes]) -> Path:
    (folder / CANARY).mkdir(parents=True)
    for number, data in enumerate(files):
        (folder / (CANARY if number % 2 else "") / f"{number}.dcm").write_bytes(data)
    return folder


def read_all(path: Path, decoder: Decoder) -> list[Slice]:
    return [read(file.read_bytes()) for file, read, _ in sources(path, decoder.read, decoder.survey, WIDE)]


def test_a_folder_is_read_as_a_zip(tmp_path: Path, decoder: Decoder) -> None:
    odd = [*SHUFFLED[:3], *SHUFFLED[4:], SHUFFLED[1], b"a report", at(2.5, series="1.2.3")]
    folder, archive = fill(tmp_path / "scan", odd), tmp_path / "scan.zip"
    archive.write_bytes(zip_of(odd))
    ours, theirs = read_all(folder, decoder), read_all(archive, decoder)
    assert [slice_.position for slice_ in ours] == [0, 5, 10, 15, 20, 30, 35]
    for one, other in zip(ours, theirs, strict=True):
        assert (one.pixels == other.pixels).all()
        assert vars(one) | {"pixels": 0} == vars(other) | {"pixels": 0}
    assert codes(ours[0]) == ["left_out", "other_series", "duplicates", "gaps"]


def test_a_volume_and_frames_are_series_too(tmp_path: Path, decoder: Decoder) -> None:
    for name, data, count in (("a", nifti(), 36), ("b", enhanced(), 3), ("c", SLICES[0], 1)):
        (tmp_path / name).write_bytes(data)
        assert len(read_all(tmp_path / name, decoder)) == count
    volume = read_all(tmp_path / "a", decoder)
    assert [slice_.position for slice_ in volume] == pytest.approx([100 + 3 * n for n in range(36)])
    alone = tmp_path / "folder"
    alone.mkdir()
    (alone / "one").write_bytes(enhanced())
    assert len(read_all(alone, decoder)) == 3


@pytest.mark.parametrize("made", [partial(enhanced, 5, -5, 0), nifti, lambda: zip_of([at(0), at(5)])])
def test_where_a_slice_lies_is_known_before_it_is_read(made: Callable[[], bytes], tmp_path: Path) -> None:
    (tmp_path / "scan").write_bytes(made())
    for file, read, position in sources(tmp_path / "scan", read_slice, survey):
        assert position == read(file.read_bytes()).position is not None


def test_a_folder_without_a_slice_is_a_sentence(tmp_path: Path, decoder: Decoder) -> None:
    (tmp_path / "letter.txt").write_text("a report")
    with pytest.raises(CtscanError, match="no DICOM file"):
        read_all(tmp_path, decoder)


def test_series_are_told_apart_by_what_names_nobody(decoder: Decoder) -> None:
    one, other = decoder.survey(SLICES[0], "key"), decoder.survey(at(0, series="1.2.3"), "key")
    assert one.series == survey(SLICES[3], "key").series
    assert len({one.series, other.series, decoder.survey(SLICES[0], "another").series}) == 3
    assert vars(one).keys() == {"positions", "series"}
    assert "1970" not in one.series


def test_nothing_of_a_series_names_anybody(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    read = [repr(vars(read_slice(zip_of(SHUFFLED), n))) for n in (None, 3)]
    for data in (zip_of(SLICES)[:-30], zip_of({f"../{CANARY}": SLICES[0]}), zip_of([write(make(Modality="MR"))])):
        with pytest.raises(UnreadableSlice) as refused:
            read_slice(data)
        read += [repr(refused.value), repr(refused.value.__context__), str(refused.value.notice)]
    printed = capfd.readouterr()
    for text in (*read, printed.out, printed.err):
        assert not any(word in text for word in ("Canary", "Cornelia", "1970"))


def test_files_without_a_place_make_no_series() -> None:
    assert arrange([None, None]).order == ()
    assert arrange([Survey(), Survey()]).order == ()
    assert arrange([None, Survey((None,) * 3)]).order == (1,)


# --- the command line


def test_the_command_line_has_a_row_a_slice_with_its_place(
    tmp_path: Path, checkpoint_path: Path, run_ctscan: Ctscan
) -> None:
    folder = fill(tmp_path / "scan", [at(40)[:-5000], *SHUFFLED])
    page = tmp_path / "scan.html"
    window = ["--window", "-600/1500"]
    done = run_ctscan("predict", folder, "--series", *window, "--report", page, "--checkpoint", checkpoint_path)
    *rows, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert (last["slice"], last["position"], last["notice_codes"]) == (8, 40, ["damaged"])
    assert [(row["slice"], row["position"]) for row in rows] == list(enumerate(PHANTOMS))
    assert all("centre -600 and width 1500" in " ".join(row["notices"]) for row in rows)
    assert (done.returncode, done.stderr) == (0, "")
    text = page.read_text(encoding="utf-8")
    assert "9 slices from the feet to the head" in text
    assert "1 not readable" in text
    assert not re.findall(r"(?:src|href)=.(?!data:)", text)  # it needs nothing from anywhere
    assert CANARY not in done.stdout + text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--series", "--slice", "2"], "Give either --slice or --series."),
        (["--report", "scan.html"], "--report goes with --series and one FILE."),
        (["--window", "blue"], "--window: there is no window 'blue'; try lung, mediastinal, "),
        (["--window", "1/2/3"], "--window: there is no window '1/2/3'"),
        (["--window", "1/0"], "--window: a window has a centre and a width above 0"),
    ],
)
def test_what_is_typed_wrongly_is_one_line(arguments: list[str], sentence: str, run_ctscan: Ctscan) -> None:
    done = run_ctscan("predict", "slice.dcm", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"ctscan: {sentence}")


# --- real files


@pytest.mark.skipif(not SHARED.exists(), reason="real files are not here")
def test_real_series_are_sorted(decoder: Decoder, tmp_path: Path) -> None:
    for name, count in (("series-adenocarcinoma", 64), ("series-breast", 20)):
        files = [path.read_bytes() for path in sorted((SHARED / name).glob("*.dcm"), reverse=True)]
        positions = [s.position for s in read_all(SHARED / name, decoder)]
        assert len(files) == len(positions) == count
        assert positions == sorted(positions)  # type: ignore[type-var]
        data = zip_of(files[:24])  # a sixth of what the page takes, packed
        assert len(decoder.survey(data).positions) == min(24, count)
        assert decoder.read(data, 3).unit == "HU"


@pytest.mark.skipif(not SHARED.exists(), reason="real files are not here")
def test_a_real_series_made_a_volume_gives_the_same_slices(decoder: Decoder) -> None:
    files = [path.read_bytes() for path in sorted((SHARED / "series-breast").glob("*.dcm"))]
    heads = sorted((dcmread(io.BytesIO(data)) for data in files), key=lambda head: head.ImagePositionPatient[2])
    first, last = heads[0], heads[-1]
    across, down = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    origin, end = (np.array(head.ImagePositionPatient, float) for head in (first, last))
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = across * first.PixelSpacing[1], down * first.PixelSpacing[0]
    affine[:3, 2], affine[:3, 3] = (end - origin) / (len(heads) - 1), origin
    units = np.stack([head.pixel_array.T * head.RescaleSlope + head.RescaleIntercept for head in heads], axis=-1)
    volume = nibabel.Nifti1Image(units.astype(np.int16), np.diag([-1.0, -1, 1, 1]) @ affine).to_bytes()
    archive = zip_of(files)
    for number in (0, 7, len(files) - 1):
        one, other = decoder.read(archive, number), decoder.read(volume, number)
        assert one.pixels == pytest.approx(other.pixels, abs=1e-6)
        assert one.position == pytest.approx(other.position, abs=0.01)
        assert one.spacing == pytest.approx(other.spacing, abs=1e-4)
