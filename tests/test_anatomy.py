"""Body and lungs are found by grey and shape: on the synthetic slice, in any window, and on the bundled ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctscan.imaging.anatomy import (
    Box,
    body_mask,
    chest_mask,
    find_body,
    find_lungs,
    lung_hull_mask,
    lung_mask,
    shows_lung,
)
from ctscan.imaging.phantom import draw_phantom
from ctscan.io.images import read_slice

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.png"))


def test_the_mask_of_the_body_fills_its_box_and_holds_its_lungs() -> None:
    pixels = draw_phantom(300, 400)
    body, lungs, box = body_mask(pixels), lung_mask(pixels), find_body(pixels)
    rows, columns = np.nonzero(body)
    assert abs(int(rows.min()) - box.top) <= 3
    assert abs(int(columns.max()) - (box.left + box.width)) <= 3
    assert lungs.any()
    assert not (lungs & ~body).any()
    assert (pixels[lungs] < pixels[body & ~lungs].mean()).mean() > 0.95
    hull = lung_hull_mask(pixels)
    assert not (lungs & ~hull).any()
    assert hull.sum() > lungs.sum()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_bundled_slices_have_two_lungs_worth_of_dark_inside_the_body(path: Path) -> None:
    pixels = read_slice(path.read_bytes()).pixels
    body, lungs = body_mask(pixels), lung_mask(pixels)
    assert 0.1 < lungs.sum() / body.sum() < 0.75
    assert shows_lung(pixels)
    assert not (lungs & ~chest_mask(pixels)).any()


@pytest.mark.parametrize(
    "pixels", [np.zeros((40, 50), np.float32), np.ones((40, 50), np.float32)], ids=["black", "white"]
)
def test_a_picture_of_one_grey_has_no_lungs_and_is_all_body(pixels: np.ndarray) -> None:
    assert find_body(pixels) == Box(0, 0, 40, 50)
    assert body_mask(pixels).all()
    assert not lung_mask(pixels).any()
    assert not lung_hull_mask(pixels).any()
    assert not shows_lung(pixels)
    assert find_lungs(pixels) == find_body(pixels)


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (3, 2), (2000, 30)])
def test_any_shape_has_masks_of_its_shape(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).random(shape, np.float32)
    assert body_mask(pixels).shape == lung_mask(pixels).shape == lung_hull_mask(pixels).shape == shape


@pytest.mark.parametrize("centre_hu", [-600, -500])
def test_grey_room_air_is_not_the_body(centre_hu: int) -> None:
    """In a lung window, air around the patient is grey; the outline must be the one of a wide window all the same."""
    hu = np.interp(draw_phantom(300, 400), [0, 0.06, 0.42, 0.9], [-1000, -850, 0, 800])  # HU of what it draws
    wide, lung = (
        np.clip((hu - (c - w / 2)) / w, 0, 1).astype(np.float32) for c, w in ((-100, 1800), (centre_hu, 1500))
    )
    assert lung[0, 0] > 25 / 255
    assert (body_mask(wide) ^ body_mask(lung)).mean() < 0.02
    assert body_mask(lung).mean() < 0.75


def test_fat_is_body_in_a_soft_tissue_window() -> None:
    hu = np.interp(draw_phantom(300, 400), [0, 0.06, 0.42, 0.5, 0.9], [-1000, -850, -100, 50, 800])  # a rim of fat
    wide, soft = (np.clip((hu - (c - w / 2)) / w, 0, 1).astype(np.float32) for c, w in ((-100, 1800), (40, 400)))
    assert (body_mask(wide) ^ body_mask(soft)).mean() < 0.02
