"""DICOM files: one phantom through every way to store it that can be written here, and what is said of odd ones."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite, uid
from pydicom.data import get_testdata_file
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_windowing
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from ctscan.errors import UnreadableSlice
from ctscan.imaging.phantom import draw_phantom
from ctscan.inference.classifier import read
from ctscan.io.dicom import COPIED
from ctscan.io.images import Slice, read_slice
from tests.samples import damaged

CANARY = "Canary^Cornelia"
CT, ENHANCED = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
PHANTOM = np.rint(draw_phantom(96, 120) * 2000 - 1000).astype(np.int16)  # HU
WIDE = (0.0, 4000.0)
SHARED = Path(__file__).parent.parent.parent / "shared" / "dicom"


def make(units: np.ndarray = PHANTOM, *, signed: bool = True, stored: int = 16, **tags: Any) -> FileDataset:
    """A CT image of these Hounsfield units, uncompressed; None takes a tag away."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = uid.ExplicitVRLittleEndian, uid.UID(CT)
    meta.MediaStorageSOPInstanceUID = uid.UID("1.2.3")
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    intercept = 0 if signed else -1024
    file.SOPClassUID, file.SOPInstanceUID, file.Modality = CT, "1.2.3", "CT"
    file.PatientName, file.PatientID, file.StudyDate = CANARY, CANARY, "19700101"
    file.RescaleType = "HU"
    file.ImageType, file.SliceThickness, file.PixelSpacing = ["ORIGINAL", "PRIMARY", "AXIAL"], 2.5, [0.7, 0.8]
    file.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    file.Rows, file.Columns = units.shape[-2:]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, stored, stored - 1
    file.PixelRepresentation, file.RescaleSlope, file.RescaleIntercept = int(signed), 1, intercept
    raw = (units.astype(np.int32) - intercept) & ((1 << stored) - 1)
    file.add_new("PixelData", "OW", raw.astype("<u2").tobytes())
    for name, value in tags.items():
        if value is None:
            del file[name]
        else:
            setattr(file, name, value)
    return file


def write(file: FileDataset, **options: Any) -> bytes:
    buffer = io.BytesIO()
    file.save_as(buffer, **({"enforce_file_format": True} | options))
    return buffer.getvalue()


def units_of(slice_: Slice) -> np.ndarray:
    """Back from greys under `WIDE`."""
    return (slice_.pixels - 0.5) * WIDE[1] + WIDE[0]


def code(data: bytes) -> str:
    with pytest.raises(UnreadableSlice) as refused:
        read_slice(data)
    return refused.value.notice.code


def codes(slice_: Slice) -> list[str]:
    return [notice.code for notice in slice_.notices]


def big_endian() -> bytes:
    file = make()
    file.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
    file.PixelData = PHANTOM.astype(">i2").tobytes()
    buffer = io.BytesIO()
    dcmwrite(buffer, file, implicit_vr=False, little_endian=False, force_encoding=True, enforce_file_format=False)
    return b"\0" * 128 + buffer.getvalue().removeprefix(b"\0" * 128)


def in_syntax(syntax: str, **options: Any) -> bytes:
    file = make(**options)
    if syntax in (uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian):
        file.file_meta.TransferSyntaxUID = uid.UID(syntax)
    else:
        file.compress(syntax, generate_instance_uid=False)
    return write(file)


def by_gdcm(syntax: str, data: bytes, folder: Path) -> bytes:
    """Recoded by GDCM, which writes more kinds than pydicom."""
    import gdcm

    before, after = folder / "before.dcm", folder / "after.dcm"
    before.write_bytes(data)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(before))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(after))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return after.read_bytes()


WAYS: dict[str, Callable[[], bytes]] = {
    "explicit": lambda: write(make()),
    "implicit": lambda: in_syntax(uid.ImplicitVRLittleEndian),
    "deflated": lambda: in_syntax(uid.DeflatedExplicitVRLittleEndian),
    "big endian": big_endian,
    "RLE": lambda: in_syntax(uid.RLELossless),
    "unsigned": lambda: write(make(signed=False)),
    "12 bits": lambda: write(make(signed=False, stored=12)),
    "13 bits, signed": lambda: write(make(stored=13)),
    "RLE, unsigned, 12 bits": lambda: in_syntax(uid.RLELossless, signed=False, stored=12),
    "no preamble": lambda: write(make())[132:],
    "a TIFF's header before it": lambda: b"II*\0" + write(make())[4:],
    "no file meta": lambda: write(make())[132 + 12 + struct.unpack_from("<I", write(make()), 140)[0] :],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_phantom_comes_back_within_one_unit(way: str) -> None:
    slice_ = read_slice(WAYS[way](), window=WIDE)
    assert np.abs(units_of(slice_) - PHANTOM).max() < 1
    assert (slice_.unit, slice_.spacing, slice_.is_radiological, slice_.window) == ("HU", (0.7, 0.8), True, WIDE)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.RLELossless])
def test_a_compressed_phantom_comes_back_within_one_unit(syntax: str, signed: bool, tmp_path: Path) -> None:
    data = by_gdcm(syntax, write(make(signed=signed)), tmp_path)
    assert np.abs(units_of(read_slice(data, window=WIDE)) - PHANTOM).max() < 1


def test_jpeg_of_twelve_bits_comes_back_nearly(tmp_path: Path) -> None:
    for signed in (False, True):
        data = by_gdcm(uid.JPEGExtended12Bit, write(make(signed=signed, stored=12)), tmp_path)
        assert np.abs(units_of(read_slice(data, window=WIDE)) - PHANTOM).mean() < 10
    file = dcmread(str(get_testdata_file("JPEG-lossy.dcm")))
    file.SOPClassUID, file.RescaleType = CT, "HU"
    file.Modality, file.ImageType, file.RescaleSlope, file.RescaleIntercept = "CT", ["ORIGINAL"], 1, 0
    whole = gdcm_pixels(file.filename)
    assert np.abs(units_of(read_slice(write(file), window=WIDE)) - whole).max() < 1


def gdcm_pixels(path: Any) -> np.ndarray:
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    image = reader.GetImage()
    pixels = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), np.uint16)
    return pixels.reshape(image.GetDimension(1), image.GetDimension(0))


@pytest.mark.parametrize("syntax", [uid.HTJ2KLossless, uid.MPEG2MPML])
def test_what_has_no_decoder_is_named(syntax: str) -> None:
    file = make()
    file.file_meta.TransferSyntaxUID = uid.UID(syntax)
    file.PixelData = encapsulate([b"no pixels "])
    data = write(file)
    with pytest.raises(UnreadableSlice, match=uid.UID(syntax).name.split("(")[0]):
        read_slice(data)


def test_a_private_way_to_store_is_not_named() -> None:
    file = make()
    file.file_meta.TransferSyntaxUID = uid.UID("1.2.840.99999.1970")
    data = write(file, implicit_vr=False, little_endian=True, enforce_file_format=False)
    assert code(data) == "private_syntax"


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        ([1, 0, 0, 0, 1, 0], PHANTOM),
        ([-1, 0, 0, 0, -1, 0], PHANTOM[::-1, ::-1]),  # prone, as scanners store it
        ([-1, 0, 0, 0, 1, 0], PHANTOM[:, ::-1]),  # feet first
        ([0, 1, 0, 1, 0, 0], PHANTOM.T),
        ([0, -1, 0, 1, 0, 0], PHANTOM[:, ::-1].T),
        ([1, 0, 0, 0, 0.94, -0.34], PHANTOM),  # a tilted gantry
    ],
)
def test_axial_slices_are_turned_into_the_radiological_view(orientation: list[float], turned: np.ndarray) -> None:
    slice_ = read_slice(write(make(ImageOrientationPatient=orientation)), window=WIDE)
    assert np.abs(units_of(slice_) - turned).max() < 1
    assert ("turned_into_view" in codes(slice_)) == (turned is not PHANTOM)
    assert slice_.spacing == ((0.7, 0.8) if turned.shape == PHANTOM.shape else (0.8, 0.7))


def test_a_slice_knows_how_far_up_it_lies() -> None:
    at = [-100.0, -90.0, 40.5]
    assert read_slice(write(make(ImagePositionPatient=at))).position == 40.5
    assert read_slice(write(make())).position is None
    assert read_slice(write(make(ImagePositionPatient=at, ImageOrientationPatient=None))).position is None
    prone = make(ImagePositionPatient=at, ImageOrientationPatient=[-1, 0, 0, 0, 1, 0])
    assert read_slice(write(prone)).position == 40.5


def test_without_an_orientation_the_view_is_no_fact() -> None:
    slice_ = read_slice(write(make(ImageOrientationPatient=None)))
    assert not slice_.is_radiological


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "MR": ({"Modality": "MR"}, "other_modality"),
    "an unknown modality": ({"Modality": CANARY[:6]}, "not_said_to_be_ct"),
    "no modality": ({"Modality": None}, "not_said_to_be_ct"),
    "a scout": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "scout"),
    "coronal": ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "not_axial"),
    "colour": ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "dicom_in_colour"),
    "no pixels": ({"PixelData": None}, "no_pixels"),
    "huge": ({"Rows": 60000, "Columns": 60000}, "too_large"),
    "more rows than pixels": ({"Rows": 200}, "damaged"),
    "a slope of nothing": ({"RescaleSlope": 0}, "damaged"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_axial_ct_slice_is_refused_kindly(what: str) -> None:
    tags, expected = REFUSED[what]
    assert code(write(make(**tags))) == expected


def test_remarks_of_the_file_become_notices() -> None:
    tags: dict[str, Any] = {
        "BurnedInAnnotation": "YES",
        "ContrastBolusAgent": CANARY,
        "PixelSpacing": [0.7, 1.4],
        "SliceThickness": 12,
        "ImageType": ["DERIVED", "PRIMARY", "AXIAL"],
    }
    said = read_slice(write(make(**tags)))
    assert codes(said) == ["shown_in_window", "oblong", "burned_in", "contrast", "derived", "thick_slice"]
    assert CANARY not in str([str(notice) for notice in said.notices])
    assert codes(read_slice(write(make(ContrastBolusAgent="None")))) == ["shown_in_window"]


@pytest.mark.parametrize(
    ("maker", "kernel", "expected"),
    [
        *(("SIEMENS", name, "soft_kernel") for name in ("B10f", "B31s", "B45f", "I30f", "Br40d", ["Br36", "3"])),
        *(("Siemens Healthineers", name, None) for name in ("B46f", "B50f", "B70s", "Bl57", "59 .10.AB50", "H31s", "")),
        *(("GE MEDICAL SYSTEMS", name, "soft_kernel") for name in ("SOFT", "Standard")),
        *(("GE MEDICAL SYSTEMS", name, "bone_kernel") for name in ("BONE", "BONEPLUS", "EDGE")),
        *(("GE MEDICAL SYSTEMS", name, None) for name in ("LUNG", "CHST", "B31f", CANARY)),
        *((maker, name, None) for maker in ("Philips", None) for name in ("B", "STANDARD", "B31f")),
        ("SIEMENS", None, None),
    ],
)
def test_a_kernel_is_noted_where_its_name_says_what_it_is(maker: str | None, kernel: Any, expected: str | None) -> None:
    tags = {"Manufacturer": maker, "ConvolutionKernel": kernel}
    slice_ = read_slice(write(make(**{name: value for name, value in tags.items() if value is not None})))
    assert codes(slice_) == ["shown_in_window"] + ([expected] if expected else [])


def test_a_frame_may_have_a_kernel_of_its_own() -> None:
    file = dcmread(io.BytesIO(enhanced()))
    file.Manufacturer = "GE MEDICAL SYSTEMS"
    for name, group in zip(("LUNG", "BONE", "SOFT"), file.PerFrameFunctionalGroupsSequence, strict=True):
        made = Dataset()
        made.ConvolutionKernel = name
        group.CTReconstructionSequence = Sequence([made])
    said = [codes(read_slice(write(file), frame))[1:] for frame in range(3)]
    assert said == [[], ["bone_kernel"], ["soft_kernel"]]


def test_a_capture_holds_no_units() -> None:
    slice_ = read_slice(write(make(SOPClassUID="1.2.840.10008.5.1.4.1.1.7")))
    assert slice_.unit is None
    assert codes(slice_) == ["no_units", "secondary_capture"]


def test_padding_is_black_and_no_value() -> None:
    units = PHANTOM.copy()
    units[:10] = 3000
    slice_ = read_slice(write(padded(units)), window=WIDE)
    assert (slice_.pixels[:10] == 0).all()
    assert np.abs(units_of(slice_)[10:] - PHANTOM[10:]).max() < 1


def padded(units: np.ndarray) -> FileDataset:
    file = make(units)
    file.add_new("PixelPaddingValue", "SS", 3000)
    return file


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_the_window_of_the_file_is_that_of_pydicom(function: str) -> None:
    file = make(WindowCenter=40, WindowWidth=400, VOILUTFunction=function)
    by_pydicom = (apply_windowing(PHANTOM.astype(np.float64), file) + 32768) / 65535
    slice_ = read_slice(write(file), window="file")
    assert slice_.pixels == pytest.approx(by_pydicom.clip(0, 1), abs=1e-4)
    assert codes(slice_) == ["file_window"]


def test_white_that_is_least_is_turned_where_there_are_no_units() -> None:
    plain = make(RescaleSlope=None, RescaleIntercept=None)
    inverted = make(RescaleSlope=None, RescaleIntercept=None, PhotometricInterpretation="MONOCHROME1")
    one, other = read_slice(write(plain)), read_slice(write(inverted))
    assert other.pixels == pytest.approx(1 - one.pixels, abs=1e-6)
    assert read_slice(write(make(PhotometricInterpretation="MONOCHROME1"))).pixels.min() == pytest.approx(
        read_slice(write(make())).pixels.min()
    )


def enhanced(*places: float) -> bytes:
    """Three frames, a rescale of each its own, at such places, if any, in mm towards the head."""
    file = make(np.stack([PHANTOM, PHANTOM, PHANTOM]), SOPClassUID=ENHANCED, NumberOfFrames=3)
    del file.RescaleSlope, file.RescaleIntercept, file.PixelSpacing, file.ImageOrientationPatient
    groups = []
    for number in range(3):
        scale, group = Dataset(), Dataset()
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = 1, 100 * number, "HU"
        group.PixelValueTransformationSequence = Sequence([scale])
        groups.append(group)
    for group, place in zip(groups, places, strict=False):
        position = Dataset()
        position.ImagePositionPatient = [-100, -90, place]
        group.PlanePositionSequence = Sequence([position])
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, plane.ImageOrientationPatient = [0.7, 0.8], [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([plane])
    file.SharedFunctionalGroupsSequence = Sequence([shared])
    file.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return write(file)


def test_each_frame_has_its_own_rescale_and_the_middle_one_is_taken() -> None:
    for frame in range(3):
        slice_ = read_slice(enhanced(), frame, WIDE)
        assert np.abs(units_of(slice_) - PHANTOM - 100 * frame).max() < 1
        assert slice_.spacing == (0.7, 0.8)
    middle = read_slice(enhanced(), window=WIDE)
    assert codes(middle)[0] == "middle_slice"
    assert (middle.pixels == read_slice(enhanced(), 1, WIDE).pixels).all()
    with pytest.raises(UnreadableSlice, match="0 to 2"):
        read_slice(enhanced(), 3)


def test_frames_that_say_where_they_lie_are_counted_from_the_feet_up() -> None:
    for number, (frame, position) in enumerate([(1, -5), (2, 0), (0, 5)]):
        slice_ = read_slice(enhanced(5, -5, 0), number, WIDE)
        assert np.abs(units_of(slice_) - PHANTOM - 100 * frame).max() < 1
        assert slice_.position == position
    for places in ((5, -5), ()):  # not all of them say it
        assert np.abs(units_of(read_slice(enhanced(*places), 0, WIDE)) - PHANTOM).max() < 1


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless])
def test_a_frame_of_megabytes_comes_back_too(syntax: str, tmp_path: Path) -> None:
    units = np.random.default_rng(0).integers(-1000, 1000, (900, 900)).astype(np.int16)
    data = write(make(units)) if syntax == uid.ExplicitVRLittleEndian else by_gdcm(syntax, write(make(units)), tmp_path)
    assert len(data) > COPIED
    assert np.abs(units_of(read_slice(data, window=WIDE)) - units).max() < 1


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("SliceThickness", b"5.0 mm"),
        ("PixelSpacing", b"0,7\\0,7 "),
        ("PixelSpacing", b"0.7 "),
        ("WindowCenter", b"40,0"),
        ("ImagePositionPatient", b"a\\b\\c "),
        ("ImageOrientationPatient", b"0\\0\\0\\0\\0\\0 "),
        ("ImageOrientationPatient", b"1\\0\\0\\0\\x\\0 "),
    ],
)
def test_what_is_no_number_though_it_should_be_counts_as_not_said(keyword: str, value: bytes) -> None:
    file, tag = make(), Tag(keyword)
    file.pop(tag, None)
    file[tag] = RawDataElement(tag, "DS", len(value), value, 0, is_implicit_VR=False, is_little_endian=True)
    for window in (WIDE, "file"):
        slice_ = read_slice(write(file), window=window)
        assert (slice_.unit, slice_.position) == ("HU", None)
    assert (slice_.spacing is None) is (keyword == "PixelSpacing")
    assert slice_.is_radiological is (keyword != "ImageOrientationPatient")


def test_windows_have_names_and_others_are_an_error() -> None:
    data = write(make())
    assert read(data).window == (100, 2350)
    assert read(data, window="lung").window == (-600, 1500)
    for wrong in ("bone marrow", (40.0, 0.0), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="window"):
            read(data, window=wrong)


def test_nothing_names_anybody(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    file = make()
    file.PatientComments = CANARY
    file.add_new(0x00091001, "LO", CANARY)
    file.add_new(0x00080018, "UI", "1.2.840.1970.1")
    for data in (write(file), write(file)[:-5000], write(make(Modality="MR"))):
        try:
            said = repr(vars(read_slice(data)))
        except UnreadableSlice as error:
            said = repr(error) + repr(error.__context__) + str(error.notice)
        printed = capfd.readouterr()
        for text in (said, caplog.text, printed.out, printed.err):
            assert not any(word in text for word in ("Canary", "Cornelia", "1970", "1.2.3"))


def test_damaged_files_are_read_or_refused() -> None:
    rng = np.random.default_rng(0)
    for make_one in (WAYS["explicit"], WAYS["RLE"], WAYS["implicit"], enhanced):
        whole = make_one()
        for _ in range(60):
            try:
                assert read_slice(damaged(whole, min(len(whole), 1500), rng)).pixels.dtype == np.float32
            except UnreadableSlice:
                continue


@pytest.mark.skipif(not SHARED.exists(), reason="real files are not here")
def test_real_files_are_read_in_units_and_their_view() -> None:
    for path in sorted(SHARED.rglob("*.dcm"))[::4]:
        slice_ = read_slice(path.read_bytes())
        assert (slice_.unit, slice_.is_radiological) == ("HU", True)
        assert slice_.spacing is not None
