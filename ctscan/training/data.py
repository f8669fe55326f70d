"""A folder of labelled slices -> arrays held in memory once.

DIR/train, DIR/valid, DIR/test, each with one folder a class -> Split(squares, labels, pixel hashes)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ctscan.classes import CLASS_KEYS, TUMOUR, class_of_folder, class_or_tumour
from ctscan.errors import DataError, UnreadableSlice
from ctscan.imaging.anatomy import Pixels, find_anatomy
from ctscan.io.images import Slice, read_slice
from ctscan.notices import Notice

T = TypeVar("T")
SPLITS = ("train", "valid", "test")
MAX_UNREADABLE = 0.01  # of a split; more means that something is wrong with the folder, not with a file
READERS = 2


@dataclass(frozen=True, eq=False)
class Split:
    """The slices of one split, preprocessed, with what is needed to say which data a number is about."""

    squares: NDArray[np.float32]  # (N, 1, S, S) in [0, 1]
    labels: NDArray[np.int64]  # (N,), index into CLASS_KEYS
    hashes: tuple[str, ...]  # SHA-256 of each slice's shape and decoded pixels
    lungs: NDArray[np.bool_]  # (N,), whether lung is found in the slice
    skipped: tuple[str, ...] = ()  # unreadable files, relative to the split, with the reason
    refused: NDArray[np.bool_] | None = None  # (N,), which a gate refuses; None where none was asked

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Split:
        """The slices at these places, or where the mask is true."""
        places = np.flatnonzero(index) if index.dtype == bool else index
        hashes = tuple(self.hashes[i] for i in places)
        refused = None if self.refused is None else self.refused[places]
        return Split(self.squares[places], self.labels[places], hashes, self.lungs[places], refused=refused)

    def unseen_by(self, *others: Split) -> Split:
        """The slices whose pixels occur in none of the others."""
        seen = {h for other in others for h in other.hashes}
        return self.take(np.array([h not in seen for h in self.hashes], bool))


@dataclass(frozen=True, eq=False)
class Seen:
    """What is kept of one slice."""

    square: Pixels  # (1, S, S)
    digest: str
    lungs: bool
    refused: bool


def join(first: Split, second: Split) -> Split:
    """Both, one after the other; what a gate said of them is left behind."""
    return Split(
        np.concatenate([first.squares, second.squares]),
        np.concatenate([first.labels, second.labels]),
        first.hashes + second.hashes,
        np.concatenate([first.lungs, second.lungs]),
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


def find_outside_files(folder: Path) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """Files and class indices of a folder of class folders from elsewhere, and the keys that the indices count.

    The keys are our classes, or `tumour` and `normal` where the folder holds tumours of no stated kind. Raises
    DataError where a folder is named like no class, where kinds and no kinds are mixed, and where nothing is found.
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
    files = [
        (path, keys.index(key))
        for class_folder, key in classes.items()
        if key is not None
        for path in sorted(class_folder.iterdir())
        if path.is_file() and path.name[0] != "."
    ]
    if not files:
        raise DataError(f"{folder} holds no class folder with files in it.")
    return files, keys


def load_split(
    folder: Path, preprocess: Callable[[Pixels], Pixels], refuses: Callable[[Slice], bool] | None = None
) -> Split:
    """Read one split and turn each slice into a square (1, S, S); unreadable files are skipped and named in `skipped`.

    `refuses` is asked of each slice, where it is given. Raises DataError as `find_files` does, and when more than 1 %
    of the files cannot be read.
    """
    return load_files(folder, find_files(folder), preprocess, refuses)


def load_files(
    folder: Path,
    files: list[tuple[Path, int]],
    preprocess: Callable[[Pixels], Pixels],
    refuses: Callable[[Slice], bool] | None = None,
) -> Split:
    """The same for files and labels that are known."""

    def see(slice_: Slice) -> Seen:
        refused = refuses is not None and refuses(slice_)
        return Seen(preprocess(slice_.pixels), pixel_hash(slice_), bool(find_anatomy(slice_.pixels).lungs), refused)

    read = read_all([path for path, _ in files], see, f"reading {folder.name}")
    skipped = tuple(
        f"{path.relative_to(folder)}: {result}"
        for (path, _), result in zip(files, read, strict=True)
        if isinstance(result, UnreadableSlice)
    )
    if len(skipped) > MAX_UNREADABLE * len(files):
        raise DataError(f"{len(skipped)} of {len(files)} files in {folder} cannot be read, first {skipped[0]}")
    kept = [(r, label) for r, (_, label) in zip(read, files, strict=True) if not isinstance(r, UnreadableSlice)]
    return Split(
        np.stack([seen.square for seen, _ in kept]),
        np.array([label for _, label in kept], np.int64),
        tuple(seen.digest for seen, _ in kept),
        np.array([seen.lungs for seen, _ in kept], bool),
        skipped,
        None if refuses is None else np.array([seen.refused for seen, _ in kept], bool),
    )


def read_all(paths: list[Path], see: Callable[[Slice], T], title: str) -> list[T | UnreadableSlice]:
    """What `see` makes of each file's slice, in order, or why the file cannot be read; with a progress bar."""

    def read(path: Path) -> T | UnreadableSlice:
        try:
            return see(read_slice(path.read_bytes()))
        except UnreadableSlice as error:
            return error
        except OSError as error:
            return UnreadableSlice(Notice("cannot_open", {"reason": str(error.strerror)}))

    with ThreadPoolExecutor(READERS) as pool:
        return list(tqdm(pool.map(read, paths), title, len(paths), unit="slice", leave=False))
