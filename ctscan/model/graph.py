"""The network and its maps as one graph without autograd: what is exported.

A logit's gradient with respect to the pooled features is written out: backwards through the head, a linear layer
multiplies by its weights, and a ReLU lets through where it let through forwards.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctscan.model.network import SliceNet, pool


class Graph(nn.Module):
    """Slices (N, 1, S, S) in [0, 1] -> logits, probabilities, maps and two pooled layers, by name."""

    def __init__(self, net: SliceNet, temperature: float = 1.0) -> None:
        super().__init__()
        self.net = net
        self.temperature = temperature
        self.eval().requires_grad_(False)

    def forward(self, slices: Tensor) -> dict[str, Tensor]:
        """One forward pass.

        logits (N, K), probabilities (N, K) = softmax(logits / temperature), maps (N, K, h, w) signed and in logit
        units, pooled (N, 512) and shallow (N, 128), the means over space of the last and of the second block.
        """
        shallow = self.net.shallow(slices)
        features = self.net.deepen(shallow)
        height, width = features.shape[2:]
        pooled = pool(features)
        logits, gradients = differentiate(self.net.head, pooled)
        return {
            "logits": logits,
            "probabilities": (logits / self.temperature).softmax(dim=1),
            "maps": torch.einsum("nkc,nchw->nkhw", gradients, features) / (height * width),
            "pooled": pooled,
            "shallow": pool(shallow),
        }


def differentiate(head: nn.Sequential, pooled: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled features (N, C) -> logits (N, K) and their gradients (N, K, C), as `gradcam.head_gradients` gives them.

    `head` is of linear layers, ReLUs and, in evaluation mode, dropout.
    """
    values, passed = pooled, {}
    for layer in head:
        values = layer(values)
        if isinstance(layer, nn.ReLU):
            passed[layer] = (values > 0).to(values.dtype)
    gradients = torch.eye(values.shape[1]).expand(values.shape[0], -1, -1)
    for layer in reversed(head):
        if isinstance(layer, nn.Linear):
            gradients = gradients @ layer.weight
        elif isinstance(layer, nn.ReLU):
            gradients = gradients * passed[layer][:, None]
    return values, gradients
