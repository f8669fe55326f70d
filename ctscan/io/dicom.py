"""Bytes of a DICOM file -> Slice, by pydicom and GDCM.

Only the elements of `KEYWORDS` are ever taken from a file, and of those no text goes further: a modality or a way to
compress is named by a word of ours or of the standard's. Clauses are those of DICOM PS3.3 and PS3.5.
"""

from __future__ import annotations

import logging
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from io import BytesIO
from math import isfinite
from typing import IO, Any, Literal

import gdcm
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.processing import apply_modality_lut, apply_voi
from pydicom.pixels.utils import pixel_array

from ctscan.errors import UnreadableSlice
from ctscan.io.frames import (
    ask,
    axes_of,
    directions_of,
    first_of,
    image_type,
    numbers_of,
    position_of,
    remarks_on,
    scale_of,
)
from ctscan.io.headers import BROKEN, DAMAGED, check_size
from ctscan.io.images import Slice, Survey
from ctscan.io.medical import (
    Window,
    in_window,
    into_view,
    pick,
    refusing,
    resolve,
    to_scale,
)
from ctscan.io.stack import Part
from ctscan.notices import Notice

NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
# Which decoder may have a stranger's bytes, by transfer syntax; pydicom would ask Pillow too.
PLUGINS = dict.fromkeys(NATIVE, "") | {uid.RLELossless: "pydicom"}
GDCM = (
    uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless,
    uid.JPEGLSNearLossless, uid.JPEG2000Lossless, uid.JPEG2000,
)  # fmt: skip
PLUGINS |= dict.fromkeys(GDCM, "gdcm")
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
MODALITIES = frozenset(("CR", "DX", "MG", "MR", "NM", "PT", "RF", "US", "XA", "RTDOSE", "RTSTRUCT", "SEG", "SR", "ECG"))
SERIES = "SeriesInstanceUID"  # of which nothing but a digest is made
MAX_FRAMES = 1 << 16
COPIED = 1 << 20  # bytes of an element, below which its value is a copy

KEYWORDS = [
    "SOPClassUID", "Modality", "Manufacturer", "ConvolutionKernel", "ImageType",
    "BurnedInAnnotation", "ContrastBolusAgent", "NumberOfFrames", "Rows",
    "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope",
    "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "VOILUTSequence", "VOILUTFunction", "WindowCenter",
    "WindowWidth", "PixelSpacing", "SliceThickness", "ImageOrientationPatient", "ImagePositionPatient",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PixelData", "FloatPixelData",
    "DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
]  # fmt: skip

# What forged bytes raise in pydicom and in the decoders below it.
FORGED = (
    *(*BROKEN, ValueError, TypeError, AttributeError, RuntimeError, AssertionError, ArithmeticError),
    *(EOFError, OSError, zlib.error, InvalidDicomError, BytesLengthException),
)


def read(data: bytes, slice: int | None, window: Window | None) -> Slice:
    """The slice in a DICOM file, axial ones in the radiological view. Raises UnreadableSlice and nothing else.

    Args:
        data: With or without a preamble and file meta information.
        slice: Which frame, counted from 0 as `_order` says; the middle one by default.
        window: Under which Hounsfield units become greys; see `medical.resolve`.
    """
    with refusing(*FORGED), silence():
        file = _open(data)
        order = _order(file)
        number, notices = pick(len(order), slice)
        return _read(file, order[number][0], window, notices)


def every(data: bytes, window: Window) -> Iterator[Part]:
    """As `stack.every`. Raises UnreadableSlice and nothing else."""
    with refusing(*FORGED), silence():
        file = _open(data)
        order = _order(file)
        for number, (frame, position) in enumerate(order):
            yield Part(number, len(order), position, partial(_read, file, frame, window))


def survey(data: bytes, key: str) -> Survey:
    """As `look`."""
    return look(BytesIO(data), key)


def look(stream: IO[bytes], key: str) -> Survey:
    """Where the frames lie, and of which series they are. Raises UnreadableSlice.

    Args:
        stream: From which no more is read than stands before the pixels.
        key: Of the digest that names the series, of its id, and of how its slices lie and are stored.
    """
    with refusing(*FORGED), silence():
        file = pydicom.dcmread(stream, force=True, specific_tags=[*KEYWORDS, SERIES], stop_before_pixels=True)
        _syntax(file)
        _refuse_what_is_no_slice(file)
        _refuse_scouts(file, 0)
        directions = directions_of(file, 0)
        if directions is not None:
            axes_of(directions)
        lies = None if directions is None else directions.round(3).tolist()
        facts = repr((file.get(SERIES), file.Rows, file.Columns, lies, scale_of(file, 0)[2]))
        digest = blake2b(facts.encode(), key=key.encode(), digest_size=16)
        return Survey(tuple(position for _, position in _order(file)), digest.hexdigest())


@contextmanager
def silence() -> Iterator[None]:
    """Nothing is printed or logged meanwhile: warnings and logs of these libraries quote the file."""
    logger = logging.getLogger("pydicom")
    was_disabled, logger.disabled = logger.disabled, True
    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.disabled = was_disabled


class _InPlace(BytesIO):
    """Gives long pieces as views: the pixels of a whole scan would else be held twice."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._whole = memoryview(data)

    def read(self, size: int | None = -1, /) -> Any:
        if size is None or size < COPIED:
            return super().read(size)
        start, end = self.tell(), self.seek(size, os.SEEK_CUR)
        return self._whole[start:end]


def _open(data: bytes) -> FileDataset:
    return pydicom.dcmread(_InPlace(data), force=True, specific_tags=list(KEYWORDS))


@refusing(*FORGED)
def _read(file: FileDataset, frame: int, window: Window | None, notices: tuple[Notice, ...] = ()) -> Slice:
    syntax = _syntax(file)
    _refuse_what_is_no_slice(file)
    if not any(name in file for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UnreadableSlice(Notice("no_pixels"))
    if syntax not in NATIVE and isinstance(file.PixelData, memoryview):
        file.PixelData = bytes(file.PixelData)  # as pydicom wants what it has to find frames in
    width, height = int(file.Columns), int(file.Rows)
    check_size(width, height)
    _refuse_scouts(file, frame)
    if syntax == uid.JPEGExtended12Bit and int(file.BitsStored) > 8:
        stored = _decode_extended(file, frame)
    else:
        stored = pixel_array(file, index=frame, raw=True, decoding_plugin=PLUGINS[syntax])
    if stored.shape != (height, width):
        raise UnreadableSlice(DAMAGED)
    values, is_hu = _rescale(file, frame, stored)
    greys, shown, said = _to_grey(file, frame, values, is_hu, window)
    first, limit = file.get("PixelPaddingValue"), file.get("PixelPaddingRangeLimit")
    if first is not None:  # C.7.5.1.1.2: there is no picture, and what is stored there is no measured value
        low, high = sorted((int(first), int(first if limit is None else limit)))
        greys[(stored >= low) & (stored <= high)] = 0
    turned, spacing, is_radiological, told = _turn(file, frame, greys)
    pixels = np.ascontiguousarray(turned, np.float32)
    pixels.setflags(write=False)
    notices += said + told + to_scale(spacing) + remarks_on(file, frame)
    unit: Literal["HU"] | None = "HU" if is_hu else None
    return Slice(pixels, notices, 0.0, unit, spacing, is_radiological, shown, position_of(file, frame))


def _decode_extended(file: Dataset, frame: int) -> NDArray[np.int32]:
    """JPEG extended of 12 bits, which GDCM reads, and which pydicom does not ask it for."""
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(get_frame(file.PixelData, frame, number_of_frames=_frames(file)))
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((file.Columns, file.Rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    decoded = image.GetBuffer().encode("utf-8", "surrogateescape")  # GDCM gives bytes as text
    values = np.frombuffer(decoded, np.uint16).reshape(file.Rows, file.Columns).astype(np.int32)
    return values - ((values & 0x800) << 1) if file.PixelRepresentation else values


def _syntax(file: Dataset) -> uid.UID:
    """The transfer syntax, guessed where no file meta states it. Raises UnreadableSlice for what nothing here reads."""
    meta = getattr(file, "file_meta", None) or FileMetaDataset()
    if "TransferSyntaxUID" not in meta:
        implicit, little = file.original_encoding
        guessed = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        meta.TransferSyntaxUID = guessed if little else uid.ExplicitVRBigEndian
        file.file_meta = meta
    syntax = meta.TransferSyntaxUID
    if syntax in PLUGINS:
        return uid.UID(syntax)
    if syntax in UID_dictionary:
        raise UnreadableSlice(Notice("no_decoder", {"syntax": uid.UID(syntax).name}))
    raise UnreadableSlice(Notice("private_syntax"))


def _refuse_what_is_no_slice(file: Dataset) -> None:
    kind, modality = str(file.get("SOPClassUID", "")), str(file.get("Modality", ""))
    meta_kind = str(file.file_meta.get("MediaStorageSOPClassUID", ""))
    if MEDIA_DIRECTORY in (kind, meta_kind):
        raise UnreadableSlice(Notice("dicomdir"))
    if modality in MODALITIES:
        raise UnreadableSlice(Notice("other_modality", {"modality": modality}))
    if not kind and not modality and "Rows" not in file:
        raise UnreadableSlice(DAMAGED)
    if modality != "CT":
        raise UnreadableSlice(Notice("not_said_to_be_ct"))
    if int(file.get("SamplesPerPixel", 1)) != 1 or file.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise UnreadableSlice(Notice("dicom_in_colour"))


def _frames(file: Dataset) -> int:
    return max(1, min(int(file.get("NumberOfFrames") or 1), MAX_FRAMES))


def _order(file: Dataset) -> list[tuple[int, float | None]]:
    """Frames and where they lie: from the feet up where each says it, else as the file has them."""
    places = [(frame, position_of(file, frame)) for frame in range(_frames(file))]
    said = [place for _, place in places if place is not None]
    return sorted(places, key=lambda place: place[1] or 0.0) if len(said) == len(places) else places


def _refuse_scouts(file: Dataset, frame: int) -> None:
    """C.8.2.1.1.1: the third value of the image type tells axial slices from localizers."""
    if {"LOCALIZER", "SCOUT"} & set(image_type(file, frame)):
        raise UnreadableSlice(Notice("scout"))


def _rescale(file: Dataset, frame: int, stored: NDArray[Any]) -> tuple[NDArray[np.float64], bool]:
    """Modality LUT (C.11.1): slope and intercept, or a table; and whether what comes of it are Hounsfield units."""
    slope, intercept, is_hu = scale_of(file, frame)
    if slope is None or intercept is None:
        table = file.get("ModalityLUTSequence")
        return (apply_modality_lut(stored, file) if table else stored).astype(np.float64), False
    if not (isfinite(slope) and isfinite(intercept) and slope):
        raise UnreadableSlice(DAMAGED)
    values = stored * np.float64(slope)
    values += float(intercept)
    return values, is_hu


def _to_grey(
    file: Dataset, frame: int, values: NDArray[np.float64], is_hu: bool, window: Window | None
) -> tuple[NDArray[np.float32], tuple[float, float] | None, tuple[Notice, ...]]:
    """Greys in [0, 1], the window that made them, and what is to be said of it."""
    asked = resolve(window)
    if is_hu and asked:
        said = Notice("shown_in_window", {"centre": asked[0], "width": asked[1]})
        return in_window(values, *asked), asked, (said,)
    said = Notice("file_window") if is_hu else Notice("no_units")
    greys, stated = _as_stated(file, frame, values)
    if file.get("PhotometricInterpretation") == "MONOCHROME1" and not is_hu:  # C.7.6.3.1.2: the least value is white
        greys = 1 - greys
    return greys, stated, (said,)


def _as_stated(
    file: Dataset, frame: int, values: NDArray[np.float64]
) -> tuple[NDArray[np.float32], tuple[float, float] | None]:
    """Greys under the VOI LUT that the file states (C.11.2), the first of several, else from darkest to brightest."""
    if file.get("VOILUTSequence"):
        mapped = apply_voi(np.rint(values).astype(np.int64), file, 0)
        top = (1 << int(file.VOILUTSequence[0].LUTDescriptor[2])) - 1
        return (mapped / max(float(top), 1.0)).clip(0, 1).astype(np.float32), None
    centre, width = (first_of(ask(file, frame, "FrameVOILUTSequence", f"Window{n}")) for n in ("Center", "Width"))
    function = str(ask(file, frame, "FrameVOILUTSequence", "VOILUTFunction") or "LINEAR")
    if centre is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        low, high = float(values.min()), float(values.max())
        return ((values - low) / max(high - low, 1e-9)).astype(np.float32), None
    if function == "SIGMOID":  # C.11.2.1.3.1
        exponent = np.clip(-4 * (values - centre) / width, -700, 700)
        return (1 / (1 + np.exp(exponent))).astype(np.float32), (centre, width)
    if function == "LINEAR_EXACT":  # C.11.2.1.3.2
        return in_window(values, centre, width), (centre, width)
    if width == 1:  # C.11.2.1.2.1: a step
        return (values > centre - 0.5).astype(np.float32), (centre, width)
    return in_window(values, centre - 0.5, width - 1), (centre, width)  # C.11.2.1.2.1


def _turn(
    file: Dataset, frame: int, greys: NDArray[np.float32]
) -> tuple[NDArray[np.float32], tuple[float, float] | None, bool, tuple[Notice, ...]]:
    """Greys in the radiological view, mm between rows and between columns, whether that view is a fact; and notices."""
    spacing = numbers_of(ask(file, frame, "PixelMeasuresSequence", "PixelSpacing"), 2)
    steps = (spacing[0], spacing[1]) if spacing and min(spacing) > 0 else None
    directions = directions_of(file, frame)
    if directions is None:
        return greys, steps, False, ()
    across, down = axes_of(directions)
    turned = into_view(greys, across, down)
    if across[0] == 1 and steps:
        steps = (steps[1], steps[0])
    moved = (across, down) != ((0, True), (1, True))
    return turned, steps, True, (Notice("turned_into_view"),) if moved else ()
