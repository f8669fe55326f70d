"""Body and lungs are found by grey and shape: on the synthetic slice, in any window, and on the bundled ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctscan.imaging.anatomy import Box, find_anatomy
from ctscan.imaging.phantom import draw_phantom
from ctscan.imaging.preprocess import Preprocess
from ctscan.io.images import read_slice

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.png"))


def test_the_mask_of_the_body_fills_its_box_and_holds_its_lungs() -> None:
    pixels = draw_phantom(300, 400)
    anatomy = find_anatomy(pixels)
    lungs = (pixels < 0.1) & anatomy.lung_hulls
    rows, columns = np.nonzero(anatomy.body)
    assert abs(int(rows.min()) - anatomy.hull_box.top) <= 3
    assert abs(int(columns.max()) - (anatomy.hull_box.left + anatomy.hull_box.width)) <= 3
    assert len(anatomy.lungs) == 2
    assert (anatomy.thumbnail[np.any(anatomy.lungs, axis=0)] < anatomy.thumbnail[anatomy.outline].mean()).all()
    assert lungs.sum() > 0.9 * (pixels == np.float32(0.06)).sum()


def test_the_body_is_found_and_table_and_labels_are_not() -> None:
    pixels = np.pad(draw_phantom(256, 320), ((40, 60), (30, 50)))
    pixels[5:15, 5:60] = 1  # burned-in text
    body = find_anatomy(pixels).hull_box
    assert abs(body.top - (40 + 256 * 0.1)) <= 4
    assert abs(body.top + body.height - (40 + 256 * 0.9)) <= 4
    assert abs(body.left - (30 + 320 * 0.06)) <= 4


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_bundled_slices_have_two_lungs_worth_of_dark_inside_the_body(path: Path) -> None:
    anatomy = find_anatomy(read_slice(path.read_bytes()).pixels)
    assert anatomy.has_body
    assert 0.1 < np.sum(anatomy.lungs) / anatomy.outline.sum() < 0.75


@pytest.mark.parametrize(
    "pixels", [np.zeros((40, 50), np.float32), np.ones((40, 50), np.float32)], ids=["black", "white"]
)
def test_a_picture_of_one_grey_has_no_lungs_and_is_all_body(pixels: np.ndarray) -> None:
    anatomy = find_anatomy(pixels)
    assert anatomy.hull_box == anatomy.bright_box == Box(0, 0, 40, 50)
    assert anatomy.body.all()
    assert anatomy.hull.all()
    assert anatomy.lungs == []
    assert not anatomy.lung_hulls.any()


def test_neither_the_heart_nor_a_mass_is_aerated() -> None:
    """Of the first example, both by eye; hulls hold them."""
    anatomy = find_anatomy(read_slice(EXAMPLES[0].read_bytes()).pixels)
    height, width = anatomy.shape
    for across, down, aerated in ((0.25, 0.5, True), (0.46, 0.38, False), (0.68, 0.71, False)):
        place = int(down * height), int(across * width)
        assert anatomy.lung_hulls[place]
        assert anatomy.aerated[place] == aerated


def test_what_was_found_is_kept() -> None:
    anatomy = find_anatomy(draw_phantom())
    for name in ("body", "hull", "lungs", "lung_hulls", "aerated"):
        assert getattr(anatomy, name) is getattr(anatomy, name)


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (3, 2), (2000, 30)])
def test_any_shape_has_masks_of_its_shape(shape: tuple[int, int]) -> None:
    anatomy = find_anatomy(np.random.default_rng(0).random(shape, np.float32))
    assert anatomy.body.shape == anatomy.hull.shape == anatomy.lung_hulls.shape == shape


@pytest.mark.parametrize("centre_hu", [-600, -500])
def test_grey_room_air_is_not_the_body(centre_hu: int) -> None:
    """In a lung window, air around the patient is grey; the outline must be the one of a wide window all the same."""
    hu = np.interp(draw_phantom(300, 400), [0, 0.06, 0.42, 0.9], [-1000, -850, 0, 800])  # HU of what it draws
    wide, lung = (
        np.clip((hu - (c - w / 2)) / w, 0, 1).astype(np.float32) for c, w in ((-100, 1800), (centre_hu, 1500))
    )
    assert lung[0, 0] > 25 / 255
    assert (find_anatomy(wide).body ^ find_anatomy(lung).body).mean() < 0.02
    assert find_anatomy(lung).body.mean() < 0.75


def test_fat_is_body_in_a_soft_tissue_window() -> None:
    hu = np.interp(draw_phantom(300, 400), [0, 0.06, 0.42, 0.5, 0.9], [-1000, -850, -100, 50, 800])  # a rim of fat
    wide, soft = (np.clip((hu - (c - w / 2)) / w, 0, 1).astype(np.float32) for c, w in ((-100, 1800), (40, 400)))
    assert (find_anatomy(wide).body ^ find_anatomy(soft).body).mean() < 0.02


# --- one real slice in a wide and in a lung window


@pytest.fixture(scope="module")
def windows() -> list[np.ndarray]:
    wide, lung = (read_slice(path.read_bytes()).pixels for path in EXAMPLES[:2])
    assert np.abs(wide - lung).mean() > 0.05
    return [wide, lung]


def test_two_windows_of_a_slice_show_the_same_body_and_lungs(windows: list[np.ndarray]) -> None:
    wide, lung = map(find_anatomy, windows)
    for name in ("body", "hull", "lung_hulls", "aerated"):
        one, other = getattr(wide, name), getattr(lung, name)
        assert (one ^ other).sum() < 0.03 * (one | other).sum(), name


def test_two_windows_of_a_slice_are_one_picture_to_the_network_where_nothing_is_cropped(
    windows: list[np.ndarray],
) -> None:
    one, other = (Preprocess(crop="none").square(pixels).ravel() for pixels in windows)
    assert np.corrcoef(one, other)[0, 1] > 0.99


def test_two_windows_of_a_slice_are_one_picture_to_the_network(windows: list[np.ndarray]) -> None:
    one, other = (Preprocess().square(pixels).ravel() for pixels in windows)
    assert np.corrcoef(one, other)[0, 1] > 0.99
