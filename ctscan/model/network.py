"""The network: torchvision's ResNet18 with a head of our own, and the Grad-CAM maps of all classes in the same pass.

    (N, 2, S, S) in [0, 1]  --features-->  (N, 512, S/32, S/32)  --mean over space, head-->  logits (N, K)
                                                     |
                                                     +--gradient of the head-->  signed maps (N, K, S/32, S/32)

Grad-CAM (Selvaraju et al., ICCV 2017) weighs channel k of a feature map A by the mean over space of dy_c/dA_k.
The second channel of a square says how much the evidence of each place counts. Behind a mean with these weights m, as
they fall on the cells, f_k = sum(m A_k) / sum(m), and with every m 1 it is global average pooling:

    dy_c/dA_k(i, j) = (dy_c/df_k) m(i, j) / sum(m)      so      map_c = m sum_k (dy_c/df_k) A_k / sum(m)

and only the head has to be differentiated, which is written out: with a linear head the gradient is its weights, and
the maps are a convolution. No hooks, no autograd; the module that runs is the module that is exported. This holds for
the last block before the pooling and for no other layer.

ResNet: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
"""

from __future__ import annotations

from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import resnet18
from torchvision.models.resnet import BasicBlock, ResNet

from ctscan.imaging.preprocess import STRIDE
from ctscan.model.card import Architecture

TINY = 1e-6  # share of a cell
FEATURES = 512  # channels of the last block of ResNet18

# Mean and standard deviation of ImageNet's red, green and blue in [0, 1], as torchvision's weights expect them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Outputs(NamedTuple):
    """What the network says of N squares. The Grad-CAM of a class is the positive part of its map."""

    logits: Tensor  # (N, K)
    maps: Tensor  # (N, K, h, w), signed; with a linear head the sum over space plus the class's bias is the logit
    pooled: Tensor  # (N, 512), mean over space of the last block
    shallow: Tensor  # (N, 128), mean over space of the second block


class Normalise(nn.Module):
    """What torchvision's weights expect of greys."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, greys: Tensor) -> Tensor:
        """Greys (N, 1, S, S) -> (N, 3, S, S)."""
        return (greys.expand(-1, 3, -1, -1) - self.mean) / self.std


class BesideOnes(nn.Module):
    """Greys and ones, by which a convolution knows where the square ends."""

    def forward(self, greys: Tensor) -> Tensor:
        """Greys (N, 1, S, S) -> (N, 2, S, S), the channels of a pixel side by side."""
        return torch.cat([greys, torch.ones_like(greys)], dim=1).contiguous(memory_format=torch.channels_last)


class SliceNet(nn.Module):
    """ResNet18 on one grey channel. Expansion to three channels and normalisation happen inside, so a caller can
    neither forget them nor do them twice."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.trunk = resnet18(weights=None)
        self.trunk.fc = nn.Identity()
        p, k = architecture.dropout, architecture.classes
        if architecture.head == "linear":
            self.head = nn.Sequential(nn.Dropout(p), nn.Linear(FEATURES, k))
        else:
            self.head = nn.Sequential(
                *(nn.Linear(FEATURES, 512), nn.ReLU(), nn.Dropout(p)),
                *(nn.Linear(512, 256), nn.ReLU(), nn.Dropout(p)),
                nn.Linear(256, k),
            )
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if architecture.normalise else ((0.0,) * 3, (1.0,) * 3)
        self.see: nn.Module = Normalise(mean, std)

    def forward(self, squares: Tensor) -> Outputs:
        """Squares (N, 2, S, S) in [0, 1], grey and weight -> logits, maps and two pooled layers, in one pass."""
        trunk = self.trunk
        x = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(self.see(squares[:, :1])))))
        shallow = trunk.layer2(trunk.layer1(x))
        features = trunk.layer4(trunk.layer3(shallow))
        weights = functional.avg_pool2d(squares[:, 1:], STRIDE)  # a cell's share that counts
        weights = torch.where(weights.sum(dim=(2, 3), keepdim=True) > TINY, weights, torch.ones_like(weights))
        counted = weights / weights.sum(dim=(2, 3), keepdim=True)
        pooled = (features * counted).sum(dim=(2, 3))
        linear = [layer for layer in self.head if isinstance(layer, nn.Linear)]
        if len(linear) == 1:
            maps = functional.conv2d(features, linear[0].weight[:, :, None, None]) * counted
        else:
            maps = torch.einsum("nkc,nchw->nkhw", head_gradients(self.head, pooled), features) * counted
        return Outputs(self.head(pooled), maps, pooled, shallow.mean(dim=(2, 3)))

    @property
    def blocks(self) -> list[nn.ModuleList]:
        """Six blocks, from the first convolution to the head."""
        trunk = self.trunk
        parts = ([trunk.conv1, trunk.bn1], [trunk.layer1], [trunk.layer2], [trunk.layer3], [trunk.layer4], [self.head])
        return [nn.ModuleList(part) for part in parts]


def fuse(net: SliceNet) -> SliceNet:
    """The same network to be asked alone, a third quicker, and equal to the last digits.

    Each normalisation becomes part of the convolution beside it, and the channels of a pixel lie side by side. The
    maximum over some pixels is taken before what is negative becomes zero, which is the same, and of fewer pixels.
    """
    made = deepcopy(net).eval().requires_grad_(False)
    trunk = made.trunk
    weight = trunk.conv1.weight / made.see.std  # the mean is subtracted inside the square alone, where ones are
    weight = torch.stack([weight.sum(dim=1), -(weight * made.see.mean).sum(dim=1)], dim=1)
    made.see, trunk.conv1.weight = BesideOnes(), nn.Parameter(weight, requires_grad=False)
    trunk.relu, trunk.maxpool = trunk.maxpool, trunk.relu
    for block in made.modules():
        if isinstance(block, BasicBlock):
            block.conv2, block.bn2 = fuse_conv_bn_eval(block.conv2, block.bn2), nn.Identity()
            block.downsample = block.downsample and fuse_conv_bn_eval(*block.downsample)
        if isinstance(block, BasicBlock | ResNet):
            block.conv1, block.bn1 = fuse_conv_bn_eval(block.conv1, block.bn1), nn.Identity()
    return made.to(memory_format=torch.channels_last)


def head_gradients(head: nn.Sequential, pooled: Tensor) -> Tensor:
    """Pooled features (N, C) -> the gradients of the logits with respect to them (N, K, C).

    Backwards through a head of linear layers, ReLUs and, in evaluation mode, dropout: a linear layer multiplies by its
    weights, and a ReLU lets through where it let through forwards.
    """
    values, passed = pooled, {}
    for layer in head:
        values = layer(values)
        if isinstance(layer, nn.ReLU):
            passed[layer] = (values > 0).to(values.dtype)
    gradients = torch.eye(values.shape[1], device=pooled.device).expand(values.shape[0], -1, -1)
    for layer in reversed(head):
        if isinstance(layer, nn.Linear):
            gradients = gradients @ layer.weight
        elif isinstance(layer, nn.ReLU):
            gradients = gradients * passed[layer][:, None]
    return gradients
