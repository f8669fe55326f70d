"""The one seam between the classifier and what computes: squares in, logits and maps out.

Torch here, ONNX Runtime in `onnx_runtime`; another runtime is another class with the same `run`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ctscan.errors import ModelError
from ctscan.model.checkpoint import Checkpoint
from ctscan.model.sealed import Tensors

if TYPE_CHECKING:
    from ctscan.model.network import SliceNet


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
        """Squares (N, 1, S, S) in [0, 1] -> logits, the signed maps of all classes and two pooled layers."""


class TorchRuntime:
    """The network in torch, in fp32 and evaluation mode. Nothing in it changes after it is built."""

    def __init__(self, net: SliceNet, device: str = "cpu") -> None:
        self._device = device
        self._net = net.eval().requires_grad_(False).to(device)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, device: str = "cpu") -> TorchRuntime:
        """Build the network that the card describes. Raises ModelError where the weights do not fit it."""
        from ctscan.model.network import SliceNet

        net = SliceNet(checkpoint.card.architecture)
        load_tensors(net, checkpoint.tensors)
        return cls(net, device)

    def run(self, squares: NDArray[np.float32]) -> Output:
        """Squares (N, 1, S, S) in [0, 1] -> all of `Output`, one forward pass."""
        import torch

        from ctscan.model.gradcam import class_maps
        from ctscan.model.network import pool

        with torch.inference_mode():
            shallow = self._net.shallow(torch.from_numpy(squares).to(self._device))
            features = self._net.deepen(shallow)
            logits, maps = class_maps(self._net.head, features)
            return Output(*(t.cpu().numpy() for t in (logits, maps, pool(features), pool(shallow))))


def concatenate(outputs: Sequence[Output]) -> Output:
    """One output for all slices, in order."""
    return Output(*(np.concatenate([getattr(output, f.name) for output in outputs]) for f in fields(Output)))


def run_in_batches(runtime: Runtime, squares: NDArray[np.float32], size: int = 32) -> Output:
    """Squares (N, 1, S, S), any N >= 1 -> what the network says of all of them."""
    return concatenate([runtime.run(squares[start : start + size]) for start in range(0, len(squares), size)])


def require(package: str, remedy: str) -> None:
    """Raises ModelError where the package is not installed."""
    if find_spec(package) is None:
        raise ModelError(f"The package {package} is not installed: {remedy}.")


def choose_device(name: str) -> str:
    """`auto` is cuda where there is one. Raises ModelError where torch or the named device is missing."""
    require("torch", "`pip install -r requirements.txt` brings it, and --runtime onnx does without")
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("--device cuda: this machine has no CUDA device that torch can use.")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


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
