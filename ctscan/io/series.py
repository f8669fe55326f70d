"""Several DICOM files -> slices of one series, in the order of the body.

What tells series apart never leaves the process that reads the files: outside it is a digest, under a key that lasts
for one look at a folder. The names of files are not looked at.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import TypeAlias

from ctscan.errors import CtscanError, UnreadableSlice
from ctscan.io.headers import sniff
from ctscan.io.images import Slice, Survey, read_file
from ctscan.io.medical import Window
from ctscan.notices import Notice

MAX_FILES = 5000
NEAR = 0.01  # mm: two slices that are no further apart lie at one place
GAP = 1.5  # of the usual step between slices: a larger one is a gap

Reader: TypeAlias = Callable[[bytes], Slice]


@dataclass(frozen=True)
class Series:
    """Which files make it, from the feet up and one a place, and what is to be said of it."""

    order: tuple[int, ...]
    positions: tuple[float | None, ...]  # of each, as of a `Slice`
    notices: tuple[Notice, ...] = ()


def arrange(surveys: Sequence[Survey | None]) -> Series:
    """The series with most slices among files; a single file is one, whatever it holds.

    Args:
        surveys: Of each file, None for one that is no slice.
    """
    found = [(index, survey) for index, survey in enumerate(surveys) if survey]
    if len(found) < 2:
        order, places = tuple(index for index, _ in found), tuple(survey.position for _, survey in found)
        return Series(order, places, _said("left_out", len(surveys) - len(found)))
    placed = [(survey.position, index, survey.series) for index, survey in found if survey.position is not None]
    sizes = Counter(name for _, _, name in placed)
    largest = max(sizes, key=lambda name: sizes[name], default="")
    rows = sorted((position, index) for position, index, name in placed if name == largest)
    kept = [row for n, row in enumerate(rows) if n == 0 or row[0] - rows[n - 1][0] > NEAR]
    steps = [after[0] - before[0] for before, after in pairwise(kept)]
    usual = median(steps) if steps else 0.0
    notices = _said("left_out", len(surveys) - len(placed))
    notices += _said("other_series", len(sizes) - 1, slices=len(rows), all=len(placed))
    notices += _said("duplicates", len(rows) - len(kept))
    notices += _said("gaps", sum(step > GAP * usual for step in steps), step=usual)
    return Series(tuple(index for _, index in kept), tuple(position for position, _ in kept), notices)


def _said(code: str, count: int, **values: float) -> tuple[Notice, ...]:
    return (Notice(code, {"count": count, **values}),) if count > 0 else ()


# --- a folder


def sources(
    path: Path, read: Callable[..., Slice], survey: Callable[[bytes, str], Survey], window: Window | None = None
) -> Iterator[tuple[Path, Reader, float | None]]:
    """All slices of a series, in the order of the body: the file of each, how its bytes are read, and its position.

    Args:
        path: A folder with DICOM files, also in folders below; or one file with several slices.
        read: As `images.read_slice`.
        survey: As `images.survey`.
        window: As for `medical.resolve`.

    Raises:
        CtscanError: The folder holds no slice, or far too much.
    """
    notices: tuple[Notice, ...] = ()
    if path.is_dir():
        files, positions, notices = _files(path, survey)
        if len(files) > 1:
            for file, position in zip(files, positions, strict=True):
                yield file, partial(_read, read, None, window, notices), position
            return
        (path,) = files
    with suppress(UnreadableSlice):  # whose reason the only row then has
        for number, position in enumerate(survey(read_file(path), "").positions):
            yield path, partial(_read, read, number, window, notices), position
        return
    yield path, partial(_read, read, None, window, notices), None


def _files(
    folder: Path, survey: Callable[[bytes, str], Survey]
) -> tuple[list[Path], tuple[float | None, ...], tuple[Notice, ...]]:
    found = sorted(islice((file for file in folder.rglob("*") if file.is_file()), MAX_FILES + 1))
    if len(found) > MAX_FILES:
        raise CtscanError(f"{folder} holds more than {MAX_FILES} files.")
    key = secrets.token_hex(16)
    series = arrange([_look(file, survey, key) for file in found])
    if not series.order:
        raise CtscanError(f"{folder} holds no DICOM file with a CT slice.")
    return [found[index] for index in series.order], series.positions, series.notices


def _look(file: Path, survey: Callable[[bytes, str], Survey], key: str) -> Survey | None:
    """What is in a file; None for what is no slice, or cannot be opened."""
    with suppress(UnreadableSlice):
        data = read_file(file)
        return survey(data, key) if sniff(data) == "dicom" else None
    return None


def _read(
    read: Callable[..., Slice], number: int | None, window: Window | None, notices: tuple[Notice, ...], data: bytes
) -> Slice:
    slice_ = read(data, number, window)
    return replace(slice_, notices=slice_.notices + notices)
