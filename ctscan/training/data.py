"""A folder of labelled slices, read and decoded once, and the manifest that says which of them belong together.

DIR/{train,valid,test}/<class>/<file>  -->  Dataset  --manifest: groups and folds-->  Dataset
"""

from __future__ import annotations

import json
import sys
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
from ctscan.files import SYSTEM_NAMES
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
    def place(self) -> tuple[str, str]:
        """Split and class."""
        return self.split, CLASS_KEYS[self.label]

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

    @cached_property
    def by_hash(self) -> dict[str, list[Record]]:
        """The files of each distinct image, both in the order of the records."""
        files: dict[str, list[Record]] = {}
        for record in self.records:
            files.setdefault(record.sha256, []).append(record)
        return files

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
        return np.array([digest not in other.by_hash for digest in self.hashes], bool)

    def assign(self, **columns: Iterable[int]) -> Dataset:
        """The same slices with another `label`, `group` or `fold`, of each (N,)."""
        records = self.records
        for name, values in columns.items():
            changes: list[dict[str, Any]] = [{name: int(value)} for value in values]
            records = tuple(replace(r, **change) for r, change in zip(records, changes, strict=True))
        return Dataset(records, self.skipped)

    def squares(self, see: Callable[[Pixels], Pixels], title: str = "preprocessing") -> NDArray[np.float32]:
        """(N, 2, S, S): what `see` makes of each slice, as `Preprocess.square` does."""
        with ThreadPoolExecutor(READERS) as pool:
            seen = pool.map(lambda record: see(record.pixels), self.records)
            return np.stack(list(tqdm(seen, title, len(self), unit="slice", leave=False)))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over splits, labels and pixels, whatever the files are called."""
        rows = sorted((SPLITS.index(record.split), record.label, record.sha256) for record in self.records)
        return sha256("\n".join(f"{split} {label} {digest}" for split, label, digest in rows).encode()).hexdigest()


def find_files(folder: Path) -> list[tuple[Path, int]]:
    """The files of one split with their class index, sorted by class and name.

    Raises:
        DataError: The split or a class folder is missing, empty or unknown.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}: the data folder needs {', '.join(SPLITS)}.")
    files = list_classes(folder, class_of_folder, CLASS_KEYS)
    for key in CLASS_KEYS:
        if key not in files:
            raise DataError(f"There is no folder for the class {key} in {folder}.")
        if not files[key]:
            raise DataError(f"The folder for the class {key} in {folder} is empty.")
    return [(path, label) for label, key in enumerate(CLASS_KEYS) for path in files[key]]


def find_outside_files(folder: Path) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """Files and class indices of class folders from elsewhere, and the keys that the indices count.

    The keys are our classes, or `tumour` and `normal` where the folder holds tumours of no stated kind.

    Raises:
        DataError: A folder is named like no class, kinds and no kinds are mixed, or nothing is there.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    files = list_classes(folder, class_or_tumour, (*CLASS_KEYS, TUMOUR))
    keys = (TUMOUR, "normal") if TUMOUR in files else CLASS_KEYS
    if not files.keys() <= set(keys):
        raise DataError(f"{folder} mixes {TUMOUR} with kinds of tumour; give one or the other beside normal.")
    if not any(files.values()):
        raise DataError(f"{folder} holds no class folder with files in it.")
    return [(path, keys.index(key)) for key, paths in files.items() for path in paths], keys


def list_classes(folder: Path, class_of: Callable[[str], str | None], keys: Sequence[str]) -> dict[str, list[Path]]:
    """The files of all class folders by class, in the order of their names; links that lead nowhere are files.

    Raises:
        DataError: `class_of` gives a folder none of the keys.
    """
    files: dict[str, list[Path]] = {}
    for class_folder in filter(Path.is_dir, visible(folder)):
        key = class_of(class_folder.name)
        if key is None:
            raise DataError(f"The folder {class_folder} is named like none of the classes {', '.join(keys)}.")
        found = [p for p in visible(class_folder) if p.is_file() or (p.is_symlink() and not p.exists())]
        files.setdefault(key, []).extend(found)
    return files


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, by name, but for what is hidden; what a system left there is left out, and said."""
    entries = sorted(folder.iterdir())
    left = [path.name for path in entries if path.name.lower() in SYSTEM_NAMES]
    if left:
        print(Notice("left_by_system", {"folder": str(folder), "names": ", ".join(left)}), file=sys.stderr)
    return [path for path in entries if path.name not in left and not path.name.startswith(".")]


def read_dataset(folder: Path, splits: Sequence[str] = SPLITS, most_unreadable: float = MAX_UNREADABLE) -> Dataset:
    """Read the splits of a data folder, every file once.

    Args:
        folder: With one folder a split, in each of them one a class.
        splits: Which of them to read.
        most_unreadable: Share of a split's files that may be skipped.

    Raises:
        DataError: As `find_files` and `read_files`, and where more files cannot be read.
    """
    files = [(split, path, label) for split in splits for path, label in find_files(folder / split)]
    dataset = read_files(folder, files)
    for split in splits:
        part = dataset.of(split)
        skipped, n = part.skipped, len(part) + len(part.skipped)
        if len(skipped) > most_unreadable * n:
            raise DataError(f"{len(skipped)} of {n} files in {folder / split} cannot be read, first {skipped[0][1]}")
    return dataset


def read_files(folder: Path, files: Sequence[tuple[str, Path, int]]) -> Dataset:
    """Read files of known split and label, in order, with a progress bar. Raises DataError where none can be read."""

    def read(file: tuple[str, Path, int]) -> Record | tuple[str, str]:
        split, path, label = file
        name = path.relative_to(folder)
        try:
            slice_ = read_slice(path.read_bytes())
        except UnreadableSlice as error:
            return split, f"{name}: {error}"
        except OSError as error:
            return split, f"{name}: {Notice('cannot_open', {'reason': f'{error.strerror}'})}"
        digest = sha256(repr(slice_.pixels.shape).encode() + slice_.pixels.tobytes()).hexdigest()
        return Record(name, split, label, digest, pack(slice_.pixels), slice_.colour)

    with ThreadPoolExecutor(READERS) as pool:
        results = list(tqdm(pool.map(read, files), "reading", len(files), unit="slice", leave=False))
    records = tuple(result for result in results if isinstance(result, Record))
    skipped = tuple(result for result in results if not isinstance(result, Record))
    if not records:
        raise DataError(f"No file in {folder} can be read, first {skipped[0][1]}")
    return Dataset(records, skipped)


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
    def labels(self) -> set[str]:
        """The classes that its files are given; more than one is a conflict."""
        return {label for _, label in self.places}

    @property
    def splits(self) -> set[str]:
        """The published splits that hold it."""
        return {split for split, _ in self.places}


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
        folds = [image.folds[column] if image.folds else -1 for image in images]
        return data.assign(group=[image.groups[column] for image in images], fold=folds)

    def pool(self, data: Dataset, threshold: float) -> Dataset:
        """What is cross-validated: each distinct image once, those of conflicting labels left out, by hash.

        Raises:
            DataError: As `group`, and where there are too few groups for the folds.
        """
        files = self.group(data, threshold).by_hash
        kept = tuple(files[digest][0] for digest in sorted(files) if self.by_hash[digest].folds)
        if not kept or min(record.fold for record in kept) < 0:
            raise DataError(f"The data has too few visual groups, or slices of a class, for {FOLDS} folds.")
        return Dataset(kept)

    def facts(self) -> dict[str, Any]:
        """The counts that are reported, of files or of distinct images; thresholds are written `0.90`."""
        images, crossing = self.images, [image for image in self.images if len(image.splits) > 1]
        files, files_crossing = (Counter(place for i in some for place in i.places) for some in (images, crossing))
        facts: dict[str, Any] = {
            "files_by_split": {split: sum(files[split, key] for key in CLASS_KEYS) for split in SPLITS},
            "images": len(images),
            "images_by_class": {key: sum(key in i.labels for i in images) for key in CLASS_KEYS},
            "images_in_several_splits": len(crossing),
            "conflicting_labels": sum(len(i.labels) > 1 for i in images),
            "test_files_by_class": {key: files["test", key] for key in CLASS_KEYS},
            "test_files_seen_in_train_or_valid": {key: files_crossing["test", key] for key in CLASS_KEYS},
            "groups": {},
            "largest_group": {},
            "groups_in_several_splits": {},
        }
        for column, threshold in enumerate(self.thresholds):
            members = Counter(image.groups[column] for image in images)
            splits = Counter(group for group, _ in {(i.groups[column], split) for i in images for split in i.splits})
            facts["groups"][f"{threshold:.2f}"] = len(members)
            facts["largest_group"][f"{threshold:.2f}"] = max(members.values())
            facts["groups_in_several_splits"][f"{threshold:.2f}"] = sum(n > 1 for n in splits.values())
        return facts

    def to_json(self) -> str:
        """One image a line, so that a change can be read."""
        head = json.dumps({"schema": self.version, "thresholds": self.thresholds, "near": self.near})
        lines = ",\n".join(image.model_dump_json() for image in self.images)
        return f'{head[:-1]}, "images": [\n{lines}\n]}}\n'


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
