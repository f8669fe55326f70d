"""CT volumes in Hounsfield units with a lesion outlined -> slices under a window, in the radiological view."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctscan.anatomy import Mask, Pixels
from ctscan.data import DataError

# window -> its centre and width in Hounsfield units
WINDOWS = {"lung": (-600.0, 1500.0), "mediastinal": (40.0, 400.0)}
IMAGE, LABEL = "_image.nrrd", "_label.nrrd"


@dataclass(frozen=True, eq=False)
class Volume:
    """One scan: axial slices from the feet up, front at the top, the patient's right at the left."""

    name: str
    units: NDArray[np.float32]  # (Z, H, W), Hounsfield units
    lesion: NDArray[np.bool_]  # (Z, H, W), what is outlined

    def outlined(self) -> list[int]:
        """The slices with a part of the lesion."""
        return [int(z) for z in np.flatnonzero(self.lesion.any(axis=(1, 2)))]

    def slice(self, z: int, window: str) -> tuple[Pixels, Mask]:
        """Slice z under a window of `WINDOWS`: pixels (H, W) in [0, 1], and the lesion in it."""
        centre, width = WINDOWS[window]
        return np.clip((self.units[z] - centre) / width + 0.5, 0, 1).astype(np.float32), self.lesion[z]


def read_volumes(folder: Path) -> list[Volume]:
    """Every `<name>_image.nrrd` with its `<name>_label.nrrd`, also in folders below. Raises DataError."""
    found = [read_volume(path) for path in sorted(folder.rglob(f"*{IMAGE}"))]
    if not found:
        raise DataError(f"{folder} holds no volume with an outline: no *{IMAGE} beside a *{LABEL}.")
    return found


def read_volume(path: Path) -> Volume:
    """One volume. Raises DataError where it has no outline or does not lie as the patient does."""
    outline = path.with_name(path.name.replace(IMAGE, LABEL))
    if not outline.exists():
        raise DataError(f"{path.name} has no {outline.name} beside it.")
    return Volume(path.name.removesuffix(IMAGE), _read_axial(path).astype(np.float32), _read_axial(outline) > 0)


def _read_axial(path: Path) -> NDArray[np.number]:
    import nrrd

    values, header = nrrd.read(str(path))
    directions = np.asarray(header.get("space directions", np.zeros((3, 3))), float)
    along_axes = np.array_equal(directions, np.diag(np.diag(directions))) and (np.diag(directions) > 0).all()
    if header.get("space") != "left-posterior-superior" or not along_axes:
        raise DataError(f"{path.name}: only axial volumes along left, posterior, superior are read.")
    axial: NDArray[np.number] = values.transpose(2, 1, 0)
    return axial
