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

import io
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
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
from ctscan.files import make_folder, prepare, write
from ctscan.imaging.anatomy import Pixels, find_anatomy
from ctscan.imaging.preprocess import Preprocess
from ctscan.model.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ctscan.model.network import SliceNet
from ctscan.model.runtime import Output, TorchRuntime, choose_device, concatenate, run_in_batches, store_tensors
from ctscan.results.ledger import read_ledger
from ctscan.results.records import Fold
from ctscan.results.summary import HEADLINE_THRESHOLD
from ctscan.training.audit import known_or_new
from ctscan.training.data import Dataset, Manifest, read_dataset
from ctscan.training.recipe import Control, Recipe
from ctscan.training.team import Team
from ctscan.training.trainer import Device, Trainer, build_card, round_trip
from ctscan.training.weights import Weights, imagenet_weights

CONTROLS: tuple[Control, ...] = get_args(Control)
FLAT_GREY = 0.5
SHUFFLES = 6  # of the labels: how they happen to fall among look-alikes moves the result more than groups tell


@dataclass(frozen=True, eq=False)
class Setting:
    """What the studies of one data folder share, read once.

    Attributes:
        data: Every file of the three splits.
        manifest: Groups and folds of its slices.
        threshold: Correlation from which two slices belong to one visual group.
        runs: Gets one folder a cross-validation, from which it resumes.
        draws: Of groups, for the intervals.
        device: Where to train.
        init: Starting weights as safetensors, instead of torchvision's download.
    """

    data: Dataset
    manifest: Manifest
    threshold: float = HEADLINE_THRESHOLD
    runs: Path = Path("runs")
    draws: int = 1000
    device: Device = "auto"
    init: Path | None = None

    @cached_property
    def pool(self) -> Dataset:
        """Each distinct slice once, with its group and fold."""
        return self.manifest.pool(self.data, self.threshold)

    @cached_property
    def test(self) -> Dataset:
        """The published test split, with groups and folds."""
        return self.manifest.group(self.data.of("test"), self.threshold)

    def folder(self, recipe: Recipe, control: Control | None = None, pool: Dataset | None = None) -> Path:
        """Where a cross-validation is kept; two different ones never share a folder."""
        pool = pool or self.pool
        key = [recipe.digest, control, pool.hashes, pool.labels.tolist(), pool.folds.tolist()]
        digest = sha256(json.dumps(key).encode()).hexdigest()[:12]
        return self.runs / f"grouped-{recipe.name}-{control or 'none'}-{digest}"


def open_setting(
    folder: Path,
    manifest: Path,
    *,
    threshold: float = HEADLINE_THRESHOLD,
    runs: Path = Path("runs"),
    draws: int = 1000,
    device: Device = "auto",
    init: Path | None = None,
) -> Setting:
    """Read a data folder, once, and its manifest; where that does not know all of the data, audit it.

    The folder has train/, valid/ and test/, each with one folder a class. Raises DataError where the folder or the
    manifest cannot be used, or there are fewer than 100 draws.
    """
    if draws < 100:
        raise DataError(f"{draws} draws are too few for an interval; 100 are the least.")
    data = read_dataset(folder)
    return Setting(data, known_or_new(manifest, data), threshold, runs, draws, device, init)


def check_ledger(path: Path) -> None:
    """Refuse before the work, not after it: raises DataError where the ledger is broken or cannot be written."""
    prepare(path)
    read_ledger(path)


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
            scores = here.measures(CLASS_KEYS)
            scored = {name: scores[name] for name in ("accuracy", "balanced_accuracy", "auroc_macro")}
            scored["auroc_normal"] = scores["auroc.normal"]
            folds.append(Fold(fold=int(fold), n=len(here.labels), groups=len(np.unique(here.groups)), **scored))
        return tuple(folds)


def cross_validate(
    setting: Setting, recipe: Recipe, folds: int, control: Control | None = None, pool: Dataset | None = None
) -> OutOfFold:
    """Train the folds of a recipe, or of a control of it, that are not there yet, and gather the answers of all.

    Folds 0 to `folds` - 1 are left out, one after the other; `pool` is the setting's own, or the same slices under
    other labels. Raises DataError where a class has no slice in these folds, or a kept fold is damaged or began with
    other weights.
    """
    pool = pool or setting.pool
    folder = setting.folder(recipe, control, pool)
    check_classes(pool, range(folds))
    missing = [fold for fold in range(folds) if not has_fold(folder, fold)]
    if missing:
        make_folder(folder, "--runs")
        start = imagenet_weights(setting.init)
        check_start(folder, start)
        squares = pool.squares(view(control, recipe.preprocess))
        for fold in missing:
            title = f"{folder.name}, fold {fold}"
            net, output = fit_fold(recipe, pool, squares, fold, start, setting.device, title)
            # The scale of a fold's maps comes from the slices left out, over which its answers are there anyway.
            card = build_card(recipe, net, {"fold": fold, "run": folder.name}, {}, output.maps)
            write_checkpoint(folder / f"fold-{fold}.safetensors", Checkpoint(card, store_tensors(net)))
            write_output(folder / f"fold-{fold}.npz", output)
    return read_folds(pool, folds, folder)


def read_folds(pool: Dataset, folds: int, folder: Path) -> OutOfFold:
    """The kept answers of the first folds. Raises DataError where one is not there or is damaged."""
    if not all(has_fold(folder, fold) for fold in range(folds)):
        raise DataError(f"{folder} does not hold {folds} folds: run `ctscan evaluate --cross-validate` first.")
    left_out = pool.take(np.concatenate([np.flatnonzero(pool.folds == fold) for fold in range(folds)]))
    return OutOfFold(left_out, concatenate([read_output(folder / f"fold-{fold}.npz") for fold in range(folds)]))


def answer_again(out: OutOfFold, folder: Path, see: Callable[[Pixels], Pixels], device: str = "auto") -> OutOfFold:
    """What the networks kept in the folder say of the same slices as `see` now shows them."""
    outputs = []
    for fold in np.unique(out.pool.folds):
        checkpoint = read_checkpoint(folder / f"fold-{fold}.safetensors")
        squares = out.pool.take(out.pool.folds == fold).squares(see, f"fold {fold} again")
        outputs.append(run_in_batches(TorchRuntime.from_checkpoint(checkpoint, choose_device(device)), squares))
    return replace(out, output=concatenate(outputs))


def check_classes(pool: Dataset, folds: Sequence[int]) -> None:
    """Raises DataError where a class has no slice in these folds: half of the measures would not exist."""
    present = pool.labels[np.isin(pool.folds, folds)]
    missing = [key for label, key in enumerate(CLASS_KEYS) if label not in present]
    if missing:
        raise DataError(f"Folds {', '.join(map(str, folds))} hold no slice of {', '.join(missing)}: take more.")


def check_start(folder: Path, weights: Weights) -> None:
    """Keep a digest of the starting weights. Raises DataError where the folder's folds began with others."""
    digest = sha256(b"".join(name.encode() + weights[name].numpy().tobytes() for name in sorted(weights))).hexdigest()
    path = folder / "start.sha256"
    if path.exists() and path.read_text(encoding="utf-8") != digest:
        raise DataError(f"{folder.name} began with other starting weights: give those by --init, or other --runs.")
    write(path, digest)


def has_fold(folder: Path, fold: int) -> bool:
    """Whether the folder holds the answers and the network of a fold."""
    return all((folder / f"fold-{fold}.{kind}").exists() for kind in ("npz", "safetensors"))


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
    trainer = Trainer(recipe, squares[inside], pool.labels[inside], weights, Team(torch.device(choose_device(device))))
    for _ in trainer.epochs(title):
        pass
    net = round_trip(recipe, trainer.net)
    return net, run_in_batches(TorchRuntime(net), squares[~inside])


def write_output(path: Path, output: Output) -> None:
    """As .npz, whole or not at all."""
    packed = io.BytesIO()
    np.savez(packed, **{f.name: getattr(output, f.name) for f in fields(Output)})
    write(path, packed.getvalue())


def read_output(path: Path) -> Output:
    """What `write_output` wrote. Raises DataError where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Output(**{f.name: arrays[f.name] for f in fields(Output)})
    except (EOFError, KeyError, ValueError, OSError, BadZipFile):
        raise DataError(f"{path} is damaged; delete it, and it is made again.") from None


def view(control: Control | None, preprocess: Preprocess) -> Callable[[Pixels], Pixels]:
    """Slice pixels (H, W) -> the square (2, S, S) that a control's network is shown; None hides nothing."""

    def see(pixels: Pixels) -> Pixels:
        anatomy = find_anatomy(pixels)
        square, placement = preprocess(pixels, anatomy)
        grey = 0.0
        match control:
            case "border_only" if preprocess.surround == "keep":
                hidden = anatomy.body
            case "border_only":
                hidden, grey = preprocess.visible(anatomy), FLAT_GREY
            case "lungs_black":
                hidden = anatomy.lung_hulls
            case "tone_only":
                generator = np.random.default_rng(zlib.crc32(square.tobytes()))  # the same at every call
                square[0] = generator.permutation(square[0].ravel()).reshape(square[0].shape)
                return square
            case _:
                return square
        square[0] = np.where(placement.apply(hidden.astype(np.float32)) > 0, grey, square[0])
        return square

    return see


def shuffle_labels(pool: Dataset, seed: int) -> Dataset:
    """Every group's slices take the label of another group, drawn without replacement.

    A group of several classes stands in the draw with its most frequent one.
    """
    names, place = np.unique(pool.groups, return_inverse=True)
    most_frequent = np.array([np.bincount(pool.labels[place == i]).argmax() for i in range(len(names))], np.int64)
    return pool.assign(label=np.random.default_rng(seed).permutation(most_frequent)[place])
