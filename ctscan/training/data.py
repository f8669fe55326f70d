"""A folder of labelled slices, read and decoded once, and the manifest that says which of them belong together.

DIR/{train,valid,test}/<class>/<file>  -->  Dataset  --manifest: groups and folds-->  Dataset
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tqdm.auto import tqdm

from ctscan.classes import CLASS_KEYS, TUMOUR, class_of_folder, class_or_tumour
from ctscan.errors import DataError, UnreadableSlice
from ctscan.imaging.anatomy import Pixels
from ctscan.io.images import Slice, read_slice
from ctscan.notices import Notice

SPLITS = ("train", "valid", "test")
FOLDS = 5
MAX_UNREADABLE = 0.01  # of a split; more means that something is wrong with the folder, not with a file
READERS = 2


@dataclass(frozen=True, eq=False)
class Record:
    """One file: where it stands, what it shows, and what the manifest says of it."""

    path: Path  # below the data folder
    split: str
    label: int  # index into the classes
    sha256: str  # of the shape and the pixels: equal exactly where two files show the same
    greys: NDArray[np.uint8] | NDArray[np.float32]  # (H, W): 8 bits where they hold all that the file has
    colour: float = 0.0  # share of the pixels that are clearly coloured
    group: int = -1  # visual group, -1 before a manifest was asked
    fold: int = -1  # grouped fold that leaves it out, -1 before a manifest was asked

    @property
    def pixels(self) -> Pixels:
        """(H, W) in [0, 1], as the file was read."""
        if self.greys.dtype == np.uint8:
            return np.asarray(self.greys / np.float32(255), np.float32)
        return np.asarray(self.greys, np.float32)

    @property
    def slice(self) -> Slice:
        """What the gate looks at."""
        return Slice(self.pixels, colour=self.colour)


@dataclass(frozen=True, eq=False)
class Dataset:
    """N records in a fixed order; arrays, answers and folds refer to them by place."""

    records: tuple[Record, ...]
    skipped: tuple[tuple[str, str], ...] = ()  # split, and file with the reason, of what could not be read

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,), indices into the classes."""
        return np.array([record.label for record in self.records], np.int64)

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """(N,), visual groups."""
        return np.array([record.group for record in self.records], np.int64)

    @cached_property
    def folds(self) -> NDArray[np.int64]:
        """(N,), 0 to 4."""
        return np.array([record.fold for record in self.records], np.int64)

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """The digests of the pixels."""
        return tuple(record.sha256 for record in self.records)

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Dataset:
        """The records at these places, or where the mask is true."""
        places = np.flatnonzero(index) if index.dtype == bool else index
        return Dataset(tuple(self.records[i] for i in places))

    def of(self, *splits: str) -> Dataset:
        """The records of some of the published splits, and what was skipped there."""
        records = tuple(record for record in self.records if record.split in splits)
        return Dataset(records, tuple(skipped for skipped in self.skipped if skipped[0] in splits))

    def unseen_by(self, other: Dataset) -> NDArray[np.bool_]:
        """(N,): whose pixels do not occur in the other."""
        seen = set(other.hashes)
        return np.array([digest not in seen for digest in self.hashes], bool)

    def relabel(self, labels: NDArray[np.int64]) -> Dataset:
        """The same slices under other labels."""
        return Dataset(tuple(replace(r, label=int(k)) for r, k in zip(self.records, labels, strict=True)))

    def squares(self, see: Callable[[Pixels], Pixels], title: str = "preprocessing") -> NDArray[np.float32]:
        """(N, 1, S, S): what `see` makes of each slice, as `Preprocess.square` does."""
        with ThreadPoolExecutor(READERS) as pool:
            seen = pool.map(lambda record: see(record.pixels), self.records)
            return np.stack(list(tqdm(seen, title, len(self), unit="slice", leave=False)))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over splits, labels and pixels, whatever the files are called."""
        rows = sorted((SPLITS.index(record.split), record.label, record.sha256) for record in self.records)
        return sha256("\n".join(f"{split} {label} {digest}" for split, label, digest in rows).encode()).hexdigest()


def pixel_hash(pixels: Pixels) -> str:
    """SHA-256 of shape and pixels (H, W)."""
    digest = sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()


def find_files(folder: Path) -> list[tuple[Path, int]]:
    """The files of one split with their class index, sorted by class and name.

    Raises:
        DataError: The split or a class folder is missing, empty or unknown.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}: the data folder needs {', '.join(SPLITS)}.")
    found: dict[str, list[Path]] = {}
    for class_folder in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        key = class_of_folder(class_folder.name)
        if key is None:
            raise DataError(f"The folder {class_folder} is named like none of the classes {', '.join(CLASS_KEYS)}.")
        found.setdefault(key, []).extend(visible_files(class_folder))
    for key in CLASS_KEYS:
        if key not in found:
            raise DataError(f"There is no folder for the class {key} in {folder}.")
        if not found[key]:
            raise DataError(f"The folder for the class {key} in {folder} is empty.")
    return [(path, label) for label, key in enumerate(CLASS_KEYS) for path in found[key]]


def find_outside_files(folder: Path) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """Files and class indices of class folders from elsewhere, and the keys that the indices count.

    The keys are our classes, or `tumour` and `normal` where the folder holds tumours of no stated kind.

    Raises:
        DataError: A folder is named like no class, kinds and no kinds are mixed, or nothing is there.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    classes = {p: class_or_tumour(p.name) for p in sorted(folder.iterdir()) if p.is_dir() and p.name[0] != "."}
    unknown = next((p for p, key in classes.items() if key is None), None)
    if unknown is not None:
        raise DataError(f"The folder {unknown} is named like none of {', '.join(CLASS_KEYS)}, {TUMOUR}.")
    keys = (TUMOUR, "normal") if TUMOUR in classes.values() else CLASS_KEYS
    if not set(classes.values()) <= set(keys):
        raise DataError(f"{folder} mixes {TUMOUR} with kinds of tumour; give one or the other beside normal.")
    files = [(path, keys.index(key)) for p, key in classes.items() if key is not None for path in visible_files(p)]
    if not files:
        raise DataError(f"{folder} holds no class folder with files in it.")
    return files, keys


def visible_files(folder: Path) -> list[Path]:
    """By name, without hidden ones."""
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def read_dataset(folder: Path, splits: Sequence[str] = SPLITS, most_unreadable: float = MAX_UNREADABLE) -> Dataset:
    """Read the splits of a data folder, every file once.

    Args:
        folder: With one folder a split, in each of them one a class.
        splits: Which of them to read.
        most_unreadable: Share of a split's files that may be skipped.

    Raises:
        DataError: As `find_files`, and where more files cannot be read or none can.
    """
    files = [(split, path, label) for split in splits for path, label in find_files(folder / split)]
    dataset = read_files(folder, files)
    for split in splits:
        skipped, n = dataset.of(split).skipped, sum(name == split for name, _, _ in files)
        if len(skipped) > most_unreadable * n:
            raise DataError(f"{len(skipped)} of {n} files in {folder / split} cannot be read, first {skipped[0][1]}")
    if not dataset.records:
        raise DataError(f"No file in {folder} can be read, first {dataset.skipped[0][1]}")
    return dataset


def read_files(folder: Path, files: Sequence[tuple[str, Path, int]]) -> Dataset:
    """Read files of known split and label, in order, with a progress bar."""

    def read(split: str, path: Path, label: int) -> Record | str:
        try:
            slice_ = read_slice(path.read_bytes())
        except UnreadableSlice as error:
            return str(error)
        except OSError as error:
            return str(Notice("cannot_open", {"reason": f"{error.strerror}"}))
        greys = pack(slice_.pixels)
        return Record(path.relative_to(folder), split, label, pixel_hash(slice_.pixels), greys, slice_.colour)

    with ThreadPoolExecutor(READERS) as pool:
        results = list(
            tqdm(pool.map(read, *zip(*files, strict=True)), "reading", len(files), unit="slice", leave=False)
        )
    return Dataset(
        tuple(result for result in results if isinstance(result, Record)),
        tuple(
            (split, f"{path.relative_to(folder)}: {result}")
            for (split, path, _), result in zip(files, results, strict=True)
            if isinstance(result, str)
        ),
    )


def pack(pixels: Pixels) -> NDArray[np.uint8] | NDArray[np.float32]:
    """The same greys in 8 bits where nothing is lost by it: a data set is held in memory whole."""
    levels = np.rint(pixels * 255).astype(np.uint8)
    return levels if np.array_equal(levels / np.float32(255), pixels) else pixels


class Image(BaseModel):
    """One distinct picture: all files that show exactly its pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str  # of its shape and pixels
    places: tuple[tuple[str, str], ...]  # (split, class) of each file
    groups: tuple[int, ...]  # its visual group at each threshold
    folds: tuple[int, ...]  # its fold at each threshold, -1 where there are too few groups; empty where labels conflict

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that its files are given; more than one is a conflict."""
        return tuple(sorted({label for _, label in self.places}))

    @property
    def splits(self) -> tuple[str, ...]:
        """The published splits that hold it, first to last."""
        return tuple(s for s in SPLITS if any(split == s for split, _ in self.places))


class Manifest(BaseModel):
    """An audited data folder, by content hash alone: no picture, no file name.

    published      as the folders are: what everybody reports
    deduplicated   an image stays in the first of train, valid, test that holds it
    grouped        five folds; no visual group lies in two of them
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = Field(default=1, alias="schema")
    thresholds: tuple[float, ...]  # correlation of thumbnails from which two slices belong together
    near: dict[str, int]  # pairs of distinct images that are near copies: all, and those that cross a published split
    images: tuple[Image, ...]  # by hash

    @cached_property
    def by_hash(self) -> dict[str, Image]:
        """The images by their hash."""
        return {image.sha256: image for image in self.images}

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits that name the groups and folds that a result came from."""
        return sha256(self.to_json().encode()).hexdigest()[:16]

    def group(self, data: Dataset, threshold: float) -> Dataset:
        """The same slices with their visual groups and folds.

        Raises:
            DataError: The threshold or an image was not audited.
        """
        if threshold not in self.thresholds:
            raise DataError(f"The audit has no threshold {threshold}, only {', '.join(map(str, self.thresholds))}.")
        if not set(data.hashes) <= set(self.by_hash):
            raise DataError("The data holds images that the audit has not seen; audit it again.")
        column = self.thresholds.index(threshold)
        images = [self.by_hash[digest] for digest in data.hashes]
        places = [(i.groups[column], i.folds[column] if i.folds else -1) for i in images]
        records = [replace(r, group=g, fold=f) for r, (g, f) in zip(data.records, places, strict=True)]
        return Dataset(tuple(records), data.skipped)

    def pool(self, data: Dataset, threshold: float) -> Dataset:
        """What is cross-validated: each distinct image once, those of conflicting labels left out, by hash.

        Raises:
            DataError: As `group`, and where there are too few groups for the folds.
        """
        first: dict[str, Record] = {}
        for record in self.group(data, threshold).records:
            first.setdefault(record.sha256, record)
        kept = tuple(first[digest] for digest in sorted(first) if self.by_hash[digest].folds)
        if not kept or min(record.fold for record in kept) < 0:
            raise DataError(f"The data has too few visual groups, or slices of a class, for {FOLDS} folds.")
        return Dataset(kept)

    def facts(self) -> dict[str, Any]:
        """The counts that are reported, of files or of distinct images; thresholds are written `0.90`."""
        images, crossing = self.images, [i for i in self.images if len(i.splits) > 1]
        columns = {f"{t:.2f}": [i.groups[c] for i in images] for c, t in enumerate(self.thresholds)}
        return {
            "files_by_split": {s: sum(split == s for i in images for split, _ in i.places) for s in SPLITS},
            "images": len(images),
            "images_by_class": {key: sum(key in i.labels for i in images) for key in CLASS_KEYS},
            "images_in_several_splits": len(crossing),
            "conflicting_labels": sum(len(i.labels) > 1 for i in images),
            "test_files_by_class": count_test_files(images),
            "test_files_seen_in_train_or_valid": count_test_files(crossing),
            "groups": {t: len(set(groups)) for t, groups in columns.items()},
            "largest_group": {t: max(Counter(groups).values()) for t, groups in columns.items()},
            "groups_in_several_splits": {t: self._count_crossing(groups) for t, groups in columns.items()},
        }

    def _count_crossing(self, groups: Sequence[int]) -> int:
        splits: dict[int, set[str]] = {}
        for group, image in zip(groups, self.images, strict=True):
            splits.setdefault(group, set()).update(image.splits)
        return sum(len(s) > 1 for s in splits.values())

    def to_json(self) -> str:
        """One image a line, so that a change can be read."""
        head = json.dumps({"schema": self.version, "thresholds": self.thresholds, "near": self.near})
        lines = ",\n".join(image.model_dump_json() for image in self.images)
        return f'{head[:-1]}, "images": [\n{lines}\n]}}\n'


def count_test_files(images: Iterable[Image]) -> dict[str, int]:
    """How many files of these images stand in the published test split, by class."""
    classes = Counter(label for image in images for split, label in image.places if split == "test")
    return {key: classes[key] for key in CLASS_KEYS}


def read_manifest(path: Path) -> Manifest:
    """Read and check.

    Raises:
        DataError: There is none, or it is broken.
    """
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read as a manifest ({error.strerror}).") from None
    except ValidationError:
        raise DataError(f"{path} is no manifest of this version; move it away, and the data is audited anew.") from None
