"""The network: one grey channel in, normalisation inside, both heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from ctscan.model.card import Architecture
from ctscan.model.checkpoint import read_checkpoint
from ctscan.model.network import IMAGENET_MEAN, IMAGENET_STD, SliceNet, fuse
from ctscan.model.runtime import build_net


def test_grey_slices_are_normalised_inside_as_imagenet_was() -> None:
    torch.manual_seed(0)
    net = SliceNet(Architecture()).eval()
    plain = resnet18(weights=None).eval()
    plain.load_state_dict(dict(net.trunk.state_dict()), strict=False)
    plain.fc = net.head
    grey = torch.rand(2, 1, 96, 96)
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    with torch.no_grad():
        expected = plain((grey.repeat(1, 3, 1, 1) - mean) / std)
        torch.testing.assert_close(
            net(torch.cat([grey, torch.ones_like(grey)], 1)).logits, expected, rtol=1e-4, atol=1e-5
        )


def test_the_seed_design_is_not_normalised_and_has_three_layers() -> None:
    net = SliceNet(Architecture(head="mlp", normalise=False))
    grey = torch.rand(1, 1, 32, 32)
    assert torch.equal(net.see(grey), grey.expand(-1, 3, -1, -1))
    sizes = [(m.in_features, m.out_features) for m in net.head if isinstance(m, torch.nn.Linear)]
    assert sizes == [(512, 512), (512, 256), (256, 4)]


@pytest.mark.parametrize("side", [96, 128])
def test_the_network_that_is_asked_is_the_one_that_was_trained(best_checkpoint: Path, side: int) -> None:
    net = build_net(read_checkpoint(best_checkpoint)).eval()
    squares = torch.rand(2, 2, side, side)  # bright up to the edge, where the padding is not
    with torch.inference_mode():
        for ours, theirs in zip(fuse(net)(squares), net(squares), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_blocks_are_all_of_the_network_and_none_twice() -> None:
    net = SliceNet(Architecture())
    inside = [id(p) for block in net.blocks for p in block.parameters()]
    assert len(net.blocks) == 6
    assert sorted(inside) == sorted(id(p) for p in net.parameters())


@pytest.mark.parametrize("wrong", [{"head": "conv"}, {"dropout": 1.0}, {"classes": 1}])
def test_unknown_architectures_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Architecture(**wrong)  # type: ignore[arg-type]
