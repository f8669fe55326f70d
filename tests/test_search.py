"""A search on synthetic slices: every trial is kept, a second start goes on, and it ends where it was asked to."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier, Event, Thread
from typing import Any

import numpy as np
import pytest

from ctscan.errors import DataError
from ctscan.evaluation.intervals import Answers
from ctscan.evaluation.search import SPACE, Search, balanced_loss, suggest
from ctscan.model.runtime import Output
from ctscan.results.trials import trial_table
from ctscan.training.data import Split
from ctscan.training.manifest import Pool
from ctscan.training.recipe import TrainConfig, parse_flags
from ctscan.training.trainer import Weights, imagenet_weights
from tests.test_audit import draw_patient, save
from tests.test_data import LONG
from train import main

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


@dataclass
class Folds:
    """Stands for the training of a fold: what happens to it, by the number of its trial; else it gives an answer."""

    happens: dict[int, Callable[[], object]]

    def fit(
        self, recipe: TrainConfig, pool: Pool, fold: int, weights: Weights, device: str, title: str
    ) -> tuple[None, Output]:
        self.happens.get(int(re.findall(r"trial (\d+)", title)[0]), lambda: None)()
        logits = np.eye(4, dtype=np.float32)[pool.split.labels[pool.folds == fold]]
        return None, Output(logits, logits, logits, logits)


def fail_with(error: BaseException) -> Callable[[], object]:
    def fail() -> None:
        raise error

    return fail


@pytest.fixture
def start(tmp_path: Path, init: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Search]:
    """As a process that starts with these flags on eight slices."""
    labels = np.arange(8) % 4
    pool = Pool(Split(np.zeros((8, 1, 32, 32), np.float32), labels, tuple("abcdefgh"), labels > 0), labels, labels // 2)

    def start(*flags: str, happens: dict[int, Callable[[], object]] | None = None) -> Search:
        monkeypatch.setattr("ctscan.evaluation.search.fit_fold", Folds(happens or {}).fit)
        config = parse_flags(TrainConfig, ["--data", "x", "--runs", str(tmp_path / "runs"), *flags])
        return Search(config, pool, imagenet_weights(init), "cpu")

    return start


def states(search: Search) -> list[str]:
    return [trial.state.name for trial in search.study.trials]


def test_an_interrupted_trial_is_tried_again_and_counts_once(start: Callable[..., Search]) -> None:
    with pytest.raises(KeyboardInterrupt):
        start(happens={0: fail_with(KeyboardInterrupt())}).run(2)
    with pytest.raises(KeyboardInterrupt):
        start(happens={1: fail_with(KeyboardInterrupt())}).run(2)
    search = start()
    search.run(2)
    assert states(search) == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert search.study.trials[2].params == {name: getattr(search.base, name) for name in SPACE}
    assert [row["number"] for row in search.report()["trials"]] == [2, 3]


def test_a_search_interrupted_in_its_first_trial_has_no_entry_in_the_ledger(
    data: Path, init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["train.py", "--data", str(data), "--init", str(init), "--size", "64", "--ledger", "metrics.json"]
    monkeypatch.setattr("sys.argv", [*command, "--trials", "1"])
    monkeypatch.setattr("ctscan.evaluation.search.fit_fold", Folds({0: fail_with(KeyboardInterrupt())}).fit)
    assert main() == 0
    assert "the same command goes on" in capsys.readouterr().err
    assert not Path("metrics.json").exists()


def test_a_trial_that_fails_of_itself_is_kept_and_not_tried_again(start: Callable[..., Search]) -> None:
    out_of_memory = fail_with(RuntimeError())
    start(happens={0: out_of_memory, 1: out_of_memory}).run(2)  # and comes to an end
    for _ in range(2):
        search = start()
        search.run(2)
    assert states(search) == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    recipes = [trial.params for trial in search.study.trials]
    assert all(recipe not in recipes[:number] for number, recipe in enumerate(recipes))
    assert [row["state"] for row in search.report()["trials"]] == ["fail", "fail", "complete", "complete"]


def test_a_dead_process_has_its_trial_tried_again_and_a_live_one_keeps_its_own(
    start: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctscan.evaluation.search.HEARTBEAT", 1)
    monkeypatch.setattr("ctscan.evaluation.search.SILENCE", 3)
    dead = start()
    with pytest.warns(UserWarning, match="Heartbeat"):
        begun = dead.study.ask()
    suggest(begun, dead.base)
    dead.open_storage().record_heartbeat(begun._trial_id)  # and never again
    training, over = Barrier(2), Event()
    live = Thread(target=start(happens={1: lambda: (training.wait(60), over.wait())}).run, args=[1])
    live.start()
    try:
        training.wait(60)
        time.sleep(5)
        search = start()
        search.run(1)
        assert states(search) == ["FAIL", "RUNNING", "COMPLETE"]
        assert search.study.trials[2].params == search.study.trials[0].params
    finally:
        over.set()
        live.join()
    assert states(search) == ["FAIL", "COMPLETE", "COMPLETE"]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--batch", "24"], "--batch must be 16 or 32 or 64, not 24"),
        (["--mixup", "0.1"], "--mixup must be 0.0 or 0.2 or 0.4, not 0.1"),
        (["--ema", "0.9"], "--ema must be"),
        (["--weight-decay", "0"], "--weight-decay must be 0.001 to 0.3, not 0.0"),
        (["--recipe", "seed"], "--rate must be 0.0001 to 0.001, not 0.01"),
    ],
)
def test_a_base_that_the_space_does_not_hold_is_refused_before_there_is_a_study(
    start: Callable[..., Search], flags: list[str], named: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=named):
        start(*flags)
    assert not (tmp_path / "runs").exists()


def test_weights_that_fit_no_trial_are_refused_before_one_is_lost(start: Callable[..., Search]) -> None:
    search = start()
    with pytest.raises(DataError, match="not a state dict"):
        Search(search.base, search.pool, {}, "cpu")


def test_every_setting_of_the_space_is_one_of_the_recipe_and_holds_the_plain_one() -> None:
    plain = parse_flags(TrainConfig, ["--data", "x"])
    for name, space in SPACE.items():
        assert getattr(plain, name) in space


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
