"""A data folder -> its manifest: identical pixels, near copies, conflicting labels, visual groups, folds.

    files --pixel hash--> distinct images --thumbnails, correlation--> pairs --single linkage--> visual groups

Visual groups are not patients: the data names none. Slices of one patient may lie in two groups, and two patients
may share one; the second only makes a split stricter, so the sweep of thresholds goes down to where it hurts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN
from sklearn.model_selection import StratifiedGroupKFold

from ctscan.classes import CLASS_KEYS, CLASSES
from ctscan.files import write
from ctscan.imaging.anatomy import Pixels, find_anatomy
from ctscan.imaging.render import data_uri, fit, to_bytes
from ctscan.training.data import FOLDS, Dataset, Image, Manifest, Record, read_manifest

THUMBNAIL = (48, 36)  # px, width and height
THRESHOLDS = (0.80, 0.85, 0.90, 0.95, 0.98)
NEAR_DUPLICATE = 0.98
FOLD_SEED = 0

PICTURE = 112  # px, longer side in the report
MAX_ROWS = 60  # of each list of the report; the counts are given in full
MAX_MEMBERS = 12  # pictures of a visual group
SHOWN_THRESHOLD = 0.90


@dataclass(frozen=True, eq=False)
class Audit:
    """All that was found, with the files that only the owner of the data has."""

    data: Dataset
    manifest: Manifest
    near: tuple[tuple[Image, Image], ...]  # pairs of near copies, the most alike first


def draw_thumbnail(pixels: Pixels) -> NDArray[np.float64]:
    """The body at 48 x 36 px as a vector (1728,) of mean 0 and length 1; zeros where it is of one grey."""
    box = find_anatomy(pixels).bright_box  # not the model's: what belongs together must not change with it
    body = pixels[box.top : box.top + box.height, box.left : box.left + box.width]
    vector = cv2.resize(body, THUMBNAIL, interpolation=cv2.INTER_AREA).ravel().astype(np.float64)
    vector -= vector.mean()
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector


def link(correlation: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    """Single linkage: (D, D) -> (D,), the group of each, numbered in the order of first members."""
    # DBSCAN is single linkage where one member makes a cluster; here neighbours lie at 0, all others at 1.
    clusters = DBSCAN(eps=0.5, min_samples=1, metric="precomputed")
    return np.asarray(clusters.fit_predict(correlation < threshold), np.int64)


def deal(kinds: Sequence[int | str], groups: Sequence[int | str]) -> NDArray[np.int64]:
    """Kinds and groups (D,) -> folds (D,), 0 to 4: no group in two of them, the kinds spread evenly."""
    folds = np.empty(len(kinds), np.int64)
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=FOLD_SEED)
    for number, (_, outside) in enumerate(splitter.split(kinds, kinds, groups)):
        folds[outside] = number
    return folds


def audit(data: Dataset) -> Audit:
    """Compare every picture of a data set with every other.

    Args:
        data: The three published splits.

    Returns:
        What is identical, nearly so, or under two classes, with groups and folds at each of `THRESHOLDS`.
    """
    files = data.by_hash
    hashes = sorted(files)
    thumbnails = np.stack([draw_thumbnail(files[digest][0].pixels) for digest in hashes])
    correlation = np.clip(thumbnails @ thumbnails.T, -1, 1)
    np.fill_diagonal(correlation, 1)
    clear = np.array([len({record.label for record in files[digest]}) == 1 for digest in hashes])
    labels = [files[digest][0].label for digest, ok in zip(hashes, clear, strict=True) if ok]
    groups = np.stack([link(correlation, threshold) for threshold in THRESHOLDS], axis=1)
    folds = np.full(groups.shape, -1)
    enough = np.bincount(labels, minlength=len(CLASS_KEYS)).min() >= FOLDS
    for column in range(len(THRESHOLDS)):
        if enough and len(np.unique(groups[clear, column])) >= FOLDS:
            folds[clear, column] = deal(labels, groups[clear, column].tolist())
    images = tuple(
        Image(sha256=digest, places=tuple(record.place for record in files[digest]), groups=g, folds=f if ok else ())
        for digest, g, f, ok in zip(hashes, groups.tolist(), folds.tolist(), clear, strict=True)
    )
    rows, columns = np.nonzero(np.triu(correlation >= NEAR_DUPLICATE, 1))
    order = np.argsort(-correlation[rows, columns], kind="stable")
    near = tuple((images[rows[i]], images[columns[i]]) for i in order)
    crossing = sum(not a.splits & b.splits for a, b in near)
    counts = {"pairs": len(near), "pairs_across_splits": crossing}
    return Audit(data, Manifest(thresholds=THRESHOLDS, near=counts, images=images), near)


def known_or_new(path: Path, data: Dataset) -> Manifest:
    """The manifest at `path` where it knows every slice of the data at its place; else that of a new audit.

    An image that has moved to another class, or been copied there, has another label or none that is clear.

    Raises:
        DataError: The manifest is broken.
    """
    if path.exists():
        known = read_manifest(path)
        known_places = {image.sha256: sorted(image.places) for image in known.images}
        places = {digest: sorted(record.place for record in files) for digest, files in data.by_hash.items()}
        if places.items() <= known_places.items():
            return known
    return audit(data).manifest


def write_report(path: Path, found: Audit) -> None:
    """An HTML file with pictures, worst first: for the owner of the data, not for publication."""

    def show(record: Record) -> dict[str, str]:
        picture, title = data_uri(to_bytes(fit(record.pixels, PICTURE))), CLASSES[record.label].title
        return {"picture": picture, "split": record.split, "title": title, "name": record.path.name}

    files = found.data.by_hash
    copies = [same for same in files.values() if len(same) > 1]
    copies.sort(key=lambda same: (len({r.split for r in same}) == 1, -len(same)))
    near = [[files[a.sha256][0], files[b.sha256][0]] for a, b in found.near]
    near.sort(key=lambda pair: pair[0].split == pair[1].split)
    members: dict[int, list[Record]] = {}
    column = found.manifest.thresholds.index(SHOWN_THRESHOLD)
    for image in found.manifest.images:
        members.setdefault(image.groups[column], []).append(files[image.sha256][0])
    sections = {
        "conflicts": [same for same in copies if len({r.label for r in same}) > 1],
        "copies": copies,
        "near": near,
        "groups": sorted((m[:MAX_MEMBERS] for m in members.values()), key=len, reverse=True),
    }
    environment = Environment(loader=PackageLoader("ctscan.training"), autoescape=True)
    html = environment.get_template("audit.html.j2").render(
        facts=found.manifest.facts(),
        unreadable=[line for _, line in found.data.skipped],
        counts={name: len(rows) for name, rows in sections.items()},
        sections={name: [list(map(show, row)) for row in rows[:MAX_ROWS]] for name, rows in sections.items()},
        most_members=MAX_MEMBERS,
        threshold=SHOWN_THRESHOLD,
        near=NEAR_DUPLICATE,
    )
    write(path, html)
