"""What a training slice may look like instead: shifts, turns, windows, blur and gaps that leave its class as it is.

Applied to preprocessed squares, (1, S, S) in [0, 1], one draw a slice.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms import v2

Augmentation = Literal["full", "windows", "seed", "none"]
WINDOW_PIECES = 8  # of a random grey map; their slopes are drawn from a flat Dirichlet distribution, mean 1


def random_window(square: Tensor) -> Tensor:
    """The square under another window: a random grey map, piecewise linear, never falling, from 0 at 0 to 1 at 1.

    Pieces that are nearly flat are the greys that a window cuts off. With it no class owns a window.
    """
    slopes = torch.distributions.Dirichlet(torch.ones(WINDOW_PIECES)).sample()
    heights = torch.cat([torch.zeros(1), slopes.cumsum(0)]).clamp(0, 1)
    place = square * WINDOW_PIECES
    piece = place.long().clamp(0, WINDOW_PIECES - 1)
    return heights[piece] + (place - piece) * (heights[piece + 1] - heights[piece])


def build_augmentation(kind: Augmentation, strength: float = 1.0) -> v2.Transform:
    """A transform of (1, S, S) float tensors in [0, 1].

    `full`: flip, affine, mild window jitter, blur, erasing, all but the flip in proportion to `strength`. `windows`:
    the same with windows drawn at random in place of the jitter. `seed`: what the seed design did.
    """
    bilinear = v2.InterpolationMode.BILINEAR
    if kind == "none":
        return v2.Identity()
    if kind == "seed":
        return v2.Compose([v2.RandomHorizontalFlip(0.7), v2.RandomRotation(10, bilinear)])
    fifth, shift = 0.2 * strength, 0.08 * strength
    jitter = v2.ColorJitter(brightness=fifth, contrast=fifth)
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5),
            v2.RandomAffine(
                15 * strength, translate=(shift, shift), scale=(1 - fifth, 1 + fifth), interpolation=bilinear
            ),
            jitter if kind == "full" else v2.Lambda(random_window),
            v2.RandomApply([v2.GaussianBlur(5, (0.3, 1.2))], p=fifth),
            v2.RandomErasing(p=0.25 * strength, scale=(0.02, 0.12)),
        ]
    )


def augment(transform: v2.Transform, squares: Tensor) -> Tensor:
    """A batch (N, 1, S, S), each slice with a draw of its own."""
    return torch.stack([transform(square) for square in squares])
