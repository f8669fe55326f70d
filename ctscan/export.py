"""A checkpoint -> one ONNX file with the same answers, gate and card in it, held against PyTorch before it is written.

In int8 by ONNX Runtime's own tools: static quantisation, eight bits for the weights of each output channel, and for
the values between the layers on scales that are measured beforehand on training slices. Convolutions, additions, ReLU
and pooling are quantised; the head and the maps, which cost next to nothing, stay in fp32. What it costs is measured.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctscan.errors import ModelError
from ctscan.imaging.phantom import draw_phantom
from ctscan.inference.confidence import calibrate
from ctscan.io.images import read_slice
from ctscan.metrics import Score, paired_interval, score
from ctscan.model.checkpoint import Checkpoint, onnx_metadata, seal_onnx, write_bytes
from ctscan.model.network import SliceNet
from ctscan.model.runtime import (
    INPUT,
    OUTPUTS,
    TorchRuntime,
    build_net,
    import_onnxruntime,
    open_session,
    require,
)
from ctscan.training.data import Dataset

NAMES = (*OUTPUTS, "probabilities")
OPSET = 18  # of ONNX: the operators that an exported graph may use
TOLERANCE = 1e-4  # absolute; of maps: of the largest value
BATCH = 5  # a size of batch that is compared besides 1
QUANTISED = ("Conv", "Add", "Relu", "MaxPool")
CALIBRATION_SLICES = 64  # evenly over the training slices, which are sorted by class; their values take 2 GB
CALIBRATION_PERCENTILE = 99.999  # of a layer's values on its scale: ONNX Runtime's default
MAX_LOSS = 0.5  # points of accuracy

Squares: TypeAlias = NDArray[np.float32]
Say: TypeAlias = Callable[[str], None]


class Exported(nn.Module):
    """The network that runs here, and its probabilities for programs that know nothing of ctscan."""

    def __init__(self, net: SliceNet, temperature: float) -> None:
        super().__init__()
        self.net = net
        self.temperature = temperature
        self.eval().requires_grad_(False)

    def forward(self, slices: Tensor) -> tuple[Tensor, ...]:
        """Squares (N, 1, S, S) in [0, 1] -> what `NAMES` names, in that order."""
        outputs = self.net(slices)
        return *outputs, (outputs.logits / self.temperature).softmax(dim=1)


@dataclass(frozen=True)
class Loss:
    """What int8 loses on `valid`.

    Attributes:
        n: Slices.
        points: Of accuracy that fp32 has more.
        interval95: Of the points; Agresti and Min's for pairs.
        fp32: Score before.
        int8: Score after.
    """

    n: int
    points: float
    interval95: tuple[float, float]
    fp32: Score
    int8: Score

    def __str__(self) -> str:
        low, high = self.interval95
        return (
            f"int8 loses {self.points:.2f} points of accuracy on valid (n = {self.n}, 95 % interval {low:+.1f} to "
            f"{high:+.1f}): {self.fp32.correct} right in fp32, {self.int8.correct} in int8"
        )


def export_onnx(checkpoint: Checkpoint, path: Path, examples: Path, say: Say) -> None:
    """Write a checkpoint as an ONNX file in fp32.

    Args:
        checkpoint: What to export.
        path: The file to write; what stood there stays where it fails.
        examples: Folder of slices that the graph is compared on.
        say: Gets one sentence a step.

    Raises:
        ModelError: A package is missing, the graph differs from PyTorch, or the file cannot be written.
    """
    model = build_onnx(checkpoint, examples, say)
    write_onnx(path, model, checkpoint, {"precision": "fp32", "opset": OPSET})
    say(f"ONNX: {path} is written.")


def export_int8(
    checkpoint: Checkpoint, path: Path, examples: Path, data: Dataset, say: Say, max_loss: float = MAX_LOSS
) -> None:
    """Write a checkpoint as an ONNX file in int8.

    Args:
        checkpoint: What to export.
        path: The file to write; what stood there stays where it fails.
        examples: Folder of slices that the fp32 graph is compared on.
        data: With `train`, of which some slices set the scales of the layers' values, and `valid`, where the loss is
            measured.
        say: Gets one sentence a step.
        max_loss: Points of accuracy; with more nothing is written.

    Raises:
        ModelError: As for fp32, or it loses more than that.
    """
    fp32 = build_onnx(checkpoint, examples, say)
    train, see = data.of("train"), checkpoint.card.preprocess.square
    chosen = train.take(np.linspace(0, len(train) - 1, min(CALIBRATION_SLICES, len(train))).astype(int)).squares(see)
    say(f"int8: calibrating on {len(chosen)} training slices.")
    int8 = quantise(fp32, chosen)
    loss = measure_loss(fp32, int8, data.of("valid").squares(see), data.of("valid").labels)
    say(f"{loss}.")
    if loss.points > max_loss:
        raise ModelError(f"{loss}; {max_loss} points are allowed, so nothing was written (--force writes it).")
    calibration = {"slices": len(chosen), "method": "percentile", "percentile": CALIBRATION_PERCENTILE}
    facts = {"of": checkpoint.card.model_id, "calibration": calibration, "loss": asdict(loss)}
    # Other weights: a name and golden logits of their own, and the one score that was measured.
    card = replace(checkpoint.card, tensors_sha256=sha256(int8).hexdigest(), metrics={"valid": loss.int8.to_dict()})
    logits = run_session(int8)(card.preprocess.square(draw_phantom())[None])["logits"][0]
    card = replace(card, golden_logits=tuple(logits.tolist()))
    write_onnx(path, int8, replace(checkpoint, card=card), {"precision": "int8", "opset": OPSET, **facts})
    say(f"int8: {path} is written, {len(int8) / 1e6:.1f} MB.")


def build_onnx(checkpoint: Checkpoint, examples: Path, say: Say) -> bytes:
    """A serialised ONNX model without metadata. Raises ModelError where it differs from PyTorch."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, "`pip install -r requirements-train.txt` brings it")
    net, size = build_net(checkpoint), checkpoint.card.preprocess.size
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    with quiet_exporter():
        program = torch.onnx.export(
            Exported(net, checkpoint.card.temperature), (torch.zeros(2, 1, size, size),), dynamo=True, verbose=False,
            input_names=[INPUT], output_names=list(NAMES), opset_version=OPSET, dynamic_shapes=dynamic,
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:  # where each came from, with the paths of this machine
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for part in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        part.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
    serialised: bytes = model.SerializeToString()
    say(f"ONNX: traced with opset {OPSET}, {len(serialised) / 1e6:.1f} MB.")
    say(f"ONNX: {compare(run_session(serialised), checkpoint, examples)}.")
    return serialised


def write_onnx(path: Path, model: bytes, checkpoint: Checkpoint, export: dict[str, Any]) -> None:
    """Put card and gate into a serialised model, seal and write it. Raises ModelError where it cannot be written."""
    import onnx

    proto = onnx.load_from_string(model)
    onnx.helper.set_model_props(proto, onnx_metadata(checkpoint, export))
    write_bytes(path, seal_onnx(proto.SerializeToString()))


def run_session(model: bytes) -> Callable[[Squares], dict[str, NDArray[np.floating]]]:
    """A serialised model as a function of squares (N, 1, S, S)."""
    session = open_session(model)
    return lambda squares: dict(zip(NAMES, session.run(NAMES, {INPUT: squares}), strict=True))


def compare(run: Callable[[Squares], dict[str, NDArray[np.floating]]], checkpoint: Checkpoint, examples: Path) -> str:
    """Hold a graph against PyTorch; one sentence says how they differ.

    On the bundled slices, the phantom and noise, one by one and in batches. Raises ModelError where a tensor differs by
    more than `TOLERANCE`.
    """
    reference = TorchRuntime.from_checkpoint(checkpoint)
    pixels = [draw_phantom()] + [read_slice(file.read_bytes()).pixels for file in sorted(examples.glob("*.png"))]
    real = np.stack([checkpoint.card.preprocess.square(picture) for picture in pixels])
    noise = np.random.default_rng(0).random((BATCH, *real.shape[1:]), np.float32)
    worst = dict.fromkeys(NAMES, 0.0)
    for squares in (real[:1], real[:BATCH], real[BATCH:], noise[:1], noise):
        output = reference.run(squares)
        expected: dict[str, NDArray[np.floating]] = {name: getattr(output, name) for name in OUTPUTS}
        expected["probabilities"] = calibrate(output.logits, checkpoint.card.temperature)
        given = run(squares)
        for name in NAMES:
            worst[name] = max(worst[name], difference(name, expected[name], given[name]))
    # `not <=` so that NaN fails
    wrong = [f"{name} by {worst[name]:.1e}" for name in NAMES if not worst[name] <= TOLERANCE]
    if wrong:
        raise ModelError(
            f"The exported graph differs from PyTorch: {', '.join(wrong)} (maps: of the largest value), where "
            f"{TOLERANCE:.0e} is allowed; nothing was written."
        )
    return "differs from PyTorch by " + ", ".join(f"{name} {worst[name]:.0e}" for name in NAMES)


def difference(name: str, expected: NDArray[np.floating], given: NDArray[np.floating]) -> float:
    """The largest absolute difference; for maps as a share of the largest value. NaN and a wrong shape are infinite."""
    if expected.shape != given.shape or not np.isfinite(given).all():
        return float("inf")
    scale = float(np.abs(expected).max()) or 1.0 if name == "maps" else 1.0
    return float(np.abs(expected - given).max()) / scale


def quantise(model: bytes, squares: Squares) -> bytes:
    """A serialised fp32 graph -> int8, calibrated on squares (N, 1, S, S)."""
    import_onnxruntime()
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class OneByOne(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(squares)

        def get_next(self) -> dict[str, Squares] | None:
            square = next(self.rest, None)
            return None if square is None else {INPUT: square[None]}

    # the tools print what they do
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        prepared, target = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(onnx.load_from_string(model), prepared)
        quantize_static(
            prepared, target, OneByOne(), quant_format=QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=list(QUANTISED), activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": CALIBRATION_PERCENTILE},
        )  # fmt: skip
        quantised = onnx.load(target)
    del quantised.metadata_props[:]
    serialised: bytes = quantised.SerializeToString()
    return serialised


def measure_loss(fp32: bytes, int8: bytes, squares: Squares, labels: NDArray[np.integer]) -> Loss:
    """Both graphs on the same slices, one at a time."""
    runs = [run_session(model) for model in (fp32, int8)]
    logits = [np.concatenate([run(square[None])["logits"] for square in squares]) for run in runs]
    right = [values.argmax(axis=1) == labels for values in logits]
    n, lost, won = len(labels), int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    low, high = paired_interval(lost, won, n)
    before, after = (score(values, labels) for values in logits)
    return Loss(n, 100 * (lost - won) / n, (100 * low, 100 * high), before, after)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Torch's exporter logs what it does and warns of what it will become; neither is for the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
