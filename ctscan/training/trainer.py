"""A recipe and a data folder -> a fitted network and the checkpoint it becomes.

The best epoch is chosen on `valid` alone; nothing here sees `test` before the network is final.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR
from torchvision.transforms import v2
from tqdm.auto import tqdm

from ctscan.classes import CLASS_KEYS
from ctscan.errors import DataError
from ctscan.files import prepare, write
from ctscan.metrics import Score, score
from ctscan.model.card import Card
from ctscan.model.checkpoint import Checkpoint, write_checkpoint
from ctscan.model.network import SliceNet
from ctscan.model.runtime import TorchRuntime, choose_device, golden_logits, load_tensors, run_in_batches, store_tensors
from ctscan.training.data import SPLITS, Dataset, read_dataset
from ctscan.training.recipe import Augmentation, Recipe
from ctscan.training.weights import Weights, build_net, imagenet_weights

EVALUATION_BATCH = 32
MAP_SCALE_PERCENTILE = 99
TRIALS, TRIAL_BATCH = 3, 4  # passes in each precision, and their slices, before a training chooses one
MIN_FREE_BYTES = 64 << 20  # a checkpoint is 22 MB and is written beside the old one

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Epoch:
    """One line of the log."""

    epoch: int
    rate: float
    train_loss: float  # with augmentation, dropout and label smoothing
    valid_loss: float
    valid_accuracy: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training leaves."""

    checkpoint: Path
    card: Card
    best: Epoch
    folder: Path  # of the run: recipe, log, curves, scores


def train(
    data: Path,
    recipe: Recipe,
    out: Path,
    *,
    init: Path | None = None,
    runs: Path = Path("runs"),
    device: Device = "auto",
    force: bool = False,
    read_test: bool = True,
) -> Trained:
    """Train a classifier and write its checkpoint. Ctrl-C keeps the best epoch so far.

    Args:
        data: Folder with train/, valid/ and test/, each with one folder a class.
        recipe: How.
        out: The checkpoint to write; where another training has meanwhile written it, it goes to the run's folder.
        init: Safetensors state dict of torchvision's resnet18; without it, it is downloaded.
        runs: Gets a folder for this run.
        device: Where to train.
        force: Replace `out` where it exists.
        read_test: Score the test split, once, at the end.

    Raises:
        DataError: What it needs is missing or damaged, a file cannot be written, or the loss was never a finite number.
        ModelError: The device is missing.
        KeyboardInterrupt: Interrupted before there was a checkpoint.
    """
    check_target(out, force)
    on = torch.device(choose_device(device))
    weights = imagenet_weights(init)
    dataset = read_dataset(data)
    for split in SPLITS:
        print(f"{split}: {len(dataset.of(split))} slices", file=sys.stderr)
        for _, line in dataset.of(split).skipped:
            print(f"{split}: skipped {line}", file=sys.stderr)
    runs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}-", dir=runs))
    write(folder / "recipe.json", json.dumps(recipe.settings, indent=1) + "\n")
    try:
        fitted, history = fit(recipe, dataset.of("train"), dataset.of("valid"), weights, on, folder)
        net = round_trip(recipe, fitted)
        card = describe(recipe, net, dataset, read_test)
    except KeyboardInterrupt:
        print(f"Interrupted before there was a checkpoint; the log is in {folder}.", file=sys.stderr)
        raise
    path = out if force or not out.exists() else folder / out.name
    card = write_checkpoint(path, Checkpoint(card, store_tensors(net)))
    return Trained(path, card, min(history, key=lambda epoch: epoch.valid_loss), folder)


def check_target(out: Path, force: bool) -> None:
    """Refuse before the work, not after it.

    Raises:
        DataError: The checkpoint exists or cannot be written.
    """
    target = prepare(out)
    if target.exists() and not force:
        raise DataError(f"{out} exists; give --force to replace it, or another --out.")
    if shutil.disk_usage(target.parent).free < MIN_FREE_BYTES:
        raise DataError(f"The disk of {out.parent} is full, less than {MIN_FREE_BYTES >> 20} MiB free.")


def write_log(folder: Path, history: list[Epoch]) -> None:
    """log.csv and curves.png: after every epoch, so that an interrupted run is not lost."""
    from matplotlib.figure import Figure

    table, picture = io.StringIO(), io.BytesIO()
    writer = csv.DictWriter(table, asdict(history[0]))
    writer.writeheader()
    writer.writerows(map(asdict, history))
    write(folder / "log.csv", table.getvalue())
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    x = [epoch.epoch for epoch in history]
    left.plot(x, [epoch.train_loss for epoch in history], label="train, augmented")
    left.plot(x, [epoch.valid_loss for epoch in history], label="valid")
    left.set(xlabel="epoch", ylabel="cross-entropy")
    left.legend()
    right.plot(x, [epoch.valid_accuracy for epoch in history])
    right.set(xlabel="epoch", ylabel="accuracy on valid")
    figure.savefig(picture, dpi=110)
    write(folder / "curves.png", picture.getvalue())


def build_optimiser(net: SliceNet, recipe: Recipe, steps: int) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Optimiser and schedule; both are stepped once a batch, `steps` batches an epoch."""
    blocks = list(reversed(net.blocks))  # the head first, at the full rate
    rates = [recipe.rate * recipe.layer_decay**depth for depth in range(len(blocks))]
    groups = [{"params": list(block.parameters()), "lr": rate} for block, rate in zip(blocks, rates, strict=True)]
    optimiser: torch.optim.Optimizer
    if recipe.optimiser == "adamw":
        optimiser = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
    else:
        optimiser = torch.optim.SGD(groups, momentum=0.9, weight_decay=recipe.weight_decay)
    if recipe.schedule == "one_cycle":
        return optimiser, OneCycleLR(optimiser, rates, total_steps=steps * recipe.epochs)
    return optimiser, StepLR(optimiser, step_size=7 * steps, gamma=0.1)


def build_augmentation(kind: Augmentation, strength: float = 1.0) -> v2.Transform:
    """What a training slice may look like instead: a transform of (2, S, S) float tensors in [0, 1].

    Where it goes, its weights go too; greys, blur and gaps are its first channel's alone.

    `full`: flip, affine, mild jitter of the window, blur, erasing, all but the flip in proportion to `strength`.
    `seed`: what the seed design did.
    """
    bilinear = v2.InterpolationMode.BILINEAR
    if kind == "none":
        return v2.Identity()
    if kind == "seed":
        return v2.Compose([v2.RandomHorizontalFlip(0.7), v2.RandomRotation(10, bilinear)])
    fifth, shift = 0.2 * strength, 0.08 * strength
    affine = v2.RandomAffine(
        15 * strength, translate=(shift, shift), scale=(1 - fifth, 1 + fifth), interpolation=bilinear
    )
    greys = v2.Compose(
        [
            v2.ColorJitter(brightness=fifth, contrast=fifth),
            v2.RandomApply([v2.GaussianBlur(5, (0.3, 1.2))], p=fifth),
            v2.RandomErasing(p=0.25 * strength, scale=(0.02, 0.12)),
        ]
    )
    recolour = v2.Lambda(lambda square: torch.cat([greys(square[:1]), square[1:]]))
    return v2.Compose([v2.RandomHorizontalFlip(0.5), affine, recolour])


class Trainer:
    """One network on its way: each step of `epochs` takes it once through the slices."""

    def __init__(
        self,
        recipe: Recipe,
        squares: NDArray[np.float32],
        labels: NDArray[np.int64],
        weights: Weights,
        device: torch.device,
    ) -> None:
        """Squares (N, 2, S, S) in [0, 1], labels (N,)."""
        self.recipe, self.device = recipe, device
        self.squares, self.labels = torch.from_numpy(squares), torch.from_numpy(labels)
        self.net = build_net(recipe, weights).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.steps = max(1, len(labels) // recipe.batch + (len(labels) % recipe.batch > 1))
        self.optimiser, self.schedule = build_optimiser(self.net, recipe, self.steps)
        self.transform = build_augmentation(recipe.augmentation, recipe.strength)

    @cached_property
    def bf16(self) -> bool:
        """Whether it computes in bf16: as asked, or where a trial of a few steps is faster with it than in fp32.

        A flag of the processor does not tell: with AVX-512 alone bf16 is many times slower than fp32.
        """
        if self.recipe.precision != "auto":
            return self.recipe.precision == "bf16"
        ratio = self.trial(False) / self.trial(True)
        print(f"bf16 is {ratio:.2f} times as fast as fp32 here: {'bf16' if ratio > 1 else 'fp32'}", file=sys.stderr)
        return ratio > 1

    def trial(self, bf16: bool) -> float:
        """Seconds of the fastest of a few passes there and back over a small batch, by a copy of the network."""
        net, seconds = copy.deepcopy(self.net).train(), []
        squares = self.squares[:TRIAL_BATCH].to(self.device, memory_format=torch.channels_last)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            for _ in range(TRIALS):
                start = time.perf_counter()
                with torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext():
                    loss = net(squares).logits.float().square().mean()
                loss.backward()
                loss.detach().item()  # waits for a GPU
                seconds.append(time.perf_counter() - start)
        return min(seconds)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of batches in a new order, every slice with an augmentation of its own."""
        parts = list(torch.randperm(len(self.labels)).split(self.recipe.batch))
        if len(parts) > self.steps:  # batch norm has nothing to say of a single slice: it joins the batch before
            parts[-2:] = [torch.cat(parts[-2:])]
        for index in parts:
            yield torch.stack([self.transform(square) for square in self.squares[index]]), self.labels[index]

    def step(self, squares: Tensor, labels: Tensor) -> Tensor:
        """One step of the optimiser on a batch; gives the loss."""
        squares, labels = squares.to(self.device, memory_format=torch.channels_last), labels.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext():
            logits = self.net(squares).logits.float()
            loss = functional.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.schedule.step()
        return loss.detach()

    def epochs(self, title: str) -> Iterator[tuple[float, float]]:
        """Train, with a bar of that title; gives each epoch's first learning rate and the mean loss of its steps."""
        total = self.steps * self.recipe.epochs
        with tqdm(total=total, desc=title, unit="step", dynamic_ncols=True) as progress:
            for _ in range(self.recipe.epochs):
                self.net.train()
                rate, losses = float(self.optimiser.param_groups[0]["lr"]), 0.0
                for number, (squares, labels) in enumerate(self.batches(), 1):
                    losses += float(self.step(squares, labels))
                    progress.update()
                    progress.set_postfix(loss=f"{losses / number:.3f}")
                yield rate, losses / self.steps


def fit(
    recipe: Recipe, train: Dataset, valid: Dataset, weights: Weights, device: torch.device, folder: Path
) -> tuple[SliceNet, list[Epoch]]:
    """Train, and keep the epoch with the lowest cross-entropy on `valid`. Ctrl-C ends with the best so far.

    Returns:
        The network of that epoch, in evaluation mode, and all epochs; `folder` gets their log.

    Raises:
        DataError: The weights do not fit, or no epoch has a finite cross-entropy.
        KeyboardInterrupt: Interrupted before there was an epoch to keep.
    """
    see = recipe.preprocess.square
    trainer = Trainer(recipe, train.squares(see), train.labels, weights, device)
    unseen = valid.squares(see)
    history: list[Epoch] = []
    best, lowest = None, math.inf
    start = time.monotonic()
    try:
        for number, (rate, train_loss) in enumerate(trainer.epochs(f"{recipe.name} on {device}"), 1):
            now = evaluate(trainer.net, unseen, valid.labels, device)
            seconds = time.monotonic() - start
            history.append(Epoch(number, rate, train_loss, now.cross_entropy, now.accuracy, seconds))
            if now.cross_entropy < lowest:  # NaN is below nothing
                best, lowest = copy.deepcopy(trainer.net), now.cross_entropy
            write_log(folder, history)
            start = time.monotonic()
    except KeyboardInterrupt:
        if best is None:
            raise
        tqdm.write("Interrupted: keeping the best epoch so far.", file=sys.stderr)
    if best is None:
        raise DataError("The validation loss was never a finite number; try a lower rate, as in --set rate=1e-4.")
    return best.eval(), history


def evaluate(net: SliceNet, squares: NDArray[np.float32], labels: NDArray[np.int64], device: torch.device) -> Score:
    """The score on squares (N, 2, S, S): evaluation mode, fp32, no augmentation."""
    net.eval()
    with torch.inference_mode():
        parts = torch.from_numpy(squares).split(EVALUATION_BATCH)
        return score(torch.cat([net(part.to(device)).logits.cpu() for part in parts]).numpy(), labels)


def round_trip(recipe: Recipe, net: SliceNet) -> SliceNet:
    """The network as its checkpoint will give it back: weights through float16, on the processor that scores."""
    stored = SliceNet(recipe.architecture)
    load_tensors(stored, store_tensors(net))
    return stored.eval().requires_grad_(False)


def describe(recipe: Recipe, net: SliceNet, data: Dataset, read_test: bool) -> Card:
    """The card of a network that has been through `round_trip`: scores of the splits, and the scale of its maps."""
    see, runtime = recipe.preprocess.square, TorchRuntime(net)
    parts = {split: data.of(split) for split in SPLITS}
    read = SPLITS if read_test else ("train", "valid")
    outputs = {split: run_in_batches(runtime, parts[split].squares(see)) for split in read}
    scores = {split: score(output.logits, parts[split].labels) for split, output in outputs.items()}
    if read_test:
        unseen = parts["test"].unseen_by(data.of("train", "valid"))
        scores["test_unseen"] = score(outputs["test"].logits[unseen], parts["test"].labels[unseen])
    facts = {
        "fingerprint": data.fingerprint,
        "slices": {split: len(part) for split, part in parts.items()},
        "skipped": {split: [line for _, line in part.skipped] for split, part in parts.items()},
    }
    metrics = {name: asdict(figures) for name, figures in scores.items()}
    return build_card(recipe, net, facts, metrics, outputs["train"].maps)


def build_card(
    recipe: Recipe, net: SliceNet, data: dict[str, Any], metrics: dict[str, Any], maps: NDArray[np.float32]
) -> Card:
    """A card with the network's answer to the phantom; signed `maps`, in logit units, say where their scale ends."""
    positive = maps[maps > 0]
    return Card(
        classes=CLASS_KEYS,
        preprocess=recipe.preprocess,
        architecture=recipe.architecture,
        recipe=recipe.settings,
        data=data,
        metrics=metrics,
        map_scale_top=float(np.percentile(positive, MAP_SCALE_PERCENTILE)) if len(positive) else 1.0,
        golden_logits=golden_logits(TorchRuntime(net), recipe.preprocess),
    )
