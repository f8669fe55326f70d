"""`python -m ctscan predict`: one JSON line a file, the same answer as the page's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ctscan.answer import answer
from ctscan.classifier import Classifier

ROOT = Path(__file__).parent.parent


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ctscan", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)


def test_one_line_a_file_in_order(
    checkpoint_path: Path, classifier: Classifier, slice_png: bytes, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad.png"
    good.write_bytes(slice_png)
    bad.write_bytes(b"?")
    done = run("predict", bad, good, "--checkpoint", checkpoint_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines == [answer(classifier, data).to_json() for data in (b"?", slice_png)]
    assert [line["verdict"] for line in lines] == ["unreadable", "unusual"]  # this model has no gate


def test_a_missing_file_or_checkpoint_is_one_line_and_exit_2(checkpoint_path: Path, tmp_path: Path) -> None:
    for arguments in (("none.png", "--checkpoint", checkpoint_path), ("x.png", "--checkpoint", tmp_path / "none")):
        done = run("predict", *arguments)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stdout == ""
