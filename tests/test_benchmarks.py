"""Every benchmark still runs: one round each, on a slice that ctscan brings. What they say is not judged here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, Command, Ctscan

RATIO = re.compile(r"^(.+ / .+): (\d+\.\d+)   \(", re.MULTILINE)
BENCHMARKS = {p.stem for p in (ROOT / "benchmarks").glob("*.py")} - {"__init__", "timing"}
RATIOS = {
    "app": 2,
    "batch": 3,
    "page": 3,
    "maps": 2,
    "reading": 4,
    "medical": 9,
    "training": 1,
    "runtimes": 1,
    "rivals": 3 + bool(find_spec("transformers")),
}  # lines of each

LONG = ("app", "batch", "page")  # minutes: they start the app, or read many files


def test_every_benchmark_is_run() -> None:
    assert set(RATIOS) == BENCHMARKS


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.nightly if name in LONG else pytest.mark.slow) for name in RATIOS]
)
def test_a_benchmark_prints_its_ratios(name: str, tmp_path: Path, run_ctscan: Ctscan, command: Command) -> None:
    given = [name, "--rounds", "1"]
    if name == "runtimes":
        assert run_ctscan("export", "--onnx", tmp_path / "model.onnx").returncode == 0
        given += ["--onnx", str(tmp_path / "model.onnx")]
    given += {"medical": ["--slices", "8"], "batch": ["--files", "8"], "training": ["--size", "64"]}.get(name, [])
    if name in LONG:  # a process of its own: a browser's driver is started once in a process
        line = [sys.executable, "-m", f"benchmarks.{name}", *given[1:]]
        printed = subprocess.run(line, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True).stdout
    else:
        threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
        try:
            printed = command(lambda: int(import_module(f"benchmarks.{name}").main() or 0), *given).stdout
        finally:
            torch.set_num_threads(threads)
            os.sched_setaffinity(0, cores)
    ratios = RATIO.findall(printed)
    assert len(ratios) == RATIOS[name]
    assert all(float(ratio) > 0 for _, ratio in ratios)
