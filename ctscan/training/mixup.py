"""Mixup: a batch blended with itself in another order, its labels too.

Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018: one share a batch, from Beta(alpha, alpha).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step of training sees."""

    squares: Tensor  # (B, 1, S, S) in [0, 1]
    targets: Tensor  # (B, K), each row sums to 1
    weights: Tensor  # (B,), of each slice in the loss


def mix(batch: Batch, alpha: float) -> Batch:
    """The batch blended with itself in a random order; with alpha 0 the batch as it is."""
    if not alpha:
        return batch
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    return blend(batch, torch.randperm(len(batch.weights)), share)


def blend(batch: Batch, order: Tensor, share: float) -> Batch:
    """`share` of each slice, its target and its weight, and the rest of the slice at its place in `order`."""

    def both(values: Tensor) -> Tensor:
        return share * values + (1 - share) * values[order]

    return Batch(both(batch.squares), both(batch.targets), both(batch.weights))


def mean_loss(logits: Tensor, targets: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """Logits and targets (B, K), weights (B,) -> the weighted mean cross-entropy, a scalar."""
    each = functional.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=smoothing)
    return (each * weights).sum() / weights.sum()
