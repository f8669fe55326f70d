"""The closed form against the library `grad-cam`, and the identities that make the maps honest."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from ctscan.model.card import Architecture
from ctscan.model.network import SliceNet, head_gradients

HEADS = ("linear", "mlp")


def build(head: str, seed: int = 0) -> SliceNet:
    torch.manual_seed(seed)
    net = SliceNet(Architecture(head=head)).eval()  # type: ignore[arg-type]
    with torch.no_grad():  # a fresh head answers near zero; larger weights make differences between maps visible
        for layer in net.head:
            if isinstance(layer, torch.nn.Linear):
                layer.weight.mul_(5)
    return net.requires_grad_(False)


def last_layer(net: SliceNet) -> torch.nn.Linear:
    layer = net.head[-1]
    assert isinstance(layer, torch.nn.Linear)
    return layer


def squares(n: int, seed: int = 1, side: int = 224) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 1, 14, 14, generator=generator)
    greys = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return torch.cat([greys, torch.ones_like(greys)], dim=1)


def weighted(n: int) -> Tensor:
    """The same, with the evidence of an uneven part of each square alone to count."""
    given = squares(n)
    given[:, 1] = 0
    given[:, 1, 40:150, 70:200] = 1
    return given


class LogitsAlone(torch.nn.Module):
    """What the library wants: a model whose output is a tensor."""

    def __init__(self, net: SliceNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).logits  # type: ignore[no-any-return]


def library_maps(net: SliceNet, x: Tensor, index: int) -> np.ndarray:
    """The library's Grad-CAM of one class at 7 x 7, before it scales each map to 0 to 1."""
    net.requires_grad_(True)
    target = net.trunk.layer4[-1]
    with GradCAM(model=LogitsAlone(net), target_layers=[target]) as cam:
        outputs = cam.activations_and_grads(x)
        net.zero_grad()
        sum(ClassifierOutputTarget(index)(row) for row in outputs).backward(retain_graph=True)
        activations = cam.activations_and_grads.activations[0].numpy()
        gradients = cam.activations_and_grads.gradients[0].numpy()
        raw = cam.get_cam_image(x, target, [ClassifierOutputTarget(index)], activations, gradients)
    net.requires_grad_(False)
    positive: np.ndarray = np.maximum(raw, 0)
    return positive


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("head", HEADS)
def test_maps_equal_the_library(head: str, batch: int) -> None:
    net, x = build(head), squares(batch, side=64)
    ours = np.maximum(net(x).maps.numpy(), 0)
    assert ours.shape == (batch, 4, 2, 2)
    for index in range(4):
        theirs = library_maps(net, x, index)
        assert np.abs(ours[:, index] - theirs).max() <= 1e-5 * max(float(ours.max()), float(theirs.max()))
    assert ours.max() > 0


@pytest.mark.parametrize("head", HEADS)
def test_a_map_without_evidence_is_zero_in_both(head: str) -> None:
    net, x = build(head), squares(1)
    last = last_layer(net)
    with torch.no_grad():  # every feature speaks against class 2: weights towards it are positive, its own negative
        for layer in net.head:
            if isinstance(layer, torch.nn.Linear) and layer is not last:
                layer.weight.abs_()
        last.weight[2] = -last.weight[2].abs()
    maps = net(x).maps
    assert (maps[0, 2] < 0).any()
    assert (maps[0, 2] <= 0).all()
    assert not library_maps(net, x, 2).any()


@pytest.mark.parametrize("head", HEADS)
def test_the_gradient_written_out_is_autograds(head: str) -> None:
    net = build(head, seed=3)
    pooled = (torch.rand(7, 512) * 3).requires_grad_()
    logits = net.head(pooled)
    expected = [torch.autograd.grad(logits[:, k].sum(), pooled, retain_graph=True)[0] for k in range(4)]
    torch.testing.assert_close(head_gradients(net.head, pooled), torch.stack(expected, dim=1))
    assert float(torch.stack(expected).abs().max()) > 0


def test_maps_are_those_of_each_sample_alone() -> None:
    net, x = build("mlp"), squares(3)
    together = net(x).maps
    for index in range(3):
        torch.testing.assert_close(together[index : index + 1], net(x[index : index + 1]).maps, rtol=1e-4, atol=1e-6)


def test_signed_map_and_bias_sum_to_the_logit() -> None:
    net = build("linear")
    outputs = net(squares(3))
    total = outputs.maps.sum(dim=(2, 3)) + last_layer(net).bias
    torch.testing.assert_close(total, outputs.logits, rtol=0, atol=1e-4)


def test_with_weights_a_map_is_gradient_times_feature_and_nothing_outside_counts() -> None:
    net, x = build("linear"), weighted(2)
    kept: list[Tensor] = []
    handle = net.trunk.layer4.register_forward_hook(lambda _, __, features: kept.append(features.requires_grad_()))
    outputs = net(x)
    handle.remove()
    for index in range(4):
        (gradient,) = torch.autograd.grad(outputs.logits[:, index].sum(), kept[0], retain_graph=True)
        torch.testing.assert_close(outputs.maps[:, index], (gradient * kept[0]).sum(dim=1), rtol=1e-4, atol=1e-6)
    total = outputs.maps.sum(dim=(2, 3)) + last_layer(net).bias
    torch.testing.assert_close(total, outputs.logits, rtol=0, atol=1e-4)
    assert not outputs.maps[:, :, 5:].any()  # rows from 160 px on
    assert outputs.maps[:, :, 1:5, 2:7].all()


def test_where_nothing_counts_everything_does() -> None:
    net, x = build("linear"), squares(2)
    nothing = torch.cat([x[:, :1], torch.zeros_like(x[:, 1:])], dim=1)
    torch.testing.assert_close(net(nothing).logits, net(x).logits)


def test_eight_threads_equal_the_serial_result() -> None:
    net = build("mlp")
    inputs = [squares(1, seed, side=64) for seed in range(24)]

    def maps_of(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return net(x).maps  # type: ignore[no-any-return]

    serial = [maps_of(x) for x in inputs]
    with ThreadPoolExecutor(8) as threads:
        parallel = list(threads.map(maps_of, inputs))
    for one, other in zip(serial, parallel, strict=True):
        assert float((one - other).abs().max()) <= 1e-6 * max(1.0, float(one.abs().max()))


def test_nothing_is_left_on_the_network() -> None:
    net = build("linear").requires_grad_(True)
    with torch.inference_mode():
        net(squares(1))
    assert not net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in net.modules())
