"""A search on synthetic slices: every trial is kept, a second start goes on, and it begins with the recipe as given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctscan.errors import DataError
from ctscan.evaluation.intervals import Answers
from ctscan.evaluation.search import SPACE, balanced_loss, open_study, search
from ctscan.training.audit import audit
from ctscan.training.data import Dataset, read_dataset
from ctscan.training.recipe import CTSCAN, SEED, override
from ctscan.training.weights import imagenet_weights
from tests.samples import write_data

TINY = override(CTSCAN, ["size=32", "epochs=1", "precision=fp32"])


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    data = read_dataset(write_data(tmp_path_factory.mktemp("data"), {"train": 4, "valid": 1, "test": 1}, seed=500))
    return audit(data).manifest.pool(data, 0.90)


@pytest.mark.slow
def test_a_search_keeps_every_trial_and_goes_on(pool: Dataset, init: Path, tmp_path: Path) -> None:
    weights = imagenet_weights(init)
    first = search(TINY, pool, weights, tmp_path, 2, "cpu")
    assert first.trials == {"complete": 2}
    (folder,) = tmp_path.iterdir()
    trials = open_study(folder, TINY).trials
    assert trials[0].params == {name: getattr(TINY, name) for name in SPACE}
    assert all(len(trial.intermediate_values) == 2 for trial in trials[:2])
    second = search(TINY, pool, weights, tmp_path, 3, "cpu")
    assert second.trials == {"complete": 3}
    assert second.lowest_loss == min(trial.value or 9 for trial in open_study(folder, TINY).trials)
    assert [trial.params for trial in open_study(folder, TINY).trials[:2]] == [trial.params for trial in trials[:2]]
    assert search(TINY, pool, weights, tmp_path, 1, "cpu").trials == {"complete": 3}  # enough are there


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("batch=24", "batch must be 16 or 32 or 64, not 24"),
        ("weight_decay=0", "weight_decay must be 0.001 to 0.3, not 0.0"),
        ("strength=2", "strength must be"),
    ],
)
def test_a_base_that_the_space_does_not_hold_is_refused_before_there_is_a_study(
    change: str, named: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=named):
        search(override(CTSCAN, [change]), Dataset(()), {}, tmp_path, 1)
    with pytest.raises(DataError, match="rate"):
        search(SEED, Dataset(()), {}, tmp_path, 1)
    with pytest.raises(DataError, match="not a state dict"):
        search(CTSCAN, Dataset(()), {}, tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_the_objective_counts_classes_alike_and_no_temperature() -> None:
    right, wrong = [2.0, 0.0], [0.0, 2.0]
    logits = np.array([right] * 9 + [wrong] + [right, wrong], np.float32)
    some = Answers(logits, np.array([0] * 10 + [1] * 2), np.arange(12))
    hotter = Answers(logits / np.float32(3), some.labels, some.groups)
    assert balanced_loss(hotter) == pytest.approx(balanced_loss(some), rel=1e-4)
    p = 10 / 12  # what the temperature makes of 10 right answers of 12
    first, second = 0.9 * np.log(p) + 0.1 * np.log(1 - p), 0.5 * np.log(p) + 0.5 * np.log(1 - p)
    assert balanced_loss(some) == pytest.approx(-(first + second) / 2, rel=1e-3)
