"""What all medical files have in common: windows, a slice among many, and the view that radiologists are used to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctscan.errors import UnreadableSlice
from ctscan.io.headers import BROKEN, DAMAGED
from ctscan.io.volumes import WINDOWS
from ctscan.notices import Notice

Window: TypeAlias = str | tuple[float, float]  # a name, or centre and width in Hounsfield units

PRESETS = WINDOWS | {"bone": (500.0, 2000.0)}
DEFAULT_WINDOW = "training"
AS_STORED = "file"  # the window that the file itself states
ALONG = 0.85  # cosine: up to 30 degrees off, a tilted gantry for one, a slice counts as axial
TILTED = 1.0  # degrees
OBLONG = 1.2  # of its shorter side: a pixel with a longer one visibly distorts a body


@contextmanager
def refusing(*forged: type[Exception]) -> Iterator[None]:
    """Whatever forged bytes raise meanwhile becomes an UnreadableSlice: BROKEN, a lack of memory, and `forged`."""
    caught: tuple[type[Exception], ...] = (*BROKEN, *forged)
    try:
        yield
    except MemoryError:
        raise UnreadableSlice(Notice("too_much_memory")) from None
    except caught:
        raise UnreadableSlice(DAMAGED) from None


def resolve(window: Window | None) -> tuple[float, float] | None:
    """Centre and width in Hounsfield units; None for the one that the file states. Raises ValueError."""
    if window == AS_STORED:
        return None
    if window is None or isinstance(window, str):
        if (window or DEFAULT_WINDOW) not in PRESETS:
            raise ValueError(
                f"there is no window {window!r}; try {', '.join([*PRESETS, AS_STORED])} or (centre, width)"
            )
        return PRESETS[window or DEFAULT_WINDOW]
    centre, width = map(float, window)
    if not (isfinite(centre) and isfinite(width) and width > 0):
        raise ValueError(f"a window has a centre and a width above 0, not {centre:g} and {width:g}")
    return centre, width


def parse(text: str | None) -> Window | None:
    """A window as typed: a name, or centre and width with a slash or a comma between. Raises ValueError."""
    parts = (text or "").replace(",", "/").split("/")
    window = (float(parts[0]), float(parts[1])) if len(parts) == 2 else text
    resolve(window)
    return window


def pick(count: int, asked: int | None) -> tuple[int, tuple[Notice, ...]]:
    """The slice asked for, else the middle one and a notice that says so. Raises UnreadableSlice."""
    if asked is not None:
        if not 0 <= asked < count:
            raise UnreadableSlice(Notice("no_such_slice", {"slice": asked, "last": count - 1}))
        return asked, ()
    middle = count // 2
    return middle, (Notice("middle_slice", {"slice": middle, "count": count}),) if count > 1 else ()


def in_window(values: NDArray[Any], centre: float, width: float) -> NDArray[np.float32]:
    """Grey in [0, 1], by the exact linear function of DICOM PS3.3, C.11.2.1.3.2."""
    greys = values - np.float64(centre)
    greys /= width  # in place: most of the time of reading a slice goes into copies
    greys += 0.5
    return np.clip(greys, 0, 1, out=greys).astype(np.float32)


def to_scale(spacing: tuple[float, float] | None) -> tuple[Notice, ...]:
    """A notice where pixels are not square: a slice across a volume of thick slices of another plane, for one."""
    if spacing is None or max(spacing) <= OBLONG * min(spacing):
        return ()
    return (Notice("oblong", {"height": spacing[0], "width": spacing[1]}),)


def towards(direction: NDArray[np.float64]) -> tuple[int, bool] | None:
    """The axis of the patient (0 left, 1 back, 2 head) that a direction runs along, and whether with it.

    None for one that lies between axes, or is none.
    """
    length = float(np.linalg.norm(direction))
    if not (isfinite(length) and length > 0):
        return None
    axis = int(np.abs(direction).argmax())
    share = float(direction[axis]) / length
    return (axis, share > 0) if abs(share) >= ALONG else None


def along_body(place: NDArray[np.float64], across: NDArray[np.float64], down: NDArray[np.float64]) -> float | None:
    """How far a plane lies towards the head, mm along its own normal; None where it has none, or lies nowhere.

    Args:
        place: (3,), mm along left, back and head: of any of its points.
        across: (3,), where its columns run.
        down: (3,), where its rows run.
    """
    normal = np.cross(across, down)
    length = float(np.linalg.norm(normal))
    if not (isfinite(length) and length > 0 and np.isfinite(place).all()):
        return None
    return float(place @ normal) / length * (1 if normal[2] > 0 else -1)


def tilt(across: NDArray[np.float64], down: NDArray[np.float64]) -> tuple[Notice, ...]:
    """A notice where the normal of an axial plane is not the axis of the body."""
    normal = np.cross(across, down)
    degrees = float(np.degrees(np.arccos(min(1.0, abs(normal[2]) / float(np.linalg.norm(normal))))))
    return (Notice("tilted", {"degrees": degrees}),) if degrees > TILTED else ()


def into_view(plane: NDArray[Any], across: tuple[int, bool], down: tuple[int, bool]) -> NDArray[Any]:
    """An axial plane as seen from the feet: columns towards the patient's left, rows towards the back.

    A plane across the body in the same way: its rows, or else its columns, then run towards the head.

    Args:
        plane: (H, W).
        across: Where columns run, as `towards` says.
        down: Where rows run, along another axis.
    """
    if across[0] > down[0]:
        plane, across, down = plane.T, down, across
    return plane[:: 1 if down[1] else -1, :: 1 if across[1] else -1]
