"""What the maps cost: `python -m benchmarks.maps`.

- probabilities and four maps / the bare forward pass of the same network
- the library grad-cam for four classes / ours
"""

from __future__ import annotations

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from benchmarks.timing import print_ratio
from ctscan.bundle import bundled
from ctscan.imaging.phantom import draw_phantom
from ctscan.metrics import softmax
from ctscan.model.checkpoint import read_checkpoint
from ctscan.model.network import SliceNet
from ctscan.model.runtime import TorchRuntime, load_tensors


def main() -> None:
    """Print both ratios."""
    checkpoint = read_checkpoint(bundled("checkpoints/resnet18.safetensors"))
    net = SliceNet(checkpoint.card.architecture).eval()
    load_tensors(net, checkpoint.tensors)
    runtime = TorchRuntime.from_checkpoint(checkpoint)
    square = checkpoint.card.preprocess(draw_phantom())[0][None]
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

    print_ratio("probabilities and four maps / bare forward pass", ours, bare, rounds=60)
    print_ratio("library grad-cam, four classes / ours", library, ours, rounds=10)


if __name__ == "__main__":
    main()
