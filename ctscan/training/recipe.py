"""The configuration of a training run, its recipes, and the command-line flags that come from its fields."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ctscan.imaging.preprocess import Crop, Preprocess, Surround, Tone
from ctscan.model.card import Architecture
from ctscan.training.augmentation import Augmentation
from ctscan.training.control import Control

SEEDS = 2**31  # numpy takes 32 bits, and a search adds the numbers of its trials


def _flag(help_: str, default: Any = MISSING) -> Any:
    return field(metadata={"help": help_}, **({} if default is MISSING else {"default": default}))


def _later(help_: str, default: Any) -> Any:
    """A flag that came after the first checkpoint: `settings` names it only where it differs from the default.

    So the settings in an older card, ledger or run folder stay those of the same recipe.
    """
    return field(metadata={"help": help_, "later": True}, default=default)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the weights that come out of some data. Every field is a flag."""

    recipe: Literal["ctscan", "seed"] = _flag("defaults of all that follows: ours, or the seed design's", "ctscan")
    precision: Literal["auto", "bf16", "fp32"] = _flag("auto takes bf16 where the processor gains by it", "auto")
    seed: int = _flag("seed of weights, order and augmentation", 0)
    epochs: int = _flag("passes over the training slices", 24)
    batch: int = _flag("slices a step", 32)
    optimiser: Literal["adamw", "sgd"] = _flag("sgd has momentum .9", "adamw")
    schedule: Literal["one_cycle", "step"] = _flag("step divides the rate by 10 every 7 epochs", "one_cycle")
    rate: float = _flag("highest learning rate", 3e-4)
    weight_decay: float = _flag("weight decay", 0.05)
    label_smoothing: float = _flag("label smoothing", 0.1)
    ema: float = _flag("decay a step of the moving average of the weights; 0 keeps the last weights", 0.0)
    mixup: float = _later("alpha of mixup's beta distribution; 0 mixes nothing", 0.0)
    layer_decay: float = _later("factor of the rate from each block to the one below it", 1.0)
    freeze: int = _later("blocks, from the first of five, that stay as ImageNet left them", 0)
    lungless: float = _later("weight in the loss of a slice without visible lung", 1.0)
    augmentation: Augmentation = _flag("see ctscan/augmentation.py", "full")
    strength: float = _later("of the augmentation; 1 as written there", 1.0)
    size: int = _flag("side of the model's square, px", 224)
    crop: Crop = _flag("letterbox the body's box, or the whole slice; none: squash it", "body")
    tone: Tone = _flag("greys; rank: of one histogram; none: as they are", "rank")
    surround: Surround = _later("hull: black outside the body's hull; keep: as it is", "keep")
    head: Literal["linear", "mlp"] = _flag("classifier head; mlp is 512-512-256-4", "linear")
    dropout: float = _flag("dropout in the head", 0.2)
    normalise: bool = _flag("normalise by ImageNet's mean and deviation", True)

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.rate, self.weight_decay, self.mixup))):
            raise ValueError("--rate, --weight-decay and --mixup must be finite")
        if self.epochs < 1 or self.batch < 2 or self.rate <= 0 or not 0 <= self.ema < 1:
            raise ValueError("--epochs must be at least 1, --batch 2, --rate above 0, --ema in [0, 1)")
        if self.mixup < 0 or not 0 < self.layer_decay <= 1 or not 0 <= self.freeze <= 5:
            raise ValueError("--mixup must not be below 0, --layer-decay must be in (0, 1], --freeze 0 to 5")
        if not 0 < self.lungless <= 1 or not 0 <= self.strength <= 2:
            raise ValueError("--lungless must be in (0, 1], --strength in [0, 2]")
        if self.weight_decay < 0 or not 0 <= self.label_smoothing < 1:
            raise ValueError("--weight-decay must not be below 0, --label-smoothing must be in [0, 1)")
        if not 0 <= self.seed < SEEDS:
            raise ValueError(f"--seed must be in [0, {SEEDS})")
        _ = self.preprocess, self.architecture  # each refuses what it does not know

    @property
    def preprocess(self) -> Preprocess:
        """The part that the page needs to feed the model."""
        return Preprocess(self.size, self.crop, self.tone, self.surround)

    @property
    def architecture(self) -> Architecture:
        """The part that the page needs to build the model."""
        return Architecture(self.head, self.dropout, self.normalise)

    def settings(self) -> dict[str, Any]:
        """For card and ledger: no paths, which tell of a machine and not of a model."""
        values = {f: getattr(self, f.name) for f in fields(Recipe)}
        return {f.name: value for f, value in values.items() if "later" not in f.metadata or value != f.default}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Recipe):
    """Train a classifier of chest CT slices."""

    data: Path = _flag("folder with train/, valid/ and test/, each with one folder a class")
    out: Path = _flag("the checkpoint to write", Path("checkpoints/resnet18.safetensors"))
    force: bool = _flag("replace an existing checkpoint", False)
    init: Path | None = _flag("safetensors state dict of torchvision's resnet18 instead of its download", None)
    runs: Path = _flag("folder that gets one folder a run: log, curves, configuration, scores", Path("runs"))
    ledger: Path | None = _flag("file that keeps every reading of test (default: metrics.json beside --out)", None)
    read_test: bool = _flag("score the test split once, at the end", True)
    trials: int = _flag("search for a recipe with so many trials on two grouped folds, and train nothing else", 0)
    threshold: float = _flag("of --trials: correlation from which two slices belong to one visual group", 0.90)
    device: Literal["auto", "cpu", "cuda"] = _flag("where to train", "auto")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trials < 0:
            raise ValueError("--trials must not be below 0")

    @property
    def ledger_path(self) -> Path:
        """Where readings are kept."""
        return self.ledger or self.out.parent / "metrics.json"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Recipe):
    """Say what a checkpoint is worth. The recipe counts for --cross-validate and --control alone."""

    checkpoint: Path = _flag("the checkpoint to score", Path("checkpoints/resnet18.safetensors"))
    data: Path | None = _flag("folder with train/, valid/ and test/, each with one folder a class", None)
    folder: Path | None = _flag("score this folder of class folders from elsewhere, and nothing else", None)
    cross_validate: bool = _flag("train the recipe on the grouped folds and score what each fold left out", False)
    against: Path | None = _flag("folder of another cross-validation, to compare this one with slice by slice", None)
    control: Literal[Control, "all"] = _flag("train a control on the grouped folds instead", "none")
    calibrate: bool = _flag("temperature and conformal sets from a cross-validation that is there", False)
    explain: bool = _flag("put the checkpoint's maps to the test, on slices of the test split", False)
    volumes: Path | None = _flag(
        "with it: a folder of CT volumes, NAME_image.nrrd with its outlined lesion in NAME_label.nrrd; "
        "chest*.nii.gz are chests without a mass, and no other NIfTI or DICOM is read",
        None,
    )
    threshold: float = _flag("correlation from which two slices belong to one visual group", 0.90)
    folds: int = _flag("of the five grouped folds, train this many", 5)
    init: Path | None = _flag("safetensors state dict of torchvision's resnet18 instead of its download", None)
    runs: Path = _flag("folder that gets plots, and one folder a cross-validation, from which it resumes", Path("runs"))
    ledger: Path | None = _flag("file that keeps the results (default: metrics.json beside --checkpoint)", None)
    draws: int = _flag("bootstrap draws of groups for the intervals", 1000)
    device: Literal["auto", "cpu", "cuda"] = _flag("where to train", "auto")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.folds <= 5 or self.draws < 100:
            raise ValueError("--folds must be 1 to 5, --draws at least 100")
        if (self.data is None) == (self.folder is None):
            raise ValueError("give either --data or --folder")
        if self.folder and (self.cross_validate or self.calibrate or self.explain or self.control != "none"):
            raise ValueError("--folder goes alone; --cross-validate, --calibrate, --explain and --control need --data")
        if self.against and not self.cross_validate:
            raise ValueError("--against goes with --cross-validate")
        if self.volumes and not self.explain:
            raise ValueError("--volumes goes with --explain")
        if self.calibrate and self.folds < 2:
            raise ValueError("--calibrate needs two folds or more, for each is judged by the others")

    @property
    def ledger_path(self) -> Path:
        """Where results are kept."""
        return self.ledger or self.checkpoint.parent / "metrics.json"


# Fields that differ from Recipe's defaults. `ctscan` is what the shortcut tests and a search have chosen: see the model
# card. `seed` is the seed design: no normalisation, squash, SGD.
RECIPES: dict[str, dict[str, Any]] = {
    "ctscan": {
        "epochs": 16, "batch": 16, "rate": 6.6e-4, "layer_decay": 0.91, "label_smoothing": 0.09, "dropout": 0.3,
        "strength": 1.1, "tone": "rank", "surround": "hull",
    },
    "seed": {
        "epochs": 15, "optimiser": "sgd", "schedule": "step", "rate": 0.01, "weight_decay": 0.0,
        "label_smoothing": 0.0, "augmentation": "seed", "crop": "none", "tone": "none",
        "head": "mlp", "normalise": False,
    },
}  # fmt: skip


Config = TypeVar("Config", bound=Recipe)


def parse_flags(kind: type[Config], arguments: Sequence[str] | None = None) -> Config:
    """Command line -> configuration. Contradictory values end in argparse's usage line."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe", default="ctscan", choices=RECIPES)
    recipe = RECIPES[first.parse_known_args(arguments)[0].recipe]
    parser = argparse.ArgumentParser(
        description=kind.__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    hints = get_type_hints(kind)
    own_first = sorted(fields(kind), key=lambda item: item in fields(Recipe))
    for item in own_first:
        _add_flag(parser, item, hints[item.name], recipe.get(item.name, item.default))
    try:
        return kind(**vars(parser.parse_args(arguments)))
    except ValueError as error:
        parser.error(str(error))


def _add_flag(parser: argparse.ArgumentParser, item: Field[Any], kind: Any, default: Any) -> None:
    options: dict[str, Any] = {"help": item.metadata["help"]}
    options |= {"required": True} if default is MISSING else {"default": default}
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif get_origin(kind) is Literal:
        options["choices"] = get_args(kind)
    elif isinstance(kind, UnionType):
        options["type"] = get_args(kind)[0]
    else:
        options["type"] = kind
    parser.add_argument(f"--{item.name.replace('_', '-')}", **options)
