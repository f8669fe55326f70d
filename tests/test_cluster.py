"""A cluster answers as one machine does, and loses and doubles nothing where one of its workers is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ctscan.cli import main
from tests.conftest import ROOT, Ctscan

SLICES = 40
EXAMPLES = sorted((ROOT / "examples").glob("*.png"))


def rows_of(table: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """Those processes below one that answer for files."""
    found = process.children(recursive=True)
    return [child for child in found if any("ray::" in word and "Worker" in word for word in child.cmdline())]


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_no_row_and_doubles_none(tmp_path: Path, run_ctscan: Ctscan) -> None:
    folder, out = tmp_path / "slices", tmp_path / "rows.jsonl"
    folder.mkdir()
    for number in range(SLICES):
        (folder / f"{number:02d} ä.png").write_bytes(EXAMPLES[number % len(EXAMPLES)].read_bytes())
    (folder / "07 ä.png").write_bytes(b"?")
    on_ray = [sys.executable, "-m", "ctscan", "predict", str(folder), "--out", str(out)]
    on_ray += ["--engine", "ray", "--threads", "2", "--batch", "2", "--maps", str(tmp_path / "maps")]
    with subprocess.Popen(on_ray, cwd=ROOT, stderr=subprocess.PIPE, text=True) as run:
        part, deadline = out.with_name("rows.jsonl.part"), time.monotonic() + 240
        while not (part.exists() and part.read_bytes().count(b"\n") > 4) and time.monotonic() < deadline:
            assert run.poll() is None, run.stderr.read() if run.stderr else ""
            time.sleep(0.05)
        workers = workers_of(psutil.Process(run.pid))
        assert len(workers) == 2
        os.kill(workers[0].pid, signal.SIGKILL)
        assert part.exists()
        _, said = run.communicate(timeout=240)
    assert run.returncode == 0, said
    local = tmp_path / "local.jsonl"
    assert run_ctscan("predict", folder, "--out", local).returncode == 0
    ours, theirs = rows_of(local), rows_of(out)
    assert len(theirs) == SLICES
    for one, other in zip(ours, theirs, strict=True):
        assert (one.pop("probabilities") or {}) == pytest.approx(other.pop("probabilities") or {}, abs=1e-5)
        assert one == other
    assert len(list((tmp_path / "maps").iterdir())) == SLICES - 1


def test_a_missing_ray_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["predict", str(EXAMPLES[0]), "--out", str(tmp_path / "x.csv"), "--engine", "ray"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.endswith("ray is not installed: `pip install -r requirements-ray.txt` brings it.")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--out", "x.csv", "--engine", "ray", "--address", "127.0.0.1:1"], "127.0.0.1:1"),
        (["--engine", "ray"], "--out"),
        (["--out", "x.csv", "--address", "127.0.0.1:6379"], "--engine ray"),
        (["--out", "x.csv", "--engine", "ray", "--device", "auto"], "--device"),
    ],
)
def test_flags_that_lead_nowhere_are_one_line(
    flags: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(EXAMPLES[0]), *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert said in lines[-1]
    assert sum(line.startswith("ctscan: ") for line in lines) == 1
