"""CT volumes read by a classifier: does a mass stand out in its scan, and what is seen where there is none?

outlined   slices with a part of the outline against slices of the same volume that hold lung and lie well away from
           it, so that nothing but the level in the chest differs between them: scanner, patient and window are one
free       how often a slice with lung is called a tumour in a scan without a mass

No slice is left out for what the gate says of it; beside the scores stands what it says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date

import numpy as np
from numpy.typing import NDArray

from ctscan.classes import NORMAL
from ctscan.imaging.anatomy import find_anatomy
from ctscan.inference.classifier import Classifier
from ctscan.inference.gate import Verdict
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
    others = [slices_away(volume) for volume in outlined]
    lungs = [slices_with_lung(volume) for volume in free]
    readings = VolumeReadings(
        date=date.today().isoformat(),
        model_id=classifier.card.model_id,
        outlined=tuple(
            rank(classifier, v, away, w) for v, away in zip(outlined, others, strict=True) if away for w in WINDOWS
        ),
        free=tuple(
            count_alarms(classifier, v, lung, w) for v, lung in zip(free, lungs, strict=True) if lung for w in WINDOWS
        ),
    )
    pairs = zip([*outlined, *free], [*others, *lungs], strict=True)
    return readings, [volume.name for volume, slices in pairs if not slices]


def slices_with_lung(volume: Volume) -> list[int]:
    """The slices that show lung, by the rules of `anatomy` on the lung window."""
    return [z for z in range(len(volume.units)) if find_anatomy(volume.slice(z, "lung")[0]).lungs]


def slices_away(volume: Volume) -> list[int]:
    """Those of them that lie `MARGIN` slices or more from every outlined one."""
    outlined = np.array(volume.outlined())
    return [z for z in slices_with_lung(volume) if np.abs(outlined - z).min() >= MARGIN]


def rank(classifier: Classifier, volume: Volume, others: Sequence[int], window: str) -> Ranking:
    """The outlined slices of a volume against others of it, one or more."""
    outlined = volume.outlined()
    logits, verdicts = score(classifier, volume, [*outlined, *others], window)
    return Ranking(
        volume=volume.name,
        window=window,
        outlined=len(outlined),
        others=len(others),
        auroc=auroc(tumour_odds(logits), np.arange(len(logits)) < len(outlined)),
        refused=verdicts["refused"],
        unusual=verdicts["unusual"],
    )


def count_alarms(classifier: Classifier, volume: Volume, slices: Sequence[int], window: str) -> Alarms:
    """How many slices of a volume without a mass are called a tumour."""
    logits, verdicts = score(classifier, volume, slices, window)
    return Alarms(
        volume=volume.name,
        window=window,
        slices=len(slices),
        alarms=int((logits.argmax(axis=1) != NORMAL).sum()),
        refused=verdicts["refused"],
        unusual=verdicts["unusual"],
    )


def score(
    classifier: Classifier, volume: Volume, places: Sequence[int], window: str
) -> tuple[NDArray[np.float32], Counter[Verdict]]:
    """Logits (N, K) of the slices at N places, all of them, and the gate's verdicts on them."""
    slices = [Slice(volume.slice(z, window)[0]) for z in places]
    squares = np.stack([classifier.card.preprocess.square(slice_.pixels) for slice_ in slices])
    anatomies = [find_anatomy(slice_.pixels) for slice_ in slices]
    verdicts = Counter(judgement.verdict for judgement in classifier.gate.judge(slices, anatomies))
    return run_in_batches(classifier.runtime, squares).logits, verdicts


def tumour_odds(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logits (N, K) -> (N,): log odds of any tumour, in the order of its probability but without ties near 0 and 1."""
    wide = logits.astype(np.float64)
    odds: NDArray[np.float64] = np.logaddexp.reduce(np.delete(wide, NORMAL, axis=1), axis=1) - wide[:, NORMAL]
    return odds
