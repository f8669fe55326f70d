"""CT volumes read by a classifier: does a mass stand out in its scan, and what is seen where there is none?

outlined   slices with a part of the outline against slices of the same volume that hold lung and lie well away from
           it, so that nothing but the level in the chest differs between them: scanner, patient and window are one
free       how often a slice with lung is called a tumour in a scan without a mass

No slice is left out for what the gate says of it; beside the scores stands what it says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctscan.classes import NORMAL
from ctscan.imaging.anatomy import find_anatomy
from ctscan.inference.classifier import Classifier
from ctscan.io.images import Slice
from ctscan.io.volumes import WINDOWS, Volume
from ctscan.metrics import auroc
from ctscan.model.runtime import run_in_batches
from ctscan.results.records import Alarms, Ranking, VolumeReadings

MARGIN = 3  # slices: one that lies nearer to an outlined one may still show a part of the mass


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
            slices = [Slice(volume.slice(z, window)[0]) for z in (*marked, *others)]
            anatomies = [find_anatomy(slice_.pixels) for slice_ in slices]
            squares = [
                classifier.card.preprocess.square(slice_.pixels, anatomy)
                for slice_, anatomy in zip(slices, anatomies, strict=True)
            ]
            logits = run_in_batches(classifier.runtime, np.stack(squares)).logits
            verdicts = Counter(judgement.verdict for judgement in classifier.gate.judge(slices, anatomies))
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
