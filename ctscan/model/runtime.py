"""The one seam between the classifier and what computes: squares in, logits, maps and features out.

Torch or ONNX Runtime; another runtime is another class with the same `run`. Each is imported where it is used.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ctscan.bundle import remedy
from ctscan.cores import count_cores
from ctscan.errors import ModelError
from ctscan.imaging.phantom import draw_phantom
from ctscan.imaging.preprocess import Preprocess
from ctscan.model.checkpoint import Checkpoint, Tensors, read_onnx, read_onnx_metadata

if TYPE_CHECKING:
    import onnxruntime

    from ctscan.model.network import SliceNet

INPUT = "slices"
OUTPUTS = ("logits", "maps", "pooled", "shallow")  # in the order of `Output`
ERRORS_ONLY = 3  # ONNX Runtime's log level


@dataclass(frozen=True, eq=False)
class Output:
    """What a network says of N squares."""

    logits: NDArray[np.float32]  # (N, K)
    maps: NDArray[np.float32]  # (N, K, h, w), signed, in logit units
    pooled: NDArray[np.float32]  # (N, 512), mean over space of the last block
    shallow: NDArray[np.float32]  # (N, 128), mean over space of the second block


class Runtime(Protocol):
    """Anything that runs the network; must be safe to share between threads."""

    def run(self, squares: NDArray[np.float32]) -> Output:
        """Squares (N, 2, S, S) in [0, 1] -> all of `Output`, one forward pass."""


class TorchRuntime:
    """The network in torch, in fp32 and evaluation mode. Nothing in it changes after it is built."""

    def __init__(self, net: SliceNet, device: str = "cpu") -> None:
        from ctscan.model.network import fuse

        self._device = device
        self._net = fuse(net).to(device)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, device: str = "cpu", cores: int | None = None) -> TorchRuntime:
        """Build the network that the card describes. Raises ModelError where the weights do not fit it."""
        if cores:
            import torch

            torch.set_num_threads(cores)
        return cls(build_net(checkpoint), device)

    def run(self, squares: NDArray[np.float32]) -> Output:
        """Squares (N, 2, S, S) in [0, 1] -> all of `Output`, one forward pass."""
        import torch

        with torch.inference_mode():
            outputs = self._net(torch.from_numpy(squares).to(self._device))
            return Output(*(values.cpu().numpy() for values in outputs))


class OnnxRuntime:
    """An exported graph on the processor, with its card, its gate's tensors and the facts of its export.

    ONNX Runtime lets threads share a session.
    """

    def __init__(self, path: Path, cores: int | None = None) -> None:
        """Read and verify a file. Raises ModelError for all that is not exactly what ctscan wrote."""
        self._session = session = open_session(read_onnx(path), cores)
        try:
            self.card, self.gate, self.export = read_onnx_metadata(session.get_modelmeta().custom_metadata_map)
        except ModelError as error:
            raise ModelError(f"The model {path} is refused. {error}") from None
        inputs = {node.name: node.shape[1:2] for node in session.get_inputs()}
        outputs = {node.name: node.shape[1:2] for node in session.get_outputs()}
        classes = [len(self.card.classes)]
        fits = inputs == {INPUT: [2]} and outputs.keys() >= set(OUTPUTS)
        if not fits or not outputs["logits"] == outputs["maps"] == classes:
            raise ModelError(f"The model {path} is refused. Its graph does not fit its card.")

    def run(self, squares: NDArray[np.float32]) -> Output:
        """Squares (N, 2, S, S) in [0, 1] -> all of `Output`, one forward pass."""
        return Output(*self._session.run(OUTPUTS, {INPUT: squares}))


def import_onnxruntime() -> Any:
    """ONNX Runtime, told to keep to itself.

    Its wheels look up a telemetry host and leave a device id in the user's home, unless the environment says no before
    the library is loaded. Raises ModelError where it is not installed.
    """
    require("onnxruntime", remedy("onnx"))
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # of builds that ask here
    return onnxruntime


def open_session(model: bytes, cores: int | None = None) -> onnxruntime.InferenceSession:
    """Give a model to ONNX Runtime. Raises ModelError where that is not installed or does not take the model."""
    ort = import_onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = cores or count_cores()  # ONNX Runtime by itself counts the machine's
    refusals = (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf, errors.NotImplemented)
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except (*refusals, errors.RuntimeException) as error:
        raise ModelError(
            f"ONNX Runtime {ort.__version__} does not take the graph: {str(error).splitlines()[0]}"
        ) from None


def run_in_batches(runtime: Runtime, squares: NDArray[np.float32], size: int = 32) -> Output:
    """Squares (N, 2, S, S), any N >= 1 -> what the network says of all of them."""
    return concatenate([runtime.run(squares[start : start + size]) for start in range(0, len(squares), size)])


def concatenate(outputs: Sequence[Output]) -> Output:
    """One output for all slices, in order."""
    return Output(*(np.concatenate([getattr(output, f.name) for output in outputs]) for f in fields(Output)))


def golden_logits(runtime: Runtime, preprocess: Preprocess) -> tuple[float, ...]:
    """What a network says of the phantom: kept in its card, and asked again whenever it is loaded."""
    return tuple(runtime.run(preprocess.square(draw_phantom())[None]).logits[0].tolist())


def require(package: str, remedy: str) -> None:
    """Raises ModelError where the package is not installed."""
    if find_spec(package) is None:
        raise ModelError(f"The package {package} is not installed: {remedy}.")


def choose_device(name: str) -> str:
    """`auto` is cuda where there is one. Raises ModelError where torch or the named device is missing."""
    require("torch", f"{remedy()}, and an exported ONNX file does without")
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise ModelError(f"There is no device {name!r}: give auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("--device cuda: this machine has no CUDA device that torch can use.")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def build_net(checkpoint: Checkpoint) -> SliceNet:
    """The network of a checkpoint. Raises ModelError where the weights do not fit its card."""
    from ctscan.model.network import SliceNet

    net = SliceNet(checkpoint.card.architecture)
    load_tensors(net, checkpoint.tensors)
    return net


def load_tensors(net: SliceNet, tensors: Tensors) -> None:
    """Put stored weights into a network, strictly. Raises ModelError where names or shapes differ."""
    import torch

    state = {name: torch.from_numpy(values.copy()) for name, values in tensors.items()}
    try:
        net.load_state_dict({n: v.float() if v.is_floating_point() else v for n, v in state.items()})
    except RuntimeError:
        raise ModelError("The checkpoint's weights do not fit the network that its card describes.") from None


def store_tensors(net: SliceNet) -> Tensors:
    """A network's weights as they are stored: matrices and kernels float16, the small rest as it is."""
    return {
        name: (values.half() if values.ndim > 1 and values.is_floating_point() else values).cpu().numpy()
        for name, values in net.state_dict().items()
    }
