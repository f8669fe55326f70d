"""Grad-CAM of every class from one forward pass, exactly.

Grad-CAM (Selvaraju et al., ICCV 2017) weighs channel k of a feature map A by the mean over space of dy_c/dA_k.
Behind global average pooling, f_k = mean(A_k), that derivative is the same at every one of the H*W places:

    dy_c/dA_k(i, j) = (dy_c/df_k) / HW      so      map_c = ReLU( sum_k (dy_c/df_k) A_k ) / HW

and only the head has to be differentiated: no hooks, no backward pass through the trunk, no shared state. This
holds for the last block before the pooling and for no other layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctscan.model.network import pool


def head_gradients(head: nn.Module, pooled: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled features (N, C) -> logits (N, K) and their gradients dy_c/df_k (N, K, C), in one backward pass.

    Each sample is given to the head K times; copy c is differentiated with respect to logit c alone. `head` must
    be in evaluation mode. Nothing of it is written to, so threads may share it.
    """
    n, channels = pooled.shape
    with torch.no_grad():
        logits: Tensor = head(pooled)
    classes = logits.shape[1]
    with torch.inference_mode(False), torch.enable_grad():
        copies = pooled.detach().repeat_interleave(classes, dim=0).clone().requires_grad_()
        answers = head(copies).view(n, classes, classes)
        (gradients,) = torch.autograd.grad(answers.diagonal(dim1=1, dim2=2).sum(), copies)
    return logits, gradients.view(n, classes, channels)


def class_maps(head: nn.Module, features: Tensor) -> tuple[Tensor, Tensor]:
    """Features of the last block (N, C, h, w) -> logits (N, K), signed maps (N, K, h, w) in logit units.

    The Grad-CAM of a class is the positive part of its signed map. With a linear head a signed map's sum over
    space plus the class's bias is the logit.
    """
    logits, gradients = head_gradients(head, pool(features))
    height, width = features.shape[2:]
    maps = torch.einsum("nkc,nchw->nkhw", gradients, features.detach()) / (height * width)
    return logits, maps
