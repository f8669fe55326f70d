"""Bytes of a zip with DICOM files -> one Slice of the series in it.

Nothing is unpacked but the head of each file and the slice that is wanted, and nothing is written. Names are not looked
at, but for those that lead out of the archive: who made them means harm.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from io import BytesIO

from ctscan.errors import UnreadableSlice
from ctscan.io import dicom
from ctscan.io.headers import BROKEN, sniff
from ctscan.io.images import Slice, Survey
from ctscan.io.medical import Window, pick, refusing
from ctscan.io.series import MAX_FILES, Series, arrange
from ctscan.io.stack import Part
from ctscan.notices import Notice

MAX_FILE = 64 << 20  # bytes of a file, unpacked
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
OUTSIDE = re.compile(r"^[/\\]|^\w:|(^|[/\\])\.\.([/\\]|$)|\0")
FORGED = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, RuntimeError)  # the last: with a password


def read(data: bytes, slice: int | None, window: Window | None) -> Slice:
    """Slice number `slice` of the series in a zip, counted from 0 from the feet up, the middle one by default.

    Raises UnreadableSlice and nothing else.
    """
    with refusing(*FORGED), zipfile.ZipFile(BytesIO(data)) as archive:
        files, series = _open(archive)
        if len(series.order) == 1:
            return _read(archive, files[series.order[0]], series, window, slice)
        number, notices = pick(len(series.order), slice)
        shown = _read(archive, files[series.order[number]], series, window)
    return replace(shown, notices=notices + shown.notices)


def every(data: bytes, window: Window) -> Iterator[Part]:
    """As `stack.every`. Raises UnreadableSlice and nothing else."""
    with refusing(*FORGED), zipfile.ZipFile(BytesIO(data)) as archive:
        files, series = _open(archive)
        count = len(series.order)
        if count == 1:
            yield from dicom.every(archive.read(files[series.order[0]]), window)
            return
        for number, (index, position) in enumerate(zip(series.order, series.positions, strict=True)):
            yield Part(number, count, position, partial(_read, archive, files[index], series, window))


@refusing(*FORGED)
def _read(
    archive: zipfile.ZipFile, file: zipfile.ZipInfo, series: Series, window: Window | None, slice: int | None = None
) -> Slice:
    """A slice of a file of the series. Raises UnreadableSlice."""
    shown = dicom.read(archive.read(file), slice, window)
    return replace(shown, notices=shown.notices + series.notices)


def survey(data: bytes, key: str) -> Survey:
    """Where the slices of the series in a zip lie; the key is not needed. Raises UnreadableSlice."""
    with refusing(*FORGED), zipfile.ZipFile(BytesIO(data)) as archive:
        files, series = _open(archive)
        if len(series.order) > 1:
            return Survey(series.positions)
        return dicom.survey(archive.read(files[series.order[0]]), key)


def _open(archive: zipfile.ZipFile) -> tuple[list[zipfile.ZipInfo], Series]:
    """The files, and which of them make a series. Raises UnreadableSlice."""
    files = [file for file in archive.infolist() if not file.is_dir()]
    if len(files) > MAX_FILES or any(OUTSIDE.search(file.orig_filename) for file in files):
        raise UnreadableSlice(Notice("odd_archive", {"most": MAX_FILES}))
    series = arrange([_look(archive, file) for file in files])
    if not series.order:
        raise UnreadableSlice(Notice("locked_archive" if any(file.flag_bits & 1 for file in files) else "no_series"))
    return files, series


def _look(archive: zipfile.ZipFile, file: zipfile.ZipInfo) -> Survey | None:
    """What is in a file, of which no more is unpacked than stands before its pixels; None for what is no slice."""
    if file.file_size > MAX_FILE or file.compress_type not in PACKED:
        return None
    with suppress(UnreadableSlice, *BROKEN, *FORGED), archive.open(file) as stream:
        if sniff(stream.read(132)) == "dicom":
            stream.seek(0)
            return dicom.look(stream, "")
    return None
