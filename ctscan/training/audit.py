"""A data folder -> its manifest: identical pixels, near copies, conflicting labels, visual groups, folds.

    files --pixel hash--> distinct images --thumbnails, correlation--> pairs --single linkage--> visual groups

Visual groups are not patients: the data names none. Slices of one patient may lie in two groups, and two patients
may share one; the second only makes a split stricter, so the sweep of thresholds goes down to where it hurts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ctscan.classes import CLASS_KEYS
from ctscan.errors import DataError, UnreadableSlice
from ctscan.imaging.anatomy import Pixels, find_anatomy
from ctscan.io.images import Slice
from ctscan.training.data import SPLITS, Split, find_files, pixel_hash, read_all
from ctscan.training.manifest import FOLDS, Image, Manifest, read_manifest

THUMBNAIL = (48, 36)  # px, width and height
THRESHOLDS = (0.80, 0.85, 0.90, 0.95, 0.98)
NEAR_DUPLICATE = 0.98
FOLD_SEED = 0


@dataclass(frozen=True, eq=False)
class Record:
    """One file that could be read."""

    path: Path
    split: str
    label: int
    sha256: str
    thumbnail: NDArray[np.float64]  # (1728,), mean 0, length 1


@dataclass(frozen=True, eq=False)
class Audit:
    """All that was found, with the paths that only the owner of the data has."""

    records: tuple[Record, ...]  # one a file
    unreadable: tuple[str, ...]
    distinct: tuple[Record, ...]  # the first file of each distinct image, by hash
    correlation: NDArray[np.float64]  # (D, D) of the distinct images' thumbnails
    manifest: Manifest


def draw_thumbnail(pixels: Pixels) -> NDArray[np.float64]:
    """The body at 48 x 36 px as a vector (1728,) of mean 0 and length 1; zeros where it is of one grey."""
    box = find_anatomy(pixels).box
    body = pixels[box.top : box.top + box.height, box.left : box.left + box.width]
    vector = cv2.resize(body, THUMBNAIL, interpolation=cv2.INTER_AREA).ravel().astype(np.float64)
    vector -= vector.mean()
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector


def link(correlation: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    """Single linkage: (D, D) -> (D,), the group of each, numbered in the order of first members."""
    group = np.full(len(correlation), -1, np.int64)
    for start in range(len(group)):
        if group[start] >= 0:
            continue
        number, border = int(group.max()) + 1, [start]
        group[start] = number
        while border:
            near = np.flatnonzero((correlation[border.pop()] >= threshold) & (group < 0))
            group[near] = number
            border += near.tolist()
    return group


def assign_folds(labels: Sequence[int], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """(D,) -> (D,), 0 to 4: stratified by class, no group in two folds, by scikit-learn with a fixed seed."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = np.empty(len(groups), np.int64)
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=FOLD_SEED)
    for number, (_, outside) in enumerate(splitter.split(groups, labels, groups)):
        folds[outside] = number
    return folds


def read_records(data: Path) -> tuple[list[Record], list[str]]:
    """Every readable file of the three splits, and why others are not. Raises DataError as `find_files` does."""
    records: list[Record] = []
    unreadable: list[str] = []

    def see(slice_: Slice) -> tuple[str, NDArray[np.float64]]:
        return pixel_hash(slice_), draw_thumbnail(slice_.pixels)

    for split in SPLITS:
        files = find_files(data / split)
        for (path, label), result in zip(files, read_all([p for p, _ in files], see, f"auditing {split}"), strict=True):
            if isinstance(result, UnreadableSlice):
                unreadable.append(f"{path.relative_to(data)}: {result}")
            else:
                records.append(Record(path, split, label, *result))
    return records, unreadable


def places_of(files: Iterable[tuple[str, str, int]]) -> dict[str, tuple[tuple[str, str], ...]]:
    """Hash, split and label of files -> of each distinct image, by hash, the (split, class) of all its files."""
    places: dict[str, tuple[tuple[str, str], ...]] = {}
    for digest, split, label in files:
        places[digest] = (*places.get(digest, ()), (split, CLASS_KEYS[label]))
    return places


def known_or_new(path: Path, data: Path, splits: Mapping[str, Split]) -> Manifest:
    """The manifest at `path` where it knows all slices of `data`, each at its place; else that of a new audit.

    An image that has moved to another class, or been copied there, has another label or none that is clear. Raises
    DataError as `audit` does, and DataError.
    """
    if path.exists():
        known = read_manifest(path)
        of_known = {image.sha256: sorted(image.places) for image in known.images}
        now = places_of((h, name, k) for name, s in splits.items() for h, k in zip(s.hashes, s.labels, strict=True))
        if all(of_known.get(digest) == sorted(places) for digest, places in now.items()):
            return known
    return audit(data).manifest


def audit(data: Path) -> Audit:
    """Read a folder of train, valid and test. Raises DataError where it lacks what it needs."""
    records, unreadable = read_records(data)
    if not records:
        raise DataError(f"No file in {data} can be read, first {unreadable[0]}")
    files: dict[str, Record] = {}
    for record in records:
        files.setdefault(record.sha256, record)
    hashes = sorted(files)
    distinct = tuple(files[h] for h in hashes)
    thumbnails = np.stack([record.thumbnail for record in distinct])
    correlation = np.clip(thumbnails @ thumbnails.T, -1, 1)
    np.fill_diagonal(correlation, 1)
    found = places_of((record.sha256, record.split, record.label) for record in records)
    places = [found[h] for h in hashes]
    clear = np.array([len({label for _, label in p}) == 1 for p in places])
    labels = [record.label for record, ok in zip(distinct, clear, strict=True) if ok]
    enough = np.bincount(labels, minlength=len(CLASS_KEYS)).min() >= FOLDS
    groups, folds = [], []
    for threshold in THRESHOLDS:
        groups.append(link(correlation, threshold))
        folds.append(np.full(len(hashes), -1))
        if enough and len(np.unique(groups[-1][clear])) >= FOLDS:
            folds[-1][clear] = assign_folds(labels, groups[-1][clear])
    images = tuple(
        Image(h, p, tuple(int(g[i]) for g in groups), tuple(int(f[i]) for f in folds) if clear[i] else ())
        for i, (h, p) in enumerate(zip(hashes, places, strict=True))
    )
    manifest = Manifest(THRESHOLDS, count_near(correlation, images), images)
    return Audit(tuple(records), tuple(unreadable), distinct, correlation, manifest)


def near_pairs(correlation: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs of distinct images that are near copies, the most alike first."""
    rows, columns = np.nonzero(np.triu(correlation >= NEAR_DUPLICATE, 1))
    order = np.argsort(-correlation[rows, columns], kind="stable")
    return [(int(rows[i]), int(columns[i])) for i in order]


def count_near(correlation: NDArray[np.float64], images: tuple[Image, ...]) -> dict[str, int]:
    """How many near copies there are, and how many lie in different published splits."""
    pairs = near_pairs(correlation)
    crossing = sum(not set(images[a].splits) & set(images[b].splits) for a, b in pairs)
    return {"pairs": len(pairs), "pairs_across_splits": crossing}
