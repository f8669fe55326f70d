"""Recipe and grouped pool -> what the network of each fold says of the slices that it has not seen.

Each fold's network and answers are written as soon as they are there, so an interrupted run goes on where it
stopped. The last epoch counts: there is no early stopping, hence no epoch is chosen on what is scored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ctscan.errors import DataError
from ctscan.model.checkpoint import read_checkpoint, write_checkpoint
from ctscan.model.network import SliceNet
from ctscan.model.runtime import Output, TorchRuntime, choose_device, concatenate, run_in_batches, store_tensors
from ctscan.training.manifest import Pool
from ctscan.training.recipe import Recipe
from ctscan.training.trainer import Trainer, Weights, build_card, round_trip, show_progress, top_of_scale


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Answers of the folds that were trained, over the slices that these leave out."""

    index: NDArray[np.int64]  # (M,), places in the pool
    output: Output  # of M slices, each by the network that has not seen its group


def name_run(recipe: Recipe, threshold: float, control: str, pool: Pool) -> str:
    """A folder name that two different cross-validations never share."""
    key = [recipe.settings(), threshold, control, pool.split.hashes, pool.split.labels.tolist(), pool.folds.tolist()]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    return f"grouped-{recipe.recipe}-{control}-{digest[:12]}"


def cross_validate(
    recipe: Recipe, pool: Pool, folds: Sequence[int], folder: Path, weights: Weights, device: str
) -> OutOfFold:
    """Train the folds that `folder` does not hold yet; gives the answers of all.

    `weights` may be empty where nothing is left to train. Raises DataError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if weights:
        check_start(folder, weights)
    index, outputs = [], []
    for fold in folds:
        outside = np.flatnonzero(pool.folds == fold)
        path = folder / f"fold-{fold}.npz"
        if not has_run(folder, [fold]):
            write_output(path, train_fold(recipe, pool, fold, folder, weights, device))
        index.append(outside)
        outputs.append(read_output(path))
    return OutOfFold(np.concatenate(index), concatenate(outputs))


def check_start(folder: Path, weights: Weights) -> None:
    """Keep a digest of the starting weights. Raises DataError where the folder's folds began with others."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].numpy().tobytes())
    path = folder / "start.sha256"
    if path.exists() and path.read_text(encoding="utf-8") != digest.hexdigest():
        raise DataError(f"{folder.name} began with other starting weights: give those by --init, or other --runs.")
    if not list(folder.glob("fold-*.npz")):
        path.write_text(digest.hexdigest(), encoding="utf-8")


def has_run(folder: Path, folds: Sequence[int]) -> bool:
    """Whether the folder holds the answers and the networks of these folds."""
    return all((folder / f"fold-{fold}{kind}").exists() for fold in folds for kind in (".npz", ".safetensors"))


def answer_again(pool: Pool, folds: Sequence[int], folder: Path, device: str) -> OutOfFold:
    """What the networks that `folder` holds say of the pool's slices as they are now, each of those it left out."""
    index, outputs = [], []
    for fold in tqdm(folds, "answering again", unit="fold", leave=False):
        checkpoint = read_checkpoint(folder / f"fold-{fold}.safetensors")
        runtime = TorchRuntime.from_checkpoint(checkpoint, choose_device(device))
        index.append(np.flatnonzero(pool.folds == fold))
        outputs.append(run_in_batches(runtime, pool.split.squares[index[-1]]))
    return OutOfFold(np.concatenate(index), concatenate(outputs))


def fit_fold(
    recipe: Recipe, pool: Pool, fold: int, weights: Weights, device: str, title: str
) -> tuple[SliceNet, Output]:
    """Train on all folds but one; gives the network and what it says of the slices left out."""
    trainer = Trainer(recipe, pool.split.take(pool.folds != fold), weights, torch.device(choose_device(device)))
    with show_progress(recipe, trainer.steps, title) as progress:
        for _ in range(recipe.epochs):
            trainer.epoch(progress)
    net = round_trip(recipe, trainer.result)
    return net, run_in_batches(TorchRuntime(net), pool.split.squares[pool.folds == fold])


def train_fold(recipe: Recipe, pool: Pool, fold: int, folder: Path, weights: Weights, device: str) -> Output:
    """Train on all folds but one, keep the network as a checkpoint, answer for the one left out."""
    net, output = fit_fold(recipe, pool, fold, weights, device, f"{folder.name}, fold {fold}")
    # The scale of a fold's maps comes from the slices left out, over which its answers are there anyway.
    card = build_card(recipe, net, {"fold": fold, "run": folder.name}, {}, top_of_scale(output.maps))
    write_checkpoint(folder / f"fold-{fold}.safetensors", card, store_tensors(net))
    return output


def write_output(path: Path, output: Output) -> None:
    """As .npz, whole or not at all."""
    partial = path.with_name(path.name + ".partial.npz")
    np.savez(partial, **{f.name: getattr(output, f.name) for f in fields(Output)})
    partial.replace(path)


def read_output(path: Path) -> Output:
    """What `write_output` wrote. Raises DataError where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Output(**{f.name: arrays[f.name] for f in fields(Output)})
    except (EOFError, KeyError, ValueError, BadZipFile):
        raise DataError(f"{path} is damaged; delete it, and its fold is trained again.") from None
