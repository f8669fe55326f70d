"""Recipe and grouped pool -> what the network of each fold says of the slices that it has not seen; and controls.

Each fold's network and answers are written as soon as they are there, so an interrupted run goes on where it
stopped. The last epoch counts: there is no early stopping, hence no epoch is chosen on what is scored.

Controls are trainings that must fail. What a control learns, a model may learn too, and it would not be the disease.

    shuffled_labels  each visual group gets another group's class: beyond chance, something leaks
    border_only      everything inside the body is hidden: outline, table, burned-in signs remain
    lungs_black      the hull of each lung is black: bones, heart, body shape and window remain
    tone_only        the pixels are shuffled: how often each grey occurs remains

Each hides something of the square that the recipe's own preprocessing makes, after it: the question is what the
network that is shipped could use. So a crop still tells the body's proportions. Where `surround` blackens what lies
outside, border_only would be a black square; the inside is then one flat grey, so that its outline can be seen.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import get_args
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from ctscan.classes import CLASS_KEYS
from ctscan.errors import DataError
from ctscan.evaluation.intervals import Answers
from ctscan.imaging.anatomy import Anatomy, Mask, Pixels, find_anatomy
from ctscan.imaging.preprocess import Preprocess
from ctscan.metrics import measures
from ctscan.model.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ctscan.model.network import SliceNet
from ctscan.model.runtime import Output, TorchRuntime, choose_device, concatenate, run_in_batches, store_tensors
from ctscan.results.records import Fold
from ctscan.training.data import Dataset
from ctscan.training.recipe import Control, Recipe
from ctscan.training.trainer import Trainer, build_card, round_trip
from ctscan.training.weights import Weights

CONTROLS: tuple[Control, ...] = get_args(Control)
FLAT_GREY = 0.5
SHUFFLES = 6  # of the labels: how they happen to fall among look-alikes moves the result more than groups tell


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What the networks of some folds say of the slices that these leave out."""

    pool: Dataset  # the M slices left out, fold by fold
    output: Output  # of M slices, each by the network that has not seen its group

    @property
    def answers(self) -> Answers:
        """With labels and groups."""
        return Answers(self.output.logits, self.pool.labels, self.pool.groups)

    @property
    def by_fold(self) -> tuple[Fold, ...]:
        """Each fold's size and scores, without intervals: they differ by more than any interval says."""
        folds = []
        for fold in np.unique(self.pool.folds):
            here = self.answers.take(self.pool.folds == fold)
            scores = measures(here.logits, here.labels, CLASS_KEYS)
            folds.append(
                Fold(
                    fold=int(fold),
                    n=len(here.labels),
                    groups=len(np.unique(here.groups)),
                    accuracy=scores["accuracy"],
                    balanced_accuracy=scores["balanced_accuracy"],
                    auroc_macro=scores["auroc_macro"],
                    auroc_normal=scores["auroc.normal"],
                )
            )
        return tuple(folds)


def name_run(recipe: Recipe, pool: Dataset, control: Control | None = None) -> str:
    """A folder name that two different cross-validations never share."""
    key = [recipe.digest, control, pool.hashes, pool.labels.tolist(), pool.folds.tolist()]
    return f"grouped-{recipe.name}-{control or 'none'}-{sha256(json.dumps(key).encode()).hexdigest()[:12]}"


def cross_validate(
    recipe: Recipe,
    pool: Dataset,
    folds: Sequence[int],
    folder: Path,
    weights: Callable[[], Weights],
    device: str,
    see: Callable[[Pixels], Pixels],
) -> OutOfFold:
    """Train the folds that are not there yet, and gather the answers of all.

    Args:
        recipe: How each fold is trained.
        pool: Slices with labels, groups and folds.
        folds: Which of its folds to leave out, one after the other.
        folder: Where their networks and answers are kept.
        weights: Gives the starting weights; asked only where something is left to train.
        device: `auto`, `cpu` or `cuda`.
        see: Slice to square: the recipe's own preprocessing, or what a control leaves of it.

    Raises:
        DataError: A class has no slice in these folds, a kept fold is damaged, or began with other weights.
    """
    check_classes(pool, folds)
    missing = [fold for fold in folds if not has_run(folder, [fold])]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        start = weights()
        check_start(folder, start)
        squares = pool.squares(see)
        for fold in missing:
            net, output = fit_fold(recipe, pool, squares, fold, start, device, f"{folder.name}, fold {fold}")
            # The scale of a fold's maps comes from the slices left out, over which its answers are there anyway.
            card = build_card(recipe, net, {"fold": fold, "run": folder.name}, {}, output.maps)
            write_checkpoint(folder / f"fold-{fold}.safetensors", Checkpoint(card, store_tensors(net)))
            write_output(folder / f"fold-{fold}.npz", output)
    return read_folds(pool, folds, folder)


def read_folds(pool: Dataset, folds: Sequence[int], folder: Path) -> OutOfFold:
    """The kept answers of some folds.

    Raises:
        DataError: A fold is not there or is damaged.
    """
    if not has_run(folder, folds):
        raise DataError(f"{folder} does not hold {len(folds)} folds: run `ctscan evaluate --cross-validate` first.")
    outputs = [read_output(folder / f"fold-{fold}.npz") for fold in folds]
    return OutOfFold(leave_out(pool, folds), concatenate(outputs))


def answer_again(
    pool: Dataset, folds: Sequence[int], folder: Path, see: Callable[[Pixels], Pixels], device: str = "auto"
) -> OutOfFold:
    """What the kept networks say of the same slices as `see` now shows them."""
    outputs = []
    for fold in folds:
        runtime = TorchRuntime.from_checkpoint(
            read_checkpoint(folder / f"fold-{fold}.safetensors"), choose_device(device)
        )
        squares = pool.take(pool.folds == fold).squares(see, f"fold {fold} again")
        outputs.append(run_in_batches(runtime, squares))
    return OutOfFold(leave_out(pool, folds), concatenate(outputs))


def leave_out(pool: Dataset, folds: Sequence[int]) -> Dataset:
    """The slices of some folds, in the order in which their answers are gathered."""
    return pool.take(np.concatenate([np.flatnonzero(pool.folds == fold) for fold in folds]))


def check_classes(pool: Dataset, folds: Sequence[int]) -> None:
    """Raises DataError where a class has no slice in these folds: half of the measures would not exist."""
    present = {int(label) for label in pool.labels[np.isin(pool.folds, folds)]}
    missing = [key for place, key in enumerate(CLASS_KEYS) if place not in present]
    if missing:
        raise DataError(f"Folds {', '.join(map(str, folds))} hold no slice of {', '.join(missing)}: take more.")


def check_start(folder: Path, weights: Weights) -> None:
    """Keep a digest of the starting weights. Raises DataError where the folder's folds began with others."""
    digest = sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].numpy().tobytes())
    path = folder / "start.sha256"
    if path.exists() and path.read_text(encoding="utf-8") != digest.hexdigest():
        raise DataError(f"{folder.name} began with other starting weights: give those by --init, or other --runs.")
    path.write_text(digest.hexdigest(), encoding="utf-8")


def has_run(folder: Path, folds: Sequence[int]) -> bool:
    """Whether the folder holds the answers and the networks of these folds."""
    return all((folder / f"fold-{fold}{kind}").exists() for fold in folds for kind in (".npz", ".safetensors"))


def fit_fold(
    recipe: Recipe,
    pool: Dataset,
    squares: NDArray[np.float32],
    fold: int,
    weights: Weights,
    device: str,
    title: str,
) -> tuple[SliceNet, Output]:
    """Train on the squares of all folds but one; gives the network and what it says of the slices left out."""
    inside = pool.folds != fold
    trainer = Trainer(recipe, squares[inside], pool.labels[inside], weights, torch.device(choose_device(device)))
    for _ in trainer.epochs(title):
        pass
    net = round_trip(recipe, trainer.net)
    return net, run_in_batches(TorchRuntime(net), squares[~inside])


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
    except (EOFError, KeyError, ValueError, OSError, BadZipFile):
        raise DataError(f"{path} is damaged; delete it, and it is made again.") from None


def view(control: Control | None, preprocess: Preprocess) -> Callable[[Pixels], Pixels]:
    """Slice pixels (H, W) -> the square (1, S, S) that a control's network is shown; None hides nothing."""

    def hide(pixels: Pixels, find: Callable[[Anatomy], Mask], grey: float = 0) -> Pixels:
        anatomy = find_anatomy(pixels)
        square, placement = preprocess(pixels, anatomy)
        hidden = placement.apply(find(anatomy).astype(np.float32)) > 0
        return np.where(hidden, grey, square).astype(np.float32)

    match control:
        case "border_only" if preprocess.surround == "keep":
            return lambda pixels: hide(pixels, lambda anatomy: anatomy.body)
        case "border_only":
            return lambda pixels: hide(pixels, preprocess.visible, FLAT_GREY)
        case "lungs_black":
            return lambda pixels: hide(pixels, lambda anatomy: anatomy.lung_hulls)
        case "tone_only":
            return lambda pixels: shuffle_pixels(preprocess.square(pixels))
        case _:
            return preprocess.square


def shuffle_pixels(square: Pixels) -> Pixels:
    """The same greys in a random order of each slice's own, the same at every call."""
    generator = np.random.default_rng(zlib.crc32(square.tobytes()))
    return generator.permutation(square.ravel()).reshape(square.shape)


def shuffle_labels(pool: Dataset, seed: int) -> Dataset:
    """Every group's slices take the label of another group, drawn without replacement.

    A group of several classes stands in the draw with its most frequent one.
    """
    names, place = np.unique(pool.groups, return_inverse=True)
    most_frequent = np.array([np.bincount(pool.labels[place == i]).argmax() for i in range(len(names))], np.int64)
    return pool.assign(label=np.random.default_rng(seed).permutation(most_frequent)[place])
