"""The published layout is found by name; what is wrong with a folder is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from ctscan.classes import CLASS_KEYS, class_of_folder
from ctscan.errors import DataError
from ctscan.imaging.phantom import draw_phantom
from ctscan.imaging.preprocess import Preprocess
from ctscan.training.data import find_files, fingerprint, join, load_split

LONG = {
    "adenocarcinoma": "adenocarcinoma_left.lower.lobe_T2_N0_M0_Ib",
    "large_cell_carcinoma": "large.cell.carcinoma_left.hilum_T2_N2_M0_IIIa",
    "squamous_cell_carcinoma": "squamous.cell.carcinoma_left.hilum_T1_N2_M0_IIIa",
    "normal": "normal",
}
SHORT = {
    "adenocarcinoma": "adenocarcinoma",
    "large_cell_carcinoma": "large.cell.carcinoma",
    "squamous_cell_carcinoma": "squamous.cell.carcinoma",
    "normal": "normal",
}


def write_split(folder: Path, names: dict[str, str], each: int, seed: int = 0) -> Path:
    """A split of synthetic slices, whose classes differ by where a bright spot lies."""
    rng = np.random.default_rng(seed)
    for label, key in enumerate(CLASS_KEYS):
        (folder / names[key]).mkdir(parents=True)
        for number in range(each):
            pixels = draw_phantom(120, 150) + rng.normal(0, 0.01, (120, 150))
            pixels[40:60, 25 + 25 * label : 45 + 25 * label] = 1
            grey = np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8)
            assert cv2.imwrite(str(folder / names[key] / f"{number:03d}.png"), grey)
    return folder


@pytest.fixture
def split(tmp_path: Path) -> Path:
    return write_split(tmp_path / "train", LONG, each=2)


@pytest.mark.parametrize("names", [LONG, SHORT])
def test_folders_are_matched_by_name(names: dict[str, str]) -> None:
    assert [class_of_folder(names[key]) for key in CLASS_KEYS] == list(CLASS_KEYS)
    assert class_of_folder("Normal") == "normal"
    assert class_of_folder("large cell carcinoma") == "large_cell_carcinoma"
    assert class_of_folder("abnormal") is None
    assert class_of_folder("adenocarcinomatous") is None


def test_both_spellings_give_the_same_labels_whatever_the_sort_order(tmp_path: Path) -> None:
    long = load_split(write_split(tmp_path / "a", LONG, 2), Preprocess(64).square)
    other = {key: f"{name}" if key != "normal" else "Normal" for key, name in SHORT.items()}
    short = load_split(write_split(tmp_path / "b", other, 2), Preprocess(64).square)
    assert long.labels.tolist() == short.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert long.hashes == short.hashes
    assert fingerprint([long]) == fingerprint([short])
    assert long.squares.shape == (8, 1, 64, 64)


def test_a_missing_split_and_missing_unknown_or_empty_classes_are_named(split: Path) -> None:
    with pytest.raises(DataError, match="valid"):
        find_files(split.parent / "valid")
    (split / "sarcoma").mkdir()
    with pytest.raises(DataError, match="sarcoma"):
        find_files(split)
    (split / "sarcoma").rmdir()
    for file in (split / "normal").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"normal .* is empty"):
        find_files(split)
    (split / "normal").rmdir()
    with pytest.raises(DataError, match="no folder for the class normal"):
        find_files(split)


def test_an_unreadable_picture_is_named_skipped_and_counted(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "train", SHORT, each=30)
    (folder / "normal" / "007.png").write_bytes(b"not a picture")
    (folder / "normal" / ".hidden").write_bytes(b"")
    loaded = load_split(folder, Preprocess(32).square)
    assert len(loaded) == 119
    assert len(loaded.skipped) == 1
    assert "007.png" in loaded.skipped[0]
    (folder / "normal" / "008.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"2 of 120 .*007\.png"):
        load_split(folder, Preprocess(32).square)


def test_slices_seen_elsewhere_are_found_by_their_pixels(tmp_path: Path) -> None:
    train = write_split(tmp_path / "train", LONG, 2)
    test = write_split(tmp_path / "test", SHORT, 2, seed=1)
    shutil.copy(train / "normal" / "000.png", test / "normal" / "under another name.png")
    one, other = load_split(train, Preprocess(32).square), load_split(test, Preprocess(32).square)
    assert len(other) == 9
    unseen = other.unseen_by(one)
    assert len(unseen) == 8
    assert not set(unseen.hashes) & set(one.hashes)
    both = join(one, other)
    assert len(both) == len(both.hashes) == 17
    assert fingerprint([one, other]) != fingerprint([other, one])
