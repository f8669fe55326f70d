"""A classifier's reading of CT volumes, held against the same counted by hand, by scikit-learn and by SciPy."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from ctscan.classes import CLASS_KEYS, NORMAL
from ctscan.evaluation.elsewhere import judge_volumes, slices_away, tumour_odds
from ctscan.inference.classifier import Classifier
from ctscan.io.images import Slice
from ctscan.io.volumes import WINDOWS, Volume, read_free_volumes, read_volumes
from ctscan.metrics import softmax
from ctscan.model.runtime import run_in_batches
from tests.test_volumes import LUNGLESS, draw_units, write_free, write_outlined

OUTLINED, OTHERS = [6, 7], [2, 3, 10, 11]  # of twelve slices, the first two without lung


def logits_of(classifier: Classifier, slices: list[Slice]) -> NDArray[np.float32]:
    squares = np.stack([classifier.card.preprocess.square(slice_.pixels) for slice_ in slices])
    return run_in_batches(classifier.runtime, squares).logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("volumes")
    write_outlined(made, draw_units(), OUTLINED)
    write_free(made, draw_units())
    return made


def slices_of(volume: Volume, places: list[int], window: str) -> list[Slice]:
    return [Slice(volume.slice(z, window)[0]) for z in places]


def test_others_hold_lung_and_lie_away_from_the_outline(folder: Path) -> None:
    (volume,), (free,) = read_volumes(folder), read_free_volumes(folder)
    assert slices_away(free) == list(range(LUNGLESS, 12))
    assert slices_away(volume) == OTHERS


def test_outlined_slices_are_ranked_as_scikit_learn_ranks_them(folder: Path, committed: Classifier) -> None:
    (volume,) = read_volumes(folder)
    found, _ = judge_volumes(committed, [volume], [])
    assert [(r.volume, r.window, r.outlined, r.others) for r in found.outlined] == [("one", w, 2, 4) for w in WINDOWS]
    for ranking in found.outlined:
        slices = slices_of(volume, OUTLINED + OTHERS, ranking.window)
        tumour = [1 - softmax(logits)[NORMAL] for logits in logits_of(committed, slices)]
        assert ranking.auroc == pytest.approx(roc_auc_score([1, 1, 0, 0, 0, 0], tumour))
        verdicts = Counter(answer.verdict for answer in committed.many(slices))
        assert (ranking.refused, ranking.unusual) == (verdicts["refused"], verdicts["unusual"])


def test_alarms_are_counted_among_slices_with_lung(folder: Path, committed: Classifier) -> None:
    (volume,) = read_free_volumes(folder)
    found, _ = judge_volumes(committed, [], [volume])
    assert [(a.volume, a.window, a.slices) for a in found.free] == [("chest_one", w, 10) for w in WINDOWS]
    for alarms in found.free:
        slices = slices_of(volume, list(range(LUNGLESS, 12)), alarms.window)
        assert alarms.alarms == int((logits_of(committed, slices).argmax(axis=1) != NORMAL).sum())
        verdicts = Counter(answer.verdict for answer in committed.many(slices))
        assert (alarms.refused, alarms.unusual) == (verdicts["refused"], verdicts["unusual"])


def test_without_a_gate_every_slice_is_unusual_and_scored(folder: Path, classifier: Classifier) -> None:
    found, _ = judge_volumes(classifier, read_volumes(folder), [])
    assert all((r.refused, r.unusual) == (0, 6) and 0 <= r.auroc <= 1 for r in found.outlined)


def test_odds_order_slices_whose_probabilities_are_all_one() -> None:
    logits = np.random.default_rng(0).normal(size=(50, len(CLASS_KEYS))).astype(np.float32)
    odds = tumour_odds(logits)
    tumour = np.delete(np.exp(logits.astype(float)), NORMAL, axis=1).sum(axis=1)
    assert odds == pytest.approx(np.log(tumour) - logits[:, NORMAL])
    logits[:, NORMAL] = -60 - np.arange(50)
    sure = tumour_odds(logits)
    assert (1 / (1 + np.exp(-sure)) == 1).all()
    assert len(np.unique(sure)) == 50


def test_volumes_with_nothing_to_compare_are_left_out_and_named(classifier: Classifier) -> None:
    units = draw_units().astype(np.float32)
    lungless, nothing = np.repeat(units[:1], 3, axis=0), np.zeros(units.shape, bool)
    everywhere = Volume("everywhere", units, ~nothing)
    free = Volume("lungless", lungless, nothing[:3])
    found, left_out = judge_volumes(classifier, [everywhere], [free])
    assert left_out == ["everywhere", "lungless"]
    assert not found.outlined
    assert not found.free
