"""What a slice may look like in training besides how it was read."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import v2

from ctscan.imaging.preprocess import RANK_LOW
from ctscan.training.recipe import Augmentation

# How many of a body's pixels a window may cut off: a mediastinal one (40/400 HU) makes all of the lungs and more black,
# a lung window (-600/1500 HU) bone and contrast medium white.
MOST_BLACK, MOST_WHITE = 0.6, 0.15


def build_augmentation(kind: Augmentation, strength: float = 1.0, windows: float = 0.0) -> v2.Transform:
    """What a training slice may look like instead: a transform of (2, S, S) float tensors in [0, 1].

    Where it goes, its weights go too; greys, blur and gaps are its first channel's alone.

    `full`: flip, affine, mild jitter of the window, blur, erasing, all but the flip in proportion to `strength`; and
    in that share of slices another window, as `cut_greys`.
    `seed`: what the seed design did.
    """
    bilinear = v2.InterpolationMode.BILINEAR
    if kind == "none":
        return v2.Identity()
    if kind == "seed":
        return v2.Compose([v2.RandomHorizontalFlip(0.7), v2.RandomRotation(10, bilinear)])
    fifth, shift = 0.2 * strength, 0.08 * strength
    affine = v2.RandomAffine(
        15 * strength, translate=(shift, shift), scale=(1 - fifth, 1 + fifth), interpolation=bilinear
    )
    greys = v2.Compose(
        [
            v2.RandomApply([v2.Lambda(cut_greys)], p=windows),
            v2.ColorJitter(brightness=fifth, contrast=fifth),
            v2.RandomApply([v2.GaussianBlur(5, (0.3, 1.2))], p=fifth),
            v2.RandomErasing(p=0.25 * strength, scale=(0.02, 0.12)),
        ]
    )
    recolour = v2.Lambda(lambda square: torch.cat([greys(square[:1]), square[1:]]))
    return v2.Compose([v2.RandomHorizontalFlip(0.5), affine, recolour])


def cut_greys(square: Tensor) -> Tensor:
    """Ranked greys (1, S, S) -> the same slice in a narrower window, drawn at random.

    What a window makes black or white becomes one grey, the middle of its ranks, as `rank_greys` makes it.
    """
    black, white = float(torch.rand(())) * MOST_BLACK, 1 - float(torch.rand(())) * MOST_WHITE
    rank = (square - RANK_LOW) / (1 - RANK_LOW)
    cut = torch.where(rank < black, black / 2, torch.where(rank > white, (1 + white) / 2, rank))
    return torch.where(rank < 0, square, RANK_LOW + (1 - RANK_LOW) * cut)
