"""A checkpoint -> the same answers as one ONNX or TorchScript file, held against PyTorch before it is written."""

from __future__ import annotations

import io
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ctscan.errors import ModelError
from ctscan.imaging.phantom import draw_phantom
from ctscan.imaging.preprocess import Preprocess
from ctscan.inference.calibration import calibrate
from ctscan.io.images import read_slice
from ctscan.model.card import Card
from ctscan.model.checkpoint import Checkpoint
from ctscan.model.graph import Graph
from ctscan.model.network import SliceNet
from ctscan.model.onnx_file import OPSET, OnnxFile, write_onnx_file
from ctscan.model.onnx_runtime import INPUT, open_session
from ctscan.model.runtime import TorchRuntime, load_tensors
from ctscan.model.sealed import replace_file

NAMES = ("logits", "probabilities", "maps", "pooled", "shallow")
TOLERANCE = 1e-4  # absolute; of maps: of the largest value
BATCH = 5  # a size of batch that is compared besides 1
CARD_FILE = "card.json"  # in a TorchScript file

Squares: TypeAlias = NDArray[np.float32]
Tensors: TypeAlias = dict[str, NDArray[np.floating]]
Say: TypeAlias = Callable[[str], None]


def build_onnx(checkpoint: Checkpoint, examples: Path, say: Say) -> bytes:
    """A checkpoint as a serialised ONNX model without metadata. Raises ModelError where it differs from PyTorch."""
    model = trace_onnx(checkpoint)
    say(f"ONNX: traced with opset {OPSET}, {len(model) / 1e6:.1f} MB.")
    session = open_session(model)

    def run(squares: Squares) -> Tensors:
        return dict(zip(NAMES, session.run(NAMES, {INPUT: squares}), strict=True))

    say(f"ONNX: {compare(run, checkpoint, examples)}.")
    return model


def export_onnx(checkpoint: Checkpoint, path: Path, examples: Path, say: Say) -> None:
    """Write the ONNX file. Raises ModelError and ModelError; what stood there stays."""
    write_onnx_file(path, build_onnx(checkpoint, examples, say), OnnxFile(checkpoint.card, "fp32"))
    say(f"ONNX: {path} is written.")


def export_torchscript(checkpoint: Checkpoint, path: Path, examples: Path, say: Say) -> None:
    """Write the TorchScript file, the card beside the graph as `card.json`. Raises as `export_onnx` does."""
    graph = build_graph(checkpoint)
    buffer = io.BytesIO()
    with deprecations_ignored():
        traced = torch.jit.trace(graph, example_squares(checkpoint.card), strict=False, check_trace=False)
        torch.jit.save(traced, buffer, _extra_files={CARD_FILE: checkpoint.card.to_json()})
        stored = without_debug_records(buffer)
        loaded = torch.jit.load(io.BytesIO(stored))
    say(f"TorchScript: traced, {len(stored) / 1e6:.1f} MB.")

    def run(squares: Squares) -> Tensors:
        with torch.inference_mode():
            return {name: tensor.numpy() for name, tensor in loaded(torch.from_numpy(squares)).items()}

    say(f"TorchScript: {compare(run, checkpoint, examples)}.")
    try:
        replace_file(path, stored)
    except OSError as error:
        raise ModelError(f"The TorchScript file {path} cannot be written ({error.strerror}).") from None
    say(f"TorchScript: {path} is written.")


def trace_onnx(checkpoint: Checkpoint) -> bytes:
    """The graph as a serialised ONNX model without metadata. Raises ModelError where a package is missing."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ModelError(f"{missing[0]} is not installed: `pip install -r requirements-train.txt` brings it.")
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    with deprecations_ignored():
        program = torch.onnx.export(
            build_graph(checkpoint), (example_squares(checkpoint.card),), dynamo=True, verbose=False,
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
    return serialised


def build_graph(checkpoint: Checkpoint) -> Graph:
    """The network of a checkpoint, with the temperature of its card where that has one."""
    net = SliceNet(checkpoint.card.architecture)
    load_tensors(net, checkpoint.tensors)
    return Graph(net, checkpoint.card.temperature)


def example_squares(card: Card) -> torch.Tensor:
    """Two squares to trace with."""
    return torch.zeros(2, 1, card.preprocess.size, card.preprocess.size)


def compare(run: Callable[[Squares], Tensors], checkpoint: Checkpoint, examples: Path) -> str:
    """Hold a graph against PyTorch, which takes the maps from autograd; one sentence says how they differ.

    On the bundled slices, the phantom and noise, one by one and in batches. Raises ModelError where a tensor
    differs by more than `TOLERANCE`.
    """
    reference = TorchRuntime.from_checkpoint(checkpoint)
    worst = dict.fromkeys(NAMES, 0.0)
    for squares in reference_batches(checkpoint.card.preprocess, examples):
        output = reference.run(squares)
        expected: Tensors = {name: getattr(output, name) for name in NAMES if name != "probabilities"}
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


def reference_batches(preprocess: Preprocess, examples: Path) -> Iterator[Squares]:
    """Real slices and noise, each as a batch of one and as batches of `BATCH` or fewer."""
    pixels = [draw_phantom()] + [read_slice(file.read_bytes()).pixels for file in sorted(examples.glob("*.png"))]
    real = np.stack([preprocess(picture)[0] for picture in pixels])
    noise = np.random.default_rng(0).random((BATCH, *real.shape[1:]), np.float32)
    for squares in (real, noise):
        yield squares[:1]
        yield from (squares[start : start + BATCH] for start in range(0, len(squares), BATCH))


def without_debug_records(archive: io.BytesIO) -> bytes:
    """A TorchScript file without the records of where each line came from, which name paths of this machine."""
    stripped = io.BytesIO()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(stripped, "w", zipfile.ZIP_STORED) as new:
        for record in old.namelist():
            if not record.endswith(".debug_pkl"):
                new.writestr(zipfile.ZipInfo(record), old.read(record))
    return stripped.getvalue()


@contextmanager
def deprecations_ignored() -> Iterator[None]:
    """Torch announces the end of TorchScript and logs what its exporter does; neither is for the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
