"""Intervals hold groups together; studies from a folder to records, on synthetic slices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from scipy.stats import t

from ctscan.classes import CLASS_KEYS
from ctscan.errors import DataError
from ctscan.evaluation import studies
from ctscan.evaluation.cross_validation import (
    CONTROLS,
    Setting,
    check_classes,
    open_setting,
    shuffle_labels,
    view,
)
from ctscan.evaluation.intervals import Answers, average, difference, evaluate, resample
from ctscan.imaging.anatomy import find_anatomy
from ctscan.imaging.phantom import draw_phantom
from ctscan.imaging.preprocess import Preprocess
from ctscan.inference.classifier import Classifier, load
from ctscan.model.checkpoint import read_checkpoint
from ctscan.results.ledger import read_ledger, update
from ctscan.results.records import Estimate
from ctscan.training.data import Dataset, Record
from ctscan.training.recipe import CTSCAN, PLAIN, override
from ctscan.training.trainer import train
from tests.samples import draw_patient, save, write_data

TINY = override(CTSCAN, ["size=32", "batch=8", "epochs=1", "precision=fp32", "name=tiny"])


def make_answers(groups: np.ndarray, seed: int = 0) -> Answers:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, len(groups))
    logits = rng.normal(size=(len(groups), 4)).astype(np.float32)
    logits[np.arange(len(groups)), labels] += 1.5
    return Answers(logits, labels, groups)


def test_a_draw_takes_whole_groups_and_the_same_ones_for_both() -> None:
    first, second = np.array([0, 0, 1, 2, 2, 2]), np.array([2, 5, 0])
    for ours, theirs in resample([first, second], 20):
        times = [int((first[ours] == g).sum() / (first == g).sum()) for g in range(3)]
        assert len(ours) == sum(t * n for t, n in zip(times, (2, 1, 3), strict=True))
        assert (second[theirs] == 2).sum() == times[2]
        assert (second[theirs] == 0).sum() == times[0]


def test_copies_in_a_group_do_not_narrow_the_interval() -> None:
    once = make_answers(np.arange(60))
    many = once.take(np.repeat(np.arange(60), 10))
    narrow, wide = (evaluate(a, CLASS_KEYS, 300).measures["accuracy"] for a in (once, many))
    assert wide.value == pytest.approx(narrow.value)
    assert wide.high - wide.low == pytest.approx(narrow.high - narrow.low, rel=0.15)


def test_a_perfect_score_still_has_an_interval() -> None:
    labels = np.arange(40) % 4
    sure = Answers((np.eye(4)[labels] * 20).astype(np.float32), labels, np.arange(40) // 2)
    result = evaluate(sure, CLASS_KEYS, 100)
    assert result.measures["accuracy"].value == 1
    assert 0.75 < result.measures["accuracy"].low < 0.9  # Wilson for 20 of 20 groups
    assert result.groups == 20


def test_measures_of_absent_classes_are_left_out() -> None:
    some = make_answers(np.arange(80))
    measures = evaluate(some.take(some.labels != 2), CLASS_KEYS, 100).measures
    assert "sensitivity.squamous_cell_carcinoma" not in measures
    assert "sensitivity.normal" in measures


def test_the_difference_of_a_thing_and_itself_is_nothing() -> None:
    some = make_answers(np.arange(80) // 3)
    gap = difference(some, some, CLASS_KEYS, ["accuracy", "auroc_macro"], 100)
    assert gap["accuracy"] == Estimate(value=0, low=0, high=0, se=0)


def test_an_average_is_as_sure_as_its_repeats_agree() -> None:
    results = [evaluate(make_answers(np.arange(80) // 2, seed), CLASS_KEYS, 100) for seed in range(4)]
    repeats = [result.measures["accuracy"] for result in results]
    values = [repeat.value for repeat in repeats]
    accuracy = average(repeats)
    expected = t.interval(0.95, 3, np.mean(values), np.std(values, ddof=1) / 2)
    assert (accuracy.low, accuracy.high) == pytest.approx(expected)
    assert accuracy.value == pytest.approx(np.mean(values))
    assert average(repeats[:1]) == repeats[0]


# --- controls


def test_controls_hide_what_they_say() -> None:
    preprocess, pixels = Preprocess(96, tone="none", surround="keep"), draw_phantom(200, 260)
    plain, anatomy = preprocess.square(pixels), find_anatomy(pixels)
    border = view("border_only", preprocess)(pixels)
    inside = preprocess.place(anatomy).apply(anatomy.body.astype(np.float32)) == 1
    assert (border[0][inside] == 0).all()
    lungs = view("lungs_black", preprocess)(pixels)
    assert 0 < (lungs != plain).mean() < 0.8
    tone = view("tone_only", preprocess)(pixels)
    assert np.array_equal(np.sort(tone.ravel()), np.sort(plain.ravel()))
    assert not np.array_equal(tone, plain)
    assert np.array_equal(tone, view("tone_only", preprocess)(pixels))
    assert np.array_equal(view(None, preprocess)(pixels), plain)


def test_where_the_surround_is_black_the_border_is_an_outline() -> None:
    preprocess, pixels = Preprocess(96), draw_phantom(200, 260)
    anatomy = find_anatomy(pixels)
    border = view("border_only", preprocess)(pixels)[:1]
    assert set(np.unique(border)) == {0, 0.5}
    assert ((border > 0) == (preprocess.place(anatomy).apply(anatomy.hull.astype(np.float32)) > 0)).all()


def made_up(labels: np.ndarray, groups: np.ndarray, folds: np.ndarray) -> Dataset:
    square = np.zeros((8, 8), np.uint8)
    rows = zip(labels.tolist(), groups.tolist(), folds.tolist(), strict=True)
    return Dataset(tuple(Record(Path(), "train", k, str(i), square, 0, g, f) for i, (k, g, f) in enumerate(rows)))


def test_shuffled_labels_are_one_a_group_and_keep_their_frequencies() -> None:
    groups = np.arange(400) // 4
    pool = made_up(groups % 4, groups, groups % 5)
    shuffled = shuffle_labels(pool, 0).labels
    assert all(len(np.unique(shuffled[groups == g])) == 1 for g in np.unique(groups))
    assert np.array_equal(np.bincount(shuffled), np.bincount(pool.labels))
    assert 0.1 < (shuffled == pool.labels).mean() < 0.4
    assert not np.array_equal(shuffled, shuffle_labels(pool, 1).labels)


def test_folds_without_a_class_are_refused_before_training() -> None:
    labels = np.array([0, 1, 2, 3, 0, 1, 2])
    pool = made_up(labels, np.arange(7), np.array([0, 0, 0, 0, 1, 1, 1]))
    check_classes(pool, [0])
    check_classes(pool, [0, 1])
    with pytest.raises(DataError, match="Folds 1 hold no slice of normal"):
        check_classes(pool, [1])


# --- studies


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), {"train": 5, "valid": 1, "test": 2}, seed=100)


@pytest.fixture
def setting(data: Path, init: Path, tmp_path: Path) -> Setting:
    return open_setting(data, tmp_path / "manifest.json", runs=tmp_path / "runs", draws=100, init=init, device="cpu")


def test_a_checkpoint_is_scored_with_intervals(setting: Setting, classifier: Classifier, tmp_path: Path) -> None:
    entries = studies.published(setting, classifier)
    assert [e.split for e in entries] == ["published", "deduplicated"]
    for estimate in entries[0].result.measures.values():
        assert estimate.low <= estimate.value <= estimate.high
    update(tmp_path / "metrics.json", *entries)
    update(tmp_path / "metrics.json", *studies.published(setting, classifier))
    assert len(read_ledger(tmp_path / "metrics.json").evaluations) == 2  # the same key takes the old one's place


def test_a_test_split_of_nothing_but_copies_has_no_deduplicated_part(setting: Setting, classifier: Classifier) -> None:
    train_ = setting.data.of("train")
    copies = Dataset(tuple(replace(r, split="test") for r in train_.records))
    copied = replace(setting, data=Dataset(train_.records + copies.records))
    assert [e.split for e in studies.published(copied, classifier)] == ["published"]


@pytest.mark.slow
def test_cross_validation_goes_on_where_it_stopped(setting: Setting, init: Path, tmp_path: Path) -> None:
    first = studies.grouped(setting, TINY, folds=2)
    assert [f.fold for f in first.folds] == [0, 1]
    assert first.result.n == sum(f.n for f in first.folds)
    assert first.window_fall is not None
    folder = setting.folder(TINY)
    kept = (folder / "fold-0.npz").stat().st_mtime_ns
    (folder / "fold-1.npz").unlink()
    studies.grouped(setting, TINY, folds=2)
    assert (folder / "fold-0.npz").stat().st_mtime_ns == kept
    again = studies.grouped(setting, TINY, folds=2, against=TINY)
    assert again.against is not None
    assert again.seed_of is None
    reseeded = studies.grouped(setting, replace(TINY, seed=1), folds=2, against=TINY)
    assert reseeded.seed_of == TINY.digest
    assert again.result.measures["nll"].value == pytest.approx(first.result.measures["nll"].value, rel=1e-3)
    with pytest.raises(DataError, match="does not hold"):
        studies.grouped(setting, TINY, folds=2, against=PLAIN)
    with pytest.raises(DataError, match="must have the crop"):
        studies.control(setting, "tone_only", TINY, about=PLAIN, folds=2)
    (folder / "fold-1.npz").write_bytes((folder / "fold-1.npz").read_bytes()[:200])
    with pytest.raises(DataError, match=r"fold-1\.npz is damaged; delete it"):
        studies.grouped(setting, TINY, folds=2)
    (folder / "fold-1.npz").unlink()
    weights = {name: values + 1 for name, values in safetensors.torch.load_file(init).items()}
    safetensors.torch.save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="began with other starting weights"):
        studies.grouped(replace(setting, init=tmp_path / "other.safetensors"), TINY, folds=2)


@pytest.mark.slow
def test_a_checkpoint_takes_the_calibration_of_its_own_recipe_from_all_folds(
    setting: Setting, data: Path, init: Path, tmp_path: Path
) -> None:
    made = train(data, TINY, tmp_path / "own.safetensors", init=init, runs=setting.runs, device="cpu")
    with pytest.raises(DataError, match="--cross-validate"):
        studies.calibrate(setting, TINY, checkpoint=made.checkpoint)
    whole = studies.grouped(setting, TINY, classifier=load(made.checkpoint))
    assert whole.model_id == made.card.model_id
    assert whole.published_minus_grouped is not None
    for other in ({"folds": 2}, {"recipe": PLAIN}):
        with pytest.raises(DataError, match="its own recipe"):
            studies.calibrate(setting, checkpoint=made.checkpoint, **{"recipe": TINY, "folds": 5} | other)  # type: ignore[arg-type]
    entry = studies.calibrate(setting, TINY, checkpoint=made.checkpoint)
    assert entry.temperature.low <= entry.temperature.value <= entry.temperature.high
    card = read_checkpoint(made.checkpoint).card
    assert card.calibration is not None
    assert card.calibration.temperature == entry.temperature.value
    assert card.model_id == made.card.model_id
    for kind in CONTROLS[1:]:
        control = studies.control(setting, kind, TINY, folds=1)
        assert (control.control, control.repeats, control.recipe) == (kind, 1, TINY.digest)


def test_an_outside_folder_of_two_kinds_is_scored(classifier: Classifier, tmp_path: Path) -> None:
    for name, seeds in {"Malignant cases": range(4), "normal": range(10, 14)}.items():
        for seed in seeds:
            save(tmp_path / "outside" / name / f"{seed}.png", draw_patient(seed))
    (tmp_path / "outside" / "normal" / "broken.png").write_bytes(b"no picture")
    result, unread, refused = studies.score_outside(tmp_path / "outside", classifier, draws=100)
    assert (result.n, unread, refused) == (8, 1, 0)
    assert "auroc.tumour.normal" in result.measures


def test_too_few_draws_are_refused_before_anything_is_read() -> None:
    with pytest.raises(DataError, match="too few"):
        open_setting(Path("nowhere"), Path("nowhere.json"), draws=10)
