"""What a slice may look like in training besides how it was read."""

from __future__ import annotations

import torch
from torchvision.transforms import v2

from ctscan.training.recipe import Augmentation


def build_augmentation(kind: Augmentation, strength: float = 1.0) -> v2.Transform:
    """What a training slice may look like instead: a transform of (2, S, S) float tensors in [0, 1].

    Where it goes, its weights go too; greys, blur and gaps are its first channel's alone.

    `full`: flip, affine, mild jitter of the window, blur, erasing, all but the flip in proportion to `strength`.
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
            v2.ColorJitter(brightness=fifth, contrast=fifth),
            v2.RandomApply([v2.GaussianBlur(5, (0.3, 1.2))], p=fifth),
            v2.RandomErasing(p=0.25 * strength, scale=(0.02, 0.12)),
        ]
    )
    recolour = v2.Lambda(lambda square: torch.cat([greys(square[:1]), square[1:]]))
    return v2.Compose([v2.RandomHorizontalFlip(0.5), affine, recolour])
