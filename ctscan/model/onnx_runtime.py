"""The network in ONNX Runtime: what torch gives, without torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctscan.errors import ModelError
from ctscan.model.card import Card
from ctscan.model.runtime import Output, require

if TYPE_CHECKING:
    import onnxruntime

INPUT = "slices"
OUTPUTS = ("logits", "maps", "pooled", "shallow")  # in the order of `Output`
ERRORS_ONLY = 3  # ONNX Runtime's log level


class OnnxRuntime:
    """An exported graph on the processor. ONNX Runtime lets threads share a session."""

    def __init__(self, model: Path | bytes, card: Card, device: str = "cpu") -> None:
        """Raises ModelError where the graph does not fit the card, ModelError for cuda."""
        if device == "cuda":
            raise ModelError("--device cuda: the ONNX runtime computes on the processor; take --runtime torch.")
        self._session = open_session(model)
        inputs = {node.name: node.shape[1:] for node in self._session.get_inputs()}
        outputs = {node.name: node.shape[1:2] for node in self._session.get_outputs()}
        size, classes = card.preprocess.size, [len(card.classes)]
        fits = inputs == {INPUT: [1, size, size]} and outputs.keys() >= set(OUTPUTS)
        if not fits or not outputs["logits"] == outputs["maps"] == classes:
            raise ModelError("The ONNX file's graph does not fit its card.")

    def run(self, squares: NDArray[np.float32]) -> Output:
        """Squares (N, 1, S, S) in [0, 1] -> all of `Output`, one forward pass."""
        return Output(*self._session.run(OUTPUTS, {INPUT: squares}))


def open_session(model: Path | bytes) -> onnxruntime.InferenceSession:
    """Give a model to ONNX Runtime, with a thread for each core that this process may use.

    Raises ModelError where ONNX Runtime does not take it.
    """
    require("onnxruntime", "`pip install -r requirements-onnx.txt` brings it")
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    onnxruntime.disable_telemetry_events()  # which its builds for Windows send
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = usable_cores()
    refusals = (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf, errors.NotImplemented)
    try:
        source = str(model) if isinstance(model, Path) else model
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except (*refusals, errors.NoSuchFile, errors.RuntimeException) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"ONNX Runtime {onnxruntime.__version__} does not take the graph: {reason}") from None


def usable_cores() -> int:
    """Cores that the system lets this process use; ONNX Runtime by itself counts the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
