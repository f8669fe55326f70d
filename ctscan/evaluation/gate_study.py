"""Data folder, other pictures and the fold networks of a cross-validation -> a gate and what it is worth.

    python -m ctscan gate DATA --pictures DIR --runs RUNS

The recipe's folds must have been trained before: `python evaluate.py --data DATA --cross-validate`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ctscan.classes import CLASS_KEYS
from ctscan.errors import DataError
from ctscan.evaluation.cross_validation import name_run, read_output, write_output
from ctscan.evaluation.gate_fit import (
    DATA_SET,
    PER_SLICE,
    Subject,
    cross_fit,
    fit,
    run,
    subjects_of_data,
    subjects_of_pictures,
    take,
)
from ctscan.evaluation.gate_measure import Judged, choose, facts, judge, reasons, tabulate
from ctscan.evaluation.intervals import Answers, evaluate
from ctscan.imaging.anatomy import find_anatomy
from ctscan.inference.classifier import Classifier
from ctscan.inference.gate_file import GateCard, gate_path, write_gate
from ctscan.inference.shortcut import share_outside, where_disease_can_be
from ctscan.io.images import read_slice
from ctscan.model.card import Card
from ctscan.model.checkpoint import read_checkpoint
from ctscan.model.runtime import Output, TorchRuntime, concatenate
from ctscan.training.data import SPLITS, find_files, pixel_hash, read_all
from ctscan.training.manifest import Manifest, Pool, load_pool, read_manifest
from ctscan.training.recipe import Recipe

THRESHOLD = 0.90  # of the visual groups, as for the grouped numbers
DRAWS = 1000


@dataclass(frozen=True, eq=False)
class Folds:
    """The data set's slices in the order of the pool, with what the network of each one's fold says of it."""

    pool: Pool
    paths: tuple[Path, ...]
    output: Output
    folder: Path  # of the cross-validation


def read_folds(data: Path, manifest: Manifest, card: Card, runs: Path) -> Folds:
    """Find each slice's file and its fold's answer. Raises DataError where the folds were not trained."""
    pool = load_pool(data, manifest, THRESHOLD, card.preprocess.square)
    by_hash = first_files(data)
    folder = runs / name_run(Recipe(**card.training), THRESHOLD, "none", pool)
    folds = np.unique(pool.folds)
    if not all((folder / f"fold-{fold}.npz").exists() for fold in folds):
        raise DataError(
            "The folds of this checkpoint's recipe were not trained; run evaluate.py --cross-validate first."
        )
    order = np.concatenate([np.flatnonzero(pool.folds == fold) for fold in folds])
    gathered = concatenate([read_output(folder / f"fold-{fold}.npz") for fold in folds])
    output = take(gathered, np.argsort(order).tolist())
    return Folds(pool, tuple(by_hash[h] for h in pool.split.hashes), output, folder)


def first_files(data: Path) -> dict[str, Path]:
    """Each image's file by the hash of its pixels; of copies the first, since what is in train is learned from."""
    paths = [path for name in SPLITS for path, _ in find_files(data / name)]
    found = zip(read_all(paths, pixel_hash, "hashing"), paths, strict=True)
    return {digest: path for digest, path in reversed(list(found)) if isinstance(digest, str)}


def see_all(folder: Path, fold: int, subjects: list[Subject]) -> Output:
    """What the network of a fold says of all subjects; kept in the folder, so that a stopped study goes on."""
    digest = sha256()
    for s in subjects:
        digest.update(s.square.tobytes())
    path = folder / f"gate-{fold}-{digest.hexdigest()[:12]}.npz"
    if not path.exists():
        runtime = TorchRuntime.from_checkpoint(read_checkpoint(folder / f"fold-{fold}.safetensors"))
        write_output(path, run(runtime, subjects, f"fold {fold}"))
    return read_output(path)


def shares_outside(folds: Folds, card: Card) -> NDArray[np.float64]:
    """(N,): of the top class's positive evidence, the share outside the body, by the network of each slice's fold."""
    top = folds.output.logits.argmax(axis=1)
    shares = []
    for place, path in enumerate(tqdm(folds.paths, "evidence", unit="slice", leave=False)):
        anatomy = find_anatomy(read_slice(path.read_bytes()).pixels)
        evidence = np.maximum(folds.output.maps[place, top[place]], 0)
        shares.append(share_outside(evidence, card.preprocess.place(anatomy), where_disease_can_be(anatomy)))
    return np.nan_to_num(shares)


def study(data: Path, pictures: Path, checkpoint: Path, runs: Path) -> dict[str, Any]:
    """Fit the gate, write it beside its checkpoint, and give what is to be kept in the ledger.

    Raises DataError, DataError, DataError and ModelError.
    """
    classifier = Classifier.load(checkpoint)
    card = classifier.card
    folds = read_folds(data, read_manifest(checkpoint.parent / "manifest.json"), card, runs)
    groups, parts = folds.pool.groups.tolist(), folds.pool.folds.tolist()
    subjects = subjects_of_data(folds.paths, groups, parts, card.preprocess.size)
    subjects += subjects_of_pictures(pictures, card.preprocess.size)
    outside = shares_outside(folds, card)
    signals = cross_fit(subjects, lambda fold: see_all(folds.folder, fold, subjects))
    thresholds = choose(signals, subjects, outside)
    judged = judge(signals, subjects, thresholds)
    fitted = [s for s, j in zip(subjects, in_training(subjects, folds, data), strict=True) if j]
    reference = fit(run(classifier.runtime, fitted, "the gate itself"), fitted)
    gate = write_gate(gate_path(checkpoint), GateCard(card.model_id, thresholds, facts(fitted)), reference)
    return {
        "date": f"{date.today()}",
        "model_id": card.model_id,
        "gate_sha256": gate.tensors_sha256,
        "thresholds": asdict(thresholds),
        "fitted": gate.fitted,
        "rows": tabulate(judged),
        "reasons": reasons([j for j in judged if j.subject.group == DATA_SET]),
        "scored": scored(folds, judged),
        "alarmed": int((outside > thresholds.outside).sum()),
    }


def in_training(subjects: list[Subject], folds: Folds, data: Path) -> list[bool]:
    """Which subjects the shipped gate may learn from: all pictures, and the slices that its network learned from."""
    train = {path for path, _ in find_files(data / "train")}
    known = [path in train for path in folds.paths for _ in range(PER_SLICE)]
    return known + [True] * (len(subjects) - len(known))


def scored(folds: Folds, judged: list[Judged]) -> dict[str, Any]:
    """The grouped accuracy over those slices of the data set that were given scores, and how many were not."""
    upright = [j for j in judged if j.subject.group == DATA_SET]
    kept = np.array([j.judgement.verdict != "refused" for j in upright])
    pool = folds.pool
    answers = Answers(folds.output.logits, pool.split.labels, pool.groups).take(kept)
    return {"refused": int((~kept).sum()), **evaluate(answers, CLASS_KEYS, DRAWS, "scored slices").to_dict()}
