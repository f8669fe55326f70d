"""The network's blocks, from the first convolution to the head."""

from __future__ import annotations

from torch import nn

from ctscan.model.network import SliceNet


def blocks_of(net: SliceNet) -> list[nn.ModuleList]:
    """Six blocks: stem, the four of ResNet18, head."""
    trunk = net.trunk
    parts = ([trunk.conv1, trunk.bn1], [trunk.layer1], [trunk.layer2], [trunk.layer3], [trunk.layer4], [net.head])
    return [nn.ModuleList(part) for part in parts]
