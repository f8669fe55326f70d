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
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from math import sqrt
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctscan.bundle import remedy
from ctscan.errors import ModelError
from ctscan.files import write
from ctscan.imaging.phantom import draw_phantom
from ctscan.imaging.preprocess import STRIDE
from ctscan.inference.confidence import calibrate
from ctscan.io.images import read_slice
from ctscan.metrics import Z95, Score, score
from ctscan.model.checkpoint import Checkpoint, onnx_metadata, seal_onnx
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
Run: TypeAlias = Callable[[Squares], dict[str, NDArray[np.floating]]]  # squares -> what `NAMES` names
Say: TypeAlias = Callable[[str], None]


class Exported(nn.Module):
    """The network that runs here, and its probabilities for programs that know nothing of ctscan."""

    def __init__(self, net: SliceNet, temperature: float) -> None:
        super().__init__()
        self.net = net
        self.temperature = temperature
        self.eval().requires_grad_(False)

    def forward(self, slices: Tensor) -> tuple[Tensor, ...]:
        """Squares (N, 2, S, S) in [0, 1] -> what `NAMES` names, in that order."""
        outputs = self.net(slices)
        return *outputs, (outputs.logits / self.temperature).softmax(dim=1)


def export_onnx(checkpoint: Checkpoint, path: Path, examples: Path, say: Say) -> None:
    """Write a checkpoint as an ONNX file in fp32; what stood there stays where it fails.

    Args:
        checkpoint: What to export.
        path: The file to write.
        examples: Folder of slices that the graph is compared on.
        say: Gets one sentence a step.

    Raises:
        ModelError: A package is missing, or the graph differs from PyTorch.
        DataError: The file cannot be written.
    """
    model = build_onnx(checkpoint, examples, say)
    write_onnx(path, model, checkpoint, {"precision": "fp32", "opset": OPSET})
    say(f"ONNX: {path} is written.")


def export_int8(
    checkpoint: Checkpoint, fp32: bytes, path: Path, data: Dataset, say: Say, max_loss: float = MAX_LOSS
) -> None:
    """Write a checkpoint as an ONNX file in int8.

    Args:
        checkpoint: As for fp32, like `path` and `say`.
        fp32: As `build_onnx` made it of the checkpoint.
        data: With `train`, of which some slices set the scales of the layers' values, and `valid`, where the loss is
            measured.
        max_loss: Points of accuracy; with more nothing is written.

    Raises:
        ModelError: It loses more than that.
        DataError: The file cannot be written.
    """
    train, see = data.of("train"), checkpoint.card.preprocess.square
    chosen = train.take(np.linspace(0, len(train) - 1, min(CALIBRATION_SLICES, len(train))).astype(int)).squares(see)
    say(f"int8: calibrating on {len(chosen)} training slices.")
    int8 = quantise(fp32, chosen)
    loss = measure_loss(fp32, int8, data.of("valid").squares(see), data.of("valid").labels)
    low, high = loss.interval95
    sentence = (
        f"int8 loses {loss.points:.2f} points of accuracy on valid (n = {loss.n}, 95 % interval {low:+.1f} to "
        f"{high:+.1f}): {loss.fp32.correct} right in fp32, {loss.int8.correct} in int8"
    )
    say(f"{sentence}.")
    if loss.points > max_loss:
        raise ModelError(f"{sentence}; {max_loss} points are allowed, so nothing was written (--force writes it).")
    calibration = {"slices": len(chosen), "method": "percentile", "percentile": CALIBRATION_PERCENTILE}
    facts = {"of": checkpoint.card.model_id, "calibration": calibration, "loss": asdict(loss)}
    # Other weights: a name and golden logits of their own, and the one score that was measured.
    card = replace(checkpoint.card, tensors_sha256=sha256(int8).hexdigest(), metrics={"valid": asdict(loss.int8)})
    logits = run_session(int8)(card.preprocess.square(draw_phantom())[None])["logits"][0]
    card = replace(card, golden_logits=tuple(logits.tolist()))
    write_onnx(path, int8, replace(checkpoint, card=card), {"precision": "int8", "opset": OPSET, **facts})
    say(f"int8: {path} is written, {len(int8) / 1e6:.1f} MB.")


def build_onnx(checkpoint: Checkpoint, examples: Path, say: Say) -> bytes:
    """A serialised ONNX model without metadata. Raises ModelError where it differs from PyTorch."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, remedy("train"))
    net, size = build_net(checkpoint), checkpoint.card.preprocess.size
    side = STRIDE * torch.export.Dim("cells", min=2)  # the gate's squares are smaller
    # the exporter logs what it does and warns of what it will become; neither is for the user
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)
        program = torch.onnx.export(
            Exported(net, checkpoint.card.temperature),
            (torch.zeros(2, 2, size, size),),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=list(NAMES),
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1), 2: side, 3: side},),
        )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:  # where each came from, with the paths of this machine
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for part in [*model.graph.input, *model.graph.output, *model.graph.initializer, model.graph, model]:
        part.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    serialised: bytes = model.SerializeToString()
    say(f"ONNX: traced with opset {OPSET}, {len(serialised) / 1e6:.1f} MB.")
    say(f"ONNX: {compare(run_session(serialised), checkpoint, examples)}.")
    return serialised


def write_onnx(path: Path, model: bytes, checkpoint: Checkpoint, export: dict[str, Any]) -> None:
    """Put card and gate into a serialised model, seal and write it. Raises DataError."""
    import onnx

    proto = onnx.load_from_string(model)
    onnx.helper.set_model_props(proto, onnx_metadata(checkpoint, export))
    write(path, seal_onnx(proto.SerializeToString()))


def run_session(model: bytes) -> Run:
    """A serialised model as a function of squares (N, 2, S, S)."""
    session = open_session(model)
    return lambda squares: dict(zip(NAMES, session.run(NAMES, {INPUT: squares}), strict=True))


def compare(run: Run, checkpoint: Checkpoint, examples: Path) -> str:
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
        output, given = reference.run(squares), run(squares)
        expected = vars(output) | {"probabilities": calibrate(output.logits, checkpoint.card.temperature)}
        for name in NAMES:
            scale = np.abs(output.maps).max() if name == "maps" else 1.0
            fits = given[name].shape == expected[name].shape
            difference = np.abs(given[name] - expected[name]).max() / scale if fits else np.inf
            worst[name] = float(np.maximum(worst[name], difference))  # which, unlike max, keeps NaN
    # `not <=` so that NaN fails
    wrong = [f"{name} by {worst[name]:.1e}" for name in NAMES if not worst[name] <= TOLERANCE]
    if wrong:
        raise ModelError(
            f"The exported graph differs from PyTorch: {', '.join(wrong)} (maps: of the largest value), where "
            f"{TOLERANCE:.0e} is allowed; nothing was written."
        )
    return "differs from PyTorch by " + ", ".join(f"{name} {worst[name]:.0e}" for name in NAMES)


def quantise(model: bytes, squares: Squares) -> bytes:
    """A serialised fp32 graph -> int8, calibrated on squares (N, 2, S, S)."""
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
        # its symbolic inference does not follow squares of any side; ONNX's own, which it runs too, is enough here
        given = prepared.with_name("given.onnx")
        write(given, model)
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
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


@dataclass(frozen=True)
class Loss:
    """What int8 loses on `valid`."""

    n: int  # slices
    points: float  # of accuracy that fp32 has more
    interval95: tuple[float, float]  # of the points
    fp32: Score
    int8: Score


def measure_loss(fp32: bytes, int8: bytes, squares: Squares, labels: NDArray[np.integer]) -> Loss:
    """Both graphs on the same slices, one at a time.

    The interval is that of Agresti and Min, "Simple improved confidence intervals for comparing matched proportions",
    Statistics in Medicine 2005: Wald's after adding a half to each cell of the table of pairs.
    """
    runs = [run_session(model) for model in (fp32, int8)]
    logits = [np.concatenate([run(square[None])["logits"] for square in squares]) for run in runs]
    before, after = (values.argmax(axis=1) == labels for values in logits)
    n, lost, won = len(labels), int((before & ~after).sum()), int((after & ~before).sum())
    middle = (lost - won) / (n + 2)
    half = Z95 * sqrt(lost + won + 1 - (lost - won) ** 2 / (n + 2)) / (n + 2)
    interval = 100 * (middle - half), 100 * (middle + half)
    return Loss(n, 100 * (lost - won) / n, interval, score(logits[0], labels), score(logits[1], labels))
