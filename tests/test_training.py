"""Training from a folder to a checkpoint, by the command a user types, on synthetic slices."""

from __future__ import annotations

import csv
import json
import math
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tqdm.auto import tqdm

from ctscan.errors import DataError, ModelError
from ctscan.imaging.phantom import draw_phantom
from ctscan.imaging.preprocess import Preprocess
from ctscan.inference.classifier import Classifier
from ctscan.model.checkpoint import read_checkpoint
from ctscan.model.runtime import choose_device
from ctscan.training.augmentation import Augmentation, augment, build_augmentation, random_window
from ctscan.training.data import Split, load_split
from ctscan.training.mixup import Batch, blend, mean_loss, mix
from ctscan.training.recipe import RECIPES, TrainConfig, parse_flags
from ctscan.training.trainer import Trainer, build_net, fit, imagenet_weights
from tests.conftest import Command
from tests.test_data import LONG, SHORT, write_split
from train import main

ROOT = Path(__file__).parent.parent
SMALL = ["--size", "64", "--batch", "4", "--rate", "1e-3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, names, seed in (("train", LONG, 0), ("valid", LONG, 1), ("test", SHORT, 2)):
        write_split(folder / name, names, each=2, seed=seed)
    return folder


Run = Command


@pytest.fixture
def train(data: Path, init: Path, command: Command) -> Run:
    def run(*flags: str, folder: Path = data) -> subprocess.CompletedProcess[str]:
        return command(main, "train.py", "--data", str(folder), "--init", str(init), *SMALL, *flags)

    return run


@pytest.mark.slow
def test_a_run_leaves_checkpoint_log_curves_scores_and_reading(train: Run, data: Path, tmp_path: Path) -> None:
    done = train("--epochs", "2", "--out", "made/model.safetensors")
    assert done.returncode == 0, done.stderr
    assert "loss=" in done.stderr
    classifier = Classifier.load(tmp_path / "made/model.safetensors")
    card = classifier.card
    assert set(card.metrics) == {"train", "valid", "test", "test_unseen"}
    assert card.metrics["test"]["n"] == 8
    assert len(card.metrics["test"]["interval95"]) == 2
    assert card.data["slices"] == {"train": 8, "valid": 8, "test": 8}
    assert card.map_scale_top > 0
    assert str(data) not in card.to_json()
    (folder,) = (tmp_path / "runs").iterdir()
    rows = list(csv.DictReader((folder / "log.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert (folder / "curves.png").stat().st_size > 1000
    assert json.loads((folder / "config.json").read_text())["epochs"] == 2
    (reading,) = json.loads((tmp_path / "made/metrics.json").read_text())["readings"]
    assert reading["model_id"] == card.model_id
    best = min(rows, key=lambda row: float(row["valid_loss"]))
    assert reading["best_epoch"] == int(best["epoch"])

    again = train("--epochs", "1", "--out", "made/model.safetensors")
    assert again.returncode == 2
    assert "--force" in again.stderr
    assert read_checkpoint(tmp_path / "made/model.safetensors").card == card


def test_the_seed_recipe_has_the_seed_design(init: Path) -> None:
    config = parse_flags(TrainConfig, ["--data", "x", "--recipe", "seed"])
    assert (config.optimiser, config.rate, config.schedule, config.batch, config.epochs) == (
        "sgd",
        0.01,
        "step",
        32,
        15,
    )
    assert (config.crop, config.tone, config.size, config.normalise, config.head) == (
        "none",
        "none",
        224,
        False,
        "mlp",
    )
    squares = np.zeros((8, 1, 64, 64), np.float32)
    split = Split(squares, np.arange(8) % 4, ("",) * 8, np.ones(8, bool))
    trainer = Trainer(config, split, imagenet_weights(init), torch.device("cpu"))
    assert trainer.optimiser.param_groups[0]["momentum"] == 0.9
    rates = []
    for _ in range(15):
        rates.append(trainer.rate)
        trainer.optimiser.step()
        trainer.schedule.step()
    assert rates[:7] == pytest.approx([0.01] * 7)
    assert rates[7:14] == pytest.approx([0.001] * 7)
    assert rates[14] == pytest.approx(0.0001)
    flips = {True for t in build_augmentation("seed").transforms if getattr(t, "p", None) == 0.7}
    assert flips == {True}


def test_flags_come_from_the_configuration_and_win_over_the_recipe() -> None:
    config = parse_flags(
        TrainConfig, ["--data", "x", "--recipe", "seed", "--epochs", "3", "--no-normalise", "--head", "linear"]
    )
    assert (config.epochs, config.normalise, config.head, config.rate) == (3, False, "linear", 0.01)
    assert parse_flags(TrainConfig, ["--data", "x"]) == TrainConfig(data=Path("x"), **RECIPES["ctscan"])
    for wrong in (["--epochs", "0"], ["--head", "conv"], ["--folds", "1"], ["--batch", "1"]):
        with pytest.raises(SystemExit) as caught:
            parse_flags(TrainConfig, ["--data", "x", *wrong])
        assert caught.value.code == 2


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--init", "nothing.safetensors"], "--init nothing.safetensors"),
        (["--out", "/proc/none/x.safetensors"], "/proc/none"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_2(train: Run, flags: list[str], sentence: str) -> None:
    done = train("--epochs", "1", *flags)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("train.py: ")
    assert sentence in last
    assert "Traceback" not in done.stderr


def test_a_broken_ledger_is_named_before_the_work(train: Run, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("[]")
    done = train("--out", "model.safetensors")
    assert done.returncode == 2
    assert "no ledger" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_is_named(train: Run, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "model.safetensors.partial").symlink_to("/dev/full")
    done = train("--epochs", "1", "--out", "made/model.safetensors", "--no-read-test")
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert not (tmp_path / "made/model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_what_stops_a_training_leaves_the_best_so_far(
    data: Path, init: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "--data", str(data), "--init", str(init), *SMALL]
    command += ["--epochs", "500", "--out", "m.safetensors"]
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background job's children ignore Ctrl-C
    running = subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, preexec_fn=listen)
    try:
        deadline = time.monotonic() + 90
        while not list(tmp_path.glob("runs/*/curves.png")):
            assert time.monotonic() < deadline
            assert running.poll() is None
            time.sleep(0.2)
        if stop == signal.SIGTERM:  # and meanwhile another training has taken the name
            (tmp_path / "m.safetensors").write_text("another's")
        running.send_signal(stop)
        messages, _ = running.communicate(timeout=90)
    finally:
        running.kill()
    assert running.returncode == 0, messages
    assert "Interrupted" in messages
    (made,) = [tmp_path / "m.safetensors"] if stop == signal.SIGINT else tmp_path.glob("runs/*/m.safetensors")
    assert Classifier.load(made).card.metrics["valid"]["n"] == 8
    assert stop == signal.SIGINT or (tmp_path / "m.safetensors").read_text() == "another's"
    assert str(made.relative_to(tmp_path)) in messages


def test_a_folder_is_no_checkpoint(train: Run, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    done = train("--out", "folder", "--force")
    assert done.returncode == 2
    assert "is a folder" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_the_same_seed_gives_the_same_first_epoch(data: Path, init: Path) -> None:
    config = parse_flags(
        TrainConfig, ["--data", str(data), "--init", str(init), *SMALL, "--epochs", "1", "--precision", "fp32"]
    )
    train, valid = (load_split(data / name, config.preprocess.square) for name in ("train", "valid"))
    losses = [fit(config, train, valid).history[0].train_loss for _ in range(2)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_sixteen_slices_are_learned_by_heart(init: Path, data: Path) -> None:
    flags = [*SMALL, "--epochs", "12", "--augmentation", "none", "--precision", "fp32", "--label-smoothing", "0"]
    config = parse_flags(TrainConfig, ["--data", str(data), "--init", str(init), *flags])
    train = load_split(data / "train", config.preprocess.square)
    fitted = fit(config, train, train)
    assert fitted.best.valid_accuracy == 1
    assert fitted.best.valid_loss == min(e.valid_loss for e in fitted.history)


def test_a_training_that_diverges_from_the_first_epoch_is_refused(init: Path, data: Path) -> None:
    flags = [*SMALL, "--epochs", "2", "--rate", "1e20", "--precision", "fp32"]
    config = parse_flags(TrainConfig, ["--data", str(data), "--init", str(init), *flags])
    train = load_split(data / "train", config.preprocess.square)
    losses: list[float] = []
    with pytest.raises(DataError, match="--rate"):
        fit(config, train, train, lambda epoch: losses.append(epoch.valid_loss))
    assert losses == pytest.approx([math.nan] * 2, nan_ok=True)


@pytest.mark.parametrize(
    ("step", "folders", "message"),
    [
        ("load_split", 0, r"interrupted\."),
        ("fit", 1, r"interrupted: no checkpoint was written, the run folder is runs/\S+\."),
        ("score_all", 1, r"interrupted: no checkpoint was written, the run folder is runs/\S+\."),
        ("append", 1, r"interrupted\."),
    ],
)
def test_ctrl_c_says_what_is_there(
    step: str,
    folders: int,
    message: str,
    data: Path,
    init: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--data", str(data), "--init", str(init), *SMALL, "--epochs", "1", "--out", "m.safetensors"]
    monkeypatch.setattr("sys.argv", ["train.py", *flags])
    monkeypatch.setattr(f"train.{step}", interrupt)
    assert main() == 130
    assert re.fullmatch(f"train.py: {message}", capsys.readouterr().err.splitlines()[-1])
    assert len(list(tmp_path.glob("runs/*"))) == folders
    assert Path("m.safetensors").exists() == (step == "append")


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_foreign_starting_weights_and_a_missing_gpu_are_refused(init: Path) -> None:
    config = parse_flags(TrainConfig, ["--data", "x", "--init", str(init)])
    weights = imagenet_weights(init)
    weights.pop("conv1.weight")
    with pytest.raises(DataError, match="not a state dict"):
        build_net(config, weights)
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="cuda"):
            choose_device("cuda")


def small_trainer(init: Path, data: Path, *flags: str) -> Trainer:
    command = ["--data", str(data), *SMALL, "--epochs", "1", "--precision", "fp32", *flags]
    config = parse_flags(TrainConfig, command)
    train = load_split(data / "train", config.preprocess.square)
    return Trainer(config, train, imagenet_weights(init), torch.device("cpu"))


def test_frozen_blocks_do_not_move_and_the_others_do(init: Path, data: Path) -> None:
    trainer = small_trainer(init, data, "--freeze", "3")
    before = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    with tqdm(disable=True) as progress:
        trainer.epoch(progress)
    after = trainer.net.state_dict()
    frozen = ("trunk.conv1", "trunk.bn1", "trunk.layer1", "trunk.layer2")
    for name, value in after.items():
        assert torch.equal(value, before[name]) == name.startswith(frozen), name


def test_every_block_below_the_head_has_a_lower_rate(init: Path, data: Path) -> None:
    trainer = small_trainer(init, data, "--layer-decay", "0.5", "--freeze", "1")
    rates = [group["max_lr"] for group in trainer.optimiser.param_groups]
    assert rates == pytest.approx([1e-3 * 0.5**depth for depth in range(5)])
    assert trainer.optimiser.param_groups[0]["params"][0] is next(trainer.net.head.parameters())
    listed = sum(len(group["params"]) for group in trainer.optimiser.param_groups)
    assert listed == sum(p.requires_grad for p in trainer.net.parameters())


def test_slices_without_lung_weigh_less(init: Path, data: Path) -> None:
    config = parse_flags(TrainConfig, ["--data", str(data), *SMALL, "--lungless", "0.25"])
    split = load_split(data / "train", config.preprocess.square)
    some = replace(split, lungs=np.arange(len(split)) > 2)
    trainer = Trainer(config, some, imagenet_weights(init), torch.device("cpu"))
    assert trainer.weights.tolist() == [0.25] * 3 + [1.0] * (len(split) - 3)


def test_a_mixed_batch_and_its_loss_by_hand() -> None:
    squares = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    batch = Batch(squares, torch.eye(4)[[0, 2]], torch.tensor([1.0, 0.5]))
    mixed = blend(batch, torch.tensor([1, 0]), 0.75)
    assert mixed.squares.flatten().tolist() == [0.25, 0.75]
    assert mixed.weights.tolist() == [0.875, 0.625]
    logits = torch.log(torch.tensor([[0.5, 0.2, 0.2, 0.1], [0.1, 0.1, 0.4, 0.4]]))
    first = 0.75 * math.log(0.5) + 0.25 * math.log(0.2)
    second = 0.25 * math.log(0.1) + 0.75 * math.log(0.4)
    expected = -(0.875 * first + 0.625 * second) / 1.5
    assert float(mean_loss(logits, mixed.targets, mixed.weights, 0.0)) == pytest.approx(expected, rel=1e-5)
    assert mix(batch, 0) is batch
    assert 0 < float(mix(batch, 0.4).targets.max()) <= 1


def test_the_plain_loss_is_the_cross_entropy() -> None:
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    plain = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert torch.allclose(mean_loss(logits, torch.eye(4)[labels], torch.ones(6), 0.1), plain)


def test_a_random_window_keeps_black_white_and_the_order_of_greys() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 500).view(1, 20, 25)
    drawn = [random_window(ramp) for _ in range(20)]
    for square in drawn:
        assert square.flatten()[0] == 0
        assert square.flatten()[-1] == pytest.approx(1, abs=1e-5)
        assert (square.flatten().diff() >= -1e-6).all()
    assert float(torch.stack(drawn)[:, 0, 10, 0].std()) > 0.1


def test_no_strength_leaves_the_picture_but_for_the_flip() -> None:
    square = torch.from_numpy(Preprocess(96)(draw_phantom())[0])
    for _ in range(5):
        drawn = build_augmentation("full", 0.0)(square)
        assert min(float((drawn - s).abs().max()) for s in (square, square.flip(-1))) < 1e-5


def test_settings_that_came_later_are_named_only_where_they_are_used() -> None:
    plain = TrainConfig(data=Path("x")).settings()
    assert not set(plain) & {"mixup", "layer_decay", "freeze", "lungless", "strength", "surround"}
    changed = replace(TrainConfig(data=Path("x")), surround="hull", freeze=2)
    assert changed.settings() == plain | {"surround": "hull", "freeze": 2}
    assert TrainConfig(data=Path("x"), **changed.settings()) == changed


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--mixup", "-1"),
        ("--mixup", "nan"),
        ("--layer-decay", "0"),
        ("--freeze", "6"),
        ("--lungless", "0"),
        ("--rate", "nan"),
        ("--weight-decay", "-1"),
        ("--weight-decay", "nan"),
        ("--label-smoothing", "2"),
        ("--label-smoothing", "-0.1"),
        ("--size", "16"),
        ("--dropout", "1.5"),
        ("--rate", "inf"),
        ("--mixup", "inf"),
        ("--seed", "-1"),
        ("--seed", "99999999999999999999999"),
        ("--trials", "-1"),
    ],
)
def test_contradictory_flags_end_in_the_usage_line(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_flags(TrainConfig, ["--data", "x", f"{flag}={value}"])
    assert caught.value.code == 2
    usage, reason = capsys.readouterr().err.split("error: ")
    assert usage.startswith("usage: ")
    assert flag.removeprefix("--") in reason


@pytest.mark.parametrize("kind", ["full", "windows"])
def test_augmentation_keeps_shape_and_range_and_draws_for_each_slice(kind: Augmentation) -> None:
    torch.manual_seed(0)
    square = torch.from_numpy(Preprocess(96)(draw_phantom())[0])
    batch = augment(build_augmentation(kind), torch.stack([square] * 6))
    assert batch.shape == (6, 1, 96, 96)
    assert 0 <= float(batch.min()) <= float(batch.max()) <= 1
    assert len({float(b.sum()) for b in batch}) == 6
    assert torch.equal(augment(build_augmentation("none"), batch), batch)
