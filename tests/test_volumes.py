"""CT volumes are read as the patient lies, whatever way they were stored, or not at all."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from ctscan.errors import DataError
from ctscan.imaging.phantom import draw_phantom
from ctscan.io.volumes import WINDOWS, Volume, read_free_volumes, read_volumes

LUNGLESS = 2  # slices at the feet of `draw_units`


def draw_units(slices: int = 12) -> np.ndarray:
    """(Z, H, W) in Hounsfield units, from the feet up: no lung at first, then phantoms of which no two are alike."""
    units = np.stack([draw_phantom(96, 120) * 1400 - 1000] * slices)
    units[:LUNGLESS] = np.where(units[:LUNGLESS] > -950, -300, units[:LUNGLESS])
    for z in range(LUNGLESS, slices):
        units[z, 40 : 42 + 2 * z, 26:40] = 40
    return units.astype(np.int16)


def write_outlined(folder: Path, units: np.ndarray, outlined: list[int], name: str = "one") -> None:
    lesion = np.zeros(units.shape, np.uint8)
    lesion[outlined, 40:60, 26:40] = 1
    header = {"space": "left-posterior-superior", "space directions": np.diag([0.7, 0.7, 5.0])}
    for kind, values in (("image", units), ("label", lesion)):
        nrrd.write(str(folder / f"{name}_{kind}.nrrd"), values.transpose(2, 1, 0), header)


def make_nifti(units: np.ndarray, steps: tuple[float, float, float] = (-1.5, -1.5, 3.0)) -> nibabel.Nifti1Image:
    """Stored along left, posterior, superior, as the chest of TotalSegmentator is."""
    return nibabel.Nifti1Image(units.transpose(2, 1, 0), np.diag([*steps, 1.0]))


def write_free(folder: Path, units: np.ndarray, axes: str = "LPS", name: str = "chest_one") -> None:
    image = make_nifti(units)
    turned = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(axes)))
    nibabel.save(turned, folder / f"{name}.nii.gz")


@pytest.mark.parametrize("axes", ["LPS", "RAS", "LAI", "PSR", "SRA", "ILP"])
def test_a_nifti_is_turned_to_lie_as_the_patient_does(axes: str, tmp_path: Path) -> None:
    units = draw_units(6)
    write_free(tmp_path, units, axes)
    (volume,) = read_free_volumes(tmp_path)
    assert volume.name == "chest_one"
    assert np.array_equal(volume.units, units)
    assert volume.outlined() == []


def test_of_niftis_only_those_named_as_chests_are_read(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    write_free(tmp_path / "below", draw_units(3), name="chest_1.5mm")
    write_free(tmp_path, draw_units(3), name="abdomen_pelvis_3mm")
    assert [volume.name for volume in read_free_volumes(tmp_path)] == ["chest_1.5mm"]
    (tmp_path / "below" / "chest_1.5mm.nii.gz").unlink()
    assert read_free_volumes(tmp_path) == []


def oblique(image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    tilted = image.affine.copy()
    tilted[2, 1] = 0.2  # a gantry's tilt
    return nibabel.Nifti1Image(np.asanyarray(image.dataobj), tilted)


def unstated(image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    image.header["sform_code"] = image.header["qform_code"] = 0
    return nibabel.Nifti1Image(np.asanyarray(image.dataobj), None, image.header)


def several(image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(np.stack([np.asanyarray(image.dataobj)] * 2, axis=-1), image.affine)


def flat(image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(np.asanyarray(image.dataobj), np.diag([-1.5, -5.0, 1.5, 1.0]))


@pytest.mark.parametrize("spoil", [oblique, unstated, several, flat])
def test_a_nifti_that_turning_does_not_help_is_refused(spoil, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    nibabel.save(spoil(make_nifti(draw_units(3))), tmp_path / "chest.nii.gz")
    with pytest.raises(DataError, match=r"^chest\.nii\.gz: only volumes along"):
        read_free_volumes(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 300, 2000])
def test_a_damaged_nifti_is_one_sentence(kept: int, tmp_path: Path) -> None:
    write_free(tmp_path, draw_units(3), name="chest")
    path = tmp_path / "chest.nii.gz"
    packed = path.read_bytes()
    for damaged in (
        packed[:kept],
        gzip.compress(gzip.decompress(packed)[:kept]),
        packed[:kept] + bytes(99) + packed[kept + 99 :],
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            read_free_volumes(tmp_path)


@pytest.mark.parametrize("kept", [0, 0.01, 0.3, 0.9])
def test_a_damaged_nrrd_is_one_sentence(kept: float, tmp_path: Path) -> None:
    write_outlined(tmp_path, draw_units(4), [1])
    for path in tmp_path.glob("*.nrrd"):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(kept * len(whole))])
        with pytest.raises(DataError, match="damaged"):
            read_volumes(tmp_path)
        path.write_bytes(whole)


def test_a_label_without_an_outline_is_refused(tmp_path: Path) -> None:
    write_outlined(tmp_path, draw_units(4), [])
    with pytest.raises(DataError, match="outlines nothing in one_image"):
        read_volumes(tmp_path)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_shows_its_own_range_and_cuts_off_the_rest(window: str) -> None:
    centre, width = WINDOWS[window]
    units = np.array([[[centre - width, centre - width / 4, centre, centre + width / 2, centre + width]]], np.float32)
    pixels, _ = Volume("line", units, np.zeros(units.shape, bool)).slice(0, window)
    assert pixels == pytest.approx(np.array([[0, 0.25, 0.5, 1, 1]]))
