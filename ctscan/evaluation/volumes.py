"""CT volumes read by a classifier: does a mass stand out in its scan, and what is seen where there is none?

outlined   slices with a part of the outline against slices of the same volume that hold lung and lie well away from
           it, so that nothing but the level in the chest differs between them: scanner, patient and window are one
free       how often a slice with lung is called a tumour in a scan without a mass

No slice is left out for what the gate says of it; beside the scores stands what it says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctscan.classes import NORMAL
from ctscan.evaluation.gate_measure import exact_interval
from ctscan.imaging.anatomy import find_anatomy
from ctscan.inference.classifier import Classifier
from ctscan.inference.gate import Verdict
from ctscan.io.images import Slice
from ctscan.io.volumes import WINDOWS, Volume
from ctscan.metrics import auroc
from ctscan.model.runtime import run_in_batches

MARGIN = 3  # slices: one that lies nearer to an outlined one may still show a part of the mass


@dataclass(frozen=True)
class Ranking:
    """How an outlined volume's slices are ordered under a window."""

    volume: str
    window: str
    outlined: int  # slices
    others: int  # slices
    auroc: float  # how often an outlined slice has the higher odds of a tumour than another
    refused: int  # by the gate, of all these slices
    unusual: int  # the same


@dataclass(frozen=True)
class Alarms:
    """How many slices of a volume without a mass are called a tumour under a window."""

    volume: str
    window: str
    slices: int
    alarms: int  # slices whose most likely class is a tumour
    low: float  # Clopper and Pearson's 95 % interval of their share; it takes slices as independent, which they are not
    high: float
    refused: int  # by the gate
    unusual: int


@dataclass(frozen=True)
class VolumeReading:
    """Every volume under every window, but for those in `left_out`."""

    outlined: list[Ranking]
    free: list[Alarms]
    left_out: list[str]  # volumes in which there is nothing to compare, or no lung

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"outlined": [asdict(r) for r in self.outlined], "free": [asdict(a) for a in self.free]}


def judge_volumes(classifier: Classifier, outlined: Sequence[Volume], free: Sequence[Volume]) -> VolumeReading:
    """Volumes with an outline and without a mass; about two forward passes a slice and window.

    A volume whose every slice with lung lies near the outline, or that has none with lung, is left out.
    """
    others = [slices_away(volume) for volume in outlined]
    lungs = [slices_with_lung(volume) for volume in free]
    pairs = [*zip(outlined, others, strict=True), *zip(free, lungs, strict=True)]
    return VolumeReading(
        [rank(classifier, v, away, w) for v, away in zip(outlined, others, strict=True) if away for w in WINDOWS],
        [count_alarms(classifier, v, lung, w) for v, lung in zip(free, lungs, strict=True) if lung for w in WINDOWS],
        [volume.name for volume, slices in pairs if not slices],
    )


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
    positive = np.arange(len(logits)) < len(outlined)
    area, refused, unusual = auroc(tumour_odds(logits), positive), verdicts["refused"], verdicts["unusual"]
    return Ranking(volume.name, window, len(outlined), len(others), area, refused, unusual)


def count_alarms(classifier: Classifier, volume: Volume, slices: Sequence[int], window: str) -> Alarms:
    """Slices, one or more, of a volume without a mass."""
    logits, verdicts = score(classifier, volume, slices, window)
    alarms = int((logits.argmax(axis=1) != NORMAL).sum())
    low, high = exact_interval(alarms, len(slices))
    return Alarms(volume.name, window, len(slices), alarms, low, high, verdicts["refused"], verdicts["unusual"])


def score(
    classifier: Classifier, volume: Volume, places: Sequence[int], window: str
) -> tuple[NDArray[np.float32], Counter[Verdict]]:
    """Logits (N, K) of the slices at N places, all of them, and the gate's verdicts on them."""
    slices = [Slice(volume.slice(z, window)[0]) for z in places]
    squares = np.stack([classifier.card.preprocess.square(slice_.pixels) for slice_ in slices])
    verdicts = Counter(classifier.judge(slice_).verdict for slice_ in slices)
    return run_in_batches(classifier.runtime, squares).logits, verdicts


def tumour_odds(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logits (N, K) -> (N,): log odds of any tumour, in the order of its probability but without ties near 0 and 1."""
    wide = logits.astype(np.float64)
    odds: NDArray[np.float64] = np.logaddexp.reduce(np.delete(wide, NORMAL, axis=1), axis=1) - wide[:, NORMAL]
    return odds
