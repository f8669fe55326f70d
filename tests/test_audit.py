"""Planted copies, near copies and conflicts are found; no hash and no group crosses a split that comes of it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from ctscan.errors import DataError
from ctscan.imaging.anatomy import find_anatomy
from ctscan.imaging.phantom import draw_phantom
from ctscan.imaging.preprocess import Preprocess
from ctscan.training.audit import Audit, audit, known_or_new, link
from ctscan.training.audit_report import write_report
from ctscan.training.data import SPLITS, Split, join, load_split
from ctscan.training.manifest import FOLDS, Manifest, read_manifest
from tests.conftest import Ctscan
from tests.test_data import LONG

ROOT = Path(__file__).parent.parent
COMMITTED = ROOT / "checkpoints" / "manifest.json"
EACH = {"train": 6, "valid": 2, "test": 3}


def draw_patient(seed: int) -> np.ndarray:
    """A slice that is like no other seed's: large random shapes inside the body."""
    rng = np.random.default_rng(seed)
    pixels = draw_phantom(120, 150)
    coarse = cv2.resize(rng.random((5, 6), np.float32), (150, 120), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.where(find_anatomy(pixels).body, 0.15 + 0.85 * coarse, pixels), 0, 1)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """44 slices; one copied from train to test, one nearly, one under two classes."""
    folder, seed = tmp_path_factory.mktemp("audited"), 0
    for split, each in EACH.items():
        for name in LONG.values():
            for number in range(each):
                save(folder / split / name / f"{number}.png", draw_patient(seed))
                seed += 1
    normal, adeno = LONG["normal"], LONG["adenocarcinoma"]
    shutil.copy(folder / "train" / normal / "0.png", folder / "test" / normal / "copy.png")
    shutil.copy(folder / "train" / adeno / "1.png", folder / "train" / normal / "conflict.png")
    near = cv2.imread(str(folder / "train" / adeno / "0.png"), cv2.IMREAD_UNCHANGED)
    assert near is not None
    near[0, 0] = 9
    assert cv2.imwrite(str(folder / "test" / adeno / "near.png"), near)
    return folder


@pytest.fixture(scope="module")
def audited(data: Path) -> Audit:
    return audit(data)


def test_what_was_planted_is_found(audited: Audit) -> None:
    facts = audited.manifest.facts()
    assert facts["files"] == 4 * sum(EACH.values()) + 3
    assert facts["images"] == 4 * sum(EACH.values()) + 1
    assert facts["images_in_several_splits"] == 1
    assert facts["conflicting_labels"] == 1
    assert facts["test_files_seen_in_train_or_valid"]["normal"] == 1
    assert facts["near_duplicates"] == {"pairs": 1, "pairs_across_splits": 1}
    counts = list(facts["groups"].values())
    assert counts == sorted(counts)  # a higher threshold never joins more


def assert_nothing_crosses(manifest: Manifest) -> None:
    assert len({i.sha256 for i in manifest.images}) == len(manifest.images)
    for column in range(len(manifest.thresholds)):
        fold_of_group: dict[int, int] = {}
        for image in manifest.images:
            if image.folds:
                assert fold_of_group.setdefault(image.groups[column], image.folds[column]) == image.folds[column]
        assert set(fold_of_group.values()) in (set(range(FOLDS)), {-1})
    for image in manifest.images:
        assert bool(image.folds) == (len(image.labels) == 1)


def test_no_hash_and_no_group_crosses_a_fold(audited: Audit) -> None:
    assert_nothing_crosses(audited.manifest)


def test_the_pool_holds_each_distinct_image_once_and_no_conflict(audited: Audit, data: Path) -> None:
    train, valid, test = (load_split(data / name, Preprocess(32).square) for name in SPLITS)
    pool = audited.manifest.pool(join(join(train, valid), test), 0.90)
    assert len(set(pool.split.hashes)) == len(pool.split) == audited.manifest.facts()["images"] - 1
    for group in np.unique(pool.groups):
        assert len(np.unique(pool.folds[pool.groups == group])) == 1
    with pytest.raises(DataError, match="no threshold"):
        audited.manifest.pool(train, 0.123)


def test_deduplicated_keeps_an_image_in_the_first_split_that_holds_it(data: Path) -> None:
    train, valid, test = (load_split(data / name, Preprocess(32).square) for name in SPLITS)
    unseen = test.unseen_by(train, valid)
    assert len(unseen) == len(test) - 1
    assert not set(unseen.hashes) & (set(train.hashes) | set(valid.hashes))


def test_a_manifest_comes_back_as_it_was_written(audited: Audit) -> None:
    again = Manifest.from_json(audited.manifest.to_json())
    assert again == audited.manifest
    assert again.digest == audited.manifest.digest


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 9}', '{"schema": 1, "thresholds": [0.9], "images": [1]}'])
def test_a_broken_manifest_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(DataError):
        read_manifest(path)


def test_linkage_is_single_and_numbered_by_first_members() -> None:
    similarity = np.eye(5)
    for a, b in ((0, 3), (3, 4)):
        similarity[a, b] = similarity[b, a] = 0.9
    assert link(similarity, 0.9).tolist() == [0, 1, 2, 0, 0]
    assert link(similarity, 0.95).tolist() == [0, 1, 2, 3, 4]


def test_the_command_writes_manifest_report_and_counts(data: Path, tmp_path: Path, run_ctscan: Ctscan) -> None:
    flags = ["--manifest", "m.json", "--report", "r.html", "--ledger", "l.json"]
    done = run_ctscan("audit", "--data", data, *flags)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(tmp_path / "m.json")
    assert str(data) not in (tmp_path / "m.json").read_text()
    (entry,) = json.loads((tmp_path / "l.json").read_text())["audits"]
    assert entry["manifest"] == manifest.digest[:16]
    report = (tmp_path / "r.html").read_text()
    assert "Conflicting labels: 1" in report
    assert report.count("data:image/png") > 10


def test_the_report_names_what_cannot_be_read(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    (folder / "train" / LONG["normal"] / "broken.png").write_bytes(b"no picture")
    found = audit(folder)
    assert len(found.unreadable) == 1
    write_report(tmp_path / "r.html", found)
    assert "broken.png" in (tmp_path / "r.html").read_text()


def test_the_command_says_what_cannot_be_read(data: Path, tmp_path: Path, run_ctscan: Ctscan) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    (folder / "train" / LONG["normal"] / "broken.png").write_bytes(b"no picture")
    done = run_ctscan("audit", "--data", folder)
    assert done.returncode == 0
    assert f"ctscan: train/{LONG['normal']}/broken.png: " in done.stderr


def test_a_folder_in_which_nothing_can_be_read_is_one_sentence(tmp_path: Path) -> None:
    for split in SPLITS:
        for name in LONG.values():
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"No file in .* can be read, first train/"):
        audit(tmp_path)


def splits_of(folder: Path) -> dict[str, Split]:
    return {name: load_split(folder / name, Preprocess(32).square) for name in SPLITS}


def test_a_manifest_is_used_again_until_an_image_has_another_place(audited: Audit, data: Path, tmp_path: Path) -> None:
    folder, path = tmp_path / "data", tmp_path / "manifest.json"
    shutil.copytree(data, folder)
    path.write_text(audited.manifest.to_json())
    (folder / "test" / LONG["normal"] / "2.png").unlink()  # what remains is known
    known = known_or_new(path, folder, splits_of(folder))
    assert known == audited.manifest
    first, second = (folder / "train" / LONG[key] / "2.png" for key in ("normal", "adenocarcinoma"))
    swapped = first.read_bytes()
    shutil.copy(second, first)
    second.write_bytes(swapped)
    found = known_or_new(path, folder, splits_of(folder))
    moved = [i.sha256 for i in found.images if i.places != known.by_hash[i.sha256].places]
    assert len(moved) == 2
    shutil.copy(second, folder / "train" / LONG["squamous_cell_carcinoma"] / "copy.png")
    conflicts = [i.sha256 for i in known_or_new(path, folder, splits_of(folder)).images if len(i.labels) > 1]
    assert len(conflicts) == 2  # the one that was planted, and this


def test_a_folder_that_is_no_data_set_is_one_sentence(tmp_path: Path, run_ctscan: Ctscan) -> None:
    done = run_ctscan("audit", "--data", tmp_path)
    assert done.returncode == 2
    assert "train" in done.stderr


def test_the_committed_manifest_is_leak_free_and_holds_only_hashes() -> None:
    manifest = read_manifest(COMMITTED)
    assert_nothing_crosses(manifest)
    assert all(re.fullmatch("[0-9a-f]{64}", image.sha256) for image in manifest.images)
    assert ".png" not in COMMITTED.read_text()
    counts = manifest.facts()
    assert (counts["files"], counts["images"], counts["images_in_several_splits"]) == (944, 791, 22)
    folds = np.array([image.folds[manifest.column(0.90)] for image in manifest.images if image.folds])
    assert np.bincount(folds).min() > 0.15 * len(folds)
