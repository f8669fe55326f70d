"""The network's blocks, from the first convolution to the head: frozen, and each with a rate of its own."""

from __future__ import annotations

from typing import Any

from torch import nn

from ctscan.model.network import SliceNet


def blocks_of(net: SliceNet) -> list[nn.ModuleList]:
    """Six blocks: stem, the four of ResNet18, head."""
    trunk = net.trunk
    parts = ([trunk.conv1, trunk.bn1], [trunk.layer1], [trunk.layer2], [trunk.layer3], [trunk.layer4], [net.head])
    return [nn.ModuleList(part) for part in parts]


def train_mode(net: SliceNet, frozen: int) -> None:
    """Training mode, but for the first blocks, whose statistics stay as they are."""
    net.train()
    for block in blocks_of(net)[:frozen]:
        block.eval()


def parameter_groups(net: SliceNet, rate: float, decay: float, frozen: int) -> list[dict[str, Any]]:
    """One group a block that is trained, the head first, its rate `rate`; every block below has `decay` times it.

    The frozen blocks' parameters ask for no gradient from here on.
    """
    blocks = blocks_of(net)
    for block in blocks[:frozen]:
        block.requires_grad_(False)
    trained = reversed(blocks[frozen:])
    return [{"params": list(block.parameters()), "lr": rate * decay**depth} for depth, block in enumerate(trained)]
