"""What the maps cost: `python -m benchmarks.maps`.

- probabilities and four maps / the bare forward pass of the same network
- the library grad-cam for four classes / ours
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from benchmarks.timing import example, parser, print_ratio
from ctscan.bundle import bundled
from ctscan.io.images import read_slice
from ctscan.metrics import softmax
from ctscan.model.checkpoint import read_checkpoint
from ctscan.model.runtime import TorchRuntime, build_net


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both ratios."""
    rounds = parser(__doc__, 60).parse_args(arguments).rounds
    checkpoint = read_checkpoint(bundled("checkpoints/resnet18.safetensors"))
    net = build_net(checkpoint).eval()
    runtime = TorchRuntime.from_checkpoint(checkpoint)
    square = checkpoint.card.preprocess(read_slice(example()).pixels)[0][None]
    tensor = torch.from_numpy(square)

    def bare() -> None:
        with torch.inference_mode():
            net(tensor)

    def ours() -> np.ndarray:
        return softmax(runtime.run(square).logits)

    def library() -> None:
        with GradCAM(model=net, target_layers=[net.trunk.layer4[-1]]) as cam:
            for index in range(4):
                cam(tensor, [ClassifierOutputTarget(index)])

    print_ratio("probabilities and four maps / bare forward pass", ours, bare, rounds)
    print_ratio("library grad-cam, four classes / ours", library, ours, -(-rounds // 6))


if __name__ == "__main__":
    main()
