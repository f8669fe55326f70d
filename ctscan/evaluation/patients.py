"""Patients from elsewhere whose histology is known: what a model says of them under every window, read once.

    manifest.csv, hu16/ --> Hounsfield units --window--> slice --gate, network--> class, odds, map --> one record

subtype    adenocarcinoma against squamous cell carcinoma, the mean odds of a patient's slices
lesion     slices that show one against slices of patients who have no lung cancer that is known of
places     does the strongest evidence, and how much of all, lie in an expert's box; beside an even and a central map
agreement  the likeliest class of one slice under two windows

No slice is left out for what the gate says of it. Nothing is chosen by these readings.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ctscan.classes import CLASS_KEYS, NORMAL
from ctscan.errors import DataError
from ctscan.evaluation.intervals import bootstrap
from ctscan.evaluation.volumes import Said, ask, tumour_odds
from ctscan.inference.classifier import Classifier
from ctscan.io.volumes import WINDOWS, Volume
from ctscan.metrics import auroc
from ctscan.results.records import Agreement, PatientReadings, PatientWindow

AIR = 1024  # added to Hounsfield units, so that they are stored without a sign
ADENOCARCINOMA, SQUAMOUS = CLASS_KEYS.index("adenocarcinoma"), CLASS_KEYS.index("squamous_cell_carcinoma")
NO_CANCER = "no lung cancer known"
LAY = "scout"  # who read the slice, where no expert did


@dataclass(frozen=True, eq=False)
class Case:
    """One slice of a patient."""

    patient: str
    label: str  # histology, as the collection's pathology says
    lesion: str  # `yes`, `maybe`, `not seen`; `outside` where the slice lies away from it; empty without one
    is_boxed: bool  # whether a radiologist or oncologist said where it is
    scan: Volume  # of this slice alone, the box of the lesion as its outline


def read_cases(folder: Path) -> list[Case]:
    """The slices that `manifest.csv` lists, as 16-bit PNG of Hounsfield units + 1024, in the radiological view.

    Raises:
        DataError: The list or a slice is missing, or not of that form.
    """
    cases = []
    try:
        with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                pixels = cv2.imread(str(folder / row["file"]), cv2.IMREAD_UNCHANGED)
                if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 2:
                    raise DataError(f"{folder / row['file']} is no 16-bit grey PNG.")
                edges = [row[name] for name in ("x0", "y0", "x1", "y1")]
                lesion = np.zeros(pixels.shape, bool)
                if all(edges):
                    left, top, right, bottom = map(int, edges)
                    lesion[top:bottom, left:right] = True
                scan = Volume(row["file"], pixels[None].astype(np.float32) - AIR, lesion[None])
                is_boxed = lesion.any() and not row["lesion_by"].startswith(LAY)
                cases.append(Case(row["patient"], row["label"], row["lesion"], bool(is_boxed), scan))
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{folder / 'manifest.csv'} cannot be used: {error}.") from None
    return cases


def judge_patients(classifier: Classifier, folder: Path, draws: int = 1000) -> PatientReadings:
    """All that is asked of these patients; about two forward passes a slice and window.

    Args:
        classifier: What answers.
        folder: As for `read_cases`, of two patients or more.
        draws: Of patients, for the intervals.

    Raises:
        DataError: As `read_cases`.
    """
    cases = read_cases(folder)
    said = {
        window: [ask(classifier, case.scan, 0, window) for case in tqdm(cases, window, leave=False)]
        for window in WINDOWS
    }
    top = {window: np.array([answer.logits.argmax() for answer in answers]) for window, answers in said.items()}
    return PatientReadings(
        model_id=classifier.card.model_id,
        patients=len({case.patient for case in cases}),
        slices=len(cases),
        windows=tuple(judge_window(window, cases, answers, draws) for window, answers in said.items()),
        agreement=tuple(
            Agreement(windows=pair, same=int((top[pair[0]] == top[pair[1]]).sum())) for pair in combinations(WINDOWS, 2)
        ),
    )


def judge_window(window: str, cases: list[Case], said: list[Said], draws: int) -> PatientWindow:
    """Everything under one window."""
    logits = np.stack([answer.logits for answer in said]).astype(np.float64)
    labels = np.array([case.label.replace(".", "_") for case in cases])
    _, patients = np.unique([case.patient for case in cases], return_inverse=True)
    shown = np.array([case.lesion == "yes" for case in cases])
    free = np.array([case.label.startswith(NO_CANCER) for case in cases])
    kinds = np.isin(labels, [CLASS_KEYS[ADENOCARCINOMA], CLASS_KEYS[SQUAMOUS]])
    kinds &= np.array([case.lesion != "outside" for case in cases])
    adenocarcinoma = labels == CLASS_KEYS[ADENOCARCINOMA]
    boxed = [answer for answer, case in zip(said, cases, strict=True) if case.is_boxed]
    shares = np.array([[answer.inside, answer.even] for answer in boxed]).reshape(-1, 2)

    def by_patient(scores: NDArray[np.float64], positive: NDArray[np.bool_], places: NDArray[np.int64]) -> float:
        drawn, of = np.unique(patients[places], return_inverse=True)
        means = np.bincount(of, scores[places]) / np.bincount(of)
        return auroc(means, np.bincount(of, positive[places], len(drawn)) > 0)

    def rank(places: NDArray[np.int64]) -> dict[str, float]:
        subtype = logits[:, ADENOCARCINOMA] - logits[:, SQUAMOUS]
        both = places[(shown | free)[places]]
        return {
            "subtype": by_patient(subtype, adenocarcinoma, places[kinds[places]]),
            "lesion": auroc(tumour_odds(logits[both]), shown[both]),
        }

    ranked = bootstrap([patients], rank, draws, window)
    return PatientWindow(
        window=window,
        adenocarcinoma=len(np.unique(patients[kinds & adenocarcinoma])),
        squamous=len(np.unique(patients[kinds & ~adenocarcinoma])),
        subtype=ranked.get("subtype"),
        lesions=int(shown.sum()),
        free=int(free.sum()),
        free_patients=len(np.unique(patients[free])),
        lesion=ranked.get("lesion"),
        alarms=int((logits.argmax(axis=1) != NORMAL)[free].sum()),
        refused=sum(answer.verdict == "refused" for answer in said),
        unusual=sum(answer.verdict == "unusual" for answer in said),
        boxes=len(boxed),
        hits=sum(answer.hit for answer in boxed),
        hits_of_centre=sum(answer.hit_of_centre for answer in boxed),
        inside=float(np.nanmean(shares[:, 0])) if len(boxed) else None,
        even=float(shares[:, 1].mean()) if len(boxed) else None,
    )
