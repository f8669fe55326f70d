"""What a training slice may look like instead: shifts, turns, windows, blur and gaps that leave its class as it is.

Applied to preprocessed squares, (1, S, S) in [0, 1], one draw a slice.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms import v2

Augmentation = Literal["full", "seed", "none"]


def build_augmentation(kind: Augmentation) -> v2.Transform:
    """A transform of (1, S, S) float tensors in [0, 1].

    `full`: flip, affine, mild window jitter, blur, erasing. `seed`: what the seed design did.
    """
    bilinear = v2.InterpolationMode.BILINEAR
    if kind == "none":
        return v2.Identity()
    if kind == "seed":
        return v2.Compose([v2.RandomHorizontalFlip(0.7), v2.RandomRotation(10, bilinear)])
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5),
            v2.RandomAffine(15, translate=(0.08, 0.08), scale=(0.8, 1.2), interpolation=bilinear),
            v2.ColorJitter(brightness=0.2, contrast=0.2),
            v2.RandomApply([v2.GaussianBlur(5, (0.3, 1.2))], p=0.2),
            v2.RandomErasing(p=0.25, scale=(0.02, 0.12)),
        ]
    )


def augment(transform: v2.Transform, squares: Tensor) -> Tensor:
    """A batch (N, 1, S, S), each slice with a draw of its own."""
    return torch.stack([transform(square) for square in squares])
