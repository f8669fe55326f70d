"""Patients from elsewhere: read as their list says, and counted as by hand and by scikit-learn."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ctscan.classes import NORMAL
from ctscan.errors import DataError
from ctscan.evaluation.elsewhere import (
    ADENOCARCINOMA,
    AIR,
    SQUAMOUS,
    Case,
    Said,
    ask,
    judge_patients,
    read_cases,
    tumour_odds,
)
from ctscan.inference.classifier import Classifier
from ctscan.io.volumes import WINDOWS
from tests.test_volumes import LUNGLESS, draw_units

# patient, label, lesion, by whom; a slice each
LISTED = [
    ("a", "adenocarcinoma", "yes", "radiologist"), ("a", "adenocarcinoma", "outside", "radiologist"),
    ("b", "adenocarcinoma", "yes", "scout"), ("b", "adenocarcinoma", "yes", "scout"),
    ("c", "squamous.cell.carcinoma", "not seen", "scout"), ("d", "squamous.cell.carcinoma", "yes", "oncologist"),
    ("e", "no lung cancer known (trauma)", "", "collection"), ("f", "no lung cancer known (trauma)", "", "collection"),
]  # fmt: skip
BOX = (26, 40, 40, 60)  # x0, y0, x1, y1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("patients")
    units = draw_units()
    with (made / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "patient", "label", "lesion", "lesion_by", "x0", "y0", "x1", "y1"])
        for z, (patient, label, lesion, by) in enumerate(LISTED, LUNGLESS):
            cv2.imwrite(str(made / f"{z}.png"), (units[z].astype(int) + AIR).astype(np.uint16))
            rows.writerow([f"{z}.png", patient, label, lesion, by, *(BOX if lesion == "yes" else [""] * 4)])
    return made


@pytest.fixture(scope="module")
def cases(folder: Path) -> list[Case]:
    return read_cases(folder)


def test_slices_come_back_in_their_units_with_the_box_where_an_expert_drew_it(cases: list[Case]) -> None:
    units = draw_units()
    for z, case in enumerate(cases, LUNGLESS):
        assert np.array_equal(case.scan.units[0], units[z])
    assert [case.is_boxed for case in cases] == [True, False, False, False, False, True, False, False]
    assert int(cases[0].scan.lesion.sum()) == 14 * 20


@pytest.fixture(scope="module")
def said(cases: list[Case], committed: Classifier) -> dict[str, list[Said]]:
    return {window: [ask(committed, case.scan, 0, window) for case in cases] for window in WINDOWS}


def test_what_is_counted_is_what_is_said_of_each_slice(
    folder: Path, said: dict[str, list[Said]], committed: Classifier
) -> None:
    found = judge_patients(committed, folder, 100)
    assert (found.patients, found.slices) == (6, 8)
    for given in found.windows:
        answers = said[given.window]
        logits = np.stack([answer.logits for answer in answers]).astype(float)
        odds = logits[:, ADENOCARCINOMA] - logits[:, SQUAMOUS]
        by_patient = [odds[0], odds[2:4].mean(), odds[4], odds[5]]  # the slice that lies outside is left out
        assert given.subtype is not None
        assert given.subtype.value == pytest.approx(roc_auc_score([1, 1, 0, 0], by_patient))
        both = [0, 2, 3, 5, 6, 7]
        assert given.lesion is not None
        assert given.lesion.value == pytest.approx(roc_auc_score([1, 1, 1, 1, 0, 0], tumour_odds(logits)[both]))
        assert (given.adenocarcinoma, given.squamous, given.lesions, given.free, given.free_patients) == (2, 2, 4, 2, 2)
        assert given.alarms == sum(logits[z].argmax() != NORMAL for z in (6, 7))
        assert (given.boxes, given.hits) == (2, answers[0].hit + answers[5].hit)
        assert given.inside == pytest.approx(np.nanmean([answers[0].inside, answers[5].inside]))
        assert [answer.verdict for answer in answers].count("refused") == given.refused
    for pair in found.agreement:
        first, second = ([answer.logits.argmax() for answer in said[window]] for window in pair.windows)
        assert pair.same == sum(a == b for a, b in zip(first, second, strict=True))


def test_a_folder_that_is_not_of_that_form_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="manifest"):
        read_cases(tmp_path)
    (tmp_path / "manifest.csv").write_text("file,patient\n1.png,a\n", encoding="utf-8")
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="16-bit"):
        read_cases(tmp_path)
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((4, 4), np.uint16))
    with pytest.raises(DataError, match="x0"):
        read_cases(tmp_path)
