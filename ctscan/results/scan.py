"""One bundled scan with an outlined mass: where its pictures lie, and what a classifier said of every slice of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ctscan.errors import DataError

RECORD, PICTURE = "scan.json", "slices.jpg"
AIR, STEP = -1024, 8  # Hounsfield units: of grey 0, and from one grey to the next


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Reading(_Part):
    """What was said of one slice under one window.

    Attributes:
        verdict: Of the classifier.
        probabilities: Of the scan's classes, in their order; raw scores for an unusual slice; None for a refused one.
        possible: Keys of the classes that cannot be ruled out; None where that is not known.
        reason: Code of the first notice; None where there is none.
    """

    verdict: Literal["ok", "unusual", "refused"]
    probabilities: tuple[float, ...] | None
    possible: tuple[str, ...] | None
    reason: str | None


class ScanSlice(_Part):
    """One slice: its height, the outline in it and its readings.

    Attributes:
        position: mm above the lowest slice.
        outline: Closed lines as (x, y) in pixels of the full slice, the origin at its upper left corner.
        readings: By window.
    """

    position: float
    outline: tuple[tuple[tuple[float, float], ...], ...]
    readings: dict[str, Reading]


class Count(_Part):
    """Slices of one kind under one window."""

    window: str
    outlined: bool
    slices: int
    refused: int
    unusual: int
    answered: int
    answered_tumour: int  # of the answered, those in which a tumour class has the highest score
    scored_tumour: int  # the same of the answered and the unusual together


class Scan(_Part):
    """The record beside the pictures.

    Attributes:
        model_id: Of the classifier whose readings these are.
        volume: Name of the scan in its source.
        source: Where it comes from, and its licence.
        classes: Keys, in the order of all probabilities.
        windows: Name -> centre and width in Hounsfield units, in the order in which they are shown.
        pixel: mm, side of a pixel of the full slice.
        box: What a tile shows of the full slice, in its pixels: left, top, width, height.
        tile: Width and height of a tile of the picture, in which slices follow each other in rows.
        columns: Tiles in a row.
        slices: From the feet up.
    """

    model_id: str
    volume: str
    source: str
    classes: tuple[str, ...]
    windows: dict[str, tuple[float, float]]
    pixel: float
    box: tuple[float, float, float, float]
    tile: tuple[int, int]
    columns: int
    slices: tuple[ScanSlice, ...]

    @cached_property
    def outlined(self) -> tuple[int, ...]:
        """Numbers, from 1 at the feet, of the slices with an outline."""
        return tuple(number for number, slice_ in enumerate(self.slices, 1) if slice_.outline)

    @cached_property
    def counts(self) -> tuple[Count, ...]:
        """For each window the slices with an outline, then the others."""
        return tuple(self._count(window, outlined) for window in self.windows for outlined in (True, False))

    def _count(self, window: str, outlined: bool) -> Count:
        readings = [slice_.readings[window] for slice_ in self.slices if bool(slice_.outline) is outlined]
        normal = self.classes.index("normal")
        tumour = [r.verdict for r in readings if r.probabilities and r.probabilities[normal] < max(r.probabilities)]
        verdicts = [r.verdict for r in readings]
        return Count(
            window=window,
            outlined=outlined,
            slices=len(readings),
            refused=verdicts.count("refused"),
            unusual=verdicts.count("unusual"),
            answered=verdicts.count("ok"),
            answered_tumour=tumour.count("ok"),
            scored_tumour=len(tumour),
        )


@dataclass(frozen=True)
class BundledScan:
    """The record, and its files as a browser fetches them."""

    record: Scan
    files: dict[str, bytes]

    @property
    def version(self) -> str:
        """Changes whenever a file does."""
        return hashlib.sha256(b"".join(self.files.values())).hexdigest()[:12]


def read_scan(folder: Path) -> BundledScan | None:
    """The scan in a folder, None where there is none.

    Raises:
        DataError: The record is damaged, or the pictures are not beside it.
    """
    if not (folder / RECORD).exists():
        return None
    try:
        files = {name: (folder / name).read_bytes() for name in (RECORD, PICTURE)}
        return BundledScan(Scan.model_validate_json(files[RECORD]), files)
    except OSError as error:
        raise DataError(f"The scan in {folder} cannot be read ({error.strerror}).") from None
    except ValidationError:
        raise DataError(f"{folder / RECORD} is no record of a scan.") from None
