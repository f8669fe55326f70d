"""A folder of labelled slices -> arrays held in memory once.

DIR/train, DIR/valid, DIR/test, each with one folder a class -> Split(squares, labels, pixel hashes)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ctscan.classes import CLASS_KEYS, class_of_folder
from ctscan.preprocess import Preprocess
from ctscan.slices import Slice, UnreadableSlice, read_slice

SPLITS = ("train", "valid", "test")
MAX_UNREADABLE = 0.01  # of a split; more means that something is wrong with the folder, not with a file
READERS = 2


class DataError(ValueError):
    """A data folder that cannot be used; the text is one sentence that names what is missing or wrong."""


@dataclass(frozen=True, eq=False)
class Split:
    """The slices of one split, preprocessed, with what is needed to say which data a number is about."""

    squares: NDArray[np.float32]  # (N, 1, S, S) in [0, 1]
    labels: NDArray[np.int64]  # (N,), index into CLASS_KEYS
    hashes: tuple[str, ...]  # SHA-256 of each slice's shape and decoded pixels
    skipped: tuple[str, ...] = ()  # unreadable files, relative to the split, with the reason

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Split:
        """The slices at these places, or where the mask is true."""
        places = np.flatnonzero(index) if index.dtype == bool else index
        hashes = tuple(self.hashes[i] for i in places)
        return Split(self.squares[places], self.labels[places], hashes)

    def unseen_by(self, *others: Split) -> Split:
        """The slices whose pixels occur in none of the others."""
        seen = {h for other in others for h in other.hashes}
        return self.take(np.array([h not in seen for h in self.hashes], bool))


def join(first: Split, second: Split) -> Split:
    """Both, one after the other."""
    return Split(
        np.concatenate([first.squares, second.squares]),
        np.concatenate([first.labels, second.labels]),
        first.hashes + second.hashes,
        first.skipped + second.skipped,
    )


def fingerprint(splits: Iterable[Split]) -> str:
    """SHA-256 over the pixel hashes and labels of all slices, in an order that file names do not change."""
    lines = [
        f"{number} {label} {digest}"
        for number, split in enumerate(splits)
        for label, digest in sorted(zip(split.labels.tolist(), split.hashes, strict=True))
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def pixel_hash(slice_: Slice) -> str:
    """SHA-256 of a slice's shape and pixels: equal for two files exactly when they show the same pixels."""
    digest = hashlib.sha256(repr(slice_.pixels.shape).encode())
    digest.update(slice_.pixels.tobytes())
    return digest.hexdigest()


def find_files(folder: Path) -> list[tuple[Path, int]]:
    """The files of one split with their class index, sorted by class and name.

    Raises DataError where the split or a class folder is missing, empty or unknown.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}: the data folder needs {', '.join(SPLITS)}.")
    found: dict[str, list[Path]] = {key: [] for key in CLASS_KEYS}
    present: set[str] = set()
    for class_folder in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        key = class_of_folder(class_folder.name)
        if key is None:
            raise DataError(f"The folder {class_folder} is named like none of the classes {', '.join(CLASS_KEYS)}.")
        present.add(key)
        found[key] += sorted(p for p in class_folder.iterdir() if p.is_file() and not p.name.startswith("."))
    for key in CLASS_KEYS:
        if key not in present:
            raise DataError(f"There is no folder for the class {key} in {folder}.")
        if not found[key]:
            raise DataError(f"The folder for the class {key} in {folder} is empty.")
    return [(path, label) for label, key in enumerate(CLASS_KEYS) for path in found[key]]


def load_split(folder: Path, preprocess: Preprocess) -> Split:
    """Read and preprocess one split; unreadable files are skipped and named in `skipped`.

    Raises DataError as `find_files` does, and when more than 1 % of the files cannot be read.
    """
    files = find_files(folder)
    read = list(tqdm(_read_all(files, preprocess), f"reading {folder.name}", len(files), unit="slice", leave=False))
    skipped = tuple(
        f"{path.relative_to(folder)}: {result}"
        for (path, _), result in zip(files, read, strict=True)
        if isinstance(result, UnreadableSlice)
    )
    if len(skipped) > MAX_UNREADABLE * len(files):
        raise DataError(f"{len(skipped)} of {len(files)} files in {folder} cannot be read, first {skipped[0]}")
    kept = [(r, label) for r, (_, label) in zip(read, files, strict=True) if not isinstance(r, UnreadableSlice)]
    return Split(
        np.stack([square for (square, _), _ in kept]),
        np.array([label for _, label in kept], np.int64),
        tuple(digest for (_, digest), _ in kept),
        skipped,
    )


Read: TypeAlias = tuple[NDArray[np.float32], str] | UnreadableSlice


def _read_all(files: list[tuple[Path, int]], preprocess: Preprocess) -> Iterator[Read]:
    def read(item: tuple[Path, int]) -> Read:
        try:
            slice_ = read_slice(item[0].read_bytes())
        except UnreadableSlice as error:
            return error
        except OSError as error:
            return UnreadableSlice(f"The file cannot be opened ({error.strerror}).")
        return preprocess(slice_.pixels)[0], pixel_hash(slice_)

    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(read, files)
