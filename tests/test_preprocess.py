"""Geometry there and back, tone, and their indifference to the container and the window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ctscan.imaging.anatomy import find_anatomy
from ctscan.imaging.phantom import draw_phantom
from ctscan.imaging.preprocess import RANK_LOW, Placement, Preprocess, rank_greys
from ctscan.io.images import read_slice

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.png"))
SHAPES = [(256, 320), (333, 217), (97, 400), (64, 64), (1024, 700)]


def dot(shape: tuple[int, int], row: int, column: int, half: int) -> NDArray[np.float32]:
    pixels = np.zeros(shape, np.float32)
    pixels[row - half : row + half + 1, column - half : column + half + 1] = 1
    return pixels


def centre(weights: NDArray[np.floating]) -> tuple[float, float]:
    rows, columns = np.indices(weights.shape)
    return float((rows * weights).sum() / weights.sum()), float((columns * weights).sum() / weights.sum())


@pytest.mark.parametrize("crop", ["hull", "whole", "none"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_dot_survives_the_way_there_and_back(shape: tuple[int, int], crop: str) -> None:
    placement = Preprocess(crop=crop, tone="none").place(find_anatomy(draw_phantom(*shape)))  # type: ignore[arg-type]
    for part in (0.35, 0.5, 0.62):
        row, column = round(shape[0] * part), round(shape[1] * (1 - part))
        there = placement.apply(dot(shape, row, column, half=2))
        back = centre(placement.invert(there))
        model_pixel = max(placement.box.height / placement.target.height, placement.box.width / placement.target.width)
        assert np.hypot(back[0] - row, back[1] - column) <= max(1.0, model_pixel)


def test_one_bright_cell_of_a_map_lands_on_its_pixels() -> None:
    placement = Preprocess(crop="none").place(find_anatomy(np.zeros((400, 640), np.float32)))
    cells = np.zeros((4, 7, 7), np.float32)
    cells[1, 2, 5] = 1
    slice_map = placement.invert(cells)[1]
    row, column = centre(slice_map)
    assert row == pytest.approx((2 + 0.5) * 400 / 7 - 0.5, abs=1)
    assert column == pytest.approx((5 + 0.5) * 640 / 7 - 0.5, abs=1)
    assert slice_map.max() == pytest.approx(1, abs=0.02)


def test_a_side_is_averaged_even_where_the_other_one_grows() -> None:
    placement = Preprocess(crop="none").place(find_anatomy(np.zeros((2000, 64), np.float32)))
    dots = np.zeros((2000, 64), np.float32)
    dots[[300, 1001, 1502], 30] = 1
    assert placement.apply(dots).sum() == pytest.approx(3 * placement.size**2 / dots.size, rel=0.02)


def test_a_smaller_map_covers_the_same_slice() -> None:
    pixels = np.pad(draw_phantom(300, 400), ((40, 0), (0, 80)))
    placement = Preprocess().place(find_anatomy(pixels))
    cells = np.random.default_rng(0).random((7, 7), np.float32)
    full, small = placement.invert(cells), placement.invert(cells, (170, 240))
    averaged = full.reshape(170, 2, 240, 2).mean(axis=(1, 3))
    inside = placement.invert(np.ones((7, 7), np.float32)).reshape(170, 2, 240, 2).min(axis=(1, 3)) == 1
    assert np.abs(averaged - small)[inside].max() < 0.02


def test_a_map_is_zero_where_the_model_saw_nothing() -> None:
    pixels = draw_phantom(300, 300)
    placement = Preprocess().place(find_anatomy(np.pad(pixels, 100)))
    full = placement.invert(np.ones((7, 7), np.float32))
    box = placement.box
    outside = np.ones(full.shape, bool)
    outside[box.top : box.top + box.height, box.left : box.left + box.width] = False
    assert full.shape == (500, 500)
    assert not full[outside].any()
    assert np.allclose(full[~outside], 1)


@pytest.mark.parametrize("pixels", [np.zeros((50, 70), np.float32), np.ones((50, 70), np.float32)])
@pytest.mark.parametrize("tone", ["rank", "none"])
def test_flat_slices_stay_finite(pixels: NDArray[np.float32], tone: str) -> None:
    square, placement = Preprocess(tone=tone)(pixels)  # type: ignore[arg-type]
    assert square.shape == (2, 224, 224)
    assert square.dtype == np.float32
    assert np.isfinite(square).all()
    assert placement.slice_shape == (50, 70)


def test_a_large_white_slice_stays_white() -> None:
    square = Preprocess(tone="none")(np.ones((3000, 3000), np.float32))[0]  # its averages come to a last digit over 1
    assert np.isfinite(square).all()
    assert square.min() > 0.99
    assert square.max() <= 1


def test_another_window_of_the_same_slice_is_nearly_the_same_square() -> None:
    noise = np.random.default_rng(0).normal(0, 0.03, (256, 320))  # as in a real slice, few pixels are quite alike
    pixels = np.where(draw_phantom() > 0.1, np.clip(draw_phantom() + noise, 0.11, 1), draw_phantom()).astype(np.float32)
    other = np.where(pixels > 0.1, 0.15 + 0.7 * pixels**0.8, pixels).astype(np.float32)
    one, two = Preprocess()(pixels)[0], Preprocess()(other)[0]
    assert np.abs(one - two).mean() < 0.02
    assert np.abs(pixels - other).mean() > 0.02


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_ranks_are_the_same_under_every_window_that_cuts_nothing_off(example: Path) -> None:
    pixels = read_slice(example.read_bytes()).pixels
    visible = find_anatomy(pixels).body
    ranked = rank_greys(pixels, visible)
    for gamma in (0.5, 0.8, 1.6):
        other = (0.1 + 0.8 * pixels**gamma).astype(np.float32)
        assert np.abs(rank_greys(other, visible) - ranked).max() < 0.01
    assert (ranked[~visible] == 0).all()
    order = np.argsort(pixels[visible], kind="stable")
    assert (np.diff(ranked[visible][order]) >= 0).all()
    assert len(np.unique(ranked[visible])) == len(np.unique(pixels[visible]))
    middle = RANK_LOW + (1 - RANK_LOW) / 2
    assert ranked[visible].mean() == pytest.approx(middle, abs=1e-3)


def test_the_result_changes_continuously() -> None:
    pixels = draw_phantom()
    nudged = np.clip(pixels + np.float32(1e-7), 0, 1)
    assert np.abs(Preprocess()(pixels)[0] - Preprocess()(nudged)[0]).max() < 1e-4


@pytest.mark.parametrize(
    "wrong", [{"size": 8}, {"size": 100}, {"crop": "lungs"}, {"tone": "equalise"}, {"surround": "black"}]
)
def test_unknown_preprocessing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a preprocessing"):
        Preprocess(**wrong)  # type: ignore[arg-type]


def test_placement_is_a_value() -> None:
    assert Preprocess().place(find_anatomy(draw_phantom())) == Preprocess().place(find_anatomy(draw_phantom()))
    assert isinstance(Preprocess().place(find_anatomy(draw_phantom())), Placement)


def with_table_and_label(shape: tuple[int, int]) -> NDArray[np.float32]:
    pixels = np.pad(draw_phantom(*shape), 40)
    pixels[5:20, 10:90] = 1  # burned-in text
    return pixels


@pytest.mark.parametrize("shape", [(512, 512), (200, 260)])
def test_outside_of_the_hull_all_is_black(shape: tuple[int, int]) -> None:
    pixels = with_table_and_label(shape)
    square, placement = Preprocess(crop="none")(pixels)
    touched = placement.apply(find_anatomy(pixels).hull.astype(np.float32)) > 0
    assert (square[0][~touched] == 0).all()
    assert (square[0][touched] > 0).mean() > 0.5
    assert (Preprocess(crop="none", surround="keep")(pixels)[0][0][~touched] > 0).any()


def test_the_table_has_no_part_in_the_greys_of_the_body() -> None:
    plain = with_table_and_label((300, 400))
    bright = plain.copy()
    bright[40 + 280 :][plain[40 + 280 :] > 0] = 0.9  # the table
    one, other = (Preprocess(crop="none")(pixels)[0] for pixels in (plain, bright))
    assert np.array_equal(one, other)
    one, other = (Preprocess(crop="none", surround="keep")(pixels)[0] for pixels in (plain, bright))
    assert not np.array_equal(one, other)


def test_an_anatomy_that_is_known_changes_nothing() -> None:
    pixels = with_table_and_label((300, 400))
    (one, placed), (other, again) = Preprocess()(pixels), Preprocess()(pixels, find_anatomy(pixels))
    assert np.array_equal(one, other)
    assert placed == again
