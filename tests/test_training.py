"""Training from a folder to a checkpoint, on synthetic slices."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctscan.errors import DataError, ModelError
from ctscan.imaging.anatomy import find_anatomy
from ctscan.imaging.phantom import draw_phantom
from ctscan.imaging.preprocess import Preprocess, rank_greys
from ctscan.inference.classifier import load
from ctscan.io.images import read_slice
from ctscan.model.runtime import choose_device
from ctscan.training.augmentation import MOST_BLACK, MOST_WHITE, build_augmentation, cut_greys
from ctscan.training.data import Dataset, read_dataset
from ctscan.training.recipe import CTSCAN, SEED, Augmentation, Recipe, override
from ctscan.training.team import Team
from ctscan.training.trainer import Trainer, evaluate, fit, train
from ctscan.training.weights import IMAGENET_URL, Weights, build_net, imagenet_weights
from tests.conftest import ROOT, one_now, wait_until
from tests.samples import write_data

CPU = torch.device("cpu")
SMALL = override(CTSCAN, ["size=64", "batch=4", "rate=1e-3", "precision=fp32", "epochs=1", "name=small"])
LABELS = np.arange(8, dtype=np.int64) % 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), {"train": 2, "valid": 2, "test": 2})


@pytest.fixture(scope="module")
def dataset(data: Path) -> Dataset:
    return read_dataset(data)


@pytest.fixture(scope="module")
def weights(init: Path) -> Weights:
    return imagenet_weights(init)


def small_trainer(recipe: Recipe, weights: Weights) -> Trainer:
    return Trainer(recipe, np.zeros((8, 2, 64, 64), np.float32), LABELS, weights, Team(CPU))


def test_a_run_leaves_checkpoint_log_curves_and_scores(data: Path, init: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "model.safetensors"
    done = train(data, override(SMALL, ["epochs=2"]), out, init=init, runs=tmp_path / "runs", device="cpu")
    card = load(out).card
    assert card.model_id == done.card.model_id
    assert set(card.metrics) == {"train", "valid", "test", "test_unseen"}
    assert card.data["slices"] == {"train": 8, "valid": 8, "test": 8}
    assert card.map_scale_top > 0
    assert str(data) not in card.to_json()
    rows = list(csv.DictReader((done.folder / "log.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert done.best.epoch == int(min(rows, key=lambda row: float(row["valid_loss"]))["epoch"])
    assert (done.folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((done.folder / "recipe.json").read_text())["epochs"] == 2
    with pytest.raises(DataError, match="--force"):
        train(data, SMALL, out, init=init, runs=tmp_path / "runs")
    assert load(out).card.model_id == card.model_id


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "nowhere"}, "nowhere"),
        ({"init": "nothing.safetensors"}, "--init nothing.safetensors"),
        ({"out": "/proc/none/x.safetensors"}, "/proc/none"),
        ({"out": "."}, "is a folder"),
    ],
)
def test_what_a_user_can_mend_is_named_before_the_work(
    changes: dict[str, str], words: str, data: Path, init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {"data": data, "out": tmp_path / "m.safetensors", "init": init} | {k: Path(v) for k, v in changes.items()}
    with pytest.raises(DataError, match=words):
        train(paths["data"], SMALL, paths["out"], init=paths["init"])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.slow
@pytest.mark.parametrize("stop", one_now(signal.SIGTERM, signal.SIGINT))
def test_what_stops_a_training_leaves_the_best_so_far(
    data: Path, init: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "--data", str(data), "--init", str(init)]
    command += ["--set", "size=64", "--set", "batch=4", "--set", "epochs=500", "--out", "m.safetensors"]
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background job's children ignore Ctrl-C
    running = subprocess.Popen(command, cwd=tmp_path, text=True, stderr=subprocess.PIPE, preexec_fn=listen)
    try:
        wait_until(lambda: bool(list(tmp_path.glob("runs/*/curves.png"))), 90)
        if stop == signal.SIGTERM:  # and meanwhile another training has taken the name
            (tmp_path / "m.safetensors").write_text("another's")
        running.send_signal(stop)
        _, messages = running.communicate(timeout=90)
    finally:
        running.kill()
    assert running.returncode == 0, messages
    (made,) = [tmp_path / "m.safetensors"] if stop == signal.SIGINT else tmp_path.glob("runs/*/m.safetensors")
    assert load(made).card.metrics["valid"]["n"] == 8
    assert stop == signal.SIGINT or (tmp_path / "m.safetensors").read_text() == "another's"


def test_ctrl_c_keeps_the_best_epoch(
    dataset: Dataset, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def step(trainer: Trainer, *batch: Any) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps > 2 * trainer.steps:  # in the third epoch
            signal.raise_signal(signal.SIGINT)
        return original(trainer, *batch)

    original = Trainer.step
    monkeypatch.setattr(Trainer, "step", step)
    recipe = override(SMALL, ["epochs=9", "augmentation=none"])
    net, history = fit(recipe, dataset.of("train"), dataset.of("valid"), weights, CPU, tmp_path)
    assert len(history) == 2
    unseen = dataset.of("valid").squares(recipe.preprocess.square)
    kept = evaluate(net, unseen, dataset.of("valid").labels, CPU)
    assert kept.cross_entropy == pytest.approx(min(epoch.valid_loss for epoch in history), rel=1e-5)


def test_ctrl_c_before_there_is_an_epoch_says_where_the_log_is(
    data: Path, init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Trainer, "step", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(data, SMALL, tmp_path / "m.safetensors", init=init, runs=tmp_path / "runs", device="cpu")
    (folder,) = (tmp_path / "runs").iterdir()
    assert str(folder) in capsys.readouterr().err
    assert (folder / "recipe.json").exists()
    assert not (tmp_path / "m.safetensors").exists()


def test_the_same_seed_gives_the_same_first_epoch(dataset: Dataset, weights: Weights, tmp_path: Path) -> None:
    parts = dataset.of("train"), dataset.of("valid")
    losses = [fit(SMALL, *parts, weights, CPU, tmp_path)[1][0].train_loss for _ in range(2)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_eight_slices_are_learned_by_heart(dataset: Dataset, weights: Weights, tmp_path: Path) -> None:
    recipe = override(SMALL, ["size=32", "epochs=12", "augmentation=none", "label_smoothing=0", "dropout=0"])
    _, history = fit(recipe, dataset.of("train"), dataset.of("train"), weights, CPU, tmp_path)
    assert min(history, key=lambda epoch: epoch.valid_loss).valid_accuracy == 1


def test_a_training_that_diverges_from_the_first_epoch_is_refused(
    dataset: Dataset, weights: Weights, tmp_path: Path
) -> None:
    train_ = dataset.of("train")
    with pytest.raises(DataError, match="rate"):
        fit(override(SMALL, ["epochs=2", "rate=1e20"]), train_, train_, weights, CPU, tmp_path)
    assert [row["valid_loss"] for row in csv.DictReader((tmp_path / "log.csv").open())] == ["nan", "nan"]


# --- starting weights


class Planted:
    """What unpickling would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return Path.write_text, (self.path, "run")  # type: ignore[return-value]


def test_nothing_in_torchs_cache_is_unpickled_that_is_not_torchvisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / Path(IMAGENET_URL).name
    cached.parent.mkdir(parents=True)
    trace = tmp_path / "trace"
    torch.serialization.save({"conv1.weight": Planted(trace)}, cached)
    with pytest.raises(DataError) as caught:
        imagenet_weights(None)
    assert str(cached) in str(caught.value)
    assert not trace.exists()
    torch.serialization.load(cached, weights_only=False)  # the planted file does what it is planted for
    assert trace.exists()


def test_foreign_starting_weights_and_a_missing_gpu_are_refused(weights: Weights) -> None:
    some = {name: values for name, values in weights.items() if name != "conv1.weight"}
    with pytest.raises(DataError, match="not a state dict"):
        build_net(CTSCAN, some)
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="cuda"):
            choose_device("cuda")


# --- optimiser and augmentation


def test_every_block_below_the_head_has_a_lower_rate(weights: Weights) -> None:
    trainer = small_trainer(override(SMALL, ["layer_decay=0.5"]), weights)
    rates = [group["max_lr"] for group in trainer.optimiser.param_groups]
    assert rates == pytest.approx([1e-3 * 0.5**depth for depth in range(6)])
    assert trainer.optimiser.param_groups[0]["params"][0] is next(trainer.net.head.parameters())
    listed = sum(len(group["params"]) for group in trainer.optimiser.param_groups)
    assert listed == len(list(trainer.net.parameters()))


def test_the_seed_designs_rate_falls_by_ten_every_seven_epochs(weights: Weights) -> None:
    trainer = small_trainer(SEED, weights)
    assert trainer.optimiser.param_groups[0]["momentum"] == 0.9
    rates = []
    for _ in range(SEED.epochs):
        rates.append(trainer.optimiser.param_groups[0]["lr"])
        for _ in range(trainer.steps):
            trainer.optimiser.step()
            trainer.schedule.step()
    assert rates == pytest.approx([0.01] * 7 + [0.001] * 7 + [0.0001])


def test_a_last_batch_of_one_joins_the_one_before(weights: Weights) -> None:
    for n, sizes in ((9, [4, 5]), (10, [4, 4, 2]), (8, [4, 4])):
        trainer = Trainer(SMALL, np.zeros((n, 1, 64, 64), np.float32), np.arange(n) % 4, weights, Team(CPU))
        assert [len(labels) for _, labels, _ in trainer.batches()] == sizes
        assert trainer.steps == len(sizes)


def test_no_strength_leaves_the_picture_but_for_the_flip() -> None:
    square = torch.from_numpy(Preprocess(96)(draw_phantom())[0])
    for _ in range(5):
        drawn = build_augmentation("full", 0.0)(square)
        assert min(float((drawn - s).abs().max()) for s in (square, square.flip(-1))) < 1e-5


def test_greys_are_cut_as_a_narrower_window_cuts_them() -> None:
    pixels = read_slice((ROOT / "examples" / "01-lower-lobe-mass-wide-window.png").read_bytes()).pixels
    hull = find_anatomy(pixels).hull
    ranked, apart, changed = rank_greys(pixels, hull), [], []
    for seed in range(5):
        torch.manual_seed(seed)
        black, white = float(torch.rand(())) * MOST_BLACK, 1 - float(torch.rand(())) * MOST_WHITE
        narrower = np.clip(pixels, *np.quantile(pixels[hull], [black, white]))
        torch.manual_seed(seed)
        cut = cut_greys(torch.from_numpy(ranked)[None])[0].numpy()
        apart.append(np.abs(cut - rank_greys(narrower, hull))[hull].mean())
        changed.append(np.abs(cut - ranked)[hull].mean())
    # Not alike to the last digit: 8 bits have few greys, and of the one at either end all are cut or none.
    assert np.mean(apart) < 0.005 < 0.02 < np.mean(changed)


@pytest.mark.parametrize("kind", ["full", "seed", "none"])
def test_augmentation_keeps_shape_and_range_and_draws_for_each_slice(kind: Augmentation, weights: Weights) -> None:
    trainer = small_trainer(override(SMALL, [f"augmentation={kind}", "batch=8", "size=96"]), weights)
    square = torch.from_numpy(Preprocess(96)(draw_phantom())[0])
    trainer.squares = torch.stack([square] * 8)
    torch.manual_seed(0)
    ((batch, _, _),) = trainer.batches()
    assert batch.shape == (8, 2, 96, 96)
    assert 0 <= float(batch.min()) <= float(batch.max()) <= 1
    different = len({float(b.sum()) for b in batch})
    assert different == 8 if kind != "none" else different == 1


def test_precision_is_what_a_trial_shows_to_be_faster(
    weights: Weights, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    auto = override(SMALL, ["precision=auto"])
    trainer = small_trainer(auto, weights)
    before = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    state, seconds = torch.get_rng_state(), {bf16: trainer.trial(bf16) for bf16 in (True, False)}
    assert min(seconds.values()) > 0
    assert torch.equal(torch.get_rng_state(), state)  # a trial leaves neither weights nor chance as they were not
    assert all(torch.equal(value, before[name]) for name, value in trainer.net.state_dict().items())
    for slower in (True, False):
        other = small_trainer(auto, weights)
        monkeypatch.setattr(other, "trial", lambda bf16, slower=slower: 2.0 if bf16 == slower else 1.0)
        assert other.bf16 != slower
        assert ("0.50" if slower else "2.00") in capsys.readouterr().err
