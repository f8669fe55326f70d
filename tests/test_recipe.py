"""A recipe is known by its content, changed by name, and refuses what training does not take."""

from __future__ import annotations

from dataclasses import fields

import pytest

from ctscan.errors import DataError
from ctscan.training.recipe import CTSCAN, PLAIN, RECIPES, SEED, Recipe, override, read_recipe


def test_the_defaults_are_the_shipped_recipe_and_every_recipe_has_a_digest_of_its_own() -> None:
    assert Recipe() == CTSCAN
    assert len({recipe.digest for recipe in RECIPES.values()}) == 3
    assert read_recipe(CTSCAN.settings).digest == CTSCAN.digest


def test_the_seed_recipe_has_the_seed_design() -> None:
    assert (SEED.optimiser, SEED.rate, SEED.schedule, SEED.batch, SEED.epochs) == ("sgd", 0.01, "step", 32, 15)
    assert (SEED.crop, SEED.tone, SEED.size, SEED.normalise, SEED.head) == ("none", "none", 224, False, "mlp")


def test_a_change_of_any_field_changes_the_digest() -> None:
    for field in fields(Recipe):
        other = getattr(SEED, field.name)
        if other != getattr(CTSCAN, field.name):
            assert override(CTSCAN, [f"{field.name}={other}"]).digest != CTSCAN.digest, field.name


def test_fields_are_set_by_name_with_their_types() -> None:
    changed = override(PLAIN, ["epochs=3", "rate=1e-4", "normalise=false", "head=mlp"])
    assert (changed.epochs, changed.rate, changed.normalise, changed.head) == (3, 1e-4, False, "mlp")
    assert changed.name == "custom"
    assert override(PLAIN, []) == override(PLAIN, [f"epochs={PLAIN.epochs}"]) == PLAIN
    assert override(PLAIN, ["epochs=3", "name=short"]).name == "short"


@pytest.mark.parametrize(
    "change",
    [
        "layer_decay=0", "rate=nan", "rate=inf", "weight_decay=-1", "label_smoothing=1", "label_smoothing=-0.1",
        "size=16", "dropout=1.5", "epochs=0", "epochs=two", "batch=1", "seed=-1", "seed=99999999999999999999999",
        "head=conv", "crop=lungs", "normalise=perhaps", "strength=3",
    ],
)  # fmt: skip
def test_what_training_does_not_take_is_one_sentence_that_names_it(change: str) -> None:
    with pytest.raises(DataError) as caught:
        override(CTSCAN, [change])
    assert str(caught.value).startswith(change.partition("=")[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["epochs", "mixup=0.2", "=3", "epoch=3"])
def test_what_is_no_change_of_a_field_names_the_fields(change: str) -> None:
    with pytest.raises(DataError, match=r"--set .*epochs"):
        override(CTSCAN, [change])


def test_a_recipe_of_another_version_is_refused() -> None:
    with pytest.raises(DataError, match="ema"):
        read_recipe(CTSCAN.settings | {"ema": 0.0})
