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
After the score, `share_outside` says how much of what moved it lies where no disease can be. NumPy and OpenCV only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from ctscan.errors import ModelError
from ctscan.imaging.anatomy import Anatomy, Mask, Pixels
from ctscan.imaging.preprocess import Placement, Preprocess
from ctscan.io.images import Slice
from ctscan.metrics import softmax
from ctscan.model.card import GateCard, Thresholds
from ctscan.model.checkpoint import Tensors
from ctscan.model.runtime import Output, Runtime
from ctscan.notices import Notice

Array: TypeAlias = NDArray[np.float32]
Verdict = Literal["ok", "unusual", "refused"]

# What a picture shows. All but the first are codes of notices too.
CHEST = "chest"
KINDS = (CHEST, "turned", "upside_down", "inverted", "no_lungs", "no_ct")

# px; of 69 training slices made this small, the gate refused 9 at 64, 8 at 72, 3 at 80 and 1 at 160
MIN_SIDE = 80
MAX_ASPECT = 2.5  # longer side by shorter; the widest chest cut close to the body has 1.8
MAX_COLOUR = 0.10  # of the pixels; arrows and stamps in colour stay below
MIN_SPREAD = 0.02  # standard deviation of the greys, of full scale; air and tissue are further apart in any window

NEIGHBOURS = 5
TONES = 6  # numbers that say how greys are spread inside the body
CLIPPED = 0.5  # weight of the shares of black and white beside greys: a clipped lung is half of a body
LONGEST_COUNTED = 1024  # px, longer side of what greys are counted in
IN_USE = 1 / 2000  # of the body's pixels
BORDER = 2 / 256  # of the longer side: frames and lines along the picture's edge
FULL = ("bias", "usual")  # tensors stored as float32, all others float16: distances change in their fourth digit


@dataclass(frozen=True, eq=False)
class Reference:
    """What a gate remembers of the training slices: no picture, only features."""

    weights: Array  # (K, 512 + 128) of the linear layer
    bias: Array  # (K,)
    neighbours: Array  # (N, 512) pooled features of unit length
    usual: Array  # (1,) median distance of a training slice to its neighbours in other visual groups
    mean: Array  # (128,) of the shallow features
    whitening: Array  # (128, 128): Mahalanobis' distance is the length of (x - mean) @ whitening
    tones: Array  # (N, TONES)

    @classmethod
    def from_tensors(cls, tensors: Tensors) -> Reference:
        """What `to_tensors` stored. Raises ModelError where one is missing."""
        if set(tensors) != {f.name for f in fields(cls)}:
            raise ModelError("The model's gate lacks tensors or has unknown ones.")
        return cls(**{name: values.astype(np.float32) for name, values in tensors.items()})

    def to_tensors(self) -> Tensors:
        """As they are stored in a checkpoint."""
        return {
            f.name: np.asarray(getattr(self, f.name), np.float32 if f.name in FULL else np.float16)
            for f in fields(self)
        }


@dataclass(frozen=True)
class Signals:
    """What a slice was judged by."""

    kinds: tuple[float, ...]  # probabilities, in the order of `KINDS`
    distance: float  # to the training slices, 1 for a usual one
    strangeness: float  # Mahalanobis' distance
    tone: float  # distance in how greys are spread
    greys: int  # of 256, in use inside the body
    lungs: bool  # whether the rules of anatomy find one

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
    """The verdict with its reasons; none where it is ok."""

    verdict: Verdict
    reasons: tuple[Notice, ...] = ()


class Gate:
    """Reference, thresholds and the runtime of the model they belong to. Stateless: threads may share it."""

    def __init__(self, card: GateCard, tensors: Tensors, runtime: Runtime) -> None:
        """Raises ModelError where the tensors are not those of a gate."""
        if card.kinds != KINDS:
            raise ModelError("The model's gate tells apart other kinds than this version of ctscan.")
        self.thresholds = card.thresholds
        self.reference = Reference.from_tensors(tensors)
        self._runtime = runtime
        self._view = view(card.size)

    def judge(self, slices: Sequence[Slice], anatomies: Sequence[Anatomy]) -> list[Judgement]:
        """The verdict on each slice; one forward pass over the whole pictures of those that break no rule."""
        faults = [
            find_fault(slice_) or (None if anatomy.is_one else Notice("two_slices"))
            for slice_, anatomy in zip(slices, anatomies, strict=True)
        ]
        whole = [i for i, fault in enumerate(faults) if fault is None]
        signals = iter(self.measure([slices[i] for i in whole], [anatomies[i] for i in whole]) if whole else [])
        return [Judgement("refused", (fault,)) if fault else decide(next(signals), self.thresholds) for fault in faults]

    def measure(self, slices: Sequence[Slice], anatomies: Sequence[Anatomy]) -> list[Signals]:
        """What at least one slice is judged by."""
        pairs = list(zip(slices, anatomies, strict=True))
        squares = np.stack([self._view.square(slice_.pixels, anatomy) for slice_, anatomy in pairs])
        tones, greys = zip(*(tone_of(slice_.pixels, anatomy) for slice_, anatomy in pairs), strict=True)
        lungs = [bool(anatomy.lungs) for anatomy in anatomies]
        return measure(self._runtime.run(squares), np.stack(tones), greys, lungs, self.reference)

    def find_shortcut(self, evidence: Array, placement: Placement, anatomy: Anatomy) -> tuple[Notice, ...]:
        """A notice where too much of a class's evidence, (h, w) over the square, lies where no disease can be."""
        share = share_outside(evidence, placement, where_disease_can_be(anatomy))
        return (Notice("evidence_outside", {"share": share}),) if share > self.thresholds.outside else ()


class Ungated(Gate):
    """The gate of a model that has none, as after a new training: every slice is unusual."""

    def __init__(self) -> None:
        """Nothing is known."""

    def judge(self, slices: Sequence[Slice], anatomies: Sequence[Anatomy]) -> list[Judgement]:
        """Unusual, all of them."""
        return [Judgement("unusual", (Notice("ungated"),))] * len(slices)

    def find_shortcut(self, evidence: Array, placement: Placement, anatomy: Anatomy) -> tuple[Notice, ...]:
        """No threshold is known."""
        return ()


def find_fault(slice_: Slice) -> Notice | None:
    """The first simple reason why a slice cannot be an axial chest CT slice: size, shape, colour, emptiness.

    Looks at numbers that cost nothing, before any network is asked. What passes here need not be a CT slice.
    """
    height, width = slice_.pixels.shape
    if min(height, width) < MIN_SIDE:
        return Notice("few_pixels", {"width": width, "height": height, "least": MIN_SIDE})
    if max(height, width) > MAX_ASPECT * min(height, width):
        return Notice("too_long")
    if slice_.colour > MAX_COLOUR:
        return Notice("in_colour")
    if float(np.std(slice_.pixels, dtype=np.float64)) < MIN_SPREAD:
        return Notice("one_grey")
    return None


def decide(signals: Signals, at: Thresholds) -> Judgement:
    """Signals -> verdict. Refused for what it shows; unusual for that in doubt, or for being unlike the data."""
    if signals.chest < at.refused:
        return Judgement("refused", (Notice(signals.other),))
    reasons = {
        signals.other: signals.chest < at.unusual,
        "far": signals.distance > at.far,
        "strange": signals.strangeness > at.strange,
        "other_window": signals.tone > at.tone,
        "few_greys": signals.greys < at.greys,
    }
    if not signals.lungs:  # whatever the network takes it for: some slices of a belly it takes for a chest
        reasons["no_lungs"] = True
    given = tuple(Notice(code) for code, holds in reasons.items() if holds)
    return Judgement("unusual", given) if given else Judgement("ok")


def view(size: int) -> Preprocess:
    """How the gate sees a slice: all of it, in a square of this side, with its own greys."""
    return Preprocess(size, "whole", "none", "keep")


def measure(
    output: Output, tones: Array, greys: Sequence[int], lungs: Sequence[bool], reference: Reference
) -> list[Signals]:
    """What the trunk says of N pictures, their greys (N, TONES), those in use, whether there are lungs -> signals."""
    features = np.concatenate([output.pooled, output.shallow], axis=1)
    kinds = softmax(features @ reference.weights.T + reference.bias)
    squared = 2 - 2 * (unit(output.pooled) @ reference.neighbours.T)
    far = nearest(np.sqrt(np.maximum(squared, 0))) / float(reference.usual[0])
    strange = np.linalg.norm((output.shallow - reference.mean) @ reference.whitening, axis=1)
    tone = np.array([nearest(np.linalg.norm(reference.tones - t, axis=1)) for t in tones])
    return [
        Signals(tuple(map(float, kinds[i])), float(far[i]), float(strange[i]), float(tone[i]), greys[i], lungs[i])
        for i in range(len(features))
    ]


def unit(features: Array) -> Array:
    """Rows scaled to length 1."""
    scaled: Array = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return scaled


def nearest(distances: Array) -> Array:
    """Mean of the `NEIGHBOURS` smallest along the last axis."""
    means: Array = np.partition(distances, NEIGHBOURS - 1, axis=-1)[..., :NEIGHBOURS].mean(axis=-1)
    return means


def tone_of(pixels: Pixels, anatomy: Anatomy) -> tuple[Array, int]:
    """How greys are spread inside the body (TONES,), and how many of 256 are in use there.

    The first says in what window a slice was saved, whatever is in it: the median of the dark part (lungs), the
    quartiles of the bright part (tissue, bone), parted by Otsu's method, and the shares of black and of white.
    """
    inside = np.sort(anatomy.thumbnail[anatomy.outline])
    every = -(-max(pixels.shape) // LONGEST_COUNTED)  # greys are counted, not averaged, so pixels are left out instead
    stored = np.rint(pixels[::every, ::every][anatomy.body[::every, ::every]] * 255).astype(np.uint8)
    parting, _ = cv2.threshold(np.rint(inside * 255).astype(np.uint8), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    dark, bright = np.split(inside, [int((inside * 255 <= parting + 0.5).sum())])
    lung = np.median(dark) if len(dark) else 0.0
    tissue = np.quantile(bright, [0.25, 0.5, 0.75]) if len(bright) else [0.0] * 3
    counts = np.bincount(stored, minlength=256)
    clipped = [CLIPPED * ends.sum() / counts.sum() for ends in (counts[:2], counts[254:])]
    return np.array([lung, *tissue, *clipped], np.float32), int((counts >= max(1, IN_USE * counts.sum())).sum())


def share_outside(evidence: Array, placement: Placement, inside: Mask) -> float:
    """Of evidence (h, w) over the model's square, the share that does not lie in a mask (H, W) of the slice.

    The whole square counts: what lies in its black bars, or where the slice was cropped away, lies outside. NaN where
    there is no evidence.
    """
    fine = cv2.resize(evidence, (placement.size, placement.size), interpolation=cv2.INTER_LINEAR).astype(np.float64)
    total = float(fine.sum())
    return 1 - float((fine * placement.apply(inside.astype(np.float32))).sum()) / total if total > 0 else float("nan")


def where_disease_can_be(anatomy: Anatomy) -> Mask:
    """(H, W): the body, but for the picture's border.

    Text and frames that scanners burn in lie outside the body's mask: it is the largest bright component, with thin
    lines cut off. What is drawn over the body itself cannot be told from anatomy by grey and shape.
    """
    width = max(1, round(BORDER * max(anatomy.shape)))
    inside = np.zeros(anatomy.shape, bool)
    inside[width:-width, width:-width] = anatomy.body[width:-width, width:-width]
    return inside
