"""Planted copies, near copies and conflicts are found; no hash and no group crosses a split that comes of it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from ctscan.cli import main
from ctscan.errors import DataError
from ctscan.evaluation.studies import count_copies
from ctscan.results.ledger import read_ledger
from ctscan.training.audit import Audit, audit, known_or_new, link, write_report
from ctscan.training.data import FOLDS, Dataset, Manifest, read_dataset, read_manifest
from tests.samples import FOLDERS, spoiled, write_data

COMMITTED = Path(__file__).parent.parent / "checkpoints" / "manifest.json"
EACH = {"train": 6, "valid": 2, "test": 3}
DISTINCT = 4 * sum(EACH.values()) + 1


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """44 slices; one copied from train to test, one nearly, one under two classes."""
    folder = write_data(tmp_path_factory.mktemp("audited"), EACH)
    normal, adeno = FOLDERS["normal"], FOLDERS["adenocarcinoma"]
    shutil.copy(folder / "train" / normal / "0.png", folder / "test" / normal / "copy.png")
    shutil.copy(folder / "train" / adeno / "1.png", folder / "train" / normal / "conflict.png")
    near = cv2.imread(str(folder / "train" / adeno / "0.png"), cv2.IMREAD_UNCHANGED)
    assert near is not None
    near[0, 0] = 9
    assert cv2.imwrite(str(folder / "test" / adeno / "near.png"), near)
    return folder


@pytest.fixture(scope="module")
def dataset(data: Path) -> Dataset:
    return read_dataset(data)


@pytest.fixture(scope="module")
def audited(dataset: Dataset) -> Audit:
    return audit(dataset)


def test_what_was_planted_is_found(audited: Audit) -> None:
    counts = count_copies(audited.manifest)
    assert sum(counts.files_by_split.values()) == DISTINCT + 2
    assert counts.images == DISTINCT
    assert counts.images_in_several_splits == counts.conflicting_labels == 1
    assert counts.test_files_seen_in_train_or_valid["normal"] == 1
    assert counts.near_duplicate_pairs == counts.near_duplicate_pairs_across_splits == 1
    groups = [counts.groups[t] for t in sorted(counts.groups)]
    assert groups == sorted(groups)  # a higher threshold never joins more


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


def test_the_pool_holds_each_distinct_image_once_and_no_conflict(audited: Audit, dataset: Dataset) -> None:
    pool = audited.manifest.pool(dataset, 0.90)
    assert len(set(pool.hashes)) == len(pool) == DISTINCT - 1
    for group in np.unique(pool.groups):
        assert len(np.unique(pool.folds[pool.groups == group])) == 1
    train = set(dataset.of("train").hashes)
    assert all(record.split == "train" for record in pool.records if record.sha256 in train)  # copies were learned from
    with pytest.raises(DataError, match=r"0\.123"):
        audited.manifest.pool(dataset, 0.123)


def test_a_manifest_comes_back_as_it_was_written(audited: Audit, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(audited.manifest.to_json())
    again = read_manifest(path)
    assert again == audited.manifest
    assert again.digest == audited.manifest.digest


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 9}', '{"schema": 1, "thresholds": [0.9], "images": [1]}'])
def test_a_broken_manifest_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_manifest(path)


def test_linkage_is_single_and_numbered_by_first_members() -> None:
    similarity = np.eye(5)
    for a, b in ((0, 3), (3, 4)):
        similarity[a, b] = similarity[b, a] = 0.9
    assert link(similarity, 0.9).tolist() == [0, 1, 2, 0, 0]
    assert link(similarity, 0.95).tolist() == [0, 1, 2, 3, 4]


def test_the_command_writes_manifest_report_and_counts(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    (broken / "train" / FOLDERS["normal"] / "broken.png").write_bytes(b"no picture")
    files = [tmp_path / name for name in ("m.json", "r.html", "l.json")]
    flags = [f"--{kind}={file}" for kind, file in zip(("manifest", "report", "ledger"), files, strict=True)]
    assert main(["audit", "--data", str(broken), *flags]) == 0
    assert f"train/{FOLDERS['normal']}/broken.png: " in capsys.readouterr().err
    manifest = read_manifest(files[0])
    assert str(broken) not in files[0].read_text()
    (entry,) = read_ledger(files[2]).audits
    assert entry.manifest == manifest.digest
    report = files[1].read_text()
    assert "broken.png" in report
    assert report.count("data:image/png") > len(audit(read_dataset(data)).data) // 2


def test_pictures_and_names_in_the_report_are_no_markup(audited: Audit, tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", Audit(**vars(audited) | {"data": Dataset(audited.data.records, (("a", "<b>"),))}))
    assert "&lt;b&gt;" in (tmp_path / "r.html").read_text()


def test_a_folder_in_which_nothing_can_be_read_is_one_sentence(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No file in .* can be read, first train/"):
        read_dataset(spoiled(data, tmp_path / "data"), most_unreadable=1)


def test_a_manifest_is_used_again_until_an_image_has_another_place(audited: Audit, data: Path, tmp_path: Path) -> None:
    folder, path = tmp_path / "data", tmp_path / "manifest.json"
    shutil.copytree(data, folder)
    path.write_text(audited.manifest.to_json())
    (folder / "test" / FOLDERS["normal"] / "2.png").unlink()  # what remains is known
    known = known_or_new(path, read_dataset(folder))
    assert known == audited.manifest
    first, second = (folder / "train" / FOLDERS[key] / "2.png" for key in ("normal", "adenocarcinoma"))
    swapped = first.read_bytes()
    shutil.copy(second, first)
    second.write_bytes(swapped)
    new = known_or_new(path, read_dataset(folder))
    assert len([i for i in new.images if i.places != known.by_hash[i.sha256].places]) == 2
    shutil.copy(second, folder / "train" / FOLDERS["squamous_cell_carcinoma"] / "copy.png")
    conflicts = [i for i in known_or_new(path, read_dataset(folder)).images if len(i.labels) > 1]
    assert len(conflicts) == 2  # the one that was planted, and this


def test_the_committed_manifest_is_leak_free_and_holds_only_hashes() -> None:
    manifest = read_manifest(COMMITTED)
    assert COMMITTED.read_text() == manifest.to_json()
    assert_nothing_crosses(manifest)
    assert all(re.fullmatch("[0-9a-f]{64}", image.sha256) for image in manifest.images)
    column = manifest.thresholds.index(0.90)
    folds = np.array([image.folds[column] for image in manifest.images if image.folds])
    assert np.bincount(folds).min() > 0.15 * len(folds)
