"""Several real processes that train one network, on the processor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctscan.errors import DataError
from ctscan.inference.classifier import load
from ctscan.training.recipe import CTSCAN, Recipe, override
from ctscan.training.team import PROGRAM, Nodes, Team, gather
from ctscan.training.trainer import Trainer
from ctscan.training.weights import Weights, imagenet_weights
from tests.conftest import ROOT, free_port, wait_until
from tests.process_tree import children_of, is_running
from tests.samples import write_data

CPU = torch.device("cpu")
TINY = ["size=32", "precision=fp32", "optimiser=sgd", "schedule=step", "rate=3e-4", "epochs=1"]
MOVED = 1e-3  # by ten steps, some weight at least


@pytest.fixture(scope="module")
def weights(init: Path) -> Weights:
    return imagenet_weights(init)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), {"train": 3, "valid": 2, "test": 1})


Given = tuple[Recipe, NDArray[np.float32], NDArray[np.int64], Weights]


def take_ten_steps(team: Team, given: Given | None = None) -> dict[str, Tensor]:
    """Batch norm is frozen, for of a share it would see less than of a batch."""
    trainer = Trainer(*team.agree(given), team)
    for layer in trainer.net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    before = {name: values.clone() for name, values in trainer.net.named_parameters()}
    assert len([trainer.step(*batch) for batch in trainer.batches()]) == 10
    after = dict(trainer.net.named_parameters())
    assert max(float((after[name] - before[name]).detach().abs().max()) for name in before) > MOVED
    return dict(trainer.net.state_dict())


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(weights: Weights) -> None:
    """Of batches of seven, which two cannot share evenly."""
    recipe = override(CTSCAN, [*TINY, "batch=7", "augmentation=none", "dropout=0"])
    squares = np.random.default_rng(0).random((70, 2, 32, 32), np.float32)
    given = recipe, squares, np.arange(70, dtype=np.int64) % 4, weights
    ends = []
    for devices in (1, 2):
        with gather(Nodes(devices), CPU, take_ten_steps) as team:
            ends.append(take_ten_steps(team, given))
    for name, values in ends[0].items():
        assert torch.allclose(values, ends[1][name], rtol=0, atol=1e-4), name


def show_an_epoch(team: Team, given: list[Given] | None = None, at: Path | None = None) -> None:
    """The slices of each batch of this process, by the grey that is their number; each goes to a file of its own."""
    folder: Path = team.agree(at)
    for number, parts in enumerate(team.agree(given)):
        trainer = Trainer(*parts, team)
        seen = [[round(float(grey) * 100) for grey in greys[:, 0, 0, 0]] for greys, _, _ in trainer.batches()]
        for _ in trainer.epochs("two"):
            pass
        assert len(seen) == trainer.steps
        (folder / f"{number}-{team.rank}").write_text(repr(seen))
    team.mean(torch.zeros(1))  # when all have written: the first ends the others


@pytest.mark.slow
def test_every_slice_is_seen_once_an_epoch(weights: Weights, tmp_path: Path) -> None:
    recipe, given = override(CTSCAN, [*TINY, "batch=5", "augmentation=none"]), []
    counts = {19: [5, 5, 5, 4], 17: [5, 5, 7]}  # slices -> how many a batch has
    for n in counts:
        squares: NDArray[np.float32] = np.full((32, 32, 2, n), np.arange(n) / 100, np.float32).T
        given.append((recipe, squares, np.arange(n, dtype=np.int64) % 4, weights))
    with gather(Nodes(2), CPU, show_an_epoch) as team:
        show_an_epoch(team, given, tmp_path)
    for number, (n, sizes) in enumerate(counts.items()):
        shares = [eval((tmp_path / f"{number}-{rank}").read_text()) for rank in range(2)]
        assert [len(a) + len(b) for a, b in zip(*shares, strict=True)] == sizes
        assert sorted(seen for share in shares for part in share for seen in part) == list(range(n))
        assert min(len(part) for share in shares for part in share) >= 2


def test_too_many_processes_for_a_batch_are_refused(weights: Weights) -> None:
    squares, labels = np.zeros((9, 2, 32, 32), np.float32), np.arange(9) % 4
    with pytest.raises(DataError, match="8 slices in every batch"):
        Trainer(override(CTSCAN, [*TINY, "batch=7"]), squares, labels, weights, Team(CPU, 0, 4))


@pytest.mark.parametrize("node", ["1", "2/2@host:1", "0/2@host", "-1/2@host:1", "a/b@host:1"])
def test_a_node_that_is_none_is_refused_in_one_line(node: str) -> None:
    with pytest.raises(DataError, match="HOST:PORT"):
        Nodes.read(1, node, None)


def test_more_devices_than_there_are_is_one_line() -> None:
    with pytest.raises(DataError, match="--devices 99"), gather(Nodes(99), torch.device("cuda"), take_ten_steps):
        pass


def test_threads_are_shared_out_and_given_back() -> None:
    before = torch.get_num_threads()
    with gather(Nodes(threads=3), CPU, take_ten_steps):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before


# --- the command


def train_command(data: Path, init: Path, *changes: str) -> list[str]:
    fields = ["size=64", "batch=6", "precision=fp32", *changes]
    command = [sys.executable, str(ROOT / "train.py"), "--data", str(data), "--init", str(init), "--device", "cpu"]
    return command + [word for field in fields for word in ("--set", field)]


@contextmanager
def started(command: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """As at a terminal: Ctrl-C goes to its session, and is not ignored as by a job in the background."""
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    running = subprocess.Popen(
        command, cwd=folder, text=True, stderr=subprocess.PIPE, preexec_fn=listen, start_new_session=True
    )
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def lines(messages: str) -> list[str]:
    return [line for line in messages.replace("\r", "\n").splitlines() if line.strip()]


@pytest.mark.slow
def test_the_first_alone_writes_and_shows(data: Path, init: Path, tmp_path: Path) -> None:
    command = [*train_command(data, init, "epochs=2"), "--devices", "2", "--out", "m.safetensors"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "m.safetensors").card.metrics["valid"]["n"] == 8
    (folder,) = (tmp_path / "runs").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["curves.png", "log.csv", "recipe.json"]
    assert len((folder / "log.csv").read_text().splitlines()) == 3
    assert [line.split(":")[0] for line in lines(done.stderr) if "| 0/4 [" in line and "step" in line] == [
        "custom on cpu"
    ]
    assert "arning" not in done.stderr


@pytest.mark.slow
def test_a_child_whose_parent_is_gone_before_it_comes_up_ends_too(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    place = (str(tmp_path / "meet"), 1, 2, "cpu", 0, 1, gone.pid)
    program = PROGRAM.format(path=sys.path, place=place)
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False).returncode


@pytest.mark.slow
def test_ctrl_c_before_an_epoch_is_one_line_and_leaves_no_process(data: Path, init: Path, tmp_path: Path) -> None:
    with started([*train_command(data, init, "epochs=1", "batch=4"), "--devices", "2"], tmp_path) as running:
        wait_until(lambda: bool(children_of(running.pid)), 90)
        others = children_of(running.pid)
        os.killpg(running.pid, signal.SIGINT)
        _, messages = running.communicate(timeout=60)
    assert running.returncode == 130, messages
    said = [line for line in lines(messages) if line.startswith("ctscan:")]
    assert said == ["ctscan: interrupted."]
    assert "Traceback" not in messages
    wait_until(lambda: not any(map(is_running, others)))


@pytest.mark.nightly
def test_a_lost_process_ends_the_training_and_the_best_epoch_is_kept(data: Path, init: Path, tmp_path: Path) -> None:
    with started([*train_command(data, init, "epochs=500"), "--devices", "2"], tmp_path) as running:
        wait_until(lambda: bool(list(tmp_path.glob("runs/*/curves.png"))), 120)
        psutil.Process(children_of(running.pid)[0]).kill()
        _, messages = running.communicate(timeout=60)
    assert running.returncode == 0, messages
    assert "Traceback" not in messages
    assert load(tmp_path / "checkpoints" / "resnet18.safetensors").card.metrics["valid"]["n"] == 8


@pytest.mark.nightly
def test_two_nodes_train_together_and_end_together(data: Path, init: Path, tmp_path: Path) -> None:
    port = free_port()
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    for epochs, interrupted in ((2, False), (500, True)):
        commands = [
            [*train_command(data, init, f"epochs={epochs}"), "--force", "--node", f"{node}/2@127.0.0.1:{port}"]
            for node in range(2)
        ]
        with started(commands[0], folders[0]) as first, started(commands[1], folders[1]) as second:
            if interrupted:
                wait_until(lambda: len(list(tmp_path.glob("first/runs/*/curves.png"))) > 1, 120)
                os.killpg(first.pid, signal.SIGINT)
            messages = [running.communicate(timeout=120)[1] for running in (first, second)]
        assert [first.returncode, second.returncode] == [0, 130 if interrupted else 0], messages
        assert not [text for text in messages if "Traceback" in text]
    assert list(folders[1].iterdir()) == []
