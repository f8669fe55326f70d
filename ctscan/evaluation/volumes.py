"""CT volumes read by a classifier: does a mass stand out in its scan, and what is seen where there is none?

outlined   slices with a part of the outline against slices of the same volume that hold lung and lie well away from
           it, so that nothing but the level in the chest differs between them: scanner, patient and window are one
free       how often a slice with lung is called a tumour in a scan without a mass

No slice is left out for what the gate says of it; beside the scores stands what it says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctscan.classes import NORMAL
from ctscan.evaluation.maps import share_inside
from ctscan.imaging.anatomy import find_anatomy
from ctscan.inference.classifier import Classifier
from ctscan.io.images import Slice
from ctscan.io.volumes import WINDOWS, Volume
from ctscan.metrics import auroc
from ctscan.results.records import Alarms, Ranking, VolumeReadings

MARGIN = 3  # slices: one that lies nearer to an outlined one may still show a part of the mass


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
