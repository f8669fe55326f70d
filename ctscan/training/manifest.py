"""What an audit found, by content hash alone: duplicates, conflicting labels, visual groups, folds, and the splits.

The manifest of the published data is committed; it holds no picture and no file name.

    published      as the folders are: what everybody reports
    deduplicated   an image stays in the first of train, valid, test that holds it
    grouped        five folds; no visual group lies in two of them
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctscan.classes import CLASS_KEYS
from ctscan.errors import DataError
from ctscan.imaging.anatomy import Pixels
from ctscan.training.data import SPLITS, Split, join, load_split

SCHEMA = 1
FOLDS = 5


@dataclass(frozen=True)
class Image:
    """One distinct picture: all files that show exactly its pixels."""

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


@dataclass(frozen=True)
class Pool:
    """All distinct, unconflicting slices, with their group and the fold that leaves them out."""

    split: Split
    groups: NDArray[np.int64]  # (N,)
    folds: NDArray[np.int64]  # (N,), 0 to 4

    def relabel(self, labels: NDArray[np.int64]) -> Pool:
        """The same slices under other labels."""
        return replace(self, split=replace(self.split, labels=labels))


@dataclass(frozen=True)
class Manifest:
    """An audited data folder."""

    thresholds: tuple[float, ...]  # correlation of thumbnails from which two slices belong together
    near: dict[str, int]  # pairs of distinct images above NEAR_DUPLICATE: all, and those that cross a published split
    images: tuple[Image, ...]  # by hash

    @cached_property
    def by_hash(self) -> dict[str, Image]:
        """The images by their hash."""
        return {image.sha256: image for image in self.images}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest: names the folds that a result came from."""
        return sha256(self.to_json().encode()).hexdigest()

    def column(self, threshold: float) -> int:
        """Where a threshold stands. Raises DataError where it was not audited."""
        if threshold not in self.thresholds:
            raise DataError(f"The audit has no threshold {threshold}, only {', '.join(map(str, self.thresholds))}.")
        return self.thresholds.index(threshold)

    def groups_of(self, hashes: Iterable[str], threshold: float) -> NDArray[np.int64]:
        """The visual group of each image. Raises DataError for an image that was not audited."""
        column = self.column(threshold)
        try:
            return np.array([self.by_hash[h].groups[column] for h in hashes], np.int64)
        except KeyError:
            raise DataError("The data holds images that the audit has not seen; audit it again.") from None

    def pool(self, split: Split, threshold: float) -> Pool:
        """The grouped split of a folder's slices: each distinct image once, those of conflicting labels left out."""
        groups, column = self.groups_of(split.hashes, threshold), self.column(threshold)
        first = {h: place for place, h in reversed(list(enumerate(split.hashes)))}
        kept = np.array([first[h] for h in sorted(first) if self.by_hash[h].folds], np.int64)
        folds = np.array([self.by_hash[split.hashes[i]].folds[column] for i in kept], np.int64)
        if not len(kept) or folds.min() < 0:
            raise DataError(f"The data has too few visual groups, or slices of a class, for {FOLDS} folds.")
        return Pool(split.take(kept), groups[kept], folds)

    def facts(self) -> dict[str, Any]:
        """The counts that are reported, for the ledger."""
        images, crossing = self.images, [i for i in self.images if len(i.splits) > 1]
        per_class = {key: sum(key in i.labels for i in images) for key in CLASS_KEYS}
        copied = {key: sum(s == "test" and c == key for i in crossing for s, c in i.places) for key in CLASS_KEYS}
        in_test = {key: sum(s == "test" and c == key for i in images for s, c in i.places) for key in CLASS_KEYS}
        return {
            "files": sum(len(i.places) for i in images),
            "files_by_split": {s: sum(split == s for i in images for split, _ in i.places) for s in SPLITS},
            "images": len(images),
            "images_by_class": per_class,
            "images_in_several_splits": len(crossing),
            "conflicting_labels": sum(len(i.labels) > 1 for i in images),
            "test_files_by_class": in_test,
            "test_files_seen_in_train_or_valid": copied,
            "near_duplicates": self.near,
            "groups": {str(t): len({i.groups[c] for i in images}) for c, t in enumerate(self.thresholds)},
            "largest_group": {str(t): self._largest(c) for c, t in enumerate(self.thresholds)},
            "groups_in_several_splits": {str(t): self._crossing(c) for c, t in enumerate(self.thresholds)},
        }

    def _largest(self, column: int) -> int:
        return max(Counter(i.groups[column] for i in self.images).values())

    def _crossing(self, column: int) -> int:
        splits: dict[int, set[str]] = {}
        for image in self.images:
            splits.setdefault(image.groups[column], set()).update(image.splits)
        return sum(len(s) > 1 for s in splits.values())

    def to_json(self) -> str:
        """One image a line, so that a change can be read."""
        head = {"schema": SCHEMA, "thresholds": self.thresholds, "near": self.near}
        lines = ",\n".join(json.dumps(asdict(image), separators=(",", ":")) for image in self.images)
        return f'{json.dumps(head)[:-1]}, "images": [\n{lines}\n]}}\n'

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises DataError."""
        try:
            entries: dict[str, Any] = json.loads(text)
            if entries["schema"] != SCHEMA:
                raise DataError(f"The manifest does not follow schema {SCHEMA}.")
            images = tuple(
                Image(i["sha256"], tuple((s, c) for s, c in i["places"]), tuple(i["groups"]), tuple(i["folds"]))
                for i in entries["images"]
            )
            return cls(tuple(entries["thresholds"]), dict(entries["near"]), images)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError("The manifest.json is broken; move it away, and the data is audited anew.") from None


def load_pool(data: Path, manifest: Manifest, threshold: float, see: Callable[[Pixels], Pixels]) -> Pool:
    """The grouped slices of a data folder's three splits, each as `see` shows it."""
    train, valid, test = (load_split(data / name, see) for name in SPLITS)
    return manifest.pool(join(join(train, valid), test), threshold)


def read_manifest(path: Path) -> Manifest:
    """Raises DataError where there is none or it is broken."""
    try:
        return Manifest.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{path} cannot be read as a manifest.") from None
