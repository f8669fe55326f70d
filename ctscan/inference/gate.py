"""Slice -> may it be scored? Judged before any score: is it an upright axial chest CT slice, near the training data?

    Slice --rules--> fault?            --whole picture, the classifier's own trunk--> Output (pooled, shallow)
      |                                                                                  |
      +-- greys inside the body --> tone                     what it shows, distance, strangeness --> Judgement

The gate looks at the whole picture, letterboxed, with the greys as they are; the classifier sees the body alone with
its greys spread. So it knows what the crop hides: a page around a figure, a table at the wrong side, air that is white.

One linear layer over pooled features names what a picture shows (kinds in `KINDS`). Two distances say how far it is
from the training slices: to its nearest neighbours among the deepest features (Sun et al., ICML 2022), and
Mahalanobis' among the shallow ones (Lee et al., NeurIPS 2018; the shallow layer after Anthony and Kamnitsas, 2023).
A third, over the distribution of greys inside the body, says whether it was saved in a window the model never saw.
Fitted and measured by `gate_fit`; NumPy alone is needed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from ctscan.imaging.anatomy import Anatomy, Pixels, find_anatomy
from ctscan.imaging.preprocess import Preprocess
from ctscan.inference.rules import find_fault
from ctscan.io.images import Slice
from ctscan.metrics import softmax
from ctscan.model.runtime import Output, Runtime

Array: TypeAlias = NDArray[np.float32]
Verdict = Literal["ok", "unusual", "refused"]

CHEST = "chest"
KINDS = (CHEST, "turned", "upside_down", "inverted", "no_lungs", "no_ct")
WHAT_IT_IS = {
    "turned": "The slice seems to be turned by a quarter; the spine belongs at the bottom.",
    "upside_down": "The slice seems to be upside down; the spine belongs at the bottom.",
    "inverted": "The greys seem to be inverted; air belongs black and bone white.",
    "no_lungs": "This seems to be a CT slice, but not an axial one of the chest with lungs.",
    "no_ct": "This does not look like a CT slice.",
}
FAR = "The slice is unlike those that the model learned from."
STRANGE = "The picture's texture is unlike that of the slices that the model learned from."
OTHER_WINDOW = "The greys are spread unlike in any window that the model learned from."
FEW_GREYS = "The greys are crushed to a few values."
UNGATED = "This model has no gate: nothing has checked that the picture is a chest CT slice."

NEIGHBOURS = 5
TONES = 6  # numbers that say how greys are spread inside the body
CLIPPED = 0.5  # weight of the shares of black and white beside greys: a clipped lung is half of a body
LONGEST_COUNTED = 1024  # px, longer side of what greys are counted in
IN_USE = 1 / 2000  # of the body's pixels


@dataclass(frozen=True)
class Thresholds:
    """Where a signal changes the verdict. From slices that the network of their fold had not seen."""

    refused: float  # probability of `CHEST` below which no score is given
    unusual: float  # probability of `CHEST` below which the score comes with the reason
    far: float  # distance, in units of the usual one between training slices
    strange: float  # Mahalanobis' distance
    tone: float  # distance to the nearest training slices in what `tone_of` gives
    greys: float  # of 256, in use inside the body, below which they are too few
    outside: float  # share of the top class's positive evidence outside the body; not the gate's, but the alarm's


@dataclass(frozen=True, eq=False)
class Reference:
    """What a gate remembers of the training slices: no picture, only features."""

    weights: Array  # (K, 512 + 128) of the linear layer
    bias: Array  # (K,)
    neighbours: Array  # (N, 512) pooled features of unit length
    usual: Array  # (1,) median distance of a training slice to its neighbours in other visual groups
    mean: Array  # (128,) of the shallow features
    whitening: Array  # (128, 128): distance is the length of (x - mean) @ whitening
    tones: Array  # (N, TONES)


@dataclass(frozen=True)
class Signals:
    """What a slice was judged by."""

    kinds: tuple[float, ...]  # probabilities, in the order of KINDS
    distance: float
    strangeness: float
    tone: float
    greys: int  # of 256, in use inside the body

    @property
    def chest(self) -> float:
        """Probability of an upright axial chest CT slice."""
        return self.kinds[0]

    @property
    def other(self) -> str:
        """The likeliest kind but for the chest."""
        return KINDS[1 + int(np.argmax(self.kinds[1:]))]


@dataclass(frozen=True)
class Judgement:
    """The verdict with its reasons, each one sentence; none where it is ok."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()


def view(size: int) -> Preprocess:
    """How the gate sees a slice: all of it, with its own greys."""
    return Preprocess(size, "whole", "none", "keep")


def measure(output: Output, tones: Array, greys: NDArray[np.int64], reference: Reference) -> list[Signals]:
    """What the trunk says of N whole pictures, their greys (N, TONES) and the number in use (N,) -> N signals."""
    features = join(output)
    kinds = softmax(features @ reference.weights.T + reference.bias)
    far = distance(unit(output.pooled), reference.neighbours) / float(reference.usual[0])
    strange = np.linalg.norm((output.shallow - reference.mean) @ reference.whitening, axis=1)
    tone = np.array([nearest(np.linalg.norm(reference.tones - t, axis=1)) for t in tones])
    return [
        Signals(tuple(map(float, kinds[i])), float(far[i]), float(strange[i]), float(tone[i]), int(greys[i]))
        for i in range(len(features))
    ]


def join(output: Output) -> Array:
    """What the linear layer sees: (N, 512 + 128)."""
    return np.concatenate([output.pooled, output.shallow], axis=1)


def unit(features: Array) -> Array:
    """Rows scaled to length 1."""
    scaled: Array = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return scaled


def distance(features: Array, neighbours: Array) -> Array:
    """Unit features (N, C) -> mean Euclidean distance to the `NEIGHBOURS` nearest rows of (M, C): (N,)."""
    squared = np.maximum(2 - 2 * (features @ neighbours.T), 0)
    return nearest(np.sqrt(squared))


def nearest(distances: Array) -> Array:
    """Mean of the `NEIGHBOURS` smallest along the last axis."""
    means: Array = np.partition(distances, NEIGHBOURS - 1, axis=-1)[..., :NEIGHBOURS].mean(axis=-1)
    return means


def tone_of(pixels: Pixels, anatomy: Anatomy) -> tuple[Array, int]:
    """Slice pixels -> how greys are spread inside the body (TONES,), and how many of 256 are in use there.

    The first says in what window a slice was saved, whatever is in it: the median of the dark part (lungs), the
    quartiles of the bright part (tissue, bone), parted by Otsu's method, and the shares of black and of white.
    """
    inside = anatomy.thumbnail[anatomy.outline]
    every = -(-max(pixels.shape) // LONGEST_COUNTED)  # greys are counted, not averaged, so pixels are left out instead
    counted, body = pixels[::every, ::every], anatomy.body[::every, ::every]
    stored = np.rint(counted[body] * 255).astype(np.uint8)
    parting, _ = cv2.threshold(np.rint(inside * 255).astype(np.uint8), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    dark, bright = inside[inside * 255 <= parting + 0.5], inside[inside * 255 > parting + 0.5]
    levels = [
        np.median(dark) if len(dark) else 0.0,
        *(np.quantile(bright, [0.25, 0.5, 0.75]) if len(bright) else [0.0] * 3),
    ]
    clipped = [CLIPPED * (stored <= 1).mean(), CLIPPED * (stored >= 254).mean()]
    counts = np.bincount(stored, minlength=256)
    return np.array(levels + clipped, np.float32), int((counts >= max(1, IN_USE * counts.sum())).sum())


def decide(signals: Signals, at: Thresholds) -> Judgement:
    """Signals -> verdict. Refused for what it shows; unusual for that in doubt, or for being unlike the data."""
    if signals.chest < at.refused:
        return Judgement("refused", (WHAT_IT_IS[signals.other],))
    reasons = {
        WHAT_IT_IS[signals.other]: signals.chest < at.unusual,
        FAR: signals.distance > at.far,
        STRANGE: signals.strangeness > at.strange,
        OTHER_WINDOW: signals.tone > at.tone,
        FEW_GREYS: signals.greys < at.greys,
    }
    given = tuple(reason for reason, holds in reasons.items() if holds)
    return Judgement("unusual", given) if given else Judgement("ok")


class Gate:
    """Reference, thresholds and the runtime of the model they belong to. Stateless: threads may share it."""

    def __init__(self, reference: Reference, thresholds: Thresholds, runtime: Runtime, size: int) -> None:
        self.reference = reference
        self.thresholds = thresholds
        self._runtime = runtime
        self._view = view(size)

    def judge(self, slice_: Slice) -> Judgement:
        """Rules first; what breaks one is not given to the network."""
        fault = find_fault(slice_)
        return Judgement("refused", (fault,)) if fault else decide(self.signals(slice_), self.thresholds)

    def signals(self, slice_: Slice) -> Signals:
        """One forward pass over the whole picture."""
        anatomy = find_anatomy(slice_.pixels)
        tones, greys = tone_of(slice_.pixels, anatomy)
        output = self._runtime.run(self._view.square(slice_.pixels, anatomy)[None])
        return measure(output, tones[None], np.array([greys]), self.reference)[0]
