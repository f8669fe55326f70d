"""The classifier: torchvision's ResNet18 with a head of our own, cut where Grad-CAM needs it.

    (N, 1, S, S) in [0, 1]  --features-->  (N, 512, S/32, S/32)  --mean over space, head-->  logits (N, K)

ResNet: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from ctscan.model.card import Architecture

FEATURES = 512  # channels of the last block of ResNet18

# Mean and standard deviation of ImageNet's red, green and blue in [0, 1], as torchvision's weights expect them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def build_head(architecture: Architecture) -> nn.Sequential:
    """Pooled features (N, 512) -> logits (N, K)."""
    p, k = architecture.dropout, architecture.classes
    if architecture.head == "linear":
        return nn.Sequential(nn.Dropout(p), nn.Linear(FEATURES, k))
    return nn.Sequential(
        nn.Linear(FEATURES, 512), nn.ReLU(), nn.Dropout(p),
        nn.Linear(512, 256), nn.ReLU(), nn.Dropout(p),
        nn.Linear(256, k),
    )  # fmt: skip


class SliceNet(nn.Module):
    """ResNet18 on one grey channel. Expansion to three channels and normalisation happen inside, so a caller can
    neither forget them nor do them twice."""

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.trunk = resnet18(weights=None)
        self.trunk.fc = nn.Identity()
        self.head = build_head(architecture)
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if architecture.normalise else ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def shallow(self, x: Tensor) -> Tensor:
        """Grey slices (N, 1, S, S) in [0, 1] -> the second block's output (N, 128, S/8, S/8), >= 0."""
        trunk = self.trunk
        x = (x.expand(-1, 3, -1, -1) - self.mean) / self.std
        x = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(x))))
        return trunk.layer2(trunk.layer1(x))  # type: ignore[no-any-return]

    def deepen(self, shallow: Tensor) -> Tensor:
        """The second block's output -> the last block's output (N, 512, S/32, S/32), >= 0."""
        return self.trunk.layer4(self.trunk.layer3(shallow))  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        """Grey slices (N, 1, S, S) in [0, 1] -> the last block's output (N, 512, S/32, S/32), >= 0."""
        return self.deepen(self.shallow(x))

    def classify(self, features: Tensor) -> Tensor:
        """The last block's output (N, 512, h, w) -> logits (N, K)."""
        return self.head(pool(features))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Grey slices (N, 1, S, S) in [0, 1] -> logits (N, K)."""
        return self.classify(self.features(x))


def pool(features: Tensor) -> Tensor:
    """Global average pooling: (N, C, h, w) -> (N, C)."""
    return features.mean(dim=(2, 3))
