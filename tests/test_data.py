"""The published layout is found by name, read once, and what is wrong with a folder is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from ctscan.classes import CLASS_KEYS, class_of_folder
from ctscan.errors import DataError
from ctscan.imaging.phantom import draw_phantom
from ctscan.io.images import read_slice
from ctscan.training.data import find_files, find_outside_files, pack, read_dataset
from tests.samples import FOLDERS, draw_patient, save, write_data

SHORT = {key: name.split("_")[0] for key, name in FOLDERS.items()}  # as the published test split has them
EACH = {"train": 3, "valid": 1, "test": 2}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data", EACH)


def rename(split: Path, names: dict[str, str]) -> None:
    for key, name in FOLDERS.items():
        (split / name).rename(split / names[key])


@pytest.mark.parametrize("names", [FOLDERS, SHORT])
def test_folders_are_matched_by_name(names: dict[str, str]) -> None:
    assert [class_of_folder(names[key]) for key in CLASS_KEYS] == list(CLASS_KEYS)
    assert class_of_folder("Normal") == "normal"
    assert class_of_folder("large cell carcinoma") == "large_cell_carcinoma"
    assert class_of_folder("abnormal") is None
    assert class_of_folder("adenocarcinomatous") is None


def test_a_dataset_is_the_same_whatever_its_folders_and_files_are_called(data: Path) -> None:
    before = read_dataset(data)
    rename(data / "test", SHORT | {"normal": "Normal"})
    (data / "train" / FOLDERS["normal"] / "0.png").rename(data / "train" / FOLDERS["normal"] / "z.png")
    after = read_dataset(data)
    assert after.of("test").labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert after.fingerprint == before.fingerprint
    assert after.of("train", "valid").fingerprint != before.of("train").fingerprint


def test_pixels_and_squares_are_those_of_the_files(data: Path) -> None:
    dataset = read_dataset(data, ["valid"])
    for record in dataset.records:
        assert np.array_equal(record.pixels, read_slice((data / record.path).read_bytes()).pixels)
        assert np.array_equal(record.slice.pixels, record.pixels)
    squares = dataset.squares(lambda pixels: pixels[None, :8, :8])
    assert squares.shape == (4, 1, 8, 8)
    assert np.array_equal(squares[2, 0], dataset.records[2].pixels[:8, :8])


def test_greys_are_packed_only_where_nothing_is_lost() -> None:
    eight = (np.arange(256).reshape(16, 16) / np.float32(255)).astype(np.float32)
    assert pack(eight).dtype == np.uint8
    sixteen = (np.arange(256).reshape(16, 16) / np.float32(65535)).astype(np.float32)
    assert np.array_equal(pack(sixteen), sixteen)


def test_a_missing_split_and_missing_unknown_or_empty_classes_are_named(data: Path) -> None:
    split = data / "train"
    with pytest.raises(DataError, match="nowhere"):
        find_files(data / "nowhere")
    (split / "sarcoma").mkdir()
    with pytest.raises(DataError, match="sarcoma"):
        find_files(split)
    (split / "sarcoma").rmdir()
    for file in (split / "normal").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="normal"):
        find_files(split)
    (split / "normal").rmdir()
    with pytest.raises(DataError, match="normal"):
        find_files(split)


def test_a_file_that_cannot_be_read_is_skipped_and_said_and_two_of_a_hundred_are_too_many(tmp_path: Path) -> None:
    for name in FOLDERS.values():
        for number in range(30):
            path = tmp_path / "train" / name / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), (draw_phantom(32, 32) * 255).astype(np.uint8))
    normal = tmp_path / "train" / FOLDERS["normal"]
    (normal / "07.png").write_bytes(b"not a picture")
    (normal / ".hidden").write_bytes(b"")
    dataset = read_dataset(tmp_path, ["train"])
    assert len(dataset) == 119
    ((split, line),) = dataset.skipped
    assert split == "train"
    assert line.startswith(f"train/{FOLDERS['normal']}/07.png: ")
    (normal / "08.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"2 of 120 .*07\.png"):
        read_dataset(tmp_path, ["train"])
    assert len(read_dataset(tmp_path, ["train"], most_unreadable=1)) == 118


def test_what_a_system_leaves_in_a_folder_is_left_out_and_said(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_dataset(data)
    folder = data / "train" / "normal"
    files, folders = ("Thumbs.db", "desktop.ini", ".DS_Store"), ("@eaDir", "__MACOSX", "lost+found")
    for name in files:
        (folder / name).write_bytes(b"no slice")
    for place in (data / "train", folder):
        for name in folders:
            shutil.copytree(data / "valid" / "normal", place / name)
    capsys.readouterr()
    after = read_dataset(data)
    lines = [line for line in capsys.readouterr().err.splitlines() if str(data / "train") in line]
    assert after.fingerprint == before.fingerprint
    assert after.skipped == ()
    for names in (folders, (*folders, *files)):
        assert any(all(name in line for name in names) for line in lines)


def test_a_link_that_leads_nowhere_is_a_file_that_cannot_be_opened(data: Path) -> None:
    (data / "train" / "normal" / "gone.png").symlink_to(data / "nowhere.png")
    dataset = read_dataset(data, most_unreadable=1)
    ((split, line),) = dataset.skipped
    assert split == "train"
    assert line.startswith("train/normal/gone.png: ")
    with pytest.raises(DataError, match=r"1 of 13 .*gone\.png"):
        read_dataset(data)


def test_slices_seen_elsewhere_are_found_by_their_pixels(data: Path) -> None:
    shutil.copy(data / "train" / "normal" / "0.png", data / "test" / "normal" / "under another name.png")
    dataset = read_dataset(data)
    test, train = dataset.of("test"), dataset.of("train")
    unseen = test.unseen_by(train)
    assert len(test) == 9
    assert unseen.sum() == 8
    assert not set(test.take(unseen).hashes) & set(train.hashes)


@pytest.mark.parametrize(
    ("names", "word"),
    [(("cats",), "cats"), (("tumor-free",), "tumor-free"), (("tumour", "adenocarcinoma"), "mixes"), ((), "no class")],
)
def test_what_is_wrong_with_a_folder_from_elsewhere_is_said(names: tuple[str, ...], word: str, tmp_path: Path) -> None:
    for name in names:
        save(tmp_path / name / "1.png", draw_patient(1))
    with pytest.raises(DataError, match=word):
        find_outside_files(tmp_path)
