"""A slice -> a prediction: the stages in order, without state, so that threads may share one classifier."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctscan.errors import ModelError
from ctscan.imaging.phantom import draw_phantom
from ctscan.imaging.preprocess import Placement
from ctscan.inference.calibration import calibrate
from ctscan.inference.conformal import prediction_sets
from ctscan.inference.gate import UNGATED, Gate, Judgement
from ctscan.inference.gate_file import gate_path, read_gate
from ctscan.io.images import Slice
from ctscan.model.card import Card
from ctscan.model.checkpoint import read_checkpoint
from ctscan.model.onnx_file import read_onnx_file
from ctscan.model.onnx_runtime import OnnxRuntime
from ctscan.model.runtime import Runtime, TorchRuntime, choose_device

GOLDEN_TOLERANCE = 1e-3  # logits, fp32: what processors differ by is below it, what a wrong weight does is above
GOLDEN_TOLERANCE_INT8 = 0.1  # a value rounded to the next of 256 steps moves logits by 0.03, a saturated sum by more
RUNTIMES = {"torch": "resnet18.safetensors", "onnx": "resnet18.onnx"}  # runtime -> its file in checkpoints/
NO_EVIDENCE = 0.1  # of the scale's top: a map whose peak stays under it shows no place

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says of one slice, and what moved it."""

    classes: tuple[str, ...]  # K keys
    logits: NDArray[np.float32]  # (K,)
    probabilities: NDArray[np.float64]  # (K,), sum 1; raw scores where `possible` is None
    possible: tuple[str, ...] | None  # keys of the classes that cannot be ruled out; None where that is not known
    maps: NDArray[np.float32]  # (K, h, w), signed, logit units, over the model's square
    square: NDArray[np.float32]  # (S, S) in [0, 1]: what the model saw
    placement: Placement  # from the slice to the square and back
    map_top: float  # logit units: top of the scale of all maps
    model_id: str

    @property
    def top(self) -> int:
        """Index of the class with the highest probability."""
        return int(self.probabilities.argmax())

    @property
    def uncertain(self) -> bool:
        """Whether anything but exactly one class remains possible."""
        return self.possible is not None and len(self.possible) != 1

    def evidence(self, index: int, shape: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """Grad-CAM of a class over the slice: float32, (H, W) of the slice or `shape`, >= 0, logit units."""
        return self.placement.invert(np.maximum(self.maps[index], 0), shape)

    def is_localised(self, index: int) -> bool:
        """Whether the class's map has a place worth showing: a peak of a tenth of the scale or more."""
        return float(self.maps[index].max()) >= NO_EVIDENCE * self.map_top


class Classifier:
    """A checkpoint's card, a runtime, and where there is one the gate that was fitted to them."""

    def __init__(self, card: Card, runtime: Runtime, gate: Gate | None = None) -> None:
        self.card = card
        self.runtime = runtime
        self.gate = gate

    @classmethod
    def load(cls, path: Path | str, device: str = "cpu", runtime: str = "torch") -> Classifier:
        """Read, verify and test a checkpoint or, for `onnx`, an exported file, on `auto`, `cpu` or `cuda`.

        The gate beside it comes along. Raises ModelError and ModelError.
        """
        path = Path(path)
        if runtime == "onnx":
            return cls._load_onnx(path, device)
        checkpoint = read_checkpoint(path)
        return cls._tested(path, checkpoint.card, TorchRuntime.from_checkpoint(checkpoint, choose_device(device)))

    @classmethod
    def _load_onnx(cls, path: Path, device: str) -> Classifier:
        file = read_onnx_file(path)
        tolerance = GOLDEN_TOLERANCE if file.precision == "fp32" else GOLDEN_TOLERANCE_INT8
        return cls._tested(path, file.card, OnnxRuntime(path, file.card, device), tolerance)

    @classmethod
    def _tested(cls, path: Path, card: Card, runtime: Runtime, tolerance: float = GOLDEN_TOLERANCE) -> Classifier:
        classifier = cls(card, runtime, load_gate(path, card, runtime))
        classifier.self_test(tolerance)
        return classifier

    def self_test(self, tolerance: float = GOLDEN_TOLERANCE) -> None:
        """Compare the logits of the phantom with the card's. Raises ModelError where they differ."""
        golden = np.array(self.card.golden_logits)
        logits = self.predict(Slice(draw_phantom())).logits
        # `not <=` so that NaN fails
        if logits.shape != golden.shape or not np.abs(logits - golden).max() <= tolerance:
            raise ModelError(
                "The checkpoint fails its self-test: its answer to the synthetic slice is not the one in its card."
            )

    def judge(self, slice_: Slice) -> Judgement:
        """Whether the slice may be scored; one forward pass over the whole picture."""
        return self.gate.judge(slice_) if self.gate else Judgement("unusual", (UNGATED,))

    def refuses(self, slice_: Slice) -> bool:
        """Whether the slice is given no score."""
        return self.judge(slice_).verdict == "refused"

    def predict(self, slice_: Slice, *, usual: bool = True) -> Prediction:
        """One forward pass. For an unusual slice the scores stay raw and there is no set."""
        square, placement = self.card.preprocess(slice_.pixels)
        output = self.runtime.run(square[None])
        logits = output.logits[0]
        probabilities = calibrate(logits, self.card.temperature if usual else 1.0)
        return Prediction(
            classes=self.card.classes,
            logits=logits,
            probabilities=probabilities,
            possible=self.possible(probabilities) if usual else None,
            maps=output.maps[0],
            square=square[0],
            placement=placement,
            map_top=self.card.map_scale_top,
            model_id=self.card.model_id,
        )

    def possible(self, probabilities: NDArray[np.float64]) -> tuple[str, ...] | None:
        """The classes in the conformal set of calibrated probabilities (K,); None where the card has no thresholds."""
        if self.card.calibration is None:
            return None
        inside = prediction_sets(probabilities, np.array(self.card.calibration.thresholds))
        return tuple(key for key, holds in zip(self.card.classes, inside, strict=True) if holds)


def load_gate(path: Path, card: Card, runtime: Runtime) -> Gate | None:
    """The gate beside a checkpoint; None where there is none, or one of another model, as after a new training.

    Raises ModelError for a damaged one.
    """
    beside = gate_path(path)
    if not beside.exists():
        return None
    gate_card, reference = read_gate(beside)
    if gate_card.model_id != card.model_id:
        logger.warning("%s was fitted to %s and is not used for %s.", beside, gate_card.model_id, card.model_id)
        return None
    return Gate(reference, gate_card.thresholds, runtime, card.preprocess.size)
