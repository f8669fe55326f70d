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
from tqdm.auto import tqdm

from ctscan.classes import CLASS_KEYS
from ctscan.errors import DataError
from ctscan.files import make_folder, prepare, write
from ctscan.metrics import Score, score
from ctscan.model.card import Card
from ctscan.model.checkpoint import Checkpoint, write_checkpoint
from ctscan.model.network import SliceNet
from ctscan.model.runtime import TorchRuntime, choose_device, golden_logits, load_tensors, run_in_batches, store_tensors
from ctscan.training.augmentation import build_augmentation
from ctscan.training.data import SPLITS, Dataset, read_dataset
from ctscan.training.recipe import Recipe
from ctscan.training.team import ONE, Nodes, Team, gather
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
    nodes: Nodes = ONE,
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
        nodes: In how many processes.
        force: Replace `out` where it exists.
        read_test: Score the test split, once, at the end.

    Raises:
        DataError: What it needs is missing or damaged, a file cannot be written, or the loss was never a finite number.
        ModelError: The device is missing.
        KeyboardInterrupt: Interrupted, or a process lost, before there was a checkpoint.
    """
    target = prepare(out)  # what can be refused before the work is not refused after it
    if target.exists() and not force:
        raise DataError(f"{out} exists; give --force to replace it, or another --out.")
    if shutil.disk_usage(target.parent).free < MIN_FREE_BYTES:
        raise DataError(f"The disk of {out.parent} is full, less than {MIN_FREE_BYTES >> 20} MiB free.")
    make_folder(runs, "--runs")
    on = torch.device(choose_device(device))
    weights = imagenet_weights(init)
    dataset = read_dataset(data)
    for split in SPLITS:
        print(f"{split}: {len(dataset.of(split))} slices", file=sys.stderr)
        for _, line in dataset.of(split).skipped:
            print(f"{split}: skipped {line}", file=sys.stderr)
    folder = Path(tempfile.mkdtemp(prefix=f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}-", dir=runs))
    write(folder / "recipe.json", json.dumps(recipe.settings, indent=1) + "\n")
    try:
        fitted, history = fit(recipe, dataset.of("train"), dataset.of("valid"), weights, on, folder, nodes)
        net = round_trip(recipe, fitted)
        card = describe(recipe, net, dataset, read_test)
    except KeyboardInterrupt:
        print(f"Interrupted before there was a checkpoint; the log is in {folder}.", file=sys.stderr)
        raise
    path = out if force or not out.exists() else folder / out.name
    card = write_checkpoint(path, Checkpoint(card, store_tensors(net)))
    return Trained(path, card, min(history, key=lambda epoch: epoch.valid_loss), folder)


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


class Trainer:
    """One network on its way: each step of `epochs` takes it once through the slices."""

    def __init__(
        self,
        recipe: Recipe,
        squares: NDArray[np.float32],
        labels: NDArray[np.int64],
        weights: Weights,
        team: Team,
    ) -> None:
        """Squares (N, 2, S, S) in [0, 1], labels (N,). Raises DataError where weights or processes do not fit."""
        least = 2 * team.size  # batch norm has nothing to say of a single slice
        if min(len(labels), recipe.batch) < least:
            raise DataError(f"{team.size} processes need {least} slices in every batch: take fewer, or --set batch.")
        self.recipe, self.team, self.device = recipe, team, team.device
        self.squares, self.labels = torch.from_numpy(squares), torch.from_numpy(labels)
        self.net = build_net(recipe, weights).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.joined = team.join(self.net)
        if team.rank > 0:
            torch.manual_seed(recipe.seed + team.rank)  # or all would shift and turn their slices alike
        self.steps = max(1, len(labels) // recipe.batch + (len(labels) % recipe.batch >= least))
        self.optimiser, self.schedule = build_optimiser(self.net, recipe, self.steps)
        self.transform = build_augmentation(recipe.augmentation, recipe.strength, recipe.windows)

    @cached_property
    def bf16(self) -> bool:
        """Whether it computes in bf16: as asked, or where a trial of a few steps is faster with it than in fp32.

        A flag of the processor does not tell: with AVX-512 alone bf16 is many times slower than fp32.
        """
        if self.recipe.precision != "auto":
            return self.recipe.precision == "bf16"
        ratio = 0.0
        if self.team.rank == 0:
            ratio = self.trial(False) / self.trial(True)
            print(f"bf16 is {ratio:.2f} times as fast as fp32 here: {'bf16' if ratio > 1 else 'fp32'}", file=sys.stderr)
        return self.team.agree(ratio > 1)

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

    def batches(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        """One epoch of batches in a new order, every slice with an augmentation of its own.

        Of each batch this process's share, and what its mean weighs in the mean over all processes.
        """
        parts = list(self.team.agree(torch.randperm(len(self.labels))).split(self.recipe.batch))
        if len(parts) > self.steps:  # a last one with too few slices joins the batch before
            parts[-2:] = [torch.cat(parts[-2:])]
        for index in parts:
            mine = index[self.team.rank :: self.team.size]
            weight = self.team.size * len(mine) / len(index)
            yield torch.stack([self.transform(square) for square in self.squares[mine]]), self.labels[mine], weight

    def step(self, squares: Tensor, labels: Tensor, weight: float = 1) -> Tensor:
        """One step of the optimiser on a share of a batch; gives the loss of the whole batch."""
        squares, labels = squares.to(self.device, memory_format=torch.channels_last), labels.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext():
            logits = self.joined(squares).logits.float()
            loss = weight * functional.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.schedule.step()
        return self.team.mean(loss.detach())

    def epochs(self, title: str) -> Iterator[tuple[float, float]]:
        """Train, with a bar of that title; gives each epoch's first learning rate and the mean loss of its steps."""
        total = self.steps * self.recipe.epochs
        with tqdm(total=total, desc=title, unit="step", dynamic_ncols=True, disable=self.team.rank > 0) as progress:
            for _ in range(self.recipe.epochs):
                self.net.train()
                rate, losses = float(self.optimiser.param_groups[0]["lr"]), 0.0
                for number, batch in enumerate(self.batches(), 1):
                    losses += float(self.step(*batch))
                    progress.update()
                    progress.set_postfix(loss=f"{losses / number:.3f}")
                yield rate, losses / self.steps


def take_steps(team: Team) -> None:
    """What all processes but the first do of a training."""
    given: tuple[Recipe, NDArray[np.float32], NDArray[np.int64], Weights] = team.agree()
    for _ in Trainer(*given, team).epochs(""):
        pass


def assist(nodes: Nodes, device: Device) -> None:
    """Take this node's part in a training that another node leads. Raises as `train`."""
    with gather(nodes, torch.device(choose_device(device)), take_steps) as team:
        take_steps(team)


def fit(
    recipe: Recipe,
    train: Dataset,
    valid: Dataset,
    weights: Weights,
    device: torch.device,
    folder: Path,
    nodes: Nodes = ONE,
) -> tuple[SliceNet, list[Epoch]]:
    """Train, and keep the epoch with the lowest cross-entropy on `valid`. Ctrl-C ends with the best so far.

    Returns:
        The network of that epoch, in evaluation mode, and all epochs; `folder` gets their log.

    Raises:
        DataError: The weights do not fit, or no epoch has a finite cross-entropy.
        KeyboardInterrupt: Interrupted before there was an epoch to keep.
    """
    see = recipe.preprocess.square
    given, unseen = (recipe, train.squares(see), train.labels, weights), valid.squares(see)
    history: list[Epoch] = []
    best, lowest = None, math.inf
    try:
        with gather(nodes, device, take_steps) as team:
            trainer, start = Trainer(*team.agree(given), team), time.monotonic()
            for number, (rate, train_loss) in enumerate(trainer.epochs(f"{recipe.name} on {device}"), 1):
                now = evaluate(trainer.net, unseen, valid.labels, team.device)
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
