"""An exported graph in fp32 -> the same in int8, by ONNX Runtime's own tools, and what that costs on `valid`.

Static quantisation: eight bits for the weights of each output channel, and for the values between the layers on
scales that are measured beforehand on training slices. Convolutions, additions, ReLU and pooling are quantised; the
head and the maps, which cost next to nothing, stay in fp32.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctscan.errors import ModelError
from ctscan.imaging.phantom import draw_phantom
from ctscan.inference.classifier import Classifier
from ctscan.io.images import Slice
from ctscan.metrics import Score, paired_interval, score
from ctscan.model.card import Card
from ctscan.model.onnx_file import OnnxFile, write_onnx_file
from ctscan.model.onnx_runtime import INPUT, OnnxRuntime
from ctscan.training.data import Dataset

QUANTISED = ("Conv", "Add", "Relu", "MaxPool")
CALIBRATION_SLICES = 64  # evenly over the training slices, which are sorted by class; their values take 2 GB
CALIBRATION_PERCENTILE = 99.999  # of a layer's values on its scale: ONNX Runtime's default
MAX_LOSS = 0.5  # points of accuracy


@dataclass(frozen=True)
class Loss:
    """What int8 loses on `valid`."""

    n: int
    points: float  # of accuracy that fp32 has more
    interval95: tuple[float, float]  # points; Agresti and Min's for pairs
    fp32: Score
    int8: Score

    def __str__(self) -> str:
        low, high = self.interval95
        return (
            f"int8 loses {self.points:.2f} points of accuracy on valid (n = {self.n}, 95 % interval {low:+.1f} to "
            f"{high:+.1f}): {self.fp32.correct} right in fp32, {self.int8.correct} in int8"
        )


def export_int8(card: Card, model: bytes, data: Dataset, path: Path, force: bool, say: Callable[[str], None]) -> None:
    """Quantise a serialised fp32 graph and write it. Raises ModelError where it loses more than `MAX_LOSS`."""
    train, valid = data.of("train"), data.of("valid")
    evenly = np.linspace(0, len(train) - 1, min(CALIBRATION_SLICES, len(train))).astype(int)
    chosen = train.take(evenly).squares(card.preprocess.square)
    say(f"int8: calibrating on {len(chosen)} training slices.")
    quantised = quantise(model, chosen)
    loss = measure_loss(card, model, quantised, valid)
    say(f"{loss}.")
    if loss.points > MAX_LOSS and not force:
        raise ModelError(f"{loss}; {MAX_LOSS} points are allowed, so nothing was written (--force writes it).")
    calibration = {"slices": len(chosen), "method": "percentile", "percentile": CALIBRATION_PERCENTILE}
    facts = {"of": card.model_id, "calibration": calibration, "loss": asdict(loss)}
    write_onnx_file(path, quantised, OnnxFile(build_card(card, quantised, loss), "int8", facts))
    say(f"int8: {path} is written, {len(quantised) / 1e6:.1f} MB.")


def quantise(model: bytes, squares: NDArray[np.float32]) -> bytes:
    """A serialised fp32 graph -> int8, calibrated on squares (N, 1, S, S)."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # the tools print what they do
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        prepared, target = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(onnx.load_from_string(model), prepared)
        quantize_static(
            prepared, target, CalibrationSquares(squares), quant_format=QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=list(QUANTISED), activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": CALIBRATION_PERCENTILE},
        )  # fmt: skip
        quantised = onnx.load(target)
    del quantised.metadata_props[:]
    serialised: bytes = quantised.SerializeToString()
    return serialised


class CalibrationSquares:
    """Squares one by one, as ONNX Runtime's calibration asks for them."""

    def __init__(self, squares: NDArray[np.float32]) -> None:
        self._rest = iter(squares)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next input, None at the end."""
        square = next(self._rest, None)
        return None if square is None else {INPUT: square[None]}


def measure_loss(card: Card, fp32: bytes, int8: bytes, valid: Dataset) -> Loss:
    """Both graphs on the same slices."""
    squares = valid.squares(card.preprocess.square)
    logits = [compute_logits(OnnxRuntime(model, card), squares) for model in (fp32, int8)]
    right = [values.argmax(axis=1) == valid.labels for values in logits]
    n, lost, won = len(valid), int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    low, high = paired_interval(lost, won, n)
    before, after = (score(values, valid.labels) for values in logits)
    return Loss(n, 100 * (lost - won) / n, (100 * low, 100 * high), before, after)


def compute_logits(runtime: OnnxRuntime, squares: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squares (N, 1, S, S) -> logits (N, K), one square at a time."""
    return np.concatenate([runtime.run(square[None]).logits for square in squares])


def build_card(card: Card, model: bytes, loss: Loss) -> Card:
    """A card for other weights: a name and golden logits of their own, and the one score that was measured."""
    scored = replace(card, tensors_sha256=hashlib.sha256(model).hexdigest(), metrics={"valid": loss.int8.to_dict()})
    logits = Classifier(scored, OnnxRuntime(model, card)).predict(Slice(draw_phantom())).logits
    return replace(scored, golden_logits=tuple(logits.tolist()))
