"""TrainConfig and splits -> a fitted network, its history, and the checkpoint it becomes.

The best epoch is chosen on `valid` alone; nothing here sees `test` before the network is final.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models import ResNet18_Weights, resnet18
from tqdm.auto import tqdm

from ctscan.classes import CLASS_KEYS
from ctscan.errors import DataError
from ctscan.imaging.phantom import draw_phantom
from ctscan.inference.classifier import Classifier
from ctscan.io.images import Slice
from ctscan.metrics import Score, score
from ctscan.model.blocks import parameter_groups, train_mode
from ctscan.model.card import Card
from ctscan.model.gradcam import class_maps
from ctscan.model.network import SliceNet
from ctscan.model.runtime import TorchRuntime, choose_device, load_tensors, store_tensors
from ctscan.training.augmentation import augment, build_augmentation
from ctscan.training.data import Split, fingerprint
from ctscan.training.mixup import Batch, mean_loss, mix
from ctscan.training.recipe import Recipe, TrainConfig

EVALUATION_BATCH = 32
MAP_SCALE_PERCENTILE = 99
Weights = dict[str, Tensor]


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
class Fitted:
    """The network of the best epoch, in evaluation mode, with the history of all epochs."""

    net: SliceNet
    history: tuple[Epoch, ...]
    best: Epoch


def uses_bf16(config: Recipe, device: torch.device) -> bool:
    """Whether this run computes in bf16: as asked, or where the processor has instructions for it."""
    if config.precision != "auto":
        return config.precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def imagenet_weights(init: Path | None) -> Weights:
    """The state dict of an ImageNet ResNet18: torchvision's, or the one in `init`. Raises DataError."""
    if init is None:
        try:
            downloaded: Weights = resnet18(weights=ResNet18_Weights.IMAGENET1K_V1).state_dict()
            return downloaded
        except (URLError, OSError):
            raise DataError("torchvision's ImageNet weights cannot be downloaded; give a file: --init.") from None
    try:
        return {name: values.float() for name, values in safetensors.torch.load_file(init).items()}
    except (OSError, SafetensorError):
        raise DataError(f"--init {init}: not a safetensors file that can be read.") from None


def build_net(config: Recipe, weights: Weights) -> SliceNet:
    """A network with ImageNet's trunk and a new head, seeded. Raises DataError where the weights do not fit."""
    torch.manual_seed(config.seed)
    net = SliceNet(config.architecture)
    trunk = {n: v for n, v in weights.items() if not n.startswith("fc.")}
    trunk = {n: v.long() if n.endswith("num_batches_tracked") else v for n, v in trunk.items()}
    try:
        net.trunk.load_state_dict(trunk)
    except RuntimeError:
        raise DataError("The starting weights are not a state dict of torchvision's resnet18.") from None
    return net


def build_optimiser(net: SliceNet, config: Recipe, steps: int) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Optimiser and schedule; both are stepped once a batch, `steps` batches an epoch."""
    groups = parameter_groups(net, config.rate, config.layer_decay, config.freeze)
    optimiser: torch.optim.Optimizer
    if config.optimiser == "adamw":
        optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    else:
        optimiser = torch.optim.SGD(groups, momentum=0.9, weight_decay=config.weight_decay)
    if config.schedule == "one_cycle":
        highest = [group["lr"] for group in groups]
        return optimiser, OneCycleLR(optimiser, highest, total_steps=steps * config.epochs)
    return optimiser, StepLR(optimiser, step_size=7 * steps, gamma=0.1)


class Trainer:
    """One network on its way: `epoch()` takes it once through the slices."""

    def __init__(self, config: Recipe, train: Split, weights: Weights, device: torch.device) -> None:
        self.config, self.device = config, device
        self.squares = torch.from_numpy(train.squares)
        self.targets = functional.one_hot(torch.from_numpy(train.labels), config.architecture.classes).float()
        self.weights = torch.from_numpy(np.where(train.lungs, 1.0, config.lungless).astype(np.float32))
        self.net = build_net(config, weights).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.steps = math.ceil(len(train) / config.batch)
        self.optimiser, self.schedule = build_optimiser(self.net, config, self.steps)
        self.transform = build_augmentation(config.augmentation, config.strength)
        self.bf16 = uses_bf16(config, device)
        self.average = (
            AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
            if config.ema
            else None
        )

    @property
    def result(self) -> SliceNet:
        """The network that counts: the average where one is kept, else the one that is trained."""
        return cast(SliceNet, self.average.module) if self.average else self.net

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimiser.param_groups[0]["lr"])

    def batches(self) -> Iterator[Batch]:
        """One epoch of augmented batches, in a new order."""
        for index in torch.randperm(len(self.weights)).split(self.config.batch):
            squares = augment(self.transform, self.squares[index])
            yield mix(Batch(squares, self.targets[index], self.weights[index]), self.config.mixup)

    def step(self, batch: Batch) -> Tensor:
        """One step of the optimiser on a batch; gives the loss."""
        squares = batch.squares.to(self.device, memory_format=torch.channels_last)
        targets, weights = batch.targets.to(self.device), batch.weights.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext():
            loss = mean_loss(self.net(squares), targets, weights, self.config.label_smoothing)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.schedule.step()
        if self.average:
            self.average.update_parameters(self.net)
        return loss.detach()

    def epoch(self, progress: tqdm[Any]) -> float:
        """Once through the slices; gives the mean loss of its steps."""
        train_mode(self.net, self.config.freeze)
        total = 0.0
        for batch in self.batches():
            total += float(self.step(batch))
            progress.update()
            progress.set_postfix(loss=f"{total / (progress.n % self.steps or self.steps):.3f}")
        return total / self.steps


def compute_logits(net: SliceNet, squares: NDArray[np.float32], device: torch.device) -> NDArray[np.float32]:
    """Squares (N, 1, S, S) -> logits (N, K): evaluation mode, fp32, no augmentation."""
    net.eval()
    with torch.inference_mode():
        parts = torch.from_numpy(squares).split(EVALUATION_BATCH)
        return torch.cat([net(part.to(device)).cpu() for part in parts]).numpy()


def evaluate(net: SliceNet, split: Split, device: torch.device) -> Score:
    """The score of a network on a split."""
    return score(compute_logits(net, split.squares, device), split.labels)


def show_progress(config: Recipe, steps: int, title: str) -> tqdm[Any]:
    """A bar over all steps of a run, with the loss and the time left."""
    return tqdm(total=steps * config.epochs, desc=title, unit="step", dynamic_ncols=True)


def fit(
    config: TrainConfig, train: Split, valid: Split, on_epoch: Callable[[Epoch], None] = lambda epoch: None
) -> Fitted:
    """Train, and keep the epoch with the lowest cross-entropy on `valid`. Ctrl-C ends with the best so far.

    Raises KeyboardInterrupt when interrupted before there is such an epoch, DataError as above and where no epoch
    has a finite cross-entropy.
    """
    device = torch.device(choose_device(config.device))
    trainer = Trainer(config, train, imagenet_weights(config.init), device)
    history: list[Epoch] = []
    best: tuple[Epoch, SliceNet] | None = None
    with show_progress(config, trainer.steps, f"{config.recipe} on {device}") as progress:
        try:
            for number in range(1, config.epochs + 1):
                start, rate = time.monotonic(), trainer.rate
                train_loss = trainer.epoch(progress)
                now = evaluate(trainer.result, valid, device)
                seconds = time.monotonic() - start
                history.append(Epoch(number, rate, train_loss, now.cross_entropy, now.accuracy, seconds))
                if history[-1].valid_loss < (best[0].valid_loss if best else math.inf):  # NaN is below nothing
                    best = history[-1], copy.deepcopy(trainer.result)
                on_epoch(history[-1])
        except KeyboardInterrupt:
            if best is None:
                raise
            progress.write(f"Interrupted: keeping epoch {best[0].epoch}, the best so far.")
    if best is None:
        raise DataError("The validation loss was never a finite number; try a lower --rate.")
    return Fitted(best[1].eval(), tuple(history), best[0])


def measure_map_scale(net: SliceNet, train: Split, device: torch.device) -> float:
    """Logit units: the 99th percentile of the positive map values of all classes over the training slices."""
    with torch.inference_mode():
        parts = torch.from_numpy(train.squares).split(EVALUATION_BATCH)
        maps = [class_maps(net.head, net.features(part.to(device)))[1].cpu().numpy() for part in parts]
    return top_of_scale(np.concatenate(maps))


def top_of_scale(maps: NDArray[np.float32]) -> float:
    """Logit units: the 99th percentile of the positive values of signed maps, 1 where there are none."""
    positive = maps[maps > 0]
    return float(np.percentile(positive, MAP_SCALE_PERCENTILE)) if len(positive) else 1.0


def round_trip(config: Recipe, net: SliceNet) -> SliceNet:
    """The network as its checkpoint will give it back: weights through float16, on the processor that scores."""
    stored = SliceNet(config.architecture)
    load_tensors(stored, store_tensors(net))
    return stored.eval().requires_grad_(False)


def describe(splits: dict[str, Split]) -> dict[str, Any]:
    """The card's entry on the data."""
    return {
        "fingerprint": fingerprint(splits.values()),
        "slices": {name: len(split) for name, split in splits.items()},
        "skipped": {name: list(split.skipped) for name, split in splits.items()},
    }


def build_card(config: Recipe, net: SliceNet, data: dict[str, Any], metrics: dict[str, Any], scale: float) -> Card:
    """The card of a network that has been through `round_trip`; `scale` is the top of its maps' scale."""
    card = Card(
        classes=CLASS_KEYS,
        preprocess=config.preprocess,
        architecture=config.architecture,
        training=config.settings(),
        data=data,
        metrics=metrics,
        map_scale_top=scale,
        golden_logits=(),
        tensors_sha256="",
    )
    logits = Classifier(card, TorchRuntime(net)).predict(Slice(draw_phantom())).logits
    return replace(card, golden_logits=tuple(logits.tolist()))
