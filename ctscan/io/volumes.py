"""CT volumes in Hounsfield units, a lesion outlined or none -> slices under a window, in the radiological view."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctscan.errors import DataError
from ctscan.imaging.anatomy import Mask, Pixels

# Window -> its centre and width in Hounsfield units. The files of the training data state none. `training` is the one,
# in steps of 25 and 50, under which the slices with lung of two lesion volumes have the greys inside the body that
# the data's 465 tumour slices for training have, all made small by `render.fit`: the mean distributions
# lie 0.010 of full scale apart on average, 0.365 under the lung window and 0.149 under the mediastinal one.
WINDOWS = {"lung": (-600.0, 1500.0), "mediastinal": (40.0, 400.0), "training": (100.0, 2350.0)}
IMAGE, LABEL = "_image.nrrd", "_label.nrrd"
FREE = "chest*.nii.gz"  # a NIfTI is taken for a chest without a mass by its name alone
TILT = 1e-3  # mm a voxel off an axis of the patient: what rounding leaves, and no oblique volume


@dataclass(frozen=True, eq=False)
class Volume:
    """One scan: axial slices from the feet up, front at the top, the patient's right at the left."""

    name: str
    units: NDArray[np.float32]  # (Z, H, W), Hounsfield units
    lesion: NDArray[np.bool_]  # (Z, H, W), what is outlined; nothing where there is no mass
    spacing: tuple[float, float] | None = None  # mm between two slices, and between two pixels; None: not known

    def outlined(self) -> list[int]:
        """The slices with a part of the lesion."""
        return [int(z) for z in np.flatnonzero(self.lesion.any(axis=(1, 2)))]

    def slice(self, z: int, window: str) -> tuple[Pixels, Mask]:
        """Slice z under a window of `WINDOWS`: pixels (H, W) in [0, 1], and the lesion in it."""
        centre, width = WINDOWS[window]
        return np.clip((self.units[z] - centre) / width + 0.5, 0, 1).astype(np.float32), self.lesion[z]


def read_volumes(folder: Path) -> list[Volume]:
    """Every `<name>_image.nrrd` with its `<name>_label.nrrd`, also in folders below.

    Raises DataError where there is none, nothing is outlined, or a volume does not lie as the patient does.
    """
    volumes = []
    for path in sorted(folder.rglob(f"*{IMAGE}")):
        outline = path.with_name(path.name.replace(IMAGE, LABEL))
        if not outline.exists():
            raise DataError(f"{path.name} has no {outline.name} beside it.")
        (values, spacing), (marks, _) = _read_nrrd(path), _read_nrrd(outline)
        units, lesion = values.astype(np.float32), marks > 0
        if lesion.shape != units.shape or not lesion.any():
            raise DataError(f"{outline.name} outlines nothing in {path.name}.")
        volumes.append(Volume(path.name.removesuffix(IMAGE), units, lesion, spacing))
    if not volumes:
        raise DataError(f"{folder} holds no volume with an outline: no *{IMAGE} beside a *{LABEL}.")
    return volumes


def read_free_volumes(folder: Path) -> list[Volume]:
    """Every chest without a mass, by its name a `FREE`, also in folders below; maybe none.

    Raises DataError where turning by quarters does not make one lie as the patient does.
    """
    volumes = []
    for path in sorted(folder.rglob(FREE)):
        units = _read_nifti(path).astype(np.float32)
        volumes.append(Volume(path.name.removesuffix(".nii.gz"), units, np.zeros(units.shape, bool)))
    return volumes


def _read_nrrd(path: Path) -> tuple[NDArray[np.number], tuple[float, float]]:
    import nrrd

    try:
        values, header = nrrd.read(str(path))
    except (nrrd.NRRDError, StopIteration, ValueError, OSError, zlib.error):
        raise DataError(f"{path.name} is no NRRD file, or a damaged one.") from None
    directions = np.asarray(header.get("space directions", np.zeros((3, 3))), float)
    along_axes = np.array_equal(directions, np.diag(np.diag(directions))) and (np.diag(directions) > 0).all()
    if header.get("space") != "left-posterior-superior" or not along_axes:
        raise DataError(f"{path.name}: only axial volumes along left, posterior, superior are read.")
    axial: NDArray[np.number] = values.transpose(2, 1, 0)
    return axial, (float(directions[2, 2]), float(directions[0, 0]))


def _read_nifti(path: Path) -> NDArray[np.number]:
    from nibabel import Nifti1Image
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    packed = path.read_bytes()
    try:
        stored = Nifti1Image.from_bytes(gzip.decompress(packed))
        steps = np.abs(stored.affine[:3, :3])  # mm along left, back and head for a step along each axis of the file
        is_oriented = bool(stored.header["sform_code"] or stored.header["qform_code"])  # else nibabel guesses
        along_axes = all(((steps > TILT).sum(axis=axis) == 1).all() for axis in (0, 1))
        is_square = abs(steps[0].max() - steps[1].max()) <= TILT
        if stored.ndim != 3 or not (is_oriented and along_axes and is_square):
            raise DataError(f"{path.name}: only volumes along the patient's axes, with square pixels, are read.")
        turned = stored.as_reoriented(ornt_transform(io_orientation(stored.affine), axcodes2ornt("LPS")))
        axial: NDArray[np.number] = np.asanyarray(turned.dataobj).transpose(2, 1, 0)
    except (HeaderDataError, WrapStructError, EOFError, OSError, zlib.error):
        raise DataError(f"{path.name} is no NIfTI file, or a damaged one.") from None
    return axial
