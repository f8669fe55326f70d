"""Slices and other pictures -> a gate, its thresholds, and how often it is right about what it has not seen.

    data set's folds --network of the fold--> features --+                     +--> signals of what was left out
                                                         +--> fit, five times -+        |
    other pictures, dealt by source into five parts -----+                     thresholds, tables
    train slices and all pictures --the shipped network--> features --> fit --> the gate that is written

Each slice and each picture is judged by a gate whose network has not seen the slice's visual group and that was not
fitted to the picture's source; thresholds and all numbers come from these judgements. Wrong sides up are made from
upright slices, so they need no collecting. Needs scikit-learn; the gate itself does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from ctscan.errors import DataError, UnreadableSlice
from ctscan.imaging.anatomy import Pixels, find_anatomy
from ctscan.inference.gate import (
    CHEST,
    KINDS,
    NEIGHBOURS,
    Array,
    Reference,
    Signals,
    join,
    measure,
    tone_of,
    unit,
    view,
)
from ctscan.inference.rules import find_fault
from ctscan.io.images import Slice, read_slice
from ctscan.model.runtime import Output, Runtime, concatenate

PARTS = 5
SEED = 0
STRENGTH = 0.1  # C of the logistic regression; of 0.01, 0.1 and 1 the one that lost least at both ends
FOREIGN_WEIGHT = 5.0  # of a picture from elsewhere against a slice of the data set, of which there are many more
WRONG_PER_SLICE = 2  # of the five wrong ways up or inverted, drawn anew for each slice
PER_SLICE = 2 + WRONG_PER_SLICE  # subjects that a slice of the data set gives: as it is, in another window, wrong
BATCH = 32

DATA_SET, ELSEWHERE, REWINDOWED = "data set", "other hospitals", "in another window"
FOLDERS = {"ct_chest": CHEST, "ct_other": "no_lungs", "notct": "no_ct"}  # folder of pictures -> kind
WRONG: dict[str, tuple[str, Callable[[Pixels], Pixels]]] = {
    "turned by 90°": ("turned", lambda p: np.rot90(p, 1)),
    "turned by 270°": ("turned", lambda p: np.rot90(p, 3)),
    "turned by 180°": ("upside_down", lambda p: p[::-1, ::-1]),
    "flipped top to bottom": ("upside_down", lambda p: p[::-1]),
    "inverted": ("inverted", lambda p: 1 - p),
}


@dataclass(frozen=True, eq=False)
class Subject:
    """One picture that a gate is fitted to or judged on, in small."""

    square: Array  # (1, S, S): the whole picture
    tone: Array  # (TONES,)
    greys: int
    kind: str  # of KINDS, what it really shows
    group: str  # the row of the tables that it counts in
    source: str  # visual group or repository: what must not stand on both sides
    fault: str | None  # the rule that it breaks
    part: int = -1  # of PARTS


def subject(slice_: Slice, size: int, kind: str, group: str, source: str, part: int = -1) -> Subject:
    """What the gate keeps of a slice."""
    pixels = np.ascontiguousarray(slice_.pixels, np.float32)
    anatomy = find_anatomy(pixels)
    tone, greys = tone_of(pixels, anatomy)
    return Subject(view(size).square(pixels, anatomy), tone, greys, kind, group, source, find_fault(slice_), part)


def spoil(slice_: Slice, names: Sequence[str]) -> Iterator[tuple[str, str, Slice]]:
    """Wrong ways to show a slice: name, kind, slice."""
    for name in names:
        kind, turn = WRONG[name]
        yield name, kind, replace(slice_, pixels=np.ascontiguousarray(turn(slice_.pixels)))


def rewindow(slice_: Slice, generator: np.random.Generator) -> Slice:
    """The slice as another window might have saved it: greys clipped at both ends, the rest bent."""
    low, high, bend = generator.uniform(0, 0.25), generator.uniform(0.55, 1), np.exp(generator.uniform(-0.5, 0.5))
    pixels = np.clip((slice_.pixels - low) / (high - low), 0, 1) ** bend
    return replace(slice_, pixels=pixels.astype(np.float32))


def mirror(slice_: Slice) -> Slice:
    """Left and right exchanged: still upright."""
    return replace(slice_, pixels=np.ascontiguousarray(slice_.pixels[:, ::-1]))


def subjects_of_data(paths: Sequence[Path], groups: Sequence[int], folds: Sequence[int], size: int) -> list[Subject]:
    """Slices of the data set, `PER_SLICE` subjects each; their part is their fold."""
    generator = np.random.default_rng(SEED)
    found = []
    for path, group, fold in zip(tqdm(paths, DATA_SET, unit="slice", leave=False), groups, folds, strict=True):
        slice_, source = read_slice(path.read_bytes()), f"group {group}"
        other = rewindow(slice_, generator)
        found.append(subject(slice_, size, CHEST, DATA_SET, source, fold))
        found.append(subject(other, size, CHEST, f"{DATA_SET}, {REWINDOWED}", source, fold))
        names = generator.choice(list(WRONG), WRONG_PER_SLICE, replace=False).tolist()
        for shown, picked in zip((slice_, other), names, strict=True):
            for name, kind, wrong in spoil(shown, [picked]):
                found.append(subject(wrong, size, kind, f"{DATA_SET}, {name}", source, fold))
    return found


def subjects_of_pictures(folder: Path, size: int) -> list[Subject]:
    """Pictures from elsewhere, `KIND__SOURCE__NAME` in `ct_chest`, `ct_other` and `notct`, chests also in other ways.

    Raises DataError where there are none, and for a name that is not of that form. A picture that cannot be read would
    be refused anyway, and is left out.
    """
    generator = np.random.default_rng(SEED)
    found = []
    files = [(path, kind) for name, kind in FOLDERS.items() for path in sorted((folder / name).glob("*"))]
    for path, kind in tqdm(files, "pictures", unit="picture", leave=False):
        try:
            slice_ = read_slice(path.read_bytes())
        except UnreadableSlice:
            continue
        what, source = kind_and_source(path)
        found.append(subject(slice_, size, kind, ELSEWHERE if kind == CHEST else what, source))
        if kind == CHEST:
            other = rewindow(mirror(slice_), generator)
            found.append(subject(other, size, kind, f"{ELSEWHERE}, {REWINDOWED}", source))
            for name, wrong_kind, wrong in spoil(slice_, list(WRONG)):
                found.append(subject(wrong, size, wrong_kind, f"{ELSEWHERE}, {name}", source))
    if not {s.kind for s in found} >= {CHEST, "no_lungs", "no_ct"}:
        raise DataError(f"The folder of pictures needs {', '.join(FOLDERS)} with files KIND__SOURCE__NAME in each.")
    return deal(found)


def kind_and_source(path: Path) -> tuple[str, str]:
    """The first two parts of a picture's name. Raises DataError where it is not `KIND__SOURCE__NAME`."""
    match path.name.split("__"):
        case [what, source, _, *_]:
            return what, source
    raise DataError(f"{path}: the name of a picture must be KIND__SOURCE__NAME.")


def deal(found: list[Subject]) -> list[Subject]:
    """The same in `PARTS` parts: no source in two of them, the kinds spread evenly."""
    kinds, sources = [s.kind for s in found], [s.source for s in found]
    folds = StratifiedGroupKFold(PARTS, shuffle=True, random_state=SEED).split(kinds, kinds, sources)
    part = np.empty(len(found), int)
    for number, (_, inside) in enumerate(folds):
        part[inside] = number
    return [replace(s, part=int(p)) for s, p in zip(found, part, strict=True)]


def run(runtime: Runtime, subjects: Sequence[Subject], title: str) -> Output:
    """What a network says of all whole pictures; with a progress bar."""
    starts = tqdm(range(0, len(subjects), BATCH), title, unit="batch", leave=False)
    return concatenate([runtime.run(np.stack([s.square for s in subjects[i : i + BATCH]])) for i in starts])


def take(output: Output, index: Sequence[int]) -> Output:
    """The rows at these places."""
    return Output(*(getattr(output, f.name)[index] for f in fields(Output)))


def fit(output: Output, subjects: Sequence[Subject]) -> Reference:
    """Features and what each picture shows -> a reference. Upright slices of the data set are what is near."""
    kinds = np.array([s.kind for s in subjects])
    near = np.array([s.group == DATA_SET for s in subjects])
    weights, bias = fit_linear(join(output), kinds, np.where(from_data(subjects), 1.0, FOREIGN_WEIGHT))
    neighbours = unit(output.pooled[near])
    covariance = LedoitWolf().fit(output.shallow[near])
    return Reference(
        weights=weights,
        bias=bias,
        neighbours=neighbours,
        usual=np.array(
            [usual_distance(neighbours, [s.source for s, n in zip(subjects, near, strict=True) if n])], np.float32
        ),
        mean=covariance.location_.astype(np.float32),
        whitening=np.linalg.cholesky(covariance.precision_).astype(np.float32),
        tones=np.stack([s.tone for s, n in zip(subjects, near, strict=True) if n]),
    )


def from_data(subjects: Sequence[Subject]) -> NDArray[np.bool_]:
    """Which of them are of the data set."""
    return np.array([s.group.startswith(DATA_SET) for s in subjects])


def fit_linear(features: Array, kinds: NDArray[np.str_], weight: NDArray[np.float64]) -> tuple[Array, Array]:
    """Multinomial logistic regression in which every kind weighs the same, standardisation folded in: (K, C), (K,)."""
    total = {kind: weight[kinds == kind].sum() for kind in KINDS}
    share = weight / np.array([total[kind] for kind in kinds])
    scaler = StandardScaler().fit(features)
    order = np.array([KINDS.index(kind) for kind in kinds])
    model = LogisticRegression(C=STRENGTH, max_iter=1000)
    model.fit(scaler.transform(features), order, sample_weight=share / share.mean())
    weights = model.coef_ / scaler.scale_
    return weights.astype(np.float32), (model.intercept_ - weights @ scaler.mean_).astype(np.float32)


def usual_distance(neighbours: Array, sources: Sequence[str]) -> float:
    """Median over the training slices of the mean distance to the nearest ones in other visual groups."""
    distances = np.sqrt(np.maximum(2 - 2 * (neighbours @ neighbours.T), 0))
    same = np.equal.outer(np.array(sources), np.array(sources))
    distances[same] = np.inf
    return float(np.median(np.sort(distances, axis=1)[:, :NEIGHBOURS].mean(axis=1)))


def judge_all(output: Output, subjects: Sequence[Subject], reference: Reference) -> list[Signals]:
    """The signals of pictures whose features are known."""
    tones, greys = np.stack([s.tone for s in subjects]), np.array([s.greys for s in subjects])
    return measure(output, tones, greys, reference)


def cross_fit(subjects: Sequence[Subject], output_of: Callable[[int], Output]) -> list[Signals]:
    """Signals of all subjects, each from the part that it is in: network and gate have not seen its source.

    `output_of` gives what the network of a part's fold says of all subjects.
    """
    parts = np.array([s.part for s in subjects])
    signals: dict[int, Signals] = {}
    for part in range(PARTS):
        output = output_of(part)
        inside, outside = np.flatnonzero(parts == part).tolist(), np.flatnonzero(parts != part).tolist()
        reference = fit(take(output, outside), [subjects[i] for i in outside])
        found = judge_all(take(output, inside), [subjects[i] for i in inside], reference)
        signals |= dict(zip(inside, found, strict=True))
    return [signals[place] for place in range(len(subjects))]
