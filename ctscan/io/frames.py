"""What a DICOM file says of one of its frames: how it was made, and how it lies in the patient.

Nothing here touches pixels, and no text of a file goes further than a comparison. Clauses are those of DICOM PS3.3.
"""

from __future__ import annotations

import re
from contextlib import suppress
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from ctscan.errors import UnreadableSlice
from ctscan.io.medical import along_body, tilt, towards
from ctscan.notices import Notice

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and those that begin so: its multi-frame kinds
NO_CONTRAST = ("", "NO", "NONE", "N", "NO CONTRAST", "WITHOUT", "UNENHANCED")  # as scanners write it
THICK = 10.0  # mm
# How the two makers whose names for kernels say it call those that are not for the lung. Siemens counts sharpness in
# tens: up to 45 they smooth, from 50 on lungs are read in them.
SIEMENS = re.compile(r"(?:B|Br|I)(\d\d)[a-z]?")
SMOOTH = 45
GE_KERNELS = {"SOFT": "soft_kernel", "STANDARD": "soft_kernel", "BONE": "bone_kernel", "BONEPLUS": "bone_kernel"}
GE_KERNELS |= {"EDGE": "bone_kernel"}


def ask(file: Dataset, frame: int, group: str, keyword: str) -> Any:
    """An attribute of a frame: of its own functional group, of the shared one, or of the file; None without one.

    C.7.6.16.1: a functional group stands either with each frame or with all of them. What is no value of its type, as a
    number with a comma, counts as not said.
    """
    per_frame, shared = file.get("PerFrameFunctionalGroupsSequence"), file.get("SharedFunctionalGroupsSequence")
    places = ([per_frame[frame]] if per_frame and frame < len(per_frame) else []) + ([shared[0]] if shared else [])
    items = [place.get(group) for place in places]
    for holder in [*(item[0] for item in items if item), file]:
        with suppress(ValueError):
            if holder.get(keyword) is not None:
                return holder.get(keyword)
    return None


def numbers_of(value: Any, count: int) -> list[float] | None:
    """So many finite numbers; None where there are others, or none."""
    try:
        numbers = [float(part) for part in value]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(isfinite, numbers)) else None


def first_of(value: Any) -> float | None:
    """The first of its numbers; None where there is none, or one that is not finite."""
    found = numbers_of(value[:1] if isinstance(value, MultiValue) else [value], 1)
    return found[0] if found else None


def image_type(file: Dataset, frame: int) -> list[str]:
    """Its values; none where the file states none (C.8.2.1.1.1)."""
    kind = ask(file, frame, "CTImageFrameTypeSequence", "FrameType") or file.get("ImageType") or []
    return [kind] if isinstance(kind, str) else [str(part) for part in kind]


def scale_of(file: Dataset, frame: int) -> tuple[Any, Any, bool]:
    """Slope and intercept as the file has them, and whether they make Hounsfield units.

    C.11.1.1.2: without a type they do, in a CT image that is original and no localizer.
    """
    names = ("RescaleSlope", "RescaleIntercept", "RescaleType")
    slope, intercept, kind = (ask(file, frame, "PixelValueTransformationSequence", name) for name in names)
    is_capture = str(file.get("SOPClassUID", "")).startswith(SECONDARY_CAPTURE)
    is_hu = None not in (slope, intercept) and str(kind or "HU").strip() in ("HU", "HU_MOD") and not is_capture
    return slope, intercept, is_hu


def directions_of(file: Dataset, frame: int) -> NDArray[np.float64] | None:
    """(2, 3): where columns follow each other, then rows, along the patient's left, back and head; None if not said.

    C.7.6.2.1.1, where they are called the direction of rows, then of columns.
    """
    cosines = numbers_of(ask(file, frame, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    directions = np.array(cosines or [0.0] * 6).reshape(2, 3)
    return directions if directions.any(axis=1).all() else None


def axes_of(directions: NDArray[np.float64]) -> tuple[tuple[int, bool], tuple[int, bool]]:
    """Where columns, then rows run, as `towards` says. Raises UnreadableSlice for what is no axial slice."""
    across, down = map(towards, directions)
    if not (across and down) or {across[0], down[0]} != {0, 1}:
        raise UnreadableSlice(Notice("not_axial"))
    return across, down


def position_of(file: Dataset, frame: int) -> float | None:
    """mm towards the head, along the normal of the slice; None if not said."""
    corner = numbers_of(ask(file, frame, "PlanePositionSequence", "ImagePositionPatient"), 3)
    directions = directions_of(file, frame)
    return None if directions is None or corner is None else along_body(np.array(corner), *directions)


def remarks_on(file: Dataset, frame: int) -> tuple[Notice, ...]:
    """What else the file says of itself and a reader of the answer should know."""
    thickness = first_of(ask(file, frame, "PixelMeasuresSequence", "SliceThickness"))
    said = {
        Notice("burned_in"): file.get("BurnedInAnnotation") == "YES",
        Notice("contrast"): str(file.get("ContrastBolusAgent") or "").strip().upper() not in NO_CONTRAST,
        Notice("derived"): "DERIVED" in image_type(file, frame)[:1],
        Notice("secondary_capture"): str(file.get("SOPClassUID", "")).startswith(SECONDARY_CAPTURE),
    }
    notices = tuple(notice for notice, holds in said.items() if holds)
    directions = directions_of(file, frame)
    if directions is not None:
        notices += tilt(*directions)
    if thickness is not None and thickness > THICK:
        notices += (Notice("thick_slice", {"thickness": thickness}),)
    return notices + kernel_of(file, frame)


def kernel_of(file: Dataset, frame: int) -> tuple[Notice, ...]:
    """What the kernel of the reconstruction means, where its name is one that says it; nothing for the lung's."""
    name = ask(file, frame, "CTReconstructionSequence", "ConvolutionKernel")
    name = str(name[0] if isinstance(name, MultiValue) and name else name or "").strip()
    maker, code = str(file.get("Manufacturer", "")).strip().upper(), None
    if maker.startswith("SIEMENS") and (found := SIEMENS.fullmatch(name)):
        code = "soft_kernel" if int(found[1]) <= SMOOTH else None
    elif maker.startswith("GE"):
        code = GE_KERNELS.get(name.upper())
    return (Notice(code),) if code else ()
