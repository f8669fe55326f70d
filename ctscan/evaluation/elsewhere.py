"""CT from elsewhere, read by a classifier under every window: whole volumes, and patients with known histology.

A volume: does a mass stand out in its scan, and what is seen where there is none?

outlined   slices with a part of the outline against slices of the same volume that hold lung and lie well away from
           it, so that nothing but the level in the chest differs between them: scanner, patient and window are one
free       how often a slice with lung is called a tumour in a scan without a mass

Patients, each read once; nothing is chosen by these readings:

subtype    adenocarcinoma against squamous cell carcinoma, the mean odds of a patient's slices
lesion     slices that show one against slices of patients who have no lung cancer that is known of
places     does the strongest evidence, and how much of all, lie in an expert's box; beside an even and a central map
agreement  the likeliest class of one slice under two windows

No slice is left out for what the gate says of it; beside the scores stands what it says.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ctscan.classes import CLASS_KEYS, NORMAL
from ctscan.errors import DataError
from ctscan.evaluation.intervals import bootstrap
from ctscan.evaluation.maps import share_inside
from ctscan.imaging.anatomy import find_anatomy
from ctscan.inference.classifier import Classifier
from ctscan.io.images import Slice
from ctscan.io.volumes import WINDOWS, Volume
from ctscan.metrics import auroc
from ctscan.results.records import Agreement, Alarms, PatientReadings, PatientWindow, Ranking, VolumeReadings

MARGIN = 3  # slices: one that lies nearer to an outlined one may still show a part of the mass
AIR = 1024  # added to Hounsfield units, so that they are stored without a sign
ADENOCARCINOMA, SQUAMOUS = CLASS_KEYS.index("adenocarcinoma"), CLASS_KEYS.index("squamous_cell_carcinoma")
NO_CANCER = "no lung cancer known"
LAY = "scout"  # who read the slice, where no expert did


@dataclass(frozen=True, eq=False)
class Said:
    """What a model says of one slice under one window."""

    verdict: str
    logits: NDArray[np.float32]  # (K,)
    inside: float  # share of the likeliest class's evidence in the lesion; NaN without evidence
    even: float  # the lesion's share of the thorax
    hit: bool  # the strongest place lies in the lesion
    hit_of_centre: bool  # the thorax's centre does


def judge_volumes(
    classifier: Classifier, outlined: Sequence[Volume], free: Sequence[Volume]
) -> tuple[VolumeReadings, list[str]]:
    """Volumes with an outline and without a mass, under every window; about two forward passes a slice and window.

    Returns:
        The readings, and the names of the volumes that are left out: those whose every slice with lung lies near the
        outline, or that have none with lung.
    """
    rankings: list[Ranking] = []
    alarms: list[Alarms] = []
    left_out: list[str] = []
    for volume in (*outlined, *free):
        marked, others = volume.outlined(), slices_away(volume)
        if not others:
            left_out.append(volume.name)
            continue
        for window in WINDOWS:
            said = [ask(classifier, volume, z, window) for z in (*marked, *others)]
            logits, verdicts = np.stack([one.logits for one in said]), Counter(one.verdict for one in said)
            about: dict[str, Any] = {"volume": volume.name, "window": window}
            about |= {"refused": verdicts["refused"], "unusual": verdicts["unusual"]}
            if marked:
                stands_out = auroc(tumour_odds(logits), np.arange(len(logits)) < len(marked))
                rankings.append(Ranking(outlined=len(marked), others=len(others), auroc=stands_out, **about))
            else:
                called = int((logits.argmax(axis=1) != NORMAL).sum())
                alarms.append(Alarms(slices=len(others), alarms=called, **about))
    model_id = classifier.card.model_id
    return VolumeReadings(model_id=model_id, outlined=tuple(rankings), free=tuple(alarms)), left_out


def ask(classifier: Classifier, volume: Volume, z: int, window: str) -> Said:
    """One slice under one window, scored whatever the gate says of it."""
    pixels, lesion = volume.slice(z, window)
    anatomy = find_anatomy(pixels)
    square, placement = classifier.card.preprocess(pixels, anatomy)
    (judgement,) = classifier.gate.judge([Slice(pixels)], [anatomy])
    output = classifier.runtime.run(square[None])
    top = int(output.logits[0].argmax())
    evidence = placement.invert(np.maximum(output.maps[0, top], 0))
    rows, columns = np.nonzero(anatomy.thorax)
    return Said(
        verdict=judgement.verdict,
        logits=output.logits[0],
        inside=share_inside(evidence, lesion),
        even=float(lesion[anatomy.thorax].mean()),
        hit=bool(lesion.flat[evidence.argmax()]),
        hit_of_centre=bool(lesion[round(rows.mean()), round(columns.mean())]),
    )


def slices_away(volume: Volume) -> list[int]:
    """The slices that show lung, by the rules of `anatomy` on the lung window, `MARGIN` or more from the outline."""
    outlined = np.array(volume.outlined())
    return [
        z
        for z in range(len(volume.units))
        if np.abs(outlined - z).min(initial=MARGIN) >= MARGIN and find_anatomy(volume.slice(z, "lung")[0]).lungs
    ]


def tumour_odds(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logits (N, K) -> (N,): log odds of any tumour, in the order of its probability but without ties near 0 and 1."""
    wide = logits.astype(np.float64)
    odds: NDArray[np.float64] = np.logaddexp.reduce(np.delete(wide, NORMAL, axis=1), axis=1) - wide[:, NORMAL]
    return odds


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
