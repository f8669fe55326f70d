"""Slices and folders of them, made from random numbers, for tests whose subject is not the picture."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from ctscan.imaging.anatomy import Pixels, find_anatomy
from ctscan.imaging.phantom import draw_phantom

FOLDERS = {  # class -> the name of its folder in train/ and valid/ of the data set
    "adenocarcinoma": "adenocarcinoma_left.lower.lobe_T2_N0_M0_Ib",
    "large_cell_carcinoma": "large.cell.carcinoma_left.hilum_T2_N2_M0_IIIa",
    "squamous_cell_carcinoma": "squamous.cell.carcinoma_left.hilum_T1_N2_M0_IIIa",
    "normal": "normal",
}


def draw_patient(seed: int) -> Pixels:
    """A slice that is like no other seed's: large random shapes inside the body."""
    rng = np.random.default_rng(seed)
    pixels = draw_phantom(120, 150)
    coarse = cv2.resize(rng.random((5, 6), np.float32), (150, 120), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.where(find_anatomy(pixels).body, 0.15 + 0.85 * coarse, pixels), 0, 1).astype(np.float32)


def save(path: Path, pixels: Pixels) -> None:
    """As a PNG of 8 bits; folders that are missing are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))


def write_data(folder: Path, each: Mapping[str, int], seed: int = 0) -> Path:
    """A data folder with so many slices a class in each split, no two alike."""
    for split, count in each.items():
        for name in FOLDERS.values():
            for number in range(count):
                save(folder / split / name / f"{number}.png", draw_patient(seed))
                seed += 1
    return folder


def spoiled(data: Path, folder: Path, *, content: bytes = b"no picture") -> Path:
    """A copy of a data folder in which no file is a picture."""
    shutil.copytree(data, folder)
    for path in folder.rglob("*.png"):
        path.write_bytes(content)
    return folder
