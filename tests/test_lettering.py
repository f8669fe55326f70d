"""Text beside the body is seen in every corner, and clean slices, real ones too, have none."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ctscan.imaging.anatomy import find_anatomy
from ctscan.imaging.lettering import has_lettering
from ctscan.imaging.phantom import draw_phantom
from ctscan.inference.classifier import Classifier
from ctscan.io.images import read_slice
from ctscan.io.volumes import WINDOWS, read_free_volumes, read_volumes
from tests.conftest import ROOT
from tests.samples import png_of

EXAMPLES = sorted((ROOT / "examples").glob("*.png"))
VOLUMES, SERIES = ROOT.parent / "shared" / "volumes", ROOT.parent / "shared" / "dicom"
LINES = ("DOE JANE", "1961-02-03 F", "Se: 4 Im: 33")


def is_seen(pixels: NDArray[np.float32]) -> bool:
    return has_lettering(pixels, find_anatomy(pixels))


def with_text(pixels: NDArray[np.float32], corner: tuple[int, int], size: int = 14, grey: int = 255) -> np.ndarray:
    """Three lines in a corner, at the bottom or the right where it says 1."""
    picture = Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    for number, line in enumerate(LINES):
        right = picture.width - 6 - int(pen.textlength(line, font=font))
        top = picture.height - (3 - number) * (size + 4) if corner[0] else 4 + number * (size + 4)
        pen.text((right if corner[1] else 6, top), line, fill=grey, font=font)
    return np.asarray(picture, np.float32) / 255


@pytest.mark.parametrize("corner", list(product((0, 1), (0, 1))))
@pytest.mark.parametrize(("size", "grey"), [(10, 255), (14, 140), (20, 200), (28, 255)])
def test_text_in_a_corner_is_seen(corner: tuple[int, int], size: int, grey: int) -> None:
    clean = np.pad(draw_phantom(360, 512), ((76, 76), (0, 0))).astype(np.float32)
    assert not is_seen(clean)
    assert is_seen(with_text(clean, corner, size, grey))


def test_letters_of_the_sides_scales_and_lines_are_no_text() -> None:
    picture = np.rint(np.pad(draw_phantom(360, 512), ((76, 76), (0, 0))) * 255).astype(np.uint8)
    for letter, place in (("R", (8, 270)), ("L", (490, 270)), ("A", (250, 20)), ("P", (250, 505))):
        cv2.putText(picture, letter, place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 1, cv2.LINE_AA)
    cv2.line(picture, (500, 150), (500, 350), 255, 1)
    for tick in range(150, 351, 20):
        cv2.line(picture, (494, tick), (500, tick), 255, 1)
    cv2.ellipse(picture, (256, 430), (250, 60), 0, 0, 180, 200, 3)
    assert not is_seen((picture / 255).astype(np.float32))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_have_none(path: Path) -> None:
    assert not is_seen(read_slice(path.read_bytes()).pixels)


@pytest.mark.slow
@pytest.mark.skipif(not VOLUMES.exists(), reason="real slices are not here")
@pytest.mark.parametrize("window", WINDOWS)
def test_real_clean_slices_have_none(window: str) -> None:
    volumes = [*read_volumes(VOLUMES), *read_free_volumes(VOLUMES)]
    slices = [volume.slice(z, window)[0] for volume in volumes for z in range(0, len(volume.units), 6)]
    slices += [read_slice(path.read_bytes(), window=window).pixels for path in sorted(SERIES.rglob("*.dcm"))[::3]]
    assert sum(map(is_seen, slices)) < 0.01 * len(slices)


def test_the_answer_says_so_and_asks_for_another_picture(classifier: Classifier) -> None:
    pixels = np.pad(read_slice(EXAMPLES[0].read_bytes()).pixels, ((60, 60), (0, 0)))
    said = [[notice.code for notice in classifier(png_of(p)).notices] for p in (pixels, with_text(pixels, (0, 0)))]
    assert ["lettering" in codes for codes in said] == [False, True]
