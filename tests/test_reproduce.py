"""The whole chain on a few synthetic slices: from training to README and cards, and a second time for nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ctscan.model.checkpoint import read_checkpoint
from ctscan.results.ledger import read_ledger
from tests.conftest import ROOT, Ctscan
from tests.samples import write_data

SMALL = ("size=96", "batch=16", "epochs=1", "precision=fp32")  # 3 x 3 places in a map: of fewer, ranks say nothing


@pytest.mark.nightly
def test_the_chain_writes_checkpoint_figures_and_texts_and_then_does_nothing(
    init: Path, tmp_path: Path, run_ctscan: Ctscan
) -> None:
    data = write_data(tmp_path / "data", {"train": 6, "valid": 1, "test": 2})
    root = tmp_path / "checkout"
    (root / "checkpoints").mkdir(parents=True)
    for name in ("README.md", "examples"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, root / name)
    command = ["reproduce", "--data", data, "--root", root, "--init", init, "--draws", 100, "--device", "cpu"]
    command += [part for change in SMALL for part in ("--set", change)]
    first = run_ctscan(*command)
    assert first.returncode == 0, first.stderr
    card = read_checkpoint(root / "checkpoints" / "resnet18.safetensors").card
    ledger = read_ledger(root / "checkpoints" / "metrics.json")
    assert card.calibration
    assert [entry.threshold for entry in ledger.cross_validations] == [0.90, 0.85]
    assert len(ledger.controls) == 4
    for section in (ledger.readings, ledger.evaluations, ledger.map_tests):
        assert {entry.model_id for entry in section} == {card.model_id}
    assert card.model_id in (root / "checkpoints" / "README.md").read_text(encoding="utf-8")
    second = run_ctscan(*command)
    assert second.returncode == 0, second.stderr
    assert "done" not in second.stdout.replace("README and cards: done", "")
    assert read_ledger(root / "checkpoints" / "metrics.json") == ledger
