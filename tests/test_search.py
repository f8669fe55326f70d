"""A search on synthetic slices: every trial is kept, a second start goes on, and it ends where it was asked to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctscan.config import TrainConfig, parse_flags
from ctscan.evaluation import Answers
from ctscan.search import SPACE, Range, balanced_loss, suggest
from ctscan.trials import trial_table
from tests.test_audit import draw_patient, save
from tests.test_data import LONG

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, seed = tmp_path_factory.mktemp("data"), 500
    for split, each in {"train": 4, "valid": 1, "test": 1}.items():
        for name in LONG.values():
            for number in range(each):
                save(folder / split / name / f"{number}.png", draw_patient(seed))
                seed += 1
    return folder


@pytest.mark.slow
def test_a_search_keeps_every_trial_and_goes_on(data: Path, init: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "--data", str(data), "--init", str(init), "--size", "64"]
    command += ["--epochs", "1", "--ledger", "metrics.json"]
    for trials in (2, 3):
        done = subprocess.run([*command, "--trials", str(trials)], cwd=tmp_path, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert "trial 0, fold 0" in done.stderr or trials == 3
    assert "trial 1, fold" not in done.stderr
    first, second = json.loads((tmp_path / "metrics.json").read_text())["searches"]
    assert [t["number"] for t in second["trials"]] == [0, 1, 2]
    assert second["trials"][:2] == first["trials"]
    plain = parse_flags(TrainConfig, ["--data", "x"])
    assert first["trials"][0]["settings"] == {name: getattr(plain, name) for name in SPACE}
    assert all(t["state"] == "complete" and len(t["folds"]) == 2 for t in second["trials"])
    assert [t["loss"] for t in second["trials"]] == pytest.approx(
        [np.mean([fold["loss"] for fold in t["folds"]]) for t in second["trials"]]
    )
    (folder,) = (tmp_path / "runs").glob("search-*")
    assert {"trials.db", "trials.json", "trials.md", "history.png", "importance.png"} <= {
        p.name for p in folder.iterdir()
    }
    assert not (tmp_path / "checkpoints").exists()
    assert str(data) not in (tmp_path / "metrics.json").read_text()


def test_every_setting_of_the_space_is_one_of_the_recipe_and_holds_the_plain_one() -> None:
    plain = parse_flags(TrainConfig, ["--data", "x"])
    for name, space in SPACE.items():
        value = getattr(plain, name)
        assert space.low <= value <= space.high if isinstance(space, Range) else value in space


def test_what_a_trial_draws_is_the_recipe() -> None:
    from optuna.trial import FixedTrial

    plain = parse_flags(TrainConfig, ["--data", "x"])
    drawn = {name: getattr(plain, name) for name in SPACE} | {"freeze": 2, "rate": 2e-4}
    assert suggest(FixedTrial(drawn), plain).settings() == plain.settings() | {"freeze": 2, "rate": 2e-4}


def test_the_objective_counts_classes_alike_and_no_temperature() -> None:
    right, wrong = [2.0, 0.0], [0.0, 2.0]
    logits = np.array([right] * 9 + [wrong] + [right, wrong], np.float32)
    some = Answers(logits, np.array([0] * 10 + [1] * 2), np.arange(12))
    hotter = Answers(logits / np.float32(3), some.labels, some.groups)
    assert balanced_loss(hotter) == pytest.approx(balanced_loss(some), rel=1e-4)
    p = 10 / 12  # what the temperature makes of 10 right answers of 12
    first, second = 0.9 * np.log(p) + 0.1 * np.log(1 - p), 0.5 * np.log(p) + 0.5 * np.log(1 - p)
    assert balanced_loss(some) == pytest.approx(-(first + second) / 2, rel=1e-3)


def test_the_table_has_the_best_first_and_the_failed_last() -> None:
    rows: list[dict[str, Any]] = [
        {"number": number, "state": state, "loss": loss, "folds": [], "settings": {"rate": 1 / 3}}
        for number, (state, loss) in enumerate([("fail", None), ("complete", 0.7), ("complete", 0.5), ("pruned", None)])
    ]
    lines = trial_table(rows).splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == ["2", "1", "0", "3"]
    assert "0.333" in lines[0]
