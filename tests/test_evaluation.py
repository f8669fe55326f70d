"""Intervals hold groups together; evaluate.py from folders to metrics.json, on synthetic slices."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from scipy.stats import t

from ctscan.classes import CLASS_KEYS
from ctscan.errors import DataError
from ctscan.evaluation.intervals import Answers, Estimate, Evaluation, average, difference, evaluate, resample
from ctscan.imaging.anatomy import find_anatomy
from ctscan.imaging.phantom import draw_phantom
from ctscan.imaging.preprocess import Preprocess
from ctscan.inference.classifier import Classifier
from ctscan.model.card import Calibration
from ctscan.model.checkpoint import read_checkpoint, write_checkpoint
from ctscan.results.findings import judge_control, judge_subtype
from ctscan.training.control import CONTROLS, shuffle_labels, view
from ctscan.training.data import Split
from ctscan.training.manifest import Pool
from evaluate import check_classes, main
from tests.conftest import Command
from tests.test_audit import draw_patient, save
from tests.test_data import LONG

ROOT = Path(__file__).parent.parent


def make_answers(groups: np.ndarray, seed: int = 0) -> Answers:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, len(groups))
    logits = rng.normal(size=(len(groups), 4)).astype(np.float32)
    logits[np.arange(len(groups)), labels] += 1.5
    return Answers(logits, labels, groups)


def test_a_draw_takes_whole_groups_and_the_same_ones_for_both() -> None:
    first, second = np.array([0, 0, 1, 2, 2, 2]), np.array([2, 5, 0])
    for one, other in resample([first, second], 20):
        times = [int((first[one] == g).sum() / (first == g).sum()) for g in range(3)]
        assert len(one) == sum(t * n for t, n in zip(times, (2, 1, 3), strict=True))
        assert (second[other] == 2).sum() == times[2]
        assert (second[other] == 0).sum() == times[0]


def test_copies_in_a_group_do_not_narrow_the_interval() -> None:
    once = make_answers(np.arange(60))
    many = once.take(np.repeat(np.arange(60), 10))
    narrow, wide = (evaluate(a, CLASS_KEYS, 300).measures["accuracy"] for a in (once, many))
    assert wide.value == pytest.approx(narrow.value)
    assert wide.high - wide.low == pytest.approx(narrow.high - narrow.low, rel=0.15)


def test_a_perfect_score_still_has_an_interval() -> None:
    labels = np.arange(40) % 4
    sure = Answers((np.eye(4)[labels] * 20).astype(np.float32), labels, np.arange(40) // 2)
    found = evaluate(sure, CLASS_KEYS, 100)
    assert found.measures["accuracy"].value == 1
    assert 0.75 < found.measures["accuracy"].low < 0.9  # Wilson for 20 of 20 groups
    assert found.groups == 20


def test_measures_of_absent_classes_are_left_out() -> None:
    some = make_answers(np.arange(80))
    found = evaluate(some.take(some.labels != 2), CLASS_KEYS, 100).measures
    assert "sensitivity.squamous_cell_carcinoma" not in found
    assert "sensitivity.normal" in found
    assert all(np.isfinite([e.value, e.low, e.high]).all() for e in found.values())


def test_the_difference_of_a_thing_and_itself_is_nothing() -> None:
    some = make_answers(np.arange(80) // 3)
    gap = difference(some, some, CLASS_KEYS, ["accuracy", "auroc_macro"], 100)
    assert gap["accuracy"] == Estimate(0, 0, 0, 0)


def test_controls_hide_what_they_say() -> None:
    preprocess, pixels = Preprocess(96, surround="keep"), draw_phantom(200, 260)
    plain = preprocess.square(pixels)
    border = view("border_only", preprocess)(pixels)
    inside = preprocess.place(find_anatomy(pixels)).apply(find_anatomy(pixels).body.astype(np.float32)) == 1
    assert (border[0][inside] == 0).all()
    lungs = view("lungs_black", preprocess)(pixels)
    assert 0 < (lungs != plain).mean() < 0.8
    tone = view("tone_only", preprocess)(pixels)
    assert np.array_equal(np.sort(tone.ravel()), np.sort(plain.ravel()))
    assert not np.array_equal(tone, plain)
    assert np.array_equal(tone, view("tone_only", preprocess)(pixels))
    assert np.array_equal(view("none", preprocess)(pixels), plain)


def test_where_the_surround_is_black_the_border_is_an_outline() -> None:
    preprocess, pixels = Preprocess(96), draw_phantom(200, 260)
    anatomy = find_anatomy(pixels)
    border = view("border_only", preprocess)(pixels)
    assert set(np.unique(border)) == {0, 0.5}
    shown = preprocess.place(anatomy).apply(preprocess.visible(anatomy).astype(np.float32))
    assert ((border > 0) == (shown > 0)).all()


def test_shuffled_labels_are_one_a_group_and_keep_their_frequencies() -> None:
    groups = np.arange(400) // 4
    labels = (groups % 4).astype(np.int64)
    shuffled = shuffle_labels(labels, groups)
    assert all(len(np.unique(shuffled[groups == g])) == 1 for g in np.unique(groups))
    assert np.array_equal(np.bincount(shuffled), np.bincount(labels))
    assert 0.1 < (shuffled == labels).mean() < 0.4


def test_an_average_is_as_sure_as_its_repeats_agree() -> None:
    repeats = [evaluate(make_answers(np.arange(80) // 2, seed), CLASS_KEYS, 100) for seed in range(4)]
    values = [repeat.measures["accuracy"].value for repeat in repeats]
    whole, found = average(repeats), average(repeats).measures["accuracy"]
    expected = t.interval(0.95, 3, np.mean(values), np.std(values, ddof=1) / 2)
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.value == pytest.approx(np.mean(values))
    assert np.sum(whole.confusion) == 4 * 80
    assert (whole.n, whole.groups) == (80, 40)


def judged(balanced: float, normal: float, pair: float = 0.7) -> Evaluation:
    values = {"balanced_accuracy": balanced, "auroc.normal": normal}
    values |= {"auroc.adenocarcinoma.squamous_cell_carcinoma": pair}
    estimates = {name: Estimate(v, v - 0.04, v + 0.04, 0.02) for name, v in values.items()}
    return Evaluation(100, 50, estimates, (), [], [])


def test_a_finding_says_which_way_it_went() -> None:
    reference = judged(0.8, 0.98)
    assert "as it must be" in judge_control("shuffled_labels", judged(0.27, 0.5), reference)
    assert "must not be" in judge_control("shuffled_labels", judged(0.32, 0.5), reference)
    for control in CONTROLS[1:]:
        assert "Above chance" in judge_control(control, judged(0.4, 0.9), reference)
        assert "the look of a picture" in judge_control(control, judged(0.4, 0.9), reference)
        assert "Not clearly above chance" in judge_control(control, judged(0.28, 0.6), reference)
        assert "not above" in judge_control(control, judged(0.28, 0.6), reference)
    assert "One flat grey" in judge_control("border_only", judged(0.4, 0.9), reference, "black")
    assert "suspect" in judge_subtype(judged(0.8, 0.9, pair=0.85))
    assert "suspect" not in judge_subtype(judged(0.8, 0.9, pair=0.75))


# --- the command

Run = Command


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, seed = tmp_path_factory.mktemp("data"), 100
    for split, each in {"train": 5, "valid": 1, "test": 2}.items():
        for name in LONG.values():
            for number in range(each):
                save(folder / split / name / f"{number}.png", draw_patient(seed))
                seed += 1
    return folder


@pytest.fixture
def run(checkpoint_path: Path, init: Path, command: Command) -> Run:
    small = ["--checkpoint", str(checkpoint_path), "--draws", "100", "--ledger", "metrics.json", "--init", str(init)]
    small += ["--size", "64", "--batch", "8", "--epochs", "1"]
    return partial(command, main, "evaluate.py", *small)


def test_a_checkpoint_is_scored_with_intervals_and_plots(run: Run, data: Path, tmp_path: Path) -> None:
    done = run("--data", str(data))
    assert done.returncode == 0, done.stderr
    entries = json.loads((tmp_path / "metrics.json").read_text())["evaluations"]
    assert [e["split"] for e in entries] == ["published", "deduplicated"]
    for name in ("accuracy", "balanced_accuracy", "auroc_macro", "nll", "brier", "ece"):
        found = entries[0]["measures"][name]
        assert found["low"] <= found["value"] <= found["high"]
    plots = {p.name for p in (tmp_path / "runs").rglob("*.png")}
    assert {f"published-{plot}.png" for plot in ("confusion", "roc", "reliability", "risk-coverage")} <= plots
    assert str(data) not in (tmp_path / "metrics.json").read_text()
    run("--data", str(data))
    assert len(json.loads((tmp_path / "metrics.json").read_text())["evaluations"]) == 2  # no news is not kept


def test_a_file_that_is_skipped_is_said(run: Run, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "some")
    for number in range(100):
        save(tmp_path / "some" / "test" / LONG["normal"] / f"more-{number}.png", draw_patient(1000 + number))
    (tmp_path / "some" / "test" / LONG["normal"] / "broken.png").write_bytes(b"no picture")
    done = run("--data", str(tmp_path / "some"))
    assert done.returncode == 0, done.stderr
    assert "test: skipped" in done.stdout
    assert "broken.png" in done.stdout


def test_a_folder_from_elsewhere_goes_alone(run: Run) -> None:
    done = run("--folder", "x", "--explain")
    assert done.returncode == 2
    assert "--folder goes alone" in done.stderr


def test_a_test_split_of_nothing_but_copies_is_no_crash(run: Run, data: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(data / "train", copied / "train")
    shutil.copytree(data / "valid", copied / "valid")
    shutil.copytree(data / "train", copied / "test")
    done = run("--data", str(copied))
    assert done.returncode == 0, done.stderr
    assert "deduplicated test split: no slice is left" in done.stdout
    (entry,) = json.loads((tmp_path / "metrics.json").read_text())["evaluations"]
    assert entry["split"] == "published"


def test_folds_without_a_class_are_refused_before_training() -> None:
    labels = np.array([0, 1, 2, 3, 0, 1, 2])
    split = Split(np.zeros((7, 1, 32, 32), np.float32), labels, tuple("abcdefg"), np.ones(7, bool))
    pool = Pool(split, np.arange(7), np.array([0, 0, 0, 0, 1, 1, 1]))
    check_classes(pool, [0])
    check_classes(pool, [0, 1])
    with pytest.raises(DataError, match="Folds 1 hold no slice of Normal"):
        check_classes(pool, [1])


@pytest.mark.slow
def test_cross_validation_goes_on_where_it_stopped(run: Run, data: Path, tmp_path: Path, init: Path) -> None:
    done = run("--data", str(data), "--cross-validate", "--folds", "2")
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads((tmp_path / "metrics.json").read_text())["grouped"]
    assert [f["fold"] for f in entry["folds"]] == [0, 1]
    assert entry["n"] == sum(f["n"] for f in entry["folds"])
    (folder,) = (tmp_path / "runs").glob("grouped-*")
    kept = (folder / "fold-0.npz").stat().st_mtime_ns
    (folder / "fold-1.npz").unlink()
    again = run("--data", str(data), "--cross-validate", "--folds", "2")
    assert again.returncode == 0, again.stderr
    assert "fold 1" in again.stderr
    assert "fold 0" not in again.stderr
    assert (folder / "fold-0.npz").stat().st_mtime_ns == kept
    assert "balanced accuracy falls by" in entry["matched"]["finding"]
    (folder / "fold-1.npz").write_bytes((folder / "fold-1.npz").read_bytes()[:200])
    damaged = run("--data", str(data), "--cross-validate", "--folds", "2")
    assert damaged.returncode == 2
    assert "fold-1.npz is damaged; delete it" in damaged.stderr
    assert "Traceback" not in damaged.stderr
    weights = {name: values + 1 for name, values in safetensors.torch.load_file(init).items()}
    safetensors.torch.save_file(weights, tmp_path / "other.safetensors")
    other = run("--data", str(data), "--cross-validate", "--folds", "2", "--init", str(tmp_path / "other.safetensors"))
    assert other.returncode == 2
    assert "began with other starting weights" in other.stderr
    assert entry["matched"]["fall"]["low"] <= entry["matched"]["fall"]["value"] <= entry["matched"]["fall"]["high"]


@pytest.mark.slow
def test_a_recipe_is_compared_with_another_and_calibrated(
    run: Run, data: Path, tmp_path: Path, checkpoint_path: Path
) -> None:
    some = ("--data", str(data), "--folds", "2")
    assert run(*some, "--calibrate").returncode == 2  # there is nothing yet
    assert run(*some, "--cross-validate").returncode == 0
    (plain,) = (tmp_path / "runs").glob("grouped-*")
    done = run(*some, "--cross-validate", "--surround", "hull", "--against", str(plain))
    assert done.returncode == 0, done.stderr
    first, second = json.loads((tmp_path / "metrics.json").read_text())["grouped"]
    assert second["settings"] == first["settings"] | {"surround": "hull"}
    gap = second["against"]
    assert gap["settings"] == first["settings"]
    for name in ("balanced_accuracy", "nll"):
        expected = second["measures"][name]["value"] - first["measures"][name]["value"]
        assert gap["measures"][name]["value"] == pytest.approx(expected)
    refused = run(*some, "--cross-validate", "--surround", "hull", "--against", str(tmp_path))
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr

    done = run(*some, "--calibrate")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads((tmp_path / "metrics.json").read_text())["calibrations"]
    assert found["settings"] == first["settings"]
    assert found["temperature"]["low"] <= found["temperature"]["value"] <= found["temperature"]["high"]
    assert len(found["sets"]["thresholds"]) == 4
    assert set(found["sets"]["coverage"]) == set(CLASS_KEYS)
    assert read_checkpoint(checkpoint_path).card.calibration is None  # it comes from another recipe

    own, checkpoint = tmp_path / "own.safetensors", read_checkpoint(checkpoint_path)
    written = write_checkpoint(own, replace(checkpoint.card, training=first["settings"]), checkpoint.tensors)
    assert "stays as it is" in run(*some, "--calibrate", "--checkpoint", str(own)).stdout
    assert read_checkpoint(own).card.calibration is None  # two folds are not all
    every = ("--data", str(data), "--checkpoint", str(own))
    assert run(*every, "--cross-validate").returncode == 0
    done = run(*every, "--calibrate")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "metrics.json").read_text())["calibrations"][-1]
    card = Classifier.load(own).card
    assert card.calibration == Calibration(found["temperature"]["value"], 0.10, tuple(found["sets"]["thresholds"]))
    assert card.model_id == written.model_id


@pytest.mark.slow
def test_a_control_without_its_reference_is_one_sentence(run: Run, data: Path) -> None:
    done = run("--data", str(data), "--control", "border_only", "--folds", "2")
    assert done.returncode == 2
    assert "--cross-validate first" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_outside_folder_of_two_kinds_is_scored(run: Run, tmp_path: Path) -> None:
    for name, seeds in {"Malignant cases": range(4), "normal": range(10, 14)}.items():
        for seed in seeds:
            save(tmp_path / "outside" / name / f"{seed}.png", draw_patient(seed))
    done = run("--folder", "outside")
    assert done.returncode == 0, done.stderr
    (kept,) = (tmp_path / "runs").rglob("metrics.json")
    result = json.loads(kept.read_text())
    assert result["n"] == 8
    assert "auroc.tumour.normal" in result["measures"]
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.slow
def test_an_outside_folder_of_some_classes_is_scored(run: Run, tmp_path: Path) -> None:
    for name in ("large.cell.carcinoma", "normal"):
        for seed in range(3):
            save(tmp_path / "outside" / name / f"{seed}.png", draw_patient(seed + len(name)))
    assert run("--folder", "outside").returncode == 0
    (kept,) = (tmp_path / "runs").rglob("metrics.json")
    assert "sensitivity.adenocarcinoma" not in json.loads(kept.read_text())["measures"]


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (("cats",), "named like none"),
        (("tumor-free",), "named like none"),
        (("tumour", "adenocarcinoma"), "mixes"),
        ((), "holds no class"),
    ],
)
def test_what_is_wrong_with_an_outside_folder_is_said(
    run: Run, tmp_path: Path, names: tuple[str, ...], word: str
) -> None:
    (tmp_path / "outside").mkdir()
    for name in names:
        save(tmp_path / "outside" / name / "1.png", draw_patient(1))
    done = run("--folder", "outside")
    assert done.returncode == 2
    assert word in done.stderr
