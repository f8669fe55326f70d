"""Pictures: what has no evidence is the slice itself, and colours mean the same everywhere."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from ctscan.imaging.phantom import draw_phantom
from ctscan.imaging.render import encode_png, fit, layer, overlay, to_bytes

GREY = to_bytes(draw_phantom(80, 100))


def ramp(top: float) -> np.ndarray:
    return np.tile(np.linspace(0, top, 100, dtype=np.float32), (80, 1))


def test_without_evidence_the_slice_is_untouched_bit_by_bit() -> None:
    shown = overlay(GREY, np.zeros(GREY.shape, np.float32), top=0.3, opacity=1)
    assert all(np.array_equal(shown[..., c], GREY) for c in range(3))
    assert not layer(np.zeros(GREY.shape, np.float32), top=0.3)[..., 3].any()


def test_colours_saturate_above_the_top_and_are_never_stretched() -> None:
    assert np.array_equal(layer(np.full((4, 4), 0.3, np.float32), 0.3), layer(np.full((4, 4), 9, np.float32), 0.3))
    weak = layer(ramp(0.03), top=0.3)
    assert 25 <= weak[..., 3].max() <= 26


@pytest.mark.parametrize("grey", [0, 60, 128, 200, 255])
def test_over_any_grey_stronger_evidence_is_more_saturated_and_of_one_hue(grey: int) -> None:
    shares = np.linspace(0.2, 1, 9, dtype=np.float32)[None]
    shown = overlay(np.full(shares.shape, grey, np.uint8), shares, 1)[0]
    lab = cv2.cvtColor(shown[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    chroma, hue = np.hypot(lab[:, 1], lab[:, 2]), np.degrees(np.arctan2(lab[:, 2], lab[:, 1]))
    assert (np.diff(chroma) > 0).all()
    assert np.ptp(hue) < 15


def test_an_overlay_lies_between_slice_and_colour() -> None:
    evidence = ramp(0.3)
    shown = overlay(GREY, evidence, 0.3, opacity=0.5).astype(float)
    colour = layer(evidence, 0.3)[..., :3].astype(float)
    low, high = np.minimum(GREY[..., None], colour), np.maximum(GREY[..., None], colour)
    assert ((shown >= low - 1) & (shown <= high + 1)).all()


def test_an_overlay_of_many_rows_is_that_of_each_row() -> None:
    generator = np.random.default_rng(0)
    grey, evidence = generator.integers(0, 256, (200, 3), np.uint8), generator.random((200, 3), np.float32)
    each = [overlay(grey[row : row + 1], evidence[row : row + 1], 0.8) for row in range(200)]
    assert np.array_equal(overlay(grey, evidence, 0.8), np.concatenate(each))


def test_png_gives_back_every_kind_of_picture() -> None:
    rgba = layer(ramp(0.3), 0.3)
    for picture, flag in ((GREY, 0), (rgba[..., :3].copy(), 1), (rgba, -1)):
        data = encode_png(picture)
        back: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED if flag else cv2.IMREAD_GRAYSCALE)
        if flag:
            back = cv2.cvtColor(back, cv2.COLOR_BGRA2RGBA if flag < 0 else cv2.COLOR_BGR2RGB)
        assert np.array_equal(back, picture)
        assert b"tEXt" not in data


def test_large_pictures_shrink_and_small_ones_stay() -> None:
    assert fit(np.zeros((3000, 1500), np.float32), 1024).shape == (1024, 512)
    phantom = draw_phantom()
    assert fit(phantom, 1024) is phantom
