"""The page about a scan: a line a class, gaps where there are no scores, and the slices with the highest ones."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

import ctscan
from ctscan.inference.answer import Answer
from ctscan.scan import TALL, WIDE, ScanReport
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def answers() -> list[Answer]:
    """Five answered slices, the third of which is replaced by one that is refused."""
    classifier = ctscan.load(ROOT / "checkpoints" / "resnet18.safetensors")
    found = [classifier(path) for path in sorted((ROOT / "examples").glob("*.png"))[:5]]
    found[2] = classifier(np.random.default_rng(0).random((256, 256)).astype(np.float32))
    assert [answer.verdict for answer in found] == ["ok", "ok", "refused", "ok", "ok"]
    return found


@pytest.fixture
def report(answers: list[Answer]) -> ScanReport:
    made = ScanReport()
    for number, answer in enumerate(answers):
        made.add(number, None, answer)
    return made


def test_a_line_joins_neighbours_with_scores_and_leaves_a_gap(report: ScanReport, answers: list[Answer]) -> None:
    for key in answers[0].probabilities or {}:
        points = re.findall(r"([\d.]+) ([\d.]+)", report.line(key, answered=True))
        assert [float(x) for x, _ in points] == [WIDE * n / 4 for n in (0, 1, 3, 4)]
        shares = [(answers[n].probabilities or {})[key] for n in (0, 1, 3, 4)]
        assert [float(y) for _, y in points] == pytest.approx([TALL * (1 - share) for share in shares], abs=0.06)
        assert report.line(key, answered=False) == ""


def test_an_answered_slice_goes_before_a_higher_score_without_an_answer(answers: list[Answer]) -> None:
    made = ScanReport()
    crushed = ctscan.load(ROOT / "checkpoints" / "resnet18.safetensors")
    slice_ = answers[0].slice
    assert slice_
    unusual = crushed(np.clip(cv2.GaussianBlur(slice_.pixels, (0, 0), 4) * 1.5, 0, 1).astype(np.float32))
    assert unusual.verdict == "unusual"
    for number, answer in enumerate([unusual, answers[0], unusual]):
        made.add(number, None, answer)
    assert {found.reading.number for found in made.highest.values()} == {1}
    assert made.line("normal", answered=True) == ""
    assert made.line("normal", answered=False).count("M") == 2


def test_the_page_shows_the_slice_with_the_highest_score_of_each_class(
    report: ScanReport, answers: list[Answer], tmp_path: Path
) -> None:
    report.write(tmp_path / "scan.html")
    text = (tmp_path / "scan.html").read_text(encoding="utf-8")
    assert text.count("<img ") == 4
    for key, found in report.highest.items():
        assert found.share == max((answer.probabilities or {}).get(key, 0) for answer in answers)
        assert found.picture in text
    assert "4 answered, 0 without an answer" in text
    assert "reads each slice alone" in text
    assert answers[0].model_id in text
