"""What decides the weights that come out of some data: the recipe, its three known values and its name by content."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ctscan.errors import DataError
from ctscan.imaging.preprocess import STRIDE, Crop, Pool, Preprocess, Surround, Tone
from ctscan.model.card import Architecture

Augmentation = Literal["full", "seed", "none"]
Control = Literal["shuffled_labels", "border_only", "lungs_black", "tone_only"]

LATER: dict[str, Any] = {"pool": "all", "windows": 0.0}  # fields that older recipes lack, and what they did

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained. The defaults are those of the shipped model."""

    name: str = "ctscan"  # what people call it; `custom` where a known recipe was changed
    # Of weights, order and augmentation. NumPy takes 32 bits, and a search adds the numbers of its trials.
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # `auto` takes what a trial of a few steps shows to be faster
    epochs: Annotated[int, Field(ge=1)] = 24
    batch: Annotated[int, Field(ge=2)] = 16
    optimiser: Literal["adamw", "sgd"] = "adamw"  # `sgd` has momentum 0.9
    schedule: Literal["one_cycle", "step"] = "one_cycle"  # `step` divides the rate by ten every seven epochs
    rate: Positive = 6.6e-4  # the highest learning rate
    weight_decay: NotNegative = 0.05
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.09  # share of each target that is spread over all classes
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.91  # of the rate, from each block to the one below it
    augmentation: Augmentation = "full"  # as in `build_augmentation`
    strength: Annotated[float, Field(ge=0, le=2)] = 1.1  # of `full`: how far shifts, turns, greys and gaps go
    windows: Annotated[float, Field(ge=0, le=1)] = 0.5  # of `full`: share of slices with ranks cut off as by a window
    size: Annotated[int, Field(ge=STRIDE, multiple_of=STRIDE)] = 224  # side of the model's square, px
    crop: Crop = "hull"  # as in `Preprocess`, like the next three
    tone: Tone = "rank"
    surround: Surround = "hull"
    pool: Pool = "thorax"
    head: Literal["linear", "mlp"] = "linear"  # or the seed design's `mlp` of 512-512-256-4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3  # in the head
    normalise: bool = True  # by ImageNet's mean and deviation

    @property
    def preprocess(self) -> Preprocess:
        """The part that is needed to feed the model."""
        return Preprocess(self.size, self.crop, self.tone, self.surround, self.pool)

    @property
    def architecture(self) -> Architecture:
        """The part that is needed to build the model."""
        return Architecture(self.head, self.dropout, self.normalise)

    @property
    def settings(self) -> dict[str, Any]:
        """All fields, for card and ledger; of the later ones those that do something: older recipes keep their name."""
        return {name: value for name, value in asdict(self).items() if LATER.get(name) != value}

    @property
    def digest(self) -> str:
        """Twelve hex digits that two different recipes do not share; they name it in folders and in the ledger."""
        return sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:12]


CTSCAN = Recipe()
PLAIN = Recipe(
    name="plain", epochs=16, batch=32, rate=3e-4, label_smoothing=0.1, layer_decay=1.0, strength=1.0, windows=0.0,
    crop="none", tone="none", surround="keep", pool="all", dropout=0.2,
)  # fmt: skip
SEED = replace(
    PLAIN, name="seed", epochs=15, optimiser="sgd", schedule="step", rate=0.01, weight_decay=0.0, label_smoothing=0.0,
    augmentation="seed", head="mlp", normalise=False,
)  # fmt: skip
RECIPES = {recipe.name: recipe for recipe in (CTSCAN, PLAIN, SEED)}


def read_recipe(settings: Mapping[str, Any]) -> Recipe:
    """The recipe with these fields, as a card or a ledger holds them.

    Raises:
        DataError: A field is missing or unknown, or its value is not one that training takes.
    """
    names = {f.name for f in fields(Recipe)}
    odd = ", ".join(sorted((set(settings) | set(LATER)) ^ names))
    if odd:
        raise DataError(f"This recipe was written by another version of ctscan: {odd}.")
    try:
        return TypeAdapter(Recipe).validate_python(LATER | dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{first['loc'][0]}={first['input']}: {first['msg'][0].lower()}{first['msg'][1:]}.") from None


def override(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """A recipe with some fields changed, as `--set` gives them.

    Args:
        recipe: Where the other fields come from.
        changes: `NAME=VALUE` each, as in `epochs=3`.

    Raises:
        DataError: A change has another form, an unknown name, or a value that the field does not take.
    """
    settings = recipe.settings
    for change in changes:
        name, equals, value = change.partition("=")
        names = [f.name for f in fields(Recipe)]
        if not equals or name not in names:
            raise DataError(f"--set {change}: give NAME=VALUE with a NAME among {', '.join(names)}.")
        settings[name] = value
    changed = read_recipe(settings)
    return changed if changed == recipe or changed.name != recipe.name else replace(changed, name="custom")
